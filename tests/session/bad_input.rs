//! Numbers that a peer must not send, and the largest that it may (B9, B19).

use usbip_fast::session::exporter::SessionEnd;
use usbip_fast::usb::transfer::Direction;
use usbip_fast::wire::urb::Malformed;

use crate::pair::*;

fn end_of(submit: &Submit) -> SessionEnd {
    let mut pair = Pair::new();
    pair.submit(submit);
    assert!(pair.device.seen.is_empty());
    pair.end().expect("the session is over").clone()
}

#[test]
fn lengths_up_to_16_mib_are_transfers() {
    for length in [0, 1, 4 << 20, 16 << 20] {
        let mut pair = Pair::new();
        let out = Submit::output(1, BULK, length);
        pair.submit(&out);
        pair.finish_with(1, |submission, block| {
            assert_eq!(block[64..64 + length as usize], out.payload);
            (0, submission.length)
        });
        assert_eq!(pair.briefs(), [Ret(1, 0, length as i32)]);
        pair.submit(&Submit::input(2, BULK, length));
        pair.finish(2, 0, length);
        let answers = pair.answers();
        let Answer::Submit { payload, .. } = &answers[0] else { panic!("data") };
        assert_eq!(payload.len(), length as usize);
        assert!(payload.iter().all(|&byte| byte == 2));
    }
}

#[test]
fn other_lengths_end_the_session() {
    for (length, seen) in [(u32::MAX, -1), ((16 << 20) + 1, (16 << 20) + 1), (1 << 31, i32::MIN)] {
        for direction in [Direction::In, Direction::Out] {
            for endpoint in [0, BULK, ISOCHRONOUS, UNKNOWN] {
                let mut submit = Submit::new(1, endpoint, direction, 0);
                submit.command.buffer_length = length;
                assert_eq!(end_of(&submit), SessionEnd::Malformed(Malformed::Length(seen)));
            }
        }
    }
}

#[test]
fn another_device_id_ends_the_session() {
    let mut submit = Submit::input(1, BULK, 4);
    submit.command.device_id = DEVICE_ID + 1;
    let expected = SessionEnd::WrongDeviceId { got: DEVICE_ID + 1, expected: DEVICE_ID };
    assert_eq!(end_of(&submit), expected);
    assert!(expected.to_string().contains("device id 0x00020004"), "{expected}");

    // A18: also that of a CMD_UNLINK.
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 4));
    let mut unlink = unlink_bytes(2, 1);
    unlink[8..12].fill(0);
    pair.send(&unlink);
    assert_eq!(pair.end(), Some(&SessionEnd::WrongDeviceId { got: 0, expected: DEVICE_ID }));
    assert!(pair.device.cancelled.is_empty());
}

#[test]
fn b9_a_seqnum_in_use_ends_the_session() {
    // With the device, and answered but not sent.
    for finished in [false, true] {
        let mut pair = Pair::new();
        pair.submit(&Submit::input(7, BULK, 4));
        if finished {
            pair.finish(7, 0, 4);
        }
        pair.submit(&Submit::output(7, INTERRUPT, 4));
        assert_eq!(pair.end(), Some(&SessionEnd::DuplicateSeqnum(7)));
    }
}

#[test]
fn unknown_commands_directions_and_endpoints_end_the_session() {
    type Change = fn(&mut [u8]);
    let cases: [(Change, Malformed); 6] = [
        (|bytes| bytes[3] = 3, Malformed::Command(3)),
        (|bytes| bytes[3] = 0, Malformed::Command(0)),
        (|bytes| bytes[0] = 1, Malformed::Command(0x0100_0001)),
        (|bytes| bytes[15] = 2, Malformed::Direction(2)),
        (|bytes| bytes[19] = 16, Malformed::Endpoint(16)),
        (|bytes| bytes[16] = 0x80, Malformed::Endpoint(0x8000_0001)),
    ];
    for (change, malformed) in cases {
        let mut pair = Pair::new();
        let mut bytes = pair.note(&Submit::output(1, BULK, 4));
        change(&mut bytes);
        pair.send(&bytes);
        assert_eq!(pair.end(), Some(&SessionEnd::Malformed(malformed)));
        assert!(pair.device.seen.is_empty());
    }
}

#[test]
fn a_control_length_or_direction_that_is_not_the_setup_packets_is_answered() {
    let setup = |request_type: u8, length: u16| {
        let [low, high] = length.to_le_bytes();
        [request_type, 6, 0, 1, 0, 0, low, high]
    };
    let cases = [
        (Direction::In, 18, setup(0x80, 17)),
        (Direction::In, 18, setup(0x80, 19)),
        (Direction::In, 0, setup(0x80, 1)),
        (Direction::In, 65_536, setup(0x80, 0)),
        (Direction::Out, 4, setup(0x00, 5)),
        // The data would go the other way.
        (Direction::Out, 18, setup(0x80, 18)),
        (Direction::In, 18, setup(0x00, 18)),
    ];
    for (direction, length, setup) in cases {
        let mut pair = Pair::new();
        let mut submit = Submit::new(1, 0, direction, length);
        submit.command.setup = setup;
        pair.submit(&submit);
        assert_eq!(pair.device.seen, [0_u32; 0], "{setup:?}");
        assert_eq!(pair.briefs(), [Ret(1, -22, 0)]);
        assert_eq!(pair.end(), None);
    }
    // Without a data stage the direction means nothing.
    for direction in [Direction::In, Direction::Out] {
        for request_type in [0x00, 0x80] {
            let mut pair = Pair::new();
            let mut submit = Submit::new(1, 0, direction, 0);
            submit.command.setup = setup(request_type, 0);
            pair.submit(&submit);
            pair.finish(1, 0, 0);
            assert_eq!(pair.briefs(), [Ret(1, 0, 0)]);
        }
    }
}

#[test]
fn the_setup_packet_stands_before_the_data_of_a_control_urb() {
    let mut pair = Pair::new();
    let mut submit = Submit::output(1, 0, 5);
    submit.command.setup = [0x40, 0x5b, 1, 2, 3, 4, 5, 0];
    pair.submit(&submit);
    pair.finish_with(1, |submission, block| {
        assert_eq!(submission.setup, [0x40, 0x5b, 1, 2, 3, 4, 5, 0]);
        assert_eq!(block[56..64], [0x40, 0x5b, 1, 2, 3, 4, 5, 0]);
        assert_eq!(block[64..69], submit.payload);
        (0, 5)
    });
    assert_eq!(pair.briefs(), [Ret(1, 0, 5)]);
}

#[test]
fn flags_that_mean_nothing_for_a_transfer_do_not_reach_the_device() {
    let mut pair = Pair::new();
    for (seqnum, endpoint, direction) in
        [(1, BULK, Direction::In), (2, BULK, Direction::Out), (3, ISOCHRONOUS, Direction::In)]
    {
        let mut submit = Submit::new(seqnum, endpoint, direction, 0);
        submit.command.transfer_flags = u32::MAX;
        pair.submit(&submit);
    }
    let flags: Vec<_> = pair.device.held.iter().map(|(submission, _)| submission.flags).collect();
    assert_eq!(
        (flags[0].short_not_ok, flags[0].iso_asap, flags[0].zero_packet),
        (true, false, false)
    );
    assert_eq!(
        (flags[1].short_not_ok, flags[1].iso_asap, flags[1].zero_packet),
        (false, false, true)
    );
    assert_eq!(
        (flags[2].short_not_ok, flags[2].iso_asap, flags[2].zero_packet),
        (false, true, false)
    );
}

#[test]
fn an_end_between_two_pdus_is_a_clean_end() {
    let mut pair = Pair::new();
    pair.submit(&Submit::input(1, BULK, 4));
    pair.close();
    assert_eq!(pair.end(), Some(&SessionEnd::PeerClosed));
}
