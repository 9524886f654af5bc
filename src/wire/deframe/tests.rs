use proptest::prelude::*;

use super::*;

fn command(direction: Direction, number_of_packets: i32) -> CmdSubmit {
    CmdSubmit {
        seqnum: 1,
        device_id: 1,
        direction,
        endpoint: 1,
        transfer_flags: 0,
        buffer_length: 100,
        start_frame: 0,
        number_of_packets,
        interval: 0,
        setup: [0; 8],
    }
}

#[test]
fn a2_packet_counts_from_minus_1_to_1024_are_accepted_where_they_mean_something() {
    let iso = Some(TransferType::Isochronous);
    let packets = |count, kind| request_body(&command(Direction::In, count), kind);
    for (count, expected) in [(-1, 0), (0, 0), (1, 1), (1024, 1024)] {
        assert_eq!(packets(count, iso), Ok(Body { payload_bytes: 0, packets: expected }));
    }
    for count in [-2, 1025, i32::MIN, i32::MAX] {
        assert_eq!(packets(count, iso), Err(Malformed::PacketCount(count)));
        for kind in [None, Some(TransferType::Bulk), Some(TransferType::Control)] {
            assert_eq!(packets(count, kind), Ok(Body::default()));
        }
    }
}

#[test]
fn payload_follows_out_commands_and_in_replies() {
    let iso = Some(TransferType::Isochronous);
    let body = request_body(&command(Direction::Out, 3), iso).unwrap();
    assert_eq!((body, body.bytes()), (Body { payload_bytes: 100, packets: 3 }, 148));
    let body = request_body(&command(Direction::Out, 3), None).unwrap();
    assert_eq!(body, Body { payload_bytes: 100, packets: 0 });

    let reply = |number_of_packets| RawRetSubmit {
        seqnum: 1,
        status: 0,
        actual_length: 7,
        start_frame: 0,
        number_of_packets,
        error_count: 0,
    };
    let body = |count, direction, asked| reply_body(&reply(count), direction, 7, asked);
    assert_eq!(body(-1, Direction::In, 0), Ok(Body { payload_bytes: 7, packets: 0 }));
    assert_eq!(body(9, Direction::Out, 0), Ok(Body::default()));
    assert_eq!(body(2, Direction::In, 2), Ok(Body { payload_bytes: 7, packets: 2 }));
    assert_eq!(body(1, Direction::Out, 2), Ok(Body { payload_bytes: 0, packets: 1 }));
    assert_eq!(body(3, Direction::In, 2), Err(Malformed::PacketCount(3)));
    assert_eq!(body(-2, Direction::In, 2), Err(Malformed::PacketCount(-2)));
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let header: [u8; HEADER_BYTES] = std::array::from_fn(|i| i as u8);
    let mut deframer = Deframer::new();
    for (i, byte) in header.iter().enumerate() {
        assert_eq!(deframer.partial_bytes(), i);
        let found = deframer.next(&mut &[*byte][..]);
        assert_eq!(found, (i == 47).then_some(header));
    }
    assert_eq!(deframer.partial_bytes(), 0);
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same_headers(
        headers in prop::collection::vec(prop::array::uniform32(any::<u8>()), 0..6),
        sizes in prop::collection::vec(0usize..120, 1..40),
    ) {
        let headers: Vec<[u8; HEADER_BYTES]> = headers.iter()
            .map(|h| std::array::from_fn(|i| h[i % 32] ^ i as u8)).collect();
        let stream = headers.concat();
        let mut deframer = Deframer::new();
        let mut found = Vec::new();
        let mut rest = &stream[..];
        for size in sizes.iter().cycle().map(|size| size + 1) {
            if rest.is_empty() {
                break;
            }
            let (mut piece, behind) = rest.split_at(size.min(rest.len()));
            rest = behind;
            while let Some(header) = deframer.next(&mut piece) {
                found.push(header);
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert_eq!(found, headers);
        prop_assert_eq!(deframer.partial_bytes(), 0);
    }
}
