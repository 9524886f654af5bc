//! Descriptors of a simulated device: built once, then only read.

use super::pace::frame_ns;
use crate::usb::descriptor::{Configurations, DeviceDescriptor, kind};
use crate::usb::endpoint::EndpointInfo;
use crate::usb::identity::Class;
use crate::usb::speed::Speed;
use crate::usb::transfer::TransferType;

/// Everything that GET_DESCRIPTOR can return, and what the base must know of it.
#[derive(Clone, Debug)]
pub struct Descriptors {
    speed: Speed,
    /// Device descriptor and all configurations, as they are listed.
    listed: Vec<u8>,
    qualifier: Option<[u8; 10]>,
    bos: Option<Vec<u8>>,
    other_speed: Vec<Vec<u8>>,
    strings: Vec<Vec<u8>>,
}

/// An endpoint that takes URBs: one of an active alternate setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ActiveEndpoint {
    pub(super) interface: u8,
    pub(super) address: u8,
    pub(super) kind: TransferType,
    pub(super) max_packet_size: u16,
    /// Most bytes of one service interval: packets times transactions or bursts.
    pub(super) payload_bytes: usize,
    /// Time between services of a periodic endpoint.
    pub(super) interval_ns: u64,
}

/// The device descriptor's fields that differ between devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec {
    /// Signalling rate; decides bcdUSB, the size of endpoint 0 and whether there is a BOS.
    pub speed: Speed,
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// bcdDevice.
    pub release: u16,
    /// Device class; zero where the interfaces have it.
    pub class: Class,
}

impl Descriptors {
    /// The descriptors of a device with these configurations, in the order of their indices.
    /// Strings are manufacturer, product, serial number (indices 1, 2, 3), then whatever the
    /// configurations refer to from 4 on; an empty one of the first three is left out.
    #[must_use]
    pub fn new(
        spec: DeviceSpec,
        configurations: &[ConfigurationBuilder],
        strings: &[&str],
    ) -> Self {
        let count = u8::try_from(configurations.len()).expect("a device has few configurations");
        let mut listed = device_descriptor(spec, count, strings).to_vec();
        listed.extend(configurations.iter().flat_map(|builder| &builder.bytes));
        Self {
            speed: spec.speed,
            listed,
            qualifier: None,
            bos: spec.speed.is_super().then(bos),
            other_speed: Vec::new(),
            strings: strings.iter().map(|text| string_descriptor(text)).collect(),
        }
    }

    /// Adds what a device that can also run at the other of full and high speed says of itself:
    /// the device qualifier and the other speed's configurations.
    #[must_use]
    pub fn with_other_speed(mut self, configurations: &[ConfigurationBuilder]) -> Self {
        let mut qualifier = [0; 10];
        qualifier[0] = 10;
        qualifier[1] = kind::DEVICE_QUALIFIER;
        qualifier[2..8].copy_from_slice(&self.listed[2..8]);
        qualifier[8] = u8::try_from(configurations.len()).expect("few configurations");
        self.qualifier = Some(qualifier);
        self.other_speed = configurations
            .iter()
            .map(|builder| {
                let mut bytes = builder.bytes.clone();
                bytes[1] = kind::OTHER_SPEED_CONFIGURATION;
                bytes
            })
            .collect();
        self
    }

    /// Signalling rate.
    #[must_use]
    pub fn speed(&self) -> Speed {
        self.speed
    }

    /// The bytes of a descriptor as GET_DESCRIPTOR names it, or `None` for a stall.
    #[must_use]
    pub fn find(&self, kind: u8, index: u8) -> Option<&[u8]> {
        let index = usize::from(index);
        match kind {
            kind::DEVICE if index == 0 => Some(&self.listed[..18]),
            kind::CONFIGURATION => self.configurations().nth(index).map(|found| found.bytes),
            kind::OTHER_SPEED_CONFIGURATION => self.other_speed.get(index).map(Vec::as_slice),
            kind::DEVICE_QUALIFIER if index == 0 => self.qualifier.as_ref().map(|found| &found[..]),
            kind::BOS if index == 0 => self.bos.as_deref(),
            kind::STRING if index == 0 => Some(&LANGUAGES),
            kind::STRING => self.strings.get(index - 1).map(Vec::as_slice),
            _ => None,
        }
    }

    /// The device descriptor.
    #[must_use]
    pub fn device(&self) -> DeviceDescriptor {
        DeviceDescriptor::parse(&self.listed).expect("it was built whole")
    }

    /// The configurations, by index.
    pub fn configurations(&self) -> Configurations<'_> {
        Configurations::new(&self.listed)
    }

    /// The 18 bytes of the device descriptor followed by all configurations in full.
    #[must_use]
    pub fn listed(&self) -> &[u8] {
        &self.listed
    }
}

impl ActiveEndpoint {
    pub(super) fn new(info: &EndpointInfo, speed: Speed) -> Self {
        Self {
            interface: info.interface,
            address: info.address,
            kind: info.kind,
            max_packet_size: info.max_packet_size,
            payload_bytes: info.packet_bytes() as usize,
            interval_ns: interval_frames(info.interval, info.kind, speed) * frame_ns(speed),
        }
    }

    /// Position in tables of all endpoints: number, and 16 more for IN.
    pub(super) fn index(&self) -> usize {
        endpoint_index(self.address)
    }

    pub(super) fn is_in(&self) -> bool {
        self.address & 0x80 != 0
    }
}

/// Position of an endpoint address in tables of all endpoints.
pub(super) fn endpoint_index(address: u8) -> usize {
    usize::from(address & 0x0f) | if address & 0x80 == 0 { 0 } else { 16 }
}

/// (Micro)frames between services (USB 2.0 §9.6.6): a plain count for interrupt endpoints of low
/// and full speed, an exponent everywhere else.
fn interval_frames(interval: u8, kind: TransferType, speed: Speed) -> u64 {
    let slow = matches!(speed, Speed::Unknown | Speed::Low | Speed::Full);
    if kind == TransferType::Interrupt && slow {
        return u64::from(interval.max(1));
    }
    1 << (interval.clamp(1, 16) - 1)
}

/// Builds one configuration descriptor with everything in it; counts and lengths are kept right
/// while it grows.
#[derive(Clone, Debug)]
pub struct ConfigurationBuilder {
    bytes: Vec<u8>,
    /// Where the last interface descriptor stands.
    interface: Option<usize>,
}

/// One alternate setting of an interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct InterfaceSpec {
    /// bInterfaceNumber, below 32.
    pub number: u8,
    /// bAlternateSetting.
    pub alternate: u8,
    /// Class, subclass, protocol.
    pub class: Class,
    /// iInterface, 0 for none.
    pub string: u8,
}

/// One endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointSpec {
    /// bEndpointAddress, with the direction bit.
    pub address: u8,
    /// bmAttributes: transfer type in bits 1..0, isochronous synchronisation and usage above.
    pub attributes: u8,
    /// Most bytes of one service interval (for bulk, of one packet). High-bandwidth transactions
    /// and SuperSpeed bursts are chosen from it.
    pub payload_bytes: u16,
    /// bInterval.
    pub interval: u8,
}

impl ConfigurationBuilder {
    /// An empty, self-powered configuration.
    #[must_use]
    pub fn new(value: u8, string: u8) -> Self {
        let bytes = vec![9, kind::CONFIGURATION, 9, 0, 0, value, string, 0xc0, 0];
        Self { bytes, interface: None }
    }

    /// Begins an alternate setting; what is added next belongs to it.
    #[must_use]
    pub fn interface(mut self, spec: InterfaceSpec) -> Self {
        assert!(spec.number < 32, "the base keeps alternate settings of 32 interfaces");
        if spec.alternate == 0 {
            self.bytes[4] += 1;
        }
        self.interface = Some(self.bytes.len());
        let Class { class, subclass, protocol } = spec.class;
        let setting = [spec.number, spec.alternate, 0, class, subclass, protocol, spec.string];
        self.raw(&[9, kind::INTERFACE]).raw(&setting)
    }

    /// Adds an endpoint, at SuperSpeed with its companion.
    #[must_use]
    pub fn endpoint(self, spec: EndpointSpec, speed: Speed) -> Self {
        self.endpoint_with(spec, speed, &[])
    }

    /// As [`endpoint`](Self::endpoint), its descriptor lengthened by what a class defines behind
    /// the standard fields.
    #[must_use]
    pub fn endpoint_with(mut self, spec: EndpointSpec, speed: Speed, more: &[u8]) -> Self {
        let interface = self.interface.expect("an endpoint follows an interface");
        self.bytes[interface + 4] += 1;
        let (size, companion) = packet_layout(spec, speed);
        let [low, high] = size.to_le_bytes();
        let length = u8::try_from(7 + more.len()).expect("a descriptor is below 256 bytes");
        let endpoint = [kind::ENDPOINT, spec.address, spec.attributes, low, high, spec.interval];
        self.raw(&[length])
            .raw(&endpoint)
            .raw(more)
            .raw(companion.as_ref().map_or(&[], |found| &found[..]))
    }

    /// Adds bytes as they are: class-specific descriptors.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        let total = u16::try_from(self.bytes.len()).expect("a configuration is below 64 KiB");
        self.bytes[2..4].copy_from_slice(&total.to_le_bytes());
        self
    }
}

/// wMaxPacketSize and the SuperSpeed companion of an endpoint (USB 2.0 §9.6.6, USB 3.2 §9.6.7).
fn packet_layout(spec: EndpointSpec, speed: Speed) -> (u16, Option<[u8; 6]>) {
    let bytes = spec.payload_bytes;
    let periodic = spec.attributes & 1 != 0;
    if !speed.is_super() {
        let transactions = bytes.div_ceil(1024).max(1);
        return (bytes.div_ceil(transactions) | (transactions - 1) << 11, None);
    }
    let packets = bytes.div_ceil(1024).max(1);
    let multiplier = packets.div_ceil(16);
    let burst = packets.div_ceil(multiplier);
    let size = if packets > 1 { 1024 } else { bytes };
    let [low, high] = if periodic { bytes.to_le_bytes() } else { [0, 0] };
    let small = |count: u16| u8::try_from(count - 1).expect("burst and multiplier are small");
    let attributes = if spec.attributes & 3 == 1 { small(multiplier) } else { 0 };
    (size, Some([6, kind::SUPERSPEED_COMPANION, small(burst), attributes, low, high]))
}

fn device_descriptor(spec: DeviceSpec, configurations: u8, strings: &[&str]) -> [u8; 18] {
    let (usb, packet_0): (u16, u8) = match spec.speed {
        Speed::Low => (0x0200, 8),
        Speed::Super | Speed::SuperPlus => (0x0320, 9),
        _ => (0x0200, 64),
    };
    let mut bytes = [0; 18];
    bytes[0] = 18;
    bytes[1] = kind::DEVICE;
    bytes[2..4].copy_from_slice(&usb.to_le_bytes());
    bytes[4..7].copy_from_slice(&[spec.class.class, spec.class.subclass, spec.class.protocol]);
    bytes[7] = packet_0;
    bytes[8..10].copy_from_slice(&spec.vendor.to_le_bytes());
    bytes[10..12].copy_from_slice(&spec.product.to_le_bytes());
    bytes[12..14].copy_from_slice(&spec.release.to_le_bytes());
    for (index, text) in (1u8..).zip(strings.iter().take(3)) {
        bytes[13 + usize::from(index)] = if text.is_empty() { 0 } else { index };
    }
    bytes[17] = configurations;
    bytes
}

/// The BOS of a SuperSpeed device (USB 3.2 §9.6.2): USB 2.0 extension with LPM, and the SuperSpeed
/// capability: speeds full, high and 5 Gbit/s, all functions from full speed on, exit latencies 0.
fn bos() -> Vec<u8> {
    let mut bytes = vec![5, kind::BOS, 0, 0, 2];
    bytes.extend_from_slice(&[7, DEVICE_CAPABILITY, 2, 0x02, 0, 0, 0]);
    bytes.extend_from_slice(&[10, DEVICE_CAPABILITY, 3, 0, 0x0e, 0, 1, 0, 0, 0]);
    bytes[2] = u8::try_from(bytes.len()).expect("two capabilities are short");
    bytes
}

/// `bDescriptorType` of what a BOS is made of.
const DEVICE_CAPABILITY: u8 = 16;

/// Language table: English (United States) only.
const LANGUAGES: [u8; 4] = [4, kind::STRING, 0x09, 0x04];

/// UTF-16LE behind a length byte: at most 126 units.
fn string_descriptor(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, kind::STRING];
    bytes.extend(text.encode_utf16().take(126).flat_map(u16::to_le_bytes));
    bytes[0] = u8::try_from(bytes.len()).expect("cut to 126 units");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::endpoint::EndpointMap;

    fn isochronous(payload_bytes: u16, speed: Speed) -> ActiveEndpoint {
        let spec = EndpointSpec { address: 0x82, attributes: 1, payload_bytes, interval: 4 };
        let builder = ConfigurationBuilder::new(1, 0)
            .interface(InterfaceSpec::default())
            .endpoint(spec, speed);
        let map = EndpointMap::new(&builder.bytes, 1);
        ActiveEndpoint::new(map.active().next().expect("one endpoint"), speed)
    }

    #[test]
    fn payloads_are_spread_over_transactions_and_bursts() {
        for (speed, payload) in [
            (Speed::Full, 1023),
            (Speed::High, 1024),
            (Speed::High, 1026),
            (Speed::High, 3072),
            (Speed::Super, 1024),
            (Speed::Super, 16 * 1024),
            (Speed::Super, 48 * 1024),
        ] {
            let endpoint = isochronous(payload, speed);
            assert_eq!(endpoint.payload_bytes, usize::from(payload), "{speed} {payload}");
            assert!(endpoint.max_packet_size <= 1024);
        }
    }

    #[test]
    fn intervals_are_frames_or_exponents() {
        let interrupt = |interval, speed| interval_frames(interval, TransferType::Interrupt, speed);
        assert_eq!(interrupt(10, Speed::Low), 10);
        assert_eq!(interrupt(4, Speed::High), 8);
        assert_eq!(interval_frames(4, TransferType::Isochronous, Speed::Full), 8);
        assert_eq!(isochronous(64, Speed::High).interval_ns, 1_000_000);
    }

    #[test]
    fn builder_keeps_counts_and_lengths() {
        let endpoint = EndpointSpec { address: 1, attributes: 2, payload_bytes: 1024, interval: 0 };
        let built = ConfigurationBuilder::new(3, 0)
            .interface(InterfaceSpec::default())
            .interface(InterfaceSpec { alternate: 1, ..InterfaceSpec::default() })
            .endpoint(endpoint, Speed::Super)
            .interface(InterfaceSpec { number: 1, ..InterfaceSpec::default() });
        let bytes = &built.bytes;
        assert_eq!(usize::from(u16::from_le_bytes([bytes[2], bytes[3]])), bytes.len());
        assert_eq!(bytes[4], 2, "two interfaces, one of them with two settings");
        assert_eq!(bytes[9 + 9 + 4], 1, "the endpoint is counted at its setting");
        let mut map = EndpointMap::new(bytes, 3);
        assert_eq!(map.active().count(), 0);
        map.set_interface(0, 1);
        assert_eq!(map.active().next().expect("one").max_packet_size, 1024);
    }

    #[test]
    fn strings_are_utf16_and_cut() {
        assert_eq!(string_descriptor("aé"), [6, 3, b'a', 0, 0xe9, 0]);
        assert_eq!(string_descriptor(&"x".repeat(300)).len(), 254);
    }
}
