//! Control connections: clients that are told at once what is exported and who has it.
//!
//! They live on core 0 beside the exports and run on its reactor. One receive and one send are in
//! flight for each; what a change means is written once for all who see the same. A turn in which
//! nothing of theirs happens costs two looks at empty lists.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use usbip_fast_native::{Block, Completion, Handle, Op, OsError, Piece, Token};

use crate::config::ControlChoice;
use crate::control::announce::Frame;
use crate::control::message::{LeaseRequest, LeaseResponse};
use crate::control::{ChannelError, Dialect, Event, Publisher};
use crate::ledger::{LEASE_TTL, Lease, LeaseRefusal, Listener};
use crate::limits;
use crate::serve::announce::Views;
use crate::serve::exports::Exports;
use crate::serve::session::Io;
use crate::serve::table::{Key, Table};
use crate::serve::throttle::Throttle;

/// Kinds of the control connections' tokens; the index is the connection's place.
pub mod kind {
    /// The lowest of them.
    pub const FIRST: u8 = RECEIVE;
    /// A receive.
    pub const RECEIVE: u8 = 0x30;
    /// A send.
    pub const SEND: u8 = 0x31;
}

/// All control connections.
pub struct Controls {
    /// For clients without leases; `None`: the channel is off.
    plain: Option<Dialect>,
    channels: Table<Channel>,
    /// Connections that may have something to say to us, and those that we may have to write to.
    unread: Vec<Key>,
    unwritten: Vec<Key>,
    /// Each connection once.
    deadlines: BTreeSet<(Duration, Key)>,
    views: Views,
    throttle: Throttle,
    last_listener: u64,
    last_refusal: Option<Duration>,
    closed: bool,
}

/// One connection.
struct Channel {
    peer: SocketAddr,
    socket: Handle,
    publisher: Publisher,
    listener: Listener,
    /// A frame on its way, and how much of it is out.
    frame: Option<(Frame, usize)>,
    receiving: bool,
    sending: bool,
    ended: bool,
    /// What stands for it in the deadlines.
    deadline: Option<Duration>,
}

/// Why a control connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum End {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the peer closed the control channel")]
    Closed,
    #[error("the peer closed the control channel inside a frame")]
    ClosedInside,
    #[error("the control channel failed: {0}")]
    Network(OsError),
    #[error("no memory for the control channel")]
    NoMemory,
    #[error("the server stops")]
    Stopped,
}

impl Controls {
    /// No connections yet.
    #[must_use]
    pub fn new(choice: ControlChoice) -> Self {
        Self {
            plain: match choice {
                ControlChoice::Plain => Some(Dialect::Plain),
                ControlChoice::PlainText => Some(Dialect::PlainText),
                ControlChoice::Off => None,
            },
            channels: Table::new(),
            unread: Vec::new(),
            unwritten: Vec::new(),
            deadlines: BTreeSet::new(),
            views: Views::default(),
            throttle: Throttle::default(),
            last_listener: 0,
            last_refusal: None,
            closed: false,
        }
    }

    /// A connection has sent the preface and nothing of it is in flight; `since` is when it was
    /// accepted. One that is not wanted is closed at once. [`settle`](Self::settle) must follow.
    pub fn enter(&mut self, socket: Handle, peer: SocketAddr, since: Duration, now: Duration) {
        let refusal = if self.closed {
            return;
        } else if self.channels.len() >= limits::CONTROL_CONNECTIONS {
            "too many control connections"
        } else if self.plain.is_none() {
            "the control channel is off (--control)"
        } else if !self.throttle.admits(peer.ip(), now) {
            "too many handshakes from its address"
        } else {
            ""
        };
        let Some(plain) = self.plain.filter(|_| refusal.is_empty()) else {
            return self.log_refusal(peer, refusal, now);
        };
        self.last_listener += 1;
        let key = self.channels.insert(Channel {
            peer,
            socket,
            publisher: Publisher::new(plain, since),
            listener: Listener(self.last_listener),
            frame: None,
            receiving: false,
            sending: false,
            ended: false,
            deadline: None,
        });
        self.unwritten.push(key);
    }

    /// Takes a completion of one of these connections' tokens. [`settle`](Self::settle) must
    /// follow in the same turn.
    pub fn handle(&mut self, completion: Completion, exports: &mut Exports, io: &mut Io<'_>) {
        let token = completion.token;
        let key = Key { index: token.index(), generation: token.generation() };
        let channel = self.channels.get_mut(key).expect("it stays until its operations are back");
        let ended = match token.kind() {
            kind::RECEIVE => channel.handle_received(completion, io.now),
            kind::SEND => channel.handle_sent(&completion),
            other => unreachable!("tokens of kind {other} are not the control channel's"),
        };
        self.unread.push(key);
        if let Err(end) = ended {
            self.end(key, &end, exports, io);
        }
    }

    /// Moves everything on that can move: times, what clients ask, what has changed, what is to be
    /// written.
    pub fn settle(&mut self, exports: &mut Exports, io: &mut Io<'_>) {
        self.time_out(exports, io);
        loop {
            // A change is told before anything else happens, so that whoever subscribes does so
            // to a state that nobody still has to be told of.
            self.publish(exports, io);
            if let Some(key) = self.unread.pop() {
                self.read(key, exports, io);
                self.unwritten.push(key);
            } else if let Some(key) = self.unwritten.pop() {
                self.write(key, exports, io);
            } else {
                return;
            }
        }
    }

    /// When [`settle`](Self::settle) must run though nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Ends everything, soon.
    pub fn close(&mut self, exports: &mut Exports, io: &mut Io<'_>) {
        self.closed = true;
        for key in self.keys() {
            self.end(key, &End::Stopped, exports, io);
        }
        self.settle(exports, io);
    }

    /// Connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    fn keys(&self) -> Vec<Key> {
        self.channels.keys().collect()
    }

    /// A flood of refused connections must not become a flood of log lines.
    fn log_refusal(&mut self, peer: SocketAddr, refusal: &str, now: Duration) {
        if self.last_refusal.is_none_or(|last| now >= last + Duration::from_secs(1)) {
            self.last_refusal = Some(now);
            tracing::warn!(%peer, "control connection refused: {refusal}");
        }
    }

    fn time_out(&mut self, exports: &mut Exports, io: &mut Io<'_>) {
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > io.now {
                return;
            }
            self.deadlines.pop_first();
            let channel = self.channels.get_mut(key).expect("it leaves its deadline when it goes");
            channel.deadline = None;
            let verdict = channel.publisher.handle_timeout(io.now);
            self.unread.push(key);
            if let Err(error) = verdict {
                self.end(key, &error.into(), exports, io);
            }
        }
    }

    /// Tells everybody what has changed.
    fn publish(&mut self, exports: &mut Exports, io: &mut Io<'_>) {
        // Whoever cannot be told ends, and its leases with it, which is another change.
        while self.views.follow(std::iter::from_fn(|| exports.poll_publication())) {
            tracing::debug!(sequence = self.views.sequence(), "the exports have changed");
            for key in self.keys() {
                let channel = self.channels.get_mut(key).expect("its key was just listed");
                if channel.ended || channel.publisher.dialect().is_none() {
                    continue;
                }
                let view = self.views.view(channel.peer);
                match channel.publisher.publish(&view) {
                    Ok(()) => self.unwritten.push(key),
                    Err(error) => self.end(key, &error.into(), exports, io),
                }
            }
        }
    }

    /// Does what a client has asked for.
    fn read(&mut self, key: Key, exports: &mut Exports, io: &mut Io<'_>) {
        loop {
            let Some(channel) = self.channels.get_mut(key) else { return };
            if channel.ended {
                return;
            }
            let peer = channel.peer;
            let done = match channel.publisher.poll_event(io.now) {
                Ok(None) => return,
                Ok(Some(Event::Subscribe)) => {
                    // Its first event: there is no change that has not been told.
                    let view = self.views.view(peer);
                    let dialect = channel.publisher.dialect();
                    tracing::debug!(%peer, ?dialect, "a control client has subscribed");
                    channel.publisher.subscribe(&view)
                }
                Ok(Some(Event::LeaseRequest(request))) => {
                    let generation = self.views.sequence();
                    let Channel { listener, publisher, .. } = channel;
                    let lent = exports.lease(
                        *listener,
                        peer,
                        &request.busid,
                        request.client_nonce,
                        io.now,
                    );
                    publisher.respond(&lease_response(request, generation, lent))
                }
                Ok(Some(Event::BadLeaseRequest)) => channel.publisher.respond(&LeaseResponse {
                    error_code: "bad_request".to_owned(),
                    error_message: "undecodable lease request".to_owned(),
                    ..LeaseResponse::default()
                }),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                return self.end(key, &error.into(), exports, io);
            }
        }
    }

    /// Starts what can be started, or drops what is over.
    fn write(&mut self, key: Key, exports: &mut Exports, io: &mut Io<'_>) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if channel.ended {
            if !channel.receiving && !channel.sending {
                self.channels.remove(key);
            }
            return;
        }
        if channel.frame.is_none() && channel.publisher.has_output() {
            let view = self.views.view(channel.peer);
            let frame = channel.publisher.poll_transmit(&view, io.now);
            channel.frame = frame.map(|frame| (frame, 0));
        }
        if channel.start_send(key, io).and_then(|()| channel.start_receive(key, io)).is_err() {
            return self.end(key, &End::NoMemory, exports, io);
        }
        let deadline = Some(channel.publisher.deadline());
        if channel.deadline != deadline {
            let before = std::mem::replace(&mut channel.deadline, deadline);
            before.map(|before| self.deadlines.remove(&(before, key)));
            self.deadlines.extend(deadline.map(|deadline| (deadline, key)));
        }
    }

    /// Ends a connection; it is dropped when nothing of it is in flight.
    fn end(&mut self, key: Key, end: &End, exports: &mut Exports, io: &mut Io<'_>) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if std::mem::replace(&mut channel.ended, true) {
            return;
        }
        let peer = channel.peer;
        match end {
            End::Closed | End::Stopped => tracing::debug!(%peer, "{end}"),
            _ => tracing::info!(%peer, "{end}"),
        }
        if channel.receiving {
            io.reactor.cancel(token(kind::RECEIVE, key));
        }
        if channel.sending {
            io.reactor.cancel(token(kind::SEND, key));
        }
        if let Some(deadline) = channel.deadline.take() {
            self.deadlines.remove(&(deadline, key));
        }
        exports.drop_listener(channel.listener);
        self.unwritten.push(key);
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Controls").field("connections", &self.channels.len()).finish()
    }
}

impl Channel {
    fn handle_received(&mut self, completion: Completion, now: Duration) -> Result<(), End> {
        self.receiving = false;
        let count = completion.moved().map_err(End::Network)?;
        if count == 0 {
            let is_orderly = self.publisher.is_between_frames();
            return Err(if is_orderly { End::Closed } else { End::ClosedInside });
        }
        let (_, piece) = completion.into_received();
        self.publisher.handle_received(&piece.block.as_ref()[..count], now);
        Ok(())
    }

    fn handle_sent(&mut self, completion: &Completion) -> Result<(), End> {
        self.sending = false;
        let count = completion.moved().map_err(End::Network)?;
        let (frame, sent) = self.frame.as_mut().expect("what is sent is a frame");
        *sent += count;
        if *sent == frame.len() {
            self.frame = None;
            self.publisher.handle_written();
        }
        Ok(())
    }

    fn start_receive(&mut self, key: Key, io: &mut Io<'_>) -> Result<(), End> {
        if self.receiving {
            return Ok(());
        }
        let room = self.publisher.room().min(limits::CONTROL_RECEIVE_BYTES);
        let block = io.arena.take(limits::CONTROL_RECEIVE_BYTES).ok_or(End::NoMemory)?;
        let piece = Piece { block: Block::from(block), range: 0..room };
        self.receiving = true;
        let op = Op::Receive { socket: self.socket.clone(), pieces: [Some(piece), None] };
        io.reactor.submit(op, token(kind::RECEIVE, key));
        Ok(())
    }

    fn start_send(&mut self, key: Key, io: &mut Io<'_>) -> Result<(), End> {
        let Some((frame, sent)) = self.frame.as_ref().filter(|_| !self.sending) else {
            return Ok(());
        };
        let rest = &frame[*sent..];
        let bytes = &rest[..rest.len().min(limits::SEND_BUFFER_BYTES)];
        let mut block = Block::from(io.arena.take(bytes.len()).ok_or(End::NoMemory)?);
        block.as_mut()[..bytes.len()].copy_from_slice(bytes);
        let piece = Piece { block, range: 0..bytes.len() };
        self.sending = true;
        let op =
            Op::Send { socket: self.socket.clone(), pieces: [Some(piece), None], quiet: false };
        io.reactor.submit(op, token(kind::SEND, key));
        Ok(())
    }
}

fn token(kind: u8, key: Key) -> Token {
    Token::new(kind, key.generation, key.index)
}

/// Says that a device is kept for a client, or why not (control-channel.md §3.1). `generation` is
/// the last sequence number that clients know.
fn lease_response(
    request: LeaseRequest,
    generation: u64,
    lease: Result<Lease, LeaseRefusal>,
) -> LeaseResponse {
    let LeaseRequest { busid, client_nonce } = request;
    let told = LeaseResponse { busid, client_nonce, ..LeaseResponse::default() };
    match lease {
        Ok(lease) => LeaseResponse {
            lease_id: lease.id,
            generation,
            ttl_millis: u64::try_from(LEASE_TTL.as_millis()).expect("seconds"),
            ..told
        },
        Err(refusal) => {
            let error_code = match refusal {
                LeaseRefusal::MissingBusId => "bad_request",
                LeaseRefusal::Leased => "busy",
                LeaseRefusal::Unavailable(_) => "unavailable",
            };
            LeaseResponse {
                error_code: error_code.to_owned(),
                error_message: refusal.to_string(),
                ..told
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_types, reason = "tests hold the clients' ends")]
mod tests;
