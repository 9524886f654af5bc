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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::descriptor::{Descriptors as Parts, kind};
    use crate::usb::transfer::TransferType;

    const SPEEDS: [Speed; 4] = [Speed::Low, Speed::Full, Speed::High, Speed::Super];

    /// The rules by which Linux warns of, repairs or refuses an endpoint descriptor.
    #[test]
    fn endpoints_obey_their_speed() {
        for speed in SPEEDS {
            let descriptors = ZeroOptions::default().at(speed).descriptors();
            for configuration in descriptors.configurations() {
                for endpoint in configuration.settings().flat_map(|setting| setting.endpoints()) {
                    let packet = endpoint.max_packet_size & 0x7ff;
                    let (packets, intervals) = match (endpoint.attributes & 3, speed) {
                        (3, Speed::Low) => (1..=8, 10..=255),
                        (3, Speed::Full) => (1..=64, 1..=255),
                        (1, Speed::Full) => (1..=1023, 1..=16),
                        (1 | 3, Speed::High | Speed::Super) => (1..=1024, 1..=16),
                        (2, Speed::Full) => (64..=64, 0..=0),
                        (2, Speed::High) => (512..=512, 0..=0),
                        (2, Speed::Super) => (1024..=1024, 0..=0),
                        other => panic!("no such endpoint at this speed: {other:?}"),
                    };
                    assert!(packets.contains(&packet), "{speed}: {endpoint:?}");
                    assert!(intervals.contains(&endpoint.interval), "{speed}: {endpoint:?}");
                    let is_super = speed == Speed::Super;
                    assert_eq!(endpoint.companion.is_some(), is_super, "{speed}: {endpoint:?}");
                    let bytes = endpoint.companion.map_or(0, |found| found.bytes_per_interval);
                    let periodic = endpoint.attributes & 1 != 0;
                    assert_eq!(bytes > 0, is_super && periodic, "{speed}: {endpoint:?}");
                }
            }
        }
    }

    #[test]
    fn configurations_are_whole_and_self_powered() {
        for speed in SPEEDS {
            let descriptors = ZeroOptions::default().at(speed).descriptors();
            for index in 0..2 {
                for wanted in [kind::CONFIGURATION, kind::OTHER_SPEED_CONFIGURATION] {
                    let Some(bytes) = descriptors.find(wanted, index) else {
                        assert!(wanted != kind::CONFIGURATION && speed != Speed::High);
                        continue;
                    };
                    let total = u16::from_le_bytes([bytes[2], bytes[3]]);
                    assert_eq!(usize::from(total), bytes.len());
                    assert_eq!((bytes[1], bytes[5], bytes[7]), (wanted, index + 1, 0xc0));
                    let sum: usize = Parts::new(bytes).map(|part| part.bytes.len()).sum();
                    assert_eq!(sum, bytes.len());
                }
            }
            assert!(descriptors.find(kind::CONFIGURATION, 2).is_none());
        }
    }

    #[test]
    fn settings_have_the_pairs_that_usbtest_looks_for() {
        let kinds = |speed: Speed| -> Vec<Vec<u8>> {
            let descriptors = ZeroOptions::default().at(speed).descriptors();
            let first = descriptors.configurations().next().expect("two configurations");
            let kinds = first.settings().map(|setting| {
                setting.endpoints().map(|endpoint| endpoint.attributes & 3).collect()
            });
            kinds.collect()
        };
        let [iso, bulk, interrupt] =
            [TransferType::Isochronous, TransferType::Bulk, TransferType::Interrupt]
                .map(|kind| kind as u8);
        for speed in [Speed::Full, Speed::High, Speed::Super] {
            let pairs =
                [vec![bulk; 2], vec![bulk, bulk, iso, iso], vec![bulk, bulk, interrupt, interrupt]];
            assert_eq!(kinds(speed), pairs);
        }
        assert_eq!(kinds(Speed::Low), [[interrupt; 2]]);
    }

    #[test]
    fn bos_has_the_two_capabilities_of_a_superspeed_device() {
        let descriptors = ZeroOptions::default().at(Speed::Super).descriptors();
        let bos = descriptors.find(kind::BOS, 0).expect("SuperSpeed has one");
        assert_eq!((usize::from(bos[2]), bos[4]), (bos.len(), 2));
        let capabilities: Vec<_> = Parts::new(&bos[5..]).map(|part| part.bytes[2]).collect();
        assert_eq!(capabilities, [2, 3], "USB 2.0 extension, SuperSpeed");
    }
}
