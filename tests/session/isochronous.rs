//! Isochronous URBs: what is echoed, packed, refused (A2, A30, B18, B19, B21).

use usbip_fast::session::exporter::SessionEnd;
use usbip_fast::usb::isochronous::packets_mut;
use usbip_fast::usb::transfer::{BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, Submission};
use usbip_fast::wire::urb::Malformed;

use crate::pair::*;

/// Finishes an isochronous URB: packet i moves `actual[i].0` bytes of value i + 1 and has status
/// `actual[i].1`.
fn finish_packets(pair: &mut Pair, seqnum: u32, actual: &[(u32, i32)]) {
    pair.finish_with(seqnum, |submission, block| fill(submission, block, actual));
}

fn fill(submission: &Submission, block: &mut [u8], actual: &[(u32, i32)]) -> (i32, u32) {
    let Submission { length, packets, direction, .. } = *submission;
    assert_eq!(packets as usize, actual.len());
    let area = &mut block[BUFFER_OFFSET..];
    let (buffer, behind) = area.split_at_mut(length as usize);
    let descriptors = packets_mut(&mut behind[..packets as usize * ISO_PACKET_BYTES]);
    for (index, (descriptor, &(moved, status))) in descriptors.iter_mut().zip(actual).enumerate() {
        let offset = descriptor.offset.get() as usize;
        if direction == Direction::In {
            buffer[offset..offset + moved as usize].fill((index as u8).wrapping_add(1));
        }
        descriptor.actual_length = moved.into();
        descriptor.status = status.into();
    }
    (0, actual.iter().map(|&(moved, _)| moved).sum())
}

#[test]
fn a30_in_packets_with_gaps_are_packed_and_their_layout_is_echoed() {
    let mut pair = Pair::new();
    let layout = [(0, 4), (8, 2), (16, 6)];
    pair.submit(&Submit::iso(1, Direction::In, 32, &layout));
    finish_packets(&mut pair, 1, &[(3, 0), (2, 0), (6, 0)]);
    assert_eq!(
        pair.answers(),
        [Answer::Submit {
            seqnum: 1,
            status: 0,
            actual_length: 11,
            number_of_packets: 3,
            error_count: 0,
            payload: vec![1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3],
            packets: vec![(0, 4, 3, 0), (8, 2, 2, 0), (16, 6, 6, 0)],
        }]
    );
}

#[test]
fn b18_a_packets_status_passes_through_a_urb_that_succeeded() {
    let mut pair = Pair::new();
    pair.submit(&Submit::iso(1, Direction::In, 6, &[(0, 2), (2, 2), (4, 2)]));
    finish_packets(&mut pair, 1, &[(2, 0), (0, -71), (1, -75)]);
    assert_eq!(
        pair.answers(),
        [Answer::Submit {
            seqnum: 1,
            status: 0,
            actual_length: 3,
            number_of_packets: 3,
            error_count: 2,
            payload: vec![1, 1, 3],
            packets: vec![(0, 2, 2, 0), (2, 2, 0, -71), (4, 2, 1, -75)],
        }]
    );
}

#[test]
fn an_out_reply_is_header_and_descriptors_and_the_header_is_their_sum() {
    let mut pair = Pair::new();
    let submit = Submit::iso(1, Direction::Out, 32, &[(0, 10), (16, 10)]);
    pair.submit(&submit);
    // The device gets the buffer as it was sent, gaps included.
    pair.finish_with(1, |submission, block| {
        assert_eq!(block[BUFFER_OFFSET..BUFFER_OFFSET + 32], submit.payload);
        fill(submission, block, &[(10, 0), (7, -63)])
    });
    let bytes = pair.transmit();
    assert_eq!(bytes.len(), 48 + 32);
    let answer = parse_answer(&mut bytes.as_slice(), |_| (Direction::Out, 2));
    assert_eq!(
        answer,
        Answer::Submit {
            seqnum: 1,
            status: 0,
            actual_length: 17,
            number_of_packets: 2,
            error_count: 1,
            payload: vec![],
            packets: vec![(0, 10, 10, 0), (16, 10, 7, -63)],
        }
    );
}

#[test]
fn a2_packet_counts_up_to_1024_are_taken_and_echoed() {
    for (count, direction) in
        [(1_u32, Direction::In), (1024, Direction::In), (1024, Direction::Out)]
    {
        let mut pair = Pair::new();
        let layout: Vec<_> = (0..count).map(|packet| (packet * 3, 3)).collect();
        pair.submit(&Submit::iso(1, direction, count * 3, &layout));
        finish_packets(&mut pair, 1, &vec![(3, 0); count as usize]);
        let answers = pair.answers();
        let Answer::Submit { number_of_packets, actual_length, packets, .. } = &answers[0] else {
            panic!("{answers:?}")
        };
        assert_eq!((*number_of_packets, *actual_length), (count as i32, count as i32 * 3));
        assert_eq!(packets.len(), layout.len());
        assert!(packets.iter().zip(layout).all(|(p, asked)| (p.0, p.1) == asked));
    }
}

#[test]
fn a2_no_packets_is_0_or_minus_1_echoed_as_sent() {
    for count in [0, -1] {
        for refused in [false, true] {
            let mut pair = Pair::new();
            pair.giver.refuse_from = refused.then_some(0);
            let mut submit = Submit::iso(1, Direction::In, 0, &[]);
            submit.command.number_of_packets = count;
            pair.submit(&submit);
            if !refused {
                pair.finish(1, 0, 0);
            }
            let answers = pair.answers();
            let Answer::Submit { status, number_of_packets, .. } = answers[0] else {
                panic!("{answers:?}")
            };
            assert_eq!((status, number_of_packets), (if refused { -12 } else { 0 }, count));
        }
    }
}

#[test]
fn a2_more_than_1024_or_less_than_minus_1_ends_the_session() {
    for count in [1025, -2, i32::MAX, i32::MIN] {
        let mut pair = Pair::new();
        let mut submit = Submit::iso(1, Direction::In, 64, &[]);
        submit.command.number_of_packets = count;
        pair.submit(&submit);
        let expected = SessionEnd::Malformed(Malformed::PacketCount(count));
        assert_eq!(pair.end(), Some(&expected));
    }
}

#[test]
fn b21_each_violation_is_einval_and_never_reaches_the_device() {
    let layouts: [&[(u32, u32)]; 8] = [
        // Lengths sum to more than the buffer.
        &[(0, 33), (33, 32)],
        &[(0, 65)],
        // The sum fits, the last one lies outside.
        &[(0, 10), (60, 10)],
        // The first is not at 0.
        &[(4, 10)],
        // Overlap.
        &[(0, 10), (9, 10)],
        // Not ascending.
        &[(0, 10), (20, 10), (10, 10)],
        // Arithmetic that wraps.
        &[(0, 10), (u32::MAX, 2)],
        &[(0, u32::MAX)],
    ];
    for layout in layouts {
        for direction in [Direction::In, Direction::Out] {
            let mut pair = Pair::new();
            pair.submit(&Submit::iso(1, direction, 64, layout));
            assert_eq!(pair.device.seen, [0_u32; 0], "{layout:?}");
            let answers = pair.answers();
            let Answer::Submit { status, actual_length, error_count, packets, .. } = &answers[0]
            else {
                panic!("{answers:?}")
            };
            assert_eq!((*status, *actual_length), (-22, 0));
            assert_eq!(*error_count as usize, layout.len());
            let echoed: Vec<_> = layout.iter().map(|&(at, length)| (at, length, 0, -18)).collect();
            assert_eq!(packets, &echoed, "as asked for, nothing moved");
            // The stream goes on behind it.
            pair.submit(&Submit::iso(2, direction, 64, &[(0, 64)]));
            finish_packets(&mut pair, 2, &[(64, 0)]);
            assert_eq!(pair.briefs(), [Ret(2, 0, 64)]);
        }
    }
}

#[test]
fn b21_the_largest_layouts_that_fit_are_taken() {
    for layout in
        [&[(0, 64)][..], &[(0, 0), (0, 0), (0, 64)], &[(0, 1), (63, 1)], &[(0, 0), (64, 0)]]
    {
        let mut pair = Pair::new();
        pair.submit(&Submit::iso(1, Direction::In, 64, layout));
        assert_eq!(pair.device.seen, [1], "{layout:?}");
        let actual: Vec<_> = layout.iter().map(|&(_, length)| (length, 0)).collect();
        finish_packets(&mut pair, 1, &actual);
        let sum: u32 = layout.iter().map(|&(_, length)| length).sum();
        assert_eq!(pair.briefs(), [Ret(1, 0, sum as i32)]);
    }
}

#[test]
fn a_packet_count_means_nothing_on_other_endpoints_and_is_echoed() {
    for count in [0, -1, -2, 1, 1025, i32::MAX, i32::MIN] {
        let mut pair = Pair::new();
        let mut control = Submit::control_in(3, 4);
        control.command.number_of_packets = count;
        let mut bulk = Submit::output(1, BULK, 4);
        bulk.command.number_of_packets = count;
        let mut interrupt = Submit::input(2, INTERRUPT, 4);
        interrupt.command.number_of_packets = count;
        for submit in [&bulk, &interrupt, &control] {
            pair.submit(submit);
            assert_eq!(pair.device.held[0].0.packets, 0);
            pair.finish(submit.command.seqnum, 0, 4);
            let answers = pair.answers();
            let Answer::Submit { number_of_packets, status: 0, .. } = answers[0] else {
                panic!("{answers:?}")
            };
            assert_eq!(number_of_packets, count);
        }
    }
}

#[test]
fn a_devices_packets_beyond_their_length_become_failed_packets_without_data() {
    let mut pair = Pair::new();
    pair.submit(&Submit::iso(1, Direction::In, 64, &[(0, 8), (8, 8)]));
    pair.finish_with(1, |submission, block| {
        fill(submission, block, &[(9, 0), (8, 0)]);
        (0, 17)
    });
    let answers = pair.answers();
    let Answer::Submit { actual_length, error_count, packets, payload, .. } = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!((*actual_length, *error_count), (8, 1));
    assert_eq!(packets, &[(0, 8, 0, -75), (8, 8, 8, 0)]);
    assert_eq!(payload, &[2; 8]);
}

#[test]
fn a23_an_unlinked_stream_keeps_the_packets_that_were_done() {
    let mut pair = Pair::new();
    pair.submit(&Submit::iso(1, Direction::In, 64, &[(0, 32), (32, 32)]));
    pair.unlink(2, 1);
    pair.finish_with(1, |submission, block| {
        let (_, length) = fill(submission, block, &[(32, 0), (0, -18)]);
        (-104, length)
    });
    assert_eq!(pair.briefs(), [Ret(1, -104, 32), Unlinked(2, 0)]);
}
