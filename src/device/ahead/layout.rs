//! How a URB is laid out, and its bytes on their way between the client's block and an own one.

use usbip_fast_native::Block;

use crate::usb::isochronous::{self, PacketDescriptor};
use crate::usb::transfer::{
    BUFFER_OFFSET, Finished, ISO_PACKET_BYTES, Submission, TransferFlags, TransferType, block_bytes,
};

/// The last URB of an endpoint, apart from its data.
#[derive(Debug)]
pub(super) struct Layout {
    submission: Option<Submission>,
    packets: Vec<PacketDescriptor>,
}

impl Layout {
    /// That of no URB.
    pub(super) const fn new() -> Self {
        Self { submission: None, packets: Vec::new() }
    }

    /// Whether a URB asks for the same again.
    pub(super) fn is_of(&self, submission: &Submission, block: &Block) -> bool {
        self.submission.is_some_and(|own| own == comparable(submission))
            && self
                .packets
                .iter()
                .zip(packets(block, submission))
                .all(|(own, other)| own.offset == other.offset && own.length == other.length)
    }

    /// Is that of this URB from now on. Allocates only where it has more packets than any before.
    pub(super) fn learn(&mut self, submission: &Submission, block: &Block) {
        self.submission = Some(comparable(submission));
        self.packets.clear();
        let packets = packets(block, submission).iter();
        let asked = packets.map(|packet| PacketDescriptor {
            offset: packet.offset,
            length: packet.length,
            ..PacketDescriptor::default()
        });
        self.packets.extend(asked);
    }

    /// A URB that is laid out so; its slot means nothing.
    pub(super) fn submission(&self) -> Submission {
        self.submission.expect("a layout was learnt")
    }

    /// Bytes of its block.
    pub(super) fn block_bytes(&self) -> usize {
        let Submission { length, packets, .. } = self.submission();
        block_bytes(length, packets)
    }

    /// Writes the packets into the block of such a URB.
    pub(super) fn write(&self, block: &mut Block) {
        packets_mut(block, &self.submission()).copy_from_slice(&self.packets);
    }

    /// Whether such URBs may be asked for by somebody else than the client: not where they would
    /// end at once.
    pub(super) fn is_repeatable(&self) -> bool {
        self.submission.is_some_and(|urb| match urb.kind {
            TransferType::Isochronous => urb.packets > 0,
            TransferType::Interrupt => urb.length > 0,
            TransferType::Bulk | TransferType::Control => false,
        })
    }
}

/// What of a submission must be the same for two URBs to be identical. Not the first frame: hosts
/// let a URB follow the one before, with ISO_ASAP or (sound) without, and write down there where
/// that was.
fn comparable(submission: &Submission) -> Submission {
    let flags = TransferFlags { no_interrupt: false, ..submission.flags };
    Submission { slot: 0, setup: [0; 8], flags, start_frame: 0, ..*submission }
}

/// Gives the client what an own URB of the same layout has read.
pub(super) fn hand_over(
    own: &Block,
    finished: &Finished,
    submission: &Submission,
    block: &mut Block,
) -> Finished {
    let start = BUFFER_OFFSET;
    if submission.packets == 0 {
        let end = start + finished.actual_length.min(submission.length) as usize;
        block.as_mut()[start..end].copy_from_slice(&own.as_ref()[start..end]);
    } else {
        let bytes = block_bytes(submission.length, submission.packets);
        let (from, to) = (&own.as_ref()[..bytes], &mut block.as_mut()[..bytes]);
        for packet in packets(own, submission) {
            let at = start + packet.offset.get() as usize;
            let range = at..at + packet.actual_length.get() as usize;
            // A device's claim beyond its buffer is refused where the answer is made.
            if packet.actual_length <= packet.length {
                to[range.clone()].copy_from_slice(&from[range]);
            }
        }
        let rows = start + submission.length as usize..bytes;
        to[rows.clone()].copy_from_slice(&from[rows]);
    }
    Finished { slot: submission.slot, ..*finished }
}

/// Takes the client's data and its packets over into an own block.
pub(super) fn take_over(submission: &Submission, block: &Block, own: &mut Block) {
    let range = BUFFER_OFFSET..block_bytes(submission.length, submission.packets);
    own.as_mut()[range.clone()].copy_from_slice(&block.as_ref()[range]);
}

/// The packets of a URB.
pub(super) fn packets<'a>(block: &'a Block, submission: &Submission) -> &'a [PacketDescriptor] {
    let start = BUFFER_OFFSET + submission.length as usize;
    let end = start + submission.packets as usize * ISO_PACKET_BYTES;
    isochronous::packets(&block.as_ref()[start..end])
}

/// The packets of a URB, to be filled in.
pub(super) fn packets_mut<'a>(
    block: &'a mut Block,
    submission: &Submission,
) -> &'a mut [PacketDescriptor] {
    let start = BUFFER_OFFSET + submission.length as usize;
    let end = start + submission.packets as usize * ISO_PACKET_BYTES;
    isochronous::packets_mut(&mut block.as_mut()[start..end])
}
