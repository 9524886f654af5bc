//! Many control connections on a reactor, and such as do not read.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use usbip_fast_native::backend::Options;
use usbip_fast_native::{Arena, Reactor, clock, socket};

use super::*;
use crate::control::capability;
use crate::control::frame::{self, Kind};
use crate::device::gadget::simulate;
use crate::ledger::Listed;
use crate::reactor::select::{self, Choice};
use crate::serve::exports::Claim;

/// Control connections with their turn-by-turn owner, as core 0 is.
struct Bench {
    controls: Controls,
    exports: Exports,
    reactor: Box<dyn Reactor>,
    arena: Arena,
    /// Added to the clock.
    ahead: Duration,
    entered: u8,
}

impl Bench {
    fn new() -> Self {
        let mut exports = Exports::default();
        let export = simulate::parse("zero").expect("a device").remove(0).export(1);
        exports.plug(Listed::simulated(export.describe().clone()), export);
        let (reactor, _) = select::open(Choice::Auto, &Options::default()).expect("a reactor");
        Self {
            controls: Controls::new(ControlChoice::Plain),
            exports,
            reactor,
            arena: Arena::new(limits::ARENA_BYTES),
            ahead: Duration::ZERO,
            entered: 0,
        }
    }

    /// A client that has sent its preface and its HELLO.
    fn connect(&mut self, hello: &[u8]) -> UnixStream {
        let (here, there) = socket::pair().expect("a pair");
        let now = clock::now() + self.ahead;
        self.entered += 1;
        self.controls.enter(there, SocketAddr::from(([192, 0, 2, self.entered], 7)), now, now);
        let mut stream = UnixStream::from(here.into_owned().expect("the only reference"));
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
        stream.write_all(hello).expect("room");
        stream
    }

    fn settle(&mut self) {
        let now = clock::now() + self.ahead;
        let mut io = Io { reactor: &mut *self.reactor, arena: &self.arena, now };
        self.controls.settle(&mut self.exports, &mut io);
    }

    /// Turns until nothing happens for a while.
    fn turns(&mut self) {
        while self.turn(Duration::from_millis(50)) {}
    }

    /// Whether anything has happened.
    fn turn(&mut self, patience: Duration) -> bool {
        self.settle();
        let mut completions = Vec::new();
        self.reactor.turn(Some(clock::now() + patience), &mut completions);
        let now = clock::now() + self.ahead;
        let mut io = Io { reactor: &mut *self.reactor, arena: &self.arena, now };
        let happened = !completions.is_empty();
        for completion in completions {
            self.controls.handle(completion, &mut self.exports, &mut io);
        }
        happened
    }

    /// The device is taken and given back; a turn for each.
    fn toggle(&mut self, times: usize) {
        for _ in 0..times {
            let lent = self.exports.lend("sim-1", Claim::Plain, peer(), Duration::ZERO);
            let (opener, _) = lent.expect("free");
            self.turn(Duration::ZERO);
            let device = opener(&self.reactor.doorbell());
            self.exports.release("sim-1", device.into_remains());
            self.turn(Duration::ZERO);
        }
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 255], 7))
}

fn lease_hello() -> Vec<u8> {
    frame::encode(Dialect::Lease, Kind::Hello, capability::ALL, 0, &[]).expect("small")
}

/// What has come, as kinds and sequence numbers.
fn frames(stream: &mut UnixStream) -> Vec<(Kind, u64)> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    assert!(ended.is_err(), "still open");
    split(&bytes)
}

fn split(bytes: &[u8]) -> Vec<(Kind, u64)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some(header) = frame::Header::parse(rest, Dialect::Lease) {
        frames.push((header.kind.expect("known"), header.sequence));
        rest = &rest[16 + usize::from(header.payload_bytes)..];
    }
    frames
}

#[test]
fn a_change_is_one_write_for_each_of_200_subscribers_in_the_same_turn() {
    let mut bench = Bench::new();
    let mut clients: Vec<_> = (0..200).map(|_| bench.connect(&lease_hello())).collect();
    bench.turns();
    let (_, _) = bench.exports.lend("sim-1", Claim::Plain, peer(), Duration::ZERO).expect("free");
    let before = bench.reactor.counters().operations;
    bench.settle();
    assert_eq!(bench.reactor.counters().operations - before, 200);
    bench.turns();
    for client in &mut clients {
        let told = [(Kind::Ack, 1), (Kind::Snapshot, 1), (Kind::Delta, 2)];
        client.set_read_timeout(Some(Duration::from_millis(1))).expect("a time limit");
        assert_eq!(frames(client), told);
    }
}

#[test]
fn w15_a_subscriber_that_reads_late_gets_a_complete_state_and_others_miss_nothing() {
    let mut bench = Bench::new();
    let mut slow = bench.connect(&lease_hello());
    bench.turns();
    // More than the socket holds.
    bench.toggle(1000);
    let mut other = bench.connect(&lease_hello());
    bench.turns();
    bench.toggle(1);
    bench.turns();
    let told = [(Kind::Ack, 2001), (Kind::Snapshot, 2001), (Kind::Delta, 2002)];
    assert_eq!(frames(&mut other)[..3], told);
    let mut seen = Vec::new();
    for _ in 0..20 {
        slow.set_read_timeout(Some(Duration::from_millis(1))).expect("a time limit");
        seen.extend(read_some(&mut slow));
        bench.turns();
    }
    let frames = split(&seen);
    assert_eq!(frames.last(), Some(&(Kind::Snapshot, 2003)), "the present state");
    assert!(frames.len() < 2000, "not all of them");
}

fn read_some(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_its_leases_end() {
    let mut bench = Bench::new();
    let asked = br#"{"busid":"sim-1","client_nonce":1}"#;
    let request = frame::encode(Dialect::Lease, Kind::LeaseRequest, 0, 0, asked).expect("small");
    let mut slow = bench.connect(&lease_hello());
    bench.turns();
    bench.toggle(1000);
    slow.write_all(&request).expect("room");
    bench.turns();
    assert_eq!(bench.exports.ledger().leases().count(), 1);
    bench.ahead += Duration::from_secs(5);
    bench.turns();
    assert!(bench.controls.is_empty() && bench.controls.deadline().is_none());
    assert_eq!(bench.exports.ledger().leases().count(), 0);
}

#[test]
fn all_are_closed_when_the_server_stops() {
    let mut bench = Bench::new();
    let mut clients: Vec<_> = (0..5).map(|_| bench.connect(&lease_hello())).collect();
    bench.turns();
    let now = clock::now();
    let mut io = Io { reactor: &mut *bench.reactor, arena: &bench.arena, now };
    bench.controls.close(&mut bench.exports, &mut io);
    bench.turns();
    assert!(bench.controls.is_empty() && bench.controls.deadline().is_none());
    for client in &mut clients {
        client.read_to_end(&mut Vec::new()).expect("an end");
    }
    bench.connect(&[]);
    bench.turns();
    assert!(bench.controls.is_empty(), "nobody comes in after that");
}
