//! Every CMD_SUBMIT ends in exactly one of two forms, wherever its CMD_UNLINK meets it (A19, A23,
//! A24, B10).

use std::time::Duration;

use usbip_fast::session::unlink::HOLD_TIMEOUT;

use crate::pair::*;

#[test]
fn a23_unlink_before_the_device_has_it_leaves_one_answer_and_never_submits() {
    let mut pair = Pair::new();
    let mut bytes = pair.note(&Submit::output(1, BULK, 100));
    bytes.extend(unlink_bytes(2, 1));
    // Both arrive in one piece, so that the URB is still waiting when its end is wanted.
    pair.exporter.handle_received(None, &bytes, &mut pair.giver, pair.now);
    pair.hand_over();
    assert!(pair.device.seen.is_empty());
    assert!(pair.device.cancelled.is_empty());
    assert_eq!(pair.briefs(), [Unlinked(2, -104)]);
    assert_eq!((pair.exporter.outstanding(), pair.live_blocks()), (0, 0));
}

#[test]
fn a23_unlink_in_flight_without_bytes_is_one_ret_unlink() {
    for status in [-104, -2] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, BULK, 512));
        pair.unlink(2, 1);
        assert_eq!(pair.device.cancelled, [1]);
        assert_eq!(pair.briefs(), [], "nothing before the device has let go");
        pair.finish(1, status, 0);
        assert_eq!(pair.briefs(), [Unlinked(2, -104)]);
        assert_eq!(pair.exporter.outstanding(), 0);
    }
}

#[test]
fn a23_unlink_in_flight_with_bytes_keeps_them() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.unlink(2, 1);
    pair.finish(1, -104, 7);
    let answers = pair.answers();
    let Answer::Submit { payload, .. } = &answers[0] else { panic!("data first: {answers:?}") };
    assert_eq!(payload, &[1; 7]);
    let briefs: Vec<_> = answers.iter().map(Answer::brief).collect();
    assert_eq!(briefs, [Ret(1, -104, 7), Unlinked(2, 0)]);
}

#[test]
fn a23_a_urb_that_wins_the_race_is_answered_with_its_own_result() {
    for (status, length) in [(0, 512), (0, 0), (-32, 0), (-75, 0), (-108, 0), (-121, 3)] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, BULK, 512));
        pair.unlink(2, 1);
        pair.finish(1, status, length);
        assert_eq!(pair.briefs(), [Ret(1, status, length as i32), Unlinked(2, 0)]);
    }
}

#[test]
fn unlink_of_an_out_urb_tells_how_much_went_out() {
    let mut pair = Pair::new();
    pair.submit(&Submit::output(1, BULK, 1024));
    pair.unlink(2, 1);
    pair.finish(1, -104, 512);
    assert_eq!(pair.briefs(), [Ret(1, -104, 512), Unlinked(2, 0)]);
}

#[test]
fn a24_unlink_works_on_endpoint_zero() {
    let mut pair = Pair::new();
    pair.submit(&Submit::control_in(1, 18));
    pair.unlink(2, 1);
    assert_eq!(pair.device.cancelled, [1]);
    pair.finish(1, -104, 0);
    assert_eq!(pair.briefs(), [Unlinked(2, -104)]);
}

#[test]
fn finished_but_waiting_for_an_older_one_leaves_at_once_when_unlinked() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.submit(&Submit::input(2, BULK, 512));
    pair.finish(2, 0, 5);
    assert_eq!(pair.briefs(), [], "the older one is not finished");
    pair.unlink(3, 2);
    assert_eq!(pair.device.cancelled, [0_u32; 0], "it is not with the device any more");
    assert_eq!(pair.briefs(), [Ret(2, 0, 5), Unlinked(3, 0)]);
    pair.finish(1, 0, 1);
    assert_eq!(pair.briefs(), [Ret(1, 0, 1)]);
}

#[test]
fn finished_and_queued_is_answered_before_its_ret_unlink() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.finish(1, 0, 512);
    pair.unlink(2, 1);
    pair.unlink(3, 1);
    assert_eq!(pair.briefs(), [Ret(1, 0, 512), Unlinked(2, 0), Unlinked(3, 0)]);
}

#[test]
fn answered_or_unknown_is_zero() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.finish(1, 0, 512);
    assert_eq!(pair.briefs(), [Ret(1, 0, 512)]);
    pair.unlink(2, 1);
    pair.unlink(3, 77);
    assert_eq!(pair.briefs(), [Unlinked(2, 0), Unlinked(3, 0)]);
}

#[test]
fn a19_each_cmd_unlink_is_answered_once_also_when_it_is_not_the_first() {
    for (status, length, first) in [
        (-104, 0, vec![Unlinked(2, -104)]),
        (-104, 9, vec![Ret(1, -104, 9), Unlinked(2, 0)]),
        (0, 0, vec![Ret(1, 0, 0), Unlinked(2, 0)]),
    ] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, INTERRUPT, 64));
        pair.unlink(2, 1);
        pair.unlink(3, 1);
        pair.unlink(4, 1);
        assert_eq!(pair.device.cancelled, [1], "asked for once");
        pair.finish(1, status, length);
        let expected = [first, vec![Unlinked(3, 0), Unlinked(4, 0)]].concat();
        assert_eq!(pair.briefs(), expected);
    }
}

#[test]
fn a_seqnum_may_be_used_again_once_it_is_answered() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.submit(&Submit::input(1, BULK, 512));
        pair.unlink(2, 1);
        pair.finish(1, -104, 0);
        assert_eq!(pair.briefs(), [Unlinked(2, -104)]);
    }
    assert_eq!(pair.end(), None);
}

#[test]
fn a_cancel_that_comes_too_late_does_not_hit_the_next_urb_in_its_slot() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    // The driver of the connection is slow to ask for cancels: the URB ends first, is answered,
    // and its place in the table is used again.
    pair.exporter.handle_received(None, &unlink_bytes(2, 1), &mut pair.giver, pair.now);
    let (submission, block) = pair.device.held.remove(0);
    let slot = submission.slot;
    let finished =
        usbip_fast::usb::transfer::Finished { slot, status: 0, actual_length: 0, error_count: 0 };
    pair.exporter.handle_finished(finished, block);
    assert_eq!(pair.briefs(), [Ret(1, 0, 0), Unlinked(2, 0)]);
    let next = pair.note(&Submit::input(3, BULK, 512));
    pair.exporter.handle_received(None, &next, &mut pair.giver, pair.now);
    pair.hand_over();
    assert_eq!(pair.device.held[0].0.slot, slot, "the place is used again");
    assert_eq!(pair.device.cancelled, [0_u32; 0], "nobody wanted the new one ended");
}

#[test]
fn an_unlink_that_overtook_its_submission_stops_it_when_it_comes() {
    // What vhci_hcd of Linux 6.1 sends when a driver submits and unlinks while it is sending.
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.unlink(3, 2);
    assert_eq!(pair.briefs(), [], "an answer now would end the URB before it has begun");
    pair.submit(&Submit::input(2, BULK, 512));
    assert_eq!(pair.briefs(), [Unlinked(3, -104)]);
    assert_eq!(pair.device.seen, [1], "it never reaches the device");
    pair.unlink(4, 2);
    assert_eq!(pair.briefs(), [Unlinked(4, 0)], "now it is known to be over");
}

#[test]
fn a19_two_unlinks_that_overtook_their_urb_are_answered_in_order_behind_it() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, INTERRUPT, 8));
    pair.unlink(3, 2);
    pair.unlink(4, 2);
    assert_eq!(pair.briefs(), [], "the URB may still come");
    pair.submit(&Submit::output(2, BULK, 100));
    // A younger URB shows that nothing older comes any more.
    pair.submit(&Submit::input(5, INTERRUPT, 8));
    assert_eq!(pair.device.seen, [1, 5]);
    assert_eq!(pair.briefs(), [Unlinked(3, -104), Unlinked(4, 0)]);
}

#[test]
fn an_unlink_whose_urb_never_comes_is_answered_in_the_end() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, INTERRUPT, 8));
    pair.now = Duration::from_secs(60);
    pair.unlink(3, 2);
    let due = pair.now + HOLD_TIMEOUT;
    assert_eq!(pair.exporter.deadline(), Some(due));
    pair.exporter.handle_deadline(due - Duration::from_millis(1));
    assert_eq!(pair.briefs(), [], "the URB may still come");
    pair.exporter.handle_deadline(due);
    assert_eq!(pair.briefs(), [Unlinked(3, 0)], "unknown");
    assert_eq!(pair.exporter.deadline(), None);
    // Should it come after all, it is a URB like any other.
    pair.submit(&Submit::input(2, BULK, 8));
    pair.finish(2, 0, 8);
    assert_eq!(pair.briefs(), [Ret(2, 0, 8)]);
}

#[test]
fn unlinks_of_urbs_that_never_come_are_bounded() {
    let mut pair = Pair::new();
    for target in 1000..1100 {
        pair.unlink(target + 1000, target);
    }
    // Those above the limit are answered as unknown at once, the others when their time is over.
    assert_eq!(pair.briefs().len(), 36);
    pair.exporter.handle_deadline(pair.now + HOLD_TIMEOUT);
    assert_eq!(pair.briefs().len(), 64);
    assert_eq!(pair.end(), None);
}
