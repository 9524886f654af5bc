//! One device with what a loop does for it.

use std::time::Duration;

use usbip_fast::device::usbfs::UsbfsExport;
use usbip_fast::device::{Device, DeviceState, Export};
use usbip_fast::usb::setup::Setup;
use usbip_fast::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, Submission, TransferFlags, TransferType, block_bytes,
};
use usbip_fast_native::backend::{self, Backend, Options};
use usbip_fast_native::{Arena, Block, Completion, Op, Outcome, Reactor, Token, clock};

pub const BUS_ID: &str = "1-1";
/// Stands for the bulk endpoint of the direction.
pub const BULK: u8 = 0xff;

/// The little that a loop does for one device: a reactor that waits for it.
pub struct Waiter {
    pub reactor: Box<dyn Reactor>,
    pub completions: Vec<Completion>,
    pub is_polling: bool,
}

impl Waiter {
    /// With epoll, or with what `USBIP_FAST_REACTOR=io-uring` names.
    pub fn new() -> Self {
        let is_uring =
            std::env::var("USBIP_FAST_REACTOR").is_ok_and(|name| name == Backend::IoUring.name());
        let backend = if is_uring { Backend::IoUring } else { Backend::Epoll };
        let reactor = backend::open(backend, &Options::default()).expect("it is allowed").reactor;
        Self { reactor, completions: Vec::new(), is_polling: false }
    }

    /// Waits a short while for the device and tells it what happened.
    pub fn turn(&mut self, device: &mut dyn Device) -> Duration {
        let token = Token::new(1, 0, 0);
        match device.readiness() {
            Some((handle, interest)) if !self.is_polling => {
                self.is_polling = true;
                self.reactor.submit(Op::Poll { handle, interest }, token);
            }
            None if self.is_polling => self.reactor.cancel(token),
            _ => {}
        }
        let soon = clock::now() + Duration::from_millis(20);
        let deadline = device.deadline().map_or(soon, |at| at.min(soon));
        let turn = self.reactor.turn(Some(deadline), &mut self.completions);
        let now = clock::now();
        for completion in self.completions.drain(..) {
            self.is_polling = false;
            if let Ok(Outcome::Ready(events)) = completion.result {
                device.handle_ready(events, now);
            }
        }
        if turn.rung {
            device.handle_doorbell(now);
        }
        if device.deadline().is_some_and(|at| at <= now) {
            device.handle_deadline(now);
        }
        now
    }
}

/// A device and the little that a loop does for it.
pub struct Bench {
    pub device: Box<dyn Device>,
    pub waiter: Waiter,
    pub arena: Arena,
    pub slot: u32,
    pub finished: Vec<(Finished, Block)>,
    pub descriptors: Vec<u8>,
    /// Bulk endpoints of the configuration, IN and OUT.
    pub endpoints: (u8, u8),
}

impl Bench {
    pub fn open(export: &mut UsbfsExport) -> Self {
        let waiter = Waiter::new();
        let opener = export.reserve().expect("the device is free");
        let device = opener(&waiter.reactor.doorbell());
        let descriptors = export.describe().descriptors.clone();
        let mut bench = Self {
            device,
            waiter,
            arena: Arena::new(1 << 24),
            slot: 0,
            finished: Vec::new(),
            descriptors,
            endpoints: (0, 0),
        };
        bench.find_endpoints(1);
        bench
    }

    /// The bulk endpoints of a configuration's first alternate setting (USB 2.0 §9.6).
    pub fn find_endpoints(&mut self, configuration: u8) {
        let mut rest = self.descriptors.as_slice();
        let mut is_wanted = false;
        while let Some((descriptor, behind)) =
            rest.first().and_then(|&length| rest.split_at_checked(length.into()))
        {
            rest = behind;
            match *descriptor {
                [_, 2, _, _, _, value, ..] => is_wanted = value == configuration,
                [_, 4, _, alternate, ..] => is_wanted &= alternate == 0,
                [_, 5, address, 2, ..] if is_wanted && address & 0x80 != 0 => {
                    self.endpoints.0 = address & 15;
                }
                [_, 5, address, 2, ..] if is_wanted => self.endpoints.1 = address,
                _ => {}
            }
        }
    }

    pub fn configure(&mut self, value: u8) {
        assert_eq!(self.control([0, 9, value, 0, 0, 0, 0, 0], &[]).0, 0);
        self.find_endpoints(value);
    }

    pub fn turn(&mut self) {
        self.drain();
        self.waiter.turn(&mut *self.device);
        self.drain();
    }

    pub fn drain(&mut self) {
        while let Some(completed) = self.device.poll(clock::now()) {
            self.finished.push((completed.finished, completed.block));
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let limit = clock::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(clock::now() < limit, "{what} takes too long; {:?}", self.device.state());
            self.turn();
        }
    }

    pub fn until_open(&mut self) {
        self.until("opening", |bench| bench.device.state() != DeviceState::Opening);
        assert_eq!(self.device.state(), DeviceState::Ready);
    }

    pub fn until_refused(&mut self) -> String {
        self.until("opening", |bench| bench.device.state() != DeviceState::Opening);
        match self.device.state() {
            DeviceState::Failed(reason) => reason,
            state => panic!("opened: {state:?}"),
        }
    }

    pub fn close(mut self) {
        self.device.close(clock::now());
        self.until("closing", |bench| bench.device.state() == DeviceState::Closed);
    }

    pub fn start(&mut self, submission: Submission, data: &[u8]) -> u32 {
        self.slot += 1;
        let mut submission = Submission { slot: self.slot, ..submission };
        if submission.endpoint == BULK {
            submission.endpoint = match submission.direction {
                Direction::In => self.endpoints.0,
                Direction::Out => self.endpoints.1,
            };
        }
        let bytes = block_bytes(submission.length, submission.packets);
        let mut block = self.device.allocate(&self.arena, bytes).expect("there is memory");
        block.as_mut()[BUFFER_OFFSET..BUFFER_OFFSET + data.len()].copy_from_slice(data);
        self.device.submit(submission, block, clock::now());
        self.slot
    }

    pub fn wait(&mut self, slot: u32) -> (Finished, Vec<u8>) {
        self.until("a URB", |bench| bench.finished.iter().any(|(urb, _)| urb.slot == slot));
        let at = self.finished.iter().position(|(urb, _)| urb.slot == slot).expect("just seen");
        let (finished, block) = self.finished.remove(at);
        assert!(self.finished.iter().all(|(urb, _)| urb.slot != slot), "answered once");
        let end = BUFFER_OFFSET + finished.actual_length as usize;
        (finished, block.as_ref()[BUFFER_OFFSET..end].to_vec())
    }

    pub fn control(&mut self, setup: [u8; 8], data: &[u8]) -> (i32, Vec<u8>) {
        let setup = Setup::from_bytes(setup);
        let direction = if setup.is_in() { Direction::In } else { Direction::Out };
        let slot = self.start(
            Submission {
                kind: TransferType::Control,
                endpoint: 0,
                setup: setup.to_bytes(),
                length: setup.length.into(),
                ..bulk(direction, 0)
            },
            data,
        );
        let (finished, data) = self.wait(slot);
        (finished.status, data)
    }

    pub fn bulk(&mut self, direction: Direction, length: u32, data: &[u8]) -> (Finished, Vec<u8>) {
        let slot = self.start(bulk(direction, length), data);
        self.wait(slot)
    }
}

pub fn bulk(direction: Direction, length: u32) -> Submission {
    Submission {
        slot: 0,
        kind: TransferType::Bulk,
        direction,
        endpoint: BULK,
        setup: [0; 8],
        length,
        packets: 0,
        flags: TransferFlags::default(),
        start_frame: 0,
    }
}
