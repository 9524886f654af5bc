//! Cuts the stream of a data connection into headers and bodies.
//!
//! Headers do not say how long their body is: that depends on the endpoint's type (server) or on
//! the request (client). So the [`Deframer`] yields headers, and the session takes the body that
//! [`request_body`] or [`reply_body`] describes from the same bytes before it asks again.

use crate::limits;
use crate::usb::transfer::{Direction, ISO_PACKET_BYTES, TransferType};
use crate::wire::urb::{CmdSubmit, HEADER_BYTES, Malformed, RawRetSubmit};

/// Gathers headers out of pieces of the stream, however they were cut.
#[derive(Clone, Debug)]
pub struct Deframer {
    header: [u8; HEADER_BYTES],
    filled: usize,
}

impl Deframer {
    /// Expects a header next.
    #[must_use]
    pub const fn new() -> Self {
        Self { header: [0; HEADER_BYTES], filled: 0 }
    }

    /// The next header, taken off the front of `input`; `None` if `input` is used up before the
    /// header is complete: call again with the bytes that come next. After `Some` the header's body
    /// stands at the front of `input` (or is still to come) and is the caller's to take.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<[u8; HEADER_BYTES]> {
        if self.filled == 0
            && let Some((header, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(*header);
        }
        let taken = input.len().min(HEADER_BYTES - self.filled);
        let (piece, rest) = input.split_at(taken);
        self.header[self.filled..self.filled + taken].copy_from_slice(piece);
        *input = rest;
        self.filled += taken;
        if self.filled < HEADER_BYTES {
            return None;
        }
        self.filled = 0;
        Some(self.header)
    }

    /// Bytes of the header begun. An end of the stream is clean only where this is 0 and no body
    /// is outstanding.
    #[must_use]
    pub const fn partial_bytes(&self) -> usize {
        self.filled
    }
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

/// What follows a header: the payload, then the isochronous packet descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// Packet descriptors, [`ISO_PACKET_BYTES`] each.
    pub packets: u32,
}

impl Body {
    /// Bytes of all of it.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.payload_bytes as usize + self.packets as usize * ISO_PACKET_BYTES
    }
}

/// What follows a CMD_SUBMIT for an endpoint of type `kind` (`None`: the device has no such
/// endpoint, so no descriptors are expected and the payload is to be thrown away).
///
/// The packet count means something on isochronous endpoints only; -1 and 0 both mean none (A2).
///
/// # Errors
///
/// [`Malformed::PacketCount`]: the connection is to end.
pub fn request_body(command: &CmdSubmit, kind: Option<TransferType>) -> Result<Body, Malformed> {
    let payload_bytes = match command.direction {
        Direction::Out => command.buffer_length,
        Direction::In => 0,
    };
    let packets = match kind {
        Some(TransferType::Isochronous) => packet_count(command.number_of_packets)?,
        _ => 0,
    };
    Ok(Body { payload_bytes, packets })
}

/// What follows a RET_SUBMIT whose request had this direction and this many packets (0 if it was
/// not isochronous), and whose length was [reconciled](RawRetSubmit::reconcile) to `actual_length`.
///
/// # Errors
///
/// [`Malformed::PacketCount`]: more packets than the request had, or less than -1; the connection
/// is to end.
pub fn reply_body(
    reply: &RawRetSubmit,
    direction: Direction,
    actual_length: u32,
    request_packets: u32,
) -> Result<Body, Malformed> {
    let payload_bytes = match direction {
        Direction::Out => 0,
        Direction::In => actual_length,
    };
    let packets = match request_packets {
        0 => 0,
        asked => match packet_count(reply.number_of_packets)? {
            more if more > asked => return Err(Malformed::PacketCount(reply.number_of_packets)),
            count => count,
        },
    };
    Ok(Body { payload_bytes, packets })
}

fn packet_count(number_of_packets: i32) -> Result<u32, Malformed> {
    match number_of_packets {
        -1 => Ok(0),
        count => u32::try_from(count)
            .ok()
            .filter(|&count| count <= limits::ISO_PACKETS)
            .ok_or(Malformed::PacketCount(number_of_packets)),
    }
}

#[cfg(test)]
mod tests;
