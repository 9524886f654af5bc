//! Clients that send a byte a second.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use usbip_fast::wire::op;
use usbip_fast::wire::urb::CmdSubmit;

use crate::served::{Peer, Served, header};

const A_SECOND: Duration = Duration::from_secs(1);

/// A request must be complete within ten seconds.
pub fn handshake(served: &Served) {
    let begun = Instant::now();
    let mut stream = served.connect();
    let request = op::request_import("sim-3").expect("short");
    for byte in &request[..14] {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(A_SECOND);
    }
    Peer { stream, device_id: 0 }.expect_end();
    let lasted = begun.elapsed();
    assert!((10..15).contains(&lasted.as_secs()), "{lasted:?}");
}

/// What it leaves in the log.
pub const LINE: &str = "no complete request within 10 seconds";

/// Within a session a slow peer is only slow: it holds nothing but the device that is its own.
pub fn session(served: &Served) {
    let mut peer = served.import("sim-3");
    let setup = [0x80, 6, 0, 1, 0, 0, 18, 0];
    let bytes = header(&CmdSubmit { endpoint: 0, buffer_length: 18, setup, ..peer.submit(1) });
    let (slow, rest) = bytes.split_at(12);
    for byte in slow {
        peer.send(&[*byte]);
        thread::sleep(A_SECOND);
    }
    peer.send(rest);
    let answer = peer.answer(true);
    assert_eq!((answer.status, answer.body_bytes), (0, 18), "the device descriptor");
}
