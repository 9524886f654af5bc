//! The program as a process, and the sockets of its peers.

#![allow(dead_code, reason = "no test uses all of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use usbip_fast::attach::{self, Patience, Server};
use usbip_fast::reactor::select::Choice;
use usbip_fast::usb::transfer::Direction;
use usbip_fast::wire::op;
use usbip_fast::wire::urb::{CmdSubmit, HEADER_BYTES};
use usbip_fast_native::client::Family;

/// No answer takes this long.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Packets of a [`Served::stream`], at least: what it is beside may be over at once.
pub const LEAST_PACKETS: u64 = 200;

/// The program, serving devices of which time waits for the client.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Served {
    /// With devices `sim-1` to `sim-4`.
    pub fn start(reactor: &str) -> Self {
        let devices = ["zero:pace=demand"; 4].join(",");
        Self::start_with(&["--simulate", &devices, "--reactor", reactor])
    }

    /// With these arguments of `serve`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "none"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut first = String::new();
        let address = loop {
            first.clear();
            assert!(lines.read_line(&mut first).expect("readable") > 0, "it has started");
            if let Some((_, address)) = first.trim().rsplit_once("listening at ") {
                break address.parse().expect("an address");
            }
        };
        let log = thread::spawn(move || {
            let mut text = String::new();
            let _ = lines.read_to_string(&mut text);
            text
        });
        Self { child, address, log: Some(log) }
    }

    /// Ends it as an operator would; returns its log.
    pub fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ends in order: {status}");
        self.log.take().expect("stopped once").join().expect("read to the end")
    }

    /// Streams from the first device until told to stop; returns packets and failed packets.
    pub fn stream(&self, stop: Arc<AtomicBool>) -> JoinHandle<(u64, u64)> {
        let (host, tcp_port) = (self.address.ip().to_string(), self.address.port());
        let server = Server { host, tcp_port, family: Family::Any };
        thread::spawn(move || {
            let mut client = attach::client(&server, "sim-1", Choice::Auto, &Patience::default())
                .expect("sim-1 is free");
            client.set_interface(0, 1, TIMEOUT).expect("an alternate setting");
            for _ in 0..4 {
                let urb = client.isochronous_urb(0x82, &[1024; 8]).expect("an endpoint");
                client.submit(urb);
            }
            let (mut packets, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) || packets < LEAST_PACKETS {
                let done = client.poll(Some(TIMEOUT)).expect("connected").expect("in time");
                packets += 8;
                failed += u64::from(done.error_count) + u64::from(done.status != 0);
                failed += u64::from(done.actual_length != 8 * 1024);
                client.submit(done.urb);
                // As fast as a sound card asks, not as fast as the machine can.
                thread::sleep(Duration::from_micros(500));
            }
            (packets, failed)
        })
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it accepts");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
        stream
    }

    /// Imports a device; retried while the last one still has it.
    pub fn import(&self, bus_id: &str) -> Peer {
        for _ in 0..400 {
            let mut stream = self.connect();
            stream.write_all(&op::request_import(bus_id).expect("short")).expect("sent");
            let mut reply = Vec::new();
            let mut limited = (&mut stream).take(op::IMPORT_REPLY_BYTES as u64);
            limited.read_to_end(&mut reply).expect("an answer");
            if let Some(record) = reply.get(8..).and_then(|record| record.try_into().ok()) {
                let device = op::parse_device_record(record).expect("a device");
                return Peer { stream, device_id: device.device_id() };
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{bus_id} does not come free");
    }
}

impl Drop for Served {
    /// A test that has failed leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that has imported a device.
pub struct Peer {
    pub stream: TcpStream,
    pub device_id: u32,
}

/// What a RET_SUBMIT says.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub seqnum: u32,
    pub status: i32,
    pub actual_length: u32,
    /// Data and packet descriptors.
    pub body_bytes: usize,
}

impl Peer {
    /// A CMD_SUBMIT of 512 bytes of bulk IN, to be changed.
    pub fn submit(&self, seqnum: u32) -> CmdSubmit {
        CmdSubmit {
            seqnum,
            device_id: self.device_id,
            direction: Direction::In,
            endpoint: 1,
            transfer_flags: 0,
            buffer_length: 512,
            start_frame: 0,
            number_of_packets: 0,
            interval: 0,
            setup: [0; 8],
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// Reads a RET_SUBMIT with what belongs to it; `inward` if data follows.
    pub fn answer(&mut self, inward: bool) -> Answer {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).expect("an answer");
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four"));
        assert_eq!(word(0), 3, "RET_SUBMIT");
        let actual_length = word(24);
        let data = if inward { actual_length as usize } else { 0 };
        let body_bytes = data + word(32) as usize * 16;
        self.stream.read_exact(&mut vec![0; body_bytes]).expect("all of it");
        Answer { seqnum: word(4), status: word(20) as i32, actual_length, body_bytes }
    }

    /// Chooses the alternate setting with the isochronous endpoints.
    pub fn choose_isochronous(&mut self) {
        let setup = [1, 11, 1, 0, 0, 0, 0, 0];
        let out = CmdSubmit { direction: Direction::Out, endpoint: 0, ..self.submit(0x1000) };
        self.send(&header(&CmdSubmit { buffer_length: 0, setup, ..out }));
        assert_eq!(self.answer(false).status, 0);
    }

    /// Reads whatever still comes; an end, clean or by reset, must come.
    pub fn expect_end(mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open");
        }
    }
}

/// The bytes of a CMD_SUBMIT's header.
pub fn header(submit: &CmdSubmit) -> Vec<u8> {
    let mut bytes = [0; HEADER_BYTES];
    submit.emit(&mut bytes);
    bytes.to_vec()
}

/// A CMD_SUBMIT for packets at these offsets with these lengths, in a buffer of 100 bytes.
pub fn isochronous(
    peer: &Peer,
    seqnum: u32,
    direction: Direction,
    packets: &[[u32; 2]],
) -> Vec<u8> {
    let number_of_packets = i32::try_from(packets.len()).expect("few");
    let plain = CmdSubmit { direction, endpoint: 2, buffer_length: 100, ..peer.submit(seqnum) };
    let mut bytes = header(&CmdSubmit { number_of_packets, ..plain });
    if direction == Direction::Out {
        bytes.extend([0; 100]);
    }
    for [offset, length] in packets {
        for word in [*offset, *length, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
    }
    bytes
}
