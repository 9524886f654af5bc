//! What drives a simulated device in the tests of its class: a host, a clock, memory.

use std::sync::Arc;
use std::time::Duration;

use usbip_fast_native::doorbell::Ring;
use usbip_fast_native::{Arena, Doorbell};

use super::{Descriptors, Function, Gadget, Pace};
use crate::device::{Completed, Device};
use crate::usb::endpoint::EndpointMap;
use crate::usb::errno;
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Submission, TransferFlags, TransferType, block_bytes,
};

/// A device and the host that uses it. Time stands still but in [`Bench::pass`].
pub(super) struct Bench<F: Function + Send + 'static> {
    pub(super) device: Gadget<F>,
    pub(super) now: Duration,
    arena: Arena,
    slot: u32,
    /// Slot and buffer length of what is in flight.
    lengths: Vec<(u32, usize)>,
    map: EndpointMap,
}

/// A URB that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) slot: u32,
    pub(super) status: i32,
    /// The bytes moved, in either direction.
    pub(super) data: Vec<u8>,
}

/// The paces that every class has to work with.
pub(super) const PACES: [Pace; 3] = [Pace::None, Pace::Demand, Pace::REAL];

impl<F: Function + Send + 'static> Bench<F> {
    pub(super) fn new(function: F, descriptors: Descriptors, pace: Pace) -> Self {
        let map = EndpointMap::new(descriptors.listed(), 1);
        let mut device = Gadget::new(function, Arc::new(descriptors), pace);
        device.open(&Doorbell::new(Arc::new(Silent)));
        Self {
            device,
            now: Duration::from_secs(77),
            arena: Arena::new(64 << 20),
            slot: 0,
            lengths: Vec::new(),
            map,
        }
    }

    /// A request with an IN data stage: the data, or the status.
    pub(super) fn ask(&mut self, setup: Setup) -> Result<Vec<u8>, i32> {
        assert!(setup.is_in());
        let answer = self.control(setup, &[]);
        if answer.status == 0 { Ok(answer.data) } else { Err(answer.status) }
    }

    /// A request with an OUT data stage or none: the status.
    pub(super) fn tell(&mut self, setup: Setup, data: &[u8]) -> i32 {
        assert!(!setup.is_in());
        self.control(Setup { length: data.len() as u16, ..setup }, data).status
    }

    pub(super) fn clear_halt(&mut self, address: u8) {
        let setup = Setup {
            request_type: 0x02,
            request: request::CLEAR_FEATURE,
            value: 0,
            index: address.into(),
            length: 0,
        };
        assert_eq!(self.tell(setup, &[]), 0);
    }

    /// Asks for data of an endpoint; it may take until later.
    pub(super) fn submit_in(&mut self, address: u8, length: usize) -> u32 {
        self.submit(address, [0; 8], length, &[])
    }

    /// Gives data to an endpoint; it may take until later.
    pub(super) fn submit_out(&mut self, address: u8, data: &[u8]) -> u32 {
        self.submit(address, [0; 8], data.len(), data)
    }

    /// The next URB that is over, without time passing.
    pub(super) fn poll(&mut self) -> Option<Answered> {
        if self.device.deadline().is_some_and(|due| due <= self.now) {
            self.device.handle_deadline(self.now);
        }
        let Completed { finished, block } = self.device.poll(self.now)?;
        let at = self.lengths.iter().position(|(slot, _)| *slot == finished.slot);
        let (_, length) = self.lengths.remove(at.expect("a slot comes back once"));
        let moved = finished.actual_length as usize;
        assert!(moved <= length);
        let data = block.as_ref()[BUFFER_OFFSET..][..moved].to_vec();
        Some(Answered { slot: finished.slot, status: finished.status, data })
    }

    /// The next URB that is over within a second of the bus.
    pub(super) fn wait(&mut self) -> Option<Answered> {
        let end = self.now + Duration::from_secs(1);
        loop {
            if let Some(answer) = self.poll() {
                return Some(answer);
            }
            self.now = self.device.deadline().filter(|due| *due <= end)?.max(self.now);
        }
    }

    fn control(&mut self, setup: Setup, data: &[u8]) -> Answered {
        let address = setup.request_type & 0x80;
        let slot = self.submit(address, setup.to_bytes(), setup.length.into(), data);
        // What a request has set free may be over before it.
        let mut others = Vec::new();
        loop {
            let completed = self.device.poll(self.now).expect("control is answered at once");
            if completed.finished.slot == slot {
                others.into_iter().for_each(|other| self.device.finished.push_front(other));
                self.device.finished.push_front(completed);
                return self.poll().expect("put back");
            }
            others.insert(0, completed);
        }
    }

    fn submit(&mut self, address: u8, setup: [u8; 8], length: usize, data: &[u8]) -> u32 {
        self.slot += 1;
        let found = self.map.active().find(|endpoint| endpoint.address == address);
        let submission = Submission {
            slot: self.slot,
            kind: found.map_or(TransferType::Control, |endpoint| endpoint.kind),
            direction: if address & 0x80 == 0 { Direction::Out } else { Direction::In },
            endpoint: address & 0x0f,
            setup,
            length: length as u32,
            packets: 0,
            flags: TransferFlags::default(),
            start_frame: 0,
        };
        let bytes = block_bytes(submission.length, 0);
        let mut block = self.device.allocate(&self.arena, bytes).expect("memory");
        block.as_mut().fill(0xee);
        block.as_mut()[BUFFER_OFFSET..][..data.len()].copy_from_slice(data);
        self.lengths.push((self.slot, length));
        self.device.submit(submission, block, self.now);
        self.slot
    }
}

/// A setup packet of a class.
pub(super) fn setup(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Setup {
    Setup { request_type, request, value, index, length }
}

/// What a stall is answered as.
pub(super) const STALLED: i32 = -errno::EPIPE;

struct Silent;

impl Ring for Silent {
    fn ring(&self) {}
}
