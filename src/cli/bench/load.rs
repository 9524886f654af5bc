//! Keeps a device busy.

use std::time::Duration;

use usbip_fast_native::clock;

use super::sample::Sample;
use super::{BenchArgs, Transfer};
use crate::error::Error;
use crate::host::userspace::{Client, ClientError, Done, Urb};
use crate::limits;
use crate::usb::descriptor::Configurations;
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{Direction, ISO_PACKET_BYTES, TransferType};
use crate::wire::urb::HEADER_BYTES;

/// Most silence of a device that is accepted.
const SILENCE: Duration = Duration::from_secs(10);

/// Bytes of the device descriptor, the most that a control transfer asks for.
const DEVICE_DESCRIPTOR_BYTES: u32 = 18;

/// Bytes of a bulk transfer if nothing is said.
const BULK_BYTES: u32 = 64 * 1024;

/// Packets of an isochronous URB if nothing is said.
const ISO_PACKETS: u32 = 8;

/// A device under load.
pub(super) struct Load {
    client: Client,
    /// Those not in flight.
    idle: Vec<Urb>,
    /// When each URB in flight was submitted, by its index.
    begun: Vec<Duration>,
    description: String,
    direction: Direction,
    size: u32,
    packets: u32,
}

/// Bytes of one transfer on the wire, for the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireBytes {
    pub(super) request: usize,
    pub(super) reply: usize,
    /// Bytes that count as payload.
    pub(super) payload: usize,
}

impl Load {
    /// Chooses endpoint and alternate setting and prepares the URBs.
    pub(super) fn new(mut client: Client, args: &BenchArgs) -> Result<Self, Error> {
        let (kind, direction) = kind_of(args.transfer);
        let address = match kind {
            TransferType::Control => 0x80,
            _ => choose_endpoint(&mut client, kind, direction)?,
        };
        let (size, packets) = sizes(&client, kind, address, args.size)?;
        let mut idle = Vec::new();
        for _ in 0..args.depth {
            let urb = make_urb(&client, kind, address, size, packets);
            idle.push(urb.map_err(client_error)?);
        }
        let begun = vec![Duration::ZERO; args.depth as usize];
        let endpoint = if kind == TransferType::Control { 0 } else { address };
        let description = format!("{} at endpoint {endpoint:#04x}", name(kind, direction));
        Ok(Self { client, idle, begun, description, direction, size, packets })
    }

    /// What is measured, for people.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// Bytes of each transfer as asked for.
    pub(super) fn wire(&self, seen: &Sample) -> WireBytes {
        let descriptors = self.packets as usize * ISO_PACKET_BYTES;
        let payload = usize::try_from(seen.bytes.checked_div(seen.urbs).unwrap_or(0))
            .expect("a transfer is at most 16 MiB");
        let (outward, inward) = match self.direction {
            Direction::Out => (self.size as usize, 0),
            Direction::In => (0, payload),
        };
        WireBytes {
            request: HEADER_BYTES + outward + descriptors,
            reply: HEADER_BYTES + inward + descriptors,
            payload,
        }
    }

    /// Keeps all URBs in flight for `duration`, then waits until they are back.
    pub(super) fn run(
        &mut self,
        duration: Duration,
        progress: &mut dyn FnMut(&Sample),
    ) -> Result<Sample, Error> {
        let mut sample = Sample::new();
        let until = sample.now() + duration;
        let mut in_flight = 0;
        for urb in std::mem::take(&mut self.idle) {
            let id = self.client.submit(urb);
            self.begun[id.index()] = sample.now();
            in_flight += 1;
        }
        while in_flight > 0 {
            let done = self.client.poll(Some(SILENCE)).map_err(client_error)?;
            let done = done.ok_or_else(|| client_error(ClientError::TimedOut(SILENCE)))?;
            let now = clock::now();
            in_flight -= 1;
            self.count(&done, now, &mut sample)?;
            if now < until {
                let id = self.client.submit(done.urb);
                self.begun[id.index()] = now;
                in_flight += 1;
                progress(&sample);
            } else {
                self.idle.push(done.urb);
            }
        }
        Ok(sample)
    }

    fn count(&self, done: &Done, now: Duration, sample: &mut Sample) -> Result<(), Error> {
        if done.status != 0 {
            return Err(client_error(ClientError::Transfer(done.status)));
        }
        sample.record(self.begun[done.id.index()], now, done.actual_length.into());
        sample.packets += u64::from(self.packets);
        sample.packet_errors += u64::from(done.error_count);
        Ok(())
    }
}

fn kind_of(transfer: Transfer) -> (TransferType, Direction) {
    match transfer {
        Transfer::Control => (TransferType::Control, Direction::In),
        Transfer::BulkIn => (TransferType::Bulk, Direction::In),
        Transfer::BulkOut => (TransferType::Bulk, Direction::Out),
        Transfer::InterruptIn => (TransferType::Interrupt, Direction::In),
        Transfer::InterruptOut => (TransferType::Interrupt, Direction::Out),
        Transfer::IsoIn => (TransferType::Isochronous, Direction::In),
        Transfer::IsoOut => (TransferType::Isochronous, Direction::Out),
    }
}

fn name(kind: TransferType, direction: Direction) -> String {
    let kind = match kind {
        TransferType::Control => "control",
        TransferType::Isochronous => "isochronous",
        TransferType::Bulk => "bulk",
        TransferType::Interrupt => "interrupt",
    };
    format!("{kind} {}", if direction == Direction::In { "IN" } else { "OUT" })
}

/// An endpoint of the active alternate settings, or the first of any other one, which becomes
/// active.
fn choose_endpoint(
    client: &mut Client,
    kind: TransferType,
    direction: Direction,
) -> Result<u8, Error> {
    let wanted = |of: TransferType, address: u8| {
        of == kind && (address & 0x80 != 0) == (direction == Direction::In)
    };
    let mut active = client.endpoints().active();
    if let Some(info) = active.find(|info| wanted(info.kind, info.address)) {
        return Ok(info.address);
    }
    drop(active);
    let endpoints = client.endpoints();
    let configuration =
        Configurations::new(endpoints.descriptors()).with_value(endpoints.configuration());
    let found = configuration.into_iter().flat_map(|of| of.settings()).find_map(|setting| {
        let endpoint = setting
            .endpoints()
            .find(|endpoint| wanted(kind_of_attributes(endpoint.attributes), endpoint.address))?;
        Some((setting.interface, setting.alternate, endpoint.address))
    });
    let Some((interface, alternate, address)) = found else {
        return Err(Error::with_advice(
            format!("the device has no {} endpoint", name(kind, direction)),
            "usbip-fast bench --help, and choose another --transfer",
        ));
    };
    client.set_interface(interface, alternate, SILENCE).map_err(client_error)?;
    Ok(address)
}

const fn kind_of_attributes(attributes: u8) -> TransferType {
    match attributes & 3 {
        0 => TransferType::Control,
        1 => TransferType::Isochronous,
        2 => TransferType::Bulk,
        _ => TransferType::Interrupt,
    }
}

/// Bytes and packets of each URB.
fn sizes(
    client: &Client,
    kind: TransferType,
    address: u8,
    wanted: Option<u32>,
) -> Result<(u32, u32), Error> {
    if kind == TransferType::Control {
        return match wanted.unwrap_or(DEVICE_DESCRIPTOR_BYTES) {
            size @ 1..=DEVICE_DESCRIPTOR_BYTES => Ok((size, 0)),
            size => Err(Error::Usage(format!(
                "control transfers read the device descriptor, 1 to 18 bytes, not {size}; \
                 type: --size 18"
            ))),
        };
    }
    let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
    let info = client
        .endpoints()
        .info(address & 0x0f, direction)
        .ok_or_else(|| client_error(ClientError::NoEndpoint(address)))?;
    let packet = info.packet_bytes().max(1);
    let size = wanted.unwrap_or(match kind {
        TransferType::Isochronous => packet * ISO_PACKETS,
        TransferType::Interrupt => packet,
        TransferType::Bulk | TransferType::Control => BULK_BYTES,
    });
    if size == 0 {
        return Err(Error::Usage("a transfer of no bytes measures nothing; type: --size 1".into()));
    }
    let packets = if kind == TransferType::Isochronous { size.div_ceil(packet) } else { 0 };
    Ok((size, packets))
}

fn make_urb(
    client: &Client,
    kind: TransferType,
    address: u8,
    size: u32,
    packets: u32,
) -> Result<Urb, ClientError> {
    match kind {
        TransferType::Control => client.control_urb(Setup {
            request_type: 0x80,
            request: request::GET_DESCRIPTOR,
            value: 0x0100,
            index: 0,
            length: u16::try_from(size).map_err(|_| ClientError::TooLong(size as usize))?,
        }),
        TransferType::Isochronous => {
            let packet = size.div_ceil(packets);
            let lengths: Vec<u32> =
                (0..packets).map(|number| packet.min(size - (number * packet).min(size))).collect();
            client.isochronous_urb(address, &lengths)
        }
        TransferType::Bulk | TransferType::Interrupt => client.urb(address, size as usize),
    }
}

/// The status of a transfer that the server has no memory for: -ENOMEM.
const NO_MEMORY: i32 = -12;

fn client_error(error: ClientError) -> Error {
    match error {
        ClientError::TooLong(_) => {
            return Error::Usage(format!(
                "{error}; type: --size {} or less",
                limits::TRANSFER_BYTES
            ));
        }
        ClientError::Transfer(NO_MEMORY) => {
            return Error::with_advice(
                "the server has no room for so many bytes in flight (status -12)",
                "usbip-fast bench with a smaller --depth or --size",
            );
        }
        _ => {}
    }
    Error::with_advice(error, "usbip-fast list -r HOST, and look at the server's log")
}
