//! Simulated sound devices of USB Audio Class 1.0 and 2.0: a [`microphone`] and a [`speaker`].
//!
//! Both are one terminal, one feature unit (mute, volume) and one stream. Interface 0 is
//! AudioControl; interface 1 is AudioStreaming with alternate setting 0 for no bandwidth and 1 for
//! the stream, which is asynchronous: the clock of the sound is the device's own, and the packets
//! of a stream have as many frames as that clock has counted since the packet before (USB 2.0
//! §5.12.4.1.1). Here both clocks are the clock of the bus, so 44.1 kHz is exact in the long run.
//!
//! A *frame* below is one sample of every channel, at one moment; the millisecond of the bus is
//! never meant.

mod clock;
mod controls;
mod descriptors1;
mod descriptors2;
mod format;
pub mod microphone;
mod options;
mod playback;
mod recording;
pub mod signal;
pub mod speaker;
pub mod wav;

pub use self::format::{AudioClass, AudioFormat, RATES};
pub use self::options::AudioOptions;

use self::format::Role;
use super::descriptors::{ConfigurationBuilder, Descriptors, DeviceSpec};
use crate::usb::identity::Class;
use crate::usb::speed::Speed;

const MANUFACTURER: &str = "usbip-fast";

/// Number of the AudioControl interface.
const CONTROL_INTERFACE: u8 = 0;

/// Number of the AudioStreaming interface.
const STREAM_INTERFACE: u8 = 1;

/// The alternate setting of [`STREAM_INTERFACE`] with the stream's endpoints.
const STREAMING: u8 = 1;

/// Address of the microphone's data endpoint.
const DATA_IN: u8 = 0x81;

/// Address of the speaker's data endpoint.
const DATA_OUT: u8 = 0x01;

/// Address of the speaker's feedback endpoint.
const FEEDBACK: u8 = 0x81;

/// What units, terminals and the clock are called in requests.
mod entity {
    pub(super) const INPUT: u8 = 1;
    pub(super) const FEATURE: u8 = 2;
    pub(super) const OUTPUT: u8 = 3;
    pub(super) const CLOCK: u8 = 4;
}

/// The index of the string that names the function.
const FUNCTION_STRING: u8 = 4;

/// Audio, and what it is made of (Audio 1.0 §4.3.1, §4.5.1; Audio 2.0 §4.7.1, §4.9.1).
const fn audio(subclass: u8, class: AudioClass) -> Class {
    Class { class: 1, subclass, protocol: class.protocol() }
}

/// All descriptors of a device of this role.
fn descriptors(role: Role, format: &AudioFormat, product: &str, serial: &str) -> Descriptors {
    // A class 2 device groups its interfaces by an interface association (USB 2.0 ECN of 2003).
    let class = match format.class {
        AudioClass::Uac1 => Class::default(),
        AudioClass::Uac2 => Class { class: 0xef, subclass: 2, protocol: 1 },
    };
    let spec = DeviceSpec {
        speed: format.speed,
        vendor: 0x1d6b,
        product: 0x0101,
        release: role.release(),
        class,
    };
    let strings = [MANUFACTURER, product, serial, role.name()];
    let descriptors = Descriptors::new(spec, &[configuration(role, format)], &strings);
    match format.at(Speed::Full) {
        Some(full) if format.speed == Speed::High => {
            descriptors.with_other_speed(&[configuration(role, &full)])
        }
        _ => descriptors,
    }
}

fn configuration(role: Role, format: &AudioFormat) -> ConfigurationBuilder {
    match format.class {
        AudioClass::Uac1 => descriptors1::configuration(role, format),
        AudioClass::Uac2 => descriptors2::configuration(role, format),
    }
}

#[cfg(test)]
mod tests;
