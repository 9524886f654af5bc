//! The reactor over io_uring.
//!
//! An operation is one submission entry and one completion entry. Entries that do not fit into the
//! submission queue wait, in order, in a backlog that the next turn hands over; so a cancel is
//! never lost, and never overtakes the operation it is for.

mod foreign;
mod registered;
mod setup;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::attempt::accepted;
use crate::backend::{Options, RingMode};
use crate::clock;
use crate::doorbell::Doorbell;
use crate::linux::eventfd::Bell;
use crate::linux::uring::foreign::ForeignTable;
use crate::linux::uring::registered::Registered;
use crate::op::{Completion, Op, OsError, Outcome, Token};
use crate::reactor::{Notice, Reactor, ReactorCounters, Turn};
use crate::table::OpTable;

pub use crate::linux::uring::setup::Refused;

/// Opens a reactor over io_uring for the calling thread, which alone may use it.
///
/// # Errors
///
/// Why the kernel refuses.
pub fn open(options: &Options) -> Result<(Box<dyn Reactor>, RingMode), Refused> {
    let (ring, mode) = setup::open(options)?;
    let uring = Uring::new(ring, mode, options).map_err(Refused::System)?;
    Ok((Box::new(uring), mode))
}

struct Uring {
    ring: IoUring,
    mode: RingMode,
    spin: Duration,
    bell: Arc<Bell>,
    bell_armed: bool,
    table: OpTable<Flight>,
    foreign: ForeignTable,
    /// Entries for which the submission queue had no room, oldest first.
    backlog: VecDeque<Entry>,
    registered: Option<Registered>,
    /// Operations in the submission queue that the kernel tells of only if they fail: index and
    /// user data. Those it has taken without a word have succeeded in full.
    silent: Vec<(u32, u64)>,
    /// Whether the kernel can keep silent (Linux 5.17).
    can_be_silent: bool,
    in_flight: usize,
    counters: ReactorCounters,
}

/// An operation that the kernel has, or will have from the queue or the backlog.
struct Flight {
    op: Op,
    stage: Stage,
    cancelled: bool,
    /// The kernel tells of it only if it fails, and has not.
    silent: bool,
    /// Tells the operation from others that have had or will have its index.
    serial: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The operation itself.
    Direct,
    /// The kernel answered EAGAIN instead of parking the operation: a poll stands in for it.
    Waiting,
}

/// User data of an operation: serial (31 bits) | index (32 bits). With this bit: its cancel.
const CANCEL: u64 = 1 << 63;

/// User data of the doorbell's poll: an index that the table never reaches.
const BELL: u64 = CANCEL - 1;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;

/// The kernel counts nanoseconds in 63 bits and takes what is beyond for the past. A turn sleeps on
/// when this is over and its deadline is not.
const LONGEST: Duration = Duration::from_secs(1 << 30);

/// How long a dropped reactor waits for the kernel to let go of its memory before it is leaked.
const FAREWELL: Duration = Duration::from_secs(5);

impl Uring {
    fn new(ring: IoUring, mode: RingMode, options: &Options) -> Result<Self, OsError> {
        let registered = options.registered.then(|| Registered::new(&ring.submitter())).flatten();
        if registered.is_some() {
            crate::signal::ignore_broken_pipe();
        }
        let capacity = ring.params().sq_entries() as usize;
        let can_be_silent = ring.params().is_feature_skip_cqe_on_success();
        let mut uring = Self {
            ring,
            mode,
            spin: options.spin,
            bell: Bell::new()?,
            bell_armed: false,
            table: OpTable::new(capacity),
            foreign: ForeignTable::default(),
            backlog: VecDeque::with_capacity(capacity),
            registered,
            silent: Vec::with_capacity(capacity),
            can_be_silent,
            in_flight: 0,
            counters: ReactorCounters::default(),
        };
        uring.arm_bell();
        Ok(uring)
    }

    /// Every write to the eventfd is one completion; it is never read.
    fn arm_bell(&mut self) {
        let poll = opcode::PollAdd::new(types::Fd(self.bell.fd()), libc::POLLIN as u32);
        self.bell_armed = true;
        self.push(poll.multi(true).build().user_data(BELL));
    }

    fn user_data(&self, index: u32) -> u64 {
        u64::from(self.table.get(index).serial & 0x7fff_ffff) << 32 | u64::from(index)
    }

    /// The operation that user data stands for, if it is still in flight.
    fn find(&self, user_data: u64) -> Option<u32> {
        let index = user_data as u32;
        self.table.try_get(index)?;
        (self.user_data(index) == user_data).then_some(index)
    }

    /// Queues an entry; false when it has to wait in the backlog.
    fn push(&mut self, entry: Entry) -> bool {
        if self.backlog.is_empty() {
            // SAFETY: what the entry refers to (blocks, the place in the foreign table, the
            // descriptor) belongs to the operation's table entry until its completion is reaped.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return true;
            }
        }
        self.backlog.push_back(entry);
        false
    }

    fn push_op(&mut self, index: u32) {
        let place = self.foreign.place(index);
        let flight = self.table.get_mut(index);
        let (entry, is_quiet) = match flight.stage {
            Stage::Waiting => (foreign::wait_entry(&flight.op), false),
            Stage::Direct => {
                let fixed_slot = match (&flight.op, &mut self.registered) {
                    (Op::Send { pieces, .. }, Some(registered)) => foreign::single(pieces)
                        .and_then(|piece| registered.slot(&self.ring.submitter(), piece)),
                    _ => None,
                };
                // SAFETY: the place is of this index, and the kernel has no entry of it now.
                let entry = unsafe { foreign::entry(&flight.op, place, fixed_slot) };
                (entry, foreign::completes_at_once(&flight.op, fixed_slot))
            }
        };
        let user_data = self.user_data(index);
        let entry = entry.user_data(user_data);
        if is_quiet && self.can_be_silent && self.backlog.is_empty() {
            let silent = entry.clone().flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: as in `push`.
            if unsafe { self.ring.submission().push(&silent) }.is_ok() {
                self.table.get_mut(index).silent = true;
                self.silent.push((index, user_data));
                return;
            }
        }
        self.push(entry);
    }

    fn push_cancel(&mut self, user_data: u64) {
        let cancel = opcode::AsyncCancel::new(user_data).build();
        self.push(cancel.user_data(CANCEL | user_data));
    }

    /// Moves the backlog into the submission queue; true when the queue is full and some is left.
    fn refill(&mut self) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                return true;
            }
            self.backlog.pop_front();
        }
        false
    }

    /// Completes the operations that the kernel has taken and told nothing of: a send that may not
    /// wait is over when it is submitted, and a failed or short one was told of by then.
    fn settle_silent(&mut self, completions: &mut Vec<Completion>) {
        let queue = self.ring.submission();
        // Word of a failure may be among what the completion queue had no room for.
        if self.silent.is_empty() || !queue.is_empty() || queue.cq_overflow() {
            return;
        }
        drop(queue);
        let mut silent = std::mem::take(&mut self.silent);
        for (index, user_data) in silent.drain(..) {
            if self.find(user_data) != Some(index) || !self.table.get(index).silent {
                continue;
            }
            let (token, flight) = self.table.remove(index);
            self.in_flight -= 1;
            let bytes = flight.op.bytes();
            let pieces = flight.op.into_pieces();
            completions.push(Completion { token, result: Ok(Outcome::Moved(bytes)), pieces });
        }
        self.silent = silent;
    }

    /// The kernel entry: submits, and waits for a completion if `patience` is not zero.
    fn enter(&mut self, patience: Option<Duration>) {
        self.counters.system_calls += 1;
        let submissions = u32::try_from(self.ring.submission().len()).expect("queues are small");
        let wanted = u32::from(patience != Some(Duration::ZERO));
        let timeout = patience.map(|patience| types::Timespec::from(patience.min(LONGEST)));
        let mut arguments = types::SubmitArgs::new();
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        // SAFETY: the arguments live through the call, and EXT_ARG says what they are.
        let result = unsafe {
            self.ring.submitter().enter(
                submissions,
                wanted,
                ENTER_GETEVENTS | ENTER_EXT_ARG,
                Some(&arguments),
            )
        };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            // A timeout; a signal; a full completion queue or short memory, better after reaping.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
            _ => panic!("entering an own ring fails: {error}"),
        }
    }

    /// As [`enter`](Self::enter), but looks for completions for a while before it sleeps; then
    /// takes them.
    fn enter_and_reap(
        &mut self,
        patience: Option<Duration>,
        deadline: Option<Duration>,
        completions: &mut Vec<Completion>,
    ) -> bool {
        if self.spin.is_zero() || patience == Some(Duration::ZERO) {
            self.enter(patience);
            return self.reap(completions);
        }
        if !self.ring.submission().is_empty() {
            // What completes at once is no reason to stop looking, but is as welcome.
            self.enter(Some(Duration::ZERO));
        }
        let start = clock::now();
        let end = deadline.map_or(start + self.spin, |at| at.min(start + self.spin));
        loop {
            if self.ring.submission().taskrun() {
                self.enter(Some(Duration::ZERO));
            }
            let before = completions.len();
            let rung = self.reap(completions);
            if rung || completions.len() > before || !self.ring.submission().is_empty() {
                return rung;
            }
            let now = clock::now();
            if now >= end {
                self.enter(deadline.map(|at| at.saturating_sub(now)));
                return self.reap(completions);
            }
            std::hint::spin_loop();
        }
    }

    /// Takes all completions there are; returns whether the bell was rung.
    fn reap(&mut self, completions: &mut Vec<Completion>) -> bool {
        let mut rung = false;
        loop {
            let Some(entry) = self.ring.completion().next() else { return rung };
            let (user_data, result) = (entry.user_data(), entry.result());
            if user_data == BELL {
                rung = true;
                self.bell.answer();
                self.bell_armed = cqueue::more(entry.flags());
                if !self.bell_armed && result >= 0 {
                    self.arm_bell();
                }
            } else if user_data & CANCEL != 0 {
                self.handle_cancel(user_data & !CANCEL, result);
            } else {
                self.handle_op(user_data, result, completions);
            }
        }
    }

    /// A cancel that found nothing although the operation is still there has met it between two
    /// states, and is repeated; not if the operation was over as soon as the kernel had it.
    fn handle_cancel(&mut self, user_data: u64, result: i32) {
        let found = self.find(user_data).map(|index| self.table.get(index));
        if result == -libc::ENOENT && found.is_some_and(|flight| !flight.silent) {
            self.push_cancel(user_data);
        }
    }

    fn handle_op(&mut self, user_data: u64, result: i32, completions: &mut Vec<Completion>) {
        let index = self.find(user_data).expect("an operation completes once");
        let flight = self.table.get_mut(index);
        flight.silent = false;
        let again = match (flight.stage, -result) {
            (Stage::Direct, libc::EAGAIN) => Some(Stage::Waiting),
            (Stage::Direct | Stage::Waiting, libc::EINTR) => Some(flight.stage),
            (Stage::Waiting, ..=0) => Some(Stage::Direct),
            _ => None,
        };
        let result = match again {
            Some(_) if flight.cancelled => -libc::ECANCELED,
            Some(stage) => {
                flight.stage = stage;
                return self.push_op(index);
            }
            None => result,
        };
        let place = self.foreign.place(index);
        let (token, flight) = self.table.remove(index);
        self.in_flight -= 1;
        let result = if result < 0 {
            Err(OsError(-result))
        } else {
            // SAFETY: the kernel is through with the place: this was its completion.
            Ok(outcome(&flight.op, result, unsafe { &*place }))
        };
        completions.push(Completion { token, result, pieces: flight.op.into_pieces() });
    }

    /// Whether the kernel has anything of ours.
    fn is_busy(&self) -> bool {
        self.bell_armed || self.in_flight > 0
    }
}

fn outcome(op: &Op, result: i32, foreign: &foreign::Foreign) -> Outcome {
    match op {
        Op::Accept { .. } => accepted(result, foreign.address()),
        Op::Connect { .. } => Outcome::Connected,
        Op::Receive { .. } | Op::Send { .. } => Outcome::Moved(result as usize),
        Op::Poll { .. } => Outcome::Ready(result as u32),
    }
}

impl Reactor for Uring {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn submit(&mut self, op: Op, token: Token) {
        self.counters.operations += 1;
        self.in_flight += 1;
        let serial = self.counters.operations as u32;
        let flight = Flight { op, stage: Stage::Direct, cancelled: false, silent: false, serial };
        let index = self.table.insert(token, flight);
        self.push_op(index);
    }

    fn cancel(&mut self, token: Token) {
        let Some(index) = self.table.find(token) else { return };
        if std::mem::replace(&mut self.table.get_mut(index).cancelled, true) {
            return;
        }
        self.push_cancel(self.user_data(index));
    }

    fn turn(&mut self, deadline: Option<Duration>, completions: &mut Vec<Completion>) -> Turn {
        self.counters.turns += 1;
        if let Some(registered) = &mut self.registered {
            registered.handle_turn(&self.ring.submitter());
        }
        let before = completions.len();
        // Completions may be here already where the kernel interrupts to deliver them.
        let mut rung = self.mode != RingMode::Deferred && self.reap(completions);
        loop {
            let full = self.refill();
            let something = rung || completions.len() > before;
            if something && !full && self.ring.submission().is_empty() {
                return Turn { rung };
            }
            let patience = if something || full {
                Some(Duration::ZERO)
            } else {
                deadline.map(|deadline| deadline.saturating_sub(clock::now()))
            };
            rung |= self.enter_and_reap(patience, deadline, completions);
            self.settle_silent(completions);
            let something = rung || completions.len() > before;
            let late = deadline.is_some_and(|at| at <= clock::now());
            if (something || late) && self.backlog.is_empty() {
                return Turn { rung };
            }
        }
    }

    fn doorbell(&self) -> Doorbell {
        self.bell.to_doorbell()
    }

    fn counters(&self) -> ReactorCounters {
        self.counters
    }

    fn take_notice(&mut self) -> Option<Notice> {
        let refusal = self.registered.as_mut()?.take_refusal()?;
        Some(Notice::RegistrationRefused(refusal))
    }
}

impl Drop for Uring {
    /// Cancels everything and waits, so that the kernel never writes to memory that is freed.
    fn drop(&mut self) {
        for index in 0..self.foreign.capacity() {
            if self.table.try_get(index).is_some() {
                self.push_cancel(self.user_data(index));
            }
        }
        if self.bell_armed {
            self.push_cancel(BELL);
        }
        let end = clock::now() + FAREWELL;
        let mut completions = Vec::new();
        while self.is_busy() && clock::now() < end {
            let full = self.refill();
            self.enter(Some(if full { Duration::ZERO } else { end.saturating_sub(clock::now()) }));
            self.reap(&mut completions);
            self.settle_silent(&mut completions);
            completions.clear();
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::replace(&mut self.table, OpTable::new(0)));
            self.foreign.leak();
        }
    }
}
