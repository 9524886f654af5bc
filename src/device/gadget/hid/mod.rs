//! A keyboard and a mouse: HID 1.11, boot and report protocol, a report a millisecond.
//!
//! What they do is a program: a text to type, a script, lines of standard input, a pattern. It
//! begins anew with each session, when the host first asks for a report; each report is given
//! once, in order.

mod descriptors;
mod keyboard;
mod keys;
mod mouse;
mod options;
mod program;

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::Doorbell;

use self::descriptors::descriptors;
pub use self::keyboard::Keyboard;
pub use self::mouse::Mouse;
pub use self::options::{HidOptions, KeyboardOptions, MouseOptions};
use self::program::Program;
use super::export::{GadgetExport, Identity};
use super::function::{Answer, Change, Function, Stall, Then, Transfer, Wake};
use crate::usb::setup::{Setup, request};

/// Class requests (HID 1.11 §7.2).
const GET_REPORT: u8 = 0x01;
const GET_IDLE: u8 = 0x02;
const GET_PROTOCOL: u8 = 0x03;
const SET_REPORT: u8 = 0x09;
const SET_IDLE: u8 = 0x0a;
const SET_PROTOCOL: u8 = 0x0b;

/// Report types, the high byte of wValue.
const INPUT: u8 = 1;
const OUTPUT: u8 = 2;

/// Descriptor types (HID 1.11 §7.1).
const HID: u8 = 0x21;
const REPORT: u8 = 0x22;

/// Unit of an idle rate.
const IDLE_UNIT: Duration = Duration::from_millis(4);

/// A report of any kind; shorter ones use the front.
pub type Report = [u8; 8];

/// What a line of a script makes the device do: a report, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state to report.
    pub report: Report,
    /// How often: as many milliseconds as it stays.
    pub times: u32,
}

/// What makes a HID a keyboard or a mouse.
pub trait Kind: Default + std::fmt::Debug {
    /// Its name on the command line.
    const NAME: &'static str;
    /// Product string.
    const PRODUCT: &'static str;
    /// bInterfaceProtocol: which boot interface it is (§4.3).
    const PROTOCOL: u8;
    /// bcdDevice.
    const RELEASE: u16;
    /// The report descriptor.
    const REPORT_DESCRIPTOR: &'static [u8];
    /// Bytes of a report in the boot protocol and in the report protocol.
    const REPORT_BYTES: [usize; 2];
    /// Bytes of an output report, 0 for none.
    const OUTPUT_BYTES: usize;

    /// Adds what a line of a script does to `steps`; state such as keys held goes on from the line
    /// before.
    ///
    /// # Errors
    ///
    /// What is wrong with the line.
    fn read_line(&mut self, line: &str, steps: &mut VecDeque<Step>) -> Result<(), String>;

    /// Number `index` of the reports of the pattern that `count=` or `move=` asks for.
    fn pattern(index: u64) -> Report;
}

/// What makes a simulated device a HID.
#[derive(Debug)]
pub struct Hid<K> {
    program: Program<K>,
    /// Begins when the host lights Scroll Lock.
    starts_by_light: bool,
    awaits_light: bool,
    is_boot_protocol: bool,
    /// In units of 4 ms; 0: a report only when something has changed.
    idle: u8,
    last: Report,
    last_time: Duration,
    output: u8,
}

/// An exported keyboard.
pub type KeyboardExport = GadgetExport<Hid<Keyboard>>;

/// An exported mouse.
pub type MouseExport = GadgetExport<Hid<Mouse>>;

impl KeyboardExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn keyboard(options: &KeyboardOptions, number: u8) -> Self {
        export(options, number)
    }
}

impl MouseExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn mouse(options: &MouseOptions, number: u8) -> Self {
        export(options, number)
    }
}

fn export<K: Kind + Send + 'static>(options: &HidOptions<K>, number: u8) -> GadgetExport<Hid<K>> {
    let serial = options.serial.clone().unwrap_or_else(|| format!("{number:012X}"));
    let identity = Identity {
        number,
        manufacturer_name: descriptors::MANUFACTURER,
        product_name: K::PRODUCT,
        serial: &serial,
    };
    let descriptors = descriptors::<K>(options.speed, &serial);
    GadgetExport::new(Hid::new(options), descriptors, options.pace, identity)
}

impl<K: Kind> Hid<K> {
    fn new(options: &HidOptions<K>) -> Self {
        Self {
            program: options.program(),
            starts_by_light: options.starts_by_light,
            awaits_light: options.starts_by_light,
            is_boot_protocol: false,
            idle: 0,
            last: Report::default(),
            last_time: Duration::ZERO,
            output: 0,
        }
    }

    fn report_bytes(&self) -> usize {
        K::REPORT_BYTES[usize::from(!self.is_boot_protocol)]
    }

    /// Whether the last report is to be repeated though nothing has changed (§7.2.4).
    fn is_idle_over(&self, time: Duration) -> bool {
        self.idle > 0 && time.saturating_sub(self.last_time) >= IDLE_UNIT * self.idle.into()
    }
}

impl<K: Kind> Function for Hid<K> {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        let [low, high] = setup.value.to_le_bytes();
        if setup.index != 0 {
            return Err(Stall);
        }
        let hid = descriptors::hid_descriptor::<K>();
        let last = self.last;
        let single = |byte: u8| [byte, 0, 0, 0, 0, 0, 0, 0];
        let small;
        let bytes: &[u8] = match (setup.request_type, setup.request, high) {
            (0x81, request::GET_DESCRIPTOR, REPORT) if low == 0 => K::REPORT_DESCRIPTOR,
            (0x81, request::GET_DESCRIPTOR, HID) if low == 0 => &hid,
            (0xa1, GET_REPORT, INPUT) => &last[..self.report_bytes()],
            (0xa1, GET_REPORT, OUTPUT) if K::OUTPUT_BYTES > 0 => {
                small = single(self.output);
                &small[..K::OUTPUT_BYTES]
            }
            (0xa1, GET_IDLE, _) => {
                small = single(self.idle);
                &small[..1]
            }
            (0xa1, GET_PROTOCOL, _) => {
                small = single(u8::from(!self.is_boot_protocol));
                &small[..1]
            }
            _ => return Err(Stall),
        };
        let count = bytes.len().min(data.len());
        data[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        let [low, high] = setup.value.to_le_bytes();
        if (setup.request_type, setup.index) != (0x21, 0) {
            return Err(Stall);
        }
        match (setup.request, data) {
            (SET_REPORT, &[lights]) if high == OUTPUT && K::OUTPUT_BYTES == 1 => {
                self.output = lights;
                if lights & keyboard::SCROLL_LOCK != 0 {
                    self.awaits_light = false;
                }
            }
            (SET_IDLE, []) => self.idle = high,
            (SET_PROTOCOL, []) if setup.value < 2 => self.is_boot_protocol = low == 0,
            _ => return Err(Stall),
        }
        Ok(())
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        let count = self.report_bytes();
        if data.len() < count {
            return Answer::nothing(Then::Overflow);
        }
        let next = if self.awaits_light { None } else { self.program.next() };
        match next {
            Some(report) => self.last = report,
            None if self.is_idle_over(transfer.time) => {}
            None => return Answer::nothing(Then::Wait),
        }
        self.last_time = transfer.time;
        data[..count].copy_from_slice(&self.last[..count]);
        let then = if data.len() == count { Then::Continue } else { Then::Short };
        Answer { bytes: count, then }
    }

    /// There is one OUT endpoint less than there could be: lights come by SET_REPORT.
    fn data_out(&mut self, _transfer: &Transfer, _data: &[u8]) -> Answer {
        Answer::nothing(Then::Stall)
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Configuration(_) | Change::Reset => {
                self.is_boot_protocol = false;
                self.idle = 0;
                self.output = 0;
            }
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }

    fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        self.awaits_light = self.starts_by_light;
        self.last = Report::default();
        self.last_time = Duration::ZERO;
        self.program.begin(doorbell)
    }

    fn handle_doorbell(&mut self) -> Wake {
        if self.program.is_fed() { Wake::Again } else { Wake::Nothing }
    }
}

#[cfg(test)]
mod tests;
