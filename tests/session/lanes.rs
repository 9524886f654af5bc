//! Lanes: periodic answers wait for at most one bulk PDU, and bulk never starves.

use std::time::Duration;

use crate::pair::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A link that moves this much in a millisecond.
const LINK_BYTES_PER_MS: usize = 20_000;

/// Every interrupt answer leaves behind at most one bulk PDU, on a link that is too slow for both.
fn worst_wait(bulk_bytes: u32, bulk_depth: u32) -> Duration {
    let mut pair = Pair::new();
    let mut seqnum = 0;
    let mut next = || {
        seqnum += 1;
        seqnum
    };
    let mut bulk_out = 0;
    let mut periodic = next();
    pair.submit(&Submit::input(periodic, INTERRUPT, 8));
    let mut due = MILLISECOND;
    let mut finished_at = None;
    let mut worst = Duration::ZERO;
    while pair.now < 300 * MILLISECOND {
        // The device answers bulk at once, and an interrupt every millisecond.
        while bulk_out < bulk_depth {
            let urb = next();
            pair.submit(&Submit::input(urb, BULK, bulk_bytes));
            pair.finish(urb, 0, bulk_bytes);
            bulk_out += 1;
        }
        if pair.now >= due && finished_at.is_none() {
            pair.finish(periodic, 0, 8);
            finished_at = Some(due);
        }
        // One send, and the time that the link needs for it. What the device does meanwhile is
        // seen when the send is over.
        let begun = pair.now;
        for answer in &pair.answers_of_one_send() {
            pair.now += MILLISECOND * wire_bytes(answer) as u32 / LINK_BYTES_PER_MS as u32;
            if answer.brief() == Ret(periodic, 0, 8) {
                worst = worst.max(begun - finished_at.take().expect("it was finished"));
                // The peer asks again as soon as it has the answer, also if the send goes on.
                due = pair.now + MILLISECOND;
                periodic = next();
                pair.submit(&Submit::input(periodic, INTERRUPT, 8));
            } else {
                bulk_out -= 1;
            }
        }
        pair.now += Duration::from_micros(10);
    }
    worst
}

fn wire_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Submit { payload, packets, .. } => 48 + payload.len() + packets.len() * 16,
        Answer::Unlink { .. } => 48,
    }
}

#[test]
fn a_periodic_answer_waits_for_at_most_one_bulk_pdu() {
    for (bulk_bytes, depth) in [(16_384, 32), (4000, 64), (100, 200), (65_536, 8)] {
        let one_pdu = MILLISECOND * (48 + 48 + 8 + bulk_bytes) / LINK_BYTES_PER_MS as u32;
        let wait = worst_wait(bulk_bytes, depth);
        assert!(wait <= one_pdu + Duration::from_micros(10), "{wait:?} for {bulk_bytes} bytes");
    }
}

#[test]
fn without_periodic_urbs_bulk_answers_leave_together() {
    let mut pair = Pair::new();
    for seqnum in 1..=20 {
        pair.submit(&Submit::input(seqnum, BULK, 1000));
        pair.finish(seqnum, 0, 1000);
    }
    assert_eq!(pair.answers_of_one_send().len(), 20);
}

#[test]
fn with_periodic_urbs_out_one_bulk_pdu_is_sent_at_a_time() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(100, INTERRUPT, 8));
    for seqnum in 1..=3 {
        pair.submit(&Submit::output(seqnum, BULK, 1000));
        pair.finish(seqnum, 0, 1000);
    }
    let briefs = |answers: Vec<Answer>| answers.iter().map(Answer::brief).collect::<Vec<_>>();
    assert_eq!(briefs(pair.answers_of_one_send()), [Ret(1, 0, 1000)]);
    pair.finish(100, 0, 8);
    pair.submit(&Submit::input(101, INTERRUPT, 8));
    assert_eq!(briefs(pair.answers_of_one_send()), [Ret(100, 0, 8), Ret(2, 0, 1000)]);
    assert_eq!(briefs(pair.answers_of_one_send()), [Ret(3, 0, 1000)]);
}

#[test]
fn bulk_never_starves_behind_urgent_answers() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.finish(1, 0, 512);
    let mut urgent = 0;
    // As many urgent answers as one likes, always more of them than leave.
    let mut seqnum = 10;
    loop {
        for _ in 0..4 {
            seqnum += 1;
            pair.submit(&Submit::input(seqnum, INTERRUPT, 60_000));
            pair.finish(seqnum, 0, 60_000);
        }
        let answers = pair.answers_of_one_send();
        if answers.iter().any(|answer| answer.brief() == Ret(1, 0, 512)) {
            break;
        }
        urgent += answers.iter().map(wire_bytes).sum::<usize>();
        assert!(urgent < 400 * 1024, "bulk starves");
    }
    assert!(urgent > 200 * 1024, "but urgent answers went first");
}

#[test]
fn ret_unlink_travels_in_the_lane_of_its_urb_behind_the_answer() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 50_000));
    pair.submit(&Submit::input(2, BULK, 50_000));
    pair.finish(1, 0, 50_000);
    pair.unlink(3, 2);
    pair.finish(2, -104, 20_000);
    pair.submit(&Submit::control_in(4, 18));
    pair.finish(4, 0, 18);
    let expected = [Ret(4, 0, 18), Ret(1, 0, 50_000), Ret(2, -104, 20_000), Unlinked(3, 0)];
    assert_eq!(pair.briefs(), expected);
}
