//! What is known of a device from outside: enough to list it, match it and serve it.

use crate::usb::speed::Speed;

/// Class, subclass and protocol of a device or interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// Class code.
    pub class: u8,
    /// Subclass code.
    pub subclass: u8,
    /// Protocol code.
    pub protocol: u8,
}

/// A device as a server lists it (USB/IP device record and more). Taken once, before the device
/// is captured, so that a captured device still lists its interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDescription {
    /// Where the system has it, at most 255 bytes: on Linux `/sys/bus/usb/devices/BUSID`.
    pub path: String,
    /// Bus id, at most 31 bytes: `1-1.2`.
    pub bus_id: String,
    /// Number of its bus.
    pub bus_number: u32,
    /// Number on its bus.
    pub device_number: u32,
    /// Signalling rate.
    pub speed: Speed,
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// bcdDevice.
    pub release: u16,
    /// Class of the device descriptor.
    pub class: Class,
    /// bConfigurationValue of the active configuration; 0 if unconfigured.
    pub configuration: u8,
    /// bNumConfigurations.
    pub configurations: u8,
    /// Classes of the active configuration's interfaces (alternate setting 0), by number.
    pub interfaces: Vec<Class>,
    /// Manufacturer string, empty if none.
    pub manufacturer_name: String,
    /// Product string, empty if none.
    pub product_name: String,
    /// Serial number string, empty if none.
    pub serial: String,
    /// The 18 bytes of the device descriptor followed by all configuration descriptors in full,
    /// all fields as on the bus (little-endian).
    pub descriptors: Vec<u8>,
}

impl DeviceDescription {
    /// `busnum << 16 | devnum`: what every command PDU must carry (kernel.md §2.3).
    #[must_use]
    pub const fn device_id(&self) -> u32 {
        (self.bus_number << 16) | (self.device_number & 0xffff)
    }
}
