//! The data phase, at the server with an endpoint map or at the client with one request.
//!
//! Input: side (bit 0: client), size less one of the pieces the stream comes in, active
//! configuration, size of the descriptors in units of 2 bytes; the descriptors; the stream. At the
//! client the stream begins with the request: direction and packets (one byte), buffer length (one
//! byte), packet layout.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usbip_fast::limits;
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::isochronous::{self, PacketDescriptor};
use usbip_fast::usb::setup::{Setup, StandardRequest};
use usbip_fast::usb::transfer::{
    BUFFER_OFFSET, Direction, HEADER_OFFSET, ISO_PACKET_BYTES, TransferType, block_bytes,
};
use usbip_fast::wire::deframe::{Body, Deframer, reply_body, request_body};
use usbip_fast::wire::encode::{encode_reply, encode_submit};
use usbip_fast::wire::urb::{
    CmdSubmit, HEADER_BYTES, Malformed, Reply, Request, RetSubmit, mask_flags, parse_reply,
    parse_request, raw_flags,
};

fuzz_target!(|input: &[u8]| {
    let &[side, piece, configuration, units, ref rest @ ..] = input else { return };
    let (descriptors, stream) = rest.split_at(rest.len().min(usize::from(units) * 2));
    if side & 1 == 0 {
        let map = EndpointMap::new(descriptors, configuration);
        let whole = serve(map.clone(), stream, stream.len().max(1));
        let pieces = serve(map, stream, usize::from(piece) + 1);
        assert_eq!(whole, pieces, "the result does not depend on how the stream is cut");
    } else if let &[shape, length, ref stream @ ..] = stream {
        receive(shape, length, stream);
    }
});

/// What a server saw, to be compared.
type Seen = Vec<(Request, Vec<u8>)>;

/// Reads requests with their bodies until the stream ends, the last one perhaps cut off.
fn serve(mut map: EndpointMap, stream: &[u8], piece: usize) -> (Seen, Result<(), Malformed>) {
    let mut seen = Vec::new();
    let mut deframer = Deframer::new();
    let mut pending: Option<(CmdSubmit, Body, Vec<u8>)> = None;
    for mut bytes in stream.chunks(piece) {
        loop {
            if let Some((command, body, mut got)) = pending.take() {
                let (front, rest) = bytes.split_at(bytes.len().min(body.bytes() - got.len()));
                got.extend_from_slice(front);
                bytes = rest;
                if got.len() < body.bytes() {
                    pending = Some((command, body, got));
                    break;
                }
                answer(&mut map, &command, body, &got);
                seen.push((Request::Submit(command), got));
            }
            let Some(header) = deframer.next(&mut bytes) else { break };
            match parse_request(&header) {
                Ok(Request::Submit(command)) => {
                    let kind = map.kind(command.endpoint, command.direction);
                    match request_body(&command, kind) {
                        Ok(body) => pending = Some((command, body, Vec::new())),
                        Err(error) => return (seen, Err(error)),
                    }
                }
                Ok(unlink) => seen.push((unlink, Vec::new())),
                Err(error) => return (seen, Err(error)),
            }
        }
        assert!(bytes.is_empty());
    }
    (seen, Ok(()))
}

/// Does what a session does with a request, with a device that reports nonsense.
fn answer(map: &mut EndpointMap, command: &CmdSubmit, body: Body, bytes: &[u8]) {
    assert!(command.buffer_length <= limits::TRANSFER_BYTES);
    assert!(body.packets <= limits::ISO_PACKETS);
    let kind = map.kind(command.endpoint, command.direction);
    assert!(body.packets == 0 || kind == Some(TransferType::Isochronous));
    if let Some(kind) = kind {
        let flags = mask_flags(kind, command.direction, command.transfer_flags);
        let raw = raw_flags(flags, command.direction);
        assert_eq!(mask_flags(kind, command.direction, raw), flags);
    }
    if kind == Some(TransferType::Control) {
        match Setup::from_bytes(command.setup).classify() {
            StandardRequest::SetConfiguration(value) => map.set_configuration(value),
            StandardRequest::SetInterface { interface, alternate } => {
                map.set_interface(interface, alternate);
            }
            _ => {}
        }
    }
    // Blocks of megabytes cost time and prove no more.
    if command.buffer_length > 4096 {
        return;
    }
    let (payload, descriptors) = bytes.split_at(body.payload_bytes as usize);
    let mut block = vec![0; block_bytes(command.buffer_length, body.packets)];
    block[BUFFER_OFFSET..][..payload.len()].copy_from_slice(payload);
    let behind = BUFFER_OFFSET + command.buffer_length as usize;
    block[behind..].copy_from_slice(descriptors);
    let request = isochronous::packets(descriptors).to_vec();
    if isochronous::validate_layout(&request, command.buffer_length).is_ok() {
        for p in &request {
            assert!(p.offset.get() + p.length.get() <= command.buffer_length);
        }
    }
    for packet in isochronous::packets_mut(&mut block[behind..]) {
        // Peers decide the rest; a status above 0 no device reports.
        packet.status = packet.status.get().min(0).into();
    }
    let reply = RetSubmit {
        seqnum: command.seqnum,
        status: 0,
        actual_length: command.interval,
        start_frame: command.start_frame,
        number_of_packets: command.number_of_packets,
        error_count: 0,
    };
    let direction = command.direction;
    let range = encode_reply(&mut block, direction, command.buffer_length, body.packets, &reply);
    assert_eq!(range.start, HEADER_OFFSET);
    accept(&block[range], direction, command.buffer_length, &request);
}

/// A client accepts the reply, and it is as long as it says.
fn accept(sent: &[u8], direction: Direction, length: u32, request: &[PacketDescriptor]) {
    let (header, body) = sent.split_first_chunk().expect("a header");
    let Ok(Reply::Submit(raw)) = parse_reply(header) else { panic!("not a RET_SUBMIT") };
    let actual = raw.reconcile(length).expect("a length within the buffer");
    let layout = reply_body(&raw, direction, actual, request.len() as u32).expect("the same count");
    assert_eq!(layout.bytes(), body.len());
    if !request.is_empty() {
        let packets = isochronous::packets(&body[layout.payload_bytes as usize..]);
        assert_eq!(isochronous::validate_reply(request, packets, raw.actual_length), Ok(actual));
    }
}

/// Sends one request and reads what comes as its reply.
fn receive(shape: u8, length: u8, stream: &[u8]) {
    let direction = if shape & 1 == 0 { Direction::Out } else { Direction::In };
    let packets = u32::from(shape >> 1 & 7);
    let Some((layout, stream)) = stream.split_at_checked(packets as usize * ISO_PACKET_BYTES)
    else {
        return;
    };
    let buffer_length = u32::from(length);
    let mut block = vec![0; block_bytes(buffer_length, packets)];
    let behind = BUFFER_OFFSET + buffer_length as usize;
    block[behind..].copy_from_slice(layout);
    let command = CmdSubmit {
        seqnum: 1,
        device_id: 1,
        direction,
        endpoint: 1,
        transfer_flags: 0,
        buffer_length,
        start_frame: 0,
        number_of_packets: -1,
        interval: 0,
        setup: [0; 8],
    };
    let parts = encode_submit(&mut block, &command, packets);
    let payload = if direction == Direction::Out { length.into() } else { 0 };
    assert_eq!(
        parts.head.len() + parts.tail.len(),
        HEADER_BYTES + payload + packets as usize * ISO_PACKET_BYTES
    );
    let request = isochronous::packets(&block[behind..]).to_vec();
    if isochronous::validate_layout(&request, buffer_length).is_err() {
        return;
    }
    let mut input = stream;
    let Some(header) = Deframer::new().next(&mut input) else { return };
    let Ok(Reply::Submit(raw)) = parse_reply(&header) else { return };
    let Ok(actual) = raw.reconcile(buffer_length) else { return };
    let Ok(body) = reply_body(&raw, direction, actual, packets) else { return };
    assert!(body.payload_bytes <= buffer_length && body.packets <= packets);
    let Some((payload, descriptors)) = input
        .split_at_checked(body.bytes())
        .map(|(body_bytes, _)| body_bytes.split_at(body.payload_bytes as usize))
    else {
        return;
    };
    let reply = isochronous::packets(descriptors);
    if packets == 0 || isochronous::validate_reply(&request, reply, raw.actual_length).is_err() {
        return;
    }
    if direction == Direction::In {
        let buffer = &mut block[BUFFER_OFFSET..behind];
        buffer[..payload.len()].copy_from_slice(payload);
        isochronous::scatter(buffer, reply);
        let mut rest = payload;
        for packet in reply {
            let (bytes, behind) = rest.split_at(packet.actual_length.get() as usize);
            assert_eq!(&buffer[packet.offset.get() as usize..][..bytes.len()], bytes);
            rest = behind;
        }
        assert!(rest.is_empty());
    }
}
