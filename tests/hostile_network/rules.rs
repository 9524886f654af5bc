//! Clients that break a rule: the URB is answered, or the session ends, and the log says why.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use usbip_fast::usb::transfer::Direction;
use usbip_fast::wire::op;
use usbip_fast::wire::urb::{CmdSubmit, CmdUnlink, HEADER_BYTES};

use crate::served::{Peer, Served, header, isochronous};

const DEVICE: &str = "sim-2";

/// Long enough for the server to have read and answered what was sent.
const A_WHILE: Duration = Duration::from_millis(200);

/// Does them all, one behind the other.
pub fn run(served: &Served) {
    garbage(served);
    end_of_sessions(served);
    packets_against_the_rules(served);
    last_answers(served);
}

/// What each of it must leave in the log, at least so many times.
pub const LINES: [(&str, usize); 10] = [
    ("unknown request code 0x5420", 1),
    ("device id 0x", 2),
    ("seqnum 7 is in use already", 1),
    ("unknown command 0x9", 2),
    ("direction 0x2", 1),
    ("endpoint number 0x10", 1),
    ("transfer length -1,", 1),
    ("transfer length 16777217,", 1),
    ("sent 1025 isochronous packets", 1),
    ("import refused: ", 1),
];

fn garbage(served: &Served) {
    served.connect().write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    served.connect().write_all(&op::request_import(DEVICE).expect("short")[..20]).expect("sent");
}

/// Each of these ends its session, whatever else is sent before.
fn end_of_sessions(served: &Served) {
    let breaks = |make: fn(&Peer) -> Vec<u8>| {
        let mut peer = served.import(DEVICE);
        let bytes = make(&peer);
        peer.send(&bytes);
        peer.expect_end();
    };
    breaks(|peer| header(&CmdSubmit { device_id: peer.device_id ^ 1, ..peer.submit(1) }));
    breaks(|peer| {
        let mut bytes = [0; HEADER_BYTES];
        CmdUnlink { seqnum: 1, device_id: !peer.device_id, unlink_seqnum: 7 }.emit(&mut bytes);
        bytes.to_vec()
    });
    // The second comes with the first, before that can have been answered.
    breaks(|peer| header(&peer.submit(7)).repeat(2));
    breaks(|peer| changed(header(&peer.submit(1)), 0, 9));
    breaks(|peer| changed(header(&peer.submit(1)), 12, 2));
    breaks(|peer| changed(header(&peer.submit(1)), 16, 16));
    breaks(|peer| {
        let out = CmdSubmit { direction: Direction::Out, ..peer.submit(1) };
        changed(header(&out), 24, u32::MAX)
    });
    breaks(|peer| changed(header(&peer.submit(1)), 24, 16 * 1024 * 1024 + 1));
    let mut peer = served.import(DEVICE);
    peer.choose_isochronous();
    let submit = CmdSubmit { endpoint: 2, number_of_packets: 1025, ..peer.submit(1) };
    peer.send(&header(&submit));
    peer.expect_end();
}

fn changed(mut header: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    header[at..at + 4].copy_from_slice(&word.to_be_bytes());
    header
}

/// B21: answered -EINVAL with the packets echoed, and the session goes on.
fn packets_against_the_rules(served: &Served) {
    let mut peer = served.import(DEVICE);
    peer.choose_isochronous();
    let bad = [
        [[0, 50], [50, 51]],
        [[0, 60], [50, 40]],
        [[50, 50], [0, 50]],
        [[1, 9], [10, 10]],
        [[0, u32::MAX], [50, 50]],
    ];
    for (seqnum, packets) in (1..).zip(bad) {
        for (seqnum, direction) in [(seqnum, Direction::In), (seqnum + 100, Direction::Out)] {
            let bytes = isochronous(&peer, seqnum, direction, &packets);
            peer.send(&bytes);
            let answer = peer.answer(direction == Direction::In);
            assert_eq!((answer.seqnum, answer.status), (seqnum, -22), "{packets:?}");
            assert_eq!((answer.actual_length, answer.body_bytes), (0, 32), "echoed");
        }
    }
    let good = isochronous(&peer, 99, Direction::In, &[[0, 50], [50, 50]]);
    peer.send(&good);
    let answer = peer.answer(true);
    assert_eq!((answer.seqnum, answer.status, answer.body_bytes), (99, 0, 100 + 32));
}

/// A peer that has sent much more than was read still gets the last answer, and then an end instead
/// of a reset.
fn last_answers(served: &Served) {
    let junk = vec![b'x'; 200_000];
    let answer = |request: &[u8]| {
        let mut stream = served.connect();
        stream.write_all(&[request, &junk[..]].concat()).expect("sent");
        thread::sleep(A_WHILE);
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("an end, not a reset");
        reply
    };
    let refusal = answer(&op::request_import("9-9").expect("short"));
    assert_eq!((refusal.len(), refusal[7]), (8, 4), "no such device");
    let list = answer(&op::request_devlist());
    let devices = usize::from(list[11]);
    assert_eq!(list.len(), 12 + devices * (312 + 4), "each has one interface");
    let mut peer = served.import(DEVICE);
    // More than its receive buffer holds, so that most of it is still with the server.
    let length = 4 * 1024 * 1024;
    let large = header(&CmdSubmit { buffer_length: length, ..peer.submit(1) });
    peer.send(&large);
    thread::sleep(A_WHILE);
    peer.send(&changed(junk, 0, 9));
    thread::sleep(A_WHILE);
    let mut answer = Vec::new();
    peer.stream.read_to_end(&mut answer).expect("an end, not a reset");
    assert_eq!(answer.len(), HEADER_BYTES + length as usize);
}
