//! The real program in a hostile network: idle, slow and talkative peers, and clients that break
//! the protocol, while an isochronous stream beside them must not miss a packet.

#![allow(clippy::disallowed_methods, reason = "the server is a process, its peers are sockets")]
#![allow(clippy::disallowed_types, reason = "as above")]

mod log;
mod rules;
mod served;
mod slow;
mod truncated;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self};

use usbip_fast::wire::op;
use usbip_fast_native::process;

use served::Served;

const IDLE_CONNECTIONS: usize = 1000;

fn run(reactor: &str) {
    process::raise_descriptor_limit(4096).expect("room for a thousand connections");
    let served = Served::start(reactor);
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = served.stream(Arc::clone(&stop));
    let idle: Vec<_> = (0..IDLE_CONNECTIONS).map(|_| served.connect()).collect();
    let (cut_pdus, cut_requests) = thread::scope(|scope| {
        scope.spawn(|| slow::handshake(&served));
        scope.spawn(|| slow::session(&served));
        scope.spawn(|| rules::run(&served));
        truncated::run(&served)
    });
    let last = served.import("sim-2");
    drop(last);

    stop.store(true, Ordering::Relaxed);
    let (packets, failed) = streaming.join().expect("the stream has lived through it");
    assert!(packets > 1000, "only {packets} packets");
    assert_eq!(failed, 0, "of {packets} packets");
    let mut listing = served.connect();
    listing.write_all(&op::request_devlist()).expect("sent");
    let mut list = Vec::new();
    listing.read_to_end(&mut list).expect("a list");
    assert_eq!(list[..8], [1, 0x11, 0, 5, 0, 0, 0, 0]);
    drop(idle);
    check_log(&served.stop(), cut_pdus, cut_requests);
}

/// One line for each session and each request that failed, which names the rule.
fn check_log(log: &str, cut_pdus: usize, cut_requests: usize) {
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    let cut = [
        ("session ended: the connection ended inside a PDU", cut_pdus),
        ("closed inside its request", cut_requests),
        (slow::LINE, 1),
        ("session ended: closed by the peer", 2),
    ];
    for (rule, times) in rules::LINES.into_iter().chain(cut) {
        let seen = count(rule);
        assert!(seen >= times, "{seen} lines instead of {times} say {rule:?}:\n{log}");
    }
    assert_eq!(count("errors=10 "), 1, "URBs answered with an error, by the session's end:\n{log}");
    assert_eq!(count("INFO import peer="), count("session ended"), "one line for each end:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_stream_misses_nothing_beside_hostile_peers_on_io_uring() {
    run("auto");
}

#[test]
fn a_stream_misses_nothing_beside_hostile_peers_on_epoll() {
    run("epoll");
}
