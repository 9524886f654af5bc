//! Descriptors of the camera: USB 2.0 chapter 9, and USB Video Class 1.1 §3.

use super::super::descriptors::{
    ConfigurationBuilder, Descriptors, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use super::modes::{Bus, Format, FormatModes, FrameModes, Modes};
use super::options::{CameraOptions, Transport};
use super::{CLOCK_HZ, CONTROL_INTERFACE, ENDPOINT, STREAMING_INTERFACE};
use crate::usb::descriptor::kind;
use crate::usb::identity::Class;

pub(super) const MANUFACTURER: &str = "usbip-fast";
pub(super) const PRODUCT: &str = "Camera (simulated)";

/// CS_INTERFACE (class specification, table A-4).
const CS_INTERFACE: u8 = 0x24;

/// CC_VIDEO, SC_VIDEOCONTROL, SC_VIDEOSTREAMING, SC_VIDEO_INTERFACE_COLLECTION (A.1, A.2).
const VIDEO: u8 = 0x0e;
const VIDEO_CONTROL: u8 = 1;
const VIDEO_STREAMING: u8 = 2;
const VIDEO_COLLECTION: u8 = 3;

/// Units and terminals: a sensor, a processing unit without controls, the way to the host.
pub(super) const CAMERA_TERMINAL: u8 = 1;
pub(super) const PROCESSING_UNIT: u8 = 2;
pub(super) const OUTPUT_TERMINAL: u8 = 3;

/// GUID of YUY2 as it stands in the descriptor (class specification, payload format, table 2-1).
const YUY2_GUID: [u8; 16] = *b"YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71";

impl CameraOptions {
    /// The descriptors of a camera with these options.
    #[must_use]
    pub fn descriptors(&self) -> Descriptors {
        let spec = DeviceSpec {
            speed: self.speed,
            vendor: 0x1d6b,
            product: 0x0102,
            release: 0x0100,
            // Says that there are interface associations.
            class: Class { class: 0xef, subclass: 2, protocol: 1 },
        };
        Descriptors::new(spec, &[self.configuration()], &[MANUFACTURER, PRODUCT, &self.serial])
    }

    fn configuration(&self) -> ConfigurationBuilder {
        let modes = Modes::new(self);
        let association =
            [8, kind::INTERFACE_ASSOCIATION, CONTROL_INTERFACE, 2, VIDEO, VIDEO_COLLECTION, 0, 2];
        let builder = ConfigurationBuilder::new(1, 0)
            .raw(&association)
            .interface(setting(CONTROL_INTERFACE, 0, VIDEO_CONTROL))
            .raw(&control())
            .interface(setting(STREAMING_INTERFACE, 0, VIDEO_STREAMING))
            .raw(&streaming(&modes));
        let bus = Bus { speed: self.speed, transport: self.transport };
        match self.transport {
            Transport::Bulk => {
                let payload_bytes = if self.speed.is_super() { 1024 } else { 512 };
                builder.endpoint(endpoint(2, payload_bytes, 0), self.speed)
            }
            Transport::Isochronous => {
                let payloads = bus.isochronous_payloads();
                (1..).zip(payloads).fold(builder, |builder, (alternate, payload_bytes)| {
                    builder
                        .interface(setting(STREAMING_INTERFACE, alternate, VIDEO_STREAMING))
                        // Asynchronous, in every microframe.
                        .endpoint(endpoint(1 | 1 << 2, *payload_bytes, 1), self.speed)
                })
            }
        }
    }
}

fn setting(number: u8, alternate: u8, subclass: u8) -> InterfaceSpec {
    let string = if number == CONTROL_INTERFACE { 2 } else { 0 };
    InterfaceSpec {
        number,
        alternate,
        class: Class { class: VIDEO, subclass, protocol: 0 },
        string,
    }
}

fn endpoint(attributes: u8, payload_bytes: u16, interval: u8) -> EndpointSpec {
    EndpointSpec { address: ENDPOINT, attributes, payload_bytes, interval }
}

/// The VideoControl interface (class specification §3.7.2).
fn control() -> Vec<u8> {
    let mut bytes = vec![13, CS_INTERFACE, 1, 0x10, 0x01, 0, 0];
    bytes.extend_from_slice(&CLOCK_HZ.to_le_bytes());
    bytes.extend_from_slice(&[1, STREAMING_INTERFACE]);
    // Input terminal: ITT_CAMERA, no focal lengths, no controls.
    bytes.extend_from_slice(&[18, CS_INTERFACE, 2, CAMERA_TERMINAL, 0x01, 0x02, 0, 0]);
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    // Processing unit: no digital zoom, no controls, no analogue video.
    let processing = [12, CS_INTERFACE, 5, PROCESSING_UNIT, CAMERA_TERMINAL, 0, 0, 2, 0, 0, 0, 0];
    bytes.extend_from_slice(&processing);
    // Output terminal: TT_STREAMING.
    bytes.extend_from_slice(&[9, CS_INTERFACE, 3, OUTPUT_TERMINAL, 0x01, 0x01, 0, PROCESSING_UNIT]);
    bytes.push(0);
    set_total(&mut bytes, 5);
    bytes
}

/// The VideoStreaming interface (class specification §3.9.2).
fn streaming(modes: &Modes) -> Vec<u8> {
    let formats = u8::try_from(modes.formats.len()).expect("two formats");
    let mut bytes = vec![13 + formats, CS_INTERFACE, 1, formats, 0, 0, ENDPOINT, 0];
    // No still pictures, no trigger; one byte of controls, none, for each format.
    bytes.extend_from_slice(&[OUTPUT_TERMINAL, 0, 0, 0, 1]);
    bytes.extend(modes.formats.iter().map(|_| 0));
    for (index, modes) in (1..).zip(&modes.formats) {
        format(&mut bytes, index, modes);
    }
    set_total(&mut bytes, 4);
    bytes
}

/// A format, its frames and the meaning of its colours.
fn format(bytes: &mut Vec<u8>, index: u8, modes: &FormatModes) {
    let count = u8::try_from(modes.frames.len()).expect("few sizes");
    let frame_subtype = match modes.format {
        Format::Yuy2 => {
            bytes.extend_from_slice(&[27, CS_INTERFACE, 4, index, count]);
            bytes.extend_from_slice(&YUY2_GUID);
            // 16 bits a pixel; the first frame is the default.
            bytes.extend_from_slice(&[16, 1, 0, 0, 0, 0]);
            5
        }
        Format::Mjpeg => {
            // Frames differ in length; the first is the default.
            bytes.extend_from_slice(&[11, CS_INTERFACE, 6, index, count, 0, 1, 0, 0, 0, 0]);
            7
        }
    };
    for (index, modes) in (1..).zip(&modes.frames) {
        frame(bytes, frame_subtype, index, modes);
    }
    // BT.709 primaries and transfer, SMPTE 170M matrix (that of BT.601).
    bytes.extend_from_slice(&[6, CS_INTERFACE, 13, 1, 1, 4]);
}

fn frame(bytes: &mut Vec<u8>, subtype: u8, index: u8, modes: &FrameModes) {
    let count = u8::try_from(modes.intervals.len()).expect("few rates");
    let [slowest, fastest] = [modes.intervals.last(), modes.intervals.first()]
        .map(|interval| modes.bit_rate(*interval.expect("never empty")));
    bytes.extend_from_slice(&[26 + 4 * count, CS_INTERFACE, subtype, index, 0]);
    bytes.extend_from_slice(&modes.size.width.to_le_bytes());
    bytes.extend_from_slice(&modes.size.height.to_le_bytes());
    for value in [slowest, fastest, modes.frame_bytes, modes.default_interval] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.push(count);
    bytes.extend(modes.intervals.iter().flat_map(|interval| interval.to_le_bytes()));
}

/// Writes wTotalLength of a header and all that follows it.
fn set_total(bytes: &mut [u8], offset: usize) {
    let total = u16::try_from(bytes.len()).expect("short descriptors");
    bytes[offset..offset + 2].copy_from_slice(&total.to_le_bytes());
}
