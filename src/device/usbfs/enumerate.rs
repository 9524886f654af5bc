//! The USB devices of this machine, as sysfs shows them.

use std::path::Path;

use usbip_fast_native::OsError;
use usbip_fast_native::linux::sysfs;

use crate::usb::descriptor::{Configuration, Configurations};
use crate::usb::identity::{Class, DeviceDescription, location};
use crate::usb::speed::Speed;

/// Where sysfs has the USB devices, by bus id.
pub(super) const DEVICES: &str = "/sys/bus/usb/devices";

/// Class code of hubs (USB 2.0 §11.23.1).
pub(super) const HUB_CLASS: u8 = 9;

/// The trees that the kernel shows, `/sys` and `/proc`; a made-up one in tests.
pub(super) trait Tree {
    /// Content of a file.
    fn bytes(&self, path: &str) -> Result<Vec<u8>, OsError>;

    /// Names in a directory, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>, OsError>;

    /// The path without links.
    fn resolve(&self, path: &str) -> Result<String, OsError>;

    /// Text of a file.
    fn text(&self, path: &str) -> Result<String, OsError> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An attribute of a USB device, without the line end.
    fn attribute(&self, bus_id: &str, name: &str) -> Result<String, OsError> {
        self.text(&format!("{DEVICES}/{bus_id}/{name}")).map(|text| text.trim().to_owned())
    }
}

/// The trees of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemTree;

impl SystemTree {
    /// Binds an interface (`1-1:1.0`) to a driver by name.
    pub fn bind(self, interface: &str, driver: &str) -> Result<(), OsError> {
        let path = format!("/sys/bus/usb/drivers/{driver}/bind");
        sysfs::write_text(Path::new(&path), interface)
    }
}

impl Tree for SystemTree {
    fn bytes(&self, path: &str) -> Result<Vec<u8>, OsError> {
        sysfs::read_bytes(Path::new(path))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, OsError> {
        sysfs::list(Path::new(path))
    }

    fn resolve(&self, path: &str) -> Result<String, OsError> {
        sysfs::resolve(Path::new(path)).map(|path| path.to_string_lossy().into_owned())
    }
}

/// All devices that are no hubs. What vanishes meanwhile is left out.
pub(super) fn describe_all(tree: &impl Tree) -> Result<Vec<DeviceDescription>, OsError> {
    let names = tree.list(DEVICES)?;
    let devices = names.iter().filter(|name| is_bus_id(name));
    let found = devices.filter_map(|bus_id| describe(tree, bus_id).ok());
    Ok(found.filter(|device| device.class.class != HUB_CLASS).collect())
}

/// One device. Its strings and its active configuration are read under the device's lock, so this
/// may wait.
pub(super) fn describe(tree: &impl Tree, bus_id: &str) -> Result<DeviceDescription, OsError> {
    let text = |name: &str| tree.attribute(bus_id, name);
    let hex = |name: &str| u16::from_str_radix(&text(name).unwrap_or_default(), 16).unwrap_or(0);
    let decimal = |name: &str| text(name).unwrap_or_default().parse::<u32>().unwrap_or(0);
    let byte = |name: &str| u8::try_from(decimal(name)).unwrap_or(0);
    let class = |name: &str| hex(name).to_le_bytes()[0];
    // Whatever is no device has no idVendor; whatever else is missing counts as 0 or empty.
    text("idVendor")?;
    let descriptors = tree.bytes(&format!("{DEVICES}/{bus_id}/descriptors")).unwrap_or_default();
    let configuration = byte("bConfigurationValue");
    let real_path = tree.resolve(&format!("{DEVICES}/{bus_id}")).unwrap_or_default();
    Ok(DeviceDescription {
        path: format!("{DEVICES}/{bus_id}"),
        bus_id: bus_id.to_owned(),
        location: location(&real_path, bus_id),
        bus_number: decimal("busnum"),
        device_number: decimal("devnum"),
        speed: Speed::from_sysfs(&text("speed").unwrap_or_default()),
        vendor: hex("idVendor"),
        product: hex("idProduct"),
        release: hex("bcdDevice"),
        class: Class {
            class: class("bDeviceClass"),
            subclass: class("bDeviceSubClass"),
            protocol: class("bDeviceProtocol"),
        },
        configuration,
        configurations: byte("bNumConfigurations"),
        interfaces: interfaces(&descriptors, configuration).map(|(_, class)| class).collect(),
        manufacturer_name: text("manufacturer").unwrap_or_default(),
        product_name: text("product").unwrap_or_default(),
        serial: text("serial").unwrap_or_default(),
        descriptors,
    })
}

/// Numbers and classes (alternate setting 0) of the interfaces of a configuration, in the order of
/// the descriptors: those of the device, then those of all configurations.
pub(super) fn interfaces(
    descriptors: &[u8],
    configuration: u8,
) -> impl Iterator<Item = (u8, Class)> + '_ {
    let configurations = Configurations::new(descriptors);
    let configured = (configuration != 0).then_some(configuration);
    let settings = configured
        .and_then(|value| configurations.with_value(value))
        .into_iter()
        .flat_map(Configuration::settings);
    settings
        .filter(|setting| setting.alternate == 0)
        .map(|setting| (setting.interface, setting.class))
}

/// Whether a name in the directory of devices is a device on a port: `1-1.2`, but neither `usb1`
/// nor `1-1.2:1.0`.
pub(super) fn is_bus_id(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit()) && !name.contains(':')
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use usbip_fast_native::OsError;

    const ENOENT: OsError = OsError(crate::usb::errno::ENOENT);

    /// Files by path; directories follow from them; links by path.
    #[derive(Clone, Debug, Default)]
    pub struct FakeTree {
        files: BTreeMap<String, Vec<u8>>,
        links: BTreeMap<String, String>,
    }

    impl FakeTree {
        pub fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
            self.files.insert(path.to_owned(), content.as_ref().to_owned());
            self
        }

        pub fn link(mut self, path: &str, target: &str) -> Self {
            self.links.insert(path.to_owned(), target.to_owned());
            self
        }

        /// A device with the attributes that every device has.
        pub fn device(self, bus_id: &str, real: &str, class: &str) -> Self {
            let root = format!("{DEVICES}/{bus_id}");
            self.link(&root, real)
                .file(&format!("{root}/idVendor"), "0525\n")
                .file(&format!("{root}/idProduct"), "a4a0\n")
                .file(&format!("{root}/bDeviceClass"), class)
        }
    }

    impl Tree for FakeTree {
        fn bytes(&self, path: &str) -> Result<Vec<u8>, OsError> {
            self.files.get(path).cloned().ok_or(ENOENT)
        }

        fn list(&self, path: &str) -> Result<Vec<String>, OsError> {
            let prefix = format!("{path}/");
            let paths = self.files.keys().chain(self.links.keys());
            let mut names: Vec<_> = paths
                .filter_map(|path| path.strip_prefix(&prefix))
                .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
                .collect();
            names.sort();
            names.dedup();
            if names.is_empty() { Err(ENOENT) } else { Ok(names) }
        }

        fn resolve(&self, path: &str) -> Result<String, OsError> {
            self.links.get(path).cloned().ok_or(ENOENT)
        }
    }

    /// Device with configuration 1 (interfaces 0 and 1; 0 has two alternate settings) and 2.
    pub fn descriptors() -> Vec<u8> {
        let mut bytes = vec![18, 1];
        bytes.resize(18, 0);
        bytes.extend([9, 2, 43, 0, 2, 1, 0, 0x80, 50]);
        bytes.extend([9, 4, 0, 0, 1, 0xff, 1, 2, 0, 7, 5, 0x81, 2, 0, 2, 0]);
        bytes.extend([9, 4, 0, 1, 0, 0xff, 1, 2, 0]);
        bytes.extend([9, 4, 1, 0, 0, 3, 1, 1, 0]);
        bytes.extend([9, 2, 18, 0, 1, 2, 0, 0x80, 50]);
        bytes.extend([9, 4, 0, 0, 0, 8, 6, 0x50, 0]);
        bytes
    }

    #[test]
    fn interfaces_are_those_of_the_configuration() {
        let classes = |value| -> Vec<_> {
            interfaces(&descriptors(), value).map(|(number, class)| (number, class.class)).collect()
        };
        assert_eq!(classes(1), [(0, 0xff), (1, 3)]);
        assert_eq!(classes(2), [(0, 8)]);
        assert_eq!(classes(0), [], "an unconfigured device has none");
        let bytes = descriptors();
        for cut in 0..bytes.len() {
            assert!(interfaces(&bytes[..cut], 1).count() <= 2, "a cut list ends early");
        }
    }

    #[test]
    fn devices_are_described_and_hubs_are_not_listed() {
        let root = format!("{DEVICES}/1-1");
        let tree = FakeTree::default()
            .device("1-1", "/sys/devices/pci0/usb1/1-1", "00\n")
            .device("1-2", "/sys/devices/pci0/usb1/1-2", "09\n")
            .device("usb1", "/sys/devices/pci0/usb1", "09\n")
            .file(&format!("{DEVICES}/1-1:1.0/bInterfaceClass"), "ff\n")
            .file(&format!("{root}/busnum"), "1\n")
            .file(&format!("{root}/devnum"), "23\n")
            .file(&format!("{root}/speed"), "480\n")
            .file(&format!("{root}/bcdDevice"), "0610\n")
            .file(&format!("{root}/bConfigurationValue"), "2\n")
            .file(&format!("{root}/product"), "Source/Sink \n")
            .file(&format!("{root}/descriptors"), descriptors());
        let devices = describe_all(&tree).expect("the directory is there");
        assert_eq!(devices.len(), 1);
        let device = &devices[0];
        assert_eq!((device.bus_id.as_str(), device.device_id()), ("1-1", 0x0001_0017));
        assert_eq!((device.vendor, device.product, device.release), (0x0525, 0xa4a0, 0x0610));
        assert_eq!(device.speed, Speed::High);
        assert_eq!(device.interfaces, [Class { class: 8, subclass: 6, protocol: 0x50 }]);
        assert_eq!((device.product_name.as_str(), device.serial.as_str()), ("Source/Sink", ""));
        assert_eq!(describe(&tree, "1-7"), Err(ENOENT));
    }
}
