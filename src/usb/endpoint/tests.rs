use super::*;

/// Two configurations. The first: interface 0 with no endpoints, then bulk 1, then a high-bandwidth
/// isochronous 1 in its alternate settings; interface 1 with interrupt 0x82. The second: bulk 0x83.
fn descriptors() -> Vec<u8> {
    let mut bytes = vec![18, 1, 0, 2, 0, 0, 0, 64, 0x25, 5, 0xa0, 0xa4, 1, 6, 1, 2, 3, 2];
    let first = [
        &[9, 4, 0, 0, 0, 255, 0, 0, 0][..],
        &[9, 4, 0, 1, 2, 255, 0, 0, 0],
        &[7, 5, 0x81, 2, 0, 2, 0],
        &[7, 5, 0x01, 2, 0, 2, 0],
        &[9, 4, 0, 2, 1, 255, 0, 0, 0],
        &[7, 5, 0x81, 0x0d, 0, 0x14, 1],
        &[9, 4, 1, 0, 1, 3, 0, 0, 0],
        &[7, 5, 0x82, 3, 8, 0, 10],
    ]
    .concat();
    bytes.extend([9, 2, 9 + first.len() as u8, 0, 2, 1, 0, 0x80, 50]);
    bytes.extend(first);
    bytes.extend([9, 2, 25, 0, 1, 2, 0, 0x80, 50]);
    bytes.extend([9, 4, 0, 0, 1, 255, 0, 0, 0, 7, 5, 0x83, 2, 0, 2, 0]);
    bytes
}

#[test]
fn the_active_alternate_setting_decides_the_type() {
    use Direction::{In, Out};
    let mut map = EndpointMap::new(&descriptors(), 1);
    assert_eq!(map.kind(0, In), Some(TransferType::Control));
    assert_eq!(map.kind(0, Out), Some(TransferType::Control));
    assert_eq!(map.info(0, In).unwrap().max_packet_size, 64);
    assert_eq!(map.kind(2, In), Some(TransferType::Interrupt));
    // Inactive everywhere: the first alternate setting that has it.
    assert_eq!(map.kind(1, In), Some(TransferType::Bulk));
    assert!(!map.info(1, In).unwrap().active);
    assert_eq!(map.kind(3, In), None, "only another configuration has it");
    assert_eq!(map.kind(2, Out), None);
    assert_eq!(map.kind(200, Out), None);

    map.set_interface(0, 2);
    assert_eq!(map.kind(1, In), Some(TransferType::Isochronous));
    assert_eq!(map.kind(1, Out), Some(TransferType::Bulk));
    assert!(map.info(1, In).unwrap().active && !map.info(1, Out).unwrap().active);
    let active: Vec<_> = map.active().map(|info| info.address).collect();
    assert_eq!(active, [0x81, 0x82]);
    map.set_interface(0, 1);
    assert_eq!(map.kind(1, In), Some(TransferType::Bulk));
    assert_eq!(map.alternate(0), 1);
}

#[test]
fn set_configuration_puts_every_interface_at_alternate_setting_0() {
    let mut map = EndpointMap::new(&descriptors(), 1);
    map.set_interface(0, 2);
    map.set_configuration(1);
    assert_eq!((map.alternate(0), map.configuration()), (0, 1));
    assert_eq!(map.kind(1, Direction::In), Some(TransferType::Bulk));
    map.set_configuration(2);
    assert_eq!(map.kind(1, Direction::In), None);
    assert_eq!(map.kind(3, Direction::In), Some(TransferType::Bulk));
    for unconfigured in [0, 9] {
        map.set_configuration(unconfigured);
        assert_eq!(map.active().count(), 0);
        assert_eq!(map.kind(3, Direction::In), None);
        assert_eq!(map.kind(0, Direction::In), Some(TransferType::Control));
    }
}

#[test]
fn a_high_bandwidth_endpoint_has_several_transactions_per_microframe() {
    let mut map = EndpointMap::new(&descriptors(), 1);
    map.set_interface(0, 2);
    let info = map.info(1, Direction::In).unwrap();
    assert_eq!((info.max_packet_size, info.multiplier, info.burst), (1024, 3, 1));
    assert_eq!((info.packet_bytes(), info.bytes_per_interval), (3072, 3072));
    assert_eq!((info.interface, info.alternate, info.interval), (0, 2, 1));
    let bulk = map.info(1, Direction::Out).unwrap();
    assert_eq!((bulk.packet_bytes(), bulk.bytes_per_interval), (512, 0));
}

fn single(endpoint: &[u8], companions: &[u8]) -> EndpointInfo {
    let body = [&[9, 4, 0, 0, 1, 255, 0, 0, 0][..], endpoint, companions].concat();
    let mut bytes = vec![9, 2, 9 + body.len() as u8, 0, 1, 1, 0, 0x80, 50];
    bytes.extend(body);
    let map = EndpointMap::new(&bytes, 1);
    *map.active().next().expect("one endpoint")
}

#[test]
fn a_superspeed_companion_gives_bursts_and_bytes_per_interval() {
    let iso = [7, 5, 0x81, 1, 0, 4, 1];
    let info = single(&iso, &[6, 0x30, 15, 2, 0, 0xc0]);
    assert_eq!((info.burst, info.multiplier, info.bytes_per_interval), (16, 3, 0xc000));
    assert_eq!(info.packet_bytes(), 49152);
    let plus = single(&iso, &[6, 0x30, 15, 0x80, 1, 0, 8, 0x31, 0, 0, 0, 0x80, 1, 0]);
    assert_eq!((plus.multiplier, plus.bytes_per_interval), (6, 98304));
    assert_eq!(plus.packet_bytes(), 98304);
    let bulk = single(&[7, 5, 0x81, 2, 0, 4, 0], &[6, 0x30, 15, 4, 0, 0]);
    assert_eq!((bulk.burst, bulk.multiplier, bulk.bytes_per_interval), (16, 1, 0));
    let interrupt = single(&[7, 5, 0x81, 3, 64, 0, 4], &[6, 0x30, 0, 0, 64, 0]);
    assert_eq!((interrupt.packet_bytes(), interrupt.bytes_per_interval), (64, 64));
    let reserved = single(&iso, &[6, 0x30, 0, 3, 0, 0]);
    assert_eq!((reserved.multiplier, reserved.bytes_per_interval), (3, 3072));
    let reserved = single(&[7, 5, 0x81, 1, 0, 0x1c, 1], &[]);
    assert_eq!((reserved.multiplier, reserved.packet_bytes()), (3, 3072));
    let silly = single(
        &[7, 5, 0x81, 1, 0, 0, 1],
        &[6, 0x30, 255, 3, 1, 0, 8, 0x31, 0, 0, 255, 255, 255, 255],
    );
    assert_eq!((silly.burst, silly.multiplier, silly.packet_bytes()), (16, 255, 0));
}

#[test]
fn endpoints_that_cannot_be_are_left_out() {
    let bytes = [
        &[9, 2, 39, 0, 1, 1, 0, 0x80, 50][..],
        &[9, 4, 0, 0, 1, 255, 0, 0, 0],
        &[7, 5, 0x80, 2, 0, 2, 0],
        &[7, 5, 0x81, 0, 8, 0, 0],
        &[7, 5, 0xf2, 3, 8, 0, 1],
    ]
    .concat();
    let map = EndpointMap::new(&bytes, 1);
    let active: Vec<_> = map.active().map(|info| info.address).collect();
    assert_eq!(active, [0x82], "endpoint 0 and control endpoints out, reserved bits cleared");
    assert_eq!(map.info(0, Direction::In).unwrap().max_packet_size, 8);
}

/// One configuration of this value and these bytes behind its own descriptor.
fn configuration(value: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![9, 2, 9 + body.len() as u8, 0, 1, value, 0, 0x80, 50];
    bytes.extend(body);
    bytes
}

#[test]
fn of_two_active_endpoints_with_one_address_the_first_counts() {
    let interface = |number| [9, 4, number, 0, 1, 255, 0, 0, 0];
    let (bulk, interrupt) = ([7, 5, 0x81, 2, 0, 2, 0], [7, 5, 0x81, 3, 8, 0, 1]);
    let both = configuration(1, &[&interface(0), &bulk, &interface(1), &interrupt]);
    let mut map = EndpointMap::new(&both, 1);
    assert_eq!(map.kind(1, Direction::In), Some(TransferType::Bulk));
    map.set_interface(0, 1);
    assert_eq!(map.kind(1, Direction::In), Some(TransferType::Interrupt));
}

#[test]
fn a_device_without_a_configuration_has_endpoint_0_alone_whatever_its_descriptors_say() {
    let bytes = configuration(0, &[&[9, 4, 0, 0, 1, 255, 0, 0, 0], &[7, 5, 0x81, 2, 0, 2, 0]]);
    let map = EndpointMap::new(&bytes, 0);
    assert_eq!(map.kind(1, Direction::In), None);
    assert_eq!(map.kind(0, Direction::In), Some(TransferType::Control));
}
