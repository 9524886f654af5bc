//! The life of an open device: what is with the kernel, what waits, and who may use the node now.
//!
//! Every ioctl on a node queues on one kernel mutex, and the helper's calls hold it while they wait
//! for the device. So while the helper has a job the device is *busy*: no URB is submitted and none
//! reaped; both go on when the helper's report is in. One job is under way at a time, and URBs that
//! wait keep their order.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use usbip_fast_native::linux::usbfs::{
    PACKETS_PER_URB, Piece, Queue, Reaped, TransferId, UrbAddress, UrbKind,
};
use usbip_fast_native::{Block, OsError};

use super::helper::{Job, Opened, Report};
use super::isochronous;
use super::translate::{self, Action};
use crate::device::{Completed, DeviceState};
use crate::usb::errno;
use crate::usb::isochronous::Settled;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, SETUP_OFFSET, Submission, TransferType,
};

/// How long giving a device back may take before its session ends without it. A reset takes 0.15 to
/// 0.35 s; a controller that hangs is given up by the kernel after 5 s.
const CLOSE_LIMIT: Duration = Duration::from_secs(12);

/// How soon to look again for the URBs of a device that has gone but not let go of them yet.
const GONE_RETRY: Duration = Duration::from_millis(5);

/// From this many URBs in flight it pays to look for finished ones after a submit: it costs a call
/// when there are none, and saves a wake-up when there are.
const EAGER_REAP: usize = 4;

/// What the machine asks of the kernel's side: [`Queue`], or a script in tests.
pub(super) trait Urbs {
    /// As [`Queue::has_room`].
    fn has_room(&self, iso_pieces: usize) -> bool;
    /// As [`Queue::begin`].
    fn begin(&mut self, block: Block) -> TransferId;
    /// As [`Queue::submit`].
    fn submit(&mut self, id: TransferId, piece: &Piece<'_>) -> Result<(), OsError>;
    /// As [`Queue::reap`].
    fn reap(&mut self) -> Result<Option<(TransferId, bool)>, OsError>;
    /// As [`Queue::finish`].
    fn finish(&mut self, id: TransferId, show: &mut dyn FnMut(&mut Block, Reaped<'_>)) -> Block;
    /// As [`Queue::addresses`], appended to a list.
    fn addresses(&self, id: TransferId, list: &mut Vec<UrbAddress>);
    /// As [`Queue::in_flight`].
    fn in_flight(&self) -> usize;
}

impl Urbs for Queue {
    fn has_room(&self, iso_pieces: usize) -> bool {
        self.has_room(iso_pieces)
    }

    fn begin(&mut self, block: Block) -> TransferId {
        self.begin(block)
    }

    fn submit(&mut self, id: TransferId, piece: &Piece<'_>) -> Result<(), OsError> {
        self.submit(id, piece)
    }

    fn reap(&mut self) -> Result<Option<(TransferId, bool)>, OsError> {
        self.reap()
    }

    fn finish(&mut self, id: TransferId, show: &mut dyn FnMut(&mut Block, Reaped<'_>)) -> Block {
        self.finish(id, show)
    }

    fn addresses(&self, id: TransferId, list: &mut Vec<UrbAddress>) {
        list.extend(self.addresses(id));
    }

    fn in_flight(&self) -> usize {
        self.in_flight()
    }
}

/// A device between its opener and its end.
#[derive(Debug)]
pub(super) struct Machine<U> {
    life: Life,
    /// The hardware is gone.
    is_gone: bool,
    urbs: Option<U>,
    /// URBs with the kernel, by transfer.
    flying: Vec<Option<Flying>>,
    waiting: VecDeque<(Submission, Block)>,
    finished: VecDeque<Completed>,
    /// Transfers to be killed, in the next job.
    cancels: Vec<TransferId>,
    /// Empty list of addresses for that job.
    addresses: Vec<UrbAddress>,
    /// Lengths of the packets of the URB that is being started.
    lengths: Vec<u32>,
    /// Something may be there to reap.
    is_reapable: bool,
    retry_at: Option<Duration>,
    busy: Option<Busy>,
    busy_time: Duration,
    jobs: Sender<Job>,
    reports: Receiver<Report>,
}

#[derive(Debug)]
enum Life {
    Opening,
    Open,
    Closing { limit: Duration },
    Closed,
    Failed(String),
}

/// The helper has a job.
#[derive(Debug)]
struct Busy {
    /// `None` while the device is being opened, which does not count.
    since: Option<Duration>,
    answer: Option<(Submission, Block)>,
}

#[derive(Debug)]
struct Flying {
    submission: Submission,
    is_cancelled: bool,
    has_gaps: bool,
    /// A piece was not taken: the status that the whole URB ends with.
    failure: Option<i32>,
}

impl<U: Urbs> Machine<U> {
    /// A device that the helper at the other end of the channels is opening.
    pub fn new(jobs: Sender<Job>, reports: Receiver<Report>) -> Self {
        Self {
            life: Life::Opening,
            is_gone: false,
            urbs: None,
            flying: Vec::new(),
            waiting: VecDeque::new(),
            finished: VecDeque::new(),
            cancels: Vec::new(),
            addresses: Vec::new(),
            lengths: Vec::new(),
            is_reapable: false,
            retry_at: None,
            busy: Some(Busy { since: None, answer: None }),
            busy_time: Duration::ZERO,
            jobs,
            reports,
        }
    }

    pub fn state(&self) -> DeviceState {
        match &self.life {
            Life::Opening => DeviceState::Opening,
            Life::Open if self.is_gone => DeviceState::Gone,
            Life::Open => DeviceState::Ready,
            Life::Closing { .. } => DeviceState::Closing,
            Life::Closed => DeviceState::Closed,
            Life::Failed(reason) => DeviceState::Failed(reason.clone()),
        }
    }

    /// The device cannot be opened.
    pub fn fail(&mut self, reason: String) {
        self.life = Life::Failed(reason);
        self.busy = None;
    }

    /// Time during which the helper had the node, in sum, up to `now`.
    pub fn busy_time(&self, now: Duration) -> Duration {
        let since = self.busy.as_ref().and_then(|busy| busy.since);
        self.busy_time + since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Neither with the kernel nor waiting is any URB.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.urbs.as_ref().is_none_or(|urbs| urbs.in_flight() == 0)
    }

    /// Whether the node's readiness is news: not while a reap is due anyway but must wait, and not
    /// when the device is being closed, which goes from report to report.
    pub fn wants_readiness(&self) -> bool {
        matches!(self.life, Life::Open)
            && !self.is_gone
            && !(self.is_reapable && self.busy.is_some())
    }

    /// Earliest time at which [`Machine::handle_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        let limit = match self.life {
            Life::Closing { limit } => Some(limit),
            _ => None,
        };
        let retry = self.retry_at.filter(|_| self.busy.is_none());
        limit.into_iter().chain(retry).min()
    }

    /// Takes the kernel's side out of a device that is closed.
    pub fn take_urbs(&mut self) -> Option<U> {
        if matches!(self.life, Life::Closed) { self.urbs.take() } else { None }
    }

    /// Leaves the closing of the node, which may wait, to the helper.
    pub fn close_node(&self, node: OwnedFd) {
        // Without a helper the node comes back with the error and is closed here.
        let _ = self.jobs.send(Job::CloseNode(node));
    }

    pub fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        if self.is_gone || !matches!(self.life, Life::Open) {
            self.answer(&submission, block, -errno::ENODEV);
            return;
        }
        self.waiting.push_back((submission, block));
        self.pump(now);
    }

    pub fn cancel(&mut self, slot: u32, now: Duration) {
        if let Some(at) = self.waiting.iter().position(|(urb, _)| urb.slot == slot) {
            let (submission, block) = self.waiting.remove(at).expect("it has just been found");
            self.answer(&submission, block, -errno::ECONNRESET);
            return;
        }
        let is_it = |entry: &Option<Flying>| {
            entry.as_ref().is_some_and(|urb| urb.submission.slot == slot && !urb.is_cancelled)
        };
        if let Some(index) = self.flying.iter().position(is_it) {
            self.kill(TransferId::from_index(index));
            self.pump(now);
        }
    }

    pub fn poll(&mut self, now: Duration) -> Option<Completed> {
        loop {
            if let Some(completed) = self.finished.pop_front() {
                return Some(completed);
            }
            if !self.is_reapable || self.busy.is_some() {
                return None;
            }
            let urbs = self.urbs.as_mut().filter(|urbs| urbs.in_flight() > 0);
            match urbs.map_or(Ok(None), Urbs::reap) {
                Ok(Some((id, true))) => {
                    self.finish(id);
                    self.pump(now);
                }
                Ok(Some((_, false))) => {}
                Ok(None) => self.is_reapable = false,
                Err(_) => {
                    self.device_gone(now);
                    // What the kernel still has comes later: the deadline looks for it.
                    self.is_reapable = false;
                }
            }
        }
    }

    /// The node is ready. `events` are poll(2) bits.
    pub fn handle_ready(&mut self, is_hung_up: bool, now: Duration) {
        self.is_reapable = true;
        if is_hung_up {
            self.device_gone(now);
        }
    }

    pub fn handle_deadline(&mut self, now: Duration) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = Some(now + GONE_RETRY).filter(|_| !self.is_idle());
            self.is_reapable = true;
        }
        if matches!(self.life, Life::Closing { limit } if limit <= now) {
            // What the kernel still has is lost with the helper that waits for it.
            self.life = Life::Closed;
        }
    }

    /// Takes the helper's reports. The kernel's side is made by `make` when the device is open.
    pub fn handle_doorbell(&mut self, now: Duration, make: impl FnOnce(Opened) -> U) {
        let mut make = Some(make);
        while let Ok(report) = self.reports.try_recv() {
            let busy = self.busy.take();
            let since = busy.as_ref().and_then(|busy| busy.since).unwrap_or(now);
            self.busy_time += now.saturating_sub(since);
            self.is_reapable = true;
            match report {
                Report::Opened(opened) => {
                    self.urbs = make.take().map(|make| make(opened));
                    if matches!(self.life, Life::Opening) {
                        self.life = Life::Open;
                    }
                }
                Report::Refused(_) if matches!(self.life, Life::Closing { .. }) => {
                    self.life = Life::Closed;
                }
                Report::Refused(reason) => self.life = Life::Failed(reason),
                Report::Done(result) => {
                    let (submission, block) =
                        busy.and_then(|busy| busy.answer).expect("a request waits for its end");
                    self.answer(&submission, block, translate::request_status(result));
                    if result == Err(OsError(errno::ENODEV)) {
                        self.device_gone(now);
                    }
                }
                Report::Discarded(mut addresses) => {
                    addresses.clear();
                    self.addresses = addresses;
                }
                Report::Restored => self.life = Life::Closed,
            }
            self.pump(now);
        }
    }

    pub fn close(&mut self, now: Duration) {
        match self.life {
            Life::Opening | Life::Open => {
                self.life = Life::Closing { limit: now + CLOSE_LIMIT };
            }
            Life::Closing { .. } | Life::Closed | Life::Failed(_) => return,
        }
        while let Some((submission, block)) = self.waiting.pop_front() {
            self.answer(&submission, block, -errno::ECONNRESET);
        }
        for index in 0..self.flying.len() {
            if self.flying[index].as_ref().is_some_and(|urb| !urb.is_cancelled) {
                self.kill(TransferId::from_index(index));
            }
        }
        self.pump(now);
    }

    /// Gives the helper its next job and starts what waits, as far as that goes now.
    fn pump(&mut self, now: Duration) {
        while self.busy.is_none() {
            if !self.cancels.is_empty() {
                self.discard(now);
                continue;
            }
            let Some((submission, _)) = self.waiting.front() else { break };
            let action = translate::action(submission);
            let iso_pieces = isochronous::pieces(submission.packets);
            let has_room = self.urbs.as_ref().is_some_and(|urbs| urbs.has_room(iso_pieces));
            if action == Action::Transfer && !has_room {
                break;
            }
            let (submission, block) = self.waiting.pop_front().expect("seen just now");
            match action {
                Action::Answer => self.answer(&submission, block, 0),
                Action::Request(request) => {
                    self.give_job(Job::Request(request), Some((submission, block)), now);
                }
                Action::Transfer => self.start(submission, block, now),
            }
        }
        let is_closing = matches!(self.life, Life::Closing { .. });
        if is_closing && self.busy.is_none() && self.is_idle() {
            self.give_job(Job::Restore, None, now);
        }
    }

    fn give_job(&mut self, job: Job, answer: Option<(Submission, Block)>, now: Duration) {
        assert!(self.busy.is_none(), "the helper has one job at a time");
        self.busy = Some(Busy { since: Some(now), answer });
        if self.jobs.send(job).is_err() {
            // The helper has died, and has given the device back while it did.
            let answer = self.busy.take().and_then(|busy| busy.answer);
            if let Some((submission, block)) = answer {
                self.answer(&submission, block, -errno::ESHUTDOWN);
            }
            self.device_gone(now);
            if matches!(self.life, Life::Closing { .. }) && self.is_idle() {
                self.life = Life::Closed;
            }
        }
    }

    fn kill(&mut self, id: TransferId) {
        let urb = self.flying[id.index()].as_mut().expect("only what flies is killed");
        assert!(!urb.is_cancelled, "a URB is killed once");
        urb.is_cancelled = true;
        self.cancels.push(id);
    }

    /// One job for all that is to be killed; what has been reaped meanwhile is not on the list.
    fn discard(&mut self, now: Duration) {
        let mut addresses = std::mem::take(&mut self.addresses);
        if let Some(urbs) = &self.urbs {
            for &id in &self.cancels {
                urbs.addresses(id, &mut addresses);
            }
        }
        self.cancels.clear();
        if addresses.is_empty() {
            self.addresses = addresses;
        } else {
            self.give_job(Job::Discard(addresses), None, now);
        }
    }

    /// Starts an asynchronous URB.
    fn start(&mut self, submission: Submission, mut block: Block, now: Duration) {
        let is_iso = submission.kind == TransferType::Isochronous;
        if is_iso && submission.packets == 0 {
            self.answer(&submission, block, 0);
            return;
        }
        let mut has_gaps = false;
        if is_iso {
            has_gaps = isochronous::read_lengths(block.as_mut(), &submission, &mut self.lengths);
            if has_gaps && submission.direction == Direction::Out {
                isochronous::compact(block.as_mut(), &submission);
            }
        }
        if submission.kind == TransferType::Control {
            block.as_mut()[SETUP_OFFSET..BUFFER_OFFSET].copy_from_slice(&submission.setup);
        }
        let urbs = self.urbs.as_mut().expect("an open device has a queue");
        let others = urbs.in_flight();
        let id = urbs.begin(block);
        let result = if is_iso {
            submit_iso(urbs, id, &submission, &self.lengths)
        } else {
            urbs.submit(id, &plain_piece(&submission))
        };
        let in_flight = urbs.in_flight();
        let failure = result.err().map(|error| translate::submit_status(submission.kind, error));
        let flying = Flying { submission, is_cancelled: false, has_gaps, failure };
        if self.flying.len() <= id.index() {
            self.flying.resize_with(id.index() + 1, || None);
        }
        assert!(self.flying[id.index()].replace(flying).is_none(), "the transfer was vacant");
        self.is_reapable |= in_flight >= EAGER_REAP;
        if failure.is_some() {
            // The pieces before the one that was not taken are killed, and the URB answered once.
            if in_flight > others { self.kill(id) } else { self.finish(id) }
        }
        if result_is_gone(result) {
            self.device_gone(now);
        }
    }

    /// All pieces of a transfer are back.
    fn finish(&mut self, id: TransferId) {
        self.cancels.retain(|&other| other != id);
        let urb = self.flying[id.index()].take().expect("a finished URB was flying");
        let urbs = self.urbs.as_mut().expect("an open device has a queue");
        let completed = if urb.submission.kind == TransferType::Isochronous {
            finish_iso(urbs, id, &urb)
        } else {
            finish_plain(urbs, id, &urb)
        };
        self.finished.push_back(completed);
    }

    fn answer(&mut self, submission: &Submission, mut block: Block, status: i32) {
        let Settled { actual_length, error_count } =
            isochronous::conclude(block.as_mut(), submission, 0);
        let finished = Finished { slot: submission.slot, status, actual_length, error_count };
        self.finished.push_back(Completed { finished, block });
    }

    fn device_gone(&mut self, now: Duration) {
        self.is_gone = true;
        while let Some((submission, block)) = self.waiting.pop_front() {
            self.answer(&submission, block, -errno::ESHUTDOWN);
        }
        // The kernel kills them all; the calls would only say that the device is gone.
        self.cancels.clear();
        self.is_reapable = true;
        self.retry_at = Some(now + GONE_RETRY).filter(|_| !self.is_idle());
    }
}

fn result_is_gone(result: Result<(), OsError>) -> bool {
    result == Err(OsError(errno::ENODEV))
}

fn plain_piece(submission: &Submission) -> Piece<'static> {
    let end = BUFFER_OFFSET + submission.length as usize;
    let is_control = submission.kind == TransferType::Control;
    Piece {
        kind: translate::urb_kind(submission.kind),
        endpoint: translate::endpoint_address(submission),
        flags: translate::urb_flags(submission),
        buffer: if is_control { SETUP_OFFSET..end } else { BUFFER_OFFSET..end },
        packets: &[],
    }
}

fn submit_iso(
    urbs: &mut impl Urbs,
    id: TransferId,
    submission: &Submission,
    lengths: &[u32],
) -> Result<(), OsError> {
    let mut start = BUFFER_OFFSET;
    for packets in lengths.chunks(PACKETS_PER_URB) {
        let end = start + packets.iter().map(|&length| length as usize).sum::<usize>();
        let piece = Piece {
            kind: UrbKind::Isochronous,
            endpoint: translate::endpoint_address(submission),
            flags: translate::urb_flags(submission),
            buffer: start..end,
            packets,
        };
        urbs.submit(id, &piece)?;
        start = end;
    }
    Ok(())
}

fn finish_plain(urbs: &mut impl Urbs, id: TransferId, urb: &Flying) -> Completed {
    let mut status = urb.failure.unwrap_or(0);
    let mut actual_length = 0;
    let block = urbs.finish(id, &mut |_, reaped| {
        status = translate::reaped_status(reaped.status, urb.is_cancelled);
        actual_length = reaped.actual_length.min(urb.submission.length);
    });
    let slot = urb.submission.slot;
    Completed { finished: Finished { slot, status, actual_length, error_count: 0 }, block }
}

fn finish_iso(urbs: &mut impl Urbs, id: TransferId, urb: &Flying) -> Completed {
    let submission = &urb.submission;
    let (mut status, mut packet) = (0, 0);
    let mut block = urbs.finish(id, &mut |block, reaped| {
        if status == 0 {
            status = translate::reaped_status(reaped.status, urb.is_cancelled);
        }
        packet = isochronous::record(block.as_mut(), submission, packet, reaped.packets);
    });
    let Settled { actual_length, error_count } =
        isochronous::conclude(block.as_mut(), submission, packet);
    if urb.has_gaps && submission.direction == Direction::In {
        isochronous::spread(block.as_mut(), submission);
    }
    let status = urb.failure.unwrap_or(status);
    Completed {
        finished: Finished { slot: submission.slot, status, actual_length, error_count },
        block,
    }
}

#[cfg(test)]
mod tests;
