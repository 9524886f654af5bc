//! Descriptors (USB 2.0 §9.6, USB 3.2 §9.6), read from bytes that a device or a peer made up.
//!
//! Nothing here panics or allocates: an iterator ends at the first descriptor that does not hold
//! together, a parse of bytes that are too short is `None`.

use crate::usb::identity::Class;

/// `bDescriptorType` (USB 2.0 table 9-5, USB 3.2 table 9-6).
pub mod kind {
    /// DEVICE
    pub const DEVICE: u8 = 1;
    /// CONFIGURATION
    pub const CONFIGURATION: u8 = 2;
    /// STRING
    pub const STRING: u8 = 3;
    /// INTERFACE
    pub const INTERFACE: u8 = 4;
    /// ENDPOINT
    pub const ENDPOINT: u8 = 5;
    /// DEVICE_QUALIFIER
    pub const DEVICE_QUALIFIER: u8 = 6;
    /// OTHER_SPEED_CONFIGURATION
    pub const OTHER_SPEED_CONFIGURATION: u8 = 7;
    /// INTERFACE_ASSOCIATION
    pub const INTERFACE_ASSOCIATION: u8 = 11;
    /// BOS
    pub const BOS: u8 = 15;
    /// SUPERSPEED_USB_ENDPOINT_COMPANION
    pub const SUPERSPEED_COMPANION: u8 = 0x30;
    /// SUPERSPEEDPLUS_ISOCHRONOUS_ENDPOINT_COMPANION
    pub const SUPERSPEEDPLUS_ISOCHRONOUS_COMPANION: u8 = 0x31;
}

/// Bytes of a device descriptor.
pub const DEVICE_BYTES: usize = 18;

/// One descriptor, not yet looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// `bDescriptorType`; see [`kind`].
    pub kind: u8,
    /// All of it, `bLength` first: at least 2 bytes.
    pub bytes: &'a [u8],
}

/// Iterates over descriptors that stand one behind the other.
#[derive(Clone, Debug)]
pub struct Descriptors<'a> {
    rest: &'a [u8],
}

impl<'a> Descriptors<'a> {
    /// Starts at the first byte. Ends with the bytes, or at a `bLength` below 2 or beyond the end.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Descriptors<'a> {
    type Item = Descriptor<'a>;

    fn next(&mut self) -> Option<Descriptor<'a>> {
        let &[length, kind, ..] = self.rest else { return None };
        if length < 2 {
            return None;
        }
        let (bytes, rest) = self.rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some(Descriptor { kind, bytes })
    }
}

/// The device descriptor (USB 2.0 table 9-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceDescriptor {
    /// bcdUSB.
    pub usb_release: u16,
    /// Class, subclass, protocol.
    pub class: Class,
    /// bMaxPacketSize0 as it stands: bytes, or from USB 3 on the power of two.
    pub max_packet_size_0: u8,
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// bcdDevice.
    pub release: u16,
    /// Indices of the strings: manufacturer, product, serial number; 0 if none.
    pub strings: [u8; 3],
    /// bNumConfigurations.
    pub configurations: u8,
}

impl DeviceDescriptor {
    /// Reads the first 18 bytes; `None` if they are not a device descriptor.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; DEVICE_BYTES] = bytes.first_chunk()?;
        if usize::from(b[0]) < DEVICE_BYTES || b[1] != kind::DEVICE {
            return None;
        }
        Some(Self {
            usb_release: u16::from_le_bytes([b[2], b[3]]),
            class: Class { class: b[4], subclass: b[5], protocol: b[6] },
            max_packet_size_0: b[7],
            vendor: u16::from_le_bytes([b[8], b[9]]),
            product: u16::from_le_bytes([b[10], b[11]]),
            release: u16::from_le_bytes([b[12], b[13]]),
            strings: [b[14], b[15], b[16]],
            configurations: b[17],
        })
    }

    /// Largest packet of endpoint 0 in bytes.
    #[must_use]
    pub fn control_packet_bytes(self) -> u16 {
        if self.usb_release >= 0x0300 && self.max_packet_size_0 <= 15 {
            1 << self.max_packet_size_0
        } else {
            u16::from(self.max_packet_size_0)
        }
    }
}

/// A configuration descriptor and all that belongs to it (USB 2.0 table 9-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration<'a> {
    /// bConfigurationValue: what SET_CONFIGURATION names it by.
    pub value: u8,
    /// bNumInterfaces.
    pub interfaces: u8,
    /// bmAttributes.
    pub attributes: u8,
    /// bMaxPower as it stands: units of 2 mA, or of 8 mA from SuperSpeed on.
    pub max_power: u8,
    /// The whole of wTotalLength, its own descriptor first (less where the bytes end before).
    pub bytes: &'a [u8],
}

impl<'a> Configuration<'a> {
    /// Reads a configuration from its first byte; `None` if that is none.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let b: &[u8; 9] = bytes.first_chunk()?;
        let total = usize::from(u16::from_le_bytes([b[2], b[3]]));
        if b[0] < 9 || b[1] != kind::CONFIGURATION || total < usize::from(b[0]) {
            return None;
        }
        Some(Self {
            value: b[5],
            interfaces: b[4],
            attributes: b[7],
            max_power: b[8],
            bytes: &bytes[..total.min(bytes.len())],
        })
    }

    /// Its alternate settings in the order of their descriptors.
    #[must_use]
    pub fn settings(self) -> Settings<'a> {
        Settings { rest: self.bytes }
    }
}

/// Finds the configurations in a device descriptor followed by configuration descriptors in full.
#[derive(Clone, Debug)]
pub struct Configurations<'a> {
    rest: &'a [u8],
}

impl<'a> Configurations<'a> {
    /// `bytes` as in [`DeviceDescription::descriptors`](crate::usb::identity::DeviceDescription).
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first one with this bConfigurationValue.
    #[must_use]
    pub fn with_value(mut self, value: u8) -> Option<Configuration<'a>> {
        self.find(|configuration| configuration.value == value)
    }
}

impl<'a> Iterator for Configurations<'a> {
    type Item = Configuration<'a>;

    fn next(&mut self) -> Option<Configuration<'a>> {
        loop {
            let descriptor = Descriptors::new(self.rest).next()?;
            let configuration = Configuration::parse(self.rest);
            let step = configuration.map_or(descriptor.bytes.len(), |c| c.bytes.len());
            self.rest = &self.rest[step..];
            if configuration.is_some() {
                return configuration;
            }
        }
    }
}

/// One alternate setting of an interface (USB 2.0 table 9-12) and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting<'a> {
    /// bInterfaceNumber.
    pub interface: u8,
    /// bAlternateSetting.
    pub alternate: u8,
    /// Class, subclass, protocol.
    pub class: Class,
    /// iInterface: index of its string, 0 if none.
    pub string: u8,
    /// The descriptors behind the interface descriptor up to the next one: endpoints, companions
    /// and those of its class.
    pub bytes: &'a [u8],
}

impl<'a> Setting<'a> {
    /// Its endpoints in the order of their descriptors.
    #[must_use]
    pub const fn endpoints(self) -> Endpoints<'a> {
        Endpoints { descriptors: Descriptors::new(self.bytes) }
    }
}

/// Iterator of [`Configuration::settings`].
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Settings<'a> {
    type Item = Setting<'a>;

    fn next(&mut self) -> Option<Setting<'a>> {
        loop {
            let descriptor = Descriptors::new(self.rest).next()?;
            self.rest = &self.rest[descriptor.bytes.len()..];
            let Some(b) = interface_fields(descriptor) else { continue };
            let size = Descriptors::new(self.rest)
                .take_while(|next| next.kind != kind::INTERFACE)
                .map(|next| next.bytes.len())
                .sum();
            let (bytes, rest) = self.rest.split_at(size);
            self.rest = rest;
            return Some(Setting {
                interface: b[2],
                alternate: b[3],
                class: Class { class: b[5], subclass: b[6], protocol: b[7] },
                string: b[8],
                bytes,
            });
        }
    }
}

fn interface_fields(descriptor: Descriptor<'_>) -> Option<&[u8; 9]> {
    (descriptor.kind == kind::INTERFACE).then_some(descriptor.bytes)?.first_chunk()
}

/// An endpoint descriptor (USB 2.0 table 9-13) and its companions (USB 3.2 §9.6.7, §9.6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointDescriptor {
    /// bEndpointAddress: number in bits 3..0, bit 7 set for IN.
    pub address: u8,
    /// bmAttributes: transfer type in bits 1..0.
    pub attributes: u8,
    /// wMaxPacketSize as it stands.
    pub max_packet_size: u16,
    /// bInterval as it stands.
    pub interval: u8,
    /// SuperSpeed companion, if one follows.
    pub companion: Option<Companion>,
    /// dwBytesPerInterval of a SuperSpeedPlus isochronous companion, if one follows.
    pub isochronous_bytes_per_interval: Option<u32>,
}

/// A SuperSpeed endpoint companion descriptor (USB 3.2 table 9-29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Companion {
    /// bMaxBurst: packets in a burst less one.
    pub max_burst: u8,
    /// bmAttributes: bursts per service interval less one in bits 1..0 (isochronous), streams as a
    /// power of two in bits 4..0 (bulk).
    pub attributes: u8,
    /// wBytesPerInterval.
    pub bytes_per_interval: u16,
}

/// Iterator of [`Setting::endpoints`].
#[derive(Clone, Debug)]
pub struct Endpoints<'a> {
    descriptors: Descriptors<'a>,
}

impl Iterator for Endpoints<'_> {
    type Item = EndpointDescriptor;

    fn next(&mut self) -> Option<EndpointDescriptor> {
        let mut endpoint = self.descriptors.by_ref().find_map(parse_endpoint)?;
        // Companions stand behind their endpoint, class descriptors possibly between them.
        let followers = self.descriptors.clone().take_while(|next| next.kind != kind::ENDPOINT);
        for follower in followers {
            match follower.kind {
                kind::SUPERSPEED_COMPANION if endpoint.companion.is_none() => {
                    endpoint.companion = parse_companion(follower);
                }
                kind::SUPERSPEEDPLUS_ISOCHRONOUS_COMPANION => {
                    endpoint.isochronous_bytes_per_interval = follower
                        .bytes
                        .first_chunk()
                        .map(|b: &[u8; 8]| u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
                }
                _ => {}
            }
        }
        Some(endpoint)
    }
}

fn parse_endpoint(descriptor: Descriptor<'_>) -> Option<EndpointDescriptor> {
    let b: &[u8; 7] =
        (descriptor.kind == kind::ENDPOINT).then_some(descriptor.bytes)?.first_chunk()?;
    Some(EndpointDescriptor {
        address: b[2],
        attributes: b[3],
        max_packet_size: u16::from_le_bytes([b[4], b[5]]),
        interval: b[6],
        companion: None,
        isochronous_bytes_per_interval: None,
    })
}

fn parse_companion(descriptor: Descriptor<'_>) -> Option<Companion> {
    let b: &[u8; 6] = descriptor.bytes.first_chunk()?;
    Some(Companion {
        max_burst: b[2],
        attributes: b[3],
        bytes_per_interval: u16::from_le_bytes([b[4], b[5]]),
    })
}

#[cfg(test)]
mod tests;
