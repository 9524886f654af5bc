//! Bytes as they must stand on the wire, written out. Test names carry the number of the invariant
//! they prove where there is one; the offsets in comments are those of the protocol's tables.

use usbip_fast::limits;
use usbip_fast::usb::identity::{Class, DeviceDescription};
use usbip_fast::usb::isochronous::{self, PacketDescriptor};
use usbip_fast::usb::speed::Speed;
use usbip_fast::usb::transfer::{BUFFER_OFFSET, Direction, TransferFlags, TransferType};
use usbip_fast::wire::deframe::{Body, Deframer, reply_body, request_body};
use usbip_fast::wire::encode::{encode_reply, encode_submit};
use usbip_fast::wire::op::{self, ListProgress, OpHeader};
use usbip_fast::wire::urb::{
    CmdSubmit, CmdUnlink, Malformed, RawRetSubmit, Reply, Request, RetSubmit, RetUnlink,
    mask_flags, parse_reply, parse_request,
};

/// Bytes from hexadecimal digits; white space is for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert_eq!(digits.len() % 2, 0, "whole bytes");
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn header(text: &str) -> [u8; 48] {
    hex(text).try_into().expect("48 bytes")
}

fn packet(offset: u32, length: u32, actual: u32, status: i32) -> PacketDescriptor {
    PacketDescriptor {
        offset: offset.into(),
        length: length.into(),
        actual_length: actual.into(),
        status: status.into(),
    }
}

/// A URB's block: room for the header, then these bytes.
fn block(behind_the_header: &[u8]) -> Vec<u8> {
    let mut block = vec![0xee; BUFFER_OFFSET];
    block.extend_from_slice(behind_the_header);
    block
}

// The operation phase.

#[test]
fn operation_headers() {
    let bytes = [0x01, 0x11, 0x80, 0x05, 0, 0, 0, 1];
    let parsed = OpHeader::parse(bytes);
    assert_eq!(parsed, OpHeader { version: 0x0111, code: op::REQ_DEVLIST, status: 1 });
    assert_eq!(parsed.to_bytes(), bytes);
    assert_eq!(op::request_devlist().to_vec(), hex("0111 8005 00000000"));
    assert_eq!(op::import_refusal(1).to_vec(), hex("0111 0003 00000001"));
}

#[test]
fn a_reply_of_version_0x0112_is_refused() {
    for code in [op::REP_DEVLIST, op::REP_IMPORT] {
        let [_, _, rest @ ..] = OpHeader::new(code, 0).to_bytes();
        let mut bytes = [1, 0x12, 0, 0, 0, 0, 0, 0];
        bytes[2..].copy_from_slice(&rest);
        let refused = OpHeader::parse(bytes).check_reply(code);
        assert_eq!(refused, Err(op::Malformed::Version(0x0112)));
    }
}

#[test]
fn an_import_request_holds_its_bus_id_in_32_bytes() {
    let mut expected = hex("0111 8003 00000000 312d32");
    expected.resize(40, 0);
    assert_eq!(op::request_import("1-2").unwrap().to_vec(), expected);
    assert_eq!(op::parse_import_bus_id(expected[8..].try_into().unwrap()), Ok("1-2"));
    assert_eq!(op::request_import(&"a".repeat(32)), Err(op::Malformed::BusIdTooLong));
}

#[test]
fn an_import_with_a_lease_shows_its_numbers_behind_the_bus_id() {
    let mut expected = hex("0111 8f03 00000000 312d32");
    expected.resize(40, 0);
    expected.extend(hex("0000000000000009 0000000000000007 00000001 00000000"));
    let asked = op::ImportExt { bus_id: "1-2".into(), lease_id: 9, nonce: 7, flags: 1 };
    assert_eq!(asked.to_request().unwrap().to_vec(), expected);
    assert_eq!(op::ImportExt::parse(expected[8..].try_into().unwrap()), Ok(asked.clone()));
    let long = op::ImportExt { bus_id: "a".repeat(32), ..asked };
    assert_eq!(long.to_request(), Err(op::Malformed::BusIdTooLong));
}

fn device() -> DeviceDescription {
    DeviceDescription {
        path: "/sys/bus/usb/devices/1-2".into(),
        bus_id: "1-2".into(),
        location: String::new(),
        bus_number: 3,
        device_number: 9,
        speed: Speed::High,
        vendor: 0x1d6b,
        product: 0x0104,
        release: 0x0100,
        class: Class { class: 0xef, subclass: 2, protocol: 1 },
        configuration: 1,
        configurations: 1,
        interfaces: vec![
            Class { class: 0xff, subclass: 1, protocol: 2 },
            Class { class: 3, subclass: 1, protocol: 1 },
        ],
        manufacturer_name: "not sent".into(),
        product_name: "not sent".into(),
        serial: "serial-1".into(),
        descriptors: Vec::new(),
    }
}

/// The 312 bytes of [`device`].
fn device_record() -> Vec<u8> {
    let mut record = b"/sys/bus/usb/devices/1-2\0serial=serial-1\0".to_vec();
    record.resize(0x100, 0);
    record.extend(b"1-2");
    record.resize(0x120, 0);
    // busnum, devnum, speed; idVendor, idProduct, bcdDevice; class; configuration and counts
    record.extend(hex("00000003 00000009 00000003 1d6b 0104 0100 ef0201 01 01 02"));
    assert_eq!(record.len(), 0x138);
    record
}

#[test]
fn a35_an_import_reply_is_header_and_record_with_the_serial_behind_the_path() {
    let expected = [hex("0111 0003 00000000"), device_record()].concat();
    assert_eq!(op::import_reply(&device()).to_vec(), expected);
    let read = op::parse_device_record(expected[8..].try_into().unwrap()).unwrap();
    assert_eq!((&read.bus_id[..], &read.serial[..]), ("1-2", "serial-1"));
    assert_eq!(read.path, "/sys/bus/usb/devices/1-2");
    assert_eq!(read.device_id(), 0x0003_0009);
}

#[test]
fn a35_a_device_list_has_interface_records_behind_each_device() {
    let plain = DeviceDescription { serial: String::new(), interfaces: vec![], ..device() };
    let mut reply = Vec::new();
    op::devlist_reply(&[&device(), &plain], &mut reply);
    let mut plain_record = device_record();
    plain_record[25..0x100].fill(0);
    plain_record[0x137] = 0;
    let expected = [
        hex("0111 0005 00000000 00000002"),
        device_record(),
        hex("ff010200 03010100"),
        plain_record,
    ]
    .concat();
    assert_eq!(reply, expected);
    assert_eq!(reply.len(), 12 + 2 * 312 + 2 * 4);

    let read = op::parse_devlist(&reply[8..]).unwrap();
    assert_eq!((&read[0].serial[..], &read[1].serial[..]), ("serial-1", ""));
    assert_eq!(read[0].interfaces, device().interfaces);
    assert_eq!(op::devlist_progress(&reply[8..12]), Ok(ListProgress::More(2 * 312)));
}

#[test]
fn a35_serial_trailer_omitted_when_it_does_not_fit() {
    let serial_of = |path_bytes: usize, serial: &str| {
        let path = "p".repeat(path_bytes);
        let device = DeviceDescription { path, serial: serial.into(), ..device() };
        let reply = op::import_reply(&device);
        let record = reply[8..].try_into().unwrap();
        let read = op::parse_device_record(record).unwrap();
        assert_eq!(read.path.len(), path_bytes);
        assert_eq!(reply[8 + 255], 0, "the field ends with a NUL");
        if read.serial.is_empty() {
            assert!(
                reply[8 + path_bytes..8 + 256].iter().all(|&byte| byte == 0),
                "no torn trailer"
            );
        }
        read.serial
    };
    // path, NUL, "serial=", serial, NUL: 239 + 1 + 7 + 8 + 1 = 256
    assert_eq!(serial_of(239, "serial-1"), "serial-1");
    assert_eq!(serial_of(240, "serial-1"), "");
    assert_eq!(serial_of(255, "s"), "");
    assert_eq!(serial_of(254, "s"), "");
    assert_eq!(serial_of(10, ""), "");
}

#[test]
fn a_list_of_4097_devices_is_refused() {
    let refused = op::devlist_progress(&hex("00001001"));
    assert_eq!(refused, Err(op::Malformed::DeviceCount(4097)));
    assert_eq!(op::parse_devlist(&hex("00000000")), Ok(vec![]));
}

// The URB phase.

#[test]
fn a_command_out_is_header_setup_and_data() {
    let command = CmdSubmit {
        seqnum: 7,
        device_id: 0x0003_0009,
        direction: Direction::Out,
        endpoint: 2,
        transfer_flags: 0x400,
        buffer_length: 3,
        start_frame: 11,
        number_of_packets: -1,
        interval: 4,
        setup: [0, 1, 2, 3, 4, 5, 6, 7],
    };
    let expected = hex("
        00000001 00000007 00030009 00000000 00000002
        00000400 00000003 0000000b ffffffff 00000004 0001020304050607
        010203");
    let mut block = block(&[1, 2, 3]);
    let parts = encode_submit(&mut block, &command, 0);
    assert_eq!(block[parts.head], expected);
    assert!(parts.tail.is_empty());
    assert_eq!(parse_request(expected[..48].try_into().unwrap()), Ok(Request::Submit(command)));
    let flags = mask_flags(TransferType::Bulk, Direction::Out, command.transfer_flags);
    assert_eq!(flags, TransferFlags::default());
}

#[test]
fn a_command_in_is_48_bytes() {
    let command = CmdSubmit {
        seqnum: 8,
        device_id: 7,
        direction: Direction::In,
        endpoint: 1,
        transfer_flags: 0x200,
        buffer_length: 4,
        start_frame: 0,
        number_of_packets: 0,
        interval: 0,
        setup: [0; 8],
    };
    let expected = hex("
        00000001 00000008 00000007 00000001 00000001
        00000200 00000004 00000000 00000000 00000000 0000000000000000");
    let mut block = block(&[9; 4]);
    let parts = encode_submit(&mut block, &command, 0);
    assert_eq!(block[parts.head], expected);
    assert!(parts.tail.is_empty());
}

#[test]
fn b18_an_isochronous_reply_in_carries_packed_data_and_every_status() {
    let descriptors = "
        00000000 00000002 00000002 00000000
        00000002 00000002 00000001 ffffffe0";
    let packets = [packet(0, 2, 2, 0), packet(2, 2, 1, -32)];
    let mut block = block(&[&[0xa1, 0xa2, 0xa3, 0xa4][..], &hex(descriptors)].concat());
    assert_eq!(isochronous::packets(&block[68..]), packets);
    let reply = RetSubmit {
        seqnum: 9,
        status: 0,
        actual_length: 3,
        start_frame: 21,
        number_of_packets: 2,
        error_count: 1,
    };
    let range = encode_reply(&mut block, Direction::In, 4, 2, &reply);
    let expected = [
        hex("
            00000003 00000009 00000000 00000000 00000000
            00000000 00000003 00000015 00000002 00000001 0000000000000000
            a1a2a3"),
        hex(descriptors),
    ]
    .concat();
    assert_eq!(block[range], expected);

    // The same bytes at the client.
    let Ok(Reply::Submit(raw)) = parse_reply(expected[..48].try_into().unwrap()) else {
        panic!("not a RET_SUBMIT")
    };
    let length = raw.reconcile(4).unwrap();
    let body = reply_body(&raw, Direction::In, length, 2);
    assert_eq!(body, Ok(Body { payload_bytes: 3, packets: 2 }));
    let request = [PacketDescriptor::new(0, 2), PacketDescriptor::new(2, 2)];
    let got = isochronous::packets(&expected[51..]);
    assert_eq!(isochronous::validate_reply(&request, got, raw.actual_length), Ok(3));
    let mut buffer = [0xa1, 0xa2, 0xa3, 0];
    isochronous::scatter(&mut buffer, got);
    assert_eq!(buffer, [0xa1, 0xa2, 0xa3, 0]);
}

#[test]
fn a_reply_out_is_48_bytes() {
    let reply = RetSubmit {
        seqnum: 7,
        status: 0,
        actual_length: 3,
        start_frame: 0,
        number_of_packets: -1,
        error_count: 0,
    };
    let mut block = block(&[1, 2, 3]);
    let range = encode_reply(&mut block, Direction::Out, 3, 0, &reply);
    let expected = header(
        "
        00000003 00000007 00000000 00000000 00000000
        00000000 00000003 00000000 ffffffff 00000000 0000000000000000",
    );
    assert_eq!(block[range], expected);
    let raw = RawRetSubmit {
        seqnum: 7,
        status: 0,
        actual_length: 3,
        start_frame: 0,
        number_of_packets: -1,
        error_count: 0,
    };
    assert_eq!(parse_reply(&expected), Ok(Reply::Submit(raw)));
    assert_eq!(reply_body(&raw, Direction::Out, 3, 0), Ok(Body::default()));
}

#[test]
fn an_isochronous_reply_out_has_its_descriptors_directly_behind_the_header() {
    let descriptors = "
        00000000 00000004 00000004 00000000
        00000006 00000002 00000000 ffffffee";
    let mut block = block(&[&[7; 8][..], &hex(descriptors)].concat());
    let reply = RetSubmit {
        seqnum: 0x7fff_ffff,
        status: 0,
        actual_length: 0,
        start_frame: 777,
        number_of_packets: 2,
        error_count: 0,
    };
    let range = encode_reply(&mut block, Direction::Out, 8, 2, &reply);
    let expected = hex(&format!(
        "
        00000003 7fffffff 00000000 00000000 00000000
        00000000 00000004 00000309 00000002 00000001 0000000000000000
        {descriptors}"
    ));
    assert_eq!(block[range], expected);
}

#[test]
fn a18_an_unlink_carries_the_device_id_of_its_submit() {
    for (device_id, text) in [(0xdead_beef, "deadbeef"), (0xcafe_f00d, "cafef00d")] {
        let unlink = CmdUnlink { seqnum: 12, device_id, unlink_seqnum: 11 };
        let expected = header(&format!(
            "
            00000002 0000000c {text} 00000000 00000000
            0000000b 00000000 00000000 00000000 00000000 0000000000000000"
        ));
        let mut bytes = [0xee; 48];
        unlink.emit(&mut bytes);
        assert_eq!(bytes, expected);
        assert_eq!(parse_request(&bytes), Ok(Request::Unlink(unlink)));
    }
}

#[test]
fn replies_to_an_unlink() {
    for (status, text) in [(-104, "ffffff98"), (0, "00000000")] {
        let expected = header(&format!(
            "
            00000004 0000000c 00000000 00000000 00000000
            {text} 00000000 00000000 00000000 00000000 0000000000000000"
        ));
        let reply = RetUnlink { seqnum: 12, status };
        let mut bytes = [0xee; 48];
        reply.emit(&mut bytes);
        assert_eq!(bytes, expected);
        assert_eq!(parse_reply(&bytes), Ok(Reply::Unlink(reply)));
    }
}

/// A CMD_SUBMIT IN on endpoint 1 with these words from offset 20 on.
fn submit(words: &str) -> Result<Request, Malformed> {
    let base = "00000001 00000001 00010002 00000001 00000001";
    parse_request(&header(&format!("{base} {words} 0000000000000000")))
}

fn submitted(words: &str) -> CmdSubmit {
    match submit(words) {
        Ok(Request::Submit(command)) => command,
        other => panic!("not a CMD_SUBMIT: {other:?}"),
    }
}

#[test]
fn lengths_outside_0_to_16_mib_are_refused() {
    let negative = submit("00000200 ffffffff 00000000 00000000 00000000");
    assert_eq!(negative, Err(Malformed::Length(-1)));
    let over = submit("00000200 01000001 00000000 00000000 00000000");
    assert_eq!(over, Err(Malformed::Length(16 * 1024 * 1024 + 1)));
    let largest = submitted("00000200 01000000 00000000 00000000 00000000");
    assert_eq!(largest.buffer_length, limits::TRANSFER_BYTES);
}

#[test]
fn a2_1025_and_minus_2_packets_are_refused_on_isochronous_endpoints_only() {
    for (text, count) in [("00000401", 1025), ("fffffffe", -2)] {
        let words = format!("00000202 00000400 00000000 {text} 00000001");
        let command = submitted(&words);
        let iso = request_body(&command, Some(TransferType::Isochronous));
        assert_eq!(iso, Err(Malformed::PacketCount(count)));
        let bulk = request_body(&command, Some(TransferType::Bulk));
        assert_eq!(bulk, Ok(Body::default()));
    }
    let most = submitted("00000202 00000400 00000000 00000400 00000001");
    let body = request_body(&most, Some(TransferType::Isochronous)).unwrap();
    assert_eq!((body.packets, body.bytes()), (1024, 16384));
}

#[test]
fn what_linux_sends_for_each_kind_of_transfer() {
    let flags = |command: &CmdSubmit, kind| mask_flags(kind, Direction::In, command.transfer_flags);
    // Control IN whose driver asked for SHORT_NOT_OK; the interval may be garbage.
    let control = submitted("00000201 00000012 00000000 00000000 dead0001");
    let wanted = TransferFlags { short_not_ok: true, ..TransferFlags::default() };
    assert_eq!(flags(&control, TransferType::Control), wanted);
    // Bulk with a scatter list: the flag means something to the client's memory alone.
    let bulk = submitted("00040200 00400000 00000000 00000000 00000000");
    assert_eq!(flags(&bulk, TransferType::Bulk), TransferFlags::default());
    assert_eq!(bulk.buffer_length, 4 * 1024 * 1024);
    // Interrupt: start frame -1, the interval in microframes.
    let interrupt = submitted("00000200 00000008 ffffffff 00000000 00000020");
    assert_eq!((interrupt.start_frame, interrupt.interval), (u32::MAX, 32));
    // Isochronous, as soon as possible; the start frame is what the submitter left there.
    let iso = submitted("00000202 00000c00 00000309 00000001 00000001");
    let wanted = TransferFlags { iso_asap: true, ..TransferFlags::default() };
    assert_eq!(flags(&iso, TransferType::Isochronous), wanted);
    // A client that is not Linux marks what is not isochronous with -1; the reply echoes it.
    let other = submitted("00000200 00000008 00000000 ffffffff 00000000");
    assert_eq!(other.number_of_packets, -1);
}

#[test]
fn a_command_out_of_the_linux_client_with_packets_is_deframed() {
    // Linux fills in -18 as the status of packets that have not been transferred yet.
    let stream = hex("
        00000001 00000005 00010002 00000000 00000002
        00000002 00000005 00000309 00000002 00000001 0000000000000000
        a0a1a2a3a4
        00000000 00000002 00000000 ffffffee
        00000002 00000003 00000000 ffffffee
        00000002 00000006 00010002 00000000 00000000
        00000005 00000000 00000000 00000000 00000000 0000000000000000");
    let mut input = &stream[..];
    let mut deframer = Deframer::new();
    let first = deframer.next(&mut input).expect("a header");
    let Ok(Request::Submit(command)) = parse_request(&first) else { panic!("not a CMD_SUBMIT") };
    let body = request_body(&command, Some(TransferType::Isochronous)).unwrap();
    assert_eq!(body, Body { payload_bytes: 5, packets: 2 });
    let (body, mut rest) = input.split_at(body.bytes());
    let packets = isochronous::packets(&body[5..]);
    assert_eq!(packets, [packet(0, 2, 0, -18), packet(2, 3, 0, -18)]);
    assert_eq!(isochronous::validate_layout(packets, command.buffer_length), Ok(()));
    let second = deframer.next(&mut rest).expect("a header");
    let unlink = CmdUnlink { seqnum: 6, device_id: 0x0001_0002, unlink_seqnum: 5 };
    assert_eq!(parse_request(&second), Ok(Request::Unlink(unlink)));
    assert!(rest.is_empty());
}

#[test]
fn a30_three_packets_with_gaps_survive_the_way_over_the_wire() {
    let layout = [(0, 4), (8, 2), (16, 6)];
    let results: Vec<_> = layout.iter().map(|&(o, l)| packet(o, l, l, 0)).collect();
    let mut memory: Vec<u8> = vec![0xee; 32];
    for (value, &(offset, length)) in (1u8..).zip(&layout) {
        memory[offset as usize..(offset + length) as usize].fill(value);
    }
    let mut server = block(&memory);
    for result in &results {
        server.extend_from_slice(zerocopy::IntoBytes::as_bytes(result));
    }
    let reply = RetSubmit {
        seqnum: 1,
        status: 0,
        actual_length: 0,
        start_frame: 0,
        number_of_packets: 3,
        error_count: 0,
    };
    let range = encode_reply(&mut server, Direction::In, 32, 3, &reply);
    let sent = &server[range];
    assert_eq!(sent.len(), 48 + 12 + 48);
    assert_eq!(sent[48..60], [1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]);

    let mut client = vec![0xee; 32];
    client[..12].copy_from_slice(&sent[48..60]);
    isochronous::scatter(&mut client, isochronous::packets(&sent[60..]));
    for &(offset, length) in &layout {
        let range = offset as usize..(offset + length) as usize;
        assert_eq!(client[range.clone()], memory[range]);
    }
}

#[test]
fn a7_lengths_that_do_not_answer_the_request_end_the_urb() {
    // actual_length -1 and one more than the buffer, for OUT and IN alike.
    let reply = |length: &str| {
        let bytes = header(&format!(
            "
            00000003 00000007 00000000 00000000 00000000
            00000000 {length} 00000000 00000000 00000000 0000000000000000"
        ));
        match parse_reply(&bytes) {
            Ok(Reply::Submit(raw)) => raw.reconcile(3).map_err(|error| error.errno()),
            other => panic!("not a RET_SUBMIT: {other:?}"),
        }
    };
    assert_eq!(reply("ffffffff"), Err(-71));
    assert_eq!(reply("00000004"), Err(-75));
    assert_eq!(reply("00000003"), Ok(3));
}

#[test]
fn every_truncation_of_a_header_waits_for_the_rest() {
    let whole = header(
        "
        00000002 0000000c 00030009 00000000 00000000
        0000000b 00000000 00000000 00000000 00000000 0000000000000000",
    );
    for cut in 0..48 {
        let (mut front, mut back) = whole.split_at(cut);
        let mut deframer = Deframer::new();
        assert_eq!(deframer.next(&mut front), None);
        assert_eq!(deframer.partial_bytes(), cut);
        assert_eq!(deframer.next(&mut back), Some(whole));
    }
}

#[test]
fn unknown_commands_are_refused_on_both_sides() {
    for command in [0u32, 5, 0x0111_8005, u32::MAX] {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&command.to_be_bytes());
        assert_eq!(parse_request(&bytes), Err(Malformed::Command(command)));
        assert_eq!(parse_reply(&bytes), Err(Malformed::Command(command)));
    }
}
