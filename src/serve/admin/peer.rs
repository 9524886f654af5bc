//! One connection of the admin socket: a request at a time, answers in order, nothing unbounded.

use std::rc::Rc;
use std::time::Duration;

use usbip_fast_native::{Block, Completion, Handle, Op, Piece, Token};

use super::kind;
use super::line::Lines;
use super::request::{self, Question, Request};
use crate::limits;
use crate::serve::session::Io;
use crate::serve::table::Key;

/// A client that takes nothing for so long is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that asks nothing for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one send.
const SEND_BYTES: usize = limits::SEND_BUFFER_BYTES;

/// A connection.
pub(super) struct Peer {
    key: Key,
    socket: Handle,
    lines: Lines,
    want: Want,
    /// What core 0 is to answer.
    question: Option<Question>,
    output: Output,
    receiving: bool,
    sending: bool,
    ended: bool,
    /// When the last thing happened that keeps it from being closed.
    last_progress: Duration,
}

/// What the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Its own next request.
    Nothing,
    /// The next round of figures, from `due` on; then every `interval`, if it watches.
    Stats { due: Duration, interval: Option<Duration> },
    /// The round under way.
    Round { due: Duration, interval: Option<Duration> },
}

/// What is still to be sent of one answer.
#[derive(Default)]
struct Output {
    bytes: Option<Rc<[u8]>>,
    sent: usize,
}

impl Output {
    fn is_empty(&self) -> bool {
        self.bytes.is_none()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[self.sent..])
    }

    fn take(&mut self, count: usize) {
        self.sent += count;
        if self.rest().is_empty() {
            *self = Self::default();
        }
    }
}

impl Peer {
    pub fn new(key: Key, socket: Handle, now: Duration) -> Self {
        Self {
            key,
            socket,
            lines: Lines::default(),
            want: Want::Nothing,
            question: None,
            output: Output::default(),
            receiving: false,
            sending: false,
            ended: false,
            last_progress: now,
        }
    }

    pub fn handle_received(&mut self, completion: Completion, io: &mut Io<'_>) {
        self.receiving = false;
        let count = completion.moved().unwrap_or(0);
        if count == 0 {
            // Gone, or told to go.
            return self.end(io);
        }
        let (_, piece) = completion.into_received();
        self.lines.push(&piece.block.as_ref()[..count]);
        self.last_progress = io.now;
    }

    pub fn handle_sent(&mut self, completion: Completion, io: &mut Io<'_>) {
        self.sending = false;
        match completion.moved() {
            Ok(count) => {
                self.output.take(count);
                self.last_progress = io.now;
            }
            Err(_) => self.end(io),
        }
    }

    /// Moves on: times, the next request, the next operation.
    pub fn settle(&mut self, io: &mut Io<'_>) {
        if !self.ended && self.is_overdue(io.now) {
            self.end(io);
        }
        // One request at a time: the next line is read when the last one is answered. A request
        // ends a watch.
        while !self.ended && self.output.is_empty() && !self.is_awaiting_answer() {
            let Some(line) = self.lines.next() else { break };
            match request::parse(&line) {
                Ok(Request::Ask(question)) => {
                    self.want = Want::Nothing;
                    self.question = Some(question);
                    break;
                }
                Ok(Request::Stats { watch }) => {
                    self.want = Want::Stats { due: io.now, interval: watch };
                    // What is due now is answered first.
                    break;
                }
                Err(error) => {
                    self.want = Want::Nothing;
                    self.output.bytes = Some(request::refusal(&error).into());
                }
            }
        }
        self.start_send(io);
        self.start_receive(io);
    }

    /// Whether it wants to take part in a round that begins now. One that has not taken its last
    /// line yet must do that first.
    pub fn is_due(&self, now: Duration) -> bool {
        let due = matches!(self.want, Want::Stats { due, .. } if due <= now);
        due && !self.ended && self.output.is_empty()
    }

    /// Takes part in the round that begins now.
    pub fn join_if_due(&mut self, now: Duration) {
        if self.is_due(now)
            && let Want::Stats { due, interval } = self.want
        {
            self.want = Want::Round { due, interval };
        }
    }

    /// What core 0 is to answer now; [`answer`](Self::answer) must follow in the same turn.
    pub fn take_question(&mut self) -> Option<Question> {
        self.question.take()
    }

    /// Core 0's answer.
    pub fn answer(&mut self, line: Vec<u8>, io: &mut Io<'_>) {
        self.output = Output { bytes: Some(line.into()), sent: 0 };
        self.last_progress = io.now;
        self.start_send(io);
    }

    /// A round is over.
    pub fn answer_stats(&mut self, line: &Rc<[u8]>, io: &mut Io<'_>) {
        let Want::Round { due, interval } = self.want else { return };
        self.output = Output { bytes: Some(Rc::clone(line)), sent: 0 };
        self.last_progress = io.now;
        self.want = match interval {
            None => Want::Nothing,
            Some(interval) => {
                // What was slept through is not made up for.
                let due = if due + interval > io.now { due + interval } else { io.now + interval };
                Want::Stats { due, interval: Some(interval) }
            }
        };
        self.start_send(io);
    }

    /// When [`settle`](Self::settle) or a round is due; not a round while one is under way.
    pub fn deadline(&self, in_round: bool) -> Option<Duration> {
        if self.ended {
            return None;
        }
        match self.want {
            _ if !self.output.is_empty() => Some(self.last_progress + SEND_TIMEOUT),
            Want::Nothing => Some(self.last_progress + IDLE_TIMEOUT),
            Want::Stats { due, .. } => Some(due).filter(|_| !in_round),
            Want::Round { .. } => None,
        }
    }

    /// Closes the connection as soon as nothing is in flight.
    pub fn end(&mut self, io: &mut Io<'_>) {
        self.ended = true;
        if self.receiving {
            io.reactor.cancel(self.token(kind::RECEIVE));
        }
        if self.sending {
            io.reactor.cancel(self.token(kind::SEND));
        }
    }

    /// Whether it can be dropped.
    pub fn is_gone(&self) -> bool {
        self.ended && !self.receiving && !self.sending
    }

    /// Whether what the deadline stands for is a reason to close.
    fn is_overdue(&self, now: Duration) -> bool {
        let since = now.saturating_sub(self.last_progress);
        match self.want {
            _ if !self.output.is_empty() => since >= SEND_TIMEOUT,
            Want::Nothing => since >= IDLE_TIMEOUT,
            Want::Stats { .. } | Want::Round { .. } => false,
        }
    }

    /// Between the lines of a watch the client may say something else.
    fn is_awaiting_answer(&self) -> bool {
        match self.want {
            _ if self.question.is_some() => true,
            Want::Nothing => false,
            Want::Stats { interval, .. } => interval.is_none(),
            Want::Round { .. } => true,
        }
    }

    fn token(&self, kind: u8) -> Token {
        Token::new(kind, self.key.generation, self.key.index)
    }

    fn start_receive(&mut self, io: &mut Io<'_>) {
        // While an answer waits nothing is read, so that questions cannot heap up.
        if self.receiving || self.ended || !self.output.is_empty() || self.is_awaiting_answer() {
            return;
        }
        let Some(block) = io.arena.take(limits::ADMIN_LINE_BYTES) else { return self.end(io) };
        let range = 0..limits::ADMIN_LINE_BYTES;
        let piece = Piece { block: Block::from(block), range };
        self.receiving = true;
        let socket = self.socket.clone();
        let op = Op::Receive { socket, pieces: [Some(piece), None] };
        io.reactor.submit(op, self.token(kind::RECEIVE));
    }

    fn start_send(&mut self, io: &mut Io<'_>) {
        if self.sending || self.ended || self.output.is_empty() {
            return;
        }
        let rest = self.output.rest();
        let bytes = &rest[..rest.len().min(SEND_BYTES)];
        let Some(block) = io.arena.take(bytes.len()) else { return self.end(io) };
        let mut block = Block::from(block);
        block.as_mut()[..bytes.len()].copy_from_slice(bytes);
        let piece = Piece { block, range: 0..bytes.len() };
        self.sending = true;
        let socket = self.socket.clone();
        let op = Op::Send { socket, pieces: [Some(piece), None], quiet: false };
        io.reactor.submit(op, self.token(kind::SEND));
    }
}
