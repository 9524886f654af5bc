//! A camera: a device of the USB Video Class 1.1 that sends a numbered test picture.
//!
//! Interface 0 is VideoControl (a sensor, a processing unit and an output terminal, none with
//! controls), interface 1 VideoStreaming with the formats YUY2 and MJPEG. Pictures come through
//! endpoint 0x81: isochronous in alternate settings 1 and up, each with another bandwidth, or bulk
//! in the only setting.
//!
//! Each [`Picture`](picture::Picture) says its own number, so that a recording proves that no frame
//! is missing, twice there or damaged; `examples/check_video.rs` looks. Numbers start at 0 with
//! every stream: when the host selects an alternate setting with the isochronous endpoint, or
//! commits the parameters of a bulk stream.

mod descriptors;
pub mod jpeg;
mod modes;
mod negotiation;
mod options;
pub mod picture;
mod stream;

use std::time::Duration;

pub use self::modes::Format;
use self::modes::Modes;
use self::negotiation::{CONTROL_BYTES, Negotiated};
pub use self::options::{CameraOptions, Transport};
use self::stream::{Agreement, Stream};
use super::export::{GadgetExport, Identity};
use super::function::{Answer, Change, Function, Stall, Then, Transfer};
use super::pace::Pace;
use crate::usb::setup::Setup;

/// Interface numbers.
const CONTROL_INTERFACE: u8 = 0;
const STREAMING_INTERFACE: u8 = 1;

/// The endpoint that the pictures come through.
const ENDPOINT: u8 = 0x81;

/// Rate of the clock in payload headers (dwClockFrequency).
const CLOCK_HZ: u32 = 48_000_000;

/// A class request to an interface, from the host or to it.
const CLASS_OUT: u8 = 0x21;
const CLASS_IN: u8 = 0xa1;

/// Class requests (class specification, table A-8).
const SET_CUR: u8 = 0x01;
const GET_CUR: u8 = 0x81;
const GET_MIN: u8 = 0x82;
const GET_MAX: u8 = 0x83;
const GET_RES: u8 = 0x84;
const GET_LEN: u8 = 0x85;
const GET_INFO: u8 = 0x86;
const GET_DEF: u8 = 0x87;

/// Control selectors, in the upper byte of wValue (tables ).
const REQUEST_ERROR_CODE: u8 = 2;
const PROBE: u8 = 1;
const COMMIT: u8 = 2;

/// Why the last request was stalled, by its code (class specification §4.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None = 0,
    OutOfRange = 4,
    InvalidUnit = 5,
    InvalidControl = 6,
    InvalidRequest = 7,
}

/// What makes a simulated device a camera.
#[derive(Debug)]
pub struct Camera {
    modes: Modes,
    transport: Transport,
    has_clock: bool,
    probed: Negotiated,
    committed: Negotiated,
    fault: Fault,
    stream: Option<Stream>,
}

/// An exported camera.
pub type CameraExport = GadgetExport<Camera>;

impl CameraExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn camera(options: &CameraOptions, number: u8) -> Self {
        let identity = Identity {
            number,
            manufacturer_name: descriptors::MANUFACTURER,
            product_name: descriptors::PRODUCT,
            serial: &options.serial,
        };
        Self::new(Camera::new(options), options.descriptors(), options.pace, identity)
    }
}

impl Camera {
    /// A camera that sends nothing yet.
    #[must_use]
    pub fn new(options: &CameraOptions) -> Self {
        let modes = Modes::new(options);
        let negotiated = Negotiated::default_of(&modes);
        Self {
            modes,
            transport: options.transport,
            has_clock: matches!(options.pace, Pace::Clock(_)),
            probed: negotiated,
            committed: negotiated,
            fault: Fault::None,
            stream: None,
        }
    }

    /// Answers a class request with an IN data stage: the bytes, of which the host may want fewer.
    fn read(&self, setup: Setup) -> Result<([u8; CONTROL_BYTES], usize), Fault> {
        let (interface, selector) = self.control_of(setup)?;
        let mut bytes = [0; CONTROL_BYTES];
        if interface == CONTROL_INTERFACE {
            bytes[0] = match setup.request {
                GET_CUR => self.fault as u8,
                GET_INFO => 1,
                _ => return Err(Fault::InvalidRequest),
            };
            return Ok((bytes, 1));
        }
        let probe = selector == PROBE;
        let answer = match setup.request {
            GET_CUR if probe => self.probed,
            GET_CUR => self.committed,
            GET_MIN if probe => self.probed.extreme(&self.modes, false),
            GET_MAX if probe => self.probed.extreme(&self.modes, true),
            GET_DEF if probe => Negotiated::default_of(&self.modes),
            // No field has a resolution that a host could count on.
            GET_RES if probe => return Ok((bytes, CONTROL_BYTES)),
            GET_LEN => {
                bytes[0] = CONTROL_BYTES as u8;
                return Ok((bytes, 2));
            }
            // Can be read and set.
            GET_INFO => {
                bytes[0] = 3;
                return Ok((bytes, 1));
            }
            _ => return Err(Fault::InvalidRequest),
        };
        Ok((answer.to_bytes(), CONTROL_BYTES))
    }

    fn write(&mut self, setup: Setup, data: &[u8]) -> Result<(), Fault> {
        let (interface, selector) = self.control_of(setup)?;
        if interface != STREAMING_INTERFACE || setup.request != SET_CUR {
            return Err(Fault::InvalidRequest);
        }
        let settled = Negotiated::of_proposal(&self.modes, data).ok_or(Fault::OutOfRange)?;
        if selector == PROBE {
            self.probed = settled;
            return Ok(());
        }
        if !settled.agrees_with(data) {
            return Err(Fault::OutOfRange);
        }
        self.committed = settled;
        if self.transport == Transport::Bulk {
            self.start();
        }
        Ok(())
    }

    /// The interface and the control of it that a request is about.
    fn control_of(&self, setup: Setup) -> Result<(u8, u8), Fault> {
        let [interface, entity] = setup.index.to_le_bytes();
        let [_, selector] = setup.value.to_le_bytes();
        if !matches!(setup.request_type, CLASS_IN | CLASS_OUT) {
            return Err(Fault::InvalidRequest);
        }
        let units = [
            descriptors::CAMERA_TERMINAL,
            descriptors::PROCESSING_UNIT,
            descriptors::OUTPUT_TERMINAL,
        ];
        match (interface, entity, selector) {
            (CONTROL_INTERFACE, 0, REQUEST_ERROR_CODE)
            | (STREAMING_INTERFACE, 0, PROBE | COMMIT) => Ok((interface, selector)),
            (CONTROL_INTERFACE, entity, _) if entity != 0 && !units.contains(&entity) => {
                Err(Fault::InvalidUnit)
            }
            _ => Err(Fault::InvalidControl),
        }
    }

    /// Begins a stream of what was committed.
    fn start(&mut self) {
        let (format, size) = self.committed.mode(&self.modes);
        self.stream = Some(Stream::new(Agreement {
            format,
            size,
            interval: Duration::from_nanos(u64::from(self.committed.interval) * 100),
            payload_bytes: self.committed.payload_bytes as usize,
            clocked: self.has_clock || self.transport == Transport::Isochronous,
        }));
    }

    fn note<T>(&mut self, result: Result<T, Fault>) -> Result<T, Stall> {
        self.fault = result.as_ref().err().copied().unwrap_or(Fault::None);
        result.map_err(|_| Stall)
    }
}

impl Function for Camera {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        let answer = self.read(setup);
        let (bytes, length) = self.note(answer)?;
        let length = length.min(data.len());
        data[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        let done = self.write(setup, data);
        self.note(done)
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        match (&mut self.stream, self.transport) {
            (None, _) => Answer::nothing(Then::Wait),
            (Some(stream), Transport::Isochronous) => stream.isochronous(transfer.time, data),
            (Some(stream), Transport::Bulk) => stream.bulk(transfer, data),
        }
    }

    /// There is no OUT endpoint.
    fn data_out(&mut self, _transfer: &Transfer, _data: &[u8]) -> Answer {
        Answer::nothing(Then::Stall)
    }

    fn ready_at(&self, _address: u8) -> Option<Duration> {
        self.stream.as_ref()?.next_due()
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Interface { interface: STREAMING_INTERFACE, alternate } => {
                self.stream = None;
                if alternate > 0 {
                    self.start();
                }
            }
            // The host says so when it has had enough of a bulk stream: there is no other way.
            Change::HaltCleared(ENDPOINT) => self.stream = None,
            Change::Configuration(_) | Change::Reset => {
                self.probed = Negotiated::default_of(&self.modes);
                self.committed = self.probed;
                self.stream = None;
            }
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
