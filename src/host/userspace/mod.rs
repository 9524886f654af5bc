//! A client without a kernel: a program's own hands on an imported device.
//!
//! [`Client`] belongs to one thread, needs no runtime and blocks only in the calls that say so.
//! Two ways to use it: one transfer at a time ([`control_in`](Client::control_in),
//! [`bulk_in`](Client::bulk_in) …), or many [`Urb`]s in flight with [`submit`](Client::submit) and
//! [`poll`](Client::poll). A URB that comes back can be submitted again, which allocates nothing.
//!
//! [`attach::client`](crate::attach::client) imports a device and makes a client of it.

mod blocking;
mod link;
mod urb;

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::{Block, Handle, Reactor, clock};

use crate::session::importer::{ImporterEnd, client_block_bytes};
use crate::usb::endpoint::{EndpointInfo, EndpointMap};
use crate::usb::setup::{Setup, StandardRequest};
use crate::usb::speed::Speed;
use crate::usb::transfer::{Direction, Finished, Submission, TransferFlags, TransferType};
use link::{Link, deadline};

pub use urb::{Done, Urb, UrbId};

/// How long a device may take for a request of the set-up.
const SETUP_TIMEOUT: Duration = Duration::from_secs(5);

/// An imported device.
pub struct Client {
    link: Link,
    speed: Speed,
    endpoints: EndpointMap,
    /// What is in flight, by slot.
    in_flight: Vec<Option<Submission>>,
    free_slots: Vec<u32>,
    /// What came back while another URB was waited for.
    done: VecDeque<Done>,
}

/// Why a client could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The session is over; so are all of its URBs.
    #[error("the session is over: {0}")]
    Ended(#[from] ImporterEnd),
    /// What the device says of itself cannot be read.
    #[error("the device's {0} descriptor is malformed")]
    MalformedDescriptor(&'static str),
    /// The device has no such endpoint, or one of another transfer type.
    #[error("the device has no such endpoint now: {0:#04x}")]
    NoEndpoint(u8),
    /// No memory for a URB.
    #[error("no memory for a URB")]
    NoMemory,
    /// The device did not answer in time. Nothing of the transfer is left in flight: it was
    /// unlinked, or the session was ended because the server did not answer that either.
    #[error("the device did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// More bytes than a URB may have.
    #[error("a transfer of {0} bytes is too long")]
    TooLong(usize),
    /// The transfer failed; the status is a negated Linux error number.
    #[error("the transfer failed with status {0}")]
    Transfer(i32),
}

impl Client {
    /// Takes over a connection that has been through the import, with what the reply to it said:
    /// the device's number at the server, its speed and its active configuration. Reads the
    /// descriptors, and blocks for that; asks for nothing else, because there are servers that
    /// break off at a request that Linux never sends.
    ///
    /// # Errors
    ///
    /// When the device does not say what it is.
    pub fn new(
        reactor: Box<dyn Reactor>,
        socket: Handle,
        device_id: u32,
        speed: Speed,
        configuration: u8,
    ) -> Result<Self, ClientError> {
        let mut client = Self {
            link: Link::new(reactor, socket, device_id)?,
            speed,
            endpoints: EndpointMap::new(&[], 0),
            in_flight: Vec::new(),
            free_slots: Vec::new(),
            done: VecDeque::new(),
        };
        let descriptors = client.read_descriptors(SETUP_TIMEOUT)?;
        client.endpoints = EndpointMap::new(&descriptors, configuration);
        Ok(client)
    }

    /// The signalling rate of the device at the server.
    #[must_use]
    pub const fn speed(&self) -> Speed {
        self.speed
    }

    /// The endpoints in the present configuration and alternate settings, and behind
    /// [`descriptors`](EndpointMap::descriptors) all that the device says of itself.
    #[must_use]
    pub const fn endpoints(&self) -> &EndpointMap {
        &self.endpoints
    }

    /// A URB for a control transfer, to be filled in (OUT) and submitted.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoMemory`].
    pub fn control_urb(&self, setup: Setup) -> Result<Urb, ClientError> {
        let direction = if setup.is_in() { Direction::In } else { Direction::Out };
        let length = u32::from(setup.length);
        let setup = setup.to_bytes();
        self.make_urb(Submission { setup, length, ..plain(TransferType::Control, direction, 0) })
    }

    /// A URB of `length` bytes for a bulk or interrupt endpoint, by its address (0x81: IN 1).
    ///
    /// # Errors
    ///
    /// [`ClientError::NoEndpoint`], [`ClientError::NoMemory`], [`ClientError::TooLong`].
    pub fn urb(&self, address: u8, length: usize) -> Result<Urb, ClientError> {
        let info = self.endpoint(address)?;
        if info.kind == TransferType::Isochronous {
            return Err(ClientError::NoEndpoint(address));
        }
        let length = checked_length(length)?;
        self.make_urb(Submission { length, ..plain(info.kind, info.direction(), address) })
    }

    /// A URB for an isochronous endpoint, with one packet for each length given, one behind the
    /// other in the buffer. It starts as soon as possible.
    ///
    /// # Errors
    ///
    /// As [`urb`](Self::urb).
    pub fn isochronous_urb(&self, address: u8, lengths: &[u32]) -> Result<Urb, ClientError> {
        let info = self.endpoint(address)?;
        if info.kind != TransferType::Isochronous || lengths.is_empty() {
            return Err(ClientError::NoEndpoint(address));
        }
        let sum: usize = lengths.iter().map(|&length| length as usize).sum();
        let length = checked_length(sum)?;
        let packets = u32::try_from(lengths.len())
            .ok()
            .filter(|&count| count <= crate::limits::ISO_PACKETS)
            .ok_or(ClientError::TooLong(sum))?;
        let submission = plain(info.kind, info.direction(), address);
        let flags = TransferFlags { iso_asap: true, ..TransferFlags::default() };
        let mut urb = self.make_urb(Submission { length, packets, flags, ..submission })?;
        urb.lay_out(lengths);
        Ok(urb)
    }

    /// Starts a URB. It leaves with the next call that blocks, together with all others that were
    /// submitted until then, and comes back once, through [`poll`](Self::poll).
    pub fn submit(&mut self, urb: Urb) -> UrbId {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.free_slots.reserve(self.in_flight.len());
            u32::try_from(self.in_flight.len() - 1).expect("URBs are counted in 32 bits")
        });
        let Urb { submission, block } = urb;
        let submission = Submission { slot, ..submission };
        self.in_flight[slot as usize] = Some(submission);
        self.link.submit(submission, block);
        UrbId(slot)
    }

    /// Wants a URB ended. It still comes back, with -104 (ECONNRESET) if it was stopped.
    pub fn unlink(&mut self, id: UrbId) {
        self.link.unlink(id.0);
    }

    /// The next URB that has come back, waiting for it up to `timeout` (`None`: without limit).
    /// `Ok(None)` when none did.
    ///
    /// # Errors
    ///
    /// [`ClientError::Ended`], after the last URB has come back.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Option<Done>, ClientError> {
        if let Some(done) = self.done.pop_front().or_else(|| self.next_finished()) {
            return Ok(Some(done));
        }
        let deadline = deadline(timeout);
        loop {
            self.turn(deadline)?;
            if let Some(done) = self.next_finished() {
                return Ok(Some(done));
            }
            if deadline.is_some_and(|deadline| deadline <= clock::now()) {
                return Ok(None);
            }
        }
    }

    fn turn(&mut self, deadline: Option<Duration>) -> Result<(), ClientError> {
        match self.link.end() {
            // URBs whose blocks operations have come back with these.
            Some(end) if self.free_slots.len() == self.in_flight.len() => Err(end.clone().into()),
            _ => {
                self.link.turn(deadline);
                Ok(())
            }
        }
    }

    fn next_finished(&mut self) -> Option<Done> {
        let (Finished { slot, status, actual_length, error_count }, block) =
            self.link.poll_finished()?;
        let submission = self.in_flight[slot as usize].take().expect("a URB comes back once");
        self.free_slots.push(slot);
        let urb = Urb { submission, block };
        Some(Done { id: UrbId(slot), urb, status, actual_length, error_count })
    }

    fn endpoint(&self, address: u8) -> Result<&EndpointInfo, ClientError> {
        let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
        self.endpoints
            .info(address & 0x0f, direction)
            .filter(|info| info.active && info.kind != TransferType::Control)
            .ok_or(ClientError::NoEndpoint(address))
    }

    fn make_urb(&self, submission: Submission) -> Result<Urb, ClientError> {
        let bytes = client_block_bytes(submission.length, submission.packets);
        let mut block =
            self.link.arena.take(bytes).map(Block::from).ok_or(ClientError::NoMemory)?;
        block.as_mut()[..bytes].fill(0);
        Ok(Urb { submission, block })
    }

    /// The endpoints follow what the device has answered.
    fn follow(&mut self, setup: Setup) {
        match setup.classify() {
            StandardRequest::SetConfiguration(value) => self.endpoints.set_configuration(value),
            StandardRequest::SetInterface { interface, alternate } => {
                self.endpoints.set_interface(interface, alternate);
            }
            _ => {}
        }
    }
}

fn plain(kind: TransferType, direction: Direction, address: u8) -> Submission {
    Submission {
        slot: 0,
        kind,
        direction,
        endpoint: address & 0x0f,
        setup: [0; 8],
        length: 0,
        packets: 0,
        flags: TransferFlags::default(),
        start_frame: 0,
    }
}

fn checked_length(length: usize) -> Result<u32, ClientError> {
    u32::try_from(length)
        .ok()
        .filter(|&length| length <= crate::limits::TRANSFER_BYTES)
        .ok_or(ClientError::TooLong(length))
}
