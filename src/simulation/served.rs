//! The whole serving side of a connection: the session that the server runs, over the simulated
//! reactor and its network.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use usbip_fast_native::reactor::ReactorCounters;
use usbip_fast_native::socket::Direction;
use usbip_fast_native::{
    Arena, Block, Completion, Doorbell, Handle, Op, Outcome, Piece, Reactor, Token, Turn,
};

use crate::device::Device;
use crate::reactor::simulated::{Conditions, World};
use crate::serve::session::{Io, Session, kind};
use crate::serve::table::Key;
use crate::session::exporter::SessionEnd;
use crate::simulation::chaos::Notes;
use crate::simulation::descriptors::{DEVICE_ID, Shape};
use crate::simulation::oracle::{Broken, Oracle, Seen};
use crate::simulation::random::Random;
use crate::simulation::side::Side;
use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;
use crate::wire::op::IMPORT_REPLY_BYTES;

/// A session of the server, its network, and the client's socket.
pub struct Served {
    world: World,
    reactor: Watched,
    client: ClientSocket,
    session: Option<Session>,
    arena: Arena,
    notes: Rc<RefCell<Notes>>,
    completions: Vec<Completion>,
    /// The session has work left over its budget.
    again: bool,
    /// The world does not look at the session before this, unless something happens.
    wait_until: Duration,
    end: Option<SessionEnd>,
    stopped: bool,
    /// Sent by the session and not read by the client.
    unread: VecDeque<u8>,
    /// Of the reply to the import, bytes that the session has not sent, and that the client has
    /// not read.
    preamble: (usize, usize),
}

/// The reactor of the session, which notes what the session sends.
struct Watched {
    inner: Box<dyn Reactor>,
    /// Each send in bytes, what was sent before left out.
    sends: Vec<Vec<u8>>,
    /// Bytes of the next send that were in the last one already.
    repeated: usize,
}

/// The client's end.
struct ClientSocket {
    reactor: Box<dyn Reactor>,
    socket: Handle,
    arena: Arena,
    outgoing: VecDeque<u8>,
    sending: bool,
    receiving: bool,
    /// To be shut down when everything is sent.
    closing: bool,
    failed: bool,
    received: Vec<u8>,
}

/// Bytes that the client lets queue up.
const CLIENT_QUEUE_BYTES: usize = 100_000;

const SEND: Token = Token::new(1, 0, 0);
const RECEIVE: Token = Token::new(2, 0, 0);

impl Served {
    /// An import that has just been asked for.
    #[must_use]
    pub fn new(
        device: Box<dyn Device>,
        shape: &Shape,
        notes: Rc<RefCell<Notes>>,
        random: &mut Random,
    ) -> Self {
        let conditions = Conditions {
            latency_least: Duration::from_micros(20),
            latency_spread: Duration::from_micros(random.pick(&[0, 200, 2000])),
            completion_delay: Duration::from_micros(random.pick(&[0, 50])),
            short_one_in: random.pick(&[0, 2, 5]),
            window_bytes: random.pick(&[100, 4000, 60_000, 256 * 1024]),
            loss_one_in: random.pick(&[0, 0, 0, 200]),
        };
        let world = World::new(random.draw(), conditions);
        let (near, far) = world.pair();
        let key = Key { index: 0, generation: 0 };
        let peer = ([127, 0, 0, 1], 1).into();
        let description = description(shape);
        let session = Session::new(key, peer, near, device, &description, world.now());
        Self {
            reactor: Watched { inner: world.reactor(), sends: Vec::new(), repeated: 0 },
            client: ClientSocket::new(world.reactor(), far),
            world,
            session: Some(session),
            arena: Arena::new(512 * 1024 * 1024),
            notes,
            completions: Vec::new(),
            again: true,
            wait_until: Duration::ZERO,
            end: None,
            stopped: conditions.loss_one_in > 0,
            unread: VecDeque::new(),
            preamble: (IMPORT_REPLY_BYTES, IMPORT_REPLY_BYTES),
        }
    }
}

impl Side for Served {
    fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    fn was_stopped(&self) -> bool {
        self.stopped
    }

    fn stop(&mut self, _: SessionEnd) {
        self.stopped = true;
        if let Some(session) = &mut self.session {
            session.stop("told to");
            self.again = true;
        }
    }

    fn client_sends(&mut self, bytes: &[u8]) {
        self.client.outgoing.extend(bytes);
    }

    fn client_has_room(&self) -> bool {
        self.client.outgoing.len() < CLIENT_QUEUE_BYTES
    }

    fn client_closes(&mut self) {
        self.client.closing = true;
    }

    /// The network decides how many bytes come.
    fn client_reads(&mut self, _: usize) -> Result<usize, Broken> {
        self.client.receive();
        let count = self.client.received.len();
        let sent = self.unread.len();
        if count > sent || !self.unread.drain(..count).eq(self.client.received.drain(..)) {
            return Err(format!("the client reads {count} bytes that are not the {sent} sent"));
        }
        let preamble = self.preamble.1.min(count);
        self.preamble.1 -= preamble;
        Ok(count - preamble)
    }

    fn wait(&mut self, time: Duration) {
        self.wait_until = self.world.now() + time;
    }

    fn hasten(&mut self) {}

    fn is_quiet(&self) -> bool {
        self.client.outgoing.is_empty() && !self.client.sending && self.unread.is_empty()
    }

    fn turn(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        given: &mut Vec<(usize, Seen)>,
    ) -> Result<(), Broken> {
        self.client.turn(&self.world);
        let Some(mut session) = self.session.take() else { return Ok(()) };
        let patience = Duration::from_micros(random.below(400).into());
        let until = self.wait_until.max(self.world.now() + patience);
        let wake = session.deadline().into_iter().chain([until]).min();
        let deadline = if self.again { Some(Duration::ZERO) } else { wake };
        let mut completions = std::mem::take(&mut self.completions);
        self.reactor.turn(deadline, &mut completions);
        let now = self.world.now();
        for completion in completions.drain(..) {
            self.complete(&mut session, completion, oracle, now)?;
        }
        self.completions = completions;
        let open = !session.is_ending();
        let mut io = Io { reactor: &mut self.reactor, arena: &self.arena, now };
        self.again = session.settle(false, &mut io);
        if self.notes.borrow().gone && open {
            oracle.told_gone();
        }
        for bytes in std::mem::take(&mut self.reactor.sends) {
            let preamble = self.preamble.0.min(bytes.len());
            self.preamble.0 -= preamble;
            given.extend(oracle.given(&bytes[preamble..])?);
            self.unread.extend(bytes);
        }
        oracle.look_at_device()?;
        if !session.is_closed() {
            self.session = Some(session);
            return Ok(());
        }
        let epitaph = session.into_epitaph(now);
        oracle.judge(Some(&epitaph.end), self.stopped)?;
        self.end = Some(epitaph.end);
        Ok(())
    }

    fn dismantle(mut self: Box<Self>, _: &mut Random) -> Result<(), Broken> {
        // What it sent last is for the client to read.
        for _ in 0..1000 {
            self.client_reads(usize::MAX)?;
            self.client.turn(&self.world);
            self.reactor.turn(Some(self.world.now() + Duration::from_micros(100)), &mut Vec::new());
        }
        let polite = matches!(self.end, Some(SessionEnd::DeviceGone)) && !self.stopped;
        if polite && !self.unread.is_empty() && !self.client.failed {
            return Err(format!("{} bytes of the last answers are lost", self.unread.len()));
        }
        match self.arena.lent_blocks() {
            0 => Ok(()),
            blocks => Err(format!("{blocks} blocks leaked")),
        }
    }
}

impl Served {
    fn complete(
        &mut self,
        session: &mut Session,
        completion: Completion,
        oracle: &mut Oracle,
        now: Duration,
    ) -> Result<(), Broken> {
        let is_receive = completion.token.kind() == kind::RECEIVE;
        let pieces = completion.pieces.iter().flatten();
        let asked: usize = pieces.map(|piece| piece.range.len()).sum();
        let moved = match completion.result {
            Ok(Outcome::Moved(count)) => Some(count),
            _ => None,
        };
        if let (false, Some(count)) = (is_receive, moved) {
            self.reactor.repeated = asked - count;
        }
        let over = session.is_ending();
        let mut io = Io { reactor: &mut self.reactor, arena: &self.arena, now };
        session.handle(completion, &mut io);
        match moved {
            Some(_) if !is_receive || over => Ok(()),
            Some(0) => {
                oracle.end_of_stream();
                Ok(())
            }
            Some(count) => oracle.taken(count),
            None => Ok(()),
        }
    }
}

impl Reactor for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn submit(&mut self, op: Op, token: Token) {
        if let Op::Send { pieces, .. } = &op {
            let mut bytes = Vec::new();
            for Piece { block, range } in pieces.iter().flatten() {
                bytes.extend_from_slice(&block.as_ref()[range.clone()]);
            }
            let repeated = std::mem::take(&mut self.repeated);
            bytes.drain(..repeated.min(bytes.len()));
            if !bytes.is_empty() {
                self.sends.push(bytes);
            }
        }
        self.inner.submit(op, token);
    }

    fn cancel(&mut self, token: Token) {
        self.inner.cancel(token);
    }

    fn shut_down_sending(&mut self, socket: &Handle) {
        self.inner.shut_down_sending(socket);
    }

    fn turn(&mut self, deadline: Option<Duration>, completions: &mut Vec<Completion>) -> Turn {
        self.inner.turn(deadline, completions)
    }

    fn doorbell(&self) -> Doorbell {
        self.inner.doorbell()
    }

    fn counters(&self) -> ReactorCounters {
        self.inner.counters()
    }
}

impl ClientSocket {
    fn new(reactor: Box<dyn Reactor>, socket: Handle) -> Self {
        Self {
            reactor,
            socket,
            arena: Arena::new(64 * 1024 * 1024),
            outgoing: VecDeque::new(),
            sending: false,
            receiving: false,
            closing: false,
            failed: false,
            received: Vec::new(),
        }
    }

    /// The connection is lost, or at its end.
    fn fail(&mut self) {
        self.failed = true;
        self.outgoing.clear();
        self.received.clear();
    }

    fn piece(&self, bytes: usize) -> Piece {
        let block = self.arena.take(bytes).expect("the client has memory");
        Piece { block: Block::from(block), range: 0..bytes }
    }

    fn receive(&mut self) {
        if self.receiving || self.failed {
            return;
        }
        self.receiving = true;
        let pieces = [Some(self.piece(64 * 1024)), None];
        self.reactor.submit(Op::Receive { socket: self.socket.clone(), pieces }, RECEIVE);
    }

    fn send(&mut self) {
        if self.sending || self.failed || self.outgoing.is_empty() {
            return;
        }
        let count = self.outgoing.len().min(64 * 1024);
        let mut piece = self.piece(count);
        let (front, back) = self.outgoing.as_slices();
        let first = front.len().min(count);
        let room = piece.block.as_mut();
        room[..first].copy_from_slice(&front[..first]);
        room[first..count].copy_from_slice(&back[..count - first]);
        self.sending = true;
        self.reactor.submit(
            Op::Send { socket: self.socket.clone(), pieces: [Some(piece), None], quiet: false },
            SEND,
        );
    }

    fn turn(&mut self, world: &World) {
        self.send();
        if self.closing && self.outgoing.is_empty() && !self.sending {
            self.closing = false;
            world.shutdown(&self.socket, Direction::Send);
        }
        let mut completions = Vec::new();
        self.reactor.turn(Some(Duration::ZERO), &mut completions);
        for completion in completions {
            let is_send = completion.token == SEND;
            match (is_send, completion.result) {
                (true, Ok(Outcome::Moved(count))) if !self.failed => {
                    self.outgoing.drain(..count);
                }
                (false, Ok(Outcome::Moved(count))) if count > 0 => {
                    let piece = completion.pieces[0].as_ref().expect("it was given one");
                    self.received.extend_from_slice(&piece.block.as_ref()[..count]);
                }
                (false, Ok(Outcome::Moved(_))) if !self.failed => {
                    // It closes as well, as Linux's does.
                    self.fail();
                    world.shutdown(&self.socket, Direction::Send);
                }
                (true, _) | (false, _) => self.fail(),
            }
            if is_send {
                self.sending = false;
            } else {
                self.receiving = false;
            }
        }
    }
}

/// The simulated device as a server lists it.
fn description(shape: &Shape) -> DeviceDescription {
    DeviceDescription {
        path: "/sys/bus/usb/devices/3-9".into(),
        bus_id: "3-9".into(),
        location: String::new(),
        bus_number: DEVICE_ID >> 16,
        device_number: DEVICE_ID & 0xffff,
        speed: Speed::High,
        vendor: 0x0525,
        product: 0xa4a0,
        release: 0x0100,
        class: Class::default(),
        configuration: 1,
        configurations: 2,
        interfaces: vec![Class::default(); 2],
        manufacturer_name: String::new(),
        product_name: String::new(),
        serial: String::new(),
        descriptors: shape.descriptors.clone(),
    }
}
