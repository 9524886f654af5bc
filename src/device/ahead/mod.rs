//! Round trips hidden: a device that keeps its own URBs on the device it wraps.
//!
//! Between a client and a device stands a network. Its delay, and the delay's changes, are hidden
//! from the device by working ahead, in two ways, each chosen by the user and off by default:
//!
//! * **Prefetch** (isochronous and interrupt IN): after the client's first identical URBs on an
//!   endpoint the wrapper queues such URBs itself and answers the client's from what they have
//!   brought; see `prefetch`.
//! * **Jitter buffer** (isochronous OUT): what the client sends is held until a certain time of it
//!   has come, and only then started; see `jitter`.
//!
//! Both add latency, up to the time chosen, which [`Device::ahead`] reports. What they cannot do:
//! USB/IP answers a URB only after it was asked for, so on the average of the round trips a client
//! gets no more than what it has queued per round trip. A client whose queue is shorter than that
//! needs the wrapper at its own end of the network, where its questions have no way to go.
//!
//! The wrapper's URBs have slots of their own, with the highest bit set, which a session's never
//! have.

mod jitter;
mod layout;
mod prefetch;
#[cfg(test)]
mod tests;
mod under;

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::{Arena, Block, Handle, Interest};

use self::jitter::Jitter;
use self::prefetch::Prefetch;
use self::under::Under;
use super::{Completed, Device, DeviceState, Remains};
use crate::usb::endpoint::EndpointMap;
use crate::usb::errno;
use crate::usb::identity::DeviceDescription;
use crate::usb::setup::{Setup, StandardRequest};
use crate::usb::speed::Speed;
use crate::usb::transfer::{Direction, Submission, TransferType};

/// A stream that is without URBs for longer than this was stopped, not starved.
const STREAM_GAP: Duration = Duration::from_millis(100);

/// How far to work ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// Most that is read from the device before the client has asked for it.
    pub prefetch: Option<Duration>,
    /// How much is held of what the client sends before the device gets it.
    pub jitter: Option<Duration>,
}

impl Lead {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.prefetch.is_none() && self.jitter.is_none()
    }
}

/// What working ahead has come to on one endpoint; see [`Device::ahead`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AheadLevel {
    /// The latency added at most.
    pub limit: Duration,
    /// IN: what was read and not asked for yet. OUT: what was taken from the client and has not
    /// left for the bus yet. The latency added at present.
    pub level: Duration,
    /// How near to having nothing to do the device came while the stream went on: what its queue
    /// held at the least. `None` before the first stream.
    pub low: Option<Duration>,
    /// How often it had nothing to do while the stream went on.
    pub dry: u64,
    /// How long it had nothing to do, in sum.
    pub dry_time: Duration,
}

/// The wrapper.
pub struct Ahead {
    under: Under,
    lead: Lead,
    speed: Speed,
    endpoints: EndpointMap,
    /// What is done at an endpoint; by [`index_of`], made on first use.
    lanes: [Option<Box<Lane>>; 32],
    /// Control URBs that wait for sound to be played out, in order, and since when they wait.
    held: VecDeque<(Submission, Block, Duration)>,
    /// When sound was last played.
    played_at: Duration,
    /// Requests under way that change which endpoints there are, by slot.
    changes: Vec<(u32, StandardRequest)>,
    is_closed: bool,
}

enum Lane {
    In(Prefetch),
    Out(Jitter),
}

impl Ahead {
    /// Wraps a device that is as `description` says.
    #[must_use]
    pub fn new(inner: Box<dyn Device>, description: &DeviceDescription, lead: Lead) -> Self {
        let endpoints = EndpointMap::new(&description.descriptors, description.configuration);
        Self {
            under: Under::new(inner),
            lead,
            speed: description.speed,
            endpoints,
            lanes: [const { None }; 32],
            held: VecDeque::new(),
            played_at: Duration::ZERO,
            changes: Vec::new(),
            is_closed: false,
        }
    }

    fn is_ready(&self) -> bool {
        !self.is_closed && self.under.inner.state() == DeviceState::Ready
    }

    /// The lane of a data URB, if its endpoint has one or is to have one.
    fn lane_index(&mut self, submission: &Submission) -> Option<usize> {
        let &Submission { endpoint, direction, kind, .. } = submission;
        let index = index_of(endpoint, direction);
        let is_busy = self.lanes[index].as_ref().is_some_and(|lane| !lane.is_idle());
        if is_busy {
            return Some(index);
        }
        let info = *self.endpoints.info(endpoint, direction)?;
        if !info.active || info.kind != kind {
            return None;
        }
        let lane = match (kind, direction) {
            (TransferType::Isochronous, Direction::Out) => {
                let limit = self.lead.jitter?;
                let interval = info.isochronous_interval(self.speed);
                // Another alternate setting may have another interval.
                match self.lanes[index].as_deref_mut() {
                    Some(Lane::Out(lane)) => lane.set_interval(interval),
                    _ => {
                        let lane = Lane::Out(Jitter::new(limit, interval));
                        self.lanes[index] = Some(Box::new(lane));
                    }
                }
                return Some(index);
            }
            (TransferType::Isochronous, Direction::In) => {
                Prefetch::new(self.lead.prefetch?, info.isochronous_interval(self.speed))
            }
            (TransferType::Interrupt, Direction::In) => {
                Prefetch::new(self.lead.prefetch?, interrupt_interval(info.interval, self.speed))
            }
            _ => return None,
        };
        match self.lanes[index].as_deref_mut() {
            Some(Lane::In(old)) => old.set_interval(lane.interval()),
            _ => self.lanes[index] = Some(Box::new(Lane::In(lane))),
        }
        Some(index)
    }

    /// Takes a control URB; those behind one that waits wait too.
    fn control(&mut self, submission: Submission, block: Block, now: Duration) {
        match Setup::from_bytes(submission.setup).classify() {
            StandardRequest::SetInterface { interface, .. } => {
                for index in 0..self.lanes.len() {
                    if self.is_of_interface(index, interface) {
                        self.finish_lane(index, now);
                    }
                }
            }
            StandardRequest::SetConfiguration(_) | StandardRequest::PortReset => {
                (0..self.lanes.len()).for_each(|index| self.end_lane(index, now));
            }
            StandardRequest::ClearHalt(address) => {
                let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
                let lane = self.lanes[index_of(address, direction)].as_deref_mut();
                if let Some(Lane::In(lane)) = lane {
                    lane.flush(&mut self.under, now);
                }
            }
            StandardRequest::SetAddress | StandardRequest::Other => {}
        }
        self.held.push_back((submission, block, now));
    }

    /// An interface is to get another setting: nothing is read ahead any more, and what was taken
    /// from the client is played out.
    fn finish_lane(&mut self, index: usize, now: Duration) {
        match self.lanes[index].as_deref_mut() {
            Some(Lane::In(lane)) => lane.end(&mut self.under, -errno::ESHUTDOWN, now),
            Some(Lane::Out(lane)) => lane.finish(&mut self.under, -errno::ESHUTDOWN, now),
            None => {}
        }
    }

    fn end_lane(&mut self, index: usize, now: Duration) {
        self.end_lane_as(index, -errno::ESHUTDOWN, now);
    }

    fn end_lane_as(&mut self, index: usize, status: i32, now: Duration) {
        match self.lanes[index].as_deref_mut() {
            Some(Lane::In(lane)) => lane.end(&mut self.under, status, now),
            Some(Lane::Out(lane)) => lane.end(&mut self.under, status, now),
            None => {}
        }
    }

    fn is_of_interface(&self, index: usize, interface: u8) -> bool {
        let direction = if index < 16 { Direction::Out } else { Direction::In };
        let info = self.endpoints.info((index % 16) as u8, direction);
        self.lanes[index].is_some() && info.is_none_or(|info| info.interface == interface)
    }

    /// Passes on control URBs that no longer wait for anything.
    fn release_controls(&mut self, now: Duration) {
        while let Some((submission, _, since)) = self.held.front() {
            let classified = Setup::from_bytes(submission.setup).classify();
            if let StandardRequest::SetInterface { interface, .. } = classified
                && let Some(index) = self.playing(interface)
                && self.is_ready()
            {
                if now < self.held_until(*since) {
                    return;
                }
                // The device does not play: the request is what the client waits for.
                self.end_lane(index, now);
            }
            let (submission, block, _) = self.held.pop_front().expect("seen just now");
            let is_change = matches!(
                classified,
                StandardRequest::SetInterface { .. } | StandardRequest::SetConfiguration(_)
            );
            if is_change {
                self.changes.push((submission.slot, classified));
            }
            self.under.inner.submit(submission, block, now);
        }
    }

    /// A lane of this interface that is still playing.
    fn playing(&self, interface: u8) -> Option<usize> {
        (0..16).find(|&index| {
            let lane = self.lanes[index].as_deref();
            lane.is_some_and(|lane| matches!(lane, Lane::Out(lane) if lane.is_playing()))
                && self.is_of_interface(index, interface)
        })
    }

    /// How long a request waits for the sound before it: as long as that is being played.
    fn held_until(&self, since: Duration) -> Duration {
        let patience = self.lead.jitter.unwrap_or_default() * 2 + STREAM_GAP;
        since.max(self.played_at) + patience
    }

    /// Takes over what the device has finished. Returns whether that was anything.
    fn collect(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some(completed) = self.under.inner.poll(now) {
            any = true;
            let slot = completed.finished.slot;
            let Some(index) = self.under.lane_of(slot) else {
                self.finish_clients(completed);
                continue;
            };
            match self.lanes[index].as_deref_mut() {
                Some(Lane::In(lane)) => lane.take(&mut self.under, completed, now),
                Some(Lane::Out(lane)) => {
                    self.played_at = now;
                    lane.take(&mut self.under, completed, now);
                }
                None => unreachable!("an own URB belongs to a lane"),
            }
        }
        any
    }

    /// A URB of the client's that the device itself has had.
    fn finish_clients(&mut self, completed: Completed) {
        let slot = completed.finished.slot;
        if let Some(at) = self.changes.iter().position(|(of, _)| *of == slot) {
            let (_, change) = self.changes.swap_remove(at);
            match change {
                _ if completed.finished.status != 0 => {}
                StandardRequest::SetConfiguration(value) => self.endpoints.set_configuration(value),
                StandardRequest::SetInterface { interface, alternate } => {
                    self.endpoints.set_interface(interface, alternate);
                }
                _ => unreachable!("only these are remembered"),
            }
        }
        for lane in self.lanes.iter_mut().flatten() {
            if let Lane::In(lane) = &mut **lane {
                lane.passed(slot);
            }
        }
        self.under.finished.push_back(completed);
    }

    /// Moves everything on that can move.
    fn settle(&mut self, now: Duration) {
        loop {
            let was_ready = self.is_ready();
            if !was_ready {
                self.abandon(now);
            }
            for lane in self.lanes.iter_mut().flatten() {
                match &mut **lane {
                    Lane::In(lane) => lane.settle(&mut self.under, now),
                    Lane::Out(lane) => lane.settle(&mut self.under, now),
                }
            }
            self.release_controls(now);
            if !self.collect(now) && self.is_ready() == was_ready {
                return;
            }
        }
    }

    /// The device takes no more URBs: what waits here comes back.
    fn abandon(&mut self, now: Duration) {
        if self.under.inner.state() == DeviceState::Opening {
            return;
        }
        let status = if self.is_closed { -errno::ECONNRESET } else { -errno::ESHUTDOWN };
        (0..self.lanes.len()).for_each(|index| self.end_lane_as(index, status, now));
        if self.is_closed {
            while let Some((submission, block, _)) = self.held.pop_front() {
                self.under.answer(&submission, block, status);
            }
        }
    }
}

impl Device for Ahead {
    fn state(&self) -> DeviceState {
        match self.under.inner.state() {
            DeviceState::Closed if !self.under.finished.is_empty() => DeviceState::Closing,
            state => state,
        }
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        self.under.allocate(arena, bytes)
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        if !self.is_ready() {
            self.under.inner.submit(submission, block, now);
        } else if submission.kind == TransferType::Control {
            self.control(submission, block, now);
        } else if let Some(index) = self.lane_index(&submission) {
            match self.lanes[index].as_deref_mut().expect("the lane just found") {
                Lane::In(lane) => lane.submit(&mut self.under, submission, block, now),
                Lane::Out(lane) => lane.submit(submission, block, now),
            }
        } else {
            self.under.inner.submit(submission, block, now);
        }
        self.settle(now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        if let Some(at) = self.held.iter().position(|(urb, _, _)| urb.slot == slot) {
            let (submission, block, _) = self.held.remove(at).expect("found just now");
            self.under.answer(&submission, block, -errno::ECONNRESET);
            return self.settle(now);
        }
        let is_here = self.lanes.iter_mut().flatten().any(|lane| match &mut **lane {
            Lane::In(lane) => lane.cancel(&mut self.under, slot, now),
            Lane::Out(lane) => lane.cancel(&mut self.under, slot, now),
        });
        if !is_here {
            self.under.inner.cancel(slot, now);
        }
        self.settle(now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        if self.under.finished.is_empty() {
            let was_ready = self.is_ready();
            if self.collect(now) || self.is_ready() != was_ready {
                self.settle(now);
            }
        }
        self.under.finished.pop_front()
    }

    fn deadline(&self) -> Option<Duration> {
        let lanes = self.lanes.iter().flatten().filter_map(|lane| match &**lane {
            Lane::In(_) => None,
            Lane::Out(lane) => lane.deadline(),
        });
        let held = self.held.front().map(|(_, _, since)| self.held_until(*since));
        lanes.chain(held).chain(self.under.inner.deadline()).min()
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.under.inner.deadline().is_some_and(|due| due <= now) {
            self.under.inner.handle_deadline(now);
        }
        self.settle(now);
    }

    fn readiness(&self) -> Option<(Handle, Interest)> {
        self.under.inner.readiness()
    }

    fn handle_ready(&mut self, events: u32, now: Duration) {
        self.under.inner.handle_ready(events, now);
        self.settle(now);
    }

    fn missed(&self, address: u8) -> Option<u64> {
        let inner = self.under.inner.missed(address);
        let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
        let lane = self.lanes[index_of(address, direction)].as_deref();
        // The session's own guess is about the client's queue, which is not the device's.
        inner.or_else(|| match lane? {
            Lane::In(lane) => lane.missed(),
            Lane::Out(lane) => lane.missed(),
        })
    }

    fn ahead(&self, address: u8) -> Option<AheadLevel> {
        let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
        match self.lanes[index_of(address, direction)].as_deref()? {
            Lane::In(lane) => lane.report(),
            Lane::Out(lane) => Some(lane.report()),
        }
    }

    fn busy_time(&self, now: Duration) -> Duration {
        self.under.inner.busy_time(now)
    }

    fn handle_doorbell(&mut self, now: Duration) {
        self.under.inner.handle_doorbell(now);
        self.settle(now);
    }

    fn close(&mut self, now: Duration) {
        if self.is_closed {
            return;
        }
        self.collect(now);
        self.is_closed = true;
        self.abandon(now);
        self.under.inner.close(now);
        self.collect(now);
    }

    fn into_remains(self: Box<Self>) -> Remains {
        self.under.inner.into_remains()
    }
}

impl Lane {
    /// Nothing is in flight or waiting.
    fn is_idle(&self) -> bool {
        match self {
            Self::In(lane) => lane.is_idle(),
            Self::Out(lane) => lane.is_idle(),
        }
    }
}

/// Place of an endpoint among 32: 16 numbers OUT, then 16 IN.
fn index_of(endpoint: u8, direction: Direction) -> usize {
    usize::from(endpoint & 0x0f) + if direction == Direction::In { 16 } else { 0 }
}

/// How often an interrupt endpoint is polled at most (USB 2.0 table 9-13, `bInterval`).
fn interrupt_interval(interval: u8, speed: Speed) -> Duration {
    match speed {
        Speed::Unknown | Speed::Low | Speed::Full => Duration::from_millis(interval.max(1).into()),
        Speed::High | Speed::Wireless | Speed::Super | Speed::SuperPlus => {
            Duration::from_micros(125 << (interval.clamp(1, 16) - 1))
        }
    }
}
