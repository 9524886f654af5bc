//! Descriptors of Gadget Zero at each speed.

use super::super::descriptors::{
    ConfigurationBuilder, Descriptors, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use super::{LOOPBACK, SOURCE_SINK, ZeroOptions};
use crate::usb::identity::Class;
use crate::usb::speed::Speed;

pub(super) const MANUFACTURER: &str = "usbip-fast";
pub(super) const PRODUCT: &str = "Gadget Zero (simulated)";

/// Addresses of the endpoint pairs.
const BULK: [u8; 2] = [0x81, 0x01];
const ISO: [u8; 2] = [0x82, ISO_OUT];
const INTERRUPT: [u8; 2] = [0x83, 0x03];
pub(super) const ISO_OUT: u8 = 0x02;

/// Indices of the strings of configurations.
const SOURCE_SINK_STRING: u8 = 4;
const LOOPBACK_STRING: u8 = 5;

impl ZeroOptions {
    /// The descriptors of a device with these options.
    #[must_use]
    pub fn descriptors(&self) -> Descriptors {
        let spec = DeviceSpec {
            speed: self.speed,
            vendor: 0x0525,
            product: 0xa4a0,
            release: 0x0100,
            class: Class { class: 0xff, ..Class::default() },
        };
        let strings =
            [MANUFACTURER, PRODUCT, &self.serial, "source and sink data", "loop input to output"];
        let descriptors = Descriptors::new(spec, &self.configurations(), &strings);
        match self.speed {
            Speed::High => descriptors.with_other_speed(&self.at(Speed::Full).configurations()),
            _ => descriptors,
        }
    }

    fn configurations(&self) -> [ConfigurationBuilder; 2] {
        [self.source_sink(), self.loopback()]
    }

    fn source_sink(&self) -> ConfigurationBuilder {
        let builder = ConfigurationBuilder::new(SOURCE_SINK, SOURCE_SINK_STRING);
        if self.speed == Speed::Low {
            return self.interrupt_pair(builder.interface(setting(0)));
        }
        let builder = self.bulk_pair(builder.interface(setting(0)));
        let builder = self.bulk_pair(builder.interface(setting(1)));
        let builder = self.pair(builder, ISO, 1, self.iso_maxpacket, self.iso_interval);
        let builder = self.bulk_pair(builder.interface(setting(2)));
        self.interrupt_pair(builder)
    }

    fn loopback(&self) -> ConfigurationBuilder {
        let builder = ConfigurationBuilder::new(LOOPBACK, LOOPBACK_STRING).interface(setting(0));
        if self.speed == Speed::Low {
            return self.interrupt_pair(builder);
        }
        self.bulk_pair(builder)
    }

    fn bulk_pair(&self, builder: ConfigurationBuilder) -> ConfigurationBuilder {
        let packet = match self.speed {
            Speed::Super | Speed::SuperPlus => 1024,
            Speed::High | Speed::Wireless => 512,
            Speed::Unknown | Speed::Low | Speed::Full => 64,
        };
        self.pair(builder, BULK, 2, packet, 0)
    }

    fn interrupt_pair(&self, builder: ConfigurationBuilder) -> ConfigurationBuilder {
        self.pair(builder, INTERRUPT, 3, self.int_maxpacket, self.int_interval)
    }

    fn pair(
        &self,
        builder: ConfigurationBuilder,
        addresses: [u8; 2],
        attributes: u8,
        payload_bytes: u16,
        interval: u8,
    ) -> ConfigurationBuilder {
        addresses.into_iter().fold(builder, |builder, address| {
            let endpoint = EndpointSpec { address, attributes, payload_bytes, interval };
            builder.endpoint(endpoint, self.speed)
        })
    }
}

fn setting(alternate: u8) -> InterfaceSpec {
    let class = Class { class: 0xff, ..Class::default() };
    InterfaceSpec { number: 0, alternate, class, string: 0 }
}
