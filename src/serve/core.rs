//! One core of the server: its connections, and on core 0 the door and the exports.

mod report;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use usbip_fast_native::{Arena, Completion, Doorbell, Handle, Outcome, Reactor};

use self::report::Past;
use crate::device::{Opener, Remains};
use crate::ledger::policy::Entry;
use crate::limits;
use crate::reactor::mailbox::{Receiver, Sender};
use crate::reactor::outbox::Outbox;
use crate::reactor::turn::{self, Next};
use crate::serve::admin;
use crate::serve::control;
use crate::serve::door::{self, Door};
use crate::serve::exports::Claim;
use crate::serve::greeting::{Greeting, Progress};
use crate::serve::session::{Epitaph, Io, Session, kind};
use crate::serve::table::{Key, Table};
use crate::serve::watch::Found;
use crate::session::handshake::Request;
use crate::telemetry::report::{CoreReport, SessionReport};
use crate::usb::identity::DeviceDescription;
use crate::wire::op;

/// What cores tell each other.
pub enum Message {
    /// To the core of a new session.
    Start(Box<NewSession>),
    /// To core 0: the devices of this machine, hubs and all.
    Present(Vec<Arc<Found>>),
    /// To core 0: the configuration file's rules, or why they could not be read.
    FileRules(Result<Vec<Entry>, String>),
    /// To core 0: a session is over.
    Ended {
        /// The core that had it.
        core: usize,
        /// The device.
        bus_id: String,
        /// What goes back to the export.
        remains: Remains,
    },
    /// To a core other than 0: figures are asked for.
    Report {
        /// Names the question.
        round: u64,
    },
    /// To core 0: the figures of a core.
    Reported {
        /// From the question.
        round: u64,
        /// The core.
        report: Box<CoreReport>,
        /// Its sessions.
        sessions: Vec<SessionReport>,
    },
    /// To all cores: end the sessions, then stop.
    Stop,
    /// To core 0: this core has stopped.
    Stopped,
}

/// A session on its way to its core.
pub struct NewSession {
    /// The connection; its request has been read, nothing has been answered.
    pub socket: OwnedFd,
    /// Who it is.
    pub peer: SocketAddr,
    /// Opens the device.
    pub opener: Opener,
    /// The device.
    pub description: DeviceDescription,
    /// Code of the answer.
    pub reply_code: u16,
}

/// How one core is set up.
pub struct CoreSetup {
    /// 0 for the core with the door.
    pub index: usize,
    /// Messages for this core.
    pub mail: Receiver<Message>,
    /// Mailboxes of all cores by index; the own one is there and not used.
    pub cores: Vec<Sender<Message>>,
    /// The bell that helper threads of devices ring.
    pub doorbell: Doorbell,
    /// Only on core 0.
    pub door: Option<Door>,
}

/// How soon mail for a core that was behind is tried again: it has a thousand messages to read.
const MAIL_RETRY: Duration = Duration::from_millis(1);

/// One core of the server.
pub struct Core {
    index: usize,
    mail: Receiver<Message>,
    outbox: Outbox<Message>,
    /// When what waits in the outbox is tried again.
    retry_mail: Option<Duration>,
    doorbell: Doorbell,
    door: Option<Door>,
    arena: Arena,
    connections: Table<Connection>,
    sessions: Vec<Key>,
    /// Greetings by the time at which theirs is over; they may be gone already.
    greetings: BTreeSet<(Duration, Key)>,
    stopping: bool,
    /// Core 0 has been told that this core has stopped, or will be as soon as its mailbox has room.
    has_told_stopped: bool,
    /// When the core has begun to run.
    started: Option<Duration>,
    /// Core 0 asks for figures, by this number.
    report_wanted: Option<u64>,
    past: Past,
}

enum Connection {
    Greeting(Greeting),
    Session(Box<Session>),
}

impl Core {
    /// A core that has not run yet.
    #[must_use]
    pub fn new(setup: CoreSetup) -> Self {
        let CoreSetup { index, mail, cores, doorbell, door } = setup;
        Self {
            index,
            mail,
            outbox: Outbox::new(cores),
            retry_mail: None,
            doorbell,
            door,
            arena: Arena::new(limits::ARENA_BYTES),
            connections: Table::new(),
            sessions: Vec::new(),
            greetings: BTreeSet::new(),
            stopping: false,
            has_told_stopped: false,
            started: None,
            report_wanted: None,
            past: Past::default(),
        }
    }

    /// Whether the core ended because its time to stop was over, with devices not given back.
    #[must_use]
    pub fn was_cut_short(&self) -> bool {
        self.door.as_ref().is_some_and(Door::was_cut_short)
    }

    /// Messages sent to other cores: a few for each session, none for a URB.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.outbox.sent()
    }

    fn handle_door(&mut self, completion: Completion, reactor: &mut dyn Reactor, now: Duration) {
        let door = self.door.as_mut().expect("only core 0 has tokens of the door");
        if completion.token.kind() == door::kind::SIGNAL {
            door.handle_signal(reactor, now);
            return;
        }
        let listener = completion.token.index();
        match completion.result {
            Ok(Outcome::Accepted(socket, peer)) => {
                if door.admits(peer, self.connections.len(), now) {
                    self.greet(socket, peer, reactor, now);
                }
            }
            Ok(other) => unreachable!("an accept does not end with {other:?}"),
            Err(error) => door.handle_accept_error(error, now),
        }
        let door = self.door.as_mut().expect("checked above");
        door.accept_again(listener, reactor);
    }

    fn greet(
        &mut self,
        socket: Handle,
        peer: SocketAddr,
        reactor: &mut dyn Reactor,
        now: Duration,
    ) {
        if let Err(error) = usbip_fast_native::socket::tune(&socket) {
            tracing::info!(%peer, "the connection failed at once: {error}");
            return;
        }
        // The key must be known to the greeting before it is in the table.
        let key = self.connections.next_key();
        let mut io = Io { reactor, arena: &self.arena, now };
        let (greeting, progress) = Greeting::new(key, peer, socket, &mut io);
        let entered = self.connections.insert(Connection::Greeting(greeting));
        assert_eq!(entered, key, "nothing was entered in between");
        self.handle_progress(key, progress, reactor, now);
    }

    fn handle_progress(
        &mut self,
        key: Key,
        progress: Progress,
        reactor: &mut dyn Reactor,
        now: Duration,
    ) {
        match progress {
            Progress::Until(deadline) => _ = self.greetings.insert((deadline, key)),
            Progress::Ended(error) => {
                let Some(Connection::Greeting(greeting)) = self.connections.remove(key) else {
                    unreachable!("a greeting made progress")
                };
                if let Some(error) = error {
                    tracing::info!(peer = %greeting.peer, "{error}");
                }
            }
            Progress::Asked(request) => self.answer(key, &request, reactor, now),
        }
    }

    /// Core 0: a request is complete.
    fn answer(&mut self, key: Key, request: &Request, reactor: &mut dyn Reactor, now: Duration) {
        let Some(Connection::Greeting(greeting)) = self.connections.get_mut(key) else {
            unreachable!("a greeting has asked")
        };
        let door = self.door.as_mut().expect("greetings live on core 0");
        let (bus_id, claim, reply_code) = match request {
            Request::DeviceList => {
                let mut reply = Vec::new();
                op::devlist_reply(&door.exports.available(greeting.peer), &mut reply);
                return self.reply(key, &reply, reactor, now);
            }
            Request::Control => return self.enter_control(key, now),
            // Its session would not outlive its beginning, and its core may have stopped.
            Request::Import(_) if self.stopping => {
                return self.reply(
                    key,
                    &op::import_refusal(op::STATUS_NOT_AVAILABLE),
                    reactor,
                    now,
                );
            }
            Request::Import(bus_id) => (bus_id, Claim::Plain, op::REP_IMPORT),
            Request::ImportWithLease { bus_id, lease_id, nonce } => {
                let claim = Claim::Lease { id: *lease_id, nonce: *nonce };
                (bus_id, claim, op::REP_IMPORT_EXT)
            }
        };
        match door.exports.lend(bus_id, claim, greeting.peer, now) {
            Ok((opener, listed)) => {
                let description = listed.description.clone();
                self.start_session(key, opener, description, reply_code, now);
            }
            Err(refusal) => {
                tracing::info!(peer = %greeting.peer, "import refused: {refusal}");
                let reply = op::OpHeader::new(reply_code, refusal.status()).to_bytes();
                self.reply(key, &reply, reactor, now);
            }
        }
    }

    fn reply(&mut self, key: Key, reply: &[u8], reactor: &mut dyn Reactor, now: Duration) {
        let Some(Connection::Greeting(greeting)) = self.connections.get_mut(key) else {
            unreachable!("a greeting has asked")
        };
        let mut io = Io { reactor, arena: &self.arena, now };
        let progress = greeting.reply(reply, &mut io);
        self.handle_progress(key, progress, reactor, now);
    }

    /// Core 0: the connection becomes one that is told of changes.
    fn enter_control(&mut self, key: Key, now: Duration) {
        let Some(Connection::Greeting(greeting)) = self.connections.remove(key) else {
            unreachable!("a greeting has asked")
        };
        let (peer, since) = (greeting.peer, greeting.since);
        self.door_mut().controls.enter(greeting.into_socket(), peer, since, now);
    }

    /// Core 0: brings a session to the core that has the fewest.
    fn start_session(
        &mut self,
        key: Key,
        opener: Opener,
        description: DeviceDescription,
        reply_code: u16,
        now: Duration,
    ) {
        let Some(Connection::Greeting(greeting)) = self.connections.remove(key) else {
            unreachable!("a greeting has asked")
        };
        let peer = greeting.peer;
        let socket = greeting.into_socket();
        let door = self.door.as_mut().expect("greetings live on core 0");
        let core = door.place_session();
        tracing::info!(%peer, bus_id = description.bus_id, core, "import");
        if core == self.index {
            self.open_session(socket, peer, opener, &description, reply_code, now);
            return;
        }
        let socket = socket.into_owned().expect("a socket with nothing in flight has one owner");
        let session = NewSession { socket, peer, opener, description, reply_code };
        self.tell(core, Message::Start(Box::new(session)));
    }

    /// A session that core 0 has handed over.
    fn begin_session(&mut self, new: NewSession, now: Duration) {
        let NewSession { socket, peer, opener, description, reply_code } = new;
        self.open_session(Handle::new(socket), peer, opener, &description, reply_code, now);
    }

    fn open_session(
        &mut self,
        socket: Handle,
        peer: SocketAddr,
        opener: Opener,
        description: &DeviceDescription,
        reply_code: u16,
        now: Duration,
    ) {
        let device = opener(&self.doorbell);
        let key = self.connections.next_key();
        let session = Session::new(key, peer, socket, device, description, now);
        let mut session = session.with_reply_code(reply_code);
        if self.stopping {
            session.stop("the server stops");
        }
        let entered = self.connections.insert(Connection::Session(Box::new(session)));
        assert_eq!(entered, key, "nothing was entered in between");
        self.sessions.push(key);
    }

    fn read_mail(&mut self, now: Duration) {
        while let Some(message) = self.mail.try_receive() {
            match message {
                Message::Start(new) => self.begin_session(*new, now),
                Message::Ended { core, bus_id, remains } => {
                    self.door_mut().session_ended(core, &bus_id, remains);
                }
                Message::Present(present) => {
                    let door = self.door_mut();
                    door.inventory.set_present(present, &mut door.exports);
                }
                Message::FileRules(read) => {
                    let door = self.door_mut();
                    door.inventory.set_file_rules(read, &mut door.exports);
                }
                Message::Report { round } => self.report_wanted = Some(round),
                Message::Reported { round, report, sessions } => {
                    self.handle_report(round, *report, sessions);
                }
                Message::Stop => self.stop_sessions(),
                Message::Stopped => self.door_mut().core_stopped(),
            }
        }
    }

    fn door_mut(&mut self) -> &mut Door {
        self.door.as_mut().expect("only core 0 gets such messages")
    }

    fn stop_sessions(&mut self) {
        self.stopping = true;
        for &key in &self.sessions {
            if let Some(Connection::Session(session)) = self.connections.get_mut(key) {
                session.stop("the server stops");
            }
        }
    }

    fn settle_sessions(&mut self, rung: bool, reactor: &mut dyn Reactor, now: Duration) -> bool {
        let mut more = false;
        let mut at = 0;
        while let Some(&key) = self.sessions.get(at) {
            let Some(Connection::Session(session)) = self.connections.get_mut(key) else {
                unreachable!("the list of sessions names sessions")
            };
            let mut io = Io { reactor, arena: &self.arena, now };
            more |= session.settle(rung, &mut io);
            if session.is_closed() {
                self.sessions.swap_remove(at);
                self.bury(key, now);
            } else {
                at += 1;
            }
        }
        more
    }

    fn bury(&mut self, key: Key, now: Duration) {
        let Some(Connection::Session(session)) = self.connections.remove(key) else {
            unreachable!("a session was closed")
        };
        let epitaph = session.into_epitaph(now);
        log_end(&epitaph);
        self.past.add(&epitaph.counters);
        let Epitaph { bus_id, remains, .. } = epitaph;
        match &mut self.door {
            Some(door) => door.session_ended(self.index, &bus_id, remains),
            None => self.tell(0, Message::Ended { core: self.index, bus_id, remains }),
        }
        if self.sessions.is_empty() {
            self.arena.trim();
        }
    }

    fn time_out_greetings(&mut self, reactor: &mut dyn Reactor, now: Duration) {
        while let Some(&(deadline, key)) = self.greetings.first() {
            if deadline > now {
                return;
            }
            self.greetings.pop_first();
            let Some(Connection::Greeting(greeting)) = self.connections.get_mut(key) else {
                continue;
            };
            let mut io = Io { reactor, arena: &self.arena, now };
            if let Some(error) = greeting.handle_timeout(&mut io) {
                tracing::info!(peer = %greeting.peer, "{error}");
            }
        }
    }

    fn tell(&mut self, core: usize, message: Message) {
        self.outbox.post(core, message);
    }

    /// Sends what other cores had no room for, and does here what was meant for one that is gone.
    fn settle_mail(&mut self, now: Duration) {
        self.outbox.retry();
        while let Some((core, message)) = self.outbox.take_lost() {
            match message {
                Message::Start(new) => {
                    tracing::error!(core, "the core is gone; its session runs on core 0");
                    self.door_mut().keep_session(core);
                    self.begin_session(*new, now);
                }
                // It has nobody to ask, nothing to stop, or nobody left who wants to know.
                Message::Present(..)
                | Message::FileRules(..)
                | Message::Ended { .. }
                | Message::Report { .. }
                | Message::Reported { .. }
                | Message::Stop
                | Message::Stopped => {}
            }
        }
    }

    /// Whether the core can stop. Core 0 is the last.
    fn is_done(&mut self, reactor: &mut dyn Reactor, now: Duration) -> bool {
        if let Some(door) = &mut self.door {
            if door.wants_to_stop() && !self.stopping {
                door.close(&mut Io { reactor, arena: &self.arena, now });
                self.stop_sessions();
                for core in 1..self.outbox.cores() {
                    self.tell(core, Message::Stop);
                }
            }
            let door = self.door.as_ref().expect("checked above");
            return self.stopping && (door.is_empty(self.outbox.cores()) || door.is_overdue(now));
        }
        if !self.stopping || !self.sessions.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut self.has_told_stopped, true) {
            self.tell(0, Message::Stopped);
        }
        !self.outbox.is_waiting()
    }
}

impl turn::Core for Core {
    fn deadline(&self) -> Option<Duration> {
        let greeting = self.greetings.first().map(|&(deadline, _)| deadline);
        let sessions = self.sessions.iter().filter_map(|&key| match self.connections.get(key) {
            Some(Connection::Session(session)) => session.deadline(),
            _ => None,
        });
        let door = self.door.as_ref().and_then(Door::deadline);
        greeting.into_iter().chain(door).chain(sessions).chain(self.retry_mail).min()
    }

    fn handle(&mut self, completion: Completion, reactor: &mut dyn Reactor, now: Duration) {
        let token = completion.token;
        if token.kind() >= control::kind::FIRST {
            let door = self.door.as_mut().expect("only core 0 has such tokens");
            let mut io = Io { reactor, arena: &self.arena, now };
            return door.controls.handle(completion, &mut door.exports, &mut io);
        }
        if token.kind() >= admin::kind::FIRST {
            return self.handle_admin(completion, reactor, now);
        }
        if token.kind() >= door::kind::FIRST {
            return self.handle_door(completion, reactor, now);
        }
        assert!(token.kind() <= kind::DEVICE, "a completion of nobody: {token:?}");
        let key = Key { index: token.index(), generation: token.generation() };
        let mut io = Io { reactor, arena: &self.arena, now };
        match self.connections.get_mut(key) {
            Some(Connection::Session(session)) => session.handle(completion, &mut io),
            Some(Connection::Greeting(greeting)) => {
                let progress = greeting.handle(completion, &mut io);
                self.handle_progress(key, progress, reactor, now);
            }
            None => unreachable!("a connection stays until its operations are back: {token:?}"),
        }
    }

    fn settle(&mut self, rung: bool, reactor: &mut dyn Reactor, now: Duration) -> Next {
        self.started.get_or_insert(now);
        if rung {
            self.read_mail(now);
        }
        self.settle_mail(now);
        self.time_out_greetings(reactor, now);
        if let Some(door) = &mut self.door {
            door.start(reactor);
            door.handle_deadline(reactor, now);
        }
        let more = self.settle_sessions(rung, reactor, now);
        if let Some(door) = &mut self.door {
            door.settle_controls(&mut Io { reactor, arena: &self.arena, now });
        }
        self.settle_reports(reactor, now);
        if self.is_done(reactor, now) {
            return Next::Stop;
        }
        self.retry_mail = self.outbox.is_waiting().then(|| now + MAIL_RETRY);
        if more { Next::Again } else { Next::Sleep }
    }
}

/// The one log line of a session: why, how long, how much.
fn log_end(epitaph: &Epitaph) {
    let Epitaph { bus_id, peer, end, duration, counters, .. } = epitaph;
    tracing::info!(
        %peer,
        bus_id,
        seconds = duration.as_millis() as f64 / 1000.0,
        urbs = counters.urbs,
        bytes_in = counters.bytes_in,
        bytes_out = counters.bytes_out,
        errors = counters.errors,
        unlinks = counters.unlinks,
        packet_errors = counters.packet_errors,
        "session ended: {end}"
    );
}
