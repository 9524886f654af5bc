//! Answers keep the order of submission per endpoint; endpoints are independent.

use usbip_fast::usb::transfer::Direction;

use crate::pair::*;

#[test]
fn answers_keep_the_order_of_submission_per_endpoint() {
    let mut pair = Pair::new();
    for seqnum in 1..=4 {
        pair.submit(&Submit::input(seqnum, BULK, 512));
    }
    pair.finish(3, 0, 3);
    pair.finish(2, -32, 0);
    assert_eq!(pair.briefs(), []);
    pair.finish(1, 0, 1);
    assert_eq!(pair.briefs(), [Ret(1, 0, 1), Ret(2, -32, 0), Ret(3, 0, 3)]);
    pair.finish(4, 0, 4);
    assert_eq!(pair.briefs(), [Ret(4, 0, 4)]);
}

#[test]
fn a_stalled_endpoint_delays_no_other_and_the_two_directions_are_two_endpoints() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.submit(&Submit::output(2, BULK, 512));
    pair.submit(&Submit::control_in(3, 18));
    pair.submit(&Submit::input(4, INTERRUPT, 8));
    pair.submit(&Submit::output(5, INTERRUPT, 8));
    for seqnum in [2, 3, 4, 5] {
        pair.finish(seqnum, 0, 8);
        assert_eq!(pair.briefs(), [Ret(seqnum, 0, 8)]);
    }
}

#[test]
fn endpoint_zero_has_one_order_for_both_directions() {
    let mut pair = Pair::new();
    pair.submit(&Submit::control_in(1, 18));
    pair.submit(&Submit::control(2, [0, 9, 1, 0, 0, 0, 0, 0]));
    pair.finish(2, 0, 0);
    assert_eq!(pair.briefs(), []);
    pair.finish(1, 0, 18);
    assert_eq!(pair.briefs(), [Ret(1, 0, 18), Ret(2, 0, 0)]);
}

#[test]
fn an_answer_of_the_session_itself_waits_for_older_ones_of_its_endpoint() {
    // -EINVAL on endpoint 0: wLength is not the transfer's length.
    let mut pair = Pair::new();
    pair.submit(&Submit::control_in(1, 18));
    let mut wrong = Submit::control_in(2, 18);
    wrong.command.buffer_length = 19;
    pair.submit(&wrong);
    // -ENOENT on an endpoint that does not exist has nothing to wait for.
    pair.submit(&Submit::output(3, UNKNOWN, 100));
    assert_eq!(pair.briefs(), [Ret(3, -2, 0)]);
    pair.finish(1, 0, 18);
    assert_eq!(pair.briefs(), [Ret(1, 0, 18), Ret(2, -22, 0)]);
    assert_eq!(pair.device.seen, [1]);

    // -EINVAL of an isochronous layout (B21).
    let mut pair = Pair::new();
    pair.submit(&Submit::iso(1, Direction::In, 64, &[(0, 64)]));
    pair.submit(&Submit::iso(2, Direction::In, 64, &[(0, 65)]));
    pair.submit(&Submit::iso(3, Direction::In, 64, &[(0, 64)]));
    pair.finish(3, 0, 0);
    assert_eq!(pair.briefs(), []);
    pair.finish(1, 0, 0);
    assert_eq!(pair.briefs(), [Ret(1, 0, 0), Ret(2, -22, 0), Ret(3, 0, 0)]);

    // -ENOMEM of a refused allocation.
    let mut pair = Pair::new();
    pair.submit(&Submit::output(1, BULK, 100));
    pair.giver.refuse_from = Some(1000);
    pair.submit(&Submit::output(2, BULK, 5000));
    pair.submit(&Submit::output(3, BULK, 100));
    pair.finish(3, 0, 100);
    assert_eq!(pair.briefs(), []);
    pair.finish(1, 0, 100);
    assert_eq!(pair.briefs(), [Ret(1, 0, 100), Ret(2, -12, 0), Ret(3, 0, 100)]);
}

#[test]
fn the_end_of_an_unlinked_urb_lets_out_those_behind_it() {
    let mut pair = Pair::new();
    for seqnum in 1..=3 {
        pair.submit(&Submit::input(seqnum, BULK, 512));
    }
    pair.finish(2, 0, 2);
    pair.finish(3, 0, 3);
    pair.unlink(4, 1);
    assert_eq!(pair.briefs(), []);
    pair.finish(1, -104, 0);
    assert_eq!(pair.briefs(), [Unlinked(4, -104), Ret(2, 0, 2), Ret(3, 0, 3)]);
}

#[test]
fn unlinking_a_waiting_urb_lets_out_a_refused_one_behind_it() {
    let mut pair = Pair::new();
    let mut bytes = pair.note(&Submit::control_in(1, 18));
    let mut wrong = Submit::control_in(2, 18);
    wrong.command.buffer_length = 19;
    bytes.extend(pair.note(&wrong));
    bytes.extend(unlink_bytes(3, 1));
    pair.exporter.handle_received(None, &bytes, &mut pair.giver, pair.now);
    assert_eq!(pair.briefs(), [Unlinked(3, -104), Ret(2, -22, 0)]);
}
