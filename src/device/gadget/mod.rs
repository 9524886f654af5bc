//! Simulated devices: a base that speaks chapter 9 and queues URBs, and functions on top of it.
//!
//! [`Gadget`] is a [`Device`] made of [`Descriptors`], a [`Function`] and a [`Pace`]. Data goes
//! into and out of the URB's own block; nothing is allocated per URB once the queues have grown to
//! what the client uses.
//!
//! [`zero`] is the Gadget Zero that Linux's USB test driver expects, [`audio`] a microphone and a
//! speaker, [`camera`] a camera of the USB Video Class; [`simulate`] reads the texts of the command
//! line.

pub mod audio;
#[cfg(test)]
mod bench;
pub mod camera;
mod chapter9;
pub mod descriptors;
mod export;
mod function;
pub mod hid;
mod options;
mod pace;
mod queue;
pub mod serial;
pub mod simulate;
pub mod storage;
mod timed;
mod transact;
mod untimed;
pub mod zero;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use usbip_fast_native::{Block, Doorbell};

use self::chapter9::{Chapter9, Effect, Verdict};
use self::descriptors::{ActiveEndpoint, endpoint_index};
use self::pace::BusClock;
use self::queue::{List, Pool, Urb};
use self::timed::BulkBudget;

pub use self::descriptors::Descriptors;
pub use self::export::{GadgetExport, Identity};
pub use self::function::{Answer, Change, Function, Stall, Then, Transfer, Wake};
pub use self::options::OptionError;
pub use self::pace::{Pace, UnknownPace};

use super::{Completed, Device, DeviceState, Remains};
use crate::usb::errno;
use crate::usb::setup::Setup;
use crate::usb::transfer::{Direction, Submission, TransferType};

/// An open simulated device.
pub struct Gadget<F> {
    function: F,
    descriptors: Arc<Descriptors>,
    chapter9: Chapter9,
    pace: Pace,
    clock: BusClock,
    state: DeviceState,
    endpoints: [Endpoint; 32],
    /// Endpoints with a queue that is not empty, one bit each.
    busy: u32,
    pool: Pool,
    finished: VecDeque<Completed>,
    bulk: BulkBudget,
    /// `demand`: when the loop has to turn for what is queued.
    demanded: Option<Duration>,
    counters: Arc<StreamCounters>,
    /// Intervals missed in this session, by endpoint; a change of setting keeps them.
    missed: [u64; 32],
}

/// Counters of the isochronous streams of a device, over all its sessions; they only grow.
#[derive(Debug, Default)]
pub struct StreamCounters {
    packets: AtomicU64,
    missed: AtomicU64,
}

impl StreamCounters {
    /// Packets served.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Service intervals of running streams at which nothing was queued. Paces with a clock only.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn count(&self, packets: transact::Packets) {
        self.packets.fetch_add(packets.served, Ordering::Relaxed);
        self.miss(packets.missed);
    }

    fn miss(&self, packets: u64) {
        if packets > 0 {
            self.missed.fetch_add(packets, Ordering::Relaxed);
        }
    }
}

/// What a session leaves of a simulated device.
pub(super) struct Saved<F> {
    function: F,
    chapter9: Chapter9,
}

#[derive(Clone, Copy, Debug, Default)]
struct Endpoint {
    /// As in the active alternate setting, `None` if it is not part of it.
    info: Option<ActiveEndpoint>,
    queue: List,
    /// Bus time of the next service of a periodic endpoint.
    next_ns: u64,
    /// An isochronous stream has begun and was not stopped.
    streaming: bool,
    /// The function had nothing for it when it was last asked.
    waiting: bool,
}

impl<F> Saved<F> {
    pub(super) fn new(function: F, descriptors: &Descriptors) -> Self {
        Self { function, chapter9: Chapter9::configured(descriptors) }
    }
}

impl<F: Function> Gadget<F> {
    /// A device as it is after a host has enumerated it: in its first configuration.
    #[must_use]
    pub fn new(function: F, descriptors: Arc<Descriptors>, pace: Pace) -> Self {
        let saved = Saved::new(function, &descriptors);
        Self::resume(saved, descriptors, pace, Arc::default())
    }

    pub(super) fn resume(
        saved: Saved<F>,
        descriptors: Arc<Descriptors>,
        pace: Pace,
        counters: Arc<StreamCounters>,
    ) -> Self {
        let mut gadget = Self {
            function: saved.function,
            chapter9: saved.chapter9,
            pace,
            clock: BusClock::new(pace),
            state: DeviceState::Ready,
            endpoints: [Endpoint::default(); 32],
            busy: 0,
            pool: Pool::default(),
            finished: VecDeque::new(),
            bulk: BulkBudget::new(descriptors.speed()),
            descriptors,
            demanded: None,
            counters,
            missed: [0; 32],
        };
        gadget.activate_endpoints();
        gadget
    }

    /// Begins a session. A function that cannot take part makes the device a failed one.
    pub(super) fn open(&mut self, doorbell: &Doorbell) {
        if let Err(reason) = self.function.opened(doorbell) {
            self.state = DeviceState::Failed(reason);
        }
    }

    /// Counters of the isochronous streams.
    #[must_use]
    pub fn counters(&self) -> &Arc<StreamCounters> {
        &self.counters
    }

    /// Executes a control URB; they never wait.
    fn control(&mut self, mut urb: Urb) {
        let setup = Setup::from_bytes(urb.submission.setup);
        let length = urb.submission.length.min(u32::from(setup.length)) as usize;
        let (buffer, _) = urb.parts_mut();
        let data = &mut buffer[..length];
        let result = if setup.is_in() {
            self.control_in(setup, data)
        } else {
            self.control_out(setup, data).map(|()| length)
        };
        let status = match result {
            Ok(actual) => {
                urb.actual = actual;
                urb.short_status()
            }
            Err(Stall) => -errno::EPIPE,
        };
        self.finished.push_back(urb.complete(status));
    }

    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        match self.chapter9.read(setup, &self.descriptors, data) {
            Verdict::Answered(actual) => Ok(actual),
            Verdict::Stalled => Err(Stall),
            Verdict::Function => {
                let actual = self.function.control_in(setup, data)?;
                assert!(actual <= data.len(), "a function stays within wLength");
                Ok(actual)
            }
        }
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        match self.chapter9.write(setup, &self.descriptors) {
            Verdict::Answered(effect) => {
                self.apply(effect);
                Ok(())
            }
            Verdict::Stalled => Err(Stall),
            Verdict::Function => self.function.control_out(setup, data),
        }
    }

    /// Brings endpoints and function in line with what chapter 9 has accepted.
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Configured(value) => {
                self.retire_where(-errno::ESHUTDOWN, |_| true);
                self.activate_endpoints();
                self.function.changed(Change::Configuration(value));
            }
            Effect::InterfaceSet { interface, alternate } => {
                self.retire_where(-errno::ESHUTDOWN, |info| info.interface == interface);
                self.activate_endpoints();
                self.function.changed(Change::Interface { interface, alternate });
            }
            Effect::Halted(address) => {
                self.flush(endpoint_index(address), -errno::EPIPE);
                self.function.changed(Change::Halted(address));
            }
            Effect::HaltCleared(address) => self.function.changed(Change::HaltCleared(address)),
            Effect::Reset => {
                self.retire_where(-errno::ESHUTDOWN, |_| true);
                self.activate_endpoints();
                self.function.changed(Change::Reset);
            }
        }
    }

    /// Makes the endpoints of the active alternate settings take URBs. Those that were there
    /// before a change of setting have been retired.
    fn activate_endpoints(&mut self) {
        for info in self.chapter9.endpoints() {
            let info = ActiveEndpoint::new(info, self.descriptors.speed());
            self.endpoints[info.index()].info.get_or_insert(info);
        }
    }

    /// Ends all URBs of these endpoints and forgets the endpoints.
    fn retire_where(&mut self, status: i32, wanted: impl Fn(&ActiveEndpoint) -> bool) {
        for index in 0..self.endpoints.len() {
            if self.endpoints[index].info.as_ref().is_some_and(&wanted) {
                self.flush(index, status);
                self.endpoints[index] = Endpoint::default();
            }
        }
    }

    /// Takes a URB for a data endpoint.
    fn data(&mut self, index: usize, mut urb: Urb, now: Duration) {
        let info = match self.accept(index, &mut urb) {
            Ok(info) => info,
            Err(status) => return self.finished.push_back(urb.complete(status)),
        };
        urb.zero_packet = transact::wants_zero_packet(&info, &urb);
        match self.pace {
            Pace::None if self.endpoints[index].queue.is_empty() => {
                self.run_or_queue(index, &info, urb);
            }
            Pace::None => self.enqueue(index, urb),
            Pace::Demand => {
                self.enqueue(index, urb);
                self.demanded.get_or_insert(now);
            }
            Pace::Clock(_) => {
                let bus_ns = self.clock.bus_ns(now);
                // What was due before this moment happens before this URB is in the queue.
                self.advance(bus_ns);
                if self.endpoints[index].queue.is_empty() {
                    self.schedule(index, &info, &mut urb, bus_ns);
                }
                self.enqueue(index, urb);
                self.advance(bus_ns);
            }
        }
    }

    /// Whether the endpoint takes this URB, else the status to answer.
    fn accept(&self, index: usize, urb: &mut Urb) -> Result<ActiveEndpoint, i32> {
        let info = self.endpoints[index].info.ok_or(-errno::ENOENT)?;
        if info.kind != urb.submission.kind {
            return Err(-errno::EINVAL);
        }
        if self.chapter9.is_halted(index) {
            return Err(-errno::EPIPE);
        }
        if urb.is_isochronous() {
            transact::check_packets(&info, urb)?;
        }
        if self.pool.is_full() { Err(-errno::ENOMEM) } else { Ok(info) }
    }

    fn enqueue(&mut self, index: usize, urb: Urb) {
        self.pool.push(&mut self.endpoints[index].queue, urb);
        self.note_busy(index);
    }

    fn note_busy(&mut self, index: usize) {
        let busy = !self.endpoints[index].queue.is_empty();
        self.busy = self.busy & !(1 << index) | u32::from(busy) << index;
    }

    /// Ends everything that waits at an endpoint.
    fn flush(&mut self, index: usize, status: i32) {
        while let Some(urb) = self.pool.pop(&mut self.endpoints[index].queue) {
            self.finished.push_back(urb.complete(status));
        }
        self.endpoints[index].streaming = false;
        self.note_busy(index);
    }

    /// Asks the functions of waiting endpoints again.
    fn wake(&mut self, now: Duration) {
        match self.pace {
            Pace::None => self.run_all(),
            Pace::Demand => {
                self.demanded.get_or_insert(now);
            }
            Pace::Clock(_) => self.catch_up(now),
        }
    }

    /// Executes what the clock of the bus, if there is one, has passed.
    fn catch_up(&mut self, now: Duration) {
        if matches!(self.pace, Pace::Clock(_)) {
            let bus_ns = self.clock.bus_ns(now);
            self.advance(bus_ns);
        }
    }
}

impl<F: Function + Send + 'static> Device for Gadget<F> {
    fn state(&self) -> DeviceState {
        self.state.clone()
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        let urb = Urb::new(submission, block);
        if self.state != DeviceState::Ready {
            return self.finished.push_back(urb.complete(-errno::ESHUTDOWN));
        }
        if submission.kind != TransferType::Control {
            let direction = if submission.direction == Direction::In { 16 } else { 0 };
            return self.data(usize::from(submission.endpoint & 0x0f) + direction, urb, now);
        }
        if self.busy == 0 {
            return self.control(urb);
        }
        // What was due happens before the request, and what has waited for it after.
        self.catch_up(now);
        self.control(urb);
        self.wake(now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.catch_up(now);
        for index in bits(self.busy) {
            if let Some(urb) = self.pool.remove(&mut self.endpoints[index].queue, slot) {
                self.finished.push_back(urb.complete(-errno::ECONNRESET));
                if self.endpoints[index].queue.is_empty() {
                    self.endpoints[index].streaming = false;
                }
                return self.note_busy(index);
            }
        }
    }

    fn poll(&mut self, _now: Duration) -> Option<Completed> {
        let completed = self.finished.pop_front();
        if self.finished.is_empty() && self.state == DeviceState::Closing {
            self.state = DeviceState::Closed;
        }
        completed
    }

    fn deadline(&self) -> Option<Duration> {
        if self.busy == 0 {
            return None;
        }
        match self.pace {
            Pace::None => None,
            Pace::Demand => self.demanded,
            Pace::Clock(_) => self.next_service(),
        }
    }

    fn handle_deadline(&mut self, now: Duration) {
        match self.pace {
            Pace::None => {}
            Pace::Demand => {
                if self.demanded.take_if(|due| *due <= now).is_some() {
                    self.run_all();
                }
            }
            Pace::Clock(_) => self.catch_up(now),
        }
    }

    fn missed(&self, address: u8) -> Option<u64> {
        Some(self.missed[endpoint_index(address)])
    }

    fn handle_doorbell(&mut self, now: Duration) {
        let wake = self.function.handle_doorbell();
        if wake == Wake::Again && self.busy != 0 {
            self.wake(now);
        }
    }

    /// Resets the device: what waits comes back with -104, halts end, the first configuration is
    /// active again. What the function remembers over a reset stays.
    fn close(&mut self, now: Duration) {
        if self.state != DeviceState::Ready {
            return;
        }
        self.catch_up(now);
        self.retire_where(-errno::ECONNRESET, |_| true);
        self.chapter9 = Chapter9::configured(&self.descriptors);
        self.activate_endpoints();
        self.function.changed(Change::Reset);
        self.function.changed(Change::Configuration(self.chapter9.configuration()));
        let drained = self.finished.is_empty();
        self.state = if drained { DeviceState::Closed } else { DeviceState::Closing };
    }

    fn into_remains(self: Box<Self>) -> Remains {
        Box::new(Saved { function: self.function, chapter9: self.chapter9 })
    }
}

/// Positions of the bits that are set, lowest first.
fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = mask.trailing_zeros();
        mask &= mask.checked_sub(1)?;
        Some(index as usize)
    })
}

#[cfg(test)]
mod tests;
