//! Clients that break the rules of the control channel: each is closed with one line in the log,
//! and whoever keeps to them notices nothing, an isochronous stream least of all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{HELLO, Leasing, PREFACE, frame};
use crate::listed;
use crate::served::{LEAST_PACKETS, Served};

/// Runs `hostile` beside a stream and a client that keeps to the rules; returns the log.
fn beside_a_stream(hostile: impl FnOnce(&Served)) -> String {
    let served = Served::start("auto");
    let stop = Arc::new(AtomicBool::new(false));
    let (mut client, _) = Leasing::subscribe(&served);
    let streaming = served.stream(Arc::clone(&stop));
    client.expect("sim-1", "busy", 2, "used");
    hostile(&served);
    client.expect_pong();
    assert_eq!(listed(&served), ["sim-2", "sim-3", "sim-4"]);
    stop.store(true, Ordering::Relaxed);
    let (packets, failed) = streaming.join().expect("the stream has lived through it");
    assert!(packets >= LEAST_PACKETS, "only {packets} packets");
    assert_eq!(failed, 0, "of {packets} packets");
    client.expect("sim-1", "available", 1, "available");
    let log = served.stop();
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// Sends `bytes`, and nothing more if `cut`; the server's end must come. Returns what it said.
fn say(served: &Served, bytes: &[u8], cut: bool) -> Vec<u8> {
    let mut stream = served.connect();
    // The server may be quicker, and have closed already.
    let _ = stream.write_all(bytes);
    if cut {
        let _ = stream.shutdown(Shutdown::Write);
    }
    read_to_end(&mut stream)
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open");
    }
    rest
}

fn count(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_frame_that_ends_at_any_byte_ends_its_connection_alone() {
    let hello = [&PREFACE[..], &HELLO].concat();
    let request = frame(8, br#"{"busid":"sim-2","client_nonce":7}"#);
    let plain = [&PREFACE[..], &[1, 1, 0, 0]].concat();
    let ping = [3, 1, 0, 0];
    let mut cuts = 0;
    let log = beside_a_stream(|served| {
        let mut cut = |before: &[u8], frame: &[u8], first: usize| {
            for end in first..frame.len() {
                cuts += 1;
                let said = say(served, &[before, &frame[..end]].concat(), true);
                assert!(!before.is_empty() || said.is_empty(), "no answer before HELLO is whole");
            }
        };
        cut(b"", &hello, 8);
        cut(b"", &plain, 9);
        cut(&hello, &frame(4, b""), 1);
        cut(&hello, &request, 1);
        cut(&plain, &ping, 1);
    });
    let lines = count(&log, "the peer closed the control channel inside a frame");
    assert_eq!(lines, cuts, "one line for each:\n{log}");
}

#[test]
fn frames_against_the_rules_end_their_connection_with_one_line() {
    let hello = [&PREFACE[..], &HELLO].concat();
    let with = |bytes: &[u8]| [&hello[..], bytes].concat();
    let changed = |at: usize, byte: u8| {
        let mut hello = hello.clone();
        hello[at] = byte;
        hello
    };
    let mut large = frame(1, b"");
    large[2..4].copy_from_slice(&[0xff, 0xff]);
    let lines = [
        // Wrong version, another frame first, a payload where none is, capabilities that lack one.
        (changed(9, 2), "malformed HELLO on the control channel"),
        (changed(8, 4), "malformed HELLO on the control channel"),
        (changed(11, 1), "malformed HELLO on the control channel"),
        (changed(15, 1), "the control client lacks required capabilities (it has 0x1)"),
        // Out of order, a server's frames, such as do not exist, the largest there is.
        (with(&HELLO), "unexpected frame of type 1 on the control channel"),
        (with(&frame(7, b"{}")), "unexpected frame of type 7 on the control channel"),
        (with(&frame(0, b"")), "unexpected frame of type 0 on the control channel"),
        (with(&frame(200, b"")), "unexpected frame of type 200 on the control channel"),
        (with(&large), "unexpected frame of type 1 on the control channel"),
        ([&PREFACE[..], &[1, 1, 0, 0, 5, 1, 0, 0]].concat(), "unexpected frame of type 5"),
    ];
    let log = beside_a_stream(|served| {
        for (bytes, _) in &lines {
            say(served, bytes, false);
        }
        // What is no lease request is answered, however large; see control-channel.md §3.1.
        let (mut client, _) = Leasing::subscribe(served);
        let answer = client.ask(&[b'['; 65_535]);
        assert_eq!(answer["error_code"], "bad_request");
        client.expect_pong();
    });
    for (_, line) in &lines {
        let times = lines.iter().filter(|(_, other)| other == line).count();
        assert_eq!(count(&log, line), times, "{line}:\n{log}");
    }
}

#[test]
fn a_flood_of_handshakes_is_held_to_a_rate() {
    const HANDSHAKES: usize = 2_000;
    let mut lasted = Duration::ZERO;
    let mut served_ones = 0;
    let log = beside_a_stream(|served| {
        let begun = Instant::now();
        for _ in 0..HANDSHAKES {
            let said = say(served, &[&PREFACE[..], &HELLO].concat(), true);
            served_ones += usize::from(!said.is_empty());
        }
        lasted = begun.elapsed();
    });
    let most = 256 + 20 * (lasted.as_secs() as usize + 1);
    assert!((200..most).contains(&served_ones), "{served_ones} within {lasted:?}");
    let lines = count(&log, "control connection refused: too many handshakes from its address");
    assert!((1..=lasted.as_secs() as usize + 2).contains(&lines), "{lines} within {lasted:?}");
}
