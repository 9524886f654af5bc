//! The bytes of USB/IP 1.1.1 (usbip-wire.md §2, kernel.md §1).
//!
//! [`op`] is the phase before a device is imported, [`urb`] the 48-byte headers after it,
//! [`deframe`] cuts the stream into headers and bodies, [`encode`] makes the bytes to send out of a
//! URB's block in place. Nothing panics on what a peer sends, and but for [`op`] nothing allocates.

pub mod deframe;
pub mod encode;
pub mod op;
pub mod urb;
