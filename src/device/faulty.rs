//! A device with faults: wraps another one and lets things go wrong by the dice of a seed.
//!
//! Whatever goes wrong, the promises of [`Device`] hold: every URB comes back exactly once, in
//! order per endpoint. So a session that breaks under it is wrong itself. The same seed and the
//! same calls give the same faults.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use usbip_fast_native::{Arena, Block, Handle, Interest};

use super::{Completed, Device, DeviceState, Remains};
use crate::usb::errno;
use crate::usb::isochronous::{self, PacketDescriptor};
use crate::usb::setup::{Setup, StandardRequest};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferType,
};

/// How often things go wrong, each in parts per million of the occasions it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of all URBs: the completion is held back for up to [`longest_delay`](Self::longest_delay),
    /// so that other endpoints overtake it.
    pub late: u32,
    /// Of bulk and interrupt URBs: the endpoint halts until the host clears it. Of control URBs:
    /// the request stalls.
    pub stall: u32,
    /// Of IN URBs that moved something: fewer bytes than the device gave.
    pub short: u32,
    /// Of all URBs: -71, -75 or -84 after a part of the bytes; isochronous: in one packet.
    pub error: u32,
    /// Of all cancels: what is done already keeps its own result (else it becomes -104), what is
    /// under way is told of the cancel only after a delay.
    pub cancel_race: u32,
    /// Of all allocations: no memory.
    pub no_memory: u32,
    /// Of all URBs: within the longest delay after it the device is unplugged.
    pub unplug: u32,
    /// Bound of all delays.
    pub longest_delay: Duration,
}

impl Faults {
    /// Everything but the unplugging, often enough that a few hundred URBs meet each of it.
    pub const FREQUENT: Self = Self {
        late: 300_000,
        stall: 20_000,
        short: 50_000,
        error: 30_000,
        cancel_race: 500_000,
        no_memory: 20_000,
        unplug: 0,
        longest_delay: Duration::from_millis(20),
    };
}

/// Unplugs a [`Faulty`] device from outside, at its next call.
#[derive(Clone, Debug, Default)]
pub struct Plug(Arc<AtomicBool>);

impl Plug {
    /// Pulls the plug; it cannot be put back.
    pub fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The wrapper.
pub struct Faulty {
    inner: Box<dyn Device>,
    faults: Faults,
    dice: Dice,
    life: Life,
    plug: Plug,
    unplug_at: Option<Duration>,
    /// Endpoints that a fault has halted, one bit each by [`lane`].
    halted: u32,
    /// All URBs not given back yet, in order of submission.
    items: VecDeque<Item>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Present,
    Gone,
    Closing,
}

/// A URB in the wrapper's hands.
struct Item {
    submission: Submission,
    lane: u32,
    fault: Option<Fault>,
    /// How long the completion is held back.
    delay: Duration,
    /// When the device is to be told that the URB was cancelled.
    cancel_at: Option<Duration>,
    stage: Stage,
}

enum Stage {
    /// With the wrapped device.
    Under,
    /// Over; goes out at this time, if the endpoint's earlier URBs have gone.
    Held { completed: Completed, until: Duration },
}

/// What goes wrong with a URB that the wrapped device has carried out well.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error(i32),
    Short,
}

impl Item {
    fn is_under(&self) -> bool {
        matches!(self.stage, Stage::Under)
    }
}

impl Faulty {
    /// Wraps a device. The same seed throws the same dice.
    #[must_use]
    pub fn new(inner: Box<dyn Device>, faults: Faults, seed: u64) -> Self {
        Self {
            inner,
            faults,
            dice: Dice::new(seed),
            life: Life::Present,
            plug: Plug::default(),
            unplug_at: None,
            halted: 0,
            items: VecDeque::new(),
        }
    }

    /// The device's plug, to be pulled at a chosen moment.
    #[must_use]
    pub fn plug(&self) -> Plug {
        self.plug.clone()
    }

    /// Unplugs the device if its time has come, and passes on cancels that were late.
    fn tick(&mut self, now: Duration) {
        let pulled = self.plug.0.load(Ordering::Relaxed);
        let due = self.unplug_at.is_some_and(|at| at <= now);
        if self.life == Life::Present && (pulled || due) {
            self.life = Life::Gone;
            self.hasten();
            self.inner.close(now);
        }
        for item in &mut self.items {
            if item.cancel_at.take_if(|at| *at <= now).is_some() {
                self.inner.cancel(item.submission.slot, now);
            }
        }
        self.collect(now);
    }

    /// Nothing is held back any more.
    fn hasten(&mut self) {
        self.unplug_at = None;
        for item in &mut self.items {
            item.delay = Duration::ZERO;
            item.cancel_at = None;
            if let Stage::Held { until, .. } = &mut item.stage {
                *until = Duration::ZERO;
            }
        }
    }

    /// Takes over what the wrapped device has finished.
    fn collect(&mut self, now: Duration) {
        while let Some(mut completed) = self.inner.poll(now) {
            let slot = completed.finished.slot;
            let mut items = self.items.iter_mut();
            let item = items
                .find(|item| item.submission.slot == slot && item.is_under())
                .expect("a device gives back what it was given, once");
            let finished = &mut completed.finished;
            if self.life == Life::Gone && finished.status == -errno::ECONNRESET {
                finished.status = -errno::ESHUTDOWN;
            } else if let (Life::Present, 0, Some(fault)) = (self.life, finished.status, item.fault)
            {
                spoil(&mut completed, &item.submission, fault, &mut self.dice);
            }
            item.cancel_at = None;
            item.stage = Stage::Held { completed, until: now + item.delay };
        }
    }

    /// Positions of the URBs that may go out as far as order is concerned, and when.
    fn releases(&self) -> impl Iterator<Item = (usize, Duration)> {
        let mut occupied = 0u32;
        self.items.iter().enumerate().filter_map(move |(index, item)| {
            let first = occupied & item.lane == 0;
            occupied |= item.lane;
            match &item.stage {
                Stage::Held { completed, until } => {
                    // A URB that was ended by its cancel does not wait for those before it.
                    let unlinked = completed.finished.status == -errno::ECONNRESET;
                    (first || unlinked).then_some((index, *until))
                }
                Stage::Under => None,
            }
        })
    }

    /// What is wrong with a URB from the start, as a status; else it goes to the wrapped device.
    fn refuse(&mut self, submission: &Submission, lane: u32) -> Option<i32> {
        if self.life == Life::Gone {
            return Some(-errno::ENODEV);
        }
        if submission.kind == TransferType::Control {
            let setup = Setup::from_bytes(submission.setup);
            match setup.classify() {
                StandardRequest::ClearHalt(address) => self.halted &= !lane_of(address),
                StandardRequest::SetConfiguration(_)
                | StandardRequest::SetInterface { .. }
                | StandardRequest::PortReset => self.halted = 0,
                // Only what changes nothing may stall, or the client's idea of the device and
                // the device's own would part.
                _ if setup.is_in() && self.dice.hit(self.faults.stall) => {
                    return Some(-errno::EPIPE);
                }
                _ => {}
            }
            return None;
        }
        let stalls = submission.kind != TransferType::Isochronous
            && self.dice.hit(self.faults.stall)
            // A halt would end what the device still has of this endpoint; only it could do that.
            && !self.items.iter().any(|item| item.lane == lane && item.is_under());
        if stalls {
            self.halted |= lane;
        }
        (self.halted & lane != 0).then_some(-errno::EPIPE)
    }

    fn choose_fault(&mut self) -> Option<Fault> {
        if self.dice.hit(self.faults.error) {
            let errors = [errno::EPROTO, errno::EOVERFLOW, errno::EILSEQ];
            return Some(Fault::Error(-errors[self.dice.below(3) as usize]));
        }
        self.dice.hit(self.faults.short).then_some(Fault::Short)
    }

    fn choose_delay(&mut self, rate: u32) -> Duration {
        if self.life != Life::Present || !self.dice.hit(rate) {
            return Duration::ZERO;
        }
        self.dice.duration(self.faults.longest_delay)
    }
}

impl Device for Faulty {
    fn state(&self) -> DeviceState {
        match (self.life, self.inner.state()) {
            (Life::Gone, _) => DeviceState::Gone,
            (_, DeviceState::Closed) if !self.items.is_empty() => DeviceState::Closing,
            (_, state) => state,
        }
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        if self.dice.hit(self.faults.no_memory) {
            return None;
        }
        self.inner.allocate(arena, bytes)
    }

    fn submit(&mut self, submission: Submission, mut block: Block, now: Duration) {
        self.tick(now);
        if self.life == Life::Present && self.dice.hit(self.faults.unplug) {
            self.unplug_at = Some(now + self.dice.duration(self.faults.longest_delay));
        }
        let lane = lane(&submission);
        let refusal = self.refuse(&submission, lane);
        let fault = self.choose_fault();
        let delay = self.choose_delay(self.faults.late);
        let stage = match refusal {
            Some(status) => {
                let packets = packets_mut(&mut block, &submission);
                isochronous::refuse(packets, -errno::EXDEV);
                let finished = Finished {
                    slot: submission.slot,
                    status,
                    actual_length: 0,
                    error_count: submission.packets,
                };
                Stage::Held { completed: Completed { finished, block }, until: now + delay }
            }
            None => {
                self.inner.submit(submission, block, now);
                Stage::Under
            }
        };
        self.items.push_back(Item { submission, lane, fault, delay, cancel_at: None, stage });
        self.collect(now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.tick(now);
        let raced = self.dice.hit(self.faults.cancel_race);
        let delay = self.dice.duration(self.faults.longest_delay);
        let life = self.life;
        let Some(item) = self.items.iter_mut().find(|item| item.submission.slot == slot) else {
            return;
        };
        match &mut item.stage {
            Stage::Held { .. } if raced || life != Life::Present => {}
            Stage::Held { completed, until } => {
                completed.finished.status = -errno::ECONNRESET;
                *until = now;
            }
            Stage::Under if raced && life == Life::Present => {
                item.cancel_at.get_or_insert(now + delay);
            }
            Stage::Under => self.inner.cancel(slot, now),
        }
        self.collect(now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.tick(now);
        let (index, _) = self.releases().find(|(_, until)| *until <= now)?;
        let item = self.items.remove(index).expect("the position was just found");
        match item.stage {
            Stage::Held { completed, .. } => Some(completed),
            Stage::Under => unreachable!("only held URBs are released"),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let releases = self.releases().map(|(_, until)| until);
        let cancels = self.items.iter().filter_map(|item| item.cancel_at);
        releases.chain(cancels).chain(self.inner.deadline()).chain(self.unplug_at).min()
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.inner.deadline().is_some_and(|due| due <= now) {
            self.inner.handle_deadline(now);
        }
        self.tick(now);
    }

    fn readiness(&self) -> Option<(Handle, Interest)> {
        self.inner.readiness()
    }

    fn handle_ready(&mut self, events: u32, now: Duration) {
        self.inner.handle_ready(events, now);
        self.tick(now);
    }

    fn missed(&self, address: u8) -> Option<u64> {
        self.inner.missed(address)
    }

    fn busy_time(&self, now: Duration) -> Duration {
        self.inner.busy_time(now)
    }

    fn handle_doorbell(&mut self, now: Duration) {
        self.inner.handle_doorbell(now);
        self.tick(now);
    }

    fn close(&mut self, now: Duration) {
        if self.life == Life::Closing {
            return;
        }
        self.collect(now);
        self.life = Life::Closing;
        self.hasten();
        self.inner.close(now);
        self.collect(now);
    }

    fn into_remains(self: Box<Self>) -> Remains {
        self.inner.into_remains()
    }
}

/// Makes a good result a bad one that could have happened: never more bytes than were moved.
fn spoil(completed: &mut Completed, submission: &Submission, fault: Fault, dice: &mut Dice) {
    if submission.kind == TransferType::Isochronous {
        return spoil_packet(completed, submission, fault, dice);
    }
    let finished = &mut completed.finished;
    match fault {
        Fault::Error(status) => {
            finished.status = status;
            finished.actual_length = dice.below(finished.actual_length.saturating_add(1));
        }
        Fault::Short if is_in(submission) && finished.actual_length > 0 => {
            finished.actual_length = dice.below(finished.actual_length);
            let refused = submission.flags.short_not_ok;
            finished.status = if refused { -errno::EREMOTEIO } else { 0 };
        }
        Fault::Short => {}
    }
}

fn spoil_packet(completed: &mut Completed, submission: &Submission, fault: Fault, dice: &mut Dice) {
    let packets = packets_mut(&mut completed.block, submission);
    if packets.is_empty() {
        return;
    }
    let victim = &mut packets[dice.below(submission.packets) as usize];
    match fault {
        Fault::Error(status) => {
            victim.actual_length = 0.into();
            victim.status = status.into();
        }
        Fault::Short if is_in(submission) => {
            victim.actual_length = dice.below(victim.actual_length.get().max(1)).into();
        }
        Fault::Short => {}
    }
    let finished = &mut completed.finished;
    finished.actual_length = packets.iter().map(|packet| packet.actual_length.get()).sum();
    finished.error_count = packets.iter().map(|packet| u32::from(packet.status.get() != 0)).sum();
}

fn packets_mut<'a>(block: &'a mut Block, submission: &Submission) -> &'a mut [PacketDescriptor] {
    let start = BUFFER_OFFSET + submission.length as usize;
    let end = start + submission.packets as usize * ISO_PACKET_BYTES;
    isochronous::packets_mut(&mut block.as_mut()[start..end])
}

fn is_in(submission: &Submission) -> bool {
    match submission.kind {
        TransferType::Control => submission.setup[0] & 0x80 != 0,
        _ => submission.direction == Direction::In,
    }
}

/// The bit of the queue that a URB belongs to: one per endpoint and direction, one for endpoint 0.
fn lane(submission: &Submission) -> u32 {
    let direction = if submission.direction == Direction::In { 0x80 } else { 0 };
    match submission.kind {
        TransferType::Control => 1,
        _ => lane_of(submission.endpoint & 0x0f | direction),
    }
}

fn lane_of(address: u8) -> u32 {
    1 << (u32::from(address & 0x0f) + if address & 0x80 == 0 { 0 } else { 16 })
}

/// Random numbers from a seed (the generator SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number from 0 to `bound - 1`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = u64::from(bound) * (self.next_u64() >> 32);
        u32::try_from(scaled >> 32).expect("a fraction of a 32-bit number")
    }

    /// True this often in a million times.
    pub fn hit(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < per_million
    }

    /// A time from 0 to `longest`.
    pub fn duration(&mut self, longest: Duration) -> Duration {
        let micros = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
        Duration::from_micros(u64::from(self.below(micros.saturating_add(1))))
    }
}

#[cfg(test)]
mod tests;
