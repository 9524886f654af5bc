//! One import: the exporter session, its socket and its device, driven by completions.

use std::net::SocketAddr;
use std::time::Duration;

use usbip_fast_native::{Arena, Block, Completion, Handle, Op, Outcome, Piece, Reactor, Token};

use crate::device::ahead::AheadLevel;
use crate::device::{Device, DeviceState, Remains};
use crate::limits;
use crate::serve::farewell::Farewell;
use crate::serve::table::Key;
use crate::session::ReceiveSize;
use crate::session::exporter::{Counters, Exporter, SessionEnd, Transmit};
use crate::telemetry::meter::{self, Meter};
use crate::telemetry::report::{AheadReport, EndpointReport, SessionReport};
use crate::usb::endpoint::EndpointMap;
use crate::usb::identity::DeviceDescription;
use crate::usb::speed::Speed;
use crate::usb::transfer::Direction;
use crate::wire::op;

/// Kinds of the tokens of connections; the index is the connection's place on its core.
pub mod kind {
    /// A receive on the connection's socket.
    pub const RECEIVE: u8 = 1;
    /// A send on the connection's socket.
    pub const SEND: u8 = 2;
    /// Readiness of the session's device.
    pub const DEVICE: u8 = 3;
}

/// URBs taken from a device in one turn, so that a busy one leaves time to the others.
const REAP_BUDGET: usize = 64;

/// How long the last answers may take to leave once the session is over.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a device may take to close before it is complained about.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session shares with the others of its core.
pub struct Io<'a> {
    /// The core's reactor.
    pub reactor: &'a mut dyn Reactor,
    /// The core's memory.
    pub arena: &'a Arena,
    /// The time of this turn.
    pub now: Duration,
}

/// A connection that has asked for a device.
pub struct Session {
    key: Key,
    peer: SocketAddr,
    bus_id: String,
    about: About,
    socket: Handle,
    device: Box<dyn Device>,
    exporter: Exporter<Block>,
    meter: Meter,
    phase: Phase,
    started: Duration,
    receive_buffer: Option<Block>,
    receive_size: ReceiveSize,
    send_buffer: Option<Block>,
    /// What a short send has left over.
    unsent: [Option<Piece>; 2],
    receiving: bool,
    sending: bool,
    polling: bool,
}

/// What is told about the device.
struct About {
    vendor: u16,
    product: u16,
    speed: Speed,
    name: String,
}

/// Where a session is in its life.
#[derive(Debug)]
enum Phase {
    /// The device is being taken; the peer waits for OP_REP_IMPORT.
    Opening { reply: Box<[u8; op::IMPORT_REPLY_BYTES]> },
    /// URBs flow.
    Running,
    /// Over; what is in flight comes back.
    Closing { since: Duration, warned: bool, farewell: Option<Farewell> },
    /// Nothing is in flight and the device is restored.
    Closed,
}

/// How a session went, for the log and for whoever keeps the exports.
pub struct Epitaph {
    /// The device.
    pub bus_id: String,
    /// Who had it.
    pub peer: SocketAddr,
    /// Why it ended.
    pub end: SessionEnd,
    /// How long it lasted.
    pub duration: Duration,
    /// What it did.
    pub counters: Counters,
    /// What is left of the device.
    pub remains: Remains,
}

impl Session {
    /// Starts a session on a device that is opening or open. The import is answered when the
    /// device is ready.
    #[must_use]
    pub fn new(
        key: Key,
        peer: SocketAddr,
        socket: Handle,
        device: Box<dyn Device>,
        description: &DeviceDescription,
        now: Duration,
    ) -> Self {
        let endpoints = EndpointMap::new(&description.descriptors, description.configuration);
        Self {
            key,
            peer,
            bus_id: description.bus_id.clone(),
            about: About {
                vendor: description.vendor,
                product: description.product,
                speed: description.speed,
                name: description.product_name.clone(),
            },
            socket,
            device,
            exporter: Exporter::new(description.device_id(), endpoints),
            meter: Meter::default(),
            phase: Phase::Opening { reply: Box::new(op::import_reply(description)) },
            started: now,
            receive_buffer: None,
            receive_size: ReceiveSize::default(),
            send_buffer: None,
            unsent: [None, None],
            receiving: false,
            sending: false,
            polling: false,
        }
    }

    /// The import is answered with this code: [`op::REP_IMPORT`] unless it is said here.
    #[must_use]
    pub fn with_reply_code(mut self, code: u16) -> Self {
        if let Phase::Opening { reply } = &mut self.phase {
            reply[2..4].copy_from_slice(&code.to_be_bytes());
        }
        self
    }

    /// Takes a completion of one of this session's tokens. [`settle`](Self::settle) must follow in
    /// the same turn.
    pub fn handle(&mut self, completion: Completion, io: &mut Io<'_>) {
        match completion.token.kind() {
            kind::RECEIVE => match &mut self.phase {
                Phase::Closing { farewell: Some(farewell), .. } if farewell.is_reading() => {
                    self.receiving = false;
                    farewell.handle_received(completion.moved());
                    let [buffer, _] = completion.pieces;
                    self.receive_buffer = buffer.map(|piece| piece.block);
                }
                _ => self.handle_received(completion, io),
            },
            kind::SEND => self.handle_sent(completion, io.now),
            kind::DEVICE => {
                self.polling = false;
                if let Ok(Outcome::Ready(events)) = completion.result {
                    self.device.handle_ready(events, io.now);
                }
            }
            other => unreachable!("tokens of kind {other} are not a session's"),
        }
    }

    /// Moves everything on that can move. Returns whether work is left over the budget.
    pub fn settle(&mut self, rung: bool, io: &mut Io<'_>) -> bool {
        if rung {
            self.device.handle_doorbell(io.now);
        }
        if self.device.deadline().is_some_and(|deadline| deadline <= io.now) {
            self.device.handle_deadline(io.now);
        }
        if let Phase::Opening { .. } = self.phase {
            self.finish_opening(io);
        }
        let more = self.exchange_with_device(io);
        if self.device.state() == DeviceState::Gone {
            self.exporter.handle_device_gone(io.now);
        }
        self.exporter.handle_deadline(io.now);
        self.send_rest(io);
        if matches!(self.phase, Phase::Running) {
            self.start_send(io);
            self.start_receive(io);
            if self.exporter.end().is_some() {
                self.begin_closing(io);
            }
        }
        self.arm_device(io);
        if let Phase::Closing { .. } = self.phase {
            self.continue_closing(io);
        }
        self.meter.turn_ended(io.now);
        more
    }

    /// When [`settle`](Self::settle) must run though nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let own = match self.phase {
            Phase::Closing { since, .. } if self.sending => Some(since + FLUSH_TIMEOUT),
            Phase::Closing { since, warned: false, .. } => Some(since + CLOSE_TIMEOUT),
            Phase::Closing { .. } | Phase::Closed => None,
            Phase::Opening { .. } | Phase::Running => self.exporter.deadline(),
        };
        let farewell = match &self.phase {
            Phase::Closing { farewell: Some(farewell), .. } => farewell.deadline(),
            _ => None,
        };
        own.into_iter().chain(farewell).chain(self.device.deadline()).min()
    }

    /// Asks for the session to end from our side.
    pub fn stop(&mut self, reason: &str) {
        self.exporter.stop(SessionEnd::Local(reason.to_owned()));
        if let Phase::Opening { .. } = self.phase {
            self.phase = Phase::Running;
        }
    }

    /// Whether the session can be taken apart.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether the session is over, so that what still arrives is not looked at.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Closed)
    }

    /// Takes the closed session apart.
    #[must_use]
    pub fn into_epitaph(self, now: Duration) -> Epitaph {
        assert!(self.is_closed(), "a session is taken apart when nothing is in flight");
        let end = self.exporter.end().cloned();
        Epitaph {
            bus_id: self.bus_id,
            peer: self.peer,
            end: end.expect("a closed session has an end"),
            duration: now.saturating_sub(self.started),
            counters: self.exporter.counters(),
            remains: self.device.into_remains(),
        }
    }

    /// What the session has done so far, for people. Allocates: on request only.
    #[must_use]
    pub fn report(&self, core: usize, now: Duration) -> SessionReport {
        let counters = self.exporter.counters();
        let mut endpoints = self.meter.endpoints();
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.kind == "isochronous") {
            let known = self.device.missed(endpoint.address);
            endpoint.missed = known.unwrap_or_else(|| self.intervals_dry(endpoint));
        }
        for endpoint in &mut endpoints {
            endpoint.ahead = self.device.ahead(endpoint.address).map(ahead_report);
        }
        let state = match self.phase {
            Phase::Opening { .. } => "opening",
            Phase::Running => "running",
            Phase::Closing { .. } | Phase::Closed => "closing",
        };
        SessionReport {
            bus_id: self.bus_id.clone(),
            vendor_id: format!("{:04x}", self.about.vendor),
            product_id: format!("{:04x}", self.about.product),
            name: self.about.name.clone(),
            peer: self.peer.to_string(),
            core,
            uptime_us: meter::micros(now.saturating_sub(self.started)),
            state: state.to_owned(),
            urbs: counters.urbs,
            refused: counters.refused,
            unlinks: counters.unlinks,
            received_bytes: self.meter.received_bytes(),
            sent_bytes: self.meter.sent_bytes(),
            send_blocked_us: meter::micros(self.meter.send_blocked(now)),
            device_busy_us: meter::micros(self.device.busy_time(now)),
            endpoints,
        }
    }

    /// Whole service intervals for which an isochronous endpoint had no URB.
    fn intervals_dry(&self, endpoint: &EndpointReport) -> u64 {
        let (number, is_in) = (endpoint.address & 0x0f, endpoint.address & 0x80 != 0);
        let direction = if is_in { Direction::In } else { Direction::Out };
        let info = self.exporter.endpoints().info(number, direction);
        let interval = info.map(|info| info.isochronous_interval(self.about.speed));
        interval.map_or(0, |interval| endpoint.dry_us / meter::micros(interval))
    }

    /// What the session has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.exporter.counters()
    }

    fn token(&self, kind: u8) -> Token {
        Token::new(kind, self.key.generation, self.key.index)
    }

    /// Answers the import once the device is ready, or refuses it.
    fn finish_opening(&mut self, io: &mut Io<'_>) {
        let refused = match self.device.state() {
            DeviceState::Opening => return,
            DeviceState::Ready => None,
            DeviceState::Failed(reason) => Some(reason),
            DeviceState::Gone | DeviceState::Closing | DeviceState::Closed => {
                Some("the device is gone".to_owned())
            }
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Running);
        let Phase::Opening { reply } = phase else { unreachable!("checked by the caller") };
        let refusal = op::OpHeader::new(u16::from_be_bytes([reply[2], reply[3]]), 3).to_bytes();
        let bytes: &[u8] = if refused.is_some() { &refusal } else { &reply[..] };
        match io.arena.take(limits::SEND_BUFFER_BYTES) {
            Some(buffer) => {
                let mut block = Block::from(buffer);
                block.as_mut()[..bytes.len()].copy_from_slice(bytes);
                self.send([Some(Piece { block, range: 0..bytes.len() }), None], false, io);
            }
            None => self.stop("no memory for a session"),
        }
        if let Some(reason) = refused {
            self.stop(&format!("the device could not be taken: {reason}"));
        }
    }

    fn exchange_with_device(&mut self, io: &mut Io<'_>) -> bool {
        while let Some((submission, block)) = self.exporter.poll_submission() {
            self.meter.submitted(&submission, io.now);
            self.device.submit(submission, block, io.now);
        }
        while let Some(slot) = self.exporter.poll_cancel() {
            self.device.cancel(slot, io.now);
        }
        for _ in 0..REAP_BUDGET {
            let Some(completed) = self.device.poll(io.now) else { return false };
            self.meter.finished(&completed.finished, completed.block.as_ref(), io.now);
            self.exporter.handle_finished(completed.finished, completed.block);
        }
        true
    }

    fn arm_device(&mut self, io: &mut Io<'_>) {
        if self.polling {
            return;
        }
        if let Some((handle, interest)) = self.device.readiness() {
            self.polling = true;
            io.reactor.submit(Op::Poll { handle, interest }, self.token(kind::DEVICE));
        }
    }

    fn start_receive(&mut self, io: &mut Io<'_>) {
        if self.receiving || self.exporter.end().is_some() {
            return;
        }
        let buffer = self.receive_buffer.take();
        let buffer =
            buffer.or_else(|| io.arena.take(limits::RECEIVE_BUFFER_BYTES).map(Block::from));
        let Some(block) = buffer else { return self.stop("no memory for a receive buffer") };
        let lent = self.exporter.poll_receive().map(|(block, range)| Piece { block, range });
        let behind = self.receive_size.next(lent.as_ref().map_or(0, |piece| piece.range.len()));
        let buffer = Piece { block, range: 0..behind };
        let pieces = match lent {
            Some(lent) => [Some(lent), Some(buffer)],
            None => [Some(buffer), None],
        };
        self.receiving = true;
        let socket = self.socket.clone();
        io.reactor.submit(Op::Receive { socket, pieces }, self.token(kind::RECEIVE));
    }

    fn handle_received(&mut self, completion: Completion, io: &mut Io<'_>) {
        self.receiving = false;
        let count = completion.moved().unwrap_or_else(|error| {
            self.exporter.stop(SessionEnd::Network(error.to_string()));
            0
        });
        self.meter.received(count);
        let (lent, buffer) = completion.into_received();
        let direct = lent.as_ref().map_or(0, |piece| piece.range.len()).min(count);
        let Self { exporter, device, .. } = self;
        let mut memory = |bytes| device.allocate(io.arena, bytes);
        let bytes = &buffer.block.as_ref()[..count - direct];
        let lent = lent.map(|piece| (piece.block, direct));
        exporter.handle_received(lent, bytes, &mut memory, io.now);
        self.receive_buffer = Some(buffer.block);
    }

    fn start_send(&mut self, io: &mut Io<'_>) {
        if self.sending || !self.exporter.has_transmit() {
            // A session whose device is gone finds its end here, when all is answered.
            if !self.sending {
                let _ = self.exporter.poll_transmit(&mut []);
            }
            return;
        }
        let buffer = self.send_buffer.take();
        let buffer = buffer.or_else(|| io.arena.take(limits::SEND_BUFFER_BYTES).map(Block::from));
        let Some(mut buffer) = buffer else { return self.stop("no memory for a send buffer") };
        let room = &mut buffer.as_mut()[..limits::SEND_BUFFER_BYTES];
        let Transmit { buffered, block, .. } = self.exporter.poll_transmit(room);
        // Only what is queued behind it waits for this send, or the end of a session whose device
        // is gone.
        let quiet = !self.exporter.has_transmit() && self.device.state() == DeviceState::Ready;
        self.meter.answered(self.exporter.answered());
        let large = block.map(|(block, range)| Piece { block, range });
        if buffered == 0 {
            self.send_buffer = Some(buffer);
            if large.is_some() {
                self.send([large, None], quiet, io);
            }
            return;
        }
        self.send([Some(Piece { block: buffer, range: 0..buffered }), large], quiet, io);
    }

    /// Sends what a short send has left, unless the end of the session forbids it.
    fn send_rest(&mut self, io: &mut Io<'_>) {
        if self.sending || self.unsent[0].is_none() {
            return;
        }
        let pieces = std::mem::take(&mut self.unsent);
        if self.exporter.end().is_none() || self.ends_politely() {
            self.send(pieces, false, io);
        }
    }

    fn send(&mut self, pieces: [Option<Piece>; 2], quiet: bool, io: &mut Io<'_>) {
        assert!(!self.sending, "one send in flight per connection");
        self.sending = true;
        self.meter.send_begins(quiet, io.now);
        let socket = self.socket.clone();
        io.reactor.submit(Op::Send { socket, pieces, quiet }, self.token(kind::SEND));
    }

    fn handle_sent(&mut self, completion: Completion, now: Duration) {
        self.sending = false;
        let moved = completion.moved();
        let mut count = match moved {
            Ok(count) => count,
            Err(error) => {
                self.exporter.stop(SessionEnd::Network(error.to_string()));
                return;
            }
        };
        let mut rest = [None, None];
        for mut piece in completion.pieces.into_iter().flatten() {
            let sent = count.min(piece.range.len());
            count -= sent;
            piece.range.start += sent;
            if !piece.range.is_empty() {
                let place = usize::from(rest[0].is_some());
                rest[place] = Some(piece);
            } else if piece.block.len() >= limits::SEND_BUFFER_BYTES && self.send_buffer.is_none() {
                self.keep_send_buffer(piece.block);
            }
        }
        self.meter.send_ended(moved.unwrap_or(0), rest[0].is_none(), now);
        self.unsent = rest;
    }

    /// A block of the arena that is large enough serves as the next send buffer; a device's block
    /// goes back to the device.
    fn keep_send_buffer(&mut self, block: Block) {
        if block.is_of_arena() {
            self.send_buffer = Some(block);
        }
    }

    fn begin_closing(&mut self, io: &mut Io<'_>) {
        let farewell = self.ends_politely().then(Farewell::default);
        if self.receiving {
            io.reactor.cancel(self.token(kind::RECEIVE));
        }
        if self.sending && farewell.is_none() {
            io.reactor.cancel(self.token(kind::SEND));
        }
        self.phase = Phase::Closing { since: io.now, warned: false, farewell };
        self.device.close(io.now);
        self.exchange_with_device(io);
    }

    /// Whether what is being sent should still reach the peer: not if it does not listen.
    fn ends_politely(&self) -> bool {
        match self.exporter.end() {
            Some(
                SessionEnd::DeviceGone
                | SessionEnd::DuplicateSeqnum(_)
                | SessionEnd::Local(_)
                | SessionEnd::Malformed(_)
                | SessionEnd::WrongDeviceId { .. },
            ) => true,
            Some(
                SessionEnd::GoneUnread
                | SessionEnd::Network(_)
                | SessionEnd::Overload { .. }
                | SessionEnd::PeerClosed
                | SessionEnd::Truncated,
            )
            | None => false,
        }
    }

    fn continue_closing(&mut self, io: &mut Io<'_>) {
        let Phase::Closing { since, .. } = self.phase else { return };
        let elapsed = io.now.saturating_sub(since);
        if self.sending && elapsed >= FLUSH_TIMEOUT {
            io.reactor.cancel(self.token(kind::SEND));
        }
        self.part_from_peer(io);
        let device_closed =
            matches!(self.device.state(), DeviceState::Closed | DeviceState::Failed(_));
        if device_closed && self.polling {
            io.reactor.cancel(self.token(kind::DEVICE));
        }
        let Phase::Closing { warned, farewell, .. } = &mut self.phase else { return };
        let parted = farewell.as_ref().is_none_or(|farewell| farewell.is_over(io.now));
        if device_closed && parted && !self.receiving && !self.sending && !self.polling {
            self.phase = Phase::Closed;
        } else if elapsed >= CLOSE_TIMEOUT && !std::mem::replace(warned, true) {
            tracing::warn!(
                bus_id = self.bus_id,
                "the device has not been given back for {} s: a call into its driver hangs",
                elapsed.as_secs()
            );
        }
    }

    /// Reads what the peer still sends, also while our last answers leave: it may wait for that
    /// before it reads them.
    fn part_from_peer(&mut self, io: &mut Io<'_>) {
        let token = self.token(kind::RECEIVE);
        let Phase::Closing { farewell: Some(farewell), .. } = &mut self.phase else { return };
        if !self.sending {
            farewell.finish_sending(&self.socket, io);
        }
        if farewell.is_over(io.now) {
            if farewell.is_reading() {
                io.reactor.cancel(token);
            } else {
                farewell.give_up();
            }
        } else if !self.receiving {
            let buffer = self.receive_buffer.take();
            let buffer =
                buffer.or_else(|| io.arena.take(limits::RECEIVE_BUFFER_BYTES).map(Block::from));
            let Some(block) = buffer else { return farewell.give_up() };
            self.receiving = true;
            farewell.read(&self.socket, block, token, io);
        }
    }
}

fn ahead_report(level: AheadLevel) -> AheadReport {
    AheadReport {
        limit_us: meter::micros(level.limit),
        level_us: meter::micros(level.level),
        low_us: level.low.map(meter::micros),
        dry: level.dry,
        dry_us: meter::micros(level.dry_time),
    }
}
