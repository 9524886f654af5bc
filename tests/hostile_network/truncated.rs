//! Streams that end within a message, at every byte of it.

use std::io::{Read, Write};
use std::net::Shutdown;

use usbip_fast::usb::transfer::Direction;
use usbip_fast::wire::op;
use usbip_fast::wire::urb::{CmdSubmit, CmdUnlink, HEADER_BYTES};

use crate::served::{Peer, Served, header, isochronous};

const DEVICE: &str = "sim-4";

/// Returns how many sessions ended within a PDU, and how many connections within a request.
pub fn run(served: &Served) -> (usize, usize) {
    let requests = request(served);
    let unlink = |peer: &mut Peer| {
        let mut bytes = [0; HEADER_BYTES];
        CmdUnlink { seqnum: 2, device_id: peer.device_id, unlink_seqnum: 1 }.emit(&mut bytes);
        bytes.to_vec()
    };
    let control = |peer: &mut Peer| {
        // A vendor request of Gadget Zero, OUT, with eight bytes of data.
        let setup = [0x40, 0x5b, 0, 0, 0, 0, 8, 0];
        let out = CmdSubmit { direction: Direction::Out, endpoint: 0, ..peer.submit(1) };
        let header = header(&CmdSubmit { buffer_length: 8, setup, ..out });
        [header, vec![0x77; 8]].concat()
    };
    let packets = |peer: &mut Peer| {
        peer.choose_isochronous();
        isochronous(peer, 1, Direction::Out, &[[0, 50], [50, 50]])
    };
    let pdus = cut(served, 1, unlink) + cut(served, 1, control) + cut(served, 49, packets);
    (pdus, requests)
}

/// Cuts what `make` gives at every place from `first` on; nothing must come back.
fn cut(served: &Served, first: usize, make: impl Fn(&mut Peer) -> Vec<u8>) -> usize {
    for (cuts, end) in (first..).enumerate() {
        let mut peer = served.import(DEVICE);
        let bytes = make(&mut peer);
        if end == bytes.len() {
            return cuts;
        }
        peer.send(&bytes[..end]);
        peer.stream.shutdown(Shutdown::Write).expect("connected");
        let mut rest = Vec::new();
        peer.stream.read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, [0_u8; 0], "cut at {end}");
    }
    unreachable!("a PDU has an end")
}

fn request(served: &Served) -> usize {
    let request = op::request_import(DEVICE).expect("short");
    for end in 1..request.len() {
        let mut stream = served.connect();
        stream.write_all(&request[..end]).expect("sent");
        stream.shutdown(Shutdown::Write).expect("connected");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, [0_u8; 0], "cut at {end}");
    }
    request.len() - 1
}
