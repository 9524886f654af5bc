//! Sends for whose completion nobody waits.

use std::time::Duration;

use crate::contract::driver::{content, pattern};
use crate::contract::{Driver, Ground, Row};
use crate::handle::Handle;
use crate::op::{Op, OsError, Outcome, Token};

pub(super) const CHECKS: &[Row] = &[
    ("a quiet send completes with what comes next", completes_with_the_next),
    ("a quiet send completes at the deadline at the latest", completes_at_the_deadline),
    ("a quiet send that cannot go on keeps nothing else waiting", stalled),
    ("a quiet send that moves a part says so at once", partial),
    ("quiet sends lose no byte to a slow reader", slow_reader),
    ("many quiet sends in a turn complete once each", many),
    ("a quiet send may be cancelled before the turn that starts it", cancelled_at_once),
    ("a quiet send gives its memory back when its reactor goes", dropped),
];

/// Far longer than a completion needs that does not have to wait.
const LONG: Duration = Duration::from_secs(10);

fn send_quietly(driver: &mut Driver<'_>, socket: &Handle, content: &[u8]) -> Token {
    let pieces = [Some(driver.filled(content)), None];
    driver.submit(Op::Send { socket: socket.clone(), pieces, quiet: true })
}

fn completes_with_the_next(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    for round in 0..50 {
        let request = driver.receive(&two, 100);
        let data = pattern(round, 66);
        let answer = send_quietly(&mut driver, &one, &data);
        let mut got = driver.moved(request);
        let late = ground.now() + LONG;
        let done = loop {
            if let Some(done) = driver.take(answer) {
                break done;
            }
            assert!(ground.now() < late, "its completion came too late");
            driver.turn(Some(ground.now()));
        };
        let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
        driver.send_all(&one, &data[count..]);
        got.extend(driver.receive_all(&two, data.len() - got.len()));
        assert_eq!(got, data);
    }
    assert!(!driver.has_arrived());
}

fn completes_at_the_deadline(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, _two) = ground.pair();
    let silent = driver.receive(&one, 10);
    let send = send_quietly(&mut driver, &one, b"answer");
    driver.turn(Some(ground.now() + Duration::from_millis(5)));
    let done = driver.take(send).expect("a turn that is over has handed everything over");
    assert!(matches!(done.result, Ok(Outcome::Moved(1..=6))), "{done:?}");
    assert!(driver.take(silent).is_none());
    driver.reactor.cancel(silent);
    driver.wait(silent);
}

fn cancelled_at_once(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let send = send_quietly(&mut driver, &one, b"answer");
    driver.reactor.cancel(send);
    let done = driver.wait(send);
    let count = match done.result {
        Ok(Outcome::Moved(count)) => count,
        Err(error) => {
            assert_eq!(error, OsError(libc::ECANCELED));
            0
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(driver.receive_all(&two, count), b"answer"[..count]);
}

fn dropped(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, _two) = ground.pair();
    let arena = driver.arena.clone();
    send_quietly(&mut driver, &one, b"answer");
    assert_eq!(arena.lent_blocks(), 1);
    drop(driver);
    assert_eq!(arena.lent_blocks(), 0, "not leaked either");
}

fn stalled(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (stalled, _reader) = ground.pair();
    let (one, two) = ground.pair();
    let mut stuck = send_quietly(&mut driver, &stalled, &pattern(1, 1024 * 1024));
    for round in 0..200 {
        let data = pattern(round, 100);
        let begun = ground.now();
        driver.send_all(&one, &data);
        assert_eq!(driver.receive_all(&two, 100), data);
        assert!(ground.now() < begun + LONG, "it waited for the stalled one");
        if driver.take(stuck).is_some() {
            stuck = send_quietly(&mut driver, &stalled, &pattern(round, 1024 * 1024));
        }
    }
    driver.reactor.cancel(stuck);
    driver.wait(stuck);
}

/// Nobody else has anything to say meanwhile, so nothing else would end the turn: the rest of an
/// answer must not wait for that.
fn partial(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let (one, _two) = ground.pair();
    let data = pattern(5, 8 * 1024 * 1024);
    for _ in 0..2 {
        let begun = ground.now();
        let send = send_quietly(&mut driver, &one, &data);
        driver.turn(Some(begun + LONG));
        let took = ground.now() - begun;
        match driver.take(send).map(|done| done.result) {
            Some(Ok(Outcome::Moved(count))) if count < data.len() => {
                assert!(took < LONG / 2, "{count} bytes were told of after {took:?}");
            }
            Some(Ok(Outcome::Moved(_))) => {}
            // There was no room at all: it waits for some.
            None => {
                driver.reactor.cancel(send);
                driver.wait(send);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn slow_reader(ground: &dyn Ground) {
    const TOTAL: usize = 8 * 1024 * 1024;
    let mut driver = Driver::new(ground);
    let (one, two) = ground.pair();
    let data = pattern(3, TOTAL);
    let (mut sent, mut got) = (0, Vec::with_capacity(TOTAL));
    let (mut send, mut receive) = (None, None);
    while got.len() < TOTAL {
        if send.is_none() && sent < TOTAL {
            let part = &data[sent..TOTAL.min(sent + 200_000)];
            send = Some(send_quietly(&mut driver, &one, part));
        }
        if receive.is_none() {
            receive = Some(driver.receive(&two, 50_000));
        }
        driver.turn(Some(ground.now()));
        if let Some(done) = send.and_then(|token| driver.take(token)) {
            let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
            sent += count;
            send = None;
        }
        if let Some(done) = receive.and_then(|token| driver.take(token)) {
            let Ok(Outcome::Moved(count)) = done.result else { panic!("{done:?}") };
            got.extend(content(&done.pieces, count));
            receive = None;
        }
    }
    assert_eq!(got, data);
}

fn many(ground: &dyn Ground) {
    let mut driver = Driver::new(ground);
    let pairs: Vec<_> = (0..300).map(|_| ground.pair()).collect();
    for round in 0..3 {
        let sends: Vec<_> =
            pairs.iter().map(|(one, _)| send_quietly(&mut driver, one, b"answer")).collect();
        let receives: Vec<_> = pairs.iter().map(|(_, two)| driver.receive(two, 100)).collect();
        for ((send, receive), (one, two)) in sends.into_iter().zip(receives).zip(&pairs) {
            let count = driver.moved(send).len();
            driver.send_all(one, &b"answer"[count..]);
            assert_eq!(driver.rest(two, receive, 6), b"answer", "round {round}");
        }
    }
    assert!(!driver.has_arrived());
}
