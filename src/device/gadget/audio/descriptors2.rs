//! The configuration of an Audio 2.0 device.

use super::super::descriptors::{ConfigurationBuilder, EndpointSpec, InterfaceSpec};
use super::format::{Role, channel_places};
use super::{
    AudioFormat, CONTROL_INTERFACE, DATA_IN, DATA_OUT, FEEDBACK, FUNCTION_STRING, STREAM_INTERFACE,
    STREAMING, audio, entity,
};
use crate::usb::speed::Speed;

/// `bDescriptorType` of what belongs to an interface and to an endpoint of the class, and of the
/// interface association before them.
const CS_INTERFACE: u8 = 0x24;
const CS_ENDPOINT: u8 = 0x25;
const INTERFACE_ASSOCIATION: u8 = 0x0b;

/// A control of a clock that a host can read and write, and one that it can read only, as two bits.
const READ_WRITE: u8 = 0b11;
const READ_ONLY: u8 = 0b01;

pub(super) fn configuration(role: Role, format: &AudioFormat) -> ConfigurationBuilder {
    let setting = |number, subclass, alternate| InterfaceSpec {
        number,
        alternate,
        class: audio(subclass, format.class),
        string: FUNCTION_STRING,
    };
    let protocol = format.class.protocol();
    let group = [8, INTERFACE_ASSOCIATION, CONTROL_INTERFACE, 2, 1, 0, protocol, FUNCTION_STRING];
    let builder = ConfigurationBuilder::new(1, 0)
        .raw(&group)
        .interface(setting(CONTROL_INTERFACE, 1, 0))
        .raw(&control_interface(role, format))
        .interface(setting(STREAM_INTERFACE, 2, 0))
        .interface(setting(STREAM_INTERFACE, 2, STREAMING))
        .raw(&stream_interface(role, format));
    endpoints(role, format, builder)
}

/// Header, clock source, input terminal, feature unit, output terminal (Audio 2.0 §4.7.2).
fn control_interface(role: Role, format: &AudioFormat) -> Vec<u8> {
    let [input, output] = role.terminal_types();
    let [places, more_places] = channel_places(format.channels).to_le_bytes();
    // An internal clock: a fixed one, or one that can be set; its validity can always be read.
    let (kind, frequency) =
        if format.rates.len() == 1 { (0b01, READ_ONLY) } else { (0b11, READ_WRITE) };
    let mut units = vec![8, CS_INTERFACE, 0x0a, entity::CLOCK, kind, frequency | READ_ONLY << 2];
    units.extend([0, 0]);
    units.extend([17, CS_INTERFACE, 2, entity::INPUT, input[0], input[1], 0, entity::CLOCK]);
    units.extend([format.channels, places, more_places, 0, 0, 0, 0, 0, 0]);
    // Mute and volume of all channels together, none of each alone.
    let feature_bytes = 6 + 4 * (format.channels + 1);
    units.extend([feature_bytes, CS_INTERFACE, 6, entity::FEATURE, entity::INPUT]);
    units.extend([READ_WRITE | READ_WRITE << 2, 0, 0, 0]);
    units.extend(std::iter::repeat_n(0, 4 * usize::from(format.channels) + 1));
    units.extend([12, CS_INTERFACE, 3, entity::OUTPUT, output[0], output[1], 0]);
    units.extend([entity::FEATURE, entity::CLOCK, 0, 0, 0]);
    let [low, high] = u16::try_from(9 + units.len()).expect("four units are short").to_le_bytes();
    let category = match role {
        Role::Microphone => 0x03,
        Role::Speaker => 0x01,
    };
    let mut bytes = vec![9, CS_INTERFACE, 1, 0x00, 0x02, category, low, high, 0];
    bytes.extend(units);
    bytes
}

/// What the stream is linked to, and its format: PCM (Audio 2.0 §4.9.2, Formats 2.0 §2.3.1.6).
fn stream_interface(role: Role, format: &AudioFormat) -> Vec<u8> {
    let terminal = match role {
        Role::Microphone => entity::OUTPUT,
        Role::Speaker => entity::INPUT,
    };
    let [places, more_places] = channel_places(format.channels).to_le_bytes();
    let mut bytes = vec![16, CS_INTERFACE, 1, terminal, 0, 1, 1, 0, 0, 0];
    bytes.extend([format.channels, places, more_places, 0, 0, 0]);
    bytes.extend([6, CS_INTERFACE, 2, 1, format.bits / 8, format.bits]);
    bytes
}

/// The data endpoint with its class-specific half, and the feedback of a speaker: 16.16 in four
/// bytes at high speed, 10.14 in three at full speed (USB 2.0 §5.12.4.2), every millisecond.
fn endpoints(
    role: Role,
    format: &AudioFormat,
    builder: ConfigurationBuilder,
) -> ConfigurationBuilder {
    let address = match role {
        Role::Microphone => DATA_IN,
        Role::Speaker => DATA_OUT,
    };
    let data = EndpointSpec {
        address,
        attributes: 0x05,
        payload_bytes: format.payload_bytes(),
        interval: 1,
    };
    let builder = builder.endpoint(data, format.speed).raw(&[8, CS_ENDPOINT, 1, 0, 0, 0, 0, 0]);
    if role == Role::Microphone {
        return builder;
    }
    let (payload_bytes, interval) = if format.speed == Speed::Full { (3, 1) } else { (4, 4) };
    let feedback = EndpointSpec { address: FEEDBACK, attributes: 0x11, payload_bytes, interval };
    builder.endpoint(feedback, format.speed)
}
