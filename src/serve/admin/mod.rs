//! The admin socket: a running server answers the commands of its own machine.
//!
//! A Unix socket of the server's user alone. Requests and answers are lines of JSON (see
//! `docs/json.md`). It lives on core 0 and runs on its reactor, so that it needs no lock and no
//! thread; everything about it is bounded, and a client that does not read is closed.
//!
//! Figures are gathered in rounds: core 0 asks every core, each answers by message, and all who
//! have asked get the one line that is made of it. Who asks while a round is under way waits for
//! the next, so that no answer is older than its question.

mod line;
mod peer;
pub mod place;
mod request;
pub mod state;

use std::rc::Rc;
use std::time::Duration;

use usbip_fast_native::local::LocalListener;
use usbip_fast_native::{Completion, Op, Outcome, Token};

use self::peer::Peer;
pub use self::request::Question;
use crate::limits;
use crate::serve::session::Io;
use crate::serve::table::{Key, Table};
use crate::telemetry::report::{CoreReport, ServerReport, SessionReport, Stats, VERSION};

/// Kinds of the admin socket's tokens; the index is the connection's place.
pub mod kind {
    /// The lowest of them.
    pub const FIRST: u8 = ACCEPT;
    /// An accept on the admin socket.
    pub const ACCEPT: u8 = 0x20;
    /// A receive on one of its connections.
    pub const RECEIVE: u8 = 0x21;
    /// A send on one of its connections.
    pub const SEND: u8 = 0x22;
}

/// A core that has not answered by then is left out of the round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// After an accept failed (no descriptor left, say) the socket rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The admin socket of a server.
pub struct Admin {
    listener: LocalListener,
    accepting: bool,
    paused_until: Option<Duration>,
    closed: bool,
    peers: Table<Peer>,
    round: Option<Round>,
    last_round: u64,
}

/// Figures on their way.
struct Round {
    number: u64,
    /// How many cores have not answered.
    missing: usize,
    deadline: Duration,
    reports: Vec<(CoreReport, Vec<SessionReport>)>,
}

impl Admin {
    /// Serves `listener`.
    #[must_use]
    pub fn new(listener: LocalListener) -> Self {
        Self {
            listener,
            accepting: false,
            paused_until: None,
            closed: false,
            peers: Table::new(),
            round: None,
            last_round: 0,
        }
    }

    /// Takes a completion of one of the admin socket's tokens. [`settle`](Self::settle) must
    /// follow in the same turn.
    pub fn handle(&mut self, completion: Completion, io: &mut Io<'_>) {
        let token = completion.token;
        if token.kind() == kind::ACCEPT {
            return self.handle_accepted(completion, io);
        }
        let key = Key { index: token.index(), generation: token.generation() };
        let peer = self.peers.get_mut(key).expect("a peer stays until its operations are back");
        match token.kind() {
            kind::RECEIVE => peer.handle_received(completion, io),
            kind::SEND => peer.handle_sent(completion, io),
            other => unreachable!("tokens of kind {other} are not the admin socket's"),
        }
    }

    /// Moves everything on that can move.
    pub fn settle(&mut self, io: &mut Io<'_>) {
        if self.paused_until.is_some_and(|until| until <= io.now) {
            self.paused_until = None;
        }
        if !self.accepting && !self.closed && self.paused_until.is_none() {
            self.accepting = true;
            let op = Op::Accept { listener: self.listener.handle().clone() };
            io.reactor.submit(op, Token::new(kind::ACCEPT, 0, 0));
        }
        if self.peers.is_empty() {
            return;
        }
        for key in self.keys().into_iter().flatten() {
            let peer = self.peers.get_mut(key).expect("its key was just listed");
            peer.settle(io);
            if peer.is_gone() {
                self.peers.remove(key);
            }
        }
    }

    /// What core 0 is to answer, and whom. Call until `None`, after [`settle`](Self::settle), and
    /// [`answer`](Self::answer) each.
    pub fn take_question(&mut self) -> Option<(Key, Question)> {
        for key in self.keys().into_iter().flatten() {
            if let Some(question) = self.peers.get_mut(key).and_then(Peer::take_question) {
                return Some((key, question));
            }
        }
        None
    }

    /// Sends an answer, a line with its end.
    pub fn answer(&mut self, to: Key, line: Vec<u8>, io: &mut Io<'_>) {
        if let Some(peer) = self.peers.get_mut(to) {
            peer.answer(line, io);
        }
    }

    /// Whether figures are to be gathered. If so every core must be asked for this round, and each
    /// answer given to [`handle_report`](Self::handle_report).
    pub fn begin_round(&mut self, cores: usize, now: Duration) -> Option<u64> {
        if self.round.is_some() || self.peers.is_empty() {
            return None;
        }
        let is_due = self
            .keys()
            .into_iter()
            .flatten()
            .any(|key| self.peers.get(key).is_some_and(|peer| peer.is_due(now)));
        if !is_due {
            return None;
        }
        for key in self.keys().into_iter().flatten() {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.join_if_due(now);
            }
        }
        self.last_round += 1;
        let deadline = now + ROUND_TIMEOUT;
        let number = self.last_round;
        self.round = Some(Round { number, missing: cores, deadline, reports: Vec::new() });
        Some(number)
    }

    /// A core has answered. One that answers too late is not heard.
    pub fn handle_report(&mut self, number: u64, core: CoreReport, sessions: Vec<SessionReport>) {
        if let Some(round) = self.round.as_mut().filter(|round| round.number == number) {
            round.missing -= 1;
            round.reports.push((core, sessions));
        }
    }

    /// Whether the round is over, by answers or by time; then
    /// [`finish_round`](Self::finish_round) must follow.
    #[must_use]
    pub fn is_round_over(&self, now: Duration) -> bool {
        self.round.as_ref().is_some_and(|round| round.missing == 0 || round.deadline <= now)
    }

    /// Ends a round: everybody who waits for it gets its figures.
    pub fn finish_round(&mut self, server: ServerReport, io: &mut Io<'_>) {
        let Some(round) = self.round.take() else { return };
        let line: Rc<[u8]> = stats_line(server, round.reports).into();
        for key in self.keys().into_iter().flatten() {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.answer_stats(&line, io);
            }
        }
    }

    /// When [`settle`](Self::settle) must run though nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let in_round = self.round.is_some();
        let peers = self.peers.keys().filter_map(|key| self.peers.get(key)?.deadline(in_round));
        let round = self.round.as_ref().map(|round| round.deadline);
        peers.chain(round).chain(self.paused_until).min()
    }

    /// Ends everything, soon.
    pub fn close(&mut self, io: &mut Io<'_>) {
        self.closed = true;
        if self.accepting {
            io.reactor.cancel(Token::new(kind::ACCEPT, 0, 0));
        }
        for key in self.keys().into_iter().flatten() {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.end(io);
            }
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.accepting && self.peers.is_empty()
    }

    fn handle_accepted(&mut self, completion: Completion, io: &mut Io<'_>) {
        self.accepting = false;
        match completion.result {
            // Closed at once when the server stops, or when too many are here already.
            Ok(Outcome::Accepted(..)) if self.closed => {}
            Ok(Outcome::Accepted(..)) if self.peers.len() >= limits::ADMIN_CONNECTIONS => {
                tracing::debug!("an admin connection too many was closed");
            }
            Ok(Outcome::Accepted(socket, _)) => {
                let key = self.peers.next_key();
                self.peers.insert(Peer::new(key, socket, io.now));
            }
            Ok(other) => unreachable!("an accept does not end with {other:?}"),
            Err(_) if self.closed => {}
            Err(error) => {
                tracing::warn!("accept on the admin socket failed: {error}");
                self.paused_until = Some(io.now + ACCEPT_PAUSE);
            }
        }
    }

    /// The peers' keys, on the stack, so that the table can change while they are walked.
    fn keys(&self) -> Keys {
        let mut keys = [None; limits::ADMIN_CONNECTIONS];
        for (place, key) in keys.iter_mut().zip(self.peers.keys()) {
            *place = Some(key);
        }
        keys
    }
}

type Keys = [Option<Key>; limits::ADMIN_CONNECTIONS];

fn stats_line(server: ServerReport, reports: Vec<(CoreReport, Vec<SessionReport>)>) -> Vec<u8> {
    let (mut cores, mut sessions) = (Vec::new(), Vec::new());
    for (core, of_core) in reports {
        cores.push(core);
        sessions.extend(of_core);
    }
    cores.sort_by_key(|core| core.core);
    sessions.sort_by(|a, b| a.bus_id.cmp(&b.bus_id));
    if sessions.len() > limits::ADMIN_BUCKET_SESSIONS {
        for endpoint in sessions.iter_mut().flat_map(|session| &mut session.endpoints) {
            endpoint.device_latency_us.buckets = Vec::new();
            endpoint.answer_latency_us.buckets = Vec::new();
        }
    }
    let stats = Stats { v: VERSION, reply: "stats".to_owned(), server, cores, sessions };
    let mut line = serde_json::to_vec(&stats).expect("numbers and text become JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
#[allow(clippy::disallowed_types, reason = "tests hold the clients' ends")]
mod tests;
