//! The configuration of an Audio 1.0 device.

use super::super::descriptors::{ConfigurationBuilder, EndpointSpec, InterfaceSpec};
use super::format::{Role, channel_places};
use super::{
    AudioFormat, CONTROL_INTERFACE, DATA_IN, DATA_OUT, FEEDBACK, FUNCTION_STRING, STREAM_INTERFACE,
    STREAMING, audio, entity,
};
use crate::usb::speed::Speed;

/// `bDescriptorType` of what belongs to an interface and to an endpoint of the class.
const CS_INTERFACE: u8 = 0x24;
const CS_ENDPOINT: u8 = 0x25;

pub(super) fn configuration(role: Role, format: &AudioFormat) -> ConfigurationBuilder {
    let setting = |number, subclass, alternate| InterfaceSpec {
        number,
        alternate,
        class: audio(subclass, format.class),
        string: FUNCTION_STRING,
    };
    let builder = ConfigurationBuilder::new(1, 0)
        .interface(setting(CONTROL_INTERFACE, 1, 0))
        .raw(&control_interface(role, format))
        .interface(setting(STREAM_INTERFACE, 2, 0))
        .interface(setting(STREAM_INTERFACE, 2, STREAMING))
        .raw(&stream_interface(role, format));
    endpoints(role, format, builder)
}

/// Header, input terminal, feature unit, output terminal (Audio 1.0 §4.3.2).
fn control_interface(role: Role, format: &AudioFormat) -> Vec<u8> {
    let [input, output] = role.terminal_types();
    let [places, more_places] = channel_places(format.channels).to_le_bytes();
    let mut units = vec![12, CS_INTERFACE, 2, entity::INPUT, input[0], input[1], 0];
    units.extend([format.channels, places, more_places, 0, 0]);
    // Mute and volume of all channels together, none of each alone.
    units.extend([8 + format.channels, CS_INTERFACE, 6, entity::FEATURE, entity::INPUT, 1, 0x03]);
    units.extend(std::iter::repeat_n(0, usize::from(format.channels) + 1));
    units.extend([9, CS_INTERFACE, 3, entity::OUTPUT, output[0], output[1], 0]);
    units.extend([entity::FEATURE, 0]);
    let [low, high] = u16::try_from(9 + units.len()).expect("three units are short").to_le_bytes();
    let mut bytes = vec![9, CS_INTERFACE, 1, 0x00, 0x01, low, high, 1, STREAM_INTERFACE];
    bytes.extend(units);
    bytes
}

/// What the stream is linked to, and its format (Audio 1.0 §4.5.2, Formats 1.0 §2.2.5).
fn stream_interface(role: Role, format: &AudioFormat) -> Vec<u8> {
    let terminal = match role {
        Role::Microphone => entity::OUTPUT,
        Role::Speaker => entity::INPUT,
    };
    // A delay of one frame of the bus; format tag 1 is PCM.
    let mut bytes = vec![7, CS_INTERFACE, 1, terminal, 1, 1, 0];
    let count = format.rates.len() as u8;
    bytes.extend([8 + 3 * count, CS_INTERFACE, 2, 1, format.channels]);
    bytes.extend([format.bits / 8, format.bits, count]);
    bytes.extend(format.rates.iter().flat_map(|rate| rate.to_le_bytes().into_iter().take(3)));
    bytes
}

/// The data endpoint with its class-specific half, and the feedback of a speaker. Both have the
/// two bytes bRefresh and bSynchAddress behind the standard ones (Audio 1.0 §4.6.1.1, §4.6.2.1).
fn endpoints(
    role: Role,
    format: &AudioFormat,
    builder: ConfigurationBuilder,
) -> ConfigurationBuilder {
    let (address, feedback) = match role {
        Role::Microphone => (DATA_IN, 0),
        Role::Speaker => (DATA_OUT, FEEDBACK),
    };
    let data = EndpointSpec {
        address,
        attributes: 0x05,
        payload_bytes: format.payload_bytes(),
        interval: 1,
    };
    // The sampling frequency can be set.
    let builder = builder.endpoint_with(data, format.speed, &[0, feedback]).raw(&[
        7,
        CS_ENDPOINT,
        1,
        0x01,
        0,
        0,
        0,
    ]);
    if role == Role::Microphone {
        return builder;
    }
    // 10.14 in three bytes at full speed, 16.16 in four at high speed (USB 2.0 §5.12.4.2), every
    // millisecond.
    let (payload_bytes, interval) = if format.speed == Speed::Full { (3, 1) } else { (4, 4) };
    let feedback = EndpointSpec { address: feedback, attributes: 0x01, payload_bytes, interval };
    builder.endpoint_with(feedback, format.speed, &[1, 0])
}
