//! A connection before it has a session: its request arrives, and perhaps a reply leaves.

use std::net::SocketAddr;
use std::time::Duration;

use usbip_fast_native::{Block, Completion, Handle, Op, OsError, Piece, Token};

use crate::serve::farewell::Farewell;
use crate::serve::session::{Io, kind};
use crate::serve::table::Key;
use crate::session::handshake::{Handshake, HandshakeError, REQUEST_BYTES, Request};

/// A peer has this long to take the reply to its request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a peer sends after our reply is thrown away in pieces of this size.
const PARTING_BYTES: usize = 4096;

/// A connection that has not asked for a device yet, or was told that it cannot have it.
pub struct Greeting {
    key: Key,
    /// Who has connected.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub since: Duration,
    socket: Handle,
    step: Step,
    in_flight: Option<u8>,
}

enum Step {
    Asking { handshake: Handshake, buffer: Option<Block> },
    Replying { deadline: Duration },
    Parting(Farewell),
    Ended,
}

/// What a completion has led to.
#[must_use = "a connection that has ended is to be dropped"]
pub enum Progress {
    /// Nothing to be done before this time; then call [`Greeting::handle_timeout`].
    Until(Duration),
    /// The peer has asked for this; answer with [`Greeting::reply`] or take the socket.
    Asked(Request),
    /// The connection can be dropped.
    Ended(Option<GreetingError>),
}

/// Why a connection ended without having been served.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The request.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection.
    #[error("the connection failed: {0}")]
    Network(OsError),
    /// The core has no block left.
    #[error("no memory for another connection")]
    NoMemory,
}

impl Greeting {
    /// A connection accepted at `io.now`; starts to read its request, if there is memory for that.
    pub fn new(key: Key, peer: SocketAddr, socket: Handle, io: &mut Io<'_>) -> (Self, Progress) {
        let handshake = Handshake::new(io.now);
        let buffer = io.arena.take(REQUEST_BYTES).map(Block::from);
        let step = Step::Asking { handshake, buffer };
        let mut greeting = Self { key, peer, since: io.now, socket, step, in_flight: None };
        let progress = greeting.read(io);
        (greeting, progress)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        match &self.step {
            Step::Asking { handshake, .. } => handshake.deadline(),
            Step::Replying { deadline } => *deadline,
            Step::Parting(farewell) => farewell.deadline().unwrap_or(Duration::MAX),
            Step::Ended => Duration::MAX,
        }
    }

    /// Takes a completion of one of this connection's tokens.
    pub fn handle(&mut self, completion: Completion, io: &mut Io<'_>) -> Progress {
        self.in_flight = None;
        if matches!(self.step, Step::Ended) {
            return Progress::Ended(None);
        }
        if let Step::Parting(farewell) = &mut self.step {
            farewell.handle_received(completion.moved());
            let [piece, _] = completion.pieces;
            return self.read_last(piece.map(|piece| piece.block), io);
        }
        let count = match completion.moved() {
            Ok(count) => count,
            Err(error) => return self.end(Some(GreetingError::Network(error))),
        };
        let [Some(mut piece), None] = completion.pieces else {
            unreachable!("a greeting moves one piece at a time")
        };
        match &mut self.step {
            Step::Asking { handshake, buffer } => {
                let bytes = &piece.block.as_ref()[..count];
                let begun = handshake.has_begun();
                let asked = handshake.handle_received(bytes);
                *buffer = Some(piece.block);
                match asked {
                    Ok(Some(request)) => Progress::Asked(request),
                    Ok(None) => self.read(io),
                    // Looking whether somebody listens is no offence.
                    Err(HandshakeError::PeerClosed) if !begun => self.end(None),
                    Err(error) => self.end(Some(error.into())),
                }
            }
            Step::Replying { .. } => {
                piece.range.start += count;
                if piece.range.is_empty() {
                    return self.part(io);
                }
                self.send(piece, io);
                Progress::Until(self.deadline())
            }
            Step::Parting(_) | Step::Ended => unreachable!("returned above"),
        }
    }

    /// Ends the connection if its time is over. The operation in flight still comes back.
    pub fn handle_timeout(&mut self, io: &mut Io<'_>) -> Option<GreetingError> {
        if io.now < self.deadline() {
            return None;
        }
        if let Some(kind) = self.in_flight {
            io.reactor.cancel(self.token(kind));
        }
        match std::mem::replace(&mut self.step, Step::Ended) {
            // It was told what it wanted to know; that it stays is no error.
            Step::Parting(_) | Step::Ended => None,
            Step::Asking { .. } | Step::Replying { .. } => Some(HandshakeError::TimedOut.into()),
        }
    }

    /// Sends `bytes`, then ends.
    pub fn reply(&mut self, bytes: &[u8], io: &mut Io<'_>) -> Progress {
        let Some(block) = io.arena.take(bytes.len()) else {
            return self.end(Some(GreetingError::NoMemory));
        };
        let mut block = Block::from(block);
        block.as_mut()[..bytes.len()].copy_from_slice(bytes);
        self.step = Step::Replying { deadline: io.now + REPLY_TIMEOUT };
        self.send(Piece { block, range: 0..bytes.len() }, io);
        Progress::Until(self.deadline())
    }

    /// Takes the socket over, for a session; nothing is in flight on it.
    #[must_use]
    pub fn into_socket(self) -> Handle {
        assert!(self.in_flight.is_none(), "a request is complete before its socket moves on");
        self.socket
    }

    fn end(&mut self, error: Option<GreetingError>) -> Progress {
        self.step = Step::Ended;
        Progress::Ended(error)
    }

    fn token(&self, kind: u8) -> Token {
        Token::new(kind, self.key.generation, self.key.index)
    }

    fn read(&mut self, io: &mut Io<'_>) -> Progress {
        let Step::Asking { handshake, buffer } = &mut self.step else {
            unreachable!("only a request is read")
        };
        let Some(block) = buffer.take() else { return self.end(Some(GreetingError::NoMemory)) };
        let piece = Piece { block, range: 0..handshake.wanted_bytes() };
        self.in_flight = Some(kind::RECEIVE);
        let socket = self.socket.clone();
        let op = Op::Receive { socket, pieces: [Some(piece), None] };
        io.reactor.submit(op, self.token(kind::RECEIVE));
        Progress::Until(self.deadline())
    }

    /// The reply is out.
    fn part(&mut self, io: &mut Io<'_>) -> Progress {
        let mut farewell = Farewell::default();
        farewell.finish_sending(&self.socket, io);
        self.step = Step::Parting(farewell);
        let block = io.arena.take(PARTING_BYTES).map(Block::from);
        self.read_last(block, io)
    }

    fn read_last(&mut self, block: Option<Block>, io: &mut Io<'_>) -> Progress {
        let token = self.token(kind::RECEIVE);
        let Step::Parting(farewell) = &mut self.step else { unreachable!("only to part") };
        match block {
            Some(block) if !farewell.is_over(io.now) => {
                farewell.read(&self.socket, block, token, io);
                self.in_flight = Some(kind::RECEIVE);
                Progress::Until(self.deadline())
            }
            _ => self.end(None),
        }
    }

    fn send(&mut self, piece: Piece, io: &mut Io<'_>) {
        self.in_flight = Some(kind::SEND);
        let socket = self.socket.clone();
        let op = Op::Send { socket, pieces: [Some(piece), None], quiet: false };
        io.reactor.submit(op, self.token(kind::SEND));
    }
}

#[cfg(test)]
mod tests {
    use usbip_fast_native::Arena;

    use super::*;
    use crate::reactor::simulated::{Conditions, World};

    #[test]
    fn a_connection_without_memory_ends_at_once() {
        let world = World::new(1, Conditions::default());
        let (socket, _client) = world.pair();
        let (mut reactor, arena) = (world.reactor(), Arena::new(0));
        let mut io = Io { reactor: &mut *reactor, arena: &arena, now: world.now() };
        let key = Key { index: 0, generation: 0 };
        let (_, progress) = Greeting::new(key, ([127, 0, 0, 1], 1).into(), socket, &mut io);
        assert!(matches!(progress, Progress::Ended(Some(GreetingError::NoMemory))));
    }
}
