//! The 48-byte headers of the URB phase, parsed once into plain structs (kernel.md §1.2).

use zerocopy::big_endian::{I32, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute, transmute_ref};

use crate::limits;
use crate::usb::errno;
use crate::usb::transfer::{Direction, TransferFlags, TransferType};

/// Size of every header.
pub const HEADER_BYTES: usize = 48;

/// Command code of CMD_SUBMIT.
pub const CMD_SUBMIT: u32 = 1;
/// Command code of CMD_UNLINK.
pub const CMD_UNLINK: u32 = 2;
/// Command code of RET_SUBMIT.
pub const RET_SUBMIT: u32 = 3;
/// Command code of RET_UNLINK.
pub const RET_UNLINK: u32 = 4;

/// `number_of_packets` of a URB that is not isochronous, as clients other than Linux send it.
pub const NOT_ISOCHRONOUS: i32 = -1;

/// Bits of `transfer_flags`: a fixed part of the wire (kernel.md §1.3).
pub mod flags {
    /// A short IN transfer is an error.
    pub const SHORT_NOT_OK: u32 = 0x1;
    /// Isochronous: start as soon as possible, `start_frame` means nothing.
    pub const ISO_ASAP: u32 = 0x2;
    /// OUT: end with a zero-length packet if the length is a multiple of the packet size.
    pub const ZERO_PACKET: u32 = 0x40;
    /// No interrupt wanted for this URB.
    pub const NO_INTERRUPT: u32 = 0x80;
    /// The transfer goes to the host.
    pub const DIR_IN: u32 = 0x200;
}

/// Why a header is refused; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither of the two commands this side reads.
    #[error("peer sent unknown command {0:#x}")]
    Command(u32),
    /// Direction other than 0 and 1.
    #[error("peer sent direction {0:#x}, neither OUT nor IN")]
    Direction(u32),
    /// Endpoint number above 15.
    #[error("peer sent endpoint number {0:#x}, above 15")]
    Endpoint(u32),
    /// Transfer buffer length negative or over [`limits::TRANSFER_BYTES`].
    #[error("peer sent transfer length {0}, outside 0 to 16 MiB")]
    Length(i32),
    /// Packet count of an isochronous URB below -1 or over [`limits::ISO_PACKETS`].
    #[error("peer sent {0} isochronous packets, outside 0 to 1024")]
    PacketCount(i32),
}

/// What a server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Do a transfer.
    Submit(CmdSubmit),
    /// End a transfer early.
    Unlink(CmdUnlink),
}

/// CMD_SUBMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdSubmit {
    /// The client's name for the URB.
    pub seqnum: u32,
    /// `busnum << 16 | devnum`.
    pub device_id: u32,
    /// Direction of the data.
    pub direction: Direction,
    /// Endpoint number, 0 to 15.
    pub endpoint: u8,
    /// As sent; [`mask_flags`] gives what may reach a device.
    pub transfer_flags: u32,
    /// Bytes of the transfer buffer, at most [`limits::TRANSFER_BYTES`].
    pub buffer_length: u32,
    /// First frame wanted; a pattern of 32 bits that has no sign (A16).
    pub start_frame: u32,
    /// As sent. Means something on isochronous endpoints only;
    /// [`request_body`](super::deframe::request_body) judges it there.
    pub number_of_packets: i32,
    /// Polling interval in frames or microframes; often garbage.
    pub interval: u32,
    /// Setup packet as on the bus (little-endian); zeros if not control.
    pub setup: [u8; 8],
}

/// CMD_UNLINK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdUnlink {
    /// Its own sequence number.
    pub seqnum: u32,
    /// The same as in the CMD_SUBMIT it is about: Linux ignores it otherwise (A18).
    pub device_id: u32,
    /// Sequence number of that CMD_SUBMIT.
    pub unlink_seqnum: u32,
}

/// What a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A transfer is over.
    Submit(RawRetSubmit),
    /// A CMD_UNLINK was handled.
    Unlink(RetUnlink),
}

/// RET_SUBMIT as a server writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetSubmit {
    /// Of the CMD_SUBMIT.
    pub seqnum: u32,
    /// 0 or a negated Linux error number.
    pub status: i32,
    /// Bytes moved; isochronous: the sum over the packets, in both directions.
    pub actual_length: u32,
    /// As in the command.
    pub start_frame: u32,
    /// As in the command.
    pub number_of_packets: i32,
    /// Isochronous packets with a status other than 0.
    pub error_count: u32,
}

/// RET_SUBMIT as a client reads it: not yet compared with its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRetSubmit {
    /// Of the CMD_SUBMIT.
    pub seqnum: u32,
    /// 0 or a negated Linux error number, if the peer is honest.
    pub status: i32,
    /// Whatever the peer says; [`reconcile`](Self::reconcile) gives the length to believe.
    pub actual_length: i32,
    /// First frame.
    pub start_frame: u32,
    /// Number of descriptors that follow, if the URB is isochronous.
    pub number_of_packets: i32,
    /// Isochronous packets with a status other than 0, if the peer is honest.
    pub error_count: u32,
}

/// RET_UNLINK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetUnlink {
    /// Of the CMD_UNLINK.
    pub seqnum: u32,
    /// -104 (ECONNRESET) if the URB was ended, 0 if it was no longer there.
    pub status: i32,
}

/// Reads a header at the server.
///
/// # Errors
///
/// [`Malformed`]: the connection is to end.
pub fn parse_request(header: &[u8; HEADER_BYTES]) -> Result<Request, Malformed> {
    let base: &BaseHeader = transmute_ref!(header);
    match base.command.get() {
        CMD_SUBMIT => {
            let wire: &SubmitHeader = transmute_ref!(header);
            parse_submit(wire).map(Request::Submit)
        }
        CMD_UNLINK => Ok(Request::Unlink(CmdUnlink {
            seqnum: base.seqnum.get(),
            device_id: base.device_id.get(),
            unlink_seqnum: base.body[0].get(),
        })),
        other => Err(Malformed::Command(other)),
    }
}

fn parse_submit(wire: &SubmitHeader) -> Result<CmdSubmit, Malformed> {
    let direction = match wire.direction.get() {
        0 => Direction::Out,
        1 => Direction::In,
        other => return Err(Malformed::Direction(other)),
    };
    let endpoint = match wire.endpoint.get() {
        number @ 0..=15 => number as u8,
        other => return Err(Malformed::Endpoint(other)),
    };
    let buffer_length = u32::try_from(wire.length.get())
        .ok()
        .filter(|&length| length <= limits::TRANSFER_BYTES)
        .ok_or(Malformed::Length(wire.length.get()))?;
    Ok(CmdSubmit {
        seqnum: wire.seqnum.get(),
        device_id: wire.device_id.get(),
        direction,
        endpoint,
        transfer_flags: wire.flags_or_status.get(),
        buffer_length,
        start_frame: wire.start_frame.get(),
        number_of_packets: wire.number_of_packets.get(),
        interval: wire.interval_or_errors.get(),
        setup: wire.setup,
    })
}

/// Reads a header at the client.
///
/// # Errors
///
/// [`Malformed::Command`]: the connection is to end.
pub fn parse_reply(header: &[u8; HEADER_BYTES]) -> Result<Reply, Malformed> {
    let wire: &SubmitHeader = transmute_ref!(header);
    let status = wire.flags_or_status.get() as i32;
    match wire.command.get() {
        RET_SUBMIT => Ok(Reply::Submit(RawRetSubmit {
            seqnum: wire.seqnum.get(),
            status,
            actual_length: wire.length.get(),
            start_frame: wire.start_frame.get(),
            number_of_packets: wire.number_of_packets.get(),
            error_count: wire.interval_or_errors.get(),
        })),
        RET_UNLINK => Ok(Reply::Unlink(RetUnlink { seqnum: wire.seqnum.get(), status })),
        other => Err(Malformed::Command(other)),
    }
}

impl CmdSubmit {
    /// Writes the header.
    pub fn emit(&self, header: &mut [u8; HEADER_BYTES]) {
        let wire = SubmitHeader {
            command: CMD_SUBMIT.into(),
            seqnum: self.seqnum.into(),
            device_id: self.device_id.into(),
            direction: u32::from(self.direction == Direction::In).into(),
            endpoint: u32::from(self.endpoint).into(),
            flags_or_status: self.transfer_flags.into(),
            length: (self.buffer_length as i32).into(),
            start_frame: self.start_frame.into(),
            number_of_packets: self.number_of_packets.into(),
            interval_or_errors: self.interval.into(),
            setup: self.setup,
        };
        *header = transmute!(wire);
    }
}

impl CmdUnlink {
    /// Writes the header.
    pub fn emit(&self, header: &mut [u8; HEADER_BYTES]) {
        let wire = BaseHeader {
            command: CMD_UNLINK.into(),
            seqnum: self.seqnum.into(),
            device_id: self.device_id.into(),
            body: [
                self.unlink_seqnum.into(),
                U32::ZERO,
                U32::ZERO,
                U32::ZERO,
                U32::ZERO,
                U32::ZERO,
                U32::ZERO,
            ],
            ..BaseHeader::default()
        };
        *header = transmute!(wire);
    }
}

impl RetSubmit {
    /// Writes the header.
    pub fn emit(&self, header: &mut [u8; HEADER_BYTES]) {
        let wire = SubmitHeader {
            command: RET_SUBMIT.into(),
            seqnum: self.seqnum.into(),
            flags_or_status: (self.status as u32).into(),
            length: (self.actual_length as i32).into(),
            start_frame: self.start_frame.into(),
            number_of_packets: self.number_of_packets.into(),
            interval_or_errors: self.error_count.into(),
            ..SubmitHeader::default()
        };
        *header = transmute!(wire);
    }
}

impl RetUnlink {
    /// Writes the header.
    pub fn emit(&self, header: &mut [u8; HEADER_BYTES]) {
        let wire = SubmitHeader {
            command: RET_UNLINK.into(),
            seqnum: self.seqnum.into(),
            flags_or_status: (self.status as u32).into(),
            ..SubmitHeader::default()
        };
        *header = transmute!(wire);
    }
}

/// Why a reply cannot be believed; the URB ends with [`errno`](Self::errno), length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// More bytes than the buffer holds.
    #[error("peer moved {actual} bytes of a buffer of {buffer}")]
    LengthBeyondBuffer {
        /// From the reply.
        actual: i32,
        /// Of the request.
        buffer: u32,
    },
    /// Less than no bytes.
    #[error("peer sent actual length {0}")]
    NegativeLength(i32),
    /// A status that is no error number.
    #[error("peer sent positive status {0}")]
    PositiveStatus(i32),
}

impl ReplyError {
    /// The negated Linux error number the URB ends with.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::LengthBeyondBuffer { .. } => -errno::EOVERFLOW,
            Self::NegativeLength(_) | Self::PositiveStatus(_) => -errno::EPROTO,
        }
    }
}

impl RawRetSubmit {
    /// Compares with the request's buffer, in both directions (A7), and returns the bytes moved,
    /// which for IN is also the size of the payload that follows. To be called before the length is
    /// used for anything.
    ///
    /// # Errors
    ///
    /// The URB ends with [`ReplyError::errno`]. Where the payload is of unknown size (IN) the
    /// connection is to end too.
    pub fn reconcile(&self, buffer_length: u32) -> Result<u32, ReplyError> {
        let Ok(actual) = u32::try_from(self.actual_length) else {
            return Err(ReplyError::NegativeLength(self.actual_length));
        };
        if actual > buffer_length {
            let (actual, buffer) = (self.actual_length, buffer_length);
            return Err(ReplyError::LengthBeyondBuffer { actual, buffer });
        }
        if self.status > 0 {
            return Err(ReplyError::PositiveStatus(self.status));
        }
        Ok(actual)
    }
}

/// Keeps of a peer's `transfer_flags` what means something for this kind of transfer; the rest
/// would make usbfs refuse the URB or warn (kernel.md §1.3).
#[must_use]
pub const fn mask_flags(kind: TransferType, direction: Direction, raw: u32) -> TransferFlags {
    let inward = matches!(direction, Direction::In);
    let isochronous = matches!(kind, TransferType::Isochronous);
    let packets = matches!(kind, TransferType::Bulk | TransferType::Interrupt);
    TransferFlags {
        short_not_ok: raw & flags::SHORT_NOT_OK != 0 && inward && !isochronous,
        iso_asap: raw & flags::ISO_ASAP != 0 && isochronous,
        zero_packet: raw & flags::ZERO_PACKET != 0 && packets && !inward,
        no_interrupt: raw & flags::NO_INTERRUPT != 0,
    }
}

/// The `transfer_flags` a client sends.
#[must_use]
pub const fn raw_flags(wanted: TransferFlags, direction: Direction) -> u32 {
    const fn bit(set: bool, flag: u32) -> u32 {
        if set { flag } else { 0 }
    }
    bit(wanted.short_not_ok, flags::SHORT_NOT_OK)
        | bit(wanted.iso_asap, flags::ISO_ASAP)
        | bit(wanted.zero_packet, flags::ZERO_PACKET)
        | bit(wanted.no_interrupt, flags::NO_INTERRUPT)
        | bit(matches!(direction, Direction::In), flags::DIR_IN)
}

/// Any header: the base and seven words whose meaning depends on the command.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BaseHeader {
    command: U32,
    seqnum: U32,
    device_id: U32,
    direction: U32,
    endpoint: U32,
    body: [U32; 7],
}

/// CMD_SUBMIT and RET_SUBMIT, whose words are of the same size.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SubmitHeader {
    command: U32,
    seqnum: U32,
    device_id: U32,
    direction: U32,
    endpoint: U32,
    flags_or_status: U32,
    length: I32,
    start_frame: U32,
    number_of_packets: I32,
    interval_or_errors: U32,
    setup: [u8; 8],
}

#[cfg(test)]
mod tests;
