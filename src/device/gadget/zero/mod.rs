//! Gadget Zero: the device that Linux's USB test driver (usbtest) expects.
//!
//! Configuration 1 is SourceSink: alternate setting 0 a bulk pair, 1 a bulk and an isochronous
//! pair, 2 a bulk and an interrupt pair. IN endpoints give a pattern without end, fitted to the
//! room that the host leaves; OUT endpoints check it, and halt where bulk or interrupt data does
//! not follow it. Vendor request 0x5b writes a buffer, 0x5c reads it back.
//!
//! Configuration 2 is Loopback: packets that arrive on bulk OUT leave on bulk IN.
//!
//! A low-speed device has no bulk and no isochronous endpoints (USB 2.0 §5.5, §5.8): both
//! configurations have one interrupt pair of 8-byte packets instead.

mod descriptors;
mod loopback;
mod options;
mod pattern;

use self::loopback::Loopback;
pub use self::options::ZeroOptions;
pub use self::pattern::Pattern;
use super::export::{GadgetExport, Identity};
use super::function::{Answer, Change, Function, Stall, Then, Transfer};
use crate::usb::setup::Setup;

/// bConfigurationValue of the source and sink.
pub const SOURCE_SINK: u8 = 1;

/// bConfigurationValue of the loopback.
pub const LOOPBACK: u8 = 2;

/// Vendor request that writes the control buffer.
pub const WRITE_BUFFER: u8 = 0x5b;

/// Vendor request that reads the control buffer back.
pub const READ_BUFFER: u8 = 0x5c;

/// Vendor request to the device, host to device.
const VENDOR_OUT: u8 = 0x40;

/// Vendor request to the device, device to host.
const VENDOR_IN: u8 = 0xc0;

/// What makes a simulated device a Gadget Zero.
#[derive(Debug)]
pub struct Zero {
    pattern: Pattern,
    configuration: u8,
    /// What was written with [`WRITE_BUFFER`]; beyond its end there are zeros up to 64 KiB.
    buffer: Vec<u8>,
    loopback: Loopback,
}

/// An exported Gadget Zero.
pub type ZeroExport = GadgetExport<Zero>;

impl ZeroExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn zero(options: &ZeroOptions, number: u8) -> Self {
        let identity = Identity {
            number,
            manufacturer_name: descriptors::MANUFACTURER,
            product_name: descriptors::PRODUCT,
            serial: &options.serial,
        };
        Self::new(Zero::new(options.pattern), options.descriptors(), options.pace, identity)
    }
}

impl Zero {
    /// A device with this pattern, in its first configuration.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self {
            pattern,
            configuration: SOURCE_SINK,
            buffer: Vec::new(),
            loopback: Loopback::default(),
        }
    }
}

impl Function for Zero {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        if !matches!(
            (setup.request_type, setup.request, setup.value, setup.index),
            (VENDOR_IN, READ_BUFFER, 0, 0)
        ) {
            return Err(Stall);
        }
        let written = data.len().min(self.buffer.len());
        data[..written].copy_from_slice(&self.buffer[..written]);
        data[written..].fill(0);
        Ok(data.len())
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        if !matches!(
            (setup.request_type, setup.request, setup.value, setup.index),
            (VENDOR_OUT, WRITE_BUFFER, 0, 0)
        ) {
            return Err(Stall);
        }
        // The rest of an earlier, longer write stays, as in one buffer of fixed size.
        if self.buffer.len() < data.len() {
            self.buffer.resize(data.len(), 0);
        }
        self.buffer[..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        if self.configuration == LOOPBACK {
            return self.loopback.read(data, transfer.max_packet_size);
        }
        self.pattern.fill(data, transfer.offset, transfer.max_packet_size);
        Answer::all(data.len())
    }

    fn data_out(&mut self, transfer: &Transfer, data: &[u8]) -> Answer {
        if self.configuration == LOOPBACK {
            return self.loopback.write(data, transfer.max_packet_size);
        }
        // What a host puts into isochronous packets is its own affair: usbtest sends zeros.
        let isochronous = transfer.address == descriptors::ISO_OUT;
        if isochronous || self.pattern.matches(data, transfer.offset, transfer.max_packet_size) {
            Answer::all(data.len())
        } else {
            Answer::nothing(Then::Stall)
        }
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Configuration(value) => self.configuration = value,
            Change::Reset => {}
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => return,
        }
        self.loopback.clear();
    }
}
