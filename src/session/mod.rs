//! The two ends of a USB/IP connection, without any IO.
//!
//! Bytes, completions and the time go in through `handle_*`; what is to be done comes out through
//! `poll_*`. No file descriptor, no clock, no thread, and no allocation per URB once the tables
//! have reached the depth that the peer uses.
//!
//! Memory is a type parameter `B`: the session reads and writes the bytes of a block, moves it to
//! the device and to the network by value, and never looks at where it came from.

pub mod exporter;
pub mod flow;
pub mod handshake;
pub mod importer;
mod order;
mod seqnums;
pub mod unlink;
pub mod urbs;

use crate::limits;

/// Where a session takes memory for URBs from.
pub trait Memory<B> {
    /// A block of at least `bytes` bytes, or `None` if there is none to be had.
    fn allocate(&mut self, bytes: usize) -> Option<B>;
}

impl<B, F: FnMut(usize) -> Option<B>> Memory<B> for F {
    fn allocate(&mut self, bytes: usize) -> Option<B> {
        self(bytes)
    }
}

/// How many bytes to receive behind a payload of which `rest` bytes are still to come and go
/// straight to their block: behind a short rest as much as there is room for, behind a long one
/// only what a header or a few need, because what comes here of the next payload is copied.
#[must_use]
pub const fn bytes_behind(rest: usize) -> usize {
    if rest < LONG_REST_BYTES { limits::RECEIVE_BUFFER_BYTES } else { BEHIND_LONG_REST_BYTES }
}

/// From this many bytes on a rest is long.
const LONG_REST_BYTES: usize = 16 * 1024;

/// Bytes received behind a long rest.
const BEHIND_LONG_REST_BYTES: usize = 4096;
