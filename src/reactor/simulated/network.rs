//! The simulated network: sockets, what is on the way between them, and what waits for it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use usbip_fast_native::handle::Watcher;
use usbip_fast_native::socket::Direction;
use usbip_fast_native::{Completion, Handle, Interest, Op, OsError, Outcome, Piece, Token};

use crate::reactor::simulated::{Conditions, Random};
use usbip_fast_native::op::numbers::{
    EBADF, ECANCELED, ECONNREFUSED, ECONNRESET, EINVAL, ENOTCONN, EPIPE, POLLERR, POLLHUP, POLLIN,
    POLLOUT,
};

/// Which reactor, and which of its operations.
pub(super) type Key = (u32, Token);

/// Everything that is simulated.
pub(super) struct Network {
    pub(super) now: Duration,
    random: Random,
    conditions: Conditions,
    endpoints: BTreeMap<u64, Endpoint>,
    listeners: BTreeMap<u16, u64>,
    /// By time, then by order of making.
    events: BTreeMap<(Duration, u64), Event>,
    /// `None` once the result is on its way.
    operations: BTreeMap<Key, Option<Op>>,
    pub(super) done: BTreeMap<u32, Vec<Completion>>,
    graveyard: Rc<Graveyard>,
    next_event: u64,
    next_endpoint: u64,
    next_port: u16,
}

/// Sockets whose last handle was dropped. They are buried later, because a handle may be dropped
/// while the network is busy.
#[derive(Default)]
struct Graveyard(RefCell<Vec<u64>>);

impl Watcher for Graveyard {
    fn forget(&self, _fd: RawFd, serial: u64) {
        self.0.borrow_mut().push(serial);
    }
}

struct Endpoint {
    role: Role,
    address: SocketAddr,
    reset_on_close: bool,
    /// Operations that wait for something to change here, in order of submission.
    waiting: Vec<Key>,
}

enum Role {
    Fresh,
    Listening { backlog: usize, arrived: VecDeque<u64> },
    Connecting,
    Refused,
    Connected(Stream),
}

struct Stream {
    peer: u64,
    peer_address: SocketAddr,
    incoming: VecDeque<u8>,
    /// Bytes on the way here.
    under_way: usize,
    /// Nothing sent here may arrive before this.
    last_arrival: Duration,
    error: Option<OsError>,
    /// The connection was reset. Unlike the error, which is reported once, that stays.
    reset: bool,
    /// Nothing more will arrive.
    ended: bool,
    /// Nothing more may be sent.
    closed: bool,
}

enum Event {
    Deliver(Key, Completion),
    Look(u64),
    Bytes { from: u64, to: u64, bytes: Vec<u8> },
    End { to: u64 },
    Reset { to: u64 },
    Knock { client: u64, port: u16 },
    Answer { client: u64, server: Option<u64> },
}

/// A full queue of a listener makes a client knock again after this.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);

/// Lowest serial of a simulated handle.
const FIRST_ENDPOINT: u64 = 1 << 63;

impl Network {
    pub(super) fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            now: Duration::from_secs(1),
            random: Random::new(seed),
            conditions,
            endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            events: BTreeMap::new(),
            operations: BTreeMap::new(),
            done: BTreeMap::new(),
            graveyard: Rc::default(),
            next_event: 0,
            next_endpoint: FIRST_ENDPOINT,
            next_port: 1024,
        }
    }

    // Sockets.

    pub(super) fn add_fresh(&mut self) -> Handle {
        let id = self.add(Role::Fresh);
        self.handle(id)
    }

    pub(super) fn add_listener(&mut self, backlog: u16) -> (Handle, SocketAddr) {
        let backlog = usize::from(backlog);
        let id = self.add(Role::Listening { backlog, arrived: VecDeque::new() });
        let address = self.endpoints[&id].address;
        self.listeners.insert(address.port(), id);
        (self.handle(id), address)
    }

    pub(super) fn add_pair(&mut self) -> (Handle, Handle) {
        let (one, two) = (self.add(Role::Fresh), self.add(Role::Fresh));
        self.join(one, two);
        (self.handle(one), self.handle(two))
    }

    pub(super) fn set_reset_on_close(&mut self, socket: &Handle) {
        let id = socket.watch_serial();
        self.endpoints.get_mut(&id).expect("a socket of this network").reset_on_close = true;
    }

    pub(super) fn shut_down(&mut self, socket: &Handle, direction: Direction) {
        let id = socket.watch_serial();
        let Some(stream) = self.stream_mut(id) else { return };
        let peer = stream.peer;
        if direction != Direction::Receive && !std::mem::replace(&mut stream.closed, true) {
            self.send_event(peer, Event::End { to: peer });
        }
        if direction != Direction::Send {
            self.stream_mut(id).expect("still connected").ended = true;
        }
        self.look(id);
    }

    fn add(&mut self, role: Role) -> u64 {
        let id = self.next_endpoint;
        self.next_endpoint += 1;
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.next_port);
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        let endpoint = Endpoint { role, address, reset_on_close: false, waiting: Vec::new() };
        self.endpoints.insert(id, endpoint);
        id
    }

    fn handle(&self, id: u64) -> Handle {
        let graveyard: Rc<dyn Watcher> = Rc::clone(&self.graveyard) as Rc<dyn Watcher>;
        Handle::simulated(id, Rc::downgrade(&graveyard)).expect("the process has descriptors left")
    }

    fn join(&mut self, one: u64, two: u64) {
        for (id, peer) in [(one, two), (two, one)] {
            let peer_address = self.endpoints[&peer].address;
            let stream = Stream {
                peer,
                peer_address,
                incoming: VecDeque::new(),
                under_way: 0,
                last_arrival: self.now,
                error: None,
                reset: false,
                ended: false,
                closed: false,
            };
            self.endpoints.get_mut(&id).expect("both exist").role = Role::Connected(stream);
        }
    }

    fn stream_mut(&mut self, id: u64) -> Option<&mut Stream> {
        match &mut self.endpoints.get_mut(&id)?.role {
            Role::Connected(stream) => Some(stream),
            _ => None,
        }
    }

    /// Closes the sockets whose handles are gone.
    pub(super) fn bury(&mut self) {
        loop {
            let Some(id) = self.graveyard.0.borrow_mut().pop() else { return };
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(endpoint) = self.endpoints.remove(&id) else { return };
        assert!(endpoint.waiting.is_empty(), "an operation holds the handle of its socket");
        match endpoint.role {
            Role::Listening { arrived, .. } => {
                self.listeners.remove(&endpoint.address.port());
                arrived.into_iter().for_each(|server| self.close(server));
            }
            Role::Connected(stream) => {
                // Unread bytes would be lost without a word; TCP resets then.
                let rude = endpoint.reset_on_close || !stream.incoming.is_empty();
                let to = stream.peer;
                if rude {
                    self.send_event(to, Event::Reset { to });
                } else if !stream.closed {
                    self.send_event(to, Event::End { to });
                }
            }
            Role::Fresh | Role::Connecting | Role::Refused => {}
        }
    }

    // Operations.

    pub(super) fn submit(&mut self, key: Key, op: Op) {
        assert_ne!(key.1.kind(), Token::RESERVED_KIND, "kind 0xff belongs to the reactor");
        let id = op.handle().watch_serial();
        let start = match &op {
            Op::Connect { address, .. } => Some(address.port()),
            _ => None,
        };
        let before = self.operations.insert(key, Some(op));
        assert!(before.is_none(), "a token in flight is not submitted again");
        let Some(endpoint) = self.endpoints.get_mut(&id) else {
            return self.finish(key, Err(OsError(EBADF)));
        };
        endpoint.waiting.push(key);
        if let Some(port) = start {
            if !matches!(endpoint.role, Role::Fresh) {
                return self.finish(key, Err(OsError(EINVAL)));
            }
            endpoint.role = Role::Connecting;
            let at = self.now + self.latency();
            self.schedule(at, Event::Knock { client: id, port });
        }
        // A transfer behind another one of the same direction waits for its turn by itself,
        // because it is found blocked as well.
        self.attempt(key, id);
    }

    pub(super) fn cancel(&mut self, key: Key) {
        if let Some(Some(_)) = self.operations.get(&key) {
            self.finish(key, Err(OsError(ECANCELED)));
        }
    }

    /// Forgets everything of a reactor that is gone.
    pub(super) fn remove_reactor(&mut self, reactor: u32) {
        let of_it = |key: &Key| key.0 == reactor;
        self.operations.retain(|key, _| !of_it(key));
        self.events.retain(|_, event| !matches!(event, Event::Deliver(key, _) if of_it(key)));
        for endpoint in self.endpoints.values_mut() {
            endpoint.waiting.retain(|key| !of_it(key));
        }
        self.done.remove(&reactor);
    }

    fn finish(&mut self, key: Key, result: Result<Outcome, OsError>) {
        let op = self.operations.get_mut(&key).and_then(Option::take);
        let op = op.expect("an operation finishes once");
        if let Some(endpoint) = self.endpoints.get_mut(&op.handle().watch_serial()) {
            endpoint.waiting.retain(|&waiting| waiting != key);
        }
        let completion = Completion { token: key.1, result, pieces: op.into_pieces() };
        let at = self.now + self.random.below(self.conditions.completion_delay);
        self.schedule(at, Event::Deliver(key, completion));
    }

    /// Tries everything that waits at a socket.
    fn look(&mut self, id: u64) {
        let waiting = self.endpoints.get(&id).map_or_else(Vec::new, |end| end.waiting.clone());
        for key in waiting {
            self.attempt(key, id);
        }
    }

    fn attempt(&mut self, key: Key, id: u64) {
        let slot = self.operations.get_mut(&key).expect("it is in flight");
        let Some(mut op) = slot.take() else { return };
        let result = match &mut op {
            Op::Accept { .. } => self.accept(id),
            Op::Connect { .. } => self.connected(id),
            Op::Receive { pieces, .. } => self.receive(id, pieces),
            Op::Send { pieces, .. } => self.send(id, pieces),
            Op::Poll { interest, .. } => self.poll(id, *interest),
        };
        self.operations.insert(key, Some(op));
        if let Some(result) = result {
            self.finish(key, result);
        }
    }

    fn accept(&mut self, id: u64) -> Option<Result<Outcome, OsError>> {
        let endpoint = self.endpoints.get_mut(&id)?;
        let Role::Listening { arrived, .. } = &mut endpoint.role else {
            return Some(Err(OsError(EINVAL)));
        };
        let server = arrived.pop_front()?;
        let peer = match &self.endpoints[&server].role {
            Role::Connected(stream) => stream.peer_address,
            _ => unreachable!("only connected sockets are queued"),
        };
        Some(Ok(Outcome::Accepted(self.handle(server), peer)))
    }

    fn connected(&mut self, id: u64) -> Option<Result<Outcome, OsError>> {
        match self.endpoints.get(&id)?.role {
            Role::Connected(_) => Some(Ok(Outcome::Connected)),
            Role::Refused => Some(Err(OsError(ECONNREFUSED))),
            _ => None,
        }
    }

    fn receive(
        &mut self,
        id: u64,
        pieces: &mut [Option<Piece>; 2],
    ) -> Option<Result<Outcome, OsError>> {
        let wanted = wanted(pieces);
        let Some(stream) = self.stream_mut(id) else { return Some(Err(OsError(ENOTCONN))) };
        if stream.incoming.is_empty() {
            return match stream.error.take() {
                Some(error) => Some(Err(error)),
                None if stream.ended => Some(Ok(Outcome::Moved(0))),
                None => None,
            };
        }
        let (most, peer) = (wanted.min(stream.incoming.len()), stream.peer);
        let count = self.random.portion(most, self.conditions.short_one_in);
        let stream = self.stream_mut(id).expect("still connected");
        let mut filled = 0;
        for piece in pieces.iter_mut().flatten() {
            let end = piece.range.end.min(piece.range.start + count - filled);
            let room = &mut piece.block.as_mut()[piece.range.start..end];
            stream.incoming.read_exact(room).expect("as many bytes are there");
            filled += room.len();
        }
        // The peer learns of the room some time later.
        let at = self.now + self.latency();
        self.schedule(at, Event::Look(peer));
        Some(Ok(Outcome::Moved(count)))
    }

    fn send(
        &mut self,
        id: u64,
        pieces: &mut [Option<Piece>; 2],
    ) -> Option<Result<Outcome, OsError>> {
        let wanted = wanted(pieces);
        let window = self.conditions.window_bytes;
        let Some(stream) = self.stream_mut(id) else { return Some(Err(OsError(EPIPE))) };
        if let Some(error) = stream.error.take() {
            return Some(Err(error));
        }
        if stream.closed {
            return Some(Err(OsError(EPIPE)));
        }
        let to = stream.peer;
        let room = match self.stream_mut(to) {
            Some(peer) => window.saturating_sub(peer.incoming.len() + peer.under_way),
            // Nobody is there; the sender does not know that yet.
            None => window,
        };
        if room == 0 {
            return None;
        }
        let count = self.random.portion(wanted.min(room), self.conditions.short_one_in);
        let mut bytes = Vec::with_capacity(wanted);
        for piece in pieces.iter().flatten() {
            bytes.extend_from_slice(&piece.block.as_ref()[piece.range.clone()]);
        }
        bytes.truncate(count);
        if let Some(peer) = self.stream_mut(to) {
            peer.under_way += count;
        }
        if self.random.one_in(self.conditions.loss_one_in) {
            self.send_event(to, Event::Reset { to });
            self.send_event(id, Event::Reset { to: id });
        } else {
            self.send_event(to, Event::Bytes { from: id, to, bytes });
        }
        Some(Ok(Outcome::Moved(count)))
    }

    fn poll(&mut self, id: u64, interest: Interest) -> Option<Result<Outcome, OsError>> {
        let bits = self.bits(id, interest);
        (bits != 0).then_some(Ok(Outcome::Ready(bits)))
    }

    fn bits(&mut self, id: u64, interest: Interest) -> u32 {
        let window = self.conditions.window_bytes;
        let Some(endpoint) = self.endpoints.get(&id) else { return POLLERR };
        let (readable, writable, up) = match &endpoint.role {
            Role::Fresh => (false, true, false),
            Role::Connecting => (false, false, true),
            Role::Refused => return POLLERR | POLLHUP,
            Role::Listening { arrived, .. } => (!arrived.is_empty(), false, true),
            Role::Connected(stream) => {
                let readable = !stream.incoming.is_empty() || stream.ended;
                let taken = match self.endpoints.get(&stream.peer).map(|peer| &peer.role) {
                    Some(Role::Connected(peer)) => peer.incoming.len() + peer.under_way,
                    _ => 0,
                };
                (readable, taken < window, !(stream.ended && stream.closed))
            }
        };
        let wanted = match interest {
            Interest::Readable if readable => POLLIN,
            Interest::Writable if writable => POLLOUT,
            _ => 0,
        };
        if up { wanted } else { wanted | POLLHUP }
    }

    // Time.

    /// When something will happen next.
    pub(super) fn next_event(&self) -> Option<Duration> {
        self.events.keys().next().map(|&(at, _)| at)
    }

    /// Lets everything happen that is due.
    pub(super) fn run_due(&mut self) {
        self.bury();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let event = entry.remove();
            self.handle_event(event);
            self.bury();
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Deliver(key, completion) => {
                self.operations.remove(&key);
                self.done.entry(key.0).or_default().push(completion);
            }
            Event::Look(id) => self.look(id),
            Event::Bytes { from, to, bytes } => match self.stream_mut(to) {
                Some(stream) => {
                    stream.under_way -= bytes.len();
                    if !stream.reset {
                        stream.incoming.extend(bytes);
                    }
                    self.look(to);
                }
                None => self.send_event(from, Event::Reset { to: from }),
            },
            Event::End { to } => {
                let Some(stream) = self.stream_mut(to) else { return };
                stream.ended = true;
                self.look(to);
            }
            Event::Reset { to } => {
                let Some(stream) = self.stream_mut(to) else { return };
                if !std::mem::replace(&mut stream.reset, true) {
                    stream.error = Some(OsError(ECONNRESET));
                }
                (stream.ended, stream.closed) = (true, true);
                self.look(to);
            }
            Event::Knock { client, port } => self.handle_knock(client, port),
            Event::Answer { client, server } => self.handle_answer(client, server),
        }
    }

    fn handle_knock(&mut self, client: u64, port: u16) {
        let at = self.now + self.latency();
        let Some(&listener) = self.listeners.get(&port) else {
            return self.schedule(at, Event::Answer { client, server: None });
        };
        let role = &self.endpoints[&listener].role;
        let Role::Listening { backlog, arrived } = role else {
            unreachable!("the port is of a listener")
        };
        if arrived.len() > *backlog {
            let again = self.now + KNOCK_AGAIN;
            return self.schedule(again, Event::Knock { client, port });
        }
        if !self.endpoints.contains_key(&client) {
            return;
        }
        let server = self.add(Role::Fresh);
        self.schedule(at, Event::Answer { client, server: Some(server) });
        self.join(client, server);
        // The server's side is there at once, the client's when the answer has arrived.
        self.endpoints.get_mut(&client).expect("checked above").role = Role::Connecting;
        let listening = self.endpoints.get_mut(&listener).expect("it listens");
        if let Role::Listening { arrived, .. } = &mut listening.role {
            arrived.push_back(server);
        }
        self.look(listener);
    }

    fn handle_answer(&mut self, client: u64, server: Option<u64>) {
        let Some(endpoint) = self.endpoints.get_mut(&client) else {
            // The client has gone meanwhile.
            if let Some(server) = server {
                self.send_event(server, Event::Reset { to: server });
            }
            return;
        };
        endpoint.role = Role::Refused;
        if let Some(server) = server {
            self.join_client(client, server);
        }
        self.look(client);
    }

    fn join_client(&mut self, client: u64, server: u64) {
        let there = self.endpoints.get(&server).map(|endpoint| endpoint.address);
        let stream = Stream {
            peer: server,
            peer_address: there.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
            incoming: VecDeque::new(),
            under_way: 0,
            last_arrival: self.now,
            error: there.is_none().then_some(OsError(ECONNRESET)),
            reset: there.is_none(),
            ended: there.is_none(),
            closed: there.is_none(),
        };
        self.endpoints.get_mut(&client).expect("it is there").role = Role::Connected(stream);
    }

    /// Sends something to a socket, behind all that is on the way there.
    fn send_event(&mut self, to: u64, event: Event) {
        let mut at = self.now + self.latency();
        if let Some(stream) = self.stream_mut(to) {
            at = at.max(stream.last_arrival);
            stream.last_arrival = at;
        }
        self.schedule(at, event);
    }

    fn latency(&mut self) -> Duration {
        self.conditions.latency_least + self.random.below(self.conditions.latency_spread)
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((at, self.next_event), event);
    }
}

fn wanted(pieces: &[Option<Piece>; 2]) -> usize {
    let wanted = pieces.iter().flatten().map(|piece| piece.range.len()).sum();
    assert!(wanted > 0, "a transfer has at least one byte");
    wanted
}
