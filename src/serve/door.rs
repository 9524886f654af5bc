//! The door of the server, on core 0: listeners, signals, who may come in, what is exported.

use std::net::SocketAddr;
use std::time::Duration;

use usbip_fast_native::signal::{self, Signal};
use usbip_fast_native::{Handle, Interest, Op, OsError, Reactor, Token, socket};

use crate::config::ServeConfig;
use crate::device::Remains;
use crate::limits;
use crate::serve::admin::Admin;
use crate::serve::control::Controls;
use crate::serve::exports::Exports;
use crate::serve::inventory::Inventory;
use crate::serve::session::Io;

/// Kinds of the door's tokens; the index is the listener's number.
pub mod kind {
    /// The lowest of them.
    pub const FIRST: u8 = ACCEPT;
    /// An accept on a listener.
    pub const ACCEPT: u8 = 0x10;
    /// A signal has come.
    pub const SIGNAL: u8 = 0x11;
}

/// The server must have stopped this long after it was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// After an accept failed (no descriptor left, say) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The door of the server.
pub struct Door {
    listeners: Vec<Listener>,
    signals: signal::Signals,
    config: ServeConfig,
    /// What is exported, and who has it.
    pub exports: Exports,
    /// The devices of this machine.
    pub inventory: Inventory,
    /// The commands of this machine, unless they were declined.
    pub admin: Option<Admin>,
    /// Who is told of changes of the exports.
    pub controls: Controls,
    /// Sessions by core.
    load: Vec<usize>,
    stopped_cores: usize,
    started: bool,
    stop: Option<Duration>,
    paused_until: Option<Duration>,
    last_refusal: Option<Duration>,
}

struct Listener {
    handle: Handle,
    accepting: bool,
}

impl Door {
    /// A door with these listeners.
    #[must_use]
    pub fn new(
        listeners: Vec<Handle>,
        signals: signal::Signals,
        config: &ServeConfig,
        exports: Exports,
        inventory: Inventory,
        admin: Option<Admin>,
    ) -> Self {
        let listeners =
            listeners.into_iter().map(|handle| Listener { handle, accepting: false }).collect();
        Self {
            listeners,
            signals,
            config: config.clone(),
            exports,
            inventory,
            admin,
            controls: Controls::new(config.control),
            load: vec![0; config.cores],
            stopped_cores: 0,
            started: false,
            stop: None,
            paused_until: None,
            last_refusal: None,
        }
    }

    /// Opens the door, the first time it is called.
    pub fn start(&mut self, reactor: &mut dyn Reactor) {
        if self.started {
            return;
        }
        self.started = true;
        self.await_signal(reactor);
        self.accept_all(reactor);
    }

    /// Reads which signals have come.
    pub fn handle_signal(&mut self, reactor: &mut dyn Reactor, now: Duration) {
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::HangUp => {
                    self.inventory.reload();
                    continue;
                }
                // There is nothing to write down.
                Signal::User1 => continue,
                Signal::Interrupt | Signal::Terminate => {}
            }
            tracing::info!("{signal:?}: the server stops");
            if self.stop.replace(now).is_some() {
                // Told twice: whoever waits has lost patience.
                self.stop = Some(now.saturating_sub(STOP_TIMEOUT));
            }
        }
        self.await_signal(reactor);
    }

    /// Whether a new connection may stay.
    pub fn admits(&mut self, peer: SocketAddr, connections: usize, now: Duration) -> bool {
        let refusal = if self.stop.is_some() {
            return false;
        } else if connections + self.controls.len() >= limits::CONNECTIONS {
            "too many connections"
        } else if !self.config.admits(peer.ip()) {
            "its address is not allowed (--allow)"
        } else {
            return true;
        };
        // A flood of refused connections must not become a flood of log lines.
        let quiet = self.last_refusal.is_some_and(|last| now < last + Duration::from_secs(1));
        if !quiet {
            self.last_refusal = Some(now);
            tracing::warn!(%peer, "connection refused: {refusal}");
        }
        false
    }

    /// An accept has failed; the listener rests, because the cause (descriptors, memory) lasts.
    pub fn handle_accept_error(&mut self, error: OsError, now: Duration) {
        if self.stop.is_none() {
            tracing::warn!("accept failed: {error}");
            self.paused_until = Some(now + ACCEPT_PAUSE);
        }
    }

    /// The accept of a listener is back; the next one starts, unless the door rests or is closed.
    pub fn accept_again(&mut self, listener: u32, reactor: &mut dyn Reactor) {
        self.listeners[listener as usize].accepting = false;
        self.accept_all(reactor);
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let own = self.stop.map(|since| since + STOP_TIMEOUT).or(self.paused_until);
        let admin = self.admin.as_ref().and_then(Admin::deadline);
        let controls = self.controls.deadline();
        own.into_iter().chain(admin).chain(controls).chain(self.exports.deadline()).min()
    }

    /// Ends the rest of the listeners, and leases whose time is over.
    pub fn handle_deadline(&mut self, reactor: &mut dyn Reactor, now: Duration) {
        if self.exports.deadline().is_some_and(|deadline| deadline <= now) {
            self.exports.handle_deadline(now);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.accept_all(reactor);
        }
    }

    /// The core for the next session: the one with the fewest.
    pub fn place_session(&mut self) -> usize {
        let core = (0..self.load.len()).min_by_key(|&core| self.load[core]);
        let core = core.expect("there is at least one core");
        self.load[core] += 1;
        core
    }

    /// A session that was placed on another core runs on core 0.
    pub fn keep_session(&mut self, placed: usize) {
        self.load[placed] -= 1;
        self.load[0] += 1;
    }

    /// A session is over and its device is back.
    pub fn session_ended(&mut self, core: usize, bus_id: &str, remains: Remains) {
        self.load[core] -= 1;
        self.exports.release(bus_id, remains);
    }

    /// Another core has stopped.
    pub fn core_stopped(&mut self) {
        self.stopped_cores += 1;
    }

    /// Whether a signal has asked the server to stop.
    #[must_use]
    pub fn wants_to_stop(&self) -> bool {
        self.stop.is_some()
    }

    /// Stops listening.
    pub fn close(&mut self, io: &mut Io<'_>) {
        for (index, listener) in (0..).zip(&self.listeners) {
            if listener.accepting {
                io.reactor.cancel(Token::new(kind::ACCEPT, 0, index));
            }
        }
        if let Some(admin) = &mut self.admin {
            admin.close(io);
        }
        self.controls.close(&mut self.exports, io);
    }

    /// Tells those who listen what has changed, and does what they ask.
    pub fn settle_controls(&mut self, io: &mut Io<'_>) {
        self.controls.settle(&mut self.exports, io);
    }

    /// Whether every session is over, every other core has stopped and no accept is in flight.
    #[must_use]
    pub fn is_empty(&self, cores: usize) -> bool {
        self.exports.held() == 0
            && self.stopped_cores + 1 == cores
            && self.listeners.iter().all(|listener| !listener.accepting)
            && self.admin.as_ref().is_none_or(Admin::is_empty)
            && self.controls.is_empty()
    }

    /// Whether the time to stop is over.
    #[must_use]
    pub fn is_overdue(&self, now: Duration) -> bool {
        self.stop.is_some_and(|since| now >= since + STOP_TIMEOUT)
    }

    /// Whether devices have not been given back.
    #[must_use]
    pub fn was_cut_short(&self) -> bool {
        self.exports.held() > 0
    }

    /// Where it listens, for people.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let bound = self.listeners.iter().map(|of| socket::local_address(&of.handle));
        bound.flatten().map(|address| address.to_string()).collect()
    }

    fn accept_all(&mut self, reactor: &mut dyn Reactor) {
        if self.stop.is_some() || self.paused_until.is_some() {
            return;
        }
        for (index, listener) in (0..).zip(&mut self.listeners) {
            if !listener.accepting {
                listener.accepting = true;
                let op = Op::Accept { listener: listener.handle.clone() };
                reactor.submit(op, Token::new(kind::ACCEPT, 0, index));
            }
        }
    }

    fn await_signal(&self, reactor: &mut dyn Reactor) {
        let op = Op::Poll { handle: self.signals.handle().clone(), interest: Interest::Readable };
        reactor.submit(op, Token::new(kind::SIGNAL, 0, 0));
    }
}
