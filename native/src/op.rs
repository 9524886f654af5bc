//! What can be asked of a reactor, and what comes back.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use crate::block::Block;
use crate::handle::Handle;

/// An error number of the operating system it happened on (not a USB/IP wire status).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OsError(pub i32);

impl OsError {
    /// The error left in `errno` by the last failed call of this thread.
    #[must_use]
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsError({}: {self})", self.0)
    }
}

impl std::error::Error for OsError {}

impl From<OsError> for std::io::Error {
    fn from(error: OsError) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

/// Names one operation in flight: kind (8 bits), generation (24 bits), index (32 bits).
///
/// The kind says which table the index belongs to; the generation, taken from the table's entry,
/// makes a late completion for an entry that has been reused recognisable. The reactor treats the
/// whole as opaque, but the kind 0xff is its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// Kinds from here up belong to reactor implementations.
    pub const RESERVED_KIND: u8 = 0xff;

    /// Packs the three parts; the generation is cut to its low 24 bits.
    #[must_use]
    pub const fn new(kind: u8, generation: u32, index: u32) -> Self {
        Self(((kind as u64) << 56) | (((generation & 0x00ff_ffff) as u64) << 32) | index as u64)
    }

    /// The number that stands for this token in the kernel's queues.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The token behind a number made by [`Token::to_bits`].
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Which table the index belongs to.
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Low 24 bits of the entry's generation.
    #[must_use]
    pub const fn generation(self) -> u32 {
        ((self.0 >> 32) & 0x00ff_ffff) as u32
    }

    /// The entry.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{}:{}", self.kind(), self.generation(), self.index())
    }
}

/// Which readiness [`Op::Poll`] waits for. Hang-up and error always end the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes or connections can be read (POLLIN).
    Readable,
    /// Bytes can be written, or a usbfs URB can be reaped (POLLOUT | POLLWRNORM).
    Writable,
}

/// A block and the part of it that an operation reads or writes.
#[derive(Debug)]
pub struct Piece {
    /// The memory; the operation owns it until its final completion returns it.
    pub block: Block,
    /// Byte range within the block; never empty in a submitted operation.
    pub range: Range<usize>,
}

/// One operation. It owns its memory until the final completion gives it back.
#[derive(Debug)]
pub enum Op {
    /// Accept one connection of a listening stream socket. The new socket is close-on-exec and
    /// non-blocking.
    Accept {
        /// The listening socket.
        listener: Handle,
    },
    /// Connect a non-blocking stream socket.
    Connect {
        /// A fresh socket.
        socket: Handle,
        /// Where to.
        address: SocketAddr,
    },
    /// Receive what is there, at least one byte, into up to two pieces in order, like one `readv`.
    /// Completes with 0 bytes at the peer's end of stream.
    Receive {
        /// A connected stream socket.
        socket: Handle,
        /// Filled in order: usually the rest of a payload, then the receive buffer.
        pieces: [Option<Piece>; 2],
    },
    /// Send up to two pieces in order, like one `writev`. May complete short; the caller sends the
    /// rest. The caller keeps at most one send in flight per socket. Never raises SIGPIPE.
    Send {
        /// A connected stream socket.
        socket: Handle,
        /// Sent in order.
        pieces: [Option<Piece>; 2],
        /// Nobody has anything to do when it completes: its completion may come together with the
        /// next other one, so that the reactor need not wake for it alone.
        quiet: bool,
    },
    /// Wait once until the descriptor is ready. Level-triggered at submission: if it is ready
    /// already, it completes at once.
    Poll {
        /// Anything pollable: usbfs node, eventfd, pipe, netlink socket.
        handle: Handle,
        /// What to wait for.
        interest: Interest,
    },
}

impl Op {
    /// The descriptor that the operation is about.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        match self {
            Self::Accept { listener } => listener,
            Self::Connect { socket, .. }
            | Self::Receive { socket, .. }
            | Self::Send { socket, .. } => socket,
            Self::Poll { handle, .. } => handle,
        }
    }

    /// Bytes of its memory that it may read or fill.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Receive { pieces, .. } | Self::Send { pieces, .. } => {
                pieces.iter().flatten().map(|piece| piece.range.len()).sum()
            }
            Self::Accept { .. } | Self::Connect { .. } | Self::Poll { .. } => 0,
        }
    }

    /// Takes the operation apart; what is left is its memory.
    #[must_use]
    pub fn into_pieces(self) -> [Option<Piece>; 2] {
        match self {
            Self::Receive { pieces, .. } | Self::Send { pieces, .. } => pieces,
            Self::Accept { .. } | Self::Connect { .. } | Self::Poll { .. } => [None, None],
        }
    }
}

/// What an operation returns beside its memory.
#[derive(Debug)]
pub enum Outcome {
    /// [`Op::Accept`]: the new socket and its peer.
    Accepted(Handle, SocketAddr),
    /// [`Op::Connect`].
    Connected,
    /// [`Op::Receive`] or [`Op::Send`]: how many bytes, over both pieces; 0 only at end of stream.
    Moved(usize),
    /// [`Op::Poll`]: the poll(2) event bits seen.
    Ready(u32),
}

/// The one final answer to an operation.
#[derive(Debug)]
pub struct Completion {
    /// The token given with the operation.
    pub token: Token,
    /// What happened. A cancelled operation that did nothing ends with `ECANCELED`.
    pub result: Result<Outcome, OsError>,
    /// The memory of [`Op::Receive`] and [`Op::Send`], in the order it was given, on error too.
    pub pieces: [Option<Piece>; 2],
}

/// Numbers of this system that may be compared with an [`OsError`] or with [`Outcome::Ready`].
pub mod numbers {
    pub use libc::{
        EAGAIN, EBADF, ECANCELED, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINVAL, EMFILE, ENFILE,
        ENOMEM, ENOTCONN, EPIPE,
    };

    /// poll(2): something can be read.
    pub const POLLIN: u32 = libc::POLLIN as u32;
    /// poll(2): something can be written.
    pub const POLLOUT: u32 = libc::POLLOUT as u32;
    /// poll(2): an error waits.
    pub const POLLERR: u32 = libc::POLLERR as u32;
    /// poll(2): the other end is gone.
    pub const POLLHUP: u32 = libc::POLLHUP as u32;
}

impl Completion {
    /// How many bytes a receive or a send has moved.
    ///
    /// # Errors
    ///
    /// The operation's own.
    ///
    /// # Panics
    ///
    /// If this completes another kind of operation.
    pub fn moved(&self) -> Result<usize, OsError> {
        match &self.result {
            Ok(Outcome::Moved(count)) => Ok(*count),
            Ok(other) => unreachable!("a receive or send does not end with {other:?}"),
            Err(error) => Err(*error),
        }
    }

    /// The pieces of a receive: the one of a URB's block, if it had one, and the buffer behind it.
    ///
    /// # Panics
    ///
    /// If this completes another kind of operation.
    #[must_use]
    pub fn into_received(self) -> (Option<Piece>, Piece) {
        match self.pieces {
            [Some(lent), Some(buffer)] => (Some(lent), buffer),
            [Some(buffer), None] => (None, buffer),
            _ => unreachable!("a receive returns the pieces it was given"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_parts_survive_packing() {
        let token = Token::new(7, 0xff12_3456, 0x89ab_cdef);
        assert_eq!(token.kind(), 7);
        assert_eq!(token.generation(), 0x12_3456);
        assert_eq!(token.index(), 0x89ab_cdef);
        assert_eq!(Token::from_bits(token.to_bits()), token);
    }
}
