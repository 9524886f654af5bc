use proptest::prelude::*;

use super::*;

fn submit() -> CmdSubmit {
    CmdSubmit {
        seqnum: 1,
        device_id: 0x0003_0009,
        direction: Direction::In,
        endpoint: 1,
        transfer_flags: flags::DIR_IN,
        buffer_length: 512,
        start_frame: 0,
        number_of_packets: 0,
        interval: 0,
        setup: [0; 8],
    }
}

fn emitted(emit: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
    let mut header = [0xee; HEADER_BYTES];
    emit(&mut header);
    header
}

fn with_word(offset: usize, value: u32) -> Result<Request, Malformed> {
    let mut header = emitted(|h| submit().emit(h));
    header[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    parse_request(&header)
}

#[test]
fn every_rule_of_a_request_has_its_error() {
    assert_eq!(with_word(0, 0), Err(Malformed::Command(0)));
    assert_eq!(with_word(0, RET_SUBMIT), Err(Malformed::Command(3)));
    assert_eq!(with_word(12, 2), Err(Malformed::Direction(2)));
    assert_eq!(with_word(16, 16), Err(Malformed::Endpoint(16)));
    assert_eq!(with_word(16, 0x81), Err(Malformed::Endpoint(0x81)));
    assert_eq!(with_word(24, u32::MAX), Err(Malformed::Length(-1)));
    let over = limits::TRANSFER_BYTES + 1;
    assert_eq!(with_word(24, over), Err(Malformed::Length(over as i32)));
    let largest = CmdSubmit { buffer_length: limits::TRANSFER_BYTES, ..submit() };
    assert_eq!(with_word(24, limits::TRANSFER_BYTES), Ok(Request::Submit(largest)));
}

#[test]
fn a16_a_start_frame_is_a_pattern_of_32_bits() {
    let late = CmdSubmit { start_frame: 0x8000_0000, ..submit() };
    assert_eq!(with_word(28, 0x8000_0000), Ok(Request::Submit(late)));
    let scheduled = mask_flags(TransferType::Isochronous, Direction::In, flags::DIR_IN);
    assert!(!scheduled.iso_asap, "frame 0 without the flag is not as soon as possible");
}

#[test]
fn a7_a_length_is_reconciled_in_both_directions() {
    let reply = |status, actual_length| RawRetSubmit {
        seqnum: 1,
        status,
        actual_length,
        start_frame: 0,
        number_of_packets: 0,
        error_count: 0,
    };
    assert_eq!(reply(0, 0).reconcile(0), Ok(0));
    assert_eq!(reply(-32, 3).reconcile(3), Ok(3));
    let negative = reply(0, -1).reconcile(3).unwrap_err();
    assert_eq!((negative, negative.errno()), (ReplyError::NegativeLength(-1), -71));
    let beyond = reply(0, 4).reconcile(3).unwrap_err();
    assert_eq!(beyond, ReplyError::LengthBeyondBuffer { actual: 4, buffer: 3 });
    assert_eq!(beyond.errno(), -75);
    let positive = reply(1, 3).reconcile(3).unwrap_err();
    assert_eq!((positive, positive.errno()), (ReplyError::PositiveStatus(1), -71));
}

#[test]
fn flags_are_kept_only_where_they_mean_something() {
    use TransferType::{Bulk, Control, Interrupt, Isochronous};
    let kept = |kind, direction| raw_flags(mask_flags(kind, direction, u32::MAX), direction);
    for kind in [Control, Bulk, Interrupt] {
        assert_eq!(kept(kind, Direction::In), 0x281);
    }
    assert_eq!(kept(Control, Direction::Out), 0x80);
    assert_eq!(kept(Bulk, Direction::Out), 0xc0);
    assert_eq!(kept(Interrupt, Direction::Out), 0xc0);
    assert_eq!(kept(Isochronous, Direction::In), 0x282);
    assert_eq!(kept(Isochronous, Direction::Out), 0x82);
    assert_eq!(mask_flags(Bulk, Direction::In, 0), TransferFlags::default());
}

prop_compose! {
    fn submits()(
        numbers in any::<[u32; 4]>(),
        inward in any::<bool>(),
        endpoint in 0u8..16,
        buffer_length in 0..=limits::TRANSFER_BYTES,
        number_of_packets in any::<i32>(),
        interval in any::<u32>(),
        setup in any::<[u8; 8]>(),
    ) -> CmdSubmit {
        let [seqnum, device_id, transfer_flags, start_frame] = numbers;
        let direction = if inward { Direction::In } else { Direction::Out };
        CmdSubmit {
            seqnum, device_id, direction, endpoint, transfer_flags, buffer_length, start_frame,
            number_of_packets, interval, setup,
        }
    }
}

fn headers() -> impl Strategy<Value = [u8; HEADER_BYTES]> {
    let word = || prop_oneof![0u32..5, any::<u32>()];
    prop::array::uniform12(word()).prop_map(|words| {
        let mut header = [0; HEADER_BYTES];
        for (bytes, word) in header.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        header
    })
}

proptest! {
    #[test]
    fn commands_round_trip(command in submits(), unlink_seqnum in any::<u32>()) {
        let header = emitted(|h| command.emit(h));
        prop_assert_eq!(parse_request(&header), Ok(Request::Submit(command)));
        let (seqnum, device_id) = (command.seqnum, command.device_id);
        let unlink = CmdUnlink { seqnum, device_id, unlink_seqnum };
        let header = emitted(|h| unlink.emit(h));
        prop_assert_eq!(parse_request(&header), Ok(Request::Unlink(unlink)));
    }

    #[test]
    fn replies_round_trip(
        seqnum in any::<u32>(), status in any::<i32>(), length in 0..=i32::MAX,
        start_frame in any::<u32>(), number_of_packets in any::<i32>(), error_count in any::<u32>(),
    ) {
        let reply = RetSubmit {
            seqnum, status, actual_length: length as u32, start_frame, number_of_packets,
            error_count,
        };
        let raw = RawRetSubmit {
            seqnum, status, actual_length: length, start_frame, number_of_packets, error_count,
        };
        let header = emitted(|h| reply.emit(h));
        prop_assert_eq!(parse_reply(&header), Ok(Reply::Submit(raw)));
        let unlinked = RetUnlink { seqnum, status };
        let header = emitted(|h| unlinked.emit(h));
        prop_assert_eq!(parse_reply(&header), Ok(Reply::Unlink(unlinked)));
    }

    #[test]
    fn whatever_a_request_says_its_numbers_are_within_limits(header in headers()) {
        if let Ok(Request::Submit(command)) = parse_request(&header) {
            prop_assert!(command.buffer_length <= limits::TRANSFER_BYTES);
            prop_assert!(command.endpoint <= 15);
            prop_assert_eq!(emitted(|h| command.emit(h)), header);
        }
        if let Ok(Reply::Submit(reply)) = parse_reply(&header)
            && let Ok(length) = reply.reconcile(512)
        {
            prop_assert!(length <= 512 && reply.status <= 0);
        }
    }
}
