//! Descriptors of a disk at each speed.

use super::super::descriptors::{
    ConfigurationBuilder, Descriptors, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use super::StorageOptions;
use crate::usb::identity::Class;
use crate::usb::speed::Speed;

pub(super) const MANUFACTURER: &str = "usbip-fast";
pub(super) const PRODUCT: &str = "Disk (simulated)";

/// Mass storage, SCSI transparent command set, Bulk-Only Transport.
const BULK_ONLY: Class = Class { class: 0x08, subclass: 0x06, protocol: 0x50 };

/// Endpoint addresses.
const BULK: [u8; 2] = [0x81, 0x01];

/// SuperSpeed packets in a burst: 16 of 1024 bytes.
const BURST: u16 = 16;

impl StorageOptions {
    /// The descriptors of a device with these options.
    #[must_use]
    pub fn descriptors(&self, serial: &str) -> Descriptors {
        let spec = DeviceSpec {
            speed: self.speed,
            vendor: 0x0525,
            product: 0xa4a5,
            release: 0x0100,
            class: Class::default(),
        };
        let strings = [MANUFACTURER, PRODUCT, serial];
        let descriptors = Descriptors::new(spec, &[configuration(self.speed)], &strings);
        match self.speed {
            Speed::High => descriptors.with_other_speed(&[configuration(Speed::Full)]),
            _ => descriptors,
        }
    }
}

fn configuration(speed: Speed) -> ConfigurationBuilder {
    let payload_bytes = match speed {
        Speed::Super | Speed::SuperPlus => BURST * 1024,
        Speed::High | Speed::Wireless => 512,
        Speed::Unknown | Speed::Low | Speed::Full => 64,
    };
    let interface = InterfaceSpec { class: BULK_ONLY, ..InterfaceSpec::default() };
    let builder = ConfigurationBuilder::new(1, 0).interface(interface);
    BULK.into_iter().fold(builder, |builder, address| {
        let endpoint = EndpointSpec { address, attributes: 2, payload_bytes, interval: 0 };
        builder.endpoint(endpoint, speed)
    })
}
