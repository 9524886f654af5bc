use proptest::prelude::*;

use super::*;

const DEVICE: [u8; 18] = [18, 1, 0, 2, 0xef, 2, 1, 64, 0x25, 5, 0xa0, 0xa4, 1, 6, 1, 2, 3, 2];

#[test]
fn a_device_descriptor_is_read_little_endian() {
    let device = DeviceDescriptor::parse(&DEVICE).unwrap();
    assert_eq!((device.vendor, device.product, device.release), (0x0525, 0xa4a0, 0x0601));
    assert_eq!((device.usb_release, device.configurations), (0x0200, 2));
    assert_eq!(device.class, Class { class: 0xef, subclass: 2, protocol: 1 });
    assert_eq!(device.strings, [1, 2, 3]);
    assert_eq!(device.control_packet_bytes(), 64);
    let fast = DeviceDescriptor { usb_release: 0x0320, max_packet_size_0: 9, ..device };
    assert_eq!(fast.control_packet_bytes(), 512);
    assert_eq!(DeviceDescriptor::parse(&DEVICE[..17]), None);
    let mut short = DEVICE;
    short[0] = 17;
    assert_eq!(DeviceDescriptor::parse(&short), None);
}

#[test]
fn an_iterator_ends_where_lengths_do_not_hold() {
    let kinds = |bytes| Descriptors::new(bytes).map(|d| d.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&[3, 9, 0, 2, 8]), [9, 8]);
    assert_eq!(kinds(&[3, 9, 0, 0, 8]), [9]);
    assert_eq!(kinds(&[3, 9, 0, 1, 8]), [9]);
    assert_eq!(kinds(&[3, 9, 0, 3, 8]), [9]);
    assert_eq!(kinds(&[3, 9, 0, 2]), [9]);
    assert!(kinds(&[]).is_empty());
}

#[test]
fn configurations_are_found_by_their_value_and_end_with_the_bytes() {
    let mut bytes = DEVICE.to_vec();
    bytes.extend([9, 2, 11, 0, 0, 1, 0, 0x80, 50, 2, 0xff]);
    bytes.extend([9, 2, 99, 0, 1, 7, 0, 0xc0, 10, 9, 4, 5, 0, 0, 3, 2, 1, 6]);
    let values: Vec<_> = Configurations::new(&bytes).map(|c| c.value).collect();
    assert_eq!(values, [1, 7]);
    assert!(Configurations::new(&bytes).with_value(2).is_none());
    let second = Configurations::new(&bytes).with_value(7).unwrap();
    assert_eq!((second.attributes, second.max_power, second.bytes.len()), (0xc0, 10, 18));
    let settings: Vec<_> = second.settings().collect();
    let class = Class { class: 3, subclass: 2, protocol: 1 };
    assert_eq!(settings, [Setting { interface: 5, alternate: 0, class, string: 6, bytes: &[] }]);
}

#[test]
fn a_configuration_shorter_than_its_own_descriptor_is_passed_over() {
    for total in [0, 8] {
        let mut bytes = vec![9, 2, total, 0, 1, 1, 0, 0x80, 50];
        bytes.extend([9, 2, 9, 0, 1, 2, 0, 0x80, 50]);
        let mut found = Configurations::new(&bytes);
        assert_eq!(found.next().map(|c| c.value), Some(2));
        assert_eq!(found.next(), None);
    }
}

#[test]
fn companions_belong_to_the_endpoint_before_them() {
    let bytes = [
        &[9, 4, 0, 1, 2, 0xff, 0, 0, 0][..],
        &[7, 5, 0x81, 1, 0, 4, 1],
        &[3, 0x25, 0],
        &[6, 0x30, 15, 0x82, 0, 0],
        &[6, 0x30, 1, 0, 9, 9],
        &[8, 0x31, 0, 0, 0, 0, 2, 0],
        &[9, 5, 0x02, 2, 0, 2, 0, 9, 9],
    ]
    .concat();
    let setting = Settings { rest: &bytes }.next().unwrap();
    let endpoints: Vec<_> = setting.endpoints().collect();
    let plain = EndpointDescriptor {
        address: 2,
        attributes: 2,
        max_packet_size: 512,
        interval: 0,
        companion: None,
        isochronous_bytes_per_interval: None,
    };
    let fast = EndpointDescriptor {
        address: 0x81,
        attributes: 1,
        max_packet_size: 1024,
        interval: 1,
        companion: Some(Companion { max_burst: 15, attributes: 0x82, bytes_per_interval: 0 }),
        isochronous_bytes_per_interval: Some(0x0002_0000),
    };
    assert_eq!(endpoints, [fast, plain]);
}

proptest! {
    #[test]
    fn any_bytes_are_walked_to_an_end(
        pieces in prop::collection::vec(
            (2u8..12, 0u8..8, prop::collection::vec(0u8..12, 0..12)), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = Vec::new();
        for (length, kind, content) in pieces {
            bytes.extend([length, kind]);
            bytes.extend(content);
        }
        bytes.extend(noise);
        let size: usize = Descriptors::new(&bytes).map(|d| d.bytes.len()).sum();
        prop_assert!(size <= bytes.len());
        let mut walked = 0;
        for configuration in Configurations::new(&bytes) {
            walked += configuration.bytes.len();
            for setting in configuration.settings() {
                prop_assert!(setting.bytes.len() + 9 <= configuration.bytes.len());
                prop_assert!(setting.endpoints().count() * 7 <= setting.bytes.len());
            }
        }
        prop_assert!(walked <= bytes.len());
    }
}
