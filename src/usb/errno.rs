//! Linux error numbers, as they travel on the wire on every platform (kernel.md §1.7).
//!
//! The wire's statuses are these numbers negated. They are the values of Linux on x86 and ARM,
//! whatever system this program runs on.

/// Killed synchronously by the driver (or: no such endpoint).
pub const ENOENT: i32 = 2;
/// Input or output error.
pub const EIO: i32 = 5;
/// Out of memory: the URB was over a limit.
pub const ENOMEM: i32 = 12;
/// Held by somebody else.
pub const EBUSY: i32 = 16;
/// Isochronous packet not transferred in full.
pub const EXDEV: i32 = 18;
/// No such device.
pub const ENODEV: i32 = 19;
/// Malformed request.
pub const EINVAL: i32 = 22;
/// The endpoint stalled.
pub const EPIPE: i32 = 32;
/// No answer within the bus's time.
pub const ETIME: i32 = 62;
/// Data overrun: the host could not keep up with the device (IN).
pub const ECOMM: i32 = 70;
/// Data underrun: the host could not deliver in time (OUT).
pub const ENOSR: i32 = 63;
/// Bit stuffing error, no response, or an unknown USB error.
pub const EPROTO: i32 = 71;
/// The device sent more than was asked for (babble).
pub const EOVERFLOW: i32 = 75;
/// CRC mismatch.
pub const EILSEQ: i32 = 84;
/// Message or packet larger than the endpoint allows.
pub const EMSGSIZE: i32 = 90;
/// Unlinked.
pub const ECONNRESET: i32 = 104;
/// The device or its host controller is gone.
pub const ESHUTDOWN: i32 = 108;
/// Timed out.
pub const ETIMEDOUT: i32 = 110;
/// Short transfer where SHORT_NOT_OK was set.
pub const EREMOTEIO: i32 = 121;
