//! The real program in a hostile network: idle, slow and talkative peers, and clients that break
//! the protocol, while an isochronous stream beside them must not miss a packet.

#![allow(clippy::disallowed_methods, reason = "the server is a process, its peers are sockets")]
#![allow(clippy::disallowed_types, reason = "as above")]

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
use usbip_fast::wire::urb::{CmdSubmit, CmdUnlink, HEADER_BYTES};
use usbip_fast_native::client::Family;
use usbip_fast_native::process;

const IDLE_CONNECTIONS: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The program, serving two devices of which time waits for the client.
struct Served {
    child: Child,
    address: SocketAddr,
    log: JoinHandle<String>,
}

impl Served {
    fn start(reactor: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
            .args(["serve", "--simulate", "zero:pace=demand,zero:pace=demand"])
            .args(["--listen", "127.0.0.1:0", "--reactor", reactor])
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
        Self { child, address, log }
    }

    /// Ends it as an operator would; returns its log.
    fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ends in order: {status}");
        self.log.join().expect("read to the end")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it accepts");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
        stream
    }

    /// Imports the second device and says its device id; retried while the last one still has it.
    fn import(&self) -> (TcpStream, u32) {
        for _ in 0..200 {
            let mut stream = self.connect();
            stream.write_all(&op::request_import("sim-2").expect("short")).expect("sent");
            let mut reply = Vec::new();
            let mut limited = (&mut stream).take(op::IMPORT_REPLY_BYTES as u64);
            limited.read_to_end(&mut reply).expect("an answer");
            if let Some(record) = reply.get(8..).and_then(|record| record.try_into().ok()) {
                let device = op::parse_device_record(record).expect("a device");
                return (stream, device.device_id());
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("sim-2 does not come free");
    }
}

/// Streams from the first device until told to stop; returns packets and failed packets.
fn stream(address: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<(u64, u64)> {
    thread::spawn(move || {
        let (host, tcp_port) = (address.ip().to_string(), address.port());
        let server = Server { host, tcp_port, family: Family::Any };
        let mut client = attach::client(&server, "sim-1", Choice::Auto, &Patience::default())
            .expect("sim-1 is free");
        client.set_interface(0, 1, TIMEOUT).expect("an alternate setting");
        for _ in 0..4 {
            let urb = client.isochronous_urb(0x82, &[1024; 8]).expect("an endpoint");
            client.submit(urb);
        }
        let (mut packets, mut failed) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let done = client.poll(Some(TIMEOUT)).expect("connected").expect("in time");
            packets += 8;
            failed += u64::from(done.error_count) + u64::from(done.status != 0);
            failed += u64::from(done.actual_length != 8 * 1024);
            client.submit(done.urb);
        }
        (packets, failed)
    })
}

fn submit(device_id: u32, seqnum: u32) -> CmdSubmit {
    CmdSubmit {
        seqnum,
        device_id,
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

fn header(emit: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    emit(&mut bytes);
    bytes
}

/// Sends what breaks a rule; the server must end this connection, whatever else it sends before.
fn break_rule(served: &Served, make: impl FnOnce(u32) -> Vec<u8>) {
    let (mut stream, device_id) = served.import();
    stream.write_all(&make(device_id)).expect("sent");
    let mut rest = Vec::new();
    // An end, clean or by reset: what matters is that it does not stay open.
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open"),
    }
}

fn run(reactor: &str) {
    process::raise_descriptor_limit(4096).expect("room for a thousand connections");
    let served = Served::start(reactor);
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = stream(served.address, Arc::clone(&stop));
    let idle: Vec<_> = (0..IDLE_CONNECTIONS).map(|_| served.connect()).collect();
    let mut slow = served.connect();
    for byte in &op::request_devlist()[..4] {
        slow.write_all(&[*byte]).expect("sent");
        thread::sleep(Duration::from_millis(50));
    }
    served.connect().write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    served.connect().write_all(&op::request_import("sim-2").expect("short")[..20]).expect("sent");

    break_rule(&served, |id| header(|bytes| submit(id ^ 1, 1).emit(bytes)).to_vec());
    break_rule(&served, |id| {
        // The second comes while the first is held up by its own body.
        let out = CmdSubmit { direction: Direction::Out, buffer_length: u32::MAX, ..submit(id, 1) };
        header(|bytes| out.emit(bytes)).to_vec()
    });
    break_rule(&served, |id| {
        let large = CmdSubmit { buffer_length: 16 * 1024 * 1024 + 1, ..submit(id, 1) };
        header(|bytes| large.emit(bytes)).to_vec()
    });
    break_rule(&served, |id| {
        let mut bytes = header(|bytes| submit(id, 1).emit(bytes)).to_vec();
        bytes[3] = 9;
        bytes
    });
    break_rule(&served, |id| {
        let unlink = CmdUnlink { seqnum: 1, device_id: !id, unlink_seqnum: 7 };
        header(|bytes| unlink.emit(bytes)).to_vec()
    });
    let (mut truncated, id) = served.import();
    truncated.write_all(&header(|bytes| submit(id, 1).emit(bytes))[..30]).expect("sent");
    drop(truncated);
    let (last, _) = served.import();
    drop(last);

    stop.store(true, Ordering::Relaxed);
    let (packets, failed) = streaming.join().expect("the stream has lived through it");
    assert!(packets > 1000, "only {packets} packets");
    assert_eq!(failed, 0, "of {packets} packets");
    let mut listing = served.connect();
    listing.write_all(&op::request_devlist()).expect("sent");
    let mut list = Vec::new();
    listing.read_to_end(&mut list).expect("a list");
    assert_eq!(list[..8], [1, 0x11, 0, 5, 0, 0, 0, 0]);
    drop((idle, slow));
    let log = served.stop();
    for rule in [
        "unknown request code 0x5420",
        "closed inside its request",
        "device id 0x",
        "malformed PDU",
        "ended inside a PDU",
        "closed by the peer",
    ] {
        assert!(log.contains(rule), "no line says {rule:?}:\n{log}");
    }
    let ends = log.lines().filter(|line| line.contains("session ended")).count();
    assert!(ends >= 8, "one line for each session: {ends}\n{log}");
}

#[test]
fn a_stream_misses_nothing_beside_hostile_peers_on_io_uring() {
    run("auto");
}

#[test]
fn a_stream_misses_nothing_beside_hostile_peers_on_epoll() {
    run("epoll");
}

#[test]
fn a_server_outlives_what_reads_its_log() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
        .args(["serve", "--simulate", "zero", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("readable");
    let (_, address) = line.trim().rsplit_once("listening at ").expect("the first line");
    let address: SocketAddr = address.parse().expect("an address");
    drop(lines);
    let (host, tcp_port) = (address.ip().to_string(), address.port());
    let server = Server { host, tcp_port, family: Family::Any };
    for _ in 0..3 {
        // Each refused import is a line that nobody reads.
        attach::import(&server, "nothing", &Patience::default()).expect_err("no such device");
    }
    assert_eq!(attach::list(&server, &Patience::default()).expect("it lives").len(), 1);
    assert!(child.try_wait().expect("its state").is_none());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
