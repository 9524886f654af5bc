//! Where this program cannot take devices from the system: it serves simulated ones.

use crate::device::Export;

/// See `usbfs::presence`.
#[must_use]
pub const fn presence(_bus_id: &str) -> Option<String> {
    None
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
