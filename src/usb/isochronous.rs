//! Isochronous packets: their descriptors, and moving their data between the two layouts.
//!
//! In memory the data of packet *i* stands at its descriptor's offset, with gaps. On the wire an IN
//! reply carries only the bytes that really came, without gaps (kernel.md §1.6). [`pack`] goes from
//! memory to wire, [`scatter`] back. Neither clamps anything: what they are given was validated
//! before, once, by [`settle`] or [`validate_reply`].

use zerocopy::big_endian::{I32, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::usb::errno;
use crate::usb::transfer::ISO_PACKET_BYTES;

/// One isochronous packet as it stands on the wire and behind the buffer of a block: 16 bytes,
/// big-endian, at any alignment.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct PacketDescriptor {
    /// Where the packet's data stands in the transfer buffer, in bytes.
    pub offset: U32,
    /// Bytes asked for.
    pub length: U32,
    /// Bytes moved; 0 in a command.
    pub actual_length: U32,
    /// 0 or a negated Linux error number.
    pub status: I32,
}

impl PacketDescriptor {
    /// A packet as a command asks for it: nothing moved yet, status 0.
    #[must_use]
    pub fn new(offset: u32, length: u32) -> Self {
        Self { offset: offset.into(), length: length.into(), ..Self::default() }
    }
}

/// Views `bytes` as packet descriptors.
///
/// # Panics
///
/// If the size is not a whole number of descriptors: the caller cuts the bytes by their count.
#[must_use]
pub fn packets(bytes: &[u8]) -> &[PacketDescriptor] {
    <[PacketDescriptor]>::ref_from_bytes(bytes).expect("a whole number of 16-byte descriptors")
}

/// Views `bytes` as packet descriptors that can be filled in.
///
/// # Panics
///
/// As [`packets`].
#[must_use]
pub fn packets_mut(bytes: &mut [u8]) -> &mut [PacketDescriptor] {
    <[PacketDescriptor]>::mut_from_bytes(bytes).expect("a whole number of 16-byte descriptors")
}

/// Why the packets of a command do not lie in its buffer as they must; answered -EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsoLayoutError {
    /// Part of a packet is outside the buffer.
    #[error("isochronous packet {packet} lies beyond the transfer buffer")]
    BeyondBuffer {
        /// Index of the packet.
        packet: usize,
    },
    /// The first packet does not stand at offset 0: the kernel client never moves that one.
    #[error("the first isochronous packet is at offset {offset}, not 0")]
    FirstOffset {
        /// Its offset in bytes.
        offset: u32,
    },
    /// A packet starts before the previous one ends.
    #[error("isochronous packet {packet} starts before the previous one ends")]
    Overlap {
        /// Index of the packet.
        packet: usize,
    },
}

/// Checks that the packets of a command lie in its buffer in order (B19, B21): the first at
/// offset 0, ascending, none overlapping, all inside `buffer_length` bytes. The sum of their
/// lengths is then at most `buffer_length` too. A session calls it once per isochronous CMD_SUBMIT,
/// before a device sees the URB.
///
/// # Errors
///
/// The first rule broken; the URB is to be answered -EINVAL.
pub fn validate_layout(
    packets: &[PacketDescriptor],
    buffer_length: u32,
) -> Result<(), IsoLayoutError> {
    let mut end = 0u64;
    for (packet, descriptor) in packets.iter().enumerate() {
        let offset = u64::from(descriptor.offset.get());
        if packet == 0 && offset != 0 {
            return Err(IsoLayoutError::FirstOffset { offset: descriptor.offset.get() });
        }
        if offset < end {
            return Err(IsoLayoutError::Overlap { packet });
        }
        end = offset + u64::from(descriptor.length.get());
        if end > u64::from(buffer_length) {
            return Err(IsoLayoutError::BeyondBuffer { packet });
        }
    }
    Ok(())
}

/// What the packets of a finished URB add up to, for the header of its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Sum of the packets' actual lengths, in bytes.
    pub actual_length: u32,
    /// Packets whose status is not 0.
    pub error_count: u32,
}

/// Adds up the results of a finished URB and makes them safe to [`pack`].
///
/// A packet that claims more than its length, or bytes that lie outside the buffer or out of order,
/// is a fault of the device or of its driver: it becomes a failed packet (-EOVERFLOW) without data,
/// never a shortened success.
pub fn settle(packets: &mut [PacketDescriptor], buffer_length: u32) -> Settled {
    let mut settled = Settled::default();
    let mut end = 0u64;
    for descriptor in packets {
        let actual = descriptor.actual_length.get();
        if actual > 0 {
            let offset = u64::from(descriptor.offset.get());
            let stop = offset + u64::from(actual);
            let fits = actual <= descriptor.length.get()
                && offset >= end
                && stop <= u64::from(buffer_length);
            if fits {
                end = stop;
                settled.actual_length += actual;
            } else {
                descriptor.actual_length = 0.into();
                descriptor.status = (-errno::EOVERFLOW).into();
            }
        }
        settled.error_count += u32::from(descriptor.status.get() != 0);
    }
    settled
}

/// Gives every packet `status` and no data, leaving offset and length as asked for: the answer to
/// an isochronous URB that never reached its device.
pub fn refuse(packets: &mut [PacketDescriptor], status: i32) {
    for descriptor in packets {
        descriptor.actual_length = 0.into();
        descriptor.status = status.into();
    }
}

/// Packs an IN reply in place: the bytes of each packet move to the front of the buffer without
/// gaps, the descriptors go directly behind them. `block` is the transfer buffer of
/// `buffer_length` bytes followed by `count` descriptors that went through [`settle`]. Returns the
/// bytes of packed data, which is the sum of the actual lengths.
///
/// # Panics
///
/// If `block` is shorter than that, or its descriptors did not go through [`settle`] and point
/// outside: nothing is clamped.
pub fn pack(block: &mut [u8], buffer_length: usize, count: usize) -> usize {
    let descriptor_bytes = count * ISO_PACKET_BYTES;
    let (buffer, rest) = block.split_at_mut(buffer_length);
    let mut packed = 0;
    for descriptor in packets(&rest[..descriptor_bytes]) {
        let actual = descriptor.actual_length.get() as usize;
        let offset = descriptor.offset.get() as usize;
        // Packets without gaps stay where they are, which is the usual case; the offset of a
        // packet without data was not checked and is not used.
        if actual > 0 && offset != packed {
            buffer.copy_within(offset..offset + actual, packed);
        }
        packed += actual;
    }
    block.copy_within(buffer_length..buffer_length + descriptor_bytes, packed);
    packed
}

/// The inverse of [`pack`] at the client: the packed bytes at the front of `buffer` move to their
/// packets' offsets. What stands in the gaps afterwards has no meaning. `packets` passed
/// [`validate_reply`] against a request that passed [`validate_layout`] with the size of `buffer`.
///
/// # Panics
///
/// If they did not and point outside: nothing is clamped.
pub fn scatter(buffer: &mut [u8], packets: &[PacketDescriptor]) {
    let mut packed: usize = packets.iter().map(|p| p.actual_length.get() as usize).sum();
    // From the last packet to the first: a packet never moves down, so it never lands on bytes of
    // an earlier packet that are still to be moved.
    for descriptor in packets.iter().rev() {
        let actual = descriptor.actual_length.get() as usize;
        let offset = descriptor.offset.get() as usize;
        packed -= actual;
        if actual > 0 && offset != packed {
            buffer.copy_within(packed..packed + actual, offset);
        }
    }
}

/// Why the packets of a reply do not answer the packets of the request (A3); the URB ends with
/// -EPROTO and nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsoReplyError {
    /// A packet has more bytes than were asked for.
    #[error("peer's isochronous packet {packet} is longer than asked for")]
    ActualBeyondLength {
        /// Index of the packet.
        packet: usize,
    },
    /// The header's length is not the sum over the packets.
    #[error("peer's header says {header} bytes, its isochronous packets {sum}")]
    HeaderSum {
        /// From the header.
        header: i32,
        /// Of the packets.
        sum: u64,
    },
    /// Offset or length of a packet is not what the request had.
    #[error("peer changed offset or length of isochronous packet {packet}")]
    LayoutChanged {
        /// Index of the packet.
        packet: usize,
    },
    /// Not as many packets as the request had.
    #[error("peer answered {got} isochronous packets, not {asked}")]
    PacketCount {
        /// In the request.
        asked: usize,
        /// In the reply.
        got: usize,
    },
    /// A packet's status is positive, which no error number is.
    #[error("peer's isochronous packet {packet} has a positive status")]
    PositiveStatus {
        /// Index of the packet.
        packet: usize,
    },
}

/// Checks the packets of a reply against those of the request (A3), and the header's
/// `actual_length` against their sum, in both directions (kernel.md §1.4). A client calls it before
/// [`scatter`]. Returns the bytes moved.
///
/// # Errors
///
/// The first rule broken.
pub fn validate_reply(
    request: &[PacketDescriptor],
    reply: &[PacketDescriptor],
    actual_length: i32,
) -> Result<u32, IsoReplyError> {
    if request.len() != reply.len() {
        return Err(IsoReplyError::PacketCount { asked: request.len(), got: reply.len() });
    }
    let mut sum = 0u64;
    for (packet, (asked, got)) in request.iter().zip(reply).enumerate() {
        if asked.offset != got.offset || asked.length != got.length {
            return Err(IsoReplyError::LayoutChanged { packet });
        }
        if got.actual_length.get() > got.length.get() {
            return Err(IsoReplyError::ActualBeyondLength { packet });
        }
        if got.status.get() > 0 {
            return Err(IsoReplyError::PositiveStatus { packet });
        }
        sum += u64::from(got.actual_length.get());
    }
    match u32::try_from(actual_length) {
        Ok(header) if u64::from(header) == sum => Ok(header),
        _ => Err(IsoReplyError::HeaderSum { header: actual_length, sum }),
    }
}

#[cfg(test)]
mod tests;
