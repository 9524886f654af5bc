//! Descriptors a device made up, and the endpoint map made from them.
//!
//! Input: active configuration, then descriptors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usbip_fast::usb::descriptor::{Configurations, Descriptors, DeviceDescriptor};
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::transfer::{Direction, TransferType};

fuzz_target!(|input: &[u8]| {
    let Some((&value, bytes)) = input.split_first() else { return };
    let _ = DeviceDescriptor::parse(bytes).map(DeviceDescriptor::control_packet_bytes);
    assert!(Descriptors::new(bytes).map(|d| d.bytes.len()).sum::<usize>() <= bytes.len());
    for configuration in Configurations::new(bytes) {
        assert!(configuration.bytes.len() >= 9);
        for setting in configuration.settings() {
            assert!(setting.bytes.len() < configuration.bytes.len());
            assert!(setting.endpoints().count() * 7 <= setting.bytes.len());
        }
    }

    let mut map = EndpointMap::new(bytes, value);
    check(&map);
    let Some(configuration) = Configurations::new(bytes).with_value(value) else { return };
    for setting in configuration.settings().take(64) {
        map.set_interface(setting.interface, setting.alternate);
        assert_eq!(map.alternate(setting.interface), setting.alternate);
        check(&map);
        if value == 0 {
            continue;
        }
        for endpoint in setting.endpoints() {
            let number = endpoint.address & 0x0f;
            let direction =
                if endpoint.address & 0x80 == 0 { Direction::Out } else { Direction::In };
            if number != 0 && endpoint.attributes & 3 != 0 {
                let info = map.info(number, direction).expect("an endpoint of an active setting");
                assert!(info.active);
            }
        }
    }
    map.set_configuration(value);
    let fresh = EndpointMap::new(bytes, value);
    for endpoint in 0..16 {
        for direction in [Direction::Out, Direction::In] {
            assert_eq!(map.info(endpoint, direction), fresh.info(endpoint, direction));
        }
    }
});

fn check(map: &EndpointMap) {
    for endpoint in 0..=255 {
        for direction in [Direction::Out, Direction::In] {
            let Some(info) = map.info(endpoint, direction) else { continue };
            assert!(endpoint < 16);
            assert_eq!((info.address & 0x0f, info.direction()), (endpoint, direction));
            assert_eq!(info.kind == TransferType::Control, endpoint == 0);
            assert_eq!(map.kind(endpoint, direction), Some(info.kind));
            assert!(info.packet_bytes() <= 2047 * 16 * 255 || endpoint == 0);
        }
    }
    assert!(map.active().all(|info| info.active && info.kind != TransferType::Control));
}
