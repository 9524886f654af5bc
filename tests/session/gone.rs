//! The device leaves, or lies, or the memory does not suffice.

use std::time::Duration;

use usbip_fast::session::exporter::{GONE_TIMEOUT, SessionEnd};
use usbip_fast::usb::transfer::{BUFFER_OFFSET, Direction};

use crate::pair::*;

#[test]
fn b11_pending_urbs_are_answered_108_later_ones_19_then_the_session_ends() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.submit(&Submit::input(2, INTERRUPT, 8));
    pair.submit(&Submit::control_in(3, 18));
    pair.exporter.handle_device_gone(pair.now);
    for seqnum in [3, 1, 2] {
        pair.finish(seqnum, -108, 0);
    }
    pair.submit(&Submit::output(4, BULK, 3000));
    pair.submit(&Submit::iso(5, Direction::In, 64, &[(0, 64)]));
    pair.submit(&Submit::input(6, UNKNOWN, 64));
    assert_eq!(pair.device.seen, [1, 2, 3]);
    let mut briefs = pair.briefs();
    briefs.sort_by_key(|brief| match *brief {
        Ret(seqnum, ..) | Unlinked(seqnum, _) => seqnum,
    });
    let pending = [Ret(1, -108, 0), Ret(2, -108, 0), Ret(3, -108, 0)];
    let later = [Ret(4, -19, 0), Ret(5, -19, 0), Ret(6, -19, 0)];
    assert_eq!(briefs, [pending, later].concat());
    assert_eq!(pair.end(), Some(&SessionEnd::DeviceGone));
}

#[test]
fn b11_a_gone_device_keeps_the_session_until_it_has_given_back_what_it_holds() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.exporter.handle_device_gone(pair.now);
    assert_eq!(pair.briefs(), []);
    assert_eq!(pair.end(), None);
    pair.unlink(2, 1);
    pair.finish(1, -108, 0);
    assert_eq!(pair.end(), None, "its answers have not left");
    assert_eq!(pair.briefs(), [Ret(1, -108, 0), Unlinked(2, 0)]);
    assert_eq!(pair.end(), Some(&SessionEnd::DeviceGone));
}

#[test]
fn b11_a_gone_device_without_urbs_ends_the_session_at_once() {
    let mut pair = Pair::new();
    pair.exporter.handle_device_gone(pair.now);
    assert_eq!(pair.briefs(), []);
    assert_eq!(pair.end(), Some(&SessionEnd::DeviceGone));
}

#[test]
fn b11_a_peer_that_stops_within_a_pdu_does_not_hold_a_gone_device() {
    for received in [10, 48, 50] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, BULK, 512));
        let bytes = pair.note(&Submit::output(2, BULK, 100));
        pair.send(&bytes[..received]);
        pair.exporter.handle_device_gone(pair.now);
        pair.finish(1, -108, 0);
        assert_eq!(pair.briefs(), [Ret(1, -108, 0)]);
        assert_eq!(pair.end(), Some(&SessionEnd::DeviceGone), "{received} bytes received");
    }
}

#[test]
fn a_device_that_claims_more_bytes_than_the_buffer_is_answered_as_babble() {
    for length in [513, u32::MAX] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(1, BULK, 512));
        pair.submit(&Submit::output(2, BULK, 512));
        pair.finish_with(1, |_, _| (0, length));
        pair.finish_with(2, |_, _| (0, length));
        assert_eq!(pair.briefs(), [Ret(1, -75, 0), Ret(2, -75, 0)]);
        assert_eq!(pair.end(), None);
    }
}

#[test]
fn a_status_is_an_answer_with_whatever_data_there_is() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.finish_with(1, |_, block| {
        block[BUFFER_OFFSET..BUFFER_OFFSET + 3].copy_from_slice(b"abc");
        (-121, 3)
    });
    let answers = pair.answers();
    let Answer::Submit { status: -121, payload, .. } = &answers[0] else { panic!("{answers:?}") };
    assert_eq!(payload, b"abc");
}

#[test]
fn refused_memory_is_an_answer_and_the_payload_is_consumed() {
    let mut pair = Pair::new();
    pair.giver.refuse_from = Some(1);
    pair.submit(&Submit::output(1, BULK, 5000));
    pair.submit(&Submit::control_in(2, 18));
    // No memory for the descriptors either: they are consumed and cannot be echoed.
    pair.submit(&Submit::iso(3, Direction::Out, 64, &[(0, 32), (32, 32)]));
    let answers = pair.answers();
    let iso = answers.iter().find(|answer| answer.brief() == Ret(3, -12, 0));
    let Some(Answer::Submit { number_of_packets: 0, error_count: 0, packets, .. }) = iso else {
        panic!("{answers:?}")
    };
    assert!(packets.is_empty());
    pair.giver.refuse_from = None;
    pair.submit(&Submit::output(4, BULK, 10));
    pair.finish(4, 0, 10);
    assert_eq!(pair.briefs(), [Ret(4, 0, 10)]);
    assert_eq!(pair.device.seen, [4]);
}

#[test]
fn refused_memory_for_the_data_still_echoes_isochronous_packets() {
    let mut pair = Pair::new();
    pair.giver.refuse_from = Some(1000);
    pair.submit(&Submit::iso(1, Direction::In, 2000, &[(0, 500), (1000, 500)]));
    let answers = pair.answers();
    let Answer::Submit { status, packets, error_count, .. } = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!((*status, *error_count), (-12, 2));
    assert_eq!(packets, &[(0, 500, 0, -18), (1000, 500, 0, -18)]);
}

#[test]
fn after_the_end_nothing_reaches_the_device_and_what_it_has_comes_back() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    let mut bytes = pair.note(&Submit::output(2, BULK, 10));
    bytes.extend(pair.note(&Submit::output(3, BULK, 10)));
    // 2 arrives in full but the device is not asked; 3 is still arriving into its block.
    pair.exporter.handle_received(None, &bytes[..bytes.len() - 5], &mut pair.giver, pair.now);
    let (block, range) = pair.exporter.poll_receive().expect("3 is arriving");
    assert_eq!(range.len(), 5);
    pair.exporter.stop(SessionEnd::Network("reset".into()));
    pair.exporter.handle_received(Some((block, 5)), &[1, 2, 3], &mut pair.giver, pair.now);
    pair.hand_over();
    assert_eq!(pair.device.seen, [1]);
    pair.finish(1, 0, 512);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.end(), Some(&SessionEnd::Network("reset".into())));
    assert!(pair.exporter.poll_receive().is_none());
}

#[test]
fn b11_a_peer_that_does_not_read_holds_a_gone_device_for_two_seconds() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 512));
    pair.now = Duration::from_secs(9);
    pair.exporter.handle_device_gone(pair.now);
    pair.finish(1, -108, 0);
    pair.exporter.handle_device_gone(pair.now + Duration::from_secs(1));
    // Its answer waits, because the send before it does not come back.
    let due = pair.now + GONE_TIMEOUT;
    assert_eq!(pair.exporter.deadline(), Some(due), "counted from the first call");
    pair.exporter.handle_deadline(due - Duration::from_millis(1));
    assert_eq!(pair.end(), None);
    pair.exporter.handle_deadline(due);
    assert_eq!(pair.end(), Some(&SessionEnd::GoneUnread));
    assert_eq!(pair.exporter.deadline(), None);
}
