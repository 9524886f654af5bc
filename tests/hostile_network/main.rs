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
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use usbip_fast::attach::{self, Patience, Server};
use usbip_fast::reactor::select::Choice;
use usbip_fast::wire::op;
use usbip_fast_native::client::Family;
use usbip_fast_native::process;

use served::{Served, TIMEOUT};

const IDLE_CONNECTIONS: usize = 1000;

/// Streams from the first device until told to stop; returns packets and failed packets.
fn stream(address: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<(u64, u64)> {
    thread::spawn(move || {
        let (host, tcp_port) = (address.ip().to_string(), address.port());
        let server = Server { host, tcp_port, family: Family::Any };
        let mut client = attach::client(&server, "sim-1", Choice::Auto, &Patience::default())
            .expect("sim-1 is free");
        client.set_interface(0, 1, TIMEOUT).expect("an alternate setting");
        for _ in 0..4 {
            let urb = client.isochronous_urb(0x82, &[1024; 8]).expect("an endpoint");
            client.submit(urb);
        }
        let (mut packets, mut failed) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let done = client.poll(Some(TIMEOUT)).expect("connected").expect("in time");
            packets += 8;
            failed += u64::from(done.error_count) + u64::from(done.status != 0);
            failed += u64::from(done.actual_length != 8 * 1024);
            client.submit(done.urb);
            // As fast as a sound card asks, not as fast as the machine can.
            thread::sleep(Duration::from_micros(500));
        }
        (packets, failed)
    })
}

fn run(reactor: &str) {
    process::raise_descriptor_limit(4096).expect("room for a thousand connections");
    let served = Served::start(reactor);
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = stream(served.address, Arc::clone(&stop));
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
