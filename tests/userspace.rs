//! The client without a kernel against a real session, on both reactors.

mod server;

use std::time::Duration;

use usbip_fast::device::gadget::zero::{LOOPBACK, READ_BUFFER, SOURCE_SINK, WRITE_BUFFER};
use usbip_fast::host::userspace::{Client, ClientError};
use usbip_fast::reactor::select::Choice;
use usbip_fast::usb::setup::Setup;
use usbip_fast::usb::transfer::TransferType;

const PATIENCE: Duration = Duration::from_secs(10);

/// How long a test waits for what does not come.
const BRIEF: Duration = Duration::from_millis(50);

const REACTORS: [Choice; 2] = [Choice::Auto, Choice::Epoll];

fn vendor(request: u8) -> Setup {
    Setup { request_type: 0x40, request, value: 0, index: 0, length: 0 }
}

fn with_client(test: impl Fn(&mut Client)) {
    for choice in REACTORS {
        let (mut client, server) = server::open(choice);
        test(&mut client);
        drop(client);
        server.join();
    }
}

#[test]
fn one_transfer_at_a_time() {
    with_client(|client| {
        let written: Vec<u8> = (0..300).map(|at| at as u8).collect();
        client.control_out(vendor(WRITE_BUFFER), &written, PATIENCE).expect("taken");
        let mut read = [0; 300];
        let count = client.control_in(vendor(READ_BUFFER), &mut read, PATIENCE).expect("given");
        assert_eq!((count, read.as_slice()), (300, written.as_slice()));
        let mut zeros = [1; 70_000];
        assert_eq!(client.bulk_in(0x81, &mut zeros, PATIENCE), Ok(70_000));
        assert!(zeros.iter().all(|&byte| byte == 0));
        assert_eq!(client.bulk_out(0x01, &zeros, PATIENCE), Ok(70_000));
        assert_eq!(
            client.control_out(vendor(0x77), &[], PATIENCE),
            Err(ClientError::Transfer(-32))
        );
        assert_eq!(client.control_in(vendor(READ_BUFFER), &mut read, PATIENCE), Ok(300));
    });
}

#[test]
fn endpoints_follow_the_settings() {
    with_client(|client| {
        let periodic = |client: &Client| {
            let periodic = client.endpoints().active().filter(|of| of.kind != TransferType::Bulk);
            periodic.map(|of| of.address).collect::<Vec<u8>>()
        };
        assert!(periodic(client).is_empty());
        assert_eq!(client.urb(0x83, 8).err(), Some(ClientError::NoEndpoint(0x83)));
        client.set_interface(0, 2, PATIENCE).expect("it has it");
        assert_eq!(periodic(client), [0x03, 0x83]);
        assert_eq!(client.bulk_in(0x83, &mut [1; 64], PATIENCE), Ok(64));
        assert_eq!(client.bulk_in(0x01, &mut [1; 64], PATIENCE), Err(ClientError::NoEndpoint(1)));
        assert_eq!(client.set_interface(0, 9, PATIENCE), Err(ClientError::Transfer(-32)));
        assert_eq!(periodic(client), [0x03, 0x83]);
        client.set_interface(0, 1, PATIENCE).expect("it has it");
        let urb = client.isochronous_urb(0x82, &[1024, 0, 100]).expect("a URB");
        let id = client.submit(urb);
        let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
        assert_eq!((done.id, done.status, done.actual_length, done.error_count), (id, 0, 1124, 0));
        let packets: Vec<_> =
            done.urb.packets().iter().map(|packet| packet.actual_length.get()).collect();
        assert_eq!(packets, [1024, 0, 100]);
    });
}

#[test]
fn a_transfer_that_does_not_end_is_given_up_and_others_go_on() {
    with_client(|client| {
        client.set_configuration(LOOPBACK, PATIENCE).expect("it has it");
        let waiting = client.urb(0x81, 512).expect("a URB");
        let waiting = client.submit(waiting);
        let mut data = [0; 16];
        assert_eq!(client.bulk_in(0x81, &mut data, BRIEF), Err(ClientError::TimedOut(BRIEF)));
        assert!(client.poll(Some(BRIEF)).expect("a session").is_none(), "it waits still");
        assert_eq!(client.bulk_out(0x01, b"to and fro", PATIENCE), Ok(10));
        let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
        assert_eq!((done.id, done.status), (waiting, 0));
        assert_eq!(&done.urb.data()[..done.actual_length as usize], b"to and fro");
        let id = client.submit(done.urb);
        client.unlink(id);
        let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
        assert_eq!((done.id, done.status), (id, -104));
        client.set_configuration(SOURCE_SINK, PATIENCE).expect("it has it");
    });
}

#[test]
fn the_end_of_the_session_brings_everything_back_then_says_so() {
    for choice in REACTORS {
        let (mut client, server) = server::open(choice);
        client.set_configuration(LOOPBACK, PATIENCE).expect("it has it");
        let urb = client.urb(0x81, 512).expect("a URB");
        client.submit(urb);
        assert!(client.poll(Some(BRIEF)).expect("a session").is_none(), "it waits");
        server.stop();
        let done = client.poll(Some(PATIENCE)).expect("the URB first").expect("in time");
        assert_eq!(done.status, -108);
        assert!(matches!(client.poll(None), Err(ClientError::Ended(_))));
        assert!(matches!(
            client.control_out(vendor(WRITE_BUFFER), &[1], PATIENCE),
            Err(ClientError::Transfer(-108))
        ));
    }
}
