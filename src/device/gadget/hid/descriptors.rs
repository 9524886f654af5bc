//! Descriptors of a keyboard or mouse.

use super::super::descriptors::{
    ConfigurationBuilder, Descriptors, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use super::{HID, Kind, REPORT};
use crate::usb::identity::Class;
use crate::usb::speed::Speed;

pub(super) const MANUFACTURER: &str = "usbip-fast";

/// The endpoint of input reports.
pub(super) const REPORTS: u8 = 0x81;

/// The descriptors of a device of this kind.
pub(super) fn descriptors<K: Kind>(speed: Speed, serial: &str) -> Descriptors {
    let spec = DeviceSpec {
        speed,
        vendor: 0x0525,
        product: 0xa4ac,
        release: K::RELEASE,
        class: Class::default(),
    };
    let strings = [MANUFACTURER, K::PRODUCT, serial];
    let descriptors = Descriptors::new(spec, &[configuration::<K>(speed)], &strings);
    match speed {
        Speed::High => descriptors.with_other_speed(&[configuration::<K>(Speed::Full)]),
        _ => descriptors,
    }
}

/// HID descriptor (HID 1.11 §6.2.1), of no country, with one report descriptor.
pub(super) fn hid_descriptor<K: Kind>() -> [u8; 9] {
    let length = u16::try_from(K::REPORT_DESCRIPTOR.len()).expect("report descriptors are short");
    let [low, high] = length.to_le_bytes();
    [9, HID, 0x11, 0x01, 0, 1, REPORT, low, high]
}

/// Reports a millisecond apart: every frame, or every eighth microframe.
fn configuration<K: Kind>(speed: Speed) -> ConfigurationBuilder {
    let class = Class { class: 0x03, subclass: 1, protocol: K::PROTOCOL };
    let endpoint = EndpointSpec {
        address: REPORTS,
        attributes: 3,
        payload_bytes: 8,
        interval: if speed == Speed::High { 4 } else { 1 },
    };
    ConfigurationBuilder::new(1, 0)
        .interface(InterfaceSpec { class, ..InterfaceSpec::default() })
        .raw(&hid_descriptor::<K>())
        .endpoint(endpoint, speed)
}
