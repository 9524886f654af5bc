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

/// How much to receive into the buffer, beside what goes straight to a URB's block.
///
/// What arrives in the buffer is copied. While payloads are long that is worth avoiding: then only
/// a header or a few are received there, and the payload behind them comes straight to its block.
/// While PDUs are short they should come many at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiveSize {
    /// Receives that are still planned for long payloads.
    long: u8,
}

impl ReceiveSize {
    /// Bytes to receive into the buffer, of [`limits::RECEIVE_BUFFER_BYTES`]. `direct`: the bytes
    /// received in front of them straight to a block, 0 if there is no block. Ask once per receive.
    #[must_use]
    pub fn next(&mut self, direct: usize) -> usize {
        self.long = if direct >= LONG_BYTES { LONG_RECEIVES } else { self.long.saturating_sub(1) };
        if self.long > 0 { BEHIND_LONG_BYTES } else { limits::RECEIVE_BUFFER_BYTES }
    }
}

/// From this many bytes on a payload is long.
const LONG_BYTES: usize = 16 * 1024;

/// A long payload ends in a receive or two, and its successor begins in one.
const LONG_RECEIVES: u8 = 4;

/// Bytes received into the buffer behind a long payload.
const BEHIND_LONG_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_payloads_are_not_received_into_the_buffer() {
        let mut size = ReceiveSize::default();
        assert_eq!(size.next(0), limits::RECEIVE_BUFFER_BYTES);
        assert_eq!(size.next(60_000), BEHIND_LONG_BYTES);
        assert_eq!(size.next(10_000), BEHIND_LONG_BYTES, "its end");
        assert_eq!(size.next(0), BEHIND_LONG_BYTES, "the header of the next");
        assert_eq!(size.next(60_000), BEHIND_LONG_BYTES);
        let short = (0..4).map(|_| size.next(0)).last();
        assert_eq!(short, Some(limits::RECEIVE_BUFFER_BYTES), "short ones from now on");
    }
}
