#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a scripted server")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use super::*;
use crate::host::{Hub, Port, PortState};
use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;

fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        request: Duration::from_secs(5),
        reply: Duration::from_millis(200),
        configure: Duration::from_millis(100),
        settle: Duration::from_millis(5),
        settle_incomplete: Duration::from_millis(30),
        look: Duration::from_millis(1),
    }
}

fn description(bus_id: &str) -> DeviceDescription {
    DeviceDescription {
        path: format!("/sys/bus/usb/devices/{bus_id}"),
        bus_id: bus_id.into(),
        location: String::new(),
        bus_number: 3,
        device_number: 7,
        speed: Speed::High,
        vendor: 0x0525,
        product: 0xa4a0,
        release: 0x0100,
        class: Class { class: 0xff, subclass: 0, protocol: 0 },
        configuration: 1,
        configurations: 1,
        interfaces: vec![Class { class: 0xff, subclass: 0, protocol: 0 }],
        manufacturer_name: String::new(),
        product_name: String::new(),
        serial: "0123".into(),
        descriptors: Vec::new(),
    }
}

/// A server that takes one connection, reads a request of the given size, says its line and, when
/// told to, keeps the connection until the client goes. Gives back the request.
fn script(request_bytes: usize, reply: Vec<u8>, keep_open: bool) -> (Server, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let tcp_port = listener.local_addr().expect("bound").port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = vec![0; request_bytes];
        stream.read_exact(&mut request).expect("a request");
        stream.write_all(&reply).expect("sent");
        if keep_open {
            let _ = stream.read(&mut [0; 1]);
        }
        request
    });
    (Server { host: "127.0.0.1".into(), tcp_port, family: Family::Any }, thread)
}

fn import_error(reply: Vec<u8>, keep_open: bool) -> AttachError {
    let (server, thread) = script(op::REQUEST_IMPORT_BYTES, reply, keep_open);
    let error = import(&server, "3-1", &patience()).expect_err("refused");
    thread.join().expect("the script ran to its end");
    error
}

#[test]
fn an_import_is_asked_for_and_checked() {
    let mut reply = op::import_reply(&description("3-1")).to_vec();
    // Bytes behind the reply belong to the URB phase and must stay in the socket.
    reply.extend_from_slice(b"next");
    let (server, thread) = script(op::REQUEST_IMPORT_BYTES, reply, true);
    let (mut connection, device) = import(&server, "3-1", &patience()).expect("imported");
    assert_eq!(device.device_id(), 0x0003_0007);
    assert_eq!(device.speed, Speed::High);
    let mut rest = [0; 4];
    connection.receive(&mut rest, clock::now() + Duration::from_secs(5)).expect("left in place");
    assert_eq!(&rest, b"next");
    drop(connection);
    let request = thread.join().expect("the script ran to its end");
    assert_eq!(&request[..8], [0x01, 0x11, 0x80, 0x03, 0, 0, 0, 0]);
    assert_eq!(&request[8..12], b"3-1\0");
}

#[test]
fn another_version_is_refused() {
    let mut reply = op::import_reply(&description("3-1")).to_vec();
    reply[1] = 0x10;
    let error = import_error(reply, true);
    assert!(matches!(error, AttachError::Malformed { source: Malformed::Version(0x0110), .. }));
}

#[test]
fn another_code_is_refused() {
    let mut reply = op::import_reply(&description("3-1")).to_vec();
    reply[3] = 0x05;
    let error = import_error(reply, true);
    assert!(matches!(error, AttachError::Malformed { source: Malformed::Code(5), .. }));
}

#[test]
fn another_device_is_refused() {
    let error = import_error(op::import_reply(&description("3-10")).to_vec(), true);
    assert!(matches!(&error, AttachError::WrongDevice { given, .. } if given == "3-10"));
    assert!(error.to_string().contains("was not attached"));
}

#[test]
fn a_refusal_names_reason_and_next_command() {
    let error = import_error(op::import_refusal(op::STATUS_DEVICE_BUSY).to_vec(), false);
    let text = error.to_string();
    assert!(matches!(error, AttachError::Refused { .. }));
    assert!(text.contains("device busy") && text.contains("list -r 127.0.0.1"), "{text}");
}

#[test]
fn silence_ends_at_the_time_limit() {
    let error = import_error(Vec::new(), true);
    assert!(matches!(error, AttachError::Silent { .. }), "{error}");
    let half = op::import_reply(&description("3-1"))[..100].to_vec();
    let error = import_error(half, true);
    assert!(matches!(error, AttachError::Silent { .. }), "{error}");
}

#[test]
fn an_end_without_a_reply_is_told() {
    assert!(matches!(import_error(Vec::new(), false), AttachError::Ended { .. }));
    let half = op::import_reply(&description("3-1"))[..100].to_vec();
    assert!(matches!(import_error(half, false), AttachError::Ended { .. }));
}

#[test]
fn a_port_nobody_listens_at_gives_advice() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let tcp_port = listener.local_addr().expect("bound").port();
    drop(listener);
    let server = Server { host: "127.0.0.1".into(), tcp_port, family: Family::Any };
    let text = list(&server, &patience()).expect_err("nobody").to_string();
    assert!(text.contains("usbip-fast serve"), "{text}");
}

#[test]
fn a_bus_id_that_cannot_be_one_is_not_sent() {
    let server = Server { host: "127.0.0.1".into(), tcp_port: 1, family: Family::Any };
    let error = import(&server, &"1".repeat(32), &patience()).expect_err("too long");
    assert!(matches!(error, AttachError::BusId { source: Malformed::BusIdTooLong, .. }));
}

#[test]
fn a_list_comes_in_pieces_and_is_read_whole() {
    let (one, two) = (description("1-1"), description("1-2"));
    let mut reply = Vec::new();
    op::devlist_reply(&[&one, &two], &mut reply);
    let (server, thread) = script(op::HEADER_BYTES, reply, true);
    let devices = list(&server, &patience()).expect("listed");
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[1].bus_id, "1-2");
    assert_eq!(devices[1].interfaces, two.interfaces);
    assert_eq!(devices[0].serial, "0123");
    thread.join().expect("the script ran to its end");
}

#[test]
fn a_list_that_claims_too_much_is_refused() {
    let mut reply = OpHeader::new(op::REP_DEVLIST, op::STATUS_OK).to_bytes().to_vec();
    reply.extend_from_slice(&u32::MAX.to_be_bytes());
    let (server, thread) = script(op::HEADER_BYTES, reply, true);
    let error = list(&server, &patience()).expect_err("too much");
    let AttachError::Malformed { source, .. } = error else { panic!("{error}") };
    assert_eq!(source, Malformed::DeviceCount(u32::MAX));
    thread.join().expect("the script ran to its end");
}

/// A host controller whose device goes through the given states, one per look.
#[derive(Default)]
struct ScriptedHost {
    progress: std::cell::RefCell<Vec<Progress>>,
    attached: Option<ImportedDevice>,
}

impl ScriptedHost {
    fn new(progress: &[Progress]) -> Self {
        let mut progress = progress.to_vec();
        progress.reverse();
        Self { progress: progress.into(), attached: None }
    }
}

impl HostController for ScriptedHost {
    fn ports(&self) -> Result<Vec<Port>, HostError> {
        Ok(vec![Port {
            number: 4,
            controller: 0,
            hub: Hub::High,
            state: PortState::Free,
            speed: Speed::Unknown,
            device_id: 0,
            local_bus_id: None,
            origin: None,
        }])
    }

    fn check_rights(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn attach(
        &mut self,
        _connection: OwnedFd,
        device: &ImportedDevice,
        _wanted: Option<u32>,
    ) -> Result<u32, HostError> {
        self.attached = Some(device.clone());
        Ok(4)
    }

    fn detach(&mut self, port: u32) -> Result<(), HostError> {
        Err(HostError::PortEmpty(port))
    }

    /// The last state stays.
    fn progress(&self, _port: u32) -> Result<Progress, HostError> {
        let mut progress = self.progress.borrow_mut();
        if progress.len() > 1 {
            return Ok(progress.pop().expect("more than one"));
        }
        Ok(progress.first().expect("one is left").clone())
    }
}

fn configured(names: &[&str], complete: bool) -> Progress {
    Progress::Configured(Appearance {
        bus_id: "3-1".into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        complete,
        ..Appearance::default()
    })
}

#[test]
fn the_imported_device_reaches_the_host_with_its_origin() {
    let reply = op::import_reply(&description("3-1")).to_vec();
    let (server, thread) = script(op::REQUEST_IMPORT_BYTES, reply, true);
    let mut host = ScriptedHost::default();
    let port = attach(&mut host, &server, "3-1", None, &patience()).expect("attached");
    thread.join().expect("the script ran to its end");
    let device = host.attached.expect("handed over");
    assert_eq!((port, device.device_id, device.speed), (4, 0x0003_0007, Speed::High));
    assert_eq!(device.origin.bus_id, "3-1");
    assert_eq!(device.origin.tcp_port, server.tcp_port);
}

#[test]
fn what_appears_late_is_waited_for() {
    let host = ScriptedHost::new(&[
        Progress::Starting,
        configured(&[], false),
        configured(&["/dev/sda"], true),
        configured(&["/dev/sda", "/dev/sda1"], true),
    ]);
    let seen = wait(&host, 4, &patience()).expect("configured");
    assert_eq!(seen.names, ["/dev/sda", "/dev/sda1"]);
}

#[test]
fn a_device_without_a_driver_is_not_waited_for_forever() {
    let host = ScriptedHost::new(&[configured(&[], false)]);
    assert!(wait(&host, 4, &patience()).expect("configured").names.is_empty());
}

#[test]
fn a_device_that_is_never_configured_is_told() {
    let host = ScriptedHost::new(&[Progress::Starting]);
    let error = wait(&host, 4, &patience()).expect_err("never");
    assert!(matches!(error, AttachError::NotConfigured { port: 4, .. }));
    assert!(error.to_string().contains("detach -p 4"));
}

#[test]
fn a_port_that_ends_is_told() {
    for end in [Progress::Gone, Progress::Failed] {
        let host = ScriptedHost::new(&[Progress::Starting, end]);
        assert!(matches!(wait(&host, 4, &patience()), Err(AttachError::PortEnded { port: 4 })));
    }
}

#[test]
fn servers_are_written_as_addresses() {
    let server = |host: &str| Server { host: host.into(), tcp_port: 3240, family: Family::Any };
    assert_eq!(server("::1").to_string(), "[::1]:3240");
    assert_eq!(server("[::1]").to_string(), "[::1]:3240");
    assert_eq!(server("pi.local").to_string(), "pi.local:3240");
}
