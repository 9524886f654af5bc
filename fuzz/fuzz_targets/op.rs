//! The operation phase: whatever a peer sends is read or refused, and what was read is written back
//! without change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usbip_fast::limits;
use usbip_fast::usb::identity::DeviceDescription;
use usbip_fast::wire::op::{self, ListProgress, Malformed, OpHeader, RemoteDevice};

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = input.split_first_chunk() else { return };
    let parsed = OpHeader::parse(*header);
    assert_eq!(parsed.to_bytes(), *header);
    let _ = parsed.check_reply(op::REP_DEVLIST);
    if let Some(field) = body.first_chunk() {
        read_bus_id(field);
    }
    if let Some(record) = body.first_chunk() {
        read_record(record);
    }
    read_list(body);
});

fn read_bus_id(field: &[u8; 32]) {
    if let Ok(bus_id) = op::parse_import_bus_id(field) {
        let request = op::request_import(bus_id).expect("what was read can be asked for");
        assert_eq!(request[8..8 + bus_id.len()], field[..bus_id.len()]);
    }
}

fn read_record(record: &[u8; 312]) {
    let Ok(device) = op::parse_device_record(record) else { return };
    let reply = op::import_reply(&describe(&device));
    let again = op::parse_device_record(reply[8..].try_into().expect("312 bytes"));
    let again = again.expect("what was written can be read");
    // Text can grow when what is not text is replaced, and is then cut or left out.
    if device.path.len() + device.serial.len() + 9 <= 256 {
        let interface_count = again.interface_count;
        assert_eq!(again, RemoteDevice { interface_count, ..device });
    }
}

fn read_list(body: &[u8]) {
    let progress = op::devlist_progress(body);
    match op::parse_devlist(body) {
        Ok(devices) => {
            assert_eq!(progress, Ok(ListProgress::Complete(body.len())));
            assert!(devices.len() <= limits::DEVLIST_DEVICES as usize);
            let described: Vec<_> = devices.iter().map(describe).collect();
            let mut list = Vec::new();
            op::devlist_reply(&described.iter().collect::<Vec<_>>(), &mut list);
            assert_eq!(list.len(), 8 + body.len());
            let again = op::parse_devlist(&list[8..]).expect("what was written can be read");
            assert_eq!(again.len(), devices.len());
            assert!(again.iter().zip(&devices).all(|(a, b)| a.interfaces == b.interfaces));
        }
        Err(Malformed::Truncated) => assert!(matches!(progress, Ok(ListProgress::More(1..)))),
        Err(Malformed::Trailing(extra)) => {
            assert_eq!(progress, Ok(ListProgress::Complete(body.len() - extra)));
        }
        Err(_) => {}
    }
    // A reader that asks for exactly what it is told to ends where the list ends.
    let mut had = 0;
    while let Ok(ListProgress::More(more)) = op::devlist_progress(&body[..had]) {
        assert!(more > 0);
        had += more;
        if had > body.len() {
            return;
        }
    }
    if let Ok(ListProgress::Complete(size)) = progress {
        assert_eq!(had, size);
    }
}

fn describe(device: &RemoteDevice) -> DeviceDescription {
    DeviceDescription {
        path: device.path.clone(),
        bus_id: device.bus_id.clone(),
        location: String::new(),
        bus_number: device.bus_number,
        device_number: device.device_number,
        speed: device.speed,
        vendor: device.vendor,
        product: device.product,
        release: device.release,
        class: device.class,
        configuration: device.configuration,
        configurations: device.configurations,
        interfaces: device.interfaces.clone(),
        manufacturer_name: String::new(),
        product_name: String::new(),
        serial: device.serial.clone(),
        descriptors: Vec::new(),
    }
}
