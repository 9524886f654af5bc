//! A URB in the hands of a program.

use usbip_fast_native::Block;

use crate::usb::isochronous::{PacketDescriptor, packets, packets_mut};
use crate::usb::setup::Setup;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Submission, TransferFlags, TransferType, block_bytes,
};

/// A transfer that is not in flight: its kind, its memory, and the bytes in it. Made by
/// [`Client`](super::Client), submitted to the same, and usable again when it has come back.
#[derive(Debug)]
pub struct Urb {
    pub(super) submission: Submission,
    pub(super) block: Block,
}

/// Names a URB in flight. The name is free for another one once its URB has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UrbId(pub(super) u32);

impl UrbId {
    /// A small number: below the most URBs that were ever in flight together. For tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A URB that has come back.
#[derive(Debug)]
pub struct Done {
    /// Its name until now.
    pub id: UrbId,
    /// The URB, with IN data in its buffer (isochronous data at the packets' offsets).
    pub urb: Urb,
    /// 0 or a negated Linux error number.
    pub status: i32,
    /// Bytes moved; isochronous: the sum over the packets.
    pub actual_length: u32,
    /// Isochronous packets that failed.
    pub error_count: u32,
}

impl Urb {
    /// The whole buffer.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.block.as_ref()[BUFFER_OFFSET..BUFFER_OFFSET + self.submission.length as usize]
    }

    /// The whole buffer, to fill in what goes out.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let length = self.submission.length as usize;
        &mut self.block.as_mut()[BUFFER_OFFSET..BUFFER_OFFSET + length]
    }

    /// The isochronous packets: after the URB has come back, with their results.
    #[must_use]
    pub fn packets(&self) -> &[PacketDescriptor] {
        let Submission { length, packets: count, .. } = self.submission;
        packets(&self.block.as_ref()[block_bytes(length, 0)..block_bytes(length, count)])
    }

    /// Transfer type.
    #[must_use]
    pub const fn kind(&self) -> TransferType {
        self.submission.kind
    }

    /// Direction of the data.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.submission.direction
    }

    /// What is wanted beyond the plain transfer. Flags that mean nothing for the transfer type
    /// are ignored by the server.
    pub const fn set_flags(&mut self, flags: TransferFlags) {
        self.submission.flags = flags;
    }

    pub(super) const fn setup(&self) -> Setup {
        Setup::from_bytes(self.submission.setup)
    }

    /// Puts packets of these lengths one behind the other.
    pub(super) fn lay_out(&mut self, lengths: &[u32]) {
        let Submission { length, packets: count, .. } = self.submission;
        let place = block_bytes(length, 0)..block_bytes(length, count);
        let mut offset = 0;
        for (packet, &length) in
            packets_mut(&mut self.block.as_mut()[place]).iter_mut().zip(lengths)
        {
            *packet = PacketDescriptor::new(offset, length);
            offset += length;
        }
    }
}
