use proptest::prelude::*;

use super::*;
use crate::limits;

fn packet(offset: u32, length: u32, actual: u32, status: i32) -> PacketDescriptor {
    PacketDescriptor {
        offset: offset.into(),
        length: length.into(),
        actual_length: actual.into(),
        status: status.into(),
    }
}

#[test]
fn descriptors_are_big_endian_and_need_no_alignment() {
    let bytes = [0xaa, 0, 0, 0, 8, 0, 0, 1, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xee];
    assert_eq!(packets(&bytes[1..]), [packet(8, 256, 3, -18)]);
}

#[test]
fn b21_a_layout_is_accepted_up_to_the_last_byte() {
    let layout = |list: &[(u32, u32)], buffer| {
        let list: Vec<_> = list.iter().map(|&(o, l)| PacketDescriptor::new(o, l)).collect();
        validate_layout(&list, buffer)
    };
    assert_eq!(layout(&[], 0), Ok(()));
    assert_eq!(layout(&[(0, 4), (8, 2), (16, 6)], 22), Ok(()));
    assert_eq!(layout(&[(0, 0), (0, 0), (0, 4)], 4), Ok(()));
    let beyond = |packet| Err(IsoLayoutError::BeyondBuffer { packet });
    assert_eq!(layout(&[(0, 4), (8, 2), (16, 6)], 21), beyond(2));
    assert_eq!(layout(&[(0, 4), (4, 5)], 8), beyond(1));
    assert_eq!(layout(&[(0, u32::MAX), (u32::MAX, 1)], 16), beyond(0));
    assert_eq!(layout(&[(0, 4), (u32::MAX, u32::MAX)], u32::MAX), beyond(1));
    assert_eq!(layout(&[(1, 4)], 8), Err(IsoLayoutError::FirstOffset { offset: 1 }));
    assert_eq!(layout(&[(0, 4), (3, 4)], 8), Err(IsoLayoutError::Overlap { packet: 1 }));
    assert_eq!(layout(&[(0, 4), (6, 2), (4, 2)], 8), Err(IsoLayoutError::Overlap { packet: 2 }));
}

#[test]
fn a30_three_packets_with_gaps_are_scattered_to_their_offsets() {
    let list = [packet(0, 4, 4, 0), packet(8, 2, 2, 0), packet(16, 6, 6, 0)];
    let mut buffer = [0xee; 32];
    for (i, byte) in buffer[..12].iter_mut().enumerate() {
        *byte = i as u8;
    }
    scatter(&mut buffer, &list);
    assert_eq!(buffer[..4], [0, 1, 2, 3]);
    assert_eq!(buffer[8..10], [4, 5]);
    assert_eq!(buffer[16..22], [6, 7, 8, 9, 10, 11]);
    assert_eq!(buffer[22..], [0xee; 10]);
}

#[test]
fn a30_pack_brings_data_and_descriptors_together() {
    let list = [packet(0, 4, 3, 0), packet(4, 4, 0, -71), packet(8, 4, 2, 0)];
    let mut block = vec![1, 2, 3, 0, 0, 0, 0, 0, 7, 8, 0, 0];
    block.extend_from_slice(list.as_bytes());
    assert_eq!(pack(&mut block, 12, 3), 5);
    assert_eq!(block[..5], [1, 2, 3, 7, 8]);
    assert_eq!(packets(&block[5..5 + 48]), list);
}

#[test]
fn a3_each_violation_of_a_reply_is_told_apart() {
    let request = [PacketDescriptor::new(0, 4), PacketDescriptor::new(8, 4)];
    let check = |reply: &[PacketDescriptor], actual| validate_reply(&request, reply, actual);
    assert_eq!(check(&[packet(0, 4, 4, 0), packet(8, 4, 1, -71)], 5), Ok(5));
    assert_eq!(
        check(&[packet(0, 4, 0, 0)], 0),
        Err(IsoReplyError::PacketCount { asked: 2, got: 1 })
    );
    let changed = Err(IsoReplyError::LayoutChanged { packet: 1 });
    assert_eq!(check(&[packet(0, 4, 0, 0), packet(4, 4, 0, 0)], 0), changed);
    assert_eq!(check(&[packet(0, 4, 0, 0), packet(8, 5, 0, 0)], 0), changed);
    assert_eq!(
        check(&[packet(0, 4, 5, 0), packet(8, 4, 0, 0)], 5),
        Err(IsoReplyError::ActualBeyondLength { packet: 0 })
    );
    assert_eq!(
        check(&[packet(0, 4, u32::MAX, 0), packet(8, 4, 1, 0)], 0),
        Err(IsoReplyError::ActualBeyondLength { packet: 0 })
    );
    assert_eq!(
        check(&[packet(0, 4, 0, 1), packet(8, 4, 0, 0)], 0),
        Err(IsoReplyError::PositiveStatus { packet: 0 })
    );
    let good = [packet(0, 4, 4, 0), packet(8, 4, 4, 0)];
    for header in [-1, 0, 7, 9] {
        assert_eq!(check(&good, header), Err(IsoReplyError::HeaderSum { header, sum: 8 }));
    }
}

#[test]
fn b18_packet_statuses_pass_through_and_are_counted() {
    let mut list = [packet(0, 4, 4, 0), packet(4, 4, 0, -18), packet(8, 4, 2, -71)];
    let before = list;
    assert_eq!(settle(&mut list, 12), Settled { actual_length: 6, error_count: 2 });
    assert_eq!(list, before);
}

#[test]
fn a4_a_device_that_claims_too_much_gets_a_failed_packet_not_a_shortened_one() {
    let overflow = -errno::EOVERFLOW;
    let mut list = [packet(0, 4, 5, 0), packet(4, 4, 4, 0), packet(6, 4, 4, 0)];
    assert_eq!(settle(&mut list, 12), Settled { actual_length: 4, error_count: 2 });
    assert_eq!(list, [packet(0, 4, 0, overflow), packet(4, 4, 4, 0), packet(6, 4, 0, overflow)]);
}

#[test]
fn a_refused_urb_echoes_offsets_and_lengths() {
    let mut list = [packet(3, 4, 9, 0), packet(1, u32::MAX, 9, -18)];
    refuse(&mut list, -22);
    assert_eq!(list, [packet(3, 4, 0, -22), packet(1, u32::MAX, 0, -22)]);
}

/// A valid layout with gaps, results within it, and the size of its buffer.
fn layouts() -> impl Strategy<Value = (Vec<PacketDescriptor>, u32)> {
    let one = (0u32..8, 0u32..24, 0u32..=24, -2i32..=0);
    (prop::collection::vec(one, 0..24), 0u32..16).prop_map(|(shape, tail)| {
        let mut end = 0;
        let mut list = Vec::new();
        for (i, (gap, length, actual, status)) in shape.into_iter().enumerate() {
            let offset = if i == 0 { 0 } else { end + gap };
            end = offset + length;
            list.push(packet(offset, length, actual.min(length), status));
        }
        (list, end + tail)
    })
}

fn arbitrary_packets() -> impl Strategy<Value = Vec<PacketDescriptor>> {
    let number = || prop_oneof![0u32..40, any::<u32>()];
    let one = (number(), number(), number(), any::<i32>());
    prop::collection::vec(one.prop_map(|(o, l, a, s)| packet(o, l, a, s)), 0..12)
}

proptest! {
    #[test]
    fn a4_pack_then_scatter_gives_every_packet_its_bytes((list, length) in layouts()) {
        prop_assert_eq!(validate_layout(&list, length), Ok(()));
        let mut settled = list.clone();
        let sum = settle(&mut settled, length).actual_length as usize;
        prop_assert_eq!(&settled, &list);

        let size = length as usize;
        let original: Vec<u8> = (0..size).map(|i| (i * 7 + 1) as u8).collect();
        let mut block = original.clone();
        block.extend_from_slice(list.as_bytes());
        prop_assert_eq!(pack(&mut block, size, list.len()), sum);
        let behind = &block[sum..sum + list.len() * ISO_PACKET_BYTES];
        prop_assert_eq!(packets(behind), &list[..]);
        let request: Vec<_> =
            list.iter().map(|p| PacketDescriptor::new(p.offset.get(), p.length.get())).collect();
        prop_assert_eq!(validate_reply(&request, packets(behind), sum as i32), Ok(sum as u32));

        let mut received = vec![0; size];
        received[..sum].copy_from_slice(&block[..sum]);
        scatter(&mut received, &list);
        for p in &list {
            let start = p.offset.get() as usize;
            let range = start..start + p.actual_length.get() as usize;
            prop_assert_eq!(&received[range.clone()], &original[range]);
        }
    }

    #[test]
    fn b21_whatever_passes_stays_in_its_buffer(list in arbitrary_packets(), length in 0u32..64) {
        if validate_layout(&list, length).is_ok() {
            let sum: u64 = list.iter().map(|p| u64::from(p.length.get())).sum();
            prop_assert!(sum <= u64::from(length));
            for p in &list {
                prop_assert!(p.offset.get() + p.length.get() <= length);
            }
        }
    }

    #[test]
    fn a4_whatever_was_settled_can_be_packed(mut list in arbitrary_packets(), length in 0u32..64) {
        let Settled { actual_length, error_count } = settle(&mut list, length);
        prop_assert!(actual_length <= length);
        prop_assert_eq!(error_count as usize, list.iter().filter(|p| p.status.get() != 0).count());
        let mut block = vec![0; length as usize];
        block.extend_from_slice(list.as_bytes());
        prop_assert_eq!(pack(&mut block, length as usize, list.len()), actual_length as usize);
    }

    #[test]
    fn a3_a_valid_reply_to_a_valid_request_is_scattered_inside(
        request in arbitrary_packets(),
        results in prop::collection::vec((0u32..8, any::<i32>()), 12),
        length in 0u32..limits::TRANSFER_BYTES,
        header in -1i32..64,
    ) {
        let reply: Vec<_> = request.iter().zip(&results)
            .map(|(p, &(a, s))| packet(p.offset.get(), p.length.get(), a, s)).collect();
        let valid = validate_layout(&request, length.min(64)).is_ok();
        if let (true, Ok(moved)) = (valid, validate_reply(&request, &reply, header)) {
            prop_assert_eq!(moved as i32, header);
            scatter(&mut [0; 64], &reply);
        }
    }
}
