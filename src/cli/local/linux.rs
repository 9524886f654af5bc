//! The devices of sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use super::LocalDevice;
use crate::device::usbfs;

/// Where Linux has them.
const DEVICES: &str = "/sys/bus/usb/devices";

/// All devices but hubs, in the order of their bus ids. Empty where there is no USB.
pub(in crate::cli) fn devices() -> Vec<LocalDevice> {
    let root = Path::new(DEVICES);
    let mut found: Vec<_> = usbfs::enumerate()
        .unwrap_or_default()
        .into_iter()
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

fn obstacle(root: &Path, bus_id: &str) -> Option<String> {
    if is_imported(root, bus_id) {
        return Some("is imported from another machine".into());
    }
    usbfs::check_idle(bus_id).err().map(|reason| reason.to_string())
}

/// A device on `vhci_hcd` would go around in circles.
fn is_imported(root: &Path, bus_id: &str) -> bool {
    fs::canonicalize(root.join(bus_id))
        .is_ok_and(|path| path.to_string_lossy().contains("/vhci_hcd"))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn drivers_and_imports_are_seen() {
        let base = std::env::temp_dir().join(format!("local-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let root = base.join("devices");
        for folder in ["1-9", "1-9:3.0", "1-9:3.1", "1-9:3.2", "1-90:1.0"] {
            fs::create_dir_all(root.join(folder)).expect("folder");
        }
        fs::create_dir_all(base.join("vhci_hcd.0/3-1")).expect("folder");
        let bind = |driver: &str, folder: &str| {
            let driver = format!("/sys/bus/usb/drivers/{driver}");
            symlink(driver, root.join(folder).join("driver")).expect("link");
        };
        bind("usb", "1-9");
        bind("usbtest", "1-9:3.0");
        bind("cdc_acm", "1-9:3.1");
        bind("cdc_acm", "1-9:3.2");
        bind("other", "1-90:1.0");
        symlink(base.join("vhci_hcd.0/3-1"), root.join("3-1")).expect("link");
        assert_eq!(drivers(&root, "1-9"), ["cdc_acm", "usbtest"]);
        assert!(is_imported(&root, "3-1"));
        assert!(!is_imported(&root, "1-9"));
        fs::remove_dir_all(&base).expect("removed");
    }

    #[test]
    fn bus_ids_are_ordered_by_their_numbers() {
        let mut ids = ["1-10", "2-1", "1-9", "1-9.1"];
        ids.sort_by_key(|id| key(id));
        assert_eq!(ids, ["1-9", "1-9.1", "1-10", "2-1"]);
    }
}
