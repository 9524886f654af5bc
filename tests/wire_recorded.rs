//! What Linux's own client and server have put on the wire (`tests/data/wire`): every message is
//! understood, and written again it is the same to the bit.

#![allow(clippy::disallowed_methods, reason = "the recordings are files")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use usbip_fast::usb::transfer::TransferType;
use usbip_fast::wire::deframe::{reply_body, request_body};
use usbip_fast::wire::op;
use usbip_fast::wire::urb::{
    CmdSubmit, HEADER_BYTES, RawRetSubmit, Reply, Request, RetSubmit, parse_reply, parse_request,
};

/// One line of a recording.
enum Line {
    FromClient(Vec<u8>),
    FromServer(Vec<u8>),
}

fn recordings() -> Vec<(String, Vec<Line>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the recordings are committed") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a text");
        let lines = text.lines().filter_map(parse_line).collect();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        found.push((name, lines));
    }
    assert_eq!(found.len(), 17, "all recordings are there");
    found
}

fn parse_line(line: &str) -> Option<Line> {
    let (mark, digits) = line.split_once(' ').filter(|(_, rest)| *rest != "end")?;
    let bytes = || {
        let pairs = digits.as_bytes().chunks_exact(2);
        let text = |pair| std::str::from_utf8(pair).expect("digits");
        pairs.map(|pair| u8::from_str_radix(text(pair), 16).expect("hexadecimal")).collect()
    };
    match mark {
        ">" => Some(Line::FromClient(bytes())),
        "<" => Some(Line::FromServer(bytes())),
        _ => None,
    }
}

/// Endpoints that are isochronous in a recording; which they are is not in the messages.
fn kind_of(recording: &str, endpoint: u8) -> TransferType {
    match (recording, endpoint) {
        (_, 0) => TransferType::Control,
        ("iso-out", 1) | ("iso-requests", 2) => TransferType::Isochronous,
        _ => TransferType::Bulk,
    }
}

#[test]
fn every_command_of_the_kernel_is_understood_and_written_again_the_same() {
    let (mut submits, mut unlinks, mut packets) = (0, 0, 0);
    for (name, lines) in recordings() {
        for bytes in lines.iter().filter_map(client_urb) {
            let header: &[u8; HEADER_BYTES] = bytes.first_chunk().expect("a whole header");
            let mut again = [0xa5; HEADER_BYTES];
            let body = match parse_request(header).expect("the kernel is well-behaved") {
                Request::Submit(submit) => {
                    submits += 1;
                    submit.emit(&mut again);
                    let kind = Some(kind_of(&name, submit.endpoint));
                    let body = request_body(&submit, kind).expect("the kernel is well-behaved");
                    packets += body.packets;
                    body.bytes()
                }
                Request::Unlink(unlink) => {
                    unlinks += 1;
                    unlink.emit(&mut again);
                    0
                }
            };
            assert_eq!(&again, header, "{name}");
            assert_eq!(bytes.len(), HEADER_BYTES + body, "{name}: what follows the header");
        }
    }
    assert!(submits > 200 && unlinks > 3 && packets > 20, "{submits} {unlinks} {packets}");
}

#[test]
fn every_answer_of_the_kernel_is_understood_and_written_again_the_same() {
    let (mut answers, mut unlinks) = (0, 0);
    for (name, lines) in recordings() {
        let mut asked: HashMap<u32, CmdSubmit> = HashMap::new();
        for line in &lines {
            if let Some(bytes) = client_urb(line)
                && let Ok(Request::Submit(submit)) =
                    parse_request(bytes.first_chunk().expect("a whole header"))
            {
                asked.insert(submit.seqnum, submit);
            }
            let Some(bytes) = server_urb(line) else { continue };
            let header: &[u8; HEADER_BYTES] = bytes.first_chunk().expect("a whole header");
            let mut again = [0xa5; HEADER_BYTES];
            let body = match parse_reply(header).expect("the kernel is well-behaved") {
                Reply::Submit(ret) => {
                    answers += 1;
                    let submit = asked[&ret.seqnum];
                    let actual_length =
                        ret.reconcile(submit.buffer_length).expect("no more than was asked for");
                    believed(&ret, actual_length).emit(&mut again);
                    let kind = kind_of(&name, submit.endpoint);
                    let packets = request_body(&submit, Some(kind)).expect("as above").packets;
                    let body = reply_body(&ret, submit.direction, actual_length, packets);
                    body.expect("as many packets as were asked for").bytes()
                }
                Reply::Unlink(ret) => {
                    unlinks += 1;
                    assert!([0, -104].contains(&ret.status));
                    ret.emit(&mut again);
                    0
                }
            };
            assert_eq!(&again, header, "{name}");
            assert_eq!(bytes.len(), HEADER_BYTES + body, "{name}: what follows the header");
        }
    }
    assert!(answers > 200 && unlinks > 3, "{answers} {unlinks}");
}

fn believed(ret: &RawRetSubmit, actual_length: u32) -> RetSubmit {
    let RawRetSubmit { seqnum, status, start_frame, number_of_packets, error_count, .. } = *ret;
    RetSubmit { seqnum, status, actual_length, start_frame, number_of_packets, error_count }
}

#[test]
fn the_operations_of_the_stock_tools_are_understood() {
    let (mut imports, mut lists) = (0, 0);
    for (name, lines) in recordings() {
        for line in &lines {
            match line {
                Line::FromClient(bytes) if bytes.len() == op::REQUEST_IMPORT_BYTES => {
                    let field = bytes[8..].try_into().expect("the field's size");
                    let bus_id = op::parse_import_bus_id(field).expect("a bus id");
                    assert_eq!(op::request_import(bus_id).expect("short").as_slice(), bytes);
                    imports += 1;
                }
                Line::FromServer(bytes) if bytes.len() == op::IMPORT_REPLY_BYTES => {
                    let record = bytes[8..].try_into().expect("the record's size");
                    let device = op::parse_device_record(record).expect("a device");
                    assert!(device.bus_number > 0 && device.device_number > 0, "{name}");
                }
                Line::FromServer(bytes) if name == "devlist" => {
                    let devices = op::parse_devlist(&bytes[8..]).expect("a list");
                    assert_eq!(devices.len(), 3);
                    lists += 1;
                }
                _ => {}
            }
        }
    }
    assert!(imports > 10 && lists == 1, "{imports} {lists}");
}

fn client_urb(line: &Line) -> Option<&[u8]> {
    match line {
        Line::FromClient(bytes) if bytes.len() >= HEADER_BYTES => Some(bytes),
        _ => None,
    }
}

fn server_urb(line: &Line) -> Option<&[u8]> {
    match line {
        Line::FromServer(bytes) if bytes[..4] == [0, 0, 0, 3] || bytes[..4] == [0, 0, 0, 4] => {
            Some(bytes)
        }
        _ => None,
    }
}
