//! A peer that asks for more than may be outstanding (B9).

use usbip_fast::limits;
use usbip_fast::session::exporter::SessionEnd;
use usbip_fast::usb::transfer::Direction;

use crate::pair::*;

const URBS: u32 = limits::SESSION_URBS as u32;
const MIB: u32 = 1024 * 1024;

#[test]
fn b9_the_1025th_urb_is_answered_enomem_and_the_session_lives() {
    let mut pair = Pair::new();
    for seqnum in 1..=URBS {
        pair.submit(&Submit::output(seqnum, BULK, 4));
    }
    assert_eq!(pair.device.held.len(), 1024);
    pair.submit(&Submit::output(URBS + 1, INTERRUPT, 3000));
    pair.submit(&Submit::iso(URBS + 2, Direction::Out, 8, &[(0, 4), (4, 4)]));
    assert_eq!(pair.device.held.len(), 1024);
    assert_eq!(pair.briefs(), [Ret(URBS + 1, -12, 0), Ret(URBS + 2, -12, 0)]);
    pair.finish(1, 0, 4);
    assert_eq!(pair.briefs(), [Ret(1, 0, 4)]);
    pair.submit(&Submit::output(URBS + 3, BULK, 4));
    assert_eq!(pair.device.held.len(), 1024, "there is room again");
    assert_eq!(pair.end(), None);
}

#[test]
fn b9_twice_as_many_urbs_end_the_session() {
    let mut pair = Pair::new();
    for seqnum in 1..=2 * URBS {
        pair.submit(&Submit::input(seqnum, BULK, 4));
        assert_eq!(pair.end(), None, "URB {seqnum}");
    }
    assert_eq!(pair.device.held.len(), 1024, "the rest waits for its -ENOMEM to leave in order");
    pair.submit(&Submit::input(2 * URBS + 1, BULK, 4));
    assert!(matches!(pair.end(), Some(SessionEnd::Overload { urbs: 2048, .. })));
}

#[test]
fn b9_above_64_mib_urbs_are_answered_enomem_and_at_twice_that_the_session_ends() {
    let mut pair = Pair::new();
    for seqnum in 1..=4 {
        pair.submit(&Submit::input(seqnum, BULK, 16 * MIB));
    }
    assert_eq!(pair.device.held.len(), 4);
    // On the same endpoint, so that the answers stay outstanding.
    pair.submit(&Submit::input(5, BULK, 1));
    for seqnum in 6..=8 {
        pair.submit(&Submit::input(seqnum, BULK, 16 * MIB));
    }
    pair.submit(&Submit::input(9, BULK, 16 * MIB - 1));
    assert_eq!(pair.device.held.len(), 4);
    assert_eq!(pair.end(), None, "128 MiB exactly");
    pair.submit(&Submit::input(10, BULK, 0));
    assert_eq!(pair.device.held.len(), 4, "nothing goes while more than 64 MiB are outstanding");
    pair.submit(&Submit::input(11, BULK, 1));
    let bytes = 128 * MIB as usize + 1;
    assert_eq!(pair.end(), Some(&SessionEnd::Overload { urbs: 10, bytes }));
}

#[test]
fn b9_out_payload_over_the_limit_is_consumed() {
    let mut pair = Pair::new();
    for seqnum in 1..=4 {
        pair.submit(&Submit::input(seqnum, BULK, 16 * MIB));
    }
    pair.submit(&Submit::output(5, BULK, 2 * MIB));
    assert_eq!(pair.briefs(), [Ret(5, -12, 0)]);
    for seqnum in 1..=4 {
        pair.finish(seqnum, 0, 0);
    }
    assert_eq!(pair.briefs(), [Ret(1, 0, 0), Ret(2, 0, 0), Ret(3, 0, 0), Ret(4, 0, 0)]);
    pair.submit(&Submit::output(6, BULK, 2 * MIB));
    pair.finish(6, 0, 2 * MIB);
    assert_eq!(pair.briefs(), [Ret(6, 0, 2 * MIB as i32)]);
}

#[test]
fn b9_cmd_unlink_is_read_under_overload() {
    let mut pair = Pair::new();
    for seqnum in 1..=URBS + 10 {
        pair.submit(&Submit::input(seqnum, BULK, 4));
    }
    pair.unlink(5000, 7);
    assert_eq!(pair.device.cancelled, [7]);
    pair.finish(7, -104, 0);
    assert_eq!(pair.briefs(), [Unlinked(5000, -104)]);
    // One that was answered -ENOMEM but waits for older ones.
    pair.unlink(5001, URBS + 3);
    assert_eq!(pair.briefs(), [Ret(URBS + 3, -12, 0), Unlinked(5001, 0)]);
}

#[test]
fn b9_a_flood_of_unlinks_that_are_not_read_ends_the_session() {
    // Of one URB in flight, of an unknown one, and of one whose answer is queued.
    for target in [1, 99, 2] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, BULK, 4));
        pair.submit(&Submit::input(2, INTERRUPT, 4));
        pair.finish(2, 0, 4);
        let mut sent = 0;
        while pair.end().is_none() {
            sent += 1;
            assert!(sent < 10_000, "the queue has no limit");
            pair.unlink(100 + sent, target);
        }
        assert!(sent >= URBS, "{sent} unlinks are not many");
        assert!(matches!(pair.end(), Some(SessionEnd::Overload { .. })));
    }
}

#[test]
fn b9_unlinks_that_are_read_are_no_flood() {
    let mut pair = Pair::new();
    for seqnum in 1..20_000 {
        pair.unlink(seqnum, 99_999);
        assert_eq!(pair.briefs(), [Unlinked(seqnum, 0)]);
    }
    assert_eq!(pair.end(), None);
}

#[test]
fn every_urb_in_flight_may_be_unlinked_at_once() {
    let mut pair = Pair::new();
    for seqnum in 1..=URBS {
        pair.submit(&Submit::input(seqnum, BULK, 4));
    }
    for seqnum in 1..=URBS {
        pair.unlink(10_000 + seqnum, seqnum);
    }
    for seqnum in (1..=URBS).rev() {
        pair.finish(seqnum, -104, 1);
    }
    let briefs = pair.briefs();
    assert_eq!(briefs.len(), 2048);
    assert_eq!(&briefs[..2], [Ret(URBS, -104, 1), Unlinked(10_000 + URBS, 0)]);
    assert_eq!((pair.end(), pair.exporter.outstanding()), (None, 0));
}
