//! Reading ahead of the client: isochronous and interrupt IN.
//!
//! The first [`ALIKE`] identical URBs go to the device as they are. Behind the last of them own
//! URBs of the same layout are queued, and from then on the client's URBs wait here, each for the
//! next own URB. The device's queue always holds one own URB for each of the client's that waits,
//! and beyond those up to the chosen time of them: so it is never shorter than it would be without
//! the wrapper, and what has been read and not asked for is never more than that time.
//!
//! Own URBs end, and what they have read is dropped, when the client changes something: an unlinked
//! URB, one with another layout, CLEAR_HALT, SET_INTERFACE, SET_CONFIGURATION, a reset, the end. A
//! client's URBs that wait for own ones then go to the device themselves, behind them. A status
//! that is not 0 goes to the client in its place, and also stops the reading ahead: what is to
//! happen next is the client's to decide.

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::Block;

use super::layout::{self, Layout};
use super::under::Under;
use super::{AheadLevel, STREAM_GAP, index_of};
use crate::device::Completed;
use crate::limits;
use crate::usb::errno;
use crate::usb::transfer::{Finished, Submission, TransferType};

/// Identical URBs after which the next is foreseen.
const ALIKE: u32 = 3;

/// Reading ahead on one endpoint.
pub(super) struct Prefetch {
    limit: Duration,
    interval: Duration,
    stage: Stage,
    layout: Layout,
    /// URBs in a row that had this layout.
    alike: u32,
    /// Slots of the client's URBs that the device itself has.
    passing: Vec<u32>,
    /// The client's URBs that wait, in order.
    waiting: VecDeque<Waiting>,
    /// What own URBs have read, in order. Empty while a URB of the client's waits.
    ready: VecDeque<(Finished, Block)>,
    /// Memory of own URBs between two reads.
    spare: Vec<Block>,
    /// Own URBs with the device.
    flying: usize,
    /// Since when the device has nothing to do.
    dry_since: Option<Duration>,
    /// Fewest own URBs that the device had since the client's last URB. Counts when the stream goes
    /// on: how it ends is no sign of anything.
    left: Option<usize>,
    low: Option<usize>,
    dry: u64,
    dry_time: Duration,
}

/// Where the reading ahead is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client's URBs go to the device.
    Watching,
    /// Own URBs are read ahead.
    Ahead,
    /// Own URBs were asked to end.
    Ending,
}

struct Waiting {
    submission: Submission,
    block: Block,
    /// It has the layout of the own URBs.
    is_alike: bool,
}

impl Prefetch {
    /// Reads up to `limit` ahead of a client of an endpoint with this service interval.
    pub(super) fn new(limit: Duration, interval: Duration) -> Self {
        Self {
            limit,
            interval,
            stage: Stage::Watching,
            layout: Layout::new(),
            alike: 0,
            passing: Vec::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            flying: 0,
            dry_since: None,
            left: None,
            low: None,
            dry: 0,
            dry_time: Duration::ZERO,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Nothing is under way, so that a URB may as well go around the lane.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Watching && self.passing.is_empty()
    }

    /// Takes a URB of the client's.
    pub(super) fn submit(
        &mut self,
        under: &mut Under,
        submission: Submission,
        block: Block,
        now: Duration,
    ) {
        let is_alike = self.layout.is_of(&submission, &block);
        if self.stage == Stage::Watching {
            if !is_alike {
                self.layout.learn(&submission, &block);
                self.alike = 0;
            }
            self.alike = self.alike.saturating_add(1);
            self.pass(under, submission, block, now);
            if self.alike >= ALIKE && self.layout.is_repeatable() {
                self.stage = Stage::Ahead;
            }
            return;
        }
        if !is_alike {
            self.flush(under, now);
        } else if self.is_stale(now) {
            self.drop_ready();
            (self.dry_since, self.left) = (None, None);
        }
        if let Some(left) = self.left.take() {
            self.low = Some(self.low.map_or(left, |low| low.min(left)));
        }
        self.waiting.push_back(Waiting { submission, block, is_alike });
    }

    /// Takes an own URB back.
    pub(super) fn take(&mut self, under: &mut Under, completed: Completed, now: Duration) {
        let Completed { finished, block } = completed;
        let (_, was_cancelled) = under.take_back(finished.slot);
        self.flying -= 1;
        let is_wanted = match self.stage {
            Stage::Ahead => true,
            // It has won the race against its cancel. Nobody else would bring what it has read.
            Stage::Ending => {
                finished.status == 0 && self.waiting.front().is_some_and(|w| w.is_alike)
            }
            Stage::Watching => false,
        };
        if !is_wanted || (was_cancelled && finished.status != 0) {
            return;
        }
        let failed = finished.status != 0;
        self.ready.push_back((finished, block));
        if failed {
            self.stage = Stage::Ending;
            self.alike = 0;
            under.cancel_lane(self.place(), now);
        }
    }

    /// A URB of the client's has come back from the device itself.
    pub(super) fn passed(&mut self, slot: u32) {
        self.passing.retain(|&passing| passing != slot);
    }

    /// Ends a URB of the client's, if it is here or on this endpoint. Returns whether it was here;
    /// one that the device has is to be cancelled there.
    pub(super) fn cancel(&mut self, under: &mut Under, slot: u32, now: Duration) -> bool {
        if self.passing.contains(&slot) {
            self.flush(under, now);
            return false;
        }
        let Some(at) = self.waiting.iter().position(|urb| urb.submission.slot == slot) else {
            return false;
        };
        let urb = self.waiting.remove(at).expect("found just now");
        under.answer(&urb.submission, urb.block, -errno::ECONNRESET);
        self.flush(under, now);
        true
    }

    /// Drops what was read and ends the reading.
    pub(super) fn flush(&mut self, under: &mut Under, now: Duration) {
        self.alike = 0;
        self.drop_ready();
        if self.stage == Stage::Ahead {
            self.stage = Stage::Ending;
            under.cancel_lane(self.place(), now);
        }
    }

    /// As [`flush`](Self::flush), and the client's URBs that wait here end with `status`.
    pub(super) fn end(&mut self, under: &mut Under, status: i32, now: Duration) {
        while let Some(urb) = self.waiting.pop_front() {
            under.answer(&urb.submission, urb.block, status);
        }
        self.flush(under, now);
        self.spare.clear();
    }

    /// Answers what can be answered and keeps the device's queue as long as it is to be.
    pub(super) fn settle(&mut self, under: &mut Under, now: Duration) {
        self.serve(under);
        if self.stage == Stage::Ahead {
            self.read(under, now);
        }
        if self.stage == Stage::Ending && self.flying == 0 && self.ready.is_empty() {
            self.stage = Stage::Watching;
            (self.dry_since, self.left) = (None, None);
            self.spare.clear();
            while let Some(urb) = self.waiting.pop_front() {
                self.pass(under, urb.submission, urb.block, now);
            }
        }
    }

    /// Gives waiting URBs what was read.
    fn serve(&mut self, under: &mut Under) {
        while let Some(urb) = self.waiting.front_mut().filter(|_| !self.ready.is_empty()) {
            let (finished, own) = self.ready.pop_front().expect("seen just now");
            if urb.is_alike {
                let finished = layout::hand_over(&own, &finished, &urb.submission, &mut urb.block);
                let urb = self.waiting.pop_front().expect("seen just now");
                under.finished.push_back(Completed { finished, block: urb.block });
            }
            self.spare.push(own);
        }
    }

    /// Queues own URBs, as many as may be.
    fn read(&mut self, under: &mut Under, now: Duration) {
        let wanted = self.waiting.len() + self.depth();
        while self.flying + self.ready.len() < wanted && under.has_room() {
            let bytes = self.layout.block_bytes();
            let Some(mut block) = self.spare.pop().or_else(|| under.take_block(bytes)) else {
                break;
            };
            self.layout.write(&mut block);
            self.flying += 1;
            under.start(self.layout.submission(), block, now);
        }
        if self.flying == 0 && self.ready.is_empty() {
            // No memory, or no room: the client's URBs have their own.
            self.alike = 0;
            self.stage = Stage::Ending;
        }
        self.note(now);
    }

    /// Own URBs beyond those that the client waits for.
    fn depth(&self) -> usize {
        let time = self.urb_time().max(Duration::from_nanos(1));
        let by_time = self.limit.as_nanos() / time.as_nanos();
        let by_bytes = limits::AHEAD_BYTES / self.layout.block_bytes();
        usize::try_from(by_time).unwrap_or(usize::MAX).min(by_bytes).max(1)
    }

    /// How much time of the bus a URB takes.
    fn urb_time(&self) -> Duration {
        let urb = self.layout.submission();
        match urb.kind {
            TransferType::Isochronous => self.interval * urb.packets,
            _ => self.interval,
        }
    }

    /// Keeps the account of how near to nothing the device's queue came.
    fn note(&mut self, now: Duration) {
        if self.flying == 0 {
            self.dry_since.get_or_insert(now);
            return;
        }
        let dry = self.dry_since.take().map(|since| now.saturating_sub(since));
        if let Some(time) = dry.filter(|time| *time <= STREAM_GAP) {
            self.dry += 1;
            self.dry_time += time;
            self.low = Some(0);
        }
        self.left = Some(self.left.map_or(self.flying, |left| left.min(self.flying)));
    }

    /// Whether what was read is of a stream that the client has left.
    fn is_stale(&self, now: Duration) -> bool {
        self.layout.submission().kind == TransferType::Isochronous
            && self.dry_since.is_some_and(|since| now.saturating_sub(since) > STREAM_GAP)
    }

    fn drop_ready(&mut self) {
        self.spare.extend(self.ready.drain(..).map(|(_, block)| block));
    }

    fn pass(&mut self, under: &mut Under, submission: Submission, block: Block, now: Duration) {
        self.passing.push(submission.slot);
        under.inner.submit(submission, block, now);
    }

    fn place(&self) -> usize {
        let Submission { endpoint, direction, .. } = self.layout.submission();
        index_of(endpoint, direction)
    }

    /// Whole service intervals in which the device had nothing to do; `None` if the client's own
    /// URBs are what it has.
    pub(super) fn missed(&self) -> Option<u64> {
        self.low?;
        let intervals = self.dry_time.as_nanos() / self.interval.as_nanos().max(1);
        Some(u64::try_from(intervals).unwrap_or(u64::MAX))
    }

    /// What it has come to; `None` before the first own URB.
    pub(super) fn report(&self) -> Option<AheadLevel> {
        let low = self.low?;
        let time = self.urb_time();
        let of = |urbs: usize| time * u32::try_from(urbs).unwrap_or(u32::MAX);
        Some(AheadLevel {
            limit: self.limit,
            level: of(self.ready.len()),
            low: Some(of(low)),
            dry: self.dry,
            dry_time: self.dry_time,
        })
    }
}
