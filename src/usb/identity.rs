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
    /// Where it is plugged in, the same after a restart of the machine: the controller and the
    /// chain of ports, as `pci-0000:00:14.0-usb-0:1.2`. See [`location`].
    pub location: String,
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

/// The place of a device from its real path in Linux's sysfs
/// (`/sys/devices/…/CONTROLLER/usbN/…/BUSID`), in the form that udev's `ID_PATH` has. Bus numbers
/// depend on the order in which drivers start; this does not.
#[must_use]
pub fn location(real_path: &str, bus_id: &str) -> String {
    let parts = real_path.split('/');
    let above = parts.clone().zip(parts.skip(1)).find(|(_, part)| is_root_hub(part));
    let controller = above.map_or("unknown", |(controller, _)| controller);
    let kind = if is_pci_address(controller) { "pci" } else { "platform" };
    let ports = bus_id.split_once('-').map_or(bus_id, |(_, ports)| ports);
    format!("{kind}-{controller}-usb-0:{ports}")
}

fn is_root_hub(name: &str) -> bool {
    let number = name.strip_prefix("usb");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// `0000:00:14.0`: domain, bus, device, function.
fn is_pci_address(name: &str) -> bool {
    name.len() >= 12
        && name.bytes().filter(|&byte| byte == b':').count() == 2
        && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::location;

    #[test]
    fn a_place_is_named_by_controller_and_ports() {
        let pci = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2";
        assert_eq!(location(pci, "1-1.2"), "pci-0000:00:14.0-usb-0:1.2");
        let dummy = "/sys/devices/platform/dummy_hcd.0/usb3/3-1";
        assert_eq!(location(dummy, "3-1"), "platform-dummy_hcd.0-usb-0:1");
        assert_eq!(location("/sys/devices/usbfoo/x", "7-1"), "platform-unknown-usb-0:1");
    }
}
