//! Where this program cannot take devices from the system: it serves simulated ones.

use crate::device::Export;
use crate::usb::identity::DeviceDescription;

/// See `usbfs::presence`.
#[must_use]
pub const fn presence(_bus_id: &str) -> Option<String> {
    None
}

/// See `usbfs::bus_ids`.
#[must_use]
pub const fn bus_ids() -> Vec<String> {
    Vec::new()
}

/// See `usbfs::describe`.
#[must_use]
pub const fn describe(_bus_id: &str) -> Option<DeviceDescription> {
    None
}

/// See `usbfs::in_use`.
#[must_use]
pub const fn in_use(_bus_id: &str) -> Option<String> {
    None
}

/// See `usbfs::adopt`.
///
/// # Panics
///
/// Always: there is nothing to adopt.
#[must_use]
pub fn adopt(description: DeviceDescription, _force: bool) -> Box<dyn Export + Send> {
    unreachable!("{} was found where there are no devices", description.bus_id)
}

/// See `usbfs::export`.
///
/// # Errors
///
/// Always.
pub fn export(bus_id: &str, _force: bool) -> Result<Box<dyn Export + Send>, String> {
    Err(format!("{bus_id}: devices of this system cannot be exported yet; see --simulate"))
}

/// See `usbfs::recover_in_background`.
pub const fn recover_in_background() {}
