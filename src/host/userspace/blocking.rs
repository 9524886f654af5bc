//! One transfer at a time: the calls that wait.

use std::time::Duration;

use usbip_fast_native::clock;

use super::{Client, ClientError, Done, Urb};
use crate::session::importer::ImporterEnd;
use crate::usb::descriptor::{Configuration, DeviceDescriptor};
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{Direction, TransferType};

/// How long a server may take to answer a CMD_UNLINK: as long as it takes to know a dead one.
const UNLINK_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptor types of GET_DESCRIPTOR (USB 2.0 table 9-5).
const DEVICE: u16 = 1;
const CONFIGURATION: u16 = 2;

/// bmRequestType of standard requests to the device, and to an interface.
const DEVICE_IN: u8 = 0x80;
const INTERFACE_OUT: u8 = 0x01;
const DEVICE_OUT: u8 = 0x00;

impl Client {
    /// A control transfer with data from the device; `setup.length` is taken from `data`. Returns
    /// the bytes that came.
    ///
    /// # Errors
    ///
    /// [`ClientError::Transfer`] when the device refuses (-32, EPIPE) or fails;
    /// [`ClientError::TimedOut`]; [`ClientError::Ended`].
    pub fn control_in(
        &mut self,
        setup: Setup,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, ClientError> {
        let length = wire_length(data.len())?;
        let request_type = setup.request_type | 0x80;
        let urb = self.control_urb(Setup { request_type, length, ..setup })?;
        self.transfer_in(urb, data, timeout)
    }

    /// A control transfer with data to the device, or without data; `setup.length` is taken from
    /// `data`.
    ///
    /// # Errors
    ///
    /// As [`control_in`](Self::control_in).
    pub fn control_out(
        &mut self,
        setup: Setup,
        data: &[u8],
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let length = wire_length(data.len())?;
        let request_type = setup.request_type & 0x7f;
        let mut urb = self.control_urb(Setup { request_type, length, ..setup })?;
        urb.data_mut().copy_from_slice(data);
        self.transfer(urb, timeout).map(drop)
    }

    /// Reads from a bulk or interrupt endpoint, by its address (0x81: IN 1). Returns the bytes
    /// that came, fewer than asked for if the device ended the transfer.
    ///
    /// # Errors
    ///
    /// As [`control_in`](Self::control_in); also [`ClientError::NoEndpoint`].
    pub fn bulk_in(
        &mut self,
        address: u8,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, ClientError> {
        let urb = self.urb(address, data.len())?;
        if urb.direction() != Direction::In {
            return Err(ClientError::NoEndpoint(address));
        }
        self.transfer_in(urb, data, timeout)
    }

    /// Writes to a bulk or interrupt endpoint. Returns the bytes that the device took.
    ///
    /// # Errors
    ///
    /// As [`bulk_in`](Self::bulk_in).
    pub fn bulk_out(
        &mut self,
        address: u8,
        data: &[u8],
        timeout: Duration,
    ) -> Result<usize, ClientError> {
        let mut urb = self.urb(address, data.len())?;
        if urb.direction() != Direction::Out {
            return Err(ClientError::NoEndpoint(address));
        }
        urb.data_mut().copy_from_slice(data);
        self.transfer(urb, timeout).map(|done| done.actual_length as usize)
    }

    /// SET_INTERFACE: chooses an alternate setting. URBs of the interface must not be in flight.
    ///
    /// # Errors
    ///
    /// As [`control_in`](Self::control_in).
    pub fn set_interface(
        &mut self,
        interface: u8,
        alternate: u8,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let (request_type, request) = (INTERFACE_OUT, request::SET_INTERFACE);
        let (value, index) = (alternate.into(), interface.into());
        self.control_out(Setup { request_type, request, value, index, length: 0 }, &[], timeout)
    }

    /// SET_CONFIGURATION.
    ///
    /// # Errors
    ///
    /// As [`control_in`](Self::control_in).
    pub fn set_configuration(&mut self, value: u8, timeout: Duration) -> Result<(), ClientError> {
        let (request_type, request) = (DEVICE_OUT, request::SET_CONFIGURATION);
        let setup = Setup { request_type, request, value: value.into(), index: 0, length: 0 };
        self.control_out(setup, &[], timeout)
    }

    /// Submits a URB and waits until it is back. What else comes back meanwhile waits for
    /// [`poll`](Self::poll).
    fn transfer(&mut self, urb: Urb, timeout: Duration) -> Result<Done, ClientError> {
        self.transfer_within(urb, timeout, UNLINK_TIMEOUT)
    }

    /// As [`transfer`](Self::transfer); ends the session of a server that lets its time to answer
    /// a CMD_UNLINK pass.
    fn transfer_within(
        &mut self,
        urb: Urb,
        timeout: Duration,
        unlink_timeout: Duration,
    ) -> Result<Done, ClientError> {
        let setup = (urb.kind() == TransferType::Control).then(|| urb.setup());
        let id = self.submit(urb);
        let mut deadline = clock::now().saturating_add(timeout);
        let mut timed_out = false;
        let done = loop {
            match self.next_finished() {
                Some(done) if done.id == id => break done,
                Some(other) => self.done.push_back(other),
                None if clock::now() < deadline => self.turn(Some(deadline))?,
                None if !timed_out => {
                    timed_out = true;
                    deadline = clock::now().saturating_add(unlink_timeout);
                    self.unlink(id);
                }
                None => {
                    self.link.stop(ImporterEnd::Local("the server is silent".to_owned()));
                    self.turn(Some(deadline))?;
                }
            }
        };
        match done.status {
            0 => {
                if let Some(setup) = setup {
                    self.follow(setup);
                }
                Ok(done)
            }
            _ if timed_out => Err(ClientError::TimedOut(timeout)),
            status => Err(ClientError::Transfer(status)),
        }
    }

    fn transfer_in(
        &mut self,
        urb: Urb,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, ClientError> {
        let done = self.transfer(urb, timeout)?;
        let count = done.actual_length as usize;
        data[..count].copy_from_slice(&done.urb.data()[..count]);
        Ok(count)
    }

    /// The device descriptor and all configurations in full, one behind the other.
    pub(super) fn read_descriptors(&mut self, timeout: Duration) -> Result<Vec<u8>, ClientError> {
        let mut all = vec![0; 18];
        let count = self.get_descriptor(DEVICE << 8, &mut all, timeout)?;
        let device = DeviceDescriptor::parse(&all[..count])
            .ok_or(ClientError::MalformedDescriptor("device"))?;
        for index in 0..u16::from(device.configurations) {
            let value = CONFIGURATION << 8 | index;
            let mut head = [0; 9];
            let count = self.get_descriptor(value, &mut head, timeout)?;
            let malformed = ClientError::MalformedDescriptor("configuration");
            if count < head.len() {
                return Err(malformed);
            }
            let total = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let mut full = vec![0; total];
            let count = self.get_descriptor(value, &mut full, timeout)?;
            if Configuration::parse(&full[..count]).is_none() {
                return Err(malformed);
            }
            all.extend_from_slice(&full[..count]);
        }
        Ok(all)
    }

    fn get_descriptor(
        &mut self,
        value: u16,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, ClientError> {
        let (request_type, request) = (DEVICE_IN, request::GET_DESCRIPTOR);
        let setup = Setup { request_type, request, value, index: 0, length: 0 };
        self.control_in(setup, data, timeout)
    }
}

/// What the setup packet can say.
fn wire_length(length: usize) -> Result<u16, ClientError> {
    u16::try_from(length).map_err(|_| ClientError::TooLong(length))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use usbip_fast_native::backend::Options;
    use usbip_fast_native::socket;

    use super::super::Link;
    use super::*;
    use crate::reactor::select::{self, Choice};
    use crate::usb::endpoint::EndpointMap;
    use crate::usb::speed::Speed;

    #[test]
    fn a_server_that_never_answers_holds_nobody() {
        let (socket, _server) = socket::pair().expect("a pair");
        let (reactor, _) = select::open(Choice::Auto, &Options::default()).expect("a reactor");
        let mut client = Client {
            link: Link::new(reactor, socket, 1).expect("memory"),
            speed: Speed::High,
            endpoints: EndpointMap::new(&[], 0),
            in_flight: Vec::new(),
            free_slots: Vec::new(),
            done: VecDeque::new(),
        };
        let soon = Duration::from_millis(10);
        let setup = Setup { request_type: DEVICE_IN, request: 0, value: 0, index: 0, length: 18 };
        let urb = client.control_urb(setup).expect("memory");
        let given_up = client.transfer_within(urb, soon, soon).expect_err("nobody answers");
        assert_eq!(given_up, ClientError::TimedOut(soon));
        let urb = client.control_urb(setup).expect("memory");
        let over = client.transfer_within(urb, soon, soon).expect_err("the session is over");
        assert_eq!(over, ClientError::Transfer(-108));
        assert!(matches!(client.poll(None), Err(ClientError::Ended(ImporterEnd::Local(_)))));
    }
}
