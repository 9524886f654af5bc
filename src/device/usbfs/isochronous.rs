//! Long isochronous URBs over usbfs, which takes 128 packets at a time, laid out without gaps.
//!
//! A client's packets may have gaps between them. OUT data is moved together before the transfer,
//! IN data is moved apart after it, both in the URB's one block.

use usbip_fast_native::linux::usbfs::{IsoPacket, PACKETS_PER_URB};

use crate::usb::errno;
use crate::usb::isochronous::{PacketDescriptor, Settled, packets, packets_mut, refuse, settle};
use crate::usb::transfer::{BUFFER_OFFSET, Submission, block_bytes};

/// usbfs URBs that a transfer of so many packets takes.
pub(super) const fn pieces(packets: u32) -> usize {
    (packets as usize).div_ceil(PACKETS_PER_URB)
}

/// Reads the packets' lengths and says whether there are gaps between them.
pub(super) fn read_lengths(
    block: &mut [u8],
    submission: &Submission,
    lengths: &mut Vec<u32>,
) -> bool {
    lengths.clear();
    let mut has_gaps = false;
    let mut end = 0;
    for packet in packets(split(block, submission).1) {
        has_gaps |= packet.offset.get() != end;
        end = packet.offset.get() + packet.length.get();
        lengths.push(packet.length.get());
    }
    has_gaps
}

/// Moves OUT data together, so that each packet follows its predecessor.
pub(super) fn compact(block: &mut [u8], submission: &Submission) {
    let (buffer, descriptors) = split(block, submission);
    let mut to = 0;
    for (offset, length, _) in packets(descriptors).iter().map(sizes) {
        buffer.copy_within(offset..offset + length, to);
        to += length;
    }
}

/// Moves IN data apart: each packet, now behind the full lengths of its predecessors, to its
/// offset. Offsets are never below that place, so going from the last to the first loses nothing.
/// Comes after [`conclude`].
pub(super) fn spread(block: &mut [u8], submission: &Submission) {
    let (buffer, descriptors) = split(block, submission);
    let packets = packets(descriptors);
    let mut from: usize = packets.iter().map(|packet| sizes(packet).1).sum();
    for (offset, length, actual) in packets.iter().map(sizes).rev() {
        from -= length;
        buffer.copy_within(from..from + actual, offset);
    }
}

/// Writes the results of a piece's packets into the descriptors from `first` on, as they are.
/// Returns the index behind them.
pub(super) fn record(
    block: &mut [u8],
    submission: &Submission,
    first: usize,
    results: &[IsoPacket],
) -> usize {
    let descriptors = packets_mut(split(block, submission).1);
    for (descriptor, result) in descriptors[first..].iter_mut().zip(results) {
        descriptor.actual_length = result.actual_length.into();
        descriptor.status = result.status.cast_signed().into();
    }
    first + results.len()
}

/// Marks the packets from `first` on as not transferred, and adds all up.
pub(super) fn conclude(block: &mut [u8], submission: &Submission, first: usize) -> Settled {
    let descriptors = packets_mut(split(block, submission).1);
    refuse(&mut descriptors[first..], -errno::EXDEV);
    settle(descriptors, submission.length)
}

/// Transfer buffer and packet descriptors of a block.
fn split<'a>(block: &'a mut [u8], submission: &Submission) -> (&'a mut [u8], &'a mut [u8]) {
    let bytes = block_bytes(submission.length, submission.packets);
    block[BUFFER_OFFSET..bytes].split_at_mut(submission.length as usize)
}

/// Offset, length and actual length of a packet, in bytes.
fn sizes(packet: &PacketDescriptor) -> (usize, usize, usize) {
    let [offset, length, actual] =
        [packet.offset, packet.length, packet.actual_length].map(|size| size.get() as usize);
    (offset, length, actual)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::usb::transfer::{Direction, TransferFlags, TransferType};

    /// A submission and its block's bytes, with packets of these offsets and lengths.
    pub fn transfer(
        direction: Direction,
        length: u32,
        packets: &[(u32, u32)],
    ) -> (Submission, Vec<u8>) {
        let submission = Submission {
            slot: 0,
            kind: TransferType::Isochronous,
            direction,
            endpoint: 1,
            setup: [0; 8],
            length,
            packets: u32::try_from(packets.len()).expect("few packets"),
            flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
            start_frame: 0,
        };
        let mut block = vec![0; block_bytes(length, submission.packets)];
        let descriptors = packets_mut(split(&mut block, &submission).1);
        for (descriptor, &(offset, length)) in descriptors.iter_mut().zip(packets) {
            *descriptor = PacketDescriptor::new(offset, length);
        }
        (submission, block)
    }

    #[test]
    fn pieces_round_up() {
        let counts: Vec<_> = [1, 128, 129, 300, 1024].map(pieces).into();
        assert_eq!(counts, [1, 1, 2, 3, 8]);
    }

    #[test]
    fn gaps_are_seen_before_between_but_not_behind() {
        let mut lengths = Vec::new();
        let cases: [(&[(u32, u32)], bool); 4] = [
            (&[(0, 10), (10, 0), (10, 5)], false),
            (&[(0, 10), (12, 5)], true),
            (&[(1, 10)], true),
            (&[(0, 10)], false),
        ];
        for (packets, gaps) in cases {
            let (submission, mut block) = transfer(Direction::Out, 20, packets);
            assert_eq!(read_lengths(&mut block, &submission, &mut lengths), gaps, "{packets:?}");
            assert!(lengths.iter().eq(packets.iter().map(|(_, length)| length)));
        }
    }

    #[test]
    fn out_data_is_moved_together() {
        let (submission, mut block) = transfer(Direction::Out, 12, &[(1, 3), (6, 2), (9, 3)]);
        block[BUFFER_OFFSET..BUFFER_OFFSET + 12].copy_from_slice(b".abc..de.fgh");
        compact(&mut block, &submission);
        assert_eq!(&block[BUFFER_OFFSET..BUFFER_OFFSET + 8], b"abcdefgh");
    }

    #[test]
    fn in_data_is_moved_apart_and_short_packets_keep_their_place() {
        let (submission, mut block) = transfer(Direction::In, 12, &[(1, 3), (5, 3), (9, 3)]);
        block[BUFFER_OFFSET..BUFFER_OFFSET + 9].copy_from_slice(b"abcde.fgh");
        let result = |actual_length, status| IsoPacket { length: 3, actual_length, status };
        let results = [result(3, 0), result(2, (-18_i32).cast_unsigned())];
        assert_eq!(record(&mut block, &submission, 0, &results), 2);
        assert_eq!(record(&mut block, &submission, 2, &[result(3, 0)]), 3);
        let settled = conclude(&mut block, &submission, 3);
        assert_eq!((settled.actual_length, settled.error_count), (8, 1));
        spread(&mut block, &submission);
        assert_eq!(&block[BUFFER_OFFSET + 1..BUFFER_OFFSET + 4], b"abc");
        assert_eq!(&block[BUFFER_OFFSET + 5..BUFFER_OFFSET + 7], b"de");
        assert_eq!(&block[BUFFER_OFFSET + 9..BUFFER_OFFSET + 12], b"fgh");
    }

    #[test]
    fn packets_that_never_were_are_failed() {
        let (submission, mut block) = transfer(Direction::In, 9, &[(0, 3), (3, 3), (6, 3)]);
        let results = [IsoPacket { length: 3, actual_length: 3, status: 0 }];
        let behind = record(&mut block, &submission, 0, &results);
        let settled = conclude(&mut block, &submission, behind);
        assert_eq!((settled.actual_length, settled.error_count), (3, 2));
        let statuses: Vec<i32> = packets(split(&mut block, &submission).1)
            .iter()
            .map(|packet| packet.status.get())
            .collect();
        assert_eq!(statuses, [0, -18, -18]);
    }
}
