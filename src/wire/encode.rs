//! Makes the bytes to send out of a URB's block, in place.
//!
//! A block holds header, buffer and packet descriptors as
//! [`transfer`](crate::usb::transfer) says. A reply is one contiguous range of it, in one of four
//! shapes: IN in full (header and buffer as they stand), IN short or isochronous (what was moved is
//! brought together), OUT (the header alone), OUT isochronous (the descriptors come up behind the
//! header, over data that is no longer needed).

use std::ops::Range;

use crate::usb::errno;
use crate::usb::isochronous::{self, Settled};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, HEADER_OFFSET, ISO_PACKET_BYTES, block_bytes,
};
use crate::wire::urb::{CmdSubmit, HEADER_BYTES, RetSubmit};

/// Encodes the reply to a URB of `buffer_length` bytes and `packets` packets (0 if it is not
/// isochronous) and returns the part of `block` to send.
///
/// For isochronous URBs `actual_length`, `error_count` and `number_of_packets` of the header come
/// from the descriptors, in both directions, so that they always agree (kernel.md §1.4). Otherwise
/// a device that claims more bytes than the buffer holds is answered as babble: -EOVERFLOW, no
/// data.
///
/// # Panics
///
/// If `block` is shorter than [`block_bytes`] says.
pub fn encode_reply(
    block: &mut [u8],
    direction: Direction,
    buffer_length: u32,
    packets: u32,
    reply: &RetSubmit,
) -> Range<usize> {
    let mut reply = *reply;
    let length = buffer_length as usize;
    let area = &mut block[BUFFER_OFFSET..block_bytes(buffer_length, packets)];
    let body = if packets > 0 {
        let count = packets as usize;
        let descriptors = isochronous::packets_mut(&mut area[length..]);
        let Settled { actual_length, error_count } =
            isochronous::settle(descriptors, buffer_length);
        reply.actual_length = actual_length;
        reply.error_count = error_count;
        reply.number_of_packets = packets as i32;
        let payload = match direction {
            Direction::In => isochronous::pack(area, length, count),
            Direction::Out => {
                area.copy_within(length.., 0);
                0
            }
        };
        payload + count * ISO_PACKET_BYTES
    } else {
        if reply.actual_length > buffer_length {
            reply.status = -errno::EOVERFLOW;
            reply.actual_length = 0;
        }
        match direction {
            Direction::In => reply.actual_length as usize,
            Direction::Out => 0,
        }
    };
    reply.emit(header_mut(block));
    HEADER_OFFSET..BUFFER_OFFSET + body
}

/// The part or parts of a block that make up a command, in the order they are to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandParts {
    /// The header and all that stands directly behind it.
    pub head: Range<usize>,
    /// The packet descriptors of an isochronous IN command, which stand behind a buffer that is
    /// not sent; else empty.
    pub tail: Range<usize>,
}

/// Encodes a command around the data and the packet descriptors (offset and length filled in) that
/// already stand in `block`. The descriptors stay where they are, to compare the reply with.
///
/// `packets` is 0 if the URB is not isochronous; else it goes into the header, whatever
/// `number_of_packets` says.
///
/// # Panics
///
/// If `block` is shorter than [`block_bytes`] says.
pub fn encode_submit(block: &mut [u8], command: &CmdSubmit, packets: u32) -> CommandParts {
    let mut command = *command;
    let end = block_bytes(command.buffer_length, packets);
    let descriptors = block_bytes(command.buffer_length, 0)..end;
    if packets > 0 {
        command.number_of_packets = packets as i32;
        // Other servers add these up and refuse a command in which anything has moved.
        isochronous::refuse(isochronous::packets_mut(&mut block[descriptors.clone()]), 0);
    }
    command.emit(header_mut(block));
    match command.direction {
        Direction::Out => CommandParts { head: HEADER_OFFSET..end, tail: end..end },
        Direction::In => CommandParts { head: HEADER_OFFSET..BUFFER_OFFSET, tail: descriptors },
    }
}

/// The header's place in a block.
///
/// # Panics
///
/// If `block` has no room for a header.
#[must_use]
pub fn header_mut(block: &mut [u8]) -> &mut [u8; HEADER_BYTES] {
    block[HEADER_OFFSET..].first_chunk_mut().expect("a block has room for its header")
}

#[cfg(test)]
mod tests;
