//! The end of a connection, in order: what we have said arrives, whatever the peer is saying.
//!
//! A socket that is closed with bytes nobody has read resets its connection, and a reset destroys
//! what is still on its way to the peer: the last answers. So our side says that it has finished,
//! and what the peer still sends is read and thrown away until it has finished as well, or has had
//! its time.

use std::time::Duration;

use usbip_fast_native::{Block, Handle, Op, OsError, Piece, Token};

use crate::limits;
use crate::serve::session::Io;

/// How long a peer may go on after our last byte before it is cut off.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What is left of a connection that is over.
#[derive(Debug)]
pub struct Farewell {
    /// Bytes that the peer may still send.
    left_bytes: usize,
    /// When its time is over; absent while we are still sending.
    until: Option<Duration>,
    /// A receive of ours is in flight.
    reading: bool,
    /// The peer has closed, or was given enough.
    over: bool,
}

impl Default for Farewell {
    fn default() -> Self {
        let left_bytes = limits::FAREWELL_BYTES;
        Self { left_bytes, until: None, reading: false, over: false }
    }
}

impl Farewell {
    /// Our last byte is on its way: tells the peer. Only the first call does anything.
    pub fn finish_sending(&mut self, socket: &Handle, io: &mut Io<'_>) {
        if self.until.is_none() {
            io.reactor.shut_down_sending(socket);
            self.until = Some(io.now + FAREWELL_TIMEOUT);
        }
    }

    /// When [`is_over`](Self::is_over) changes though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.until.filter(|_| !self.over)
    }

    /// Whether the socket may be closed. A receive may still be in flight; cancel it then.
    #[must_use]
    pub fn is_over(&self, now: Duration) -> bool {
        self.over || self.until.is_some_and(|until| until <= now)
    }

    /// Whether a receive of [`read`](Self::read) is in flight.
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        self.reading
    }

    /// Receives into `block` what the peer still sends; call while not over and not reading.
    pub fn read(&mut self, socket: &Handle, block: Block, token: Token, io: &mut Io<'_>) {
        assert!(!self.reading, "one receive in flight per connection");
        self.reading = true;
        let range = 0..block.len();
        let pieces = [Some(Piece { block, range }), None];
        io.reactor.submit(Op::Receive { socket: socket.clone(), pieces }, token);
    }

    /// Takes what a receive of [`read`](Self::read) has moved.
    pub fn handle_received(&mut self, moved: Result<usize, OsError>) {
        self.reading = false;
        let count = moved.unwrap_or(0);
        self.left_bytes = self.left_bytes.saturating_sub(count);
        self.over |= count == 0 || self.left_bytes == 0;
    }

    /// Nothing more is read: the connection ends as it stands.
    pub fn give_up(&mut self) {
        self.over = true;
    }
}
