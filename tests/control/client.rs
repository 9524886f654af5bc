//! Clients of the control channel, written from control-channel.md and not from the server.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::served::Served;

pub const PREFACE: &[u8; 8] = b"SBUSBIP1";
/// HELLO of a client that can do everything.
pub const HELLO: [u8; 16] = [1, 1, 0, 0, 0, 0, 0, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0];

pub const ACK: u8 = 2;
pub const CHANGED: u8 = 3;
pub const SNAPSHOT: u8 = 6;
pub const DELTA: u8 = 7;
pub const LEASE_RESPONSE: u8 = 9;

/// A frame of the LEASE dialect.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub capabilities: u32,
    pub sequence: u64,
    /// Null without a payload.
    pub json: Value,
}

/// A client of the LEASE dialect.
pub struct Leasing {
    pub stream: TcpStream,
    /// Of the last state.
    pub sequence: u64,
}

impl Leasing {
    /// Says hello; nothing is read yet.
    pub fn hello(served: &Served, capabilities: u8) -> Self {
        let mut stream = served.connect();
        let mut hello = HELLO;
        hello[7] = capabilities;
        stream.write_all(&[&PREFACE[..], &hello].concat()).expect("sent");
        Self { stream, sequence: 0 }
    }

    /// Subscribes; returns the devices.
    pub fn subscribe(served: &Served) -> (Self, Value) {
        let mut client = Self::hello(served, 0x1f);
        let ack = client.frame();
        assert_eq!((ack.kind, ack.capabilities, &ack.json), (ACK, 0x1f, &Value::Null));
        let snapshot = client.frame();
        assert_eq!((snapshot.kind, snapshot.sequence), (SNAPSHOT, ack.sequence));
        assert_eq!(snapshot.json["sequence"], ack.sequence);
        client.sequence = ack.sequence;
        (client, snapshot.json["devices"].clone())
    }

    pub fn frame(&mut self) -> Frame {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).expect("a frame");
        assert_eq!(header[1], 1, "version");
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
        self.stream.read_exact(&mut payload).expect("all of it");
        let json = match payload.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&payload).expect("JSON"),
        };
        Frame {
            kind: header[0],
            capabilities: u32::from_be_bytes(header[4..8].try_into().expect("four")),
            sequence: u64::from_be_bytes(header[8..].try_into().expect("eight")),
            json,
        }
    }

    /// The next frame is a difference, without a gap; returns it.
    pub fn delta(&mut self) -> Value {
        let frame = self.frame();
        assert_eq!((frame.kind, frame.sequence), (DELTA, self.sequence + 1), "{frame:?}");
        assert_eq!(frame.json["sequence"], frame.sequence);
        self.sequence += 1;
        frame.json
    }

    /// The next frame says that this device, and no other, is in this state now.
    pub fn expect(&mut self, bus_id: &str, state: &str, code: u32, reason: &str) {
        let delta = self.delta();
        assert!(delta.get("added").is_none() && delta.get("removed").is_none(), "{delta}");
        let [device] = &delta["updated"].as_array().expect("a list")[..] else {
            panic!("one device: {delta}")
        };
        assert_eq!(device["busid"], bus_id);
        let said = (&device["state"], &device["status_code"], &device["status_reason"]);
        assert_eq!(said, (&state.into(), &code.into(), &reason.into()), "{delta}");
    }

    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        self.stream.write_all(&frame(kind, payload)).expect("sent");
    }

    /// Asks for a lease; returns the answer.
    pub fn ask(&mut self, payload: &[u8]) -> Value {
        self.send(8, payload);
        let frame = self.frame();
        assert_eq!((frame.kind, frame.sequence), (LEASE_RESPONSE, 0));
        frame.json
    }

    pub fn lease(&mut self, bus_id: &str, nonce: u64) -> Value {
        self.ask(format!(r#"{{"busid":"{bus_id}","client_nonce":{nonce}}}"#).as_bytes())
    }

    pub fn expect_pong(&mut self) {
        self.send(4, b"");
        let pong = self.frame();
        assert_eq!((pong.kind, pong.sequence, &pong.json), (5, 0, &Value::Null));
    }
}

/// A frame of the LEASE dialect as a client sends it.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [&[kind, 1, length[0], length[1]], &[0; 12][..], payload].concat()
}

/// A client of the PLAIN dialects.
pub struct Plain(pub TcpStream);

impl Plain {
    pub fn hello(served: &Served) -> Self {
        let mut stream = served.connect();
        stream.write_all(&[&PREFACE[..], &[1, 1, 0, 0]].concat()).expect("sent");
        Self(stream)
    }

    pub fn subscribe(served: &Served) -> Self {
        let mut client = Self::hello(served);
        assert_eq!(client.frame(), (2, Value::Null), "ACK");
        client
    }

    pub fn frame(&mut self) -> (u8, Value) {
        let mut header = [0; 4];
        self.0.read_exact(&mut header).expect("a frame");
        assert_eq!(header[1], 1, "version");
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
        self.0.read_exact(&mut payload).expect("all of it");
        let json = match payload.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&payload).expect("JSON"),
        };
        (header[0], json)
    }

    /// The next frame is a complete state: bus ids and their states.
    pub fn states(&mut self) -> Vec<(String, Value)> {
        let (kind, json) = self.frame();
        assert_eq!(kind, 5, "DEVICE_SNAPSHOT");
        let devices = json["devices"].as_array().expect("a list");
        let state = |device: &Value| {
            (device["busid"].as_str().expect("text").to_owned(), device["state"].clone())
        };
        devices.iter().map(state).collect()
    }
}
