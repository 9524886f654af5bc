//! Talks to a device of a USB/IP server from a program, without a kernel in between.
//!
//! ```text
//! usbip-fast serve --simulate zero
//! cargo run --example talk -- 127.0.0.1 sim-1
//! ```

use std::error::Error;
use std::time::Duration;

use usbip_fast::attach::{self, Patience, Server};
use usbip_fast::host::userspace::Client;
use usbip_fast::reactor::select::Choice;
use usbip_fast::usb::descriptor::DeviceDescriptor;
use usbip_fast::usb::setup::{Setup, request};
use usbip_fast::usb::transfer::{Direction, TransferType};
use usbip_fast::wire::op;
use usbip_fast_native::client::Family;

const TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(host), Some(bus_id)) = (arguments.next(), arguments.next()) else {
        return Err("usage: talk HOST BUSID [TCP-PORT]".into());
    };
    let tcp_port = arguments.next().map_or(Ok(op::PORT), |text| text.parse())?;
    let server = Server { host, tcp_port, family: Family::Any };
    let mut client = attach::client(&server, &bus_id, Choice::Auto, &Patience::default())?;
    describe(&client);
    println!("product: {}", product_name(&mut client)?);
    read_in_one_go(&mut client)?;
    read_with_many_in_flight(&mut client)?;
    Ok(())
}

fn describe(client: &Client) {
    if let Some(device) = DeviceDescriptor::parse(client.endpoints().descriptors()) {
        println!("{:04x}:{:04x} at {}", device.vendor, device.product, client.speed());
    }
    for endpoint in client.endpoints().active() {
        println!("endpoint {:#04x}: {:?}", endpoint.address, endpoint.kind);
    }
}

/// A control transfer: the string descriptor 2, in English (USB 2.0 §9.6.7).
fn product_name(client: &mut Client) -> Result<String, Box<dyn Error>> {
    let (request_type, request) = (0x80, request::GET_DESCRIPTOR);
    let setup = Setup { request_type, request, value: 0x0302, index: 0x0409, length: 0 };
    let mut bytes = [0; 255];
    let count = client.control_in(setup, &mut bytes, TIMEOUT)?;
    let units: Vec<u16> = bytes[..count]
        .get(2..)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}

fn bulk_in(client: &Client) -> Option<u8> {
    let mut active = client.endpoints().active();
    let found = active.find(|endpoint| {
        endpoint.kind == TransferType::Bulk && endpoint.direction() == Direction::In
    });
    found.map(|endpoint| endpoint.address)
}

/// A bulk transfer that waits for its end.
fn read_in_one_go(client: &mut Client) -> Result<(), Box<dyn Error>> {
    let Some(address) = bulk_in(client) else {
        println!("no bulk IN endpoint");
        return Ok(());
    };
    let mut data = [0; 4096];
    let count = client.bulk_in(address, &mut data, TIMEOUT)?;
    println!("read {count} bytes, the first is {:#04x}", data[0]);
    Ok(())
}

/// Eight transfers in flight until 16 MiB have come: the distance to the server costs nothing.
fn read_with_many_in_flight(client: &mut Client) -> Result<(), Box<dyn Error>> {
    let Some(address) = bulk_in(client) else { return Ok(()) };
    for _ in 0..8 {
        let urb = client.urb(address, 64 * 1024)?;
        client.submit(urb);
    }
    let (mut bytes, mut in_flight) = (0, 8);
    while in_flight > 0 {
        let done = client.poll(Some(TIMEOUT))?.ok_or("the device is silent")?;
        if done.status != 0 {
            return Err(format!("a transfer ended with status {}", done.status).into());
        }
        bytes += done.actual_length as usize;
        in_flight -= 1;
        if bytes < 16 * 1024 * 1024 {
            client.submit(done.urb);
            in_flight += 1;
        }
    }
    println!("read {bytes} bytes with eight transfers in flight");
    Ok(())
}
