//! The completion contract over readiness: what epoll and kqueue have in common.
//!
//! A descriptor is registered once, for both directions, edge-triggered, and stays registered until
//! its [`Handle`] is closed or given away. An operation tries its system call at once and is parked
//! when that would block; an edge tries the parked ones again. What an edge or a short transfer
//! says about a direction is remembered, so that a direction known to be blocked costs no call.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::attempt::{Attempt, attempt, connect, poll_level};
use crate::clock;
use crate::doorbell::Doorbell;
use crate::handle::{Handle, Watcher};
use crate::op::{Completion, Interest, Op, OsError, Outcome, Piece, Token};
use crate::reactor::{Reactor, ReactorCounters, Turn};
use crate::table::OpTable;

/// The foreign calls of one readiness system.
pub(crate) trait Poller {
    /// See [`Reactor::name`].
    const NAME: &'static str;

    /// Registers a descriptor for both directions, edge-triggered. If it is ready already, the next
    /// [`wait`](Poller::wait) says so.
    fn watch(&mut self, fd: RawFd, serial: u32) -> Result<(), OsError>;

    /// What forgets a descriptor that is closed or given away.
    fn watcher(&self) -> Weak<dyn Watcher>;

    /// Waits for edges, at most `timeout`, and appends them; returns whether the bell was rung. A
    /// signal may end it early.
    fn wait(&mut self, timeout: Option<Duration>, edges: &mut Vec<Edge>) -> bool;

    /// The bell of this poller.
    fn doorbell(&self) -> Doorbell;
}

/// A descriptor has become ready in some direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    /// The descriptor.
    pub(crate) fd: RawFd,
    /// Serial number given with [`Poller::watch`].
    pub(crate) serial: u32,
    /// poll(2) bits: POLLIN, POLLOUT, POLLWRNORM, POLLHUP, POLLERR.
    pub(crate) bits: u32,
    /// The peer has ended its direction (never reported a second time).
    pub(crate) ended: bool,
}

/// A [`Reactor`] over a [`Poller`].
pub(crate) struct Readiness<P> {
    poller: P,
    table: OpTable<Slot>,
    watched: Vec<Watched>,
    done: VecDeque<Done>,
    edges: Vec<Edge>,
    turns_without_wait: u32,
    spin: Duration,
    counters: ReactorCounters,
}

/// An operation between submission and the turn that returns it.
struct Slot {
    /// `None` once its completion is queued.
    op: Option<Op>,
    /// The operation parked behind this one.
    next: u32,
}

struct Done {
    index: u32,
    result: Result<Outcome, OsError>,
    pieces: [Option<Piece>; 2],
}

/// What is known of the descriptor whose number is the index.
#[derive(Clone, Copy)]
struct Watched {
    /// Tells a closed descriptor from a new one of the same number.
    serial: u64,
    /// End of stream, hang-up or error was seen: a short transfer no longer means "blocked".
    ended: bool,
    sides: [Side; 2],
}

/// One direction of a descriptor.
#[derive(Clone, Copy)]
struct Side {
    /// The next call may succeed. False only after a call that blocked or came up short, and until
    /// the next edge.
    open: bool,
    head: u32,
    tail: u32,
}

const READ: usize = 0;
const WRITE: usize = 1;

/// End of a list of parked operations.
const NONE: u32 = u32::MAX;

const IDLE: Side = Side { open: true, head: NONE, tail: NONE };
const UNWATCHED: Watched = Watched { serial: 0, ended: false, sides: [IDLE; 2] };

/// Turns that may return queued completions without asking the kernel for edges. Operations that
/// succeed at once would otherwise cost a call each that says nothing; too many such turns in a row
/// would starve the descriptors that wait.
const TURNS_WITHOUT_WAIT: u32 = 4;

/// Operations in flight that fit before anything has to grow.
const FIRST_OPERATIONS: usize = 256;

/// Edges taken from the kernel by one wait.
pub(crate) const EDGES: usize = 256;

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl<P: Poller> Readiness<P> {
    pub(crate) fn new(poller: P, spin: Duration) -> Self {
        Self {
            poller,
            table: OpTable::new(FIRST_OPERATIONS),
            watched: Vec::new(),
            done: VecDeque::with_capacity(FIRST_OPERATIONS),
            edges: Vec::with_capacity(EDGES),
            turns_without_wait: 0,
            spin,
            counters: ReactorCounters::default(),
        }
    }

    /// Tries a fresh operation, and parks it if it has to wait.
    fn start(&mut self, index: u32) {
        let op = self.table.get_mut(index).op.as_mut().expect("a fresh operation is not done");
        let handle = op.handle().clone();
        // A socket must be connecting before it is watched: an idle one reports a hang-up.
        if let Op::Connect { socket, address } = op {
            self.counters.system_calls += 1;
            if let Attempt::Done { result, .. } = connect(socket, address) {
                return self.finish(index, result);
            }
        }
        if let Err(error) = self.watch(&handle) {
            return self.start_unwatched(index, &handle, error);
        }
        let op = self.table.get(index).op.as_ref().expect("still not done");
        let side = side_of(op);
        match *op {
            Op::Connect { .. } => self.park(handle.as_raw_fd(), side, index),
            Op::Poll { interest, .. } => match self.level(&handle, interest) {
                0 => self.park(handle.as_raw_fd(), side, index),
                bits => self.finish(index, Ok(Outcome::Ready(bits))),
            },
            Op::Accept { .. } | Op::Receive { .. } | Op::Send { .. } => {
                let Side { open, head, .. } = self.watched[handle.as_raw_fd() as usize].sides[side];
                if !open || head != NONE || !self.advance(handle.as_raw_fd(), side, index) {
                    self.park(handle.as_raw_fd(), side, index);
                }
            }
        }
    }

    /// Files that cannot be watched are always ready, as far as poll(2) knows them at all.
    fn start_unwatched(&mut self, index: u32, handle: &Handle, error: OsError) {
        let op = self.table.get(index).op.as_ref().expect("still not done");
        let bits = match *op {
            Op::Poll { interest, .. } if error.0 == libc::EPERM => self.level(handle, interest),
            _ => 0,
        };
        let result = if bits == 0 { Err(error) } else { Ok(Outcome::Ready(bits)) };
        self.finish(index, result);
    }

    fn level(&mut self, handle: &Handle, interest: Interest) -> u32 {
        self.counters.system_calls += 1;
        poll_level(handle, interest)
    }

    fn watch(&mut self, handle: &Handle) -> Result<(), OsError> {
        let fd = handle.as_raw_fd();
        let place = usize::try_from(fd).expect("open descriptors are not negative");
        if self.watched.len() <= place {
            self.watched.resize(place + 1, UNWATCHED);
        }
        let serial = handle.watch_serial();
        if serial != 0 && self.watched[place].serial == serial {
            return Ok(());
        }
        handle.clear_watch();
        let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
        self.counters.system_calls += 1;
        self.poller.watch(fd, serial as u32)?;
        handle.set_watch(serial, self.poller.watcher());
        self.watched[place] = Watched { serial, ..UNWATCHED };
        Ok(())
    }

    /// Makes the operation's system call; false when it would block.
    fn advance(&mut self, fd: RawFd, side: usize, index: u32) -> bool {
        let op = self.table.get_mut(index).op.as_mut().expect("a parked operation is not done");
        self.counters.system_calls += 1;
        let watched = &mut self.watched[fd as usize];
        match attempt(op) {
            Attempt::Blocked => {
                watched.sides[side].open = false;
                false
            }
            Attempt::Done { result, short } => {
                watched.sides[side].open = !short || watched.ended;
                self.finish(index, result);
                true
            }
        }
    }

    fn park(&mut self, fd: RawFd, side: usize, index: u32) {
        self.table.get_mut(index).next = NONE;
        let list = &mut self.watched[fd as usize].sides[side];
        let tail = std::mem::replace(&mut list.tail, index);
        if tail == NONE {
            list.head = index;
        } else {
            self.table.get_mut(tail).next = index;
        }
    }

    fn unpark(&mut self, fd: RawFd, side: usize, index: u32) {
        let mut parked = self.take_list(fd, side);
        while parked != NONE {
            let next = self.table.get(parked).next;
            if parked != index {
                self.park(fd, side, parked);
            }
            parked = next;
        }
    }

    fn take_list(&mut self, fd: RawFd, side: usize) -> u32 {
        let list = &mut self.watched[fd as usize].sides[side];
        list.tail = NONE;
        std::mem::replace(&mut list.head, NONE)
    }

    fn finish(&mut self, index: u32, result: Result<Outcome, OsError>) {
        let op = self.table.get_mut(index).op.take().expect("an operation finishes once");
        self.done.push_back(Done { index, result, pieces: op.into_pieces() });
    }

    fn handle_edge(&mut self, edge: Edge) {
        let Some(watched) = self.watched.get_mut(edge.fd as usize) else { return };
        if watched.serial as u32 != edge.serial {
            return;
        }
        let broken = edge.bits & (libc::POLLHUP | libc::POLLERR) as u32 != 0;
        watched.ended |= edge.ended || broken;
        if broken || edge.ended || edge.bits & Interest::Readable.poll_bits() != 0 {
            self.serve(edge, READ, Interest::Readable);
        }
        if broken || edge.bits & Interest::Writable.poll_bits() != 0 {
            self.serve(edge, WRITE, Interest::Writable);
        }
    }

    /// Tries what is parked in one direction, in order of submission.
    fn serve(&mut self, edge: Edge, side: usize, interest: Interest) {
        self.watched[edge.fd as usize].sides[side].open = true;
        let wanted = interest.poll_bits() | (libc::POLLHUP | libc::POLLERR) as u32;
        let mut index = self.take_list(edge.fd, side);
        while index != NONE {
            let slot = self.table.get(index);
            let (next, poll) = (slot.next, matches!(slot.op, Some(Op::Poll { .. })));
            let open = self.watched[edge.fd as usize].sides[side].open;
            if poll && edge.bits & wanted != 0 {
                self.finish(index, Ok(Outcome::Ready(edge.bits & wanted)));
            } else if poll || !open || !self.advance(edge.fd, side, index) {
                self.park(edge.fd, side, index);
            }
            index = next;
        }
    }

    /// As [`wait`](Self::wait), but looks for edges for a while before it sleeps.
    fn look_and_wait(&mut self, deadline: Option<Duration>) -> bool {
        let end = clock::now() + self.spin;
        let end = deadline.map_or(end, |at| at.min(end));
        loop {
            let rung = self.wait(Some(Duration::ZERO));
            if rung || !self.done.is_empty() {
                return rung;
            }
            let now = clock::now();
            if now >= end {
                return self.wait(deadline.map(|at| at.saturating_sub(now)));
            }
        }
    }

    /// Asks the kernel for edges and serves them.
    fn wait(&mut self, timeout: Option<Duration>) -> bool {
        let mut edges = std::mem::take(&mut self.edges);
        self.counters.system_calls += 1;
        let rung = self.poller.wait(timeout, &mut edges);
        for edge in edges.drain(..) {
            self.handle_edge(edge);
        }
        self.edges = edges;
        rung
    }

    fn hand_over(&mut self, completions: &mut Vec<Completion>) {
        for Done { index, result, pieces } in self.done.drain(..) {
            let (token, _) = self.table.remove(index);
            completions.push(Completion { token, result, pieces });
        }
    }
}

impl<P: Poller> Reactor for Readiness<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn submit(&mut self, op: Op, token: Token) {
        self.counters.operations += 1;
        let index = self.table.insert(token, Slot { op: Some(op), next: NONE });
        self.start(index);
    }

    fn cancel(&mut self, token: Token) {
        let Some(index) = self.table.find(token) else { return };
        // A finished operation keeps its result; its completion is on the way.
        let Some(op) = &self.table.get(index).op else { return };
        let (fd, side) = (op.handle().as_raw_fd(), side_of(op));
        self.unpark(fd, side, index);
        self.finish(index, Err(OsError(libc::ECANCELED)));
    }

    fn turn(&mut self, deadline: Option<Duration>, completions: &mut Vec<Completion>) -> Turn {
        self.counters.turns += 1;
        if !self.done.is_empty() && self.turns_without_wait < TURNS_WITHOUT_WAIT {
            self.turns_without_wait += 1;
            self.hand_over(completions);
            return Turn { rung: false };
        }
        self.turns_without_wait = 0;
        loop {
            let rung = if !self.done.is_empty() {
                self.wait(Some(Duration::ZERO))
            } else if self.spin.is_zero() {
                self.wait(deadline.map(|deadline| deadline.saturating_sub(clock::now())))
            } else {
                self.look_and_wait(deadline)
            };
            // Edges that nobody waited for, and signals, are no reason to return.
            if rung || !self.done.is_empty() || deadline.is_some_and(|at| at <= clock::now()) {
                self.hand_over(completions);
                return Turn { rung };
            }
        }
    }

    fn doorbell(&self) -> Doorbell {
        self.poller.doorbell()
    }

    fn counters(&self) -> ReactorCounters {
        self.counters
    }
}

fn side_of(op: &Op) -> usize {
    match op {
        Op::Accept { .. } | Op::Receive { .. } => READ,
        Op::Connect { .. } | Op::Send { .. } => WRITE,
        Op::Poll { interest: Interest::Readable, .. } => READ,
        Op::Poll { interest: Interest::Writable, .. } => WRITE,
    }
}
