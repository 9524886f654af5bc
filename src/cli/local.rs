//! The USB devices of this machine, as a user may want to export or recognize them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;

/// Where Linux has them.
const DEVICES: &str = "/sys/bus/usb/devices";

/// Class code of a hub.
const HUB: u8 = 9;

/// A device and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalDevice {
    pub(super) description: DeviceDescription,
    /// Drivers of the device and its interfaces, each once, without the generic one.
    pub(super) drivers: Vec<String>,
    /// Why it cannot be exported, if so.
    pub(super) obstacle: Option<&'static str>,
}

/// All devices but hubs, in the order of their bus ids. Empty where there is no USB.
pub(super) fn devices() -> Vec<LocalDevice> {
    devices_at(Path::new(DEVICES))
}

/// The device with this bus id.
pub(super) fn device(bus_id: &str) -> Option<LocalDevice> {
    devices().into_iter().find(|device| device.description.bus_id == bus_id)
}

fn devices_at(root: &Path) -> Vec<LocalDevice> {
    let mut found: Vec<_> = descriptions(root)
        .into_iter()
        .filter(|description| description.class.class != HUB)
        .map(|description| LocalDevice {
            drivers: drivers(root, &description.bus_id),
            obstacle: obstacle(root, &description.bus_id),
            description,
        })
        .collect();
    found.sort_by_key(|device| key(&device.description.bus_id));
    found
}

/// `1-10` stands behind `1-9`.
fn key(bus_id: &str) -> Vec<u32> {
    bus_id.split(['-', '.']).map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

fn drivers(root: &Path, bus_id: &str) -> Vec<String> {
    let mut drivers: Vec<_> = interface_folders(root, bus_id)
        .into_iter()
        .chain([root.join(bus_id)])
        .filter_map(|folder| link_name(&folder.join("driver")))
        .filter(|driver| driver != "usb")
        .collect();
    drivers.sort();
    drivers.dedup();
    drivers
}

fn obstacle(root: &Path, bus_id: &str) -> Option<&'static str> {
    let path = fs::canonicalize(root.join(bus_id)).ok()?;
    path.to_str()?.contains("vhci_hcd").then_some("imported from another machine")
}

fn interface_folders(root: &Path, bus_id: &str) -> Vec<PathBuf> {
    let prefix = format!("{bus_id}:");
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// Every device of sysfs, hubs too.
fn descriptions(root: &Path) -> Vec<DeviceDescription> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.contains(':'))
        .filter_map(|name| description(root, &name))
        .collect()
}

fn description(root: &Path, bus_id: &str) -> Option<DeviceDescription> {
    let folder = root.join(bus_id);
    let text = |name: &str| {
        fs::read_to_string(folder.join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let hex = |name: &str| u16::from_str_radix(&text(name), 16).ok();
    let byte = |name: &str| text(name).parse().unwrap_or(0_u8);
    let configuration = byte("bConfigurationValue");
    Some(DeviceDescription {
        path: folder.to_str()?.to_owned(),
        bus_id: bus_id.to_owned(),
        bus_number: text("busnum").parse().unwrap_or(0),
        device_number: text("devnum").parse().unwrap_or(0),
        speed: Speed::from_sysfs(&text("speed")),
        vendor: hex("idVendor")?,
        product: hex("idProduct").unwrap_or(0),
        release: hex("bcdDevice").unwrap_or(0),
        class: class(&folder, "bDevice"),
        configuration,
        configurations: byte("bNumConfigurations"),
        interfaces: (0..byte("bNumInterfaces"))
            .map(|number| {
                class(&root.join(format!("{bus_id}:{configuration}.{number}")), "bInterface")
            })
            .collect(),
        manufacturer_name: text("manufacturer"),
        product_name: text("product"),
        serial: text("serial"),
        descriptors: fs::read(folder.join("descriptors")).unwrap_or_default(),
    })
}

fn class(folder: &Path, prefix: &str) -> Class {
    let hex = |name: &str| {
        fs::read_to_string(folder.join(format!("{prefix}{name}")))
            .ok()
            .and_then(|text| u8::from_str_radix(text.trim(), 16).ok())
            .unwrap_or(0)
    };
    Class { class: hex("Class"), subclass: hex("SubClass"), protocol: hex("Protocol") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).expect("folder");
        for (name, text) in files {
            fs::write(folder.join(name), format!("{text}\n")).expect("file");
        }
    }

    #[test]
    fn devices_have_names_drivers_and_obstacles() {
        let base = std::env::temp_dir().join(format!("local-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let root = base.join("devices");
        let ids = |vendor, product| [("idVendor", vendor), ("idProduct", product)];
        put(&root.join("1-10"), &ids("1d6b", "0104"));
        put(&root.join("1-9"), &ids("0525", "a4a0"));
        put(
            &root.join("1-9"),
            &[
                ("speed", "480"),
                ("busnum", "1"),
                ("devnum", "12"),
                ("bConfigurationValue", "3"),
                ("bNumInterfaces", " 1"),
                ("serial", "0123"),
            ],
        );
        put(
            &root.join("1-9:3.0"),
            &[
                ("bInterfaceClass", "ff"),
                ("bInterfaceSubClass", "01"),
                ("bInterfaceProtocol", "02"),
            ],
        );
        symlink("/sys/bus/usb/drivers/usbtest", root.join("1-9:3.0/driver")).expect("link");
        symlink("/sys/bus/usb/drivers/usb", root.join("1-9/driver")).expect("link");
        put(&root.join("usb1"), &ids("1d6b", "0002"));
        put(&root.join("usb1"), &[("bDeviceClass", "09")]);
        put(&base.join("vhci_hcd.0/3-1"), &ids("0403", "6001"));
        symlink(base.join("vhci_hcd.0/3-1"), root.join("3-1")).expect("link");

        let found = devices_at(&root);
        let ids: Vec<_> = found.iter().map(|found| found.description.bus_id.as_str()).collect();
        assert_eq!(ids, ["1-9", "1-10", "3-1"]);
        let zero = &found[0];
        assert_eq!(zero.drivers, ["usbtest"]);
        assert_eq!(zero.obstacle, None);
        assert_eq!(zero.description.speed, Speed::High);
        assert_eq!(zero.description.device_id(), 0x0001_000c);
        let interface = Class { class: 0xff, subclass: 1, protocol: 2 };
        assert_eq!(zero.description.interfaces, [interface]);
        assert_eq!(found[2].obstacle, Some("imported from another machine"));
        fs::remove_dir_all(&base).expect("removed");
    }

    #[test]
    fn a_machine_without_usb_has_no_devices() {
        assert!(devices_at(Path::new("/nowhere")).is_empty());
    }
}
