use proptest::prelude::*;

use super::*;
use crate::usb::isochronous::PacketDescriptor;
use crate::wire::urb::{Reply, Request, parse_reply, parse_request};
use zerocopy::IntoBytes;

fn reply(actual_length: u32) -> RetSubmit {
    RetSubmit {
        seqnum: 7,
        status: 0,
        actual_length,
        start_frame: 0,
        number_of_packets: -1,
        error_count: 0,
    }
}

/// A block with a recognisable buffer and these packets (offset, length, actual, status).
fn block(length: u32, packets: &[(u32, u32, u32, i32)]) -> Vec<u8> {
    let mut block = vec![0xee; BUFFER_OFFSET];
    block.extend((0..length).map(|i| i as u8));
    for &(offset, length, actual, status) in packets {
        let packet = PacketDescriptor {
            offset: offset.into(),
            length: length.into(),
            actual_length: actual.into(),
            status: status.into(),
        };
        block.extend_from_slice(packet.as_bytes());
    }
    block
}

fn header_of(bytes: &[u8]) -> RetSubmitParts {
    let Ok(Reply::Submit(r)) = parse_reply(bytes.first_chunk().unwrap()) else {
        panic!("not a RET_SUBMIT")
    };
    (r.status, r.actual_length, r.number_of_packets, r.error_count)
}

type RetSubmitParts = (i32, i32, i32, u32);

#[test]
fn in_full_sends_header_and_buffer_as_they_stand() {
    let mut block = block(5, &[]);
    let range = encode_reply(&mut block, Direction::In, 5, 0, &reply(5));
    assert_eq!(range, 16..69);
    assert_eq!(header_of(&block[range]), (0, 5, -1, 0));
    assert_eq!(block[64..], [0, 1, 2, 3, 4]);
}

#[test]
fn in_short_sends_what_came() {
    let mut block = block(5, &[]);
    let range = encode_reply(&mut block, Direction::In, 5, 0, &reply(2));
    assert_eq!(range, 16..66);
    assert_eq!(header_of(&block[range]), (0, 2, -1, 0));
}

#[test]
fn out_sends_the_header_alone() {
    let mut block = block(5, &[]);
    let range = encode_reply(&mut block, Direction::Out, 5, 0, &reply(5));
    assert_eq!(range, 16..64);
    assert_eq!(header_of(&block[range]), (0, 5, -1, 0));
}

#[test]
fn out_isochronous_sends_header_then_descriptors() {
    let mut block = block(5, &[(0, 2, 2, 0), (3, 2, 0, -18)]);
    let descriptors = block[69..].to_vec();
    let range = encode_reply(&mut block, Direction::Out, 5, 2, &reply(99));
    assert_eq!(range, 16..96);
    assert_eq!(header_of(&block[range]), (0, 2, 2, 1));
    assert_eq!(block[64..96], descriptors);
}

#[test]
fn a30_in_isochronous_is_packed_with_its_descriptors_behind() {
    let mut block = block(8, &[(0, 2, 1, 0), (4, 4, 3, 0)]);
    let descriptors = block[72..].to_vec();
    let range = encode_reply(&mut block, Direction::In, 8, 2, &reply(0));
    assert_eq!(range, 16..64 + 4 + 32);
    assert_eq!(header_of(&block[range]), (0, 4, 2, 0));
    assert_eq!(block[64..68], [0, 4, 5, 6]);
    assert_eq!(block[68..100], descriptors);
}

#[test]
fn b21_a_refused_layout_is_echoed_without_data() {
    let mut block = block(4, &[(9, u32::MAX, 0, 0), (1, 7, 0, 0)]);
    isochronous::refuse(isochronous::packets_mut(&mut block[68..]), -22);
    let descriptors = block[68..].to_vec();
    let refused = RetSubmit { status: -22, ..reply(0) };
    let range = encode_reply(&mut block, Direction::In, 4, 2, &refused);
    assert_eq!(range, 16..96);
    assert_eq!(header_of(&block[range]), (-22, 0, 2, 2));
    assert_eq!(block[64..96], descriptors);
}

#[test]
fn a_device_that_claims_more_than_its_buffer_is_answered_as_babble() {
    for direction in [Direction::In, Direction::Out] {
        let mut block = block(5, &[]);
        let range = encode_reply(&mut block, direction, 5, 0, &reply(6));
        assert_eq!(range, 16..64);
        assert_eq!(header_of(&block[range]), (-75, 0, -1, 0));
    }
}

#[test]
fn a_command_in_carries_its_descriptors_and_not_its_buffer() {
    let command = CmdSubmit {
        seqnum: 3,
        device_id: 0x0003_0009,
        direction: Direction::In,
        endpoint: 2,
        transfer_flags: 0x202,
        buffer_length: 6,
        start_frame: 0,
        number_of_packets: -1,
        interval: 1,
        setup: [0; 8],
    };
    let mut block = block(6, &[(0, 2, 9, -18), (2, 4, 9, -18)]);
    let parts = encode_submit(&mut block, &command, 2);
    assert_eq!(parts, CommandParts { head: 16..64, tail: 70..102 });
    let expected = CmdSubmit { number_of_packets: 2, ..command };
    let header = block[16..64].try_into().unwrap();
    assert_eq!(parse_request(header), Ok(Request::Submit(expected)));
    let sent = [PacketDescriptor::new(0, 2), PacketDescriptor::new(2, 4)];
    assert_eq!(isochronous::packets(&block[parts.tail]), sent);

    let out = CmdSubmit { direction: Direction::Out, ..command };
    let parts = encode_submit(&mut block, &out, 2);
    assert_eq!(parts, CommandParts { head: 16..102, tail: 102..102 });
    assert_eq!(block[64..70], [0, 1, 2, 3, 4, 5]);
    let parts = encode_submit(&mut block, &out, 0);
    assert_eq!(parts.head, 16..70);
    assert_eq!(parse_request(block[16..64].try_into().unwrap()), Ok(Request::Submit(out)));
}

proptest! {
    /// The session validates before a device runs; here nothing is validated and still nothing is
    /// sent but whole descriptors and no more data than the buffer has.
    #[test]
    fn a4_any_result_of_a_device_gives_a_reply_a_client_accepts(
        inward in any::<bool>(),
        length in 0u32..64,
        actual in any::<u32>(),
        packets in prop::collection::vec(
            (0u32..80, 0u32..80, prop_oneof![0u32..80, any::<u32>()], -130i32..=0), 0..8),
    ) {
        let direction = if inward { Direction::In } else { Direction::Out };
        let count = packets.len() as u32;
        let mut block = block(length, &packets);
        let request: Vec<_> =
            packets.iter().map(|p| PacketDescriptor::new(p.0, p.1)).collect();
        let range = encode_reply(&mut block, direction, length, count, &reply(actual));
        prop_assert_eq!(range.start, HEADER_OFFSET);
        let (header, body) = block[range].split_first_chunk().unwrap();
        let Ok(Reply::Submit(raw)) = parse_reply(header) else { panic!("not a RET_SUBMIT") };
        let actual = raw.reconcile(length).unwrap();
        let payload = if inward { actual as usize } else { 0 };
        if count > 0 {
            let descriptors = isochronous::packets(&body[payload..]);
            prop_assert_eq!(
                isochronous::validate_reply(&request, descriptors, raw.actual_length),
                Ok(actual)
            );
        } else {
            prop_assert_eq!(body.len(), payload);
        }
    }
}
