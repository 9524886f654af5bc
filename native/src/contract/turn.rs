//! Turns, time, the bell, readiness and the heap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::affinity;
use crate::contract::driver::pattern;
use crate::contract::{Driver, Ground, Row};
use crate::handle::Handle;
use crate::op::{Completion, Interest, Op, Outcome, Piece, Token};
use crate::reactor::{Reactor, Turn};

pub(super) const CHECKS: &[Row] = &[
    ("a deadline ends the sleep, not before it has come", deadline),
    ("a deadline in the past returns at once, work included", past_deadline),
    ("a turn with work to hand over does not sleep", work_first),
    ("a bell rung before the turn is heard once", bell_before),
    ("a bell rung by another thread ends the sleep", bell_thread),
    ("no ring is lost among ten thousand", bell_storm),
    ("a bell may be rung after its reactor is gone", bell_after),
    ("a poll of a ready descriptor completes at once, again and again", poll_level),
    ("a poll waits for bytes", poll_waits),
    ("a poll waits for room", poll_room),
    ("a hang-up ends a poll", poll_hang_up),
    ("polls and transfers share a descriptor", poll_shared),
    ("a chain of instant completions starves nobody", no_starving),
    ("no heap allocation after warm-up", no_allocation),
];

const READABLE: u32 = libc::POLLIN as u32;
const WRITABLE: u32 = libc::POLLOUT as u32;

fn deadline(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (_one, two) = ground.pair();
    let _waiting = driver.receive(&two, 10);
    for wait in [Duration::from_micros(300), Duration::from_millis(3)] {
        let end = ground.now() + wait;
        while ground.now() < end {
            assert_eq!(driver.turn(Some(end)), Turn { rung: false });
            assert!(!driver.has_arrived());
        }
    }
}

fn past_deadline(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    assert_eq!(driver.turn(Some(Duration::ZERO)), Turn { rung: false });
    driver.send_all(&one, b"there already");
    driver.idle(Duration::from_millis(2));
    let token = driver.receive(&two, 100);
    // Without sleeping, still within a few turns.
    for _ in 0..10_000 {
        driver.turn(Some(Duration::ZERO));
        if driver.take(token).is_some() {
            return;
        }
    }
    panic!("turns that do not sleep hand nothing over");
}

fn work_first(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, _two) = ground.pair();
    for _ in 0..20 {
        let token = driver.send(&one, b"x");
        while driver.take(token).is_none() {
            driver.turn(None);
        }
    }
}

fn bell_before(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let bell = driver.reactor.doorbell();
    for rings in [1, 3] {
        (0..rings).for_each(|_| bell.ring());
        assert!(driver.turn(None).rung);
        let end = ground.now() + Duration::from_millis(1);
        while ground.now() < end {
            assert!(!driver.turn(Some(end)).rung, "one answer for rings before it");
        }
    }
}

fn bell_thread(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let bell = driver.reactor.doorbell();
    let posted = Arc::new(AtomicU32::new(0));
    let answered = Arc::new(AtomicU32::new(0));
    let (mail, reply) = (Arc::clone(&posted), Arc::clone(&answered));
    // Each ring waits for its answer: every one meets a reactor that is falling asleep.
    let thread = affinity::spawn("ringer", move || {
        for number in 1..=1000 {
            mail.store(number, Ordering::Release);
            bell.ring();
            while reply.load(Ordering::Acquire) < number {
                std::thread::yield_now();
            }
        }
    });
    while answered.load(Ordering::Acquire) < 1000 {
        if driver.turn(None).rung {
            answered.store(posted.load(Ordering::Acquire), Ordering::Release);
        }
    }
    thread.expect("room for a thread").join().expect("no panic");
}

fn bell_storm(ground: &dyn Ground) {
    const RINGS: u32 = 10_000;
    let mut driver = Driver::new(ground);
    let posted = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (bell, mail) = (driver.reactor.doorbell(), Arc::clone(&posted));
            affinity::spawn("ringer", move || {
                for _ in 0..RINGS / 2 {
                    mail.fetch_add(1, Ordering::Release);
                    bell.ring();
                }
            })
        })
        .collect();
    // A lost ring leaves this asleep for ever.
    while posted.load(Ordering::Acquire) < RINGS {
        assert!(driver.turn(None).rung);
    }
    for thread in threads {
        thread.expect("room for a thread").join().expect("no panic");
    }
}

fn bell_after(ground: &dyn Ground) {
    let driver = Driver::new(ground);
    let bell = driver.reactor.doorbell();
    drop(driver);
    bell.ring();
    bell.clone().ring();
}

fn poll_level(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    driver.send_all(&one, b"xyz");
    for _ in 0..3 {
        let token = driver.poll(&two, Interest::Readable);
        assert_ne!(driver.ready(token) & READABLE, 0);
        let token = driver.poll(&two, Interest::Writable);
        assert_ne!(driver.ready(token) & WRITABLE, 0);
    }
    assert_eq!(driver.receive_all(&two, 3), b"xyz");
    let token = driver.poll(&two, Interest::Readable);
    driver.idle(Duration::from_millis(5));
    assert!(driver.take(token).is_none(), "all bytes are taken");
}

fn poll_waits(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    for round in 0..20 {
        let token = driver.poll(&two, Interest::Readable);
        if round % 2 == 0 {
            driver.turn(Some(ground.now()));
        }
        driver.send_all(&one, &[round]);
        assert_ne!(driver.ready(token) & READABLE, 0);
        assert_eq!(driver.receive_all(&two, 1), [round]);
    }
}

fn poll_room(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let mut stuck = Vec::new();
    let token = loop {
        let send = driver.send(&one, &pattern(0, 1024 * 1024));
        let token = driver.poll(&one, Interest::Writable);
        driver.idle(Duration::from_millis(5));
        if driver.take(send).is_none() {
            stuck.push(send);
        }
        if driver.take(token).is_none() {
            break token;
        }
        if let Some(send) = stuck.pop() {
            driver.reactor.cancel(send);
            driver.wait(send);
        }
    };
    let mut receive = driver.receive(&two, 256 * 1024);
    while driver.take(token).is_none() {
        driver.turn(None);
        if driver.take(receive).is_some() {
            receive = driver.receive(&two, 256 * 1024);
        }
    }
}

fn poll_hang_up(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    ground.reset_on_close(&one);
    let token = driver.poll(&two, Interest::Readable);
    driver.turn(Some(ground.now()));
    drop(one);
    assert_ne!(driver.ready(token), 0);
    for interest in [Interest::Readable, Interest::Writable] {
        let token = driver.poll(&two, interest);
        assert_ne!(driver.ready(token), 0);
    }
}

fn poll_shared(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let polls = [driver.poll(&two, Interest::Readable), driver.poll(&two, Interest::Readable)];
    let receive = driver.receive(&two, 10);
    driver.turn(Some(ground.now()));
    driver.send_all(&one, b"x");
    assert_eq!(driver.moved(receive), b"x");
    // The byte may be gone before a poll looks; the next one wakes it then.
    driver.send_all(&one, b"y");
    for token in polls {
        assert_ne!(driver.ready(token) & READABLE, 0);
    }
}

fn no_starving(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (busy, _reader) = ground.pair();
    let (one, two) = ground.pair();
    let receive = driver.receive(&two, 10);
    let bell = driver.reactor.doorbell();
    let send = driver.send(&one, b"z");
    bell.ring();
    let (mut rung, mut turns) = (false, 0);
    let mut quick = driver.poll(&busy, Interest::Writable);
    let (mut received, mut sent) = (false, false);
    while !(rung && received && sent) {
        turns += 1;
        assert!(turns < 10_000, "rung {rung} received {received} sent {sent}");
        rung |= driver.turn(None).rung;
        received |= driver.take(receive).is_some();
        sent |= driver.take(send).is_some();
        if driver.take(quick).is_some() {
            quick = driver.poll(&busy, Interest::Writable);
        }
    }
}

fn no_allocation(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let mut steady = Steady {
        memory: std::array::from_fn(|_| Some(driver.piece(64))),
        completions: Vec::with_capacity(16),
        ends: [one, two],
    };
    let reactor = &mut *driver.reactor;
    for _ in 0..200 {
        steady.round(reactor);
    }
    let Some(before) = ground.allocations() else { return };
    for _ in 0..2000 {
        steady.round(reactor);
    }
    let after = ground.allocations().expect("counted before");
    assert_eq!(after - before, 0, "allocations in 2000 rounds of 5 operations");
}

/// A ping-pong, a poll and a cancelled poll, over and over, in the same memory.
struct Steady {
    memory: [Option<Piece>; 3],
    completions: Vec<Completion>,
    ends: [Handle; 2],
}

impl Steady {
    fn round(&mut self, reactor: &mut dyn Reactor) {
        let token = |index| Token::new(1, 0, index);
        let [one, two] = [self.ends[0].clone(), self.ends[1].clone()];
        let mut take = |index: usize| self.memory[index].take();
        let pieces = [take(0), take(1)];
        reactor.submit(Op::Receive { socket: two.clone(), pieces }, token(0));
        let pieces = [take(2), None];
        let poll = Op::Poll { handle: two, interest: Interest::Writable };
        let parked = Op::Poll { handle: one.clone(), interest: Interest::Readable };
        reactor.submit(Op::Send { socket: one, pieces, quiet: false }, token(1));
        reactor.submit(poll, token(2));
        reactor.submit(parked, token(3));
        reactor.cancel(token(3));
        let mut left = 4;
        while left > 0 {
            reactor.turn(None, &mut self.completions);
            for completion in self.completions.drain(..) {
                left -= 1;
                let [first, second] = completion.pieces;
                match completion.token.index() {
                    0 => {
                        assert!(matches!(completion.result, Ok(Outcome::Moved(1..))));
                        self.memory[0] = first;
                        self.memory[1] = second;
                    }
                    1 => self.memory[2] = first,
                    _ => {}
                }
            }
        }
    }
}
