use proptest::prelude::*;

use super::*;

fn device() -> DeviceDescription {
    DeviceDescription {
        path: "/sys/bus/usb/devices/1-2".into(),
        bus_id: "1-2".into(),
        location: String::new(),
        bus_number: 3,
        device_number: 9,
        speed: Speed::High,
        vendor: 0x0525,
        product: 0xa4a0,
        release: 0x0601,
        class: Class { class: 0xef, subclass: 2, protocol: 1 },
        configuration: 1,
        configurations: 2,
        interfaces: vec![
            Class { class: 0xff, subclass: 1, protocol: 2 },
            Class { class: 3, subclass: 1, protocol: 1 },
        ],
        manufacturer_name: String::new(),
        product_name: String::new(),
        serial: "serial-1".into(),
        descriptors: Vec::new(),
    }
}

/// What a client should see of a device.
fn seen(device: &DeviceDescription) -> RemoteDevice {
    RemoteDevice {
        path: device.path.clone(),
        bus_id: device.bus_id.clone(),
        serial: device.serial.clone(),
        bus_number: device.bus_number,
        device_number: device.device_number,
        speed: device.speed,
        vendor: device.vendor,
        product: device.product,
        release: device.release,
        class: device.class,
        configuration: device.configuration,
        configurations: device.configurations,
        interface_count: device.interfaces.len() as u8,
        interfaces: device.interfaces.clone(),
    }
}

fn list_of(devices: &[DeviceDescription]) -> Vec<u8> {
    let mut list = Vec::new();
    devlist_reply(&devices.iter().collect::<Vec<_>>(), &mut list);
    list
}

#[test]
fn an_import_reply_is_read_back() {
    let reply = import_reply(&device());
    let (header, record) = reply.split_first_chunk().unwrap();
    assert_eq!(OpHeader::parse(*header).check_reply(REP_IMPORT), Ok(()));
    let read = parse_device_record(record.try_into().unwrap()).unwrap();
    assert_eq!(read, RemoteDevice { interfaces: vec![], ..seen(&device()) });
    assert_eq!(read.device_id(), 0x0003_0009);
    assert_eq!(device().device_id(), 0x0003_0009);
}

#[test]
fn a_reply_is_accepted_only_with_version_code_and_status() {
    let ok = OpHeader::new(REP_DEVLIST, 0);
    assert_eq!(ok.check_reply(REP_DEVLIST), Ok(()));
    assert_eq!(ok.check_reply(REP_IMPORT), Err(Malformed::Code(5)));
    let newer = OpHeader { version: 0x0112, ..ok };
    assert_eq!(newer.check_reply(REP_DEVLIST), Err(Malformed::Version(0x0112)));
    let refused = OpHeader::parse(import_refusal(STATUS_NOT_AVAILABLE));
    assert_eq!(refused.check_reply(REP_IMPORT), Err(Malformed::Refused(1)));
    assert_eq!(Malformed::Refused(2).to_string(), "peer refused: device busy");
}

#[test]
fn bus_ids_that_cannot_be_one_are_refused() {
    let longest = "a".repeat(31);
    let request = request_import(&longest).unwrap();
    assert_eq!(parse_import_bus_id(request[8..].try_into().unwrap()), Ok(&longest[..]));
    assert_eq!(request_import(&"a".repeat(32)), Err(Malformed::BusIdTooLong));
    assert_eq!(request_import(""), Err(Malformed::BusIdEmpty));
    assert_eq!(request_import("1-\n"), Err(Malformed::BusIdNotText));
    assert_eq!(request_import("1-1\0"), Err(Malformed::BusIdNotText));
    assert_eq!(parse_import_bus_id(&[b'a'; 32]), Err(Malformed::BusIdTooLong));
    assert_eq!(parse_import_bus_id(&[0; 32]), Err(Malformed::BusIdEmpty));
    let mut field = [0; 32];
    field[..2].copy_from_slice(&[0xff, 0xfe]);
    assert_eq!(parse_import_bus_id(&field), Err(Malformed::BusIdNotText));
}

#[test]
fn what_does_not_fit_a_field_is_cut_and_keeps_its_nul() {
    let long = DeviceDescription {
        path: "p".repeat(300),
        bus_id: "b".repeat(40),
        interfaces: vec![Class::default(); 300],
        ..device()
    };
    let list = list_of(std::slice::from_ref(&long));
    let read = parse_devlist(&list[8..]).unwrap();
    assert_eq!(read[0].path, "p".repeat(255));
    assert_eq!(read[0].bus_id, "b".repeat(31));
    assert_eq!(read[0].serial, "");
    assert_eq!(read[0].interfaces.len(), 255);
}

#[test]
fn a35_a_second_string_without_the_prefix_is_no_serial() {
    let mut record = device_record(&device());
    assert_eq!(parse_device_record(&record).unwrap().serial, "serial-1");
    record[25] = b'S';
    assert_eq!(parse_device_record(&record).unwrap().serial, "");
    record[..256].fill(b'x');
    let full = parse_device_record(&record).unwrap();
    assert_eq!((full.path.len(), &full.serial[..]), (256, ""));
}

#[test]
fn text_for_people_has_no_control_characters() {
    let odd = DeviceDescription { path: "/\u{1b}[2J".into(), serial: "\u{7}1".into(), ..device() };
    let read = parse_device_record(&device_record(&odd)).unwrap();
    assert_eq!(read.path, "/\u{fffd}[2J");
    assert_eq!(read.serial, "\u{fffd}1");
}

#[test]
fn a_list_is_limited_in_devices_and_bytes() {
    let over = limits::DEVLIST_DEVICES + 1;
    assert_eq!(devlist_progress(&over.to_be_bytes()), Err(Malformed::DeviceCount(4097)));
    let most = devlist_progress(&limits::DEVLIST_DEVICES.to_be_bytes());
    assert_eq!(most, Ok(ListProgress::More(4096 * DEVICE_BYTES)));
    // 4096 devices of 255 interfaces are 5.2 MiB, so the limit in bytes stands behind the other.
    const { assert!(4096 * (312 + 255 * 4) < limits::DEVLIST_BYTES) };
}

proptest! {
    #[test]
    fn lists_round_trip_and_progress_leads_to_their_end(
        shapes in prop::collection::vec(
            ("[!-~]{1,31}", "[ -~]{0,240}", "[ -~]{0,20}", 0usize..5), 0..5),
    ) {
        let devices: Vec<_> = shapes.into_iter().map(|(bus_id, path, serial, interfaces)| {
            let interfaces = vec![Class { class: 3, subclass: 2, protocol: 1 }; interfaces];
            // A serial number that finds no room is left out; see the golden vectors.
            let serial = if path.len() + serial.len() + 9 <= 256 { serial } else { String::new() };
            DeviceDescription { bus_id, path, serial, interfaces, ..device() }
        }).collect();
        let list = list_of(&devices);
        let body = &list[8..];
        prop_assert_eq!(parse_devlist(body), Ok(devices.iter().map(seen).collect::<Vec<_>>()));

        let mut had = 0;
        while let ListProgress::More(more) = devlist_progress(&body[..had]).unwrap() {
            prop_assert!(more > 0);
            prop_assert_eq!(parse_devlist(&body[..had]), Err(Malformed::Truncated));
            had += more;
            prop_assert!(had <= body.len());
        }
        prop_assert_eq!(had, body.len());
        let mut longer = body.to_vec();
        longer.push(0);
        prop_assert_eq!(devlist_progress(&longer), Ok(ListProgress::Complete(body.len())));
        prop_assert_eq!(parse_devlist(&longer), Err(Malformed::Trailing(1)));
    }

    #[test]
    fn headers_round_trip(version in any::<u16>(), code in any::<u16>(), status in any::<u32>()) {
        let header = OpHeader { version, code, status };
        prop_assert_eq!(OpHeader::parse(header.to_bytes()), header);
    }
}
