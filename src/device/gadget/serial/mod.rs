//! A serial line: CDC-ACM (PSTN subclass of USB CDC 1.2), whose other end is an echo or a
//! pseudo-terminal of the server.
//!
//! Nothing is lost: what the other end has no room for is not taken from the host (NAK).

mod options;

use usbip_fast_native::pty::Pty;
use usbip_fast_native::{BellSlot, ByteQueue, Doorbell};

pub use self::options::{Mode, SerialOptions};
use super::descriptors::{
    ConfigurationBuilder, Descriptors, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use super::export::{GadgetExport, Identity};
use super::function::{Answer, Change, Function, Stall, Then, Transfer, Wake};
use crate::limits;
use crate::usb::identity::Class;
use crate::usb::setup::Setup;
use crate::usb::speed::Speed;

const MANUFACTURER: &str = "usbip-fast";
const PRODUCT: &str = "Serial line (simulated)";

/// Endpoint addresses.
const BULK: [u8; 2] = [0x81, 0x01];
const NOTIFICATIONS: u8 = 0x82;

/// Class requests (PSTN 1.2 table 13).
const SET_LINE_CODING: u8 = 0x20;
const GET_LINE_CODING: u8 = 0x21;
const SET_CONTROL_LINE_STATE: u8 = 0x22;
const SEND_BREAK: u8 = 0x23;

/// Bits of UART state (PSTN 1.2 table 31).
const CARRIER: u8 = 0x01;
const SET_READY: u8 = 0x02;
const BREAK: u8 = 0x04;

/// 9600 baud, one stop bit, no parity, 8 bits.
const LINE_CODING: [u8; 7] = [0x80, 0x25, 0, 0, 0, 0, 8];

/// What makes a simulated device a serial line.
#[derive(Debug)]
pub struct Serial {
    /// From the host, and with an echo back to it.
    outgoing: ByteQueue,
    /// To the host.
    incoming: ByteQueue,
    pty: Option<Pty>,
    bell: BellSlot,
    is_started: bool,
    line_coding: [u8; 7],
    /// UART state that the host has to be told of.
    notification: Option<u8>,
}

/// An exported serial line.
pub type SerialExport = GadgetExport<Serial>;

impl SerialExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn serial(options: &SerialOptions, number: u8) -> Self {
        let serial = options.serial.clone().unwrap_or_else(|| format!("{number:012X}"));
        let identity = Identity {
            number,
            manufacturer_name: MANUFACTURER,
            product_name: PRODUCT,
            serial: &serial,
        };
        let line = Serial::new(options.take_pty());
        Self::new(line, descriptors(options.speed, &serial), options.pace, identity)
    }
}

impl Serial {
    /// A line to a pseudo-terminal, or to itself.
    fn new(pty: Option<Pty>) -> Self {
        let outgoing = ByteQueue::new(limits::SERIAL_BYTES);
        let incoming = match &pty {
            Some(_) => ByteQueue::new(limits::SERIAL_BYTES),
            None => outgoing.clone(),
        };
        Self {
            outgoing,
            incoming,
            pty,
            bell: BellSlot::default(),
            is_started: false,
            line_coding: LINE_CODING,
            notification: Some(CARRIER | SET_READY),
        }
    }

    /// The state of the lines (PSTN 1.2 §6.5.4), once for each change.
    fn notify(&mut self, data: &mut [u8]) -> Answer {
        let Some(state) = self.notification else { return Answer::nothing(Then::Wait) };
        let bytes = [0xa1, 0x20, 0, 0, 0, 0, 2, 0, state, 0];
        let Some(front) = data.get_mut(..bytes.len()) else {
            return Answer::nothing(Then::Overflow);
        };
        front.copy_from_slice(&bytes);
        // A break is an event, not a state.
        self.notification = (state & BREAK != 0).then_some(state & !BREAK);
        ended(bytes.len(), data.len())
    }
}

/// A transfer that ends with these bytes.
fn ended(bytes: usize, room: usize) -> Answer {
    if bytes == room { Answer::all(bytes) } else { Answer { bytes, then: Then::Short } }
}

impl Function for Serial {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        if (setup.request_type, setup.request, setup.index) != (0xa1, GET_LINE_CODING, 0) {
            return Err(Stall);
        }
        let count = data.len().min(self.line_coding.len());
        data[..count].copy_from_slice(&self.line_coding[..count]);
        Ok(count)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        if (setup.request_type, setup.index) != (0x21, 0) {
            return Err(Stall);
        }
        match setup.request {
            SET_LINE_CODING => self.line_coding = data.try_into().map_err(|_| Stall)?,
            // The other end is always there, whatever the host raises.
            SET_CONTROL_LINE_STATE if data.is_empty() => {}
            SEND_BREAK if data.is_empty() => {
                // An echo sends it back; a pseudo-terminal has none.
                if setup.value != 0 && self.pty.is_none() {
                    self.notification = Some(CARRIER | SET_READY | BREAK);
                }
            }
            _ => return Err(Stall),
        }
        Ok(())
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        if transfer.address == NOTIFICATIONS {
            return self.notify(data);
        }
        match self.incoming.read(data) {
            // A transfer that has begun ends here, if need be with an empty packet.
            0 if transfer.offset == 0 && !data.is_empty() => Answer::nothing(Then::Wait),
            count => ended(count, data.len()),
        }
    }

    fn data_out(&mut self, transfer: &Transfer, data: &[u8]) -> Answer {
        let room = self.outgoing.room();
        let packet = usize::from(transfer.max_packet_size);
        // Packets are taken whole or not at all.
        let count = if room < data.len() { room - room % packet } else { data.len() };
        let taken = self.outgoing.write(&data[..count]);
        assert_eq!(taken, count, "only the other end changes the room, and makes it more");
        Answer { bytes: count, then: if count == data.len() { Then::Continue } else { Then::Wait } }
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Configuration(_) | Change::Reset => {
                self.line_coding = LINE_CODING;
                self.notification = Some(CARRIER | SET_READY);
                // What was on its way to a pseudo-terminal is there as far as the host knows.
                if self.pty.is_none() {
                    self.outgoing.clear();
                }
            }
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }

    fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        self.bell.set(doorbell);
        let Some(pty) = self.pty.as_ref().filter(|_| !self.is_started) else { return Ok(()) };
        pty.start(self.outgoing.clone(), self.incoming.clone(), self.bell.clone())
            .map_err(|error| format!("no threads for the serial line: {error}"))?;
        self.is_started = true;
        Ok(())
    }

    fn handle_doorbell(&mut self) -> Wake {
        if self.pty.is_some() { Wake::Again } else { Wake::Nothing }
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.outgoing.close();
        self.incoming.close();
    }
}

/// The descriptors of a serial line.
fn descriptors(speed: Speed, serial: &str) -> Descriptors {
    let spec = DeviceSpec {
        speed,
        vendor: 0x0525,
        product: 0xa4a7,
        release: 0x0100,
        class: Class { class: 0x02, ..Class::default() },
    };
    let strings = [MANUFACTURER, PRODUCT, serial];
    let descriptors = Descriptors::new(spec, &[configuration(speed)], &strings);
    match speed {
        Speed::High => descriptors.with_other_speed(&[configuration(Speed::Full)]),
        _ => descriptors,
    }
}

fn configuration(speed: Speed) -> ConfigurationBuilder {
    let (packet, interval) = match speed {
        Speed::Super | Speed::SuperPlus => (1024, 9),
        Speed::High | Speed::Wireless => (512, 9),
        Speed::Unknown | Speed::Low | Speed::Full => (64, 32),
    };
    let control = Class { class: 0x02, subclass: 0x02, protocol: 0x01 };
    let data = Class { class: 0x0a, ..Class::default() };
    let notifications =
        EndpointSpec { address: NOTIFICATIONS, attributes: 3, payload_bytes: 16, interval };
    let builder = ConfigurationBuilder::new(1, 0)
        .interface(InterfaceSpec { class: control, ..InterfaceSpec::default() })
        // Header (CDC 1.2), call management (none), abstract control (line coding and state,
        // break), union of interfaces 0 and 1.
        .raw(&[5, 0x24, 0x00, 0x20, 0x01])
        .raw(&[5, 0x24, 0x01, 0x00, 1])
        .raw(&[4, 0x24, 0x02, 0x06])
        .raw(&[5, 0x24, 0x06, 0, 1])
        .endpoint(notifications, speed)
        .interface(InterfaceSpec { number: 1, class: data, ..InterfaceSpec::default() });
    BULK.into_iter().fold(builder, |builder, address| {
        let bulk = EndpointSpec { address, attributes: 2, payload_bytes: packet, interval: 0 };
        builder.endpoint(bulk, speed)
    })
}

#[cfg(test)]
mod tests;
