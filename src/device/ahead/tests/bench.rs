//! A client with a queue, a network with a delay, and a recorder, on a virtual clock.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::device::faulty::Dice;
use crate::usb::isochronous::PacketDescriptor;
use crate::usb::transfer::Finished;
use crate::usb::transfer::{BUFFER_OFFSET, TransferFlags, block_bytes};

pub(super) const MS: Duration = Duration::from_millis(1);

/// How a network delays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay {
    pub(super) round_trip: Duration,
    /// More or less than the round trip.
    pub(super) spread: Duration,
    /// Of a million messages this many need another round trip and a half.
    pub(super) lost: u32,
}

impl Delay {
    pub(super) const NONE: Self =
        Self { round_trip: Duration::ZERO, spread: Duration::ZERO, lost: 0 };

    /// 20 ms more or less 5, one of a thousand lost.
    pub(super) const FAR: Self = Self {
        round_trip: Duration::from_millis(20),
        spread: Duration::from_millis(5),
        lost: 1000,
    };
}

/// A device at the other end of a network: both ways keep their order, as TCP does.
pub(super) struct Distant {
    inner: Box<dyn Device>,
    delay: Delay,
    dice: Dice,
    there: VecDeque<(Duration, Submission, Block)>,
    cancels: VecDeque<(Duration, u32)>,
    back: VecDeque<(Duration, Completed)>,
    last: [Duration; 2],
}

impl Distant {
    pub(super) fn wrap(inner: Box<dyn Device>, delay: Delay, seed: u64) -> Box<dyn Device> {
        let (there, cancels, back) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let last = [Duration::ZERO; 2];
        Box::new(Self { inner, delay, dice: Dice::new(seed), there, cancels, back, last })
    }

    fn arrival(&mut self, way: usize, now: Duration) -> Duration {
        let Delay { round_trip, spread, lost } = self.delay;
        let mut delay = (round_trip - spread) / 2 + self.dice.duration(spread * 2) / 2;
        if self.dice.hit(lost) {
            delay += round_trip * 3 / 2;
        }
        self.last[way] = self.last[way].max(now + delay);
        self.last[way]
    }

    fn tick(&mut self, now: Duration) {
        while let Some((_, urb, block)) = self.there.pop_front_if(|(at, ..)| *at <= now) {
            self.inner.submit(urb, block, now);
        }
        while let Some((_, slot)) = self.cancels.pop_front_if(|(at, _)| *at <= now) {
            self.inner.cancel(slot, now);
        }
        while let Some(completed) = self.inner.poll(now) {
            let at = self.arrival(1, now);
            self.back.push_back((at, completed));
        }
    }
}

impl Device for Distant {
    fn state(&self) -> DeviceState {
        match self.inner.state() {
            DeviceState::Closed if !self.back.is_empty() => DeviceState::Closing,
            state => state,
        }
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        self.inner.allocate(arena, bytes)
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        let at = self.arrival(0, now);
        self.there.push_back((at, submission, block));
        self.tick(now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        let at = self.arrival(0, now);
        self.cancels.push_back((at, slot));
        self.tick(now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.tick(now);
        Some(self.back.pop_front_if(|(at, _)| *at <= now)?.1)
    }

    fn deadline(&self) -> Option<Duration> {
        let there = self.there.front().map(|(at, ..)| *at);
        let cancels = self.cancels.front().map(|(at, _)| *at);
        let back = self.back.front().map(|(at, _)| *at);
        there.into_iter().chain(cancels).chain(back).chain(self.inner.deadline()).min()
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.inner.deadline().is_some_and(|due| due <= now) {
            self.inner.handle_deadline(now);
        }
        self.tick(now);
    }

    fn missed(&self, address: u8) -> Option<u64> {
        self.inner.missed(address)
    }

    fn ahead(&self, address: u8) -> Option<AheadLevel> {
        self.inner.ahead(address)
    }

    fn close(&mut self, now: Duration) {
        for (_, urb, block) in self.there.drain(..) {
            self.inner.submit(urb, block, now);
        }
        self.inner.close(now);
        self.tick(now);
        self.back.iter_mut().for_each(|(at, _)| *at = now);
    }
}

/// Writes down what reaches a device at one OUT endpoint, packet by packet.
pub(super) struct Tap {
    pub(super) inner: Box<dyn Device>,
    pub(super) heard: Rc<RefCell<Vec<u8>>>,
}

impl Device for Tap {
    fn state(&self) -> DeviceState {
        self.inner.state()
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        self.inner.allocate(arena, bytes)
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        let is_sound =
            submission.kind == TransferType::Isochronous && submission.direction == Direction::Out;
        if is_sound {
            for packet in layout::packets(&block, &submission) {
                let at = BUFFER_OFFSET + packet.offset.get() as usize;
                let data = &block.as_ref()[at..at + packet.length.get() as usize];
                self.heard.borrow_mut().extend(data);
            }
        }
        self.inner.submit(submission, block, now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.inner.cancel(slot, now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.inner.poll(now)
    }

    fn deadline(&self) -> Option<Duration> {
        self.inner.deadline()
    }

    fn handle_deadline(&mut self, now: Duration) {
        self.inner.handle_deadline(now);
    }

    fn missed(&self, address: u8) -> Option<u64> {
        self.inner.missed(address)
    }

    fn close(&mut self, now: Duration) {
        self.inner.close(now);
    }
}

/// An answered URB.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) slot: u32,
    pub(super) status: i32,
    pub(super) errors: u32,
    /// The bytes moved: of IN what came, without gaps.
    pub(super) data: Vec<u8>,
    pub(super) at: Duration,
}

/// A client of one device.
pub(super) struct Client {
    pub(super) device: Box<dyn Device>,
    pub(super) arena: Arena,
    pub(super) now: Duration,
    pub(super) answers: Vec<Answered>,
    pub(super) is_asap: bool,
    in_flight: Vec<Submission>,
    next_slot: u32,
}

impl Client {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        Self {
            device,
            arena: Arena::new(64 << 20),
            now: Duration::from_secs(5),
            answers: Vec::new(),
            is_asap: true,
            in_flight: Vec::new(),
            next_slot: 0,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn submit(&mut self, urb: Submission, sizes: &[u32], data: &[u8]) -> u32 {
        let bytes = block_bytes(urb.length, urb.packets);
        let mut block = self.device.allocate(&self.arena, bytes).expect("memory");
        block.as_mut()[..bytes].fill(0);
        block.as_mut()[BUFFER_OFFSET..][..data.len()].copy_from_slice(data);
        block.as_mut()[BUFFER_OFFSET - 8..BUFFER_OFFSET].copy_from_slice(&urb.setup);
        let mut offset = 0;
        for (row, &size) in layout::packets_mut(&mut block, &urb).iter_mut().zip(sizes) {
            *row = PacketDescriptor::new(offset, size);
            offset += size;
        }
        self.next_slot += 1;
        let urb = Submission { slot: self.next_slot, ..urb };
        self.in_flight.push(urb);
        self.device.submit(urb, block, self.now);
        self.collect();
        self.next_slot
    }

    /// An isochronous URB with packets of these sizes.
    pub(super) fn iso(&mut self, address: u8, sizes: &[u32], data: &[u8]) -> u32 {
        let urb = Submission {
            slot: 0,
            kind: TransferType::Isochronous,
            direction: if address & 0x80 == 0 { Direction::Out } else { Direction::In },
            endpoint: address & 0x0f,
            setup: [0; 8],
            length: sizes.iter().sum(),
            packets: sizes.len() as u32,
            // Linux's sound driver asks without, its video driver with it.
            flags: TransferFlags { iso_asap: self.is_asap, ..TransferFlags::default() },
            start_frame: self.next_slot,
        };
        self.submit(urb, sizes, data)
    }

    /// Reads from an interrupt endpoint.
    pub(super) fn interrupt(&mut self, address: u8, length: u32) -> u32 {
        let urb = Submission {
            slot: 0,
            kind: TransferType::Interrupt,
            direction: Direction::In,
            endpoint: address & 0x0f,
            setup: [0; 8],
            length,
            packets: 0,
            flags: TransferFlags::default(),
            start_frame: 0,
        };
        self.submit(urb, &[], &[])
    }

    pub(super) fn request(&mut self, setup: Setup) -> u32 {
        let urb = Submission {
            slot: 0,
            kind: TransferType::Control,
            direction: Direction::Out,
            endpoint: 0,
            setup: setup.to_bytes(),
            length: 0,
            packets: 0,
            flags: TransferFlags::default(),
            start_frame: 0,
        };
        self.submit(urb, &[], &[])
    }

    /// SET_INTERFACE, and waits for it.
    pub(super) fn setting(&mut self, interface: u16, alternate: u16) {
        let setup =
            Setup { request_type: 1, request: 11, value: alternate, index: interface, length: 0 };
        let slot = self.request(setup);
        assert_eq!(self.answer(slot).status, 0);
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        self.device.cancel(slot, self.now);
        self.collect();
    }

    /// Waits for one answer and takes it.
    pub(super) fn answer(&mut self, slot: u32) -> Answered {
        loop {
            if let Some(at) = self.answers.iter().position(|answer| answer.slot == slot) {
                return self.answers.remove(at);
            }
            assert!(self.step(), "URB {slot} never comes back");
        }
    }

    /// Goes on to the next moment at which something happens. False if nothing ever will.
    pub(super) fn step(&mut self) -> bool {
        let Some(due) = self.device.deadline() else { return false };
        self.now = self.now.max(due);
        self.device.handle_deadline(self.now);
        self.collect();
        true
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.device.deadline().is_some_and(|due| due <= end) {
            self.step();
        }
        self.now = end;
    }

    pub(super) fn collect(&mut self) {
        while let Some(Completed { finished, block }) = self.device.poll(self.now) {
            let is_it = |urb: &Submission| urb.slot == finished.slot;
            let at = self.in_flight.iter().position(is_it);
            let at = at.unwrap_or_else(|| panic!("{finished:?} is not in flight"));
            let urb = self.in_flight.remove(at);
            let mut data = Vec::new();
            let start = BUFFER_OFFSET;
            if urb.packets == 0 {
                data.extend(&block.as_ref()[start..start + finished.actual_length as usize]);
            }
            for packet in layout::packets(&block, &urb) {
                let at = start + packet.offset.get() as usize;
                data.extend(&block.as_ref()[at..at + packet.actual_length.get() as usize]);
            }
            assert_eq!(data.len(), finished.actual_length as usize, "the sum of the packets");
            let Finished { slot, status, error_count: errors, .. } = finished;
            self.answers.push(Answered { slot, status, errors, data, at: self.now });
        }
    }

    /// Closes the device, which must then hold nothing.
    pub(super) fn finish(mut self) {
        self.device.close(self.now);
        self.collect();
        while self.device.state() != DeviceState::Closed {
            assert!(self.step(), "{:?} for ever", self.device.state());
        }
        assert_eq!(self.in_flight(), 0, "every URB has come back");
        assert_eq!(self.arena.lent_blocks(), 0, "no memory is kept");
    }
}
