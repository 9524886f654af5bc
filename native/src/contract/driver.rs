//! A reactor with the bookkeeping that the checks share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::arena::Arena;
use crate::block::Block;
use crate::contract::Ground;
use crate::handle::Handle;
use crate::op::{Completion, Interest, Op, OsError, Outcome, Piece, Token};
use crate::reactor::{Reactor, Turn};

/// A reactor, the memory for its operations and the completions not looked at yet.
pub struct Driver<'a> {
    /// The ground it stands on.
    pub ground: &'a dyn Ground,
    /// The reactor under test.
    pub reactor: Box<dyn Reactor>,
    /// Memory for pieces.
    pub arena: Arena,
    completions: Vec<Completion>,
    arrived: BTreeMap<Token, Completion>,
    next: u32,
}

/// Far longer than anything here takes: what has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(20);

impl<'a> Driver<'a> {
    /// A fresh reactor.
    pub fn new(ground: &'a dyn Ground) -> Self {
        Self {
            ground,
            reactor: ground.open(),
            arena: Arena::new(256 * 1024 * 1024),
            completions: Vec::new(),
            arrived: BTreeMap::new(),
            next: 0,
        }
    }

    /// A token that was never used before.
    pub fn token(&mut self) -> Token {
        self.next += 1;
        Token::new(3, self.next % 7, self.next)
    }

    /// Submits under a fresh token.
    pub fn submit(&mut self, op: Op) -> Token {
        let token = self.token();
        self.reactor.submit(op, token);
        token
    }

    /// A piece of exactly `bytes`.
    pub fn piece(&self, bytes: usize) -> Piece {
        self.piece_at(0..bytes)
    }

    /// A piece that is the given part of its block.
    pub fn piece_at(&self, range: Range<usize>) -> Piece {
        let mut block = Block::from(self.arena.take(range.end).expect("within the limit"));
        block.as_mut().fill(0xee);
        Piece { block, range }
    }

    /// A piece with this content.
    pub fn filled(&self, content: &[u8]) -> Piece {
        let mut piece = self.piece(content.len());
        piece.block.as_mut()[..content.len()].copy_from_slice(content);
        piece
    }

    /// Starts receiving into one piece of `bytes`.
    pub fn receive(&mut self, socket: &Handle, bytes: usize) -> Token {
        let pieces = [Some(self.piece(bytes)), None];
        self.submit(Op::Receive { socket: socket.clone(), pieces })
    }

    /// Starts sending one piece.
    pub fn send(&mut self, socket: &Handle, content: &[u8]) -> Token {
        let pieces = [Some(self.filled(content)), None];
        self.submit(Op::Send { socket: socket.clone(), pieces, quiet: false })
    }

    /// Starts a poll.
    pub fn poll(&mut self, handle: &Handle, interest: Interest) -> Token {
        self.submit(Op::Poll { handle: handle.clone(), interest })
    }

    /// Starts an accept.
    pub fn accept(&mut self, listener: &Handle) -> Token {
        self.submit(Op::Accept { listener: listener.clone() })
    }

    /// Starts a connect.
    pub fn connect(&mut self, socket: &Handle, address: SocketAddr) -> Token {
        self.submit(Op::Connect { socket: socket.clone(), address })
    }

    /// One turn; what completes is kept for [`take`](Driver::take).
    pub fn turn(&mut self, deadline: Option<Duration>) -> Turn {
        let turn = self.reactor.turn(deadline, &mut self.completions);
        for completion in self.completions.drain(..) {
            let token = completion.token;
            let before = self.arrived.insert(token, completion);
            assert!(before.is_none(), "{token:?} completed twice");
        }
        turn
    }

    /// Turns for a while without anything being expected.
    pub fn idle(&mut self, time: Duration) {
        let end = self.ground.now() + time;
        while self.ground.now() < end {
            self.turn(Some(end));
        }
    }

    /// The completion, if it has come already.
    pub fn take(&mut self, token: Token) -> Option<Completion> {
        self.arrived.remove(&token)
    }

    /// Whether any completion waits to be taken.
    pub fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Turns until the completion comes.
    pub fn wait(&mut self, token: Token) -> Completion {
        let end = self.ground.now() + PATIENCE;
        loop {
            if let Some(completion) = self.take(token) {
                return completion;
            }
            assert!(self.ground.now() < end, "{token:?} does not complete");
            self.turn(Some(end));
        }
    }

    /// Waits for a transfer and returns its bytes (as far as a receive is concerned).
    pub fn moved(&mut self, token: Token) -> Vec<u8> {
        let completion = self.wait(token);
        match completion.result {
            Ok(Outcome::Moved(count)) => content(&completion.pieces, count),
            other => panic!("a transfer was expected, not {other:?}"),
        }
    }

    /// Waits for an operation that must fail.
    pub fn error(&mut self, token: Token) -> OsError {
        self.wait(token).result.expect_err("it must fail")
    }

    /// Waits for a poll.
    pub fn ready(&mut self, token: Token) -> u32 {
        match self.wait(token).result {
            Ok(Outcome::Ready(bits)) => bits,
            other => panic!("readiness was expected, not {other:?}"),
        }
    }

    /// Sends everything, however short the sends come out.
    pub fn send_all(&mut self, socket: &Handle, mut content: &[u8]) {
        while !content.is_empty() {
            let token = self.send(socket, content);
            let count = self.moved(token).len();
            content = &content[count..];
        }
    }

    /// Waits for a receive and receives the rest, until there are exactly `bytes`.
    pub fn rest(&mut self, socket: &Handle, token: Token, bytes: usize) -> Vec<u8> {
        let mut all = self.moved(token);
        let rest = self.receive_all(socket, bytes - all.len());
        all.extend(rest);
        all
    }

    /// Receives exactly `bytes`.
    pub fn receive_all(&mut self, socket: &Handle, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let token = self.receive(socket, bytes - all.len());
            let part = self.moved(token);
            assert!(!part.is_empty(), "the stream ended after {} bytes", all.len());
            all.extend(part);
        }
        all
    }
}

/// The first `count` bytes over both pieces.
pub fn content(pieces: &[Option<Piece>; 2], count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().flatten() {
        bytes.extend_from_slice(&piece.block.as_ref()[piece.range.clone()]);
    }
    assert!(count <= bytes.len(), "no more moved than was asked for");
    bytes.truncate(count);
    bytes
}

/// A pattern that shows lost, repeated and swapped bytes.
pub fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
    // A prime, so that the repetition falls together with no block or page.
    const PERIOD: usize = 4093;
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let period: Vec<u8> = (0..PERIOD.min(bytes)).map(step).collect();
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        all.extend_from_slice(&period[..PERIOD.min(bytes - all.len())]);
    }
    all
}
