//! One USB request block (URB) as it goes to a device and comes back, and the layout of its memory.
//!
//! The bytes of a URB stand in one block, laid out as the USB/IP wire wants them, so that the reply
//! can be sent from where the device put its data:
//!
//! ```text
//! 0        16                64                  64 + length
//! ┌────────┬─────────────────┬───────────────────┬──────────────────────┐
//! │ unused │ USB/IP header   │ transfer buffer   │ isochronous packets  │
//! │        │ 48 bytes        │ length bytes      │ 16 bytes each        │
//! └────────┴─────────────────┴───────────────────┴──────────────────────┘
//!                    ↑ 56: the 8 setup bytes, directly before the buffer
//! ```
//!
//! Offset 56 to the end of the transfer buffer is exactly a usbfs control URB.

/// Where the 48-byte USB/IP header stands in a URB's block, in bytes.
pub const HEADER_OFFSET: usize = 16;

/// Where the 8 setup bytes of a control URB stand.
pub const SETUP_OFFSET: usize = 56;

/// Where the transfer buffer stands.
pub const BUFFER_OFFSET: usize = 64;

/// Size of one isochronous packet descriptor on the wire and in the block.
pub const ISO_PACKET_BYTES: usize = 16;

/// Bytes of the block that holds a URB of `length` buffer bytes and `packets` packets.
#[must_use]
pub const fn block_bytes(length: u32, packets: u32) -> usize {
    BUFFER_OFFSET + length as usize + packets as usize * ISO_PACKET_BYTES
}

/// The four transfer types (USB 2.0 §4.7), numbered as in `bmAttributes` of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferType {
    /// Control, always endpoint 0 here.
    Control,
    /// Isochronous.
    Isochronous,
    /// Bulk.
    Bulk,
    /// Interrupt.
    Interrupt,
}

/// Direction of the data stage, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Host to device.
    Out,
    /// Device to host.
    In,
}

/// What the client asked for beyond the plain transfer; already masked to what fits the type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferFlags {
    /// A short IN transfer (not isochronous) is an error.
    pub short_not_ok: bool,
    /// Isochronous: start as soon as possible.
    pub iso_asap: bool,
    /// Bulk or interrupt OUT: end with a zero-length packet if the length is a multiple.
    pub zero_packet: bool,
    /// The client does not want an interrupt for this one.
    pub no_interrupt: bool,
}

/// One URB on its way to a device. Its block travels beside it.
///
/// OUT data stands in the block at [`BUFFER_OFFSET`]; isochronous packet descriptors, if any, stand
/// behind the buffer, validated: lengths sum to at most `length`, offsets ascend from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The session's name for the URB; unique among those in flight.
    pub slot: u32,
    /// Transfer type of the endpoint.
    pub kind: TransferType,
    /// Direction of the data stage. For control the setup packet decides.
    pub direction: Direction,
    /// Endpoint number, 0 to 15, without the direction bit.
    pub endpoint: u8,
    /// Setup packet of a control URB as on the bus (little-endian), else zero.
    pub setup: [u8; 8],
    /// Bytes of the transfer buffer.
    pub length: u32,
    /// Isochronous packets; 0 for other types.
    pub packets: u32,
    /// Flags, masked.
    pub flags: TransferFlags,
    /// The client's wish for the first (micro)frame; means something only without `iso_asap`.
    pub start_frame: u32,
}

/// How a URB ended. Its block comes back beside it: IN data at [`BUFFER_OFFSET`] (isochronous data
/// at the packets' offsets, with gaps), packet results in the descriptors behind the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// From the submission.
    pub slot: u32,
    /// 0 or a negated Linux error number.
    pub status: i32,
    /// Bytes moved; for isochronous URBs the sum over packets. Never above the buffer's length.
    pub actual_length: u32,
    /// Isochronous packets with a non-zero status.
    pub error_count: u32,
}
