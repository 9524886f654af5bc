//! A client of one device under test: keeps account of every URB and checks on each answer what
//! must hold whatever the device is.

use std::time::Duration;

use usbip_fast_native::Arena;

use super::Subject;
use crate::device::{Completed, Device, DeviceState};
use crate::usb::errno;
use crate::usb::isochronous::{PacketDescriptor, packets, packets_mut};
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, Submission, TransferFlags, TransferType,
    block_bytes,
};

/// Memory for the URBs of a test, in bytes.
const ARENA_BYTES: usize = 128 * 1024 * 1024;

/// How long, in the device's time, a URB may take that must come back.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open device and the URBs it has.
pub(super) struct Driver<'a, 'b> {
    subject: &'a mut Subject<'b>,
    device: Option<Box<dyn Device>>,
    arena: Arena,
    now: Duration,
    next_slot: u32,
    in_flight: Vec<Flight>,
    answers: Vec<Answer>,
}

/// A URB that has not come back.
struct Flight {
    submission: Submission,
    /// Where its block stands, to know it again.
    address: usize,
    rows: Vec<PacketDescriptor>,
    cancelled: bool,
}

/// A URB that has come back.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) slot: u32,
    pub(super) status: i32,
    pub(super) actual: usize,
    pub(super) errors: u32,
    /// The whole transfer buffer.
    pub(super) buffer: Vec<u8>,
    pub(super) packets: Vec<PacketDescriptor>,
}

/// A URB to submit.
#[derive(Clone, Debug)]
pub(super) struct Request<'d> {
    pub(super) kind: TransferType,
    /// Endpoint address with the direction bit.
    pub(super) address: u8,
    pub(super) length: usize,
    pub(super) data: &'d [u8],
    pub(super) setup: [u8; 8],
    pub(super) flags: TransferFlags,
    pub(super) packets: Vec<PacketDescriptor>,
}

impl<'d> Request<'d> {
    pub(super) fn new(kind: TransferType, address: u8, length: usize) -> Self {
        let iso_asap = kind == TransferType::Isochronous;
        Self {
            kind,
            address,
            length,
            data: &[],
            setup: [0; 8],
            flags: TransferFlags { iso_asap, ..TransferFlags::default() },
            packets: Vec::new(),
        }
    }

    pub(super) fn control(setup: Setup, data: &'d [u8]) -> Self {
        let request =
            Self::new(TransferType::Control, setup.request_type & 0x80, usize::from(setup.length));
        Self { data, setup: setup.to_bytes(), ..request }
    }

    /// `count` packets of `length` bytes, each `step` bytes behind the one before.
    pub(super) fn isochronous(address: u8, count: usize, length: usize, step: usize) -> Self {
        let word = |value: usize| u32::try_from(value).expect("a test's sizes are small");
        let rows = (0..count).map(|i| PacketDescriptor::new(word(i * step), word(length)));
        let request = Self::new(TransferType::Isochronous, address, count * step);
        Self { packets: rows.collect(), ..request }
    }
}

impl<'a, 'b> Driver<'a, 'b> {
    /// Opens the device and waits until it takes URBs.
    pub(super) fn open(subject: &'a mut Subject<'b>) -> Self {
        let device = (subject.open)();
        let mut driver = Self {
            subject,
            device: Some(device),
            arena: Arena::new(ARENA_BYTES),
            now: Duration::ZERO,
            next_slot: 1000,
            in_flight: Vec::new(),
            answers: Vec::new(),
        };
        driver.now = driver.turn();
        driver.wait("the device opens", |driver| driver.state() == DeviceState::Ready);
        if !driver.subject.faulty {
            driver.choose_first_configuration();
        }
        driver
    }

    /// A real device keeps the configuration that the test before has left.
    fn choose_first_configuration(&mut self) {
        let value = self.subject.description.configuration;
        let request = request::GET_CONFIGURATION;
        let get = Setup { request_type: 0x80, request, value: 0, index: 0, length: 1 };
        if self.control(get, &[]).buffer != [value] {
            let (request, value) = (request::SET_CONFIGURATION, u16::from(value));
            let set = Setup { request_type: 0, request, value, index: 0, length: 0 };
            assert_eq!(self.control(set, &[]).status, 0, "the listed configuration is chosen");
        }
    }

    pub(super) fn state(&self) -> DeviceState {
        self.device.as_ref().expect("open until finished").state()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Submits; `None` if the device has no memory.
    pub(super) fn submit(&mut self, request: &Request<'_>) -> Option<u32> {
        let submission = self.submission(request);
        let bytes = block_bytes(submission.length, submission.packets);
        let device = self.device.as_mut().expect("open until finished");
        let mut block = device.allocate(&self.arena, bytes)?;
        assert!(block.len() >= bytes, "a block is as large as was asked for");
        let start = BUFFER_OFFSET + request.length;
        let content = &mut block.as_mut()[..bytes];
        content[BUFFER_OFFSET..].fill(0xa5);
        content[BUFFER_OFFSET - 8..BUFFER_OFFSET].copy_from_slice(&request.setup);
        content[BUFFER_OFFSET..][..request.data.len()].copy_from_slice(request.data);
        packets_mut(&mut content[start..]).copy_from_slice(&request.packets);
        self.in_flight.push(Flight {
            submission,
            address: block.as_non_null().as_ptr() as usize,
            rows: request.packets.clone(),
            cancelled: false,
        });
        device.submit(submission, block, self.now);
        Some(submission.slot)
    }

    fn submission(&mut self, request: &Request<'_>) -> Submission {
        self.next_slot += 1;
        let is_in = request.address & 0x80 != 0;
        Submission {
            slot: self.next_slot,
            kind: request.kind,
            direction: if is_in { Direction::In } else { Direction::Out },
            endpoint: request.address & 0x0f,
            setup: request.setup,
            length: u32::try_from(request.length).expect("a test's sizes are small"),
            packets: u32::try_from(request.packets.len()).expect("a test's sizes are small"),
            flags: request.flags,
            start_frame: 0,
        }
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        let mut flights = self.in_flight.iter_mut();
        if let Some(flight) = flights.find(|flight| flight.submission.slot == slot) {
            flight.cancelled = true;
        }
        self.device.as_mut().expect("open until finished").cancel(slot, self.now);
    }

    pub(super) fn close(&mut self) {
        self.in_flight.iter_mut().for_each(|flight| flight.cancelled = true);
        self.device.as_mut().expect("open until finished").close(self.now);
        self.collect();
    }

    /// Submits and waits for the answer.
    pub(super) fn transfer(&mut self, request: &Request<'_>) -> Answer {
        let slot = self.submit(request).expect("memory");
        self.answer(slot)
    }

    /// A control transfer.
    pub(super) fn control(&mut self, setup: Setup, data: &[u8]) -> Answer {
        self.transfer(&Request::control(setup, data))
    }

    /// Waits for the answer to a URB.
    pub(super) fn answer(&mut self, slot: u32) -> Answer {
        let is_it = |answer: &Answer| answer.slot == slot;
        self.wait("a URB comes back", |driver| driver.answers.iter().any(is_it));
        let index = self.answers.iter().position(is_it).expect("just waited for");
        self.answers.remove(index)
    }

    /// Waits until nothing is in flight and returns all answers since, oldest first.
    pub(super) fn settle(&mut self) -> Vec<Answer> {
        self.wait("all URBs come back", |driver| driver.in_flight.is_empty());
        std::mem::take(&mut self.answers)
    }

    /// Lets the device work for a while; nothing needs to happen.
    pub(super) fn linger(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now = self.turn();
            self.collect();
        }
    }

    /// Closes the device, waits for its end and gives it back.
    pub(super) fn finish(mut self) {
        self.close();
        self.wait("the device closes", |driver| driver.state() == DeviceState::Closed);
        assert_eq!(self.in_flight.len(), 0, "a closed device has no URB left");
        self.collect();
        assert_eq!(self.arena.lent_blocks(), 0, "a closed device keeps no memory");
        (self.subject.dispose)(self.device.take().expect("open until now"));
    }

    /// Takes what is finished, then lets time pass, until the condition holds.
    pub(super) fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let limit = self.now + PATIENCE;
        self.collect();
        while !done(self) {
            let state = self.state();
            assert!(self.now < limit, "{what} ({} in flight, {state:?})", self.in_flight.len());
            assert!(!matches!(state, DeviceState::Failed(_)), "{what}: {state:?}");
            self.now = self.turn();
            self.collect();
        }
    }

    fn turn(&mut self) -> Duration {
        let device = self.device.as_mut().expect("open until finished");
        let now = (self.subject.turn)(device.as_mut(), self.now);
        assert!(now >= self.now, "time never runs backwards");
        now
    }

    fn collect(&mut self) {
        let device = self.device.as_mut().expect("open until finished");
        while let Some(completed) = device.poll(self.now) {
            let slot = completed.finished.slot;
            let index = self
                .in_flight
                .iter()
                .position(|flight| flight.submission.slot == slot)
                .unwrap_or_else(|| {
                    panic!("slot {slot} came back that is not in flight: {completed:?}")
                });
            check_order(&self.in_flight, index, completed.finished.status);
            let flight = self.in_flight.remove(index);
            self.answers.push(check(&flight, completed));
        }
    }
}

/// Per endpoint, URBs come back as they were submitted, except those that a cancel or the end of
/// the device has ended.
fn check_order(in_flight: &[Flight], index: usize, status: i32) {
    if [-errno::ECONNRESET, -errno::ESHUTDOWN].contains(&status) {
        return;
    }
    let lane = |flight: &Flight| match flight.submission.kind {
        TransferType::Control => (0, Direction::Out),
        _ => (flight.submission.endpoint, flight.submission.direction),
    };
    let own = lane(&in_flight[index]);
    let overtaken =
        in_flight[..index].iter().find(|flight| lane(flight) == own && !flight.cancelled);
    if let Some(overtaken) = overtaken {
        let (late, early) = (overtaken.submission.slot, in_flight[index].submission.slot);
        panic!("URB {early} came back before {late} of the same endpoint {own:?}");
    }
}

/// Checks a finished URB by itself.
fn check(flight: &Flight, completed: Completed) -> Answer {
    let Completed { finished, block } = completed;
    let Submission { length, packets: count, slot, .. } = flight.submission;
    assert_eq!(block.as_non_null().as_ptr() as usize, flight.address, "its own block comes back");
    assert!(finished.status <= 0, "a status is 0 or negative: {finished:?}");
    assert!(finished.actual_length <= length, "no more than the buffer: {finished:?}");
    let unlinked = finished.status == -errno::ECONNRESET;
    assert!(!unlinked || flight.cancelled, "only a cancel makes -104: {finished:?}");
    let bytes = &block.as_ref()[BUFFER_OFFSET..];
    let (buffer, rest) = bytes.split_at(length as usize);
    let rows = packets(&rest[..count as usize * ISO_PACKET_BYTES]);
    for (row, asked) in rows.iter().zip(&flight.rows) {
        assert_eq!((row.offset, row.length), (asked.offset, asked.length), "packets are echoed");
        assert!(row.actual_length <= row.length, "no more than the packet: {row:?}");
        assert!(row.status.get() <= 0, "a packet's status is 0 or negative: {row:?}");
    }
    if count > 0 {
        let sum: u32 = rows.iter().map(|row| row.actual_length.get()).sum();
        assert_eq!(sum, finished.actual_length, "the sum of the packets of URB {slot}");
        let errors = rows.iter().filter(|row| row.status.get() != 0).count();
        assert_eq!(errors, finished.error_count as usize, "failed packets of URB {slot}");
    }
    Answer {
        slot,
        status: finished.status,
        actual: finished.actual_length as usize,
        errors: finished.error_count,
        buffer: buffer.to_vec(),
        packets: rows.to_vec(),
    }
}
