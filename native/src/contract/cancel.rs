//! Cancelling, and what happens to memory.

use std::net::SocketAddr;
use std::time::Duration;

use crate::contract::driver::pattern;
use crate::contract::{Driver, Ground, Row};
use crate::handle::Handle;
use crate::op::{Interest, Op, OsError, Outcome, Token};

pub(super) const CHECKS: &[Row] = &[
    ("a waiting receive can be cancelled", receive),
    ("a waiting accept can be cancelled", accept),
    ("a waiting poll can be cancelled", poll),
    ("a stuck send can be cancelled and says what it sent", send),
    ("a stuck connect can be cancelled", connect),
    ("a cancel before the first turn works", before_the_first_turn),
    ("a cancel too late changes nothing", too_late),
    ("a cancel of nothing does nothing", of_nothing),
    ("two cancels are one", twice),
    ("a token may be used again at once", token_again),
    ("a race of cancel and bytes loses no byte", race),
    ("no cancel is lost in a storm", storm),
    ("a cancelled operation leaves its neighbours alone", neighbours),
    ("a dropped reactor returns memory and descriptors", dropped),
    ("a caller may drop its socket under an operation", handle_dropped),
];

/// Long enough for what has been submitted to come to rest.
const REST: Duration = Duration::from_millis(5);

fn cancelled(driver: &mut Driver<'_>, token: Token) {
    driver.reactor.cancel(token);
    let completion = driver.wait(token);
    assert_eq!(completion.result.expect_err("cancelled"), OsError(libc::ECANCELED));
    driver.idle(REST);
    assert!(!driver.has_arrived(), "one completion for one operation");
}

fn receive(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    for pieces in [1, 2] {
        let second = (pieces == 2).then(|| driver.piece(30));
        let op = Op::Receive { socket: two.clone(), pieces: [Some(driver.piece(10)), second] };
        let token = driver.submit(op);
        driver.idle(REST);
        driver.reactor.cancel(token);
        let completion = driver.wait(token);
        assert_eq!(completion.result.expect_err("cancelled"), OsError(libc::ECANCELED));
        assert_eq!(completion.pieces.iter().flatten().count(), pieces);
    }
    driver.send_all(&one, b"not lost");
    assert_eq!(driver.receive_all(&two, 8), b"not lost");
}

fn accept(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (listener, address) = ground.listen(4);
    let token = driver.accept(&listener);
    driver.idle(REST);
    cancelled(&mut driver, token);
    let client = ground.stream(&address);
    let connect = driver.connect(&client, address);
    let token = driver.accept(&listener);
    assert!(matches!(driver.wait(connect).result, Ok(Outcome::Connected)));
    assert!(matches!(driver.wait(token).result, Ok(Outcome::Accepted(..))));
}

fn poll(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (_one, two) = ground.pair();
    let token = driver.poll(&two, Interest::Readable);
    driver.idle(REST);
    cancelled(&mut driver, token);
}

fn send(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let data = pattern(3, 1024 * 1024);
    let mut sent = 0;
    // Fill the buffers until a send does not complete any more.
    let stuck = loop {
        let token = driver.send(&one, &data);
        driver.idle(REST);
        match driver.take(token) {
            None => break token,
            Some(done) => {
                let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
                sent += count;
            }
        }
    };
    driver.reactor.cancel(stuck);
    let completion = driver.wait(stuck);
    assert!(completion.pieces[0].is_some());
    match completion.result {
        Ok(Outcome::Moved(count)) => sent += count,
        Err(error) => assert_eq!(error, OsError(libc::ECANCELED)),
        other => panic!("{other:?}"),
    }
    drop(one);
    let mut received = 0;
    loop {
        let token = driver.receive(&two, 1024 * 1024);
        match driver.moved(token).len() {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, sent, "what was sent is what was said");
}

fn connect(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    // Nobody accepts, and the queue of the listener is short: later connects hang.
    let (_listener, address) = ground.listen(1);
    let clients: Vec<Handle> = (0..8).map(|_| ground.stream(&address)).collect();
    let tokens: Vec<Token> = clients.iter().map(|client| driver.connect(client, address)).collect();
    driver.idle(Duration::from_millis(30));
    let waiting: Vec<Token> =
        tokens.into_iter().filter(|&token| driver.take(token).is_none()).collect();
    assert!(!waiting.is_empty(), "not all of them fit into the queue");
    for token in waiting {
        driver.reactor.cancel(token);
        assert_eq!(driver.error(token), OsError(libc::ECANCELED));
    }
}

fn before_the_first_turn(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (_one, two) = ground.pair();
    let (listener, _) = ground.listen(1);
    let tokens =
        [driver.receive(&two, 10), driver.accept(&listener), driver.poll(&two, Interest::Readable)];
    for token in tokens {
        driver.reactor.cancel(token);
    }
    for token in tokens {
        assert_eq!(driver.error(token), OsError(libc::ECANCELED));
    }
}

fn too_late(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let send = driver.send(&one, b"x");
    assert_eq!(driver.moved(send), b"x");
    let receive = driver.receive(&two, 10);
    assert_eq!(driver.moved(receive), b"x");
    driver.reactor.cancel(send);
    driver.reactor.cancel(receive);
    driver.idle(REST);
    assert!(!driver.has_arrived());
}

fn of_nothing(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    for index in 0..1000 {
        driver.reactor.cancel(Token::new(9, 9, index));
    }
    driver.idle(REST);
    assert!(!driver.has_arrived());
}

fn twice(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (_one, two) = ground.pair();
    let token = driver.receive(&two, 10);
    driver.idle(REST);
    driver.reactor.cancel(token);
    driver.reactor.cancel(token);
    cancelled(&mut driver, token);
    driver.reactor.cancel(token);
    driver.idle(REST);
    assert!(!driver.has_arrived());
}

fn token_again(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let token = driver.token();
    for round in 0..50 {
        let op = Op::Poll { handle: two.clone(), interest: Interest::Readable };
        driver.reactor.submit(op, token);
        if round % 2 == 0 {
            driver.turn(Some(ground.now()));
        }
        driver.reactor.cancel(token);
        assert_eq!(driver.error(token), OsError(libc::ECANCELED));
    }
    let pieces = [Some(driver.piece(10)), None];
    driver.reactor.submit(Op::Receive { socket: two, pieces }, token);
    driver.send_all(&one, b"y");
    assert_eq!(driver.moved(token), b"y", "no old cancel hits the new operation");
}

fn race(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let data = pattern(4, 300);
    let mut got = Vec::new();
    for (round, bytes) in data.chunks(1).enumerate() {
        let receive = driver.receive(&two, 64);
        if round % 3 == 0 {
            driver.turn(Some(ground.now()));
        }
        let send = driver.send(&one, bytes);
        if round % 2 == 0 {
            driver.turn(Some(ground.now()));
        }
        driver.reactor.cancel(receive);
        let completion = driver.wait(receive);
        match completion.result {
            Ok(Outcome::Moved(count)) => {
                got.extend(crate::contract::driver::content(&completion.pieces, count));
            }
            Err(error) => assert_eq!(error, OsError(libc::ECANCELED)),
            other => panic!("{other:?}"),
        }
        assert_eq!(driver.moved(send).len(), 1);
    }
    let rest = driver.receive_all(&two, data.len() - got.len());
    got.extend(rest);
    assert!(got == data, "bytes are lost, doubled or swapped");
}

fn storm(ground: &dyn Ground) {
    // More than any queue of a kernel interface that we ask for.
    const MANY: usize = 3000;
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    for rest in [false, true] {
        let tokens: Vec<Token> = (0..MANY).map(|_| driver.poll(&two, Interest::Readable)).collect();
        let receive = driver.receive(&two, 10);
        if rest {
            driver.idle(REST);
        }
        for &token in &tokens {
            driver.reactor.cancel(token);
        }
        for token in tokens {
            assert_eq!(driver.error(token), OsError(libc::ECANCELED));
        }
        driver.send_all(&one, b"z");
        assert_eq!(driver.moved(receive), b"z");
        assert!(!driver.has_arrived());
    }
}

fn neighbours(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let (listener, address) = ground.listen(4);
    let accepts: Vec<Token> = (0..3).map(|_| driver.accept(&listener)).collect();
    let polls: Vec<Token> = (0..3).map(|_| driver.poll(&two, Interest::Readable)).collect();
    driver.idle(REST);
    cancelled(&mut driver, accepts[1]);
    cancelled(&mut driver, polls[1]);
    driver.send_all(&one, b"q");
    assert_ne!(driver.ready(polls[0]), 0);
    assert_ne!(driver.ready(polls[2]), 0);
    connect_some(&mut driver, address, 2);
    for token in [accepts[0], accepts[2]] {
        assert!(matches!(driver.wait(token).result, Ok(Outcome::Accepted(..))));
    }
}

fn connect_some(driver: &mut Driver<'_>, address: SocketAddr, count: usize) {
    for _ in 0..count {
        let client = driver.ground.stream(&address);
        let token = driver.connect(&client, address);
        assert!(matches!(driver.wait(token).result, Ok(Outcome::Connected)));
    }
}

fn dropped(ground: &dyn Ground) {
    for turns in [0, 1] {
        let mut driver = Driver::new(ground);
        let pairs: Vec<_> = (0..300).map(|_| ground.pair()).collect();
        let (listener, _) = ground.listen(4);
        let mut handles = vec![listener.clone()];
        driver.accept(&listener);
        for (one, two) in pairs {
            driver.receive(&two, 3000);
            driver.send(&one, b"never read");
            driver.poll(&one, Interest::Readable);
            handles.extend([one, two]);
        }
        drop(listener);
        for _ in 0..turns {
            driver.turn(Some(ground.now()));
        }
        let arena = driver.arena.clone();
        drop(driver);
        assert_eq!(arena.lent_blocks(), 0, "every block came home");
        assert!(handles.into_iter().all(|handle| handle.into_owned().is_ok()));
    }
}

fn handle_dropped(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let peer = driver.receive(&one, 10);
    let token = driver.receive(&two, 10);
    drop(two);
    driver.idle(REST);
    assert!(!driver.has_arrived(), "the operation keeps the socket open");
    driver.reactor.cancel(token);
    assert_eq!(driver.error(token), OsError(libc::ECANCELED));
    assert_eq!(driver.moved(peer), b"", "and lets it go in the end");
}
