//! Connections and the bytes on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::contract::driver::{content, pattern};
use crate::contract::{Driver, Ground, Row};
use crate::handle::Handle;
use crate::op::{Completion, Interest, Op, OsError, Outcome, Token};
use crate::socket::Direction;

pub(super) const CHECKS: &[Row] = &[
    ("bytes arrive, and the memory comes back", bytes_arrive),
    ("a receive waits for the first byte", receive_waits),
    ("two pieces are filled in order", receive_scatters),
    ("two pieces are sent in order", send_gathers),
    ("a piece may be any part of its block", parts_of_blocks),
    ("the end of the stream is 0 bytes, again and again", end_of_stream),
    ("the end of the stream right behind bytes is not missed", end_behind_bytes),
    ("a local shutdown ends a waiting receive", local_shutdown),
    ("a closed peer makes sends fail without a signal", send_to_closed),
    ("a reset is an error and returns the memory", reset),
    ("accept and connect meet", accept_and_connect),
    ("several accepts wait on one listener", several_accepts),
    ("a refused connection says so", refused),
    ("errors return the memory", errors_return_memory),
    ("streams both ways keep their bytes", full_duplex),
    ("a large send waits for its reader", large_send),
    ("one stalled socket delays no other", stalled_socket),
    ("a thousand sockets", thousand_sockets),
    ("descriptor numbers may be used again", reused_numbers),
    ("a descriptor may leave and come back", given_away),
];

fn bytes_arrive(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let send = driver.send(&one, b"setup");
    let sent = driver.wait(send);
    let Ok(Outcome::Moved(count @ 1..=5)) = sent.result else { panic!("{sent:?}") };
    assert_eq!(content(&sent.pieces, 5), b"setup", "a send leaves its memory alone");
    let piece = driver.piece(100);
    let address = piece.block.as_non_null();
    let op = Op::Receive { socket: two, pieces: [None, Some(piece)] };
    let token = driver.submit(op);
    let received = driver.wait(token);
    let Ok(Outcome::Moved(moved)) = received.result else { panic!("{received:?}") };
    assert!((1..=count).contains(&moved));
    let [None, Some(piece)] = &received.pieces else { panic!("the memory comes back in place") };
    assert_eq!((piece.block.as_non_null(), piece.range.clone()), (address, 0..100));
    assert_eq!(&piece.block.as_ref()[..moved], &b"setup"[..moved]);
    assert_eq!(piece.block.as_ref()[moved], 0xee, "nothing behind it is touched");
    assert!(driver.reactor.counters().operations == 2 && driver.reactor.counters().turns >= 1);
}

fn receive_waits(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    for _ in 0..3 {
        let token = driver.receive(&two, 100);
        driver.idle(Duration::from_millis(5));
        assert!(!driver.has_arrived(), "nothing was sent");
        driver.send_all(&one, b"late");
        assert_eq!(driver.rest(&two, token, 4), b"late");
    }
}

fn receive_scatters(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let mut expected = pattern(1, 3000);
    for first_waits in [false, true] {
        let mut got = Vec::new();
        if !first_waits {
            driver.send_all(&one, &expected);
        }
        let mut sent = !first_waits;
        while got.len() < expected.len() {
            let pieces = [Some(driver.piece(7)), Some(driver.piece(500))];
            let token = driver.submit(Op::Receive { socket: two.clone(), pieces });
            if !sent {
                driver.turn(Some(ground.now()));
                driver.send_all(&one, &expected);
                sent = true;
            }
            got.extend(driver.moved(token));
        }
        assert_eq!(got, expected);
        expected = pattern(2, 3000);
    }
}

fn send_gathers(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let pieces = [Some(driver.filled(b"header")), Some(driver.filled(b"payload"))];
    let token = driver.submit(Op::Send { socket: one.clone(), pieces, quiet: false });
    let sent = driver.wait(token);
    let Ok(Outcome::Moved(count)) = sent.result else { panic!("{sent:?}") };
    assert!(sent.pieces.iter().all(Option::is_some));
    assert_eq!(driver.receive_all(&two, count), b"headerpayload"[..count]);
}

fn parts_of_blocks(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    driver.send_all(&one, b"0123456789");
    let mut got = Vec::new();
    while got.len() < 10 {
        let pieces = [Some(driver.piece_at(64..66)), Some(driver.piece_at(56..59))];
        let token = driver.submit(Op::Receive { socket: two.clone(), pieces });
        let completion = driver.wait(token);
        let Ok(Outcome::Moved(count)) = completion.result else { panic!("{completion:?}") };
        got.extend(content(&completion.pieces, count));
        for piece in completion.pieces.iter().flatten() {
            let bytes = piece.block.as_ref();
            assert!(bytes[..piece.range.start].iter().all(|&byte| byte == 0xee));
            assert!(bytes[piece.range.end..].iter().all(|&byte| byte == 0xee));
        }
    }
    assert_eq!(got, b"0123456789");
}

fn end_of_stream(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let waiting = driver.receive(&two, 10);
    driver.turn(Some(ground.now()));
    ground.shutdown(&one, Direction::Send);
    assert_eq!(driver.moved(waiting), b"");
    for _ in 0..3 {
        let token = driver.receive(&two, 10);
        assert_eq!(driver.moved(token), b"");
    }
    driver.send_all(&two, b"the other direction lives");
    assert_eq!(driver.receive_all(&one, 25), b"the other direction lives");
}

fn end_behind_bytes(ground: &dyn Ground) {
    for first in [3, 100] {
        let mut driver = Driver::new(ground);
        let (one, two) = ground.pair();
        let waiting = driver.receive(&two, first);
        driver.turn(Some(ground.now()));
        driver.send_all(&one, b"last words");
        drop(one);
        let mut all = driver.moved(waiting);
        loop {
            let token = driver.receive(&two, 100);
            let part = driver.moved(token);
            if part.is_empty() {
                break;
            }
            all.extend(part);
        }
        assert_eq!(all, b"last words");
    }
}

fn local_shutdown(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (_one, two) = ground.pair();
    let token = driver.receive(&two, 10);
    driver.idle(Duration::from_millis(1));
    ground.shutdown(&two, Direction::Both);
    assert_eq!(driver.moved(token), b"");
}

fn send_to_closed(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    drop(two);
    // The first bytes may still go to the kernel; its answer to them is a reset.
    for _ in 0..1000 {
        let token = driver.send(&one, b"anyone there?");
        let completion = driver.wait(token);
        assert!(completion.pieces[0].is_some(), "the memory comes back");
        if let Err(OsError(number)) = completion.result {
            assert!(number == libc::EPIPE || number == libc::ECONNRESET, "{completion:?}");
            return;
        }
        driver.idle(Duration::from_millis(1));
    }
    panic!("sends to a closed peer go on");
}

fn reset(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    for waits in [true, false] {
        let (one, two) = ground.pair();
        ground.reset_on_close(&one);
        let early = waits.then(|| driver.receive(&two, 10));
        driver.idle(Duration::from_millis(1));
        drop(one);
        driver.idle(Duration::from_millis(5));
        let token = early.unwrap_or_else(|| driver.receive(&two, 10));
        let completion = driver.wait(token);
        assert_eq!(completion.result.expect_err("reset"), OsError(libc::ECONNRESET));
        assert!(completion.pieces[0].is_some());
    }
}

fn accept_and_connect(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (listener, address) = ground.listen(8);
    for accept_first in [true, false] {
        let early = accept_first.then(|| driver.accept(&listener));
        driver.turn(Some(ground.now()));
        let client = ground.stream(&address);
        let connect = driver.connect(&client, address);
        assert!(matches!(driver.wait(connect).result, Ok(Outcome::Connected)));
        let accept = early.unwrap_or_else(|| driver.accept(&listener));
        let (server, peer) = accepted(driver.wait(accept));
        assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
        assert_ne!(peer.port(), address.port());
        driver.send_all(&client, b"hello");
        assert_eq!(driver.receive_all(&server, 5), b"hello");
        driver.send_all(&server, b"and back");
        assert_eq!(driver.receive_all(&client, 8), b"and back");
    }
}

fn accepted(completion: Completion) -> (Handle, SocketAddr) {
    match completion.result {
        Ok(Outcome::Accepted(handle, peer)) => (handle, peer),
        other => panic!("a connection was expected, not {other:?}"),
    }
}

fn several_accepts(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (listener, address) = ground.listen(8);
    let accepts: Vec<Token> = (0..3).map(|_| driver.accept(&listener)).collect();
    driver.turn(Some(ground.now()));
    let clients: Vec<Handle> = (0..3).map(|_| ground.stream(&address)).collect();
    for client in &clients {
        let token = driver.connect(client, address);
        assert!(matches!(driver.wait(token).result, Ok(Outcome::Connected)));
    }
    let servers: Vec<_> = accepts.into_iter().map(|token| accepted(driver.wait(token))).collect();
    assert_ne!(servers[0].0.as_raw_fd(), servers[1].0.as_raw_fd());
    assert_ne!(servers[1].1, servers[2].1);
}

fn refused(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (listener, address) = ground.listen(1);
    drop(listener);
    let client = ground.stream(&address);
    let token = driver.connect(&client, address);
    assert_eq!(driver.error(token), OsError(libc::ECONNREFUSED));
}

fn errors_return_memory(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (listener, address) = ground.listen(1);
    for socket in [ground.stream(&address), listener] {
        let pieces = [Some(driver.piece(10)), Some(driver.piece(20))];
        let token = driver.submit(Op::Receive { socket: socket.clone(), pieces });
        let completion = driver.wait(token);
        assert_eq!(completion.result.expect_err("not connected"), OsError(libc::ENOTCONN));
        assert!(completion.pieces.iter().all(Option::is_some));
        let token = driver.send(&socket, b"x");
        let completion = driver.wait(token);
        let OsError(error) = completion.result.expect_err("not connected");
        assert!(error == libc::EPIPE || error == libc::ENOTCONN, "{error}");
        assert!(completion.pieces[0].is_some());
    }
    assert_eq!(driver.arena.lent_blocks(), 0);
}

fn full_duplex(ground: &dyn Ground) {
    const TOTAL: usize = 400_000;
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let ends = [&one, &two];
    let data = [pattern(10, TOTAL), pattern(20, TOTAL)];
    let mut sent = [0; 2];
    let mut got = [Vec::new(), Vec::new()];
    let sizes = [1, 64, 1000, 4096, 70_000];
    let mut round = 0;
    let mut size = || {
        round += 1;
        sizes[round % sizes.len()]
    };
    let mut sends = [None; 2];
    let mut receives = [None; 2];
    let end = ground.now() + Duration::from_secs(60);
    while got.iter().any(|bytes| bytes.len() < TOTAL) {
        assert!(ground.now() < end, "the streams stall at {sent:?}");
        for side in 0..2 {
            if sends[side].is_none() && sent[side] < TOTAL {
                let rest = &data[side][sent[side]..];
                sends[side] = Some(driver.send(ends[side], &rest[..rest.len().min(size())]));
            }
            if receives[side].is_none() && got[side].len() < TOTAL {
                let pieces = [Some(driver.piece(size())), Some(driver.piece(size()))];
                let socket = ends[side].clone();
                receives[side] = Some(driver.submit(Op::Receive { socket, pieces }));
            }
        }
        driver.turn(Some(end));
        for side in 0..2 {
            if let Some(done) = sends[side].and_then(|token| driver.take(token)) {
                let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
                assert!(count > 0);
                sent[side] += count;
                sends[side] = None;
            }
            if let Some(done) = receives[side].and_then(|token| driver.take(token)) {
                let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
                got[side].extend(content(&done.pieces, count));
                receives[side] = None;
            }
        }
    }
    assert!(got[0] == data[1] && got[1] == data[0], "bytes are lost, doubled or swapped");
}

fn large_send(ground: &dyn Ground) {
    const TOTAL: usize = 16 * 1024 * 1024;
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let data = pattern(5, TOTAL);
    let mut send = driver.send(&one, &data);
    let (mut sent, mut got) = (0, Vec::with_capacity(TOTAL));
    while got.len() < TOTAL {
        let token = driver.receive(&two, 256 * 1024);
        loop {
            if let Some(done) = driver.take(send) {
                let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
                sent += count;
                if sent < TOTAL {
                    send = driver.send(&one, &data[sent..TOTAL.min(sent + 65_536)]);
                }
            }
            if let Some(done) = driver.take(token) {
                let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
                got.extend(content(&done.pieces, count));
                break;
            }
            driver.turn(None);
        }
    }
    assert!(got == data, "bytes are lost, doubled or swapped");
}

fn stalled_socket(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (stalled, _reader) = ground.pair();
    let stuck = driver.send(&stalled, &pattern(1, 15 * 1024 * 1024));
    let silent = driver.receive(&stalled, 10);
    let (one, two) = ground.pair();
    for round in 0..100 {
        let data = pattern(round, 100);
        driver.send_all(&one, &data);
        assert_eq!(driver.receive_all(&two, 100), data);
    }
    assert!(driver.take(silent).is_none());
    // A short send is allowed; nothing more than the buffers hold can have gone.
    if let Some(done) = driver.take(stuck) {
        assert!(matches!(done.result, Ok(Outcome::Moved(1..15_728_640))), "{done:?}");
    }
}

fn thousand_sockets(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let pairs: Vec<_> = (0..500).map(|_| ground.pair()).collect();
    for round in 0..3u32 {
        let receives: Vec<_> = pairs.iter().map(|(_, two)| driver.receive(two, 64)).collect();
        driver.turn(Some(ground.now()));
        let sends: Vec<_> = pairs
            .iter()
            .zip(0..)
            .map(|((one, _), seed)| driver.send(one, &pattern(seed + round, 9)))
            .collect();
        let counts: Vec<_> = sends.into_iter().map(|token| driver.moved(token).len()).collect();
        for (index, token) in receives.into_iter().enumerate() {
            let got = driver.rest(&pairs[index].1, token, counts[index]);
            assert_eq!(got, pattern(index as u32 + round, 9)[..counts[index]]);
        }
    }
    assert!(!driver.has_arrived());
}

fn reused_numbers(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    for round in 0..200 {
        let (one, two) = ground.pair();
        let token = driver.receive(&two, 16);
        driver.turn(Some(ground.now()));
        driver.send_all(&one, &pattern(round, 16));
        assert_eq!(driver.rest(&two, token, 16), pattern(round, 16));
        let parked = driver.poll(&one, Interest::Readable);
        driver.turn(Some(ground.now()));
        drop(two);
        assert_ne!(driver.ready(parked), 0, "the end of the stream is readable");
    }
}

fn given_away(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let token = driver.receive(&two, 16);
    let two = two.into_owned().expect_err("an operation holds it");
    driver.send_all(&one, b"a");
    assert_eq!(driver.moved(token), b"a");
    let Ok(fd) = two.into_owned() else { panic!("nothing is in flight") };
    driver.send_all(&one, b"b");
    driver.idle(Duration::from_millis(2));
    assert!(!driver.has_arrived());
    // Simulated sockets are known by their handle and end with it.
    if driver.reactor.name() == "simulated" {
        return;
    }
    let two = Handle::new(fd);
    assert_eq!(driver.receive_all(&two, 1), b"b");
    let token = driver.receive(&two, 16);
    driver.send_all(&one, b"c");
    assert_eq!(driver.moved(token), b"c");
}
