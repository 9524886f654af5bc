//! Holding back what the client sends: isochronous OUT.
//!
//! The rule. What the client sends is copied and *accepted*, that is answered, before the device
//! has had it, so that a client with a short queue goes on sending. The *level* is what was
//! accepted and has not left for the bus.
//!
//! * **Filling**: URBs are accepted at the pace at which the device would have taken them, each its
//!   own time after the one before, the first its own time after it has come. When the next does
//!   not fit into the chosen time any more, the device gets all of them. So a stream is delayed by
//!   that time and its client never sees it go faster than it does.
//! * **Playing**: a URB is accepted as soon as it fits, which is when the device has finished
//!   another: the device's clock sets the pace. What comes late is accepted at once.
//! * When the device has finished everything, the buffer is filled anew with what comes next.
//! * A client that stops (it unlinks a URB, sets another alternate setting, or is silent) has what
//!   was accepted played out; SET_INTERFACE waits for that.
//!
//! Errors of the device are reported on later URBs of the stream: a status as the status of the
//! next that is accepted, failed packets as that many packets of the next ones.

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::Block;

use super::layout::{packets, packets_mut, take_over};
use super::under::Under;
use super::{AheadLevel, STREAM_GAP, index_of};
use crate::device::Completed;
use crate::limits;
use crate::usb::errno;
use crate::usb::transfer::{Direction, Finished, Submission, block_bytes};

/// The buffer of one endpoint.
pub(super) struct Jitter {
    limit: Duration,
    interval: Duration,
    stage: Stage,
    endpoint: u8,
    /// The client's URBs that are not accepted, in order.
    waiting: VecDeque<(Submission, Block)>,
    /// Accepted, and not given to the device yet.
    held: VecDeque<(Submission, Block)>,
    /// Own URBs with the device.
    flying: usize,
    /// Packets accepted and not finished.
    level: u32,
    /// Bytes accepted and not finished.
    bytes: usize,
    trouble: Trouble,
    /// Least level since the last URB was accepted. Counts when the stream goes on: how it ends is
    /// no sign of anything.
    left: Option<u32>,
    low: Option<u32>,
    dry: u64,
    dry_time: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing is here. A stream ran out at this time, if there was one.
    Empty { since: Option<Duration> },
    /// What comes is held; the next is accepted at `accept_at`, and at `give_up`, if nothing comes
    /// until then, the device gets what there is.
    Filling { accept_at: Duration, give_up: Duration },
    /// The device gets what is accepted. The client has said that it stops: `is_last`.
    Playing { is_last: bool },
}

/// What went wrong and is still to be told.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    status: i32,
    packets: u32,
    packet_status: i32,
}

impl Jitter {
    /// Holds `limit` of what comes for an endpoint with this service interval.
    pub(super) fn new(limit: Duration, interval: Duration) -> Self {
        Self {
            limit,
            interval,
            stage: Stage::Empty { since: None },
            endpoint: 0,
            waiting: VecDeque::new(),
            held: VecDeque::new(),
            flying: 0,
            level: 0,
            bytes: 0,
            trouble: Trouble::default(),
            left: None,
            low: None,
            dry: 0,
            dry_time: Duration::ZERO,
        }
    }

    /// The endpoint is that of another alternate setting. Nothing is here.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Nothing is here and nothing with the device.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_playing()
    }

    /// What was accepted is not finished.
    pub(super) fn is_playing(&self) -> bool {
        !self.held.is_empty() || self.flying > 0
    }

    /// Takes a URB of the client's; [`settle`](Self::settle) follows.
    pub(super) fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        self.endpoint = submission.endpoint;
        if let Stage::Empty { since } = self.stage {
            let dry = since.map(|since| now.saturating_sub(since));
            if let Some(time) = dry.filter(|time| *time <= STREAM_GAP) {
                self.dry += 1;
                self.dry_time += time;
                self.low = Some(0);
            }
            self.left = None;
            let accept_at = now + self.time_of(submission.packets);
            self.stage = Stage::Filling { accept_at, give_up: now };
        }
        if let Stage::Filling { give_up, .. } = &mut self.stage {
            *give_up = now + self.limit * 2 + STREAM_GAP;
        }
        self.waiting.push_back((submission, block));
    }

    /// Takes an own URB back.
    pub(super) fn take(&mut self, under: &mut Under, completed: Completed, now: Duration) {
        let Completed { finished, block } = completed;
        let (urb, was_cancelled) = under.take_back(finished.slot);
        self.flying -= 1;
        self.level -= urb.packets;
        self.bytes -= block.len();
        if !was_cancelled {
            self.trouble.note(&urb, &finished, &block);
        }
        self.left = Some(self.left.map_or(self.level, |left| left.min(self.level)));
        if !self.is_playing() && self.waiting.is_empty() {
            let is_last = matches!(self.stage, Stage::Playing { is_last: true });
            self.stage = Stage::Empty { since: Some(now).filter(|_| !is_last) };
        }
    }

    /// Ends a URB of the client's, if it is here.
    pub(super) fn cancel(&mut self, under: &mut Under, slot: u32, now: Duration) -> bool {
        let Some(at) = self.waiting.iter().position(|(urb, _)| urb.slot == slot) else {
            return false;
        };
        let (submission, block) = self.waiting.remove(at).expect("found just now");
        under.answer(&submission, block, -errno::ECONNRESET);
        self.stop(under, now);
        true
    }

    /// The client wants no more than what was accepted.
    pub(super) fn finish(&mut self, under: &mut Under, status: i32, now: Duration) {
        while let Some((submission, block)) = self.waiting.pop_front() {
            under.answer(&submission, block, status);
        }
        self.stop(under, now);
    }

    /// The end of everything, played or not.
    pub(super) fn end(&mut self, under: &mut Under, status: i32, now: Duration) {
        while let Some((urb, block)) = self.held.pop_front() {
            self.level -= urb.packets;
            self.bytes -= block.len();
        }
        self.finish(under, status, now);
        under.cancel_lane(index_of(self.endpoint, Direction::Out), now);
        self.trouble = Trouble::default();
    }

    /// Accepts and starts what can be.
    pub(super) fn settle(&mut self, under: &mut Under, now: Duration) {
        if let Stage::Filling { accept_at, give_up } = self.stage {
            self.fill(under, accept_at, give_up, now);
        }
        if let Stage::Playing { .. } = self.stage {
            while let Some((urb, _)) = self.waiting.front() {
                let is_first = !self.is_playing();
                let is_room = is_first || (self.fits(urb) && under.has_room());
                if !is_room || !self.accept(under) {
                    break;
                }
                self.start(under, now);
            }
        }
    }

    fn fill(&mut self, under: &mut Under, at: Duration, give_up: Duration, now: Duration) {
        let mut accept_at = at;
        while let Some((urb, _)) = self.waiting.front() {
            if !self.fits(urb) && self.is_playing() {
                return self.play(under, now);
            }
            if accept_at > now {
                break;
            }
            let time = self.time_of(urb.packets);
            if !self.accept(under) {
                return self.play(under, now);
            }
            accept_at += time;
        }
        self.stage = Stage::Filling { accept_at, give_up };
        if give_up <= now || self.time_of(self.level) >= self.limit {
            self.play(under, now);
        }
    }

    /// From now on the device gets what is accepted.
    fn play(&mut self, under: &mut Under, now: Duration) {
        if let Stage::Filling { .. } = self.stage {
            self.stage = Stage::Playing { is_last: false };
            self.start(under, now);
        }
    }

    /// The client stops: what it has sent is played at once.
    fn stop(&mut self, under: &mut Under, now: Duration) {
        self.play(under, now);
        if let Stage::Playing { is_last } = &mut self.stage {
            *is_last = true;
        }
        if !self.is_playing() && self.waiting.is_empty() {
            self.stage = Stage::Empty { since: None };
        }
    }

    fn start(&mut self, under: &mut Under, now: Duration) {
        while let Some((submission, block)) = self.held.pop_front() {
            self.flying += 1;
            under.start(submission, block, now);
        }
    }

    /// Answers the first waiting URB and keeps a copy. False if there is no memory for that.
    fn accept(&mut self, under: &mut Under) -> bool {
        let (urb, _) = self.waiting.front().expect("the caller has seen one");
        let Some(mut own) = under.take_block(block_bytes(urb.length, urb.packets)) else {
            if !self.is_playing() {
                // Nothing will come back that could make room.
                let (urb, block) = self.waiting.pop_front().expect("as above");
                under.answer(&urb, block, -errno::ENOMEM);
                return true;
            }
            return false;
        };
        let (urb, mut block) = self.waiting.pop_front().expect("as above");
        take_over(&urb, &block, &mut own);
        if let Some(left) = self.left.take() {
            self.low = Some(self.low.map_or(left, |low| low.min(left)));
        }
        self.level += urb.packets;
        self.bytes += own.len();
        self.held.push_back((urb, own));
        let finished = self.trouble.tell(&urb, &mut block);
        under.finished.push_back(Completed { finished, block });
        true
    }

    /// Whether one more can be accepted.
    fn fits(&self, urb: &Submission) -> bool {
        self.time_of(self.level.saturating_add(urb.packets)) <= self.limit
            && self.held.len() + self.flying < limits::AHEAD_URBS
            && self.bytes < limits::AHEAD_BYTES
    }

    fn time_of(&self, packets: u32) -> Duration {
        self.interval * packets
    }

    /// When [`settle`](Self::settle) has something to do though nothing happened.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Filling { give_up, .. } if self.waiting.is_empty() => Some(give_up),
            Stage::Filling { accept_at, give_up } => Some(accept_at.min(give_up)),
            Stage::Empty { .. } | Stage::Playing { .. } => None,
        }
    }

    /// Whole service intervals in which the device had nothing to do.
    pub(super) fn missed(&self) -> Option<u64> {
        let intervals = self.dry_time.as_nanos() / self.interval.as_nanos().max(1);
        Some(u64::try_from(intervals).unwrap_or(u64::MAX))
    }

    /// What it has come to.
    pub(super) fn report(&self) -> AheadLevel {
        AheadLevel {
            limit: self.limit,
            level: self.time_of(self.level),
            low: self.low.map(|packets| self.time_of(packets)),
            dry: self.dry,
            dry_time: self.dry_time,
        }
    }
}

impl Trouble {
    /// An own URB has ended so.
    fn note(&mut self, urb: &Submission, finished: &Finished, block: &Block) {
        if finished.status != 0 {
            self.status = finished.status;
        }
        for packet in packets(block, urb).iter().filter(|packet| packet.status.get() != 0) {
            self.packets = self.packets.saturating_add(1);
            self.packet_status = packet.status.get();
        }
    }

    /// The answer to an accepted URB, with what went wrong before.
    fn tell(&mut self, urb: &Submission, block: &mut Block) -> Finished {
        let mut sum = 0;
        let mut failed = 0;
        for packet in packets_mut(block, urb) {
            if self.packets > 0 {
                self.packets -= 1;
                failed += 1;
                packet.actual_length = 0.into();
                packet.status = self.packet_status.into();
            } else {
                packet.actual_length = packet.length;
                packet.status = 0.into();
                sum += packet.length.get();
            }
        }
        let status = std::mem::take(&mut self.status);
        Finished { slot: urb.slot, status, actual_length: sum, error_count: failed }
    }
}
