//! The phase before a device is imported: listing and importing (usbip-wire.md §2.2 to §2.6).

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute, transmute_ref};

use crate::limits;
use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;

/// TCP port of USB/IP servers.
pub const PORT: u16 = 3240;
/// Protocol version 1.1.1.
pub const VERSION: u16 = 0x0111;
/// Code of a request for the list of devices.
pub const REQ_DEVLIST: u16 = 0x8005;
/// Code of the list of devices.
pub const REP_DEVLIST: u16 = 0x0005;
/// Code of a request for a device.
pub const REQ_IMPORT: u16 = 0x8003;
/// Code of the answer to that.
pub const REP_IMPORT: u16 = 0x0003;
/// Code of a request for a device by whoever has a lease on it.
pub const REQ_IMPORT_EXT: u16 = 0x8f03;
/// Code of the answer to that.
pub const REP_IMPORT_EXT: u16 = 0x0f03;

/// What a control connection begins with, where others have an operation header.
pub const CONTROL_PREFACE: [u8; HEADER_BYTES] = *b"SBUSBIP1";

/// The operation succeeded.
pub const STATUS_OK: u32 = 0;
/// The operation failed: no such device, or not to be had. What servers send for every refusal.
pub const STATUS_NOT_AVAILABLE: u32 = 1;
/// The device is in use.
pub const STATUS_DEVICE_BUSY: u32 = 2;
/// The device is in an error state.
pub const STATUS_DEVICE_ERROR: u32 = 3;
/// There is no such device.
pub const STATUS_NO_DEVICE: u32 = 4;

/// Size of the operation header.
pub const HEADER_BYTES: usize = 8;
/// Size of the bus id field.
pub const BUS_ID_FIELD_BYTES: usize = 32;
/// Size of a device record.
pub const DEVICE_BYTES: usize = 312;
/// Size of an interface record.
pub const INTERFACE_BYTES: usize = 4;
/// Size of a request for a device.
pub const REQUEST_IMPORT_BYTES: usize = HEADER_BYTES + BUS_ID_FIELD_BYTES;
/// Size of a request for a device with a lease.
pub const REQUEST_IMPORT_EXT_BYTES: usize = HEADER_BYTES + IMPORT_EXT_BODY_BYTES;
/// Size of what is behind the header of a request for a device with a lease: bus id, number of the
/// lease, nonce, flags, and four bytes of nothing.
pub const IMPORT_EXT_BODY_BYTES: usize = BUS_ID_FIELD_BYTES + 24;
/// Size of the answer that hands out a device.
pub const IMPORT_REPLY_BYTES: usize = HEADER_BYTES + DEVICE_BYTES;

const SERIAL_PREFIX: &[u8] = b"serial=";

/// Why an operation's bytes are refused; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Bus id with no characters.
    #[error("bus id is empty")]
    BusIdEmpty,
    /// Bus id that is not text or has control characters in it.
    #[error("bus id is not printable text")]
    BusIdNotText,
    /// Bus id over [`limits::BUS_ID_BYTES`], or without a NUL in its field.
    #[error("bus id is longer than 31 bytes")]
    BusIdTooLong,
    /// Reply code other than the one expected.
    #[error("peer answered with code {0:#06x}")]
    Code(u16),
    /// More devices than [`limits::DEVLIST_DEVICES`].
    #[error("peer lists {0} devices, over the limit of 4096")]
    DeviceCount(u32),
    /// A list that is over [`limits::DEVLIST_BYTES`].
    #[error("peer's list of devices is over 8 MiB")]
    ListTooLong,
    /// The request was refused.
    #[error("peer refused: {}", status_text(*.0))]
    Refused(u32),
    /// Bytes behind the end of a list.
    #[error("peer sent {0} bytes behind its list of devices")]
    Trailing(usize),
    /// A list that ends before its last record.
    #[error("peer's list of devices is cut off")]
    Truncated,
    /// Version other than [`VERSION`].
    #[error("peer speaks USB/IP version {0:#06x}, not 0x0111")]
    Version(u16),
}

/// What a status in an operation header means, for people.
#[must_use]
pub const fn status_text(status: u32) -> &'static str {
    match status {
        STATUS_OK => "success",
        STATUS_NOT_AVAILABLE => "device not available",
        STATUS_DEVICE_BUSY => "device busy",
        STATUS_DEVICE_ERROR => "device in error state",
        STATUS_NO_DEVICE => "no such device",
        _ => "unexpected error",
    }
}

/// The 8 bytes every operation begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpHeader {
    /// [`VERSION`].
    pub version: u16,
    /// Which operation; servers look at nothing else.
    pub code: u16,
    /// 0 in requests.
    pub status: u32,
}

impl OpHeader {
    /// A header of this protocol's version.
    #[must_use]
    pub const fn new(code: u16, status: u32) -> Self {
        Self { version: VERSION, code, status }
    }

    /// Reads a header; what it says is not judged here.
    #[must_use]
    pub const fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            version: u16::from_be_bytes([a, b]),
            code: u16::from_be_bytes([c, d]),
            status: u32::from_be_bytes([e, f, g, h]),
        }
    }

    /// Writes it.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b] = self.version.to_be_bytes();
        let [c, d] = self.code.to_be_bytes();
        let [e, f, g, h] = self.status.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// What a client demands of the header of a reply.
    ///
    /// # Errors
    ///
    /// [`Malformed::Version`], [`Malformed::Code`], or [`Malformed::Refused`] with the status.
    pub const fn check_reply(self, code: u16) -> Result<(), Malformed> {
        if self.version != VERSION {
            return Err(Malformed::Version(self.version));
        }
        if self.code != code {
            return Err(Malformed::Code(self.code));
        }
        if self.status != STATUS_OK {
            return Err(Malformed::Refused(self.status));
        }
        Ok(())
    }
}

/// Asks for the list of devices.
#[must_use]
pub const fn request_devlist() -> [u8; HEADER_BYTES] {
    OpHeader::new(REQ_DEVLIST, STATUS_OK).to_bytes()
}

/// Asks for a device.
///
/// # Errors
///
/// A bus id that does not fit the field or is not printable text.
pub fn request_import(bus_id: &str) -> Result<[u8; REQUEST_IMPORT_BYTES], Malformed> {
    check_bus_id(bus_id)?;
    let mut request = [0; REQUEST_IMPORT_BYTES];
    request[..HEADER_BYTES].copy_from_slice(&OpHeader::new(REQ_IMPORT, STATUS_OK).to_bytes());
    request[HEADER_BYTES..][..bus_id.len()].copy_from_slice(bus_id.as_bytes());
    Ok(request)
}

/// Reads the bus id of a request for a device: the 32 bytes behind its header.
///
/// # Errors
///
/// A bus id that is empty, has no NUL behind it, or is not printable text: no device has it.
pub fn parse_import_bus_id(field: &[u8; BUS_ID_FIELD_BYTES]) -> Result<&str, Malformed> {
    let end = field.iter().position(|&byte| byte == 0).ok_or(Malformed::BusIdTooLong)?;
    let bus_id = std::str::from_utf8(&field[..end]).map_err(|_| Malformed::BusIdNotText)?;
    check_bus_id(bus_id)?;
    Ok(bus_id)
}

/// What a client shows that has a lease on the device it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportExt {
    /// Which device.
    pub bus_id: String,
    /// The lease.
    pub lease_id: u64,
    /// What the client has chosen when it asked for the lease.
    pub nonce: u64,
    /// Always 0 so far; servers do not look at it.
    pub flags: u32,
}

impl ImportExt {
    /// Reads what is behind the header of the request.
    ///
    /// # Errors
    ///
    /// As [`parse_import_bus_id`].
    pub fn parse(body: &[u8; IMPORT_EXT_BODY_BYTES]) -> Result<Self, Malformed> {
        let (field, rest) = body.split_first_chunk().expect("the field is the body's beginning");
        let (lease_id, rest) = rest.split_first_chunk().expect("24 bytes are behind the field");
        let (nonce, rest) = rest.split_first_chunk().expect("16 bytes are left");
        let (flags, _) = rest.split_first_chunk().expect("8 bytes are left");
        Ok(Self {
            bus_id: parse_import_bus_id(field)?.to_owned(),
            lease_id: u64::from_be_bytes(*lease_id),
            nonce: u64::from_be_bytes(*nonce),
            flags: u32::from_be_bytes(*flags),
        })
    }

    /// The whole request.
    ///
    /// # Errors
    ///
    /// As [`request_import`].
    pub fn to_request(&self) -> Result<[u8; REQUEST_IMPORT_EXT_BYTES], Malformed> {
        let plain = request_import(&self.bus_id)?;
        let mut request = [0; REQUEST_IMPORT_EXT_BYTES];
        request[..REQUEST_IMPORT_BYTES].copy_from_slice(&plain);
        let header = OpHeader::new(REQ_IMPORT_EXT, STATUS_OK).to_bytes();
        request[..HEADER_BYTES].copy_from_slice(&header);
        request[40..48].copy_from_slice(&self.lease_id.to_be_bytes());
        request[48..56].copy_from_slice(&self.nonce.to_be_bytes());
        request[56..60].copy_from_slice(&self.flags.to_be_bytes());
        Ok(request)
    }
}

/// A bus id goes into log lines and paths, so it holds no control characters.
fn check_bus_id(bus_id: &str) -> Result<(), Malformed> {
    if bus_id.is_empty() {
        Err(Malformed::BusIdEmpty)
    } else if bus_id.len() > limits::BUS_ID_BYTES {
        Err(Malformed::BusIdTooLong)
    } else if bus_id.chars().any(char::is_control) {
        Err(Malformed::BusIdNotText)
    } else {
        Ok(())
    }
}

/// Hands out a device. The client may send URBs as soon as it has read this.
#[must_use]
pub fn import_reply(device: &DeviceDescription) -> [u8; IMPORT_REPLY_BYTES] {
    let mut reply = [0; IMPORT_REPLY_BYTES];
    let (header, record) = reply.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&OpHeader::new(REP_IMPORT, STATUS_OK).to_bytes());
    record.copy_from_slice(&device_record(device));
    reply
}

/// Refuses a device; nothing follows, and the connection ends.
#[must_use]
pub const fn import_refusal(status: u32) -> [u8; HEADER_BYTES] {
    OpHeader::new(REP_IMPORT, status).to_bytes()
}

/// Appends the list of devices, in the order given, to `out`.
pub fn devlist_reply(devices: &[&DeviceDescription], out: &mut Vec<u8>) {
    let count = u32::try_from(devices.len()).expect("a machine has fewer than 2^32 devices");
    out.extend_from_slice(&OpHeader::new(REP_DEVLIST, STATUS_OK).to_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    for device in devices {
        out.extend_from_slice(&device_record(device));
        for interface in &device.interfaces[..usize::from(interface_count(device))] {
            out.extend_from_slice(&[interface.class, interface.subclass, interface.protocol, 0]);
        }
    }
}

/// A device as a client reads it from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// Where the server's system has it. Control characters are replaced.
    pub path: String,
    /// Bus id, printable, 1 to 31 bytes.
    pub bus_id: String,
    /// Serial number if the server sends it, else empty. Control characters are replaced.
    pub serial: String,
    /// Number of its bus.
    pub bus_number: u32,
    /// Number on its bus.
    pub device_number: u32,
    /// Signalling rate; a code that does not exist is [`Speed::Unknown`].
    pub speed: Speed,
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// bcdDevice.
    pub release: u16,
    /// Class of the device descriptor.
    pub class: Class,
    /// bConfigurationValue; 0 if unconfigured.
    pub configuration: u8,
    /// bNumConfigurations.
    pub configurations: u8,
    /// bNumInterfaces.
    pub interface_count: u8,
    /// Classes of the interfaces; empty in the answer to an import.
    pub interfaces: Vec<Class>,
}

impl RemoteDevice {
    /// `busnum << 16 | devnum`: what every command must carry.
    #[must_use]
    pub const fn device_id(&self) -> u32 {
        (self.bus_number << 16) | (self.device_number & 0xffff)
    }
}

/// Reads a device record.
///
/// # Errors
///
/// A bus id that cannot be one.
pub fn parse_device_record(record: &[u8; DEVICE_BYTES]) -> Result<RemoteDevice, Malformed> {
    let wire: &DeviceRecord = transmute_ref!(record);
    let bus_id = parse_import_bus_id(&wire.bus_id)?;
    let mut strings = wire.path.split(|&byte| byte == 0);
    let path = strings.next().unwrap_or_default();
    // The serial number is the second string of the field; clients that stop at the first NUL do
    // not see it (usbip-wire.md §2.5).
    let serial = strings.next().and_then(|text| text.strip_prefix(SERIAL_PREFIX));
    Ok(RemoteDevice {
        path: printable(path),
        bus_id: bus_id.to_owned(),
        serial: printable(serial.unwrap_or_default()),
        bus_number: wire.bus_number.get(),
        device_number: wire.device_number.get(),
        speed: Speed::from_code(wire.speed.get()).unwrap_or(Speed::Unknown),
        vendor: wire.vendor.get(),
        product: wire.product.get(),
        release: wire.release.get(),
        class: Class { class: wire.class[0], subclass: wire.class[1], protocol: wire.class[2] },
        configuration: wire.configuration,
        configurations: wire.configurations,
        interface_count: wire.interfaces,
        interfaces: Vec::new(),
    })
}

/// How much of a list of devices a reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListProgress {
    /// The list is complete and this many bytes long.
    Complete(usize),
    /// At least this many more bytes belong to it.
    More(usize),
}

/// Tells a reader how much to read: `body` is what it has of the list so far, from the count that
/// stands behind the operation header. To be called again whenever the bytes asked for have come.
///
/// # Errors
///
/// [`Malformed::DeviceCount`] or [`Malformed::ListTooLong`].
pub fn devlist_progress(body: &[u8]) -> Result<ListProgress, Malformed> {
    let Some((count, mut rest)) = body.split_first_chunk() else {
        return Ok(ListProgress::More(4 - body.len()));
    };
    let count = u32::from_be_bytes(*count);
    if count > limits::DEVLIST_DEVICES {
        return Err(Malformed::DeviceCount(count));
    }
    let mut size = 4;
    for done in 0..count {
        let Some((record, behind)) = rest.split_first_chunk::<DEVICE_BYTES>() else {
            let records = (count - done) as usize * DEVICE_BYTES;
            return progress(size + records, body.len());
        };
        let wire: &DeviceRecord = transmute_ref!(record);
        let interfaces = usize::from(wire.interfaces) * INTERFACE_BYTES;
        size += DEVICE_BYTES + interfaces;
        rest = behind.get(interfaces..).unwrap_or_default();
    }
    progress(size, body.len())
}

/// `needed` is a lower bound while records are missing, exact once they are all there.
fn progress(needed: usize, had: usize) -> Result<ListProgress, Malformed> {
    if needed > limits::DEVLIST_BYTES {
        return Err(Malformed::ListTooLong);
    }
    Ok(match needed.checked_sub(had) {
        None | Some(0) => ListProgress::Complete(needed),
        Some(missing) => ListProgress::More(missing),
    })
}

/// Reads a complete list of devices, from the count that stands behind the operation header.
///
/// # Errors
///
/// Over a limit, cut off, followed by other bytes, or with a bus id that cannot be one.
pub fn parse_devlist(body: &[u8]) -> Result<Vec<RemoteDevice>, Malformed> {
    match devlist_progress(body)? {
        ListProgress::More(_) => return Err(Malformed::Truncated),
        ListProgress::Complete(size) if size < body.len() => {
            return Err(Malformed::Trailing(body.len() - size));
        }
        ListProgress::Complete(_) => {}
    }
    let mut devices = Vec::new();
    let mut rest = &body[4..];
    while let Some((record, behind)) = rest.split_first_chunk() {
        let mut device = parse_device_record(record)?;
        let (interfaces, behind) =
            behind.split_at(usize::from(device.interface_count) * INTERFACE_BYTES);
        device.interfaces = interfaces
            .chunks_exact(INTERFACE_BYTES)
            .map(|i| Class { class: i[0], subclass: i[1], protocol: i[2] })
            .collect();
        devices.push(device);
        rest = behind;
    }
    Ok(devices)
}

/// A device record as it stands on the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DeviceRecord {
    path: [u8; 256],
    bus_id: [u8; BUS_ID_FIELD_BYTES],
    bus_number: U32,
    device_number: U32,
    speed: U32,
    vendor: U16,
    product: U16,
    release: U16,
    class: [u8; 3],
    configuration: u8,
    configurations: u8,
    interfaces: u8,
}

fn device_record(device: &DeviceDescription) -> [u8; DEVICE_BYTES] {
    let mut record = DeviceRecord {
        path: [0; 256],
        bus_id: [0; BUS_ID_FIELD_BYTES],
        bus_number: device.bus_number.into(),
        device_number: device.device_number.into(),
        speed: device.speed.code().into(),
        vendor: device.vendor.into(),
        product: device.product.into(),
        release: device.release.into(),
        class: [device.class.class, device.class.subclass, device.class.protocol],
        configuration: device.configuration,
        configurations: device.configurations,
        interfaces: interface_count(device),
    };
    write_path(&mut record.path, device.path.as_bytes(), device.serial.as_bytes());
    write_text(&mut record.bus_id, device.bus_id.as_bytes());
    transmute!(record)
}

/// The path, and behind its NUL the serial number if all of it fits with a NUL of its own (A35).
fn write_path(field: &mut [u8; 256], path: &[u8], serial: &[u8]) {
    let written = write_text(field, path);
    let trailer = &mut field[written + 1..];
    let text_bytes = SERIAL_PREFIX.len() + serial.len();
    if !serial.is_empty() && text_bytes < trailer.len() {
        trailer[..SERIAL_PREFIX.len()].copy_from_slice(SERIAL_PREFIX);
        trailer[SERIAL_PREFIX.len()..text_bytes].copy_from_slice(serial);
    }
}

/// Writes text that leaves room for at least one NUL, and returns its size in the field.
fn write_text(field: &mut [u8], text: &[u8]) -> usize {
    let size = text.len().min(field.len() - 1);
    field[..size].copy_from_slice(&text[..size]);
    size
}

/// Records carry the number in one byte; USB has it in one too, so nothing is lost.
fn interface_count(device: &DeviceDescription) -> u8 {
    u8::try_from(device.interfaces.len()).unwrap_or(u8::MAX)
}

fn printable(text: &[u8]) -> String {
    let replace = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(text).chars().map(replace).collect()
}

#[cfg(test)]
mod tests;
