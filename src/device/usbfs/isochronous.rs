//! Long isochronous URBs over usbfs, which takes 128 packets at a time, laid out without gaps.
//!
//! A client's packets may have gaps between them. OUT data is moved together before the transfer,
//! IN data is moved apart after it, both in the URB's one block.

use usbip_fast_native::linux::usbfs::PACKETS_PER_URB;

use crate::usb::transfer::{BUFFER_OFFSET, ISO_PACKET_BYTES, Submission};

/// usbfs URBs that a transfer of so many packets takes.
pub(super) const fn pieces(packets: u32) -> usize {
    (packets as usize).div_ceil(PACKETS_PER_URB)
}

/// Reads the packets' lengths and says whether there are gaps between them.
pub(super) fn read_lengths(block: &[u8], submission: &Submission, lengths: &mut Vec<u32>) -> bool {
    lengths.clear();
    let mut has_gaps = false;
    let mut expected = 0;
    for (offset, length) in packets(block, submission) {
        has_gaps |= offset != expected;
        expected = offset + length;
        lengths.push(u32::try_from(length).expect("a length of 32 bits"));
    }
    has_gaps
}

/// Moves OUT data together, so that each packet follows its predecessor.
pub(super) fn compact(block: &mut [u8], submission: &Submission) {
    let mut to = BUFFER_OFFSET;
    for index in 0..submission.packets as usize {
        let (offset, length) = packet(block, submission, index);
        let from = BUFFER_OFFSET + offset;
        block.copy_within(from..from + length, to);
        to += length;
    }
}

/// Moves IN data apart: each packet, now behind the full lengths of its predecessors, to its
/// offset. Offsets are never below that place, so going from the last to the first loses nothing.
pub(super) fn spread(block: &mut [u8], submission: &Submission) {
    let mut from = BUFFER_OFFSET;
    from += packets(block, submission).map(|(_, length)| length).sum::<usize>();
    for index in (0..submission.packets as usize).rev() {
        let (offset, length) = packet(block, submission, index);
        from -= length;
        let actual = word(block, descriptor(submission, index) + 8) as usize;
        block.copy_within(from..from + actual, BUFFER_OFFSET + offset);
    }
}

/// Writes the result of packet `index` into its descriptor and returns the bytes moved, which are
/// never above the packet's length.
pub(super) fn write_result(
    block: &mut [u8],
    submission: &Submission,
    index: usize,
    actual_length: u32,
    status: u32,
) -> u32 {
    let at = descriptor(submission, index);
    let actual_length = actual_length.min(word(block, at + 4));
    block[at + 8..at + 12].copy_from_slice(&actual_length.to_be_bytes());
    block[at + 12..at + 16].copy_from_slice(&status.to_be_bytes());
    actual_length
}

fn packets(block: &[u8], submission: &Submission) -> impl Iterator<Item = (usize, usize)> {
    (0..submission.packets as usize).map(|index| packet(block, submission, index))
}

/// Offset and length of a packet in bytes; validated before the submission was made.
fn packet(block: &[u8], submission: &Submission, index: usize) -> (usize, usize) {
    let at = descriptor(submission, index);
    (word(block, at) as usize, word(block, at + 4) as usize)
}

fn descriptor(submission: &Submission, index: usize) -> usize {
    BUFFER_OFFSET + submission.length as usize + index * ISO_PACKET_BYTES
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(block[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::usb::transfer::{Direction, TransferFlags, TransferType, block_bytes};

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
        for (index, (offset, length)) in packets.iter().enumerate() {
            let at = descriptor(&submission, index);
            block[at..at + 4].copy_from_slice(&offset.to_be_bytes());
            block[at + 4..at + 8].copy_from_slice(&length.to_be_bytes());
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
            let (submission, block) = transfer(Direction::Out, 20, packets);
            assert_eq!(read_lengths(&block, &submission, &mut lengths), gaps, "{packets:?}");
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
        let moved: Vec<_> = [3, 2, 9]
            .into_iter()
            .enumerate()
            .map(|(index, actual)| write_result(&mut block, &submission, index, actual, 0))
            .collect();
        assert_eq!(moved, [3, 2, 3], "never above the length");
        spread(&mut block, &submission);
        assert_eq!(&block[BUFFER_OFFSET + 1..BUFFER_OFFSET + 4], b"abc");
        assert_eq!(&block[BUFFER_OFFSET + 5..BUFFER_OFFSET + 7], b"de");
        assert_eq!(&block[BUFFER_OFFSET + 9..BUFFER_OFFSET + 12], b"fgh");
    }
}
