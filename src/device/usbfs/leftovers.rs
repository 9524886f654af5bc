//! What a server that was killed has left without a driver.
//!
//! A killed process cannot give a device back: the kernel releases the interfaces, but binds no
//! driver. So before a device is taken, a file below `/run` says what it was; when it has been
//! given back, the file goes. A file without a holder is what a dead server left: the next server
//! that starts, and `doctor`, give that device back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use usbip_fast_native::linux::held_file::HeldFile;
use usbip_fast_native::linux::sysfs;
use usbip_fast_native::linux::usbfs::Control;
use usbip_fast_native::{affinity, client, clock};

use super::enumerate::{self, DEVICES, SystemTree, Tree};
use super::helper::{Taken, USBFS_DRIVER, node_path};
use crate::usb::identity::DeviceDescription;

/// One file for each device that is taken, named by its bus id. Gone after a restart of the system,
/// as all that it speaks of.
const FOLDER: &str = "/run/usbip-fast/taken";

/// How long a device that is about to be taken waits for being given back first, and that for the
/// kernel to take it from a process that has just died.
const PATIENCE: Duration = Duration::from_secs(10);

/// A device as it was before it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Bus and device number, idVendor and idProduct: another plugging-in differs.
    pub identity: (u32, u32, u16, u16),
    /// bConfigurationValue.
    pub configuration: u8,
    /// Interfaces with their drivers; those without are not here.
    pub drivers: Vec<(u8, String)>,
}

impl Before {
    /// A device without drivers.
    pub fn new(device: &DeviceDescription) -> Self {
        let identity = (device.bus_number, device.device_number, device.vendor, device.product);
        Self { identity, configuration: device.configuration, drivers: Vec::new() }
    }

    fn read(file: &HeldFile) -> Option<Self> {
        serde_json::from_str(&file.text().ok()?).ok()
    }
}

/// The file of a device that is ours.
#[derive(Debug)]
pub(super) struct Note(HeldFile);

impl Note {
    /// Begins to take a device: holds its file. Also says what a dead server had written there, if
    /// it is about this device. Waits while the device is being given back. `None` without the
    /// right to write there: then nobody can give the device back if this process is killed.
    pub fn begin(found: &DeviceDescription) -> Option<(Self, Option<Before>)> {
        let file = HeldFile::hold(&path(&found.bus_id), PATIENCE)
            .inspect_err(|error| tracing::debug!(found.bus_id, %error, "taken without a note"))
            .ok()?;
        let before = Before::read(&file);
        let before = before.filter(|before| before.identity == Before::new(found).identity);
        Some((Self(file), before))
    }

    /// Says what the device was; before anything is taken.
    pub fn write(&self, before: &Before) {
        let text = serde_json::to_string(before).expect("numbers and names are JSON");
        if let Err(error) = self.0.write(&text) {
            tracing::debug!(%error, "a device is taken without a note");
        }
    }

    /// The device has been given back.
    pub fn remove(self) {
        if let Err(error) = self.0.remove() {
            tracing::debug!(%error, "the note about a device stays");
        }
    }
}

/// What has become of a device that a dead server had left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The device.
    pub bus_id: String,
    /// The drivers that have it again, or why they do not.
    pub result: Result<Vec<String>, String>,
}

/// Gives back the devices that servers which died had taken. Devices of servers that live, and what
/// has a driver again, are left alone. Waits for devices, so only on threads that may.
#[must_use]
pub fn recover() -> Vec<Recovered> {
    let names = sysfs::list(FOLDER.as_ref()).unwrap_or_default();
    names.into_iter().filter(|name| enumerate::is_bus_id(name)).filter_map(recover_one).collect()
}

/// Starts a thread that recovers what is there to recover and says so in the log. For a server that
/// starts; devices that it exports itself are waited for when they are taken.
pub fn recover_in_background() {
    let work = || {
        for Recovered { bus_id, result } in recover() {
            match result {
                Ok(drivers) => tracing::info!(
                    "{bus_id}, left by a server that was killed, has its drivers again: {}",
                    drivers.join(", ")
                ),
                Err(reason) => tracing::warn!(
                    "{bus_id} was left without drivers by a server that was killed: {reason}"
                ),
            }
        }
    };
    if let Err(error) = affinity::spawn("usbip-recover", work) {
        tracing::warn!("devices left by a killed server are not looked for: {error}");
    }
}

fn recover_one(bus_id: String) -> Option<Recovered> {
    let file = HeldFile::take_over(&path(&bus_id)).ok()??;
    // An empty file was left before anything was taken.
    let result = Before::read(&file).map_or(Ok(Vec::new()), |before| give_back(&bus_id, before));
    if result.is_ok()
        && let Err(error) = file.remove()
    {
        tracing::debug!(%error, bus_id, "the note about a device stays");
    }
    if result.as_ref().is_ok_and(Vec::is_empty) {
        return None;
    }
    Some(Recovered { bus_id, result })
}

/// The drivers that have come back.
fn give_back(bus_id: &str, before: Before) -> Result<Vec<String>, String> {
    let Ok(found) = enumerate::describe(&SystemTree, bus_id) else { return Ok(Vec::new()) };
    if Before::new(&found).identity != before.identity {
        return Ok(Vec::new());
    }
    wait_until_released(&found)?;
    let is_free = drivers(&SystemTree, &found).next().is_none();
    let configuration = before.configuration;
    let missing = |tree: &SystemTree| {
        let lacks =
            |(number, _): &&(u8, String)| driver(tree, bus_id, configuration, *number).is_none();
        before.drivers.iter().filter(lacks).cloned().collect::<Vec<_>>()
    };
    let lost = missing(&SystemTree);
    if lost.is_empty() && (!is_free || found.configuration == configuration) {
        return Ok(Vec::new());
    }
    let node = node_path(found.bus_number, found.device_number);
    let control =
        Control::open(&node).map_err(|error| format!("cannot open {}: {error}", node.display()))?;
    // Whoever has the rest of the device would not like a reset.
    drop(Taken::left_behind(&found, control, before.clone(), is_free));
    let still = missing(&SystemTree);
    if let Some((interface, driver)) = still.first() {
        return Err(format!("interface {interface} did not get {driver} back"));
    }
    Ok(lost.into_iter().map(|(_, driver)| driver).collect())
}

/// The kernel needs a moment to take a device from a dying process, and others may have it by now.
fn wait_until_released(found: &DeviceDescription) -> Result<(), String> {
    let deadline = clock::now() + PATIENCE;
    while drivers(&SystemTree, found).any(|driver| driver == USBFS_DRIVER) {
        if clock::now() >= deadline {
            return Err("it is in use by another program".to_owned());
        }
        client::pause(Duration::from_millis(100));
    }
    Ok(())
}

/// The drivers of the interfaces that a device has now. Takes no lock of the device.
pub(super) fn drivers<'a>(
    tree: &'a impl Tree,
    device: &'a DeviceDescription,
) -> impl Iterator<Item = String> + 'a {
    let interfaces = enumerate::interfaces(&device.descriptors, device.configuration);
    interfaces
        .filter_map(move |(number, _)| driver(tree, &device.bus_id, device.configuration, number))
}

fn driver(tree: &impl Tree, bus_id: &str, configuration: u8, interface: u8) -> Option<String> {
    let link = format!("{DEVICES}/{bus_id}:{configuration}.{interface}/driver");
    let path = tree.resolve(&link).ok()?;
    path.rsplit('/').next().map(str::to_owned)
}

fn path(bus_id: &str) -> PathBuf {
    // No bus id has a slash; what a user types must not lead elsewhere.
    Path::new(FOLDER).join(bus_id.replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use super::super::enumerate::tests::{FakeTree, descriptors};
    use super::*;

    fn device() -> DeviceDescription {
        let tree = FakeTree::default().device("1-1", "/sys/devices/pci/usb1/1-1", "00");
        let root = format!("{DEVICES}/1-1");
        let tree = tree
            .file(&format!("{root}/descriptors"), descriptors())
            .file(&format!("{root}/bConfigurationValue"), "1\n")
            .file(&format!("{root}/busnum"), "1\n")
            .file(&format!("{root}/devnum"), "5\n");
        enumerate::describe(&tree, "1-1").expect("it is there")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let drivers = vec![(0, "usbtest".to_owned()), (3, "cdc_acm".to_owned())];
        let before = Before { drivers, ..Before::new(&device()) };
        let text = serde_json::to_string(&before).expect("JSON");
        assert_eq!(serde_json::from_str::<Before>(&text).expect("what was written"), before);
        assert_eq!(before.identity, (1, 5, 0x0525, 0xa4a0));
    }

    #[test]
    fn drivers_are_those_of_the_active_configuration() {
        let interface = format!("{DEVICES}/1-1:1.1/driver");
        let other = format!("{DEVICES}/1-1:2.0/driver");
        let tree = FakeTree::default()
            .link(&interface, "/sys/bus/usb/drivers/usbhid")
            .link(&other, "/sys/bus/usb/drivers/usb-storage");
        assert_eq!(drivers(&tree, &device()).collect::<Vec<_>>(), ["usbhid"]);
        assert_eq!(driver(&tree, "1-1", 2, 0).as_deref(), Some("usb-storage"));
        assert_eq!(driver(&tree, "1-1", 1, 0), None);
    }

    #[test]
    fn a_bus_id_leads_nowhere_else() {
        assert_eq!(path("1-1.2"), Path::new("/run/usbip-fast/taken/1-1.2"));
        assert_eq!(path("1/../../../etc/x").parent(), Some(Path::new(FOLDER)));
    }
}
