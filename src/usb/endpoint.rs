//! Which endpoints a device has at present, by number and direction.

use std::time::Duration;

use crate::usb::descriptor::{Configurations, DeviceDescriptor, EndpointDescriptor, Setting};
use crate::usb::speed::Speed;
use crate::usb::transfer::{Direction, TransferType};

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// bEndpointAddress: number in bits 3..0, bit 7 set for IN.
    pub address: u8,
    /// Transfer type.
    pub kind: TransferType,
    /// Bytes of one packet on the bus (bits 10..0 of wMaxPacketSize).
    pub max_packet_size: u16,
    /// Packets in a burst: bMaxBurst + 1 on SuperSpeed, else 1.
    pub burst: u8,
    /// Bursts (SuperSpeed isochronous) or transactions (high-bandwidth high speed) per interval.
    pub multiplier: u8,
    /// bInterval as it stands in the descriptor.
    pub interval: u8,
    /// Most bytes in one service interval of a periodic endpoint; 0 for bulk and control.
    pub bytes_per_interval: u32,
    /// Interface it belongs to; 0 for endpoint 0.
    pub interface: u8,
    /// Alternate setting it belongs to.
    pub alternate: u8,
    /// Whether that alternate setting is the active one.
    pub active: bool,
}

impl EndpointInfo {
    /// Most bytes of one isochronous packet of a URB: all transactions of an interval. A kernel
    /// answers a longer one with -EMSGSIZE.
    #[must_use]
    pub fn packet_bytes(&self) -> u32 {
        u32::from(self.max_packet_size) * u32::from(self.burst) * u32::from(self.multiplier)
    }

    /// Time between two packets of an isochronous endpoint of a device at this speed: bInterval is
    /// an exponent, of frames up to full speed and of microframes above (USB 2.0 §9.6.6).
    #[must_use]
    pub fn isochronous_interval(&self, speed: Speed) -> Duration {
        let frame_us = match speed {
            Speed::Unknown | Speed::Low | Speed::Full => 1000,
            Speed::High | Speed::Wireless | Speed::Super | Speed::SuperPlus => 125,
        };
        Duration::from_micros(frame_us << (self.interval.clamp(1, 16) - 1))
    }

    /// Its direction; that of a control endpoint is OUT and has no meaning.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.address & 0x80 == 0 { Direction::Out } else { Direction::In }
    }
}

/// The endpoints of a device in its present state: active configuration, and the active alternate
/// setting of each interface.
///
/// An endpoint that only inactive alternate settings of the active configuration have is found too
/// (marked so): a URB for it must be understood, because the client may be ahead of us.
/// Allocates in [`new`](Self::new) only.
#[derive(Clone, Debug)]
pub struct EndpointMap {
    descriptors: Box<[u8]>,
    configuration: u8,
    alternates: [u8; 256],
    endpoints: [Option<EndpointInfo>; 32],
}

impl EndpointMap {
    /// `descriptors`: device descriptor followed by all configurations in full; `configuration`:
    /// the active bConfigurationValue, 0 if none. All interfaces are at alternate setting 0.
    #[must_use]
    pub fn new(descriptors: &[u8], configuration: u8) -> Self {
        let mut map = Self {
            descriptors: descriptors.into(),
            configuration,
            alternates: [0; 256],
            endpoints: [None; 32],
        };
        map.rebuild();
        map
    }

    /// Type of endpoint `endpoint` (0 to 15) in `direction`; `None` if the active configuration has
    /// no such endpoint. Endpoint 0 is always there.
    #[must_use]
    pub fn kind(&self, endpoint: u8, direction: Direction) -> Option<TransferType> {
        self.info(endpoint, direction).map(|info| info.kind)
    }

    /// All that is known of it, by the same rule as [`kind`](Self::kind).
    #[must_use]
    pub fn info(&self, endpoint: u8, direction: Direction) -> Option<&EndpointInfo> {
        self.endpoints.get(index(endpoint, direction))?.as_ref()
    }

    /// The endpoints of the active alternate settings, without endpoint 0.
    pub fn active(&self) -> impl Iterator<Item = &EndpointInfo> {
        self.endpoints[2..].iter().flatten().filter(|info| info.active)
    }

    /// The active bConfigurationValue, 0 if none.
    #[must_use]
    pub const fn configuration(&self) -> u8 {
        self.configuration
    }

    /// The active alternate setting of an interface.
    #[must_use]
    pub const fn alternate(&self, interface: u8) -> u8 {
        self.alternates[interface as usize]
    }

    /// The descriptors it was made from.
    #[must_use]
    pub const fn descriptors(&self) -> &[u8] {
        &self.descriptors
    }

    /// The device has answered SET_CONFIGURATION with success (or was reset, with the value it has
    /// then): all interfaces are at alternate setting 0 again.
    pub fn set_configuration(&mut self, value: u8) {
        self.configuration = value;
        self.alternates = [0; 256];
        self.rebuild();
    }

    /// The device has answered SET_INTERFACE with success.
    pub fn set_interface(&mut self, interface: u8, alternate: u8) {
        self.alternates[usize::from(interface)] = alternate;
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.endpoints = [None; 32];
        let control = control_info(&self.descriptors);
        self.endpoints[index(0, Direction::Out)] = Some(control);
        self.endpoints[index(0, Direction::In)] = Some(EndpointInfo { address: 0x80, ..control });
        // SET_CONFIGURATION(0) unconfigures, whatever a descriptor calls itself.
        let active = (self.configuration != 0)
            .then(|| Configurations::new(&self.descriptors).with_value(self.configuration))
            .flatten();
        let Some(configuration) = active else { return };
        for setting in configuration.settings() {
            let active = self.alternates[usize::from(setting.interface)] == setting.alternate;
            for info in setting.endpoints().filter_map(|e| endpoint_info(setting, e, active)) {
                let entry = &mut self.endpoints[index(info.address & 0x0f, info.direction())];
                if entry.is_none_or(|known| active && !known.active) {
                    *entry = Some(info);
                }
            }
        }
    }
}

fn index(endpoint: u8, direction: Direction) -> usize {
    usize::from(endpoint) * 2 + usize::from(direction == Direction::In)
}

fn control_info(descriptors: &[u8]) -> EndpointInfo {
    EndpointInfo {
        address: 0,
        kind: TransferType::Control,
        // 8 is what a host assumes before it has read the descriptor (USB 2.0 §5.5.3).
        max_packet_size: DeviceDescriptor::parse(descriptors)
            .map_or(8, DeviceDescriptor::control_packet_bytes),
        burst: 1,
        multiplier: 1,
        interval: 0,
        bytes_per_interval: 0,
        interface: 0,
        alternate: 0,
        active: true,
    }
}

/// `None` for endpoint number 0 and for control endpoints other than 0: no device class has them,
/// and a URB for one is to be answered like one for an unknown endpoint.
fn endpoint_info(
    setting: Setting<'_>,
    endpoint: EndpointDescriptor,
    active: bool,
) -> Option<EndpointInfo> {
    let kind = match endpoint.attributes & 3 {
        1 => TransferType::Isochronous,
        2 => TransferType::Bulk,
        3 => TransferType::Interrupt,
        _ => return None,
    };
    let address = endpoint.address & 0x8f;
    if address & 0x0f == 0 {
        return None;
    }
    let mut info = EndpointInfo {
        address,
        kind,
        max_packet_size: endpoint.max_packet_size & 0x07ff,
        burst: 1,
        multiplier: 1,
        interval: endpoint.interval,
        bytes_per_interval: 0,
        interface: setting.interface,
        alternate: setting.alternate,
        active,
    };
    info.measure(endpoint);
    Some(info)
}

impl EndpointInfo {
    /// Fills in burst, multiplier and bytes per interval.
    fn measure(&mut self, endpoint: EndpointDescriptor) {
        let isochronous = self.kind == TransferType::Isochronous;
        let periodic = isochronous || self.kind == TransferType::Interrupt;
        let Some(companion) = endpoint.companion else {
            if periodic {
                // Additional transactions per microframe (USB 2.0 table 9-13); 3 is reserved.
                let additional = (endpoint.max_packet_size >> 11 & 3).min(2);
                self.multiplier = 1 + additional as u8;
                self.bytes_per_interval = self.packet_bytes();
            }
            return;
        };
        self.burst = companion.max_burst.min(15) + 1;
        if isochronous {
            self.multiplier = (companion.attributes & 3).min(2) + 1;
        }
        if !periodic {
            return;
        }
        self.bytes_per_interval = match companion.bytes_per_interval {
            0 => self.packet_bytes(),
            bytes => u32::from(bytes),
        };
        if let (true, Some(bytes)) = (isochronous, endpoint.isochronous_bytes_per_interval) {
            // At SuperSpeedPlus the companion's multiplier gives way to dwBytesPerInterval.
            let burst_bytes = u32::from(self.max_packet_size) * u32::from(self.burst);
            let bursts = bytes.div_ceil(burst_bytes.max(1)).clamp(1, 255);
            self.multiplier = u8::try_from(bursts).expect("clamped to 255");
            self.bytes_per_interval = bytes;
        }
    }
}

#[cfg(test)]
mod tests;
