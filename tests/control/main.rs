//! The control channel of the real program, with clients of each dialect written from
//! control-channel.md, and with such as break its rules.

#![allow(clippy::disallowed_methods, reason = "the server is a process, its peers are sockets")]
#![allow(clippy::disallowed_types, reason = "as above")]

mod bad_input;
mod client;
mod lease;
mod plain;
#[path = "../hostile_network/served.rs"]
mod served;

use std::io::{Read, Write};

use served::Served;
use usbip_fast::wire::op;

fn two_devices() -> Served {
    Served::start_with(&["--simulate", "zero,zero"])
}

/// Bus ids that a client without the control channel is shown.
fn listed(served: &Served) -> Vec<String> {
    let mut stream = served.connect();
    stream.write_all(&op::request_devlist()).expect("sent");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("a list");
    assert_eq!(reply[..8], [1, 0x11, 0, 5, 0, 0, 0, 0]);
    let devices = op::parse_devlist(&reply[8..]).expect("a list");
    devices.into_iter().map(|device| device.bus_id).collect()
}

/// Sends an import of either kind; the answer is its whole reply, and the socket.
fn import(served: &Served, request: &[u8]) -> (Vec<u8>, std::net::TcpStream) {
    let mut stream = served.connect();
    stream.write_all(request).expect("sent");
    let mut reply = Vec::new();
    let mut limited = (&mut stream).take(op::IMPORT_REPLY_BYTES as u64);
    limited.read_to_end(&mut reply).expect("an answer");
    (reply, stream)
}

fn plain_import(served: &Served, bus_id: &str) -> (Vec<u8>, std::net::TcpStream) {
    import(served, &op::request_import(bus_id).expect("short"))
}
