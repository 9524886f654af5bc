//! The USB devices of this machine, as a user may want to export or recognize them.

use crate::usb::identity::DeviceDescription;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(super) use linux::devices;
#[cfg(not(target_os = "linux"))]
pub(super) use other::devices;

/// A device and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalDevice {
    pub(super) description: DeviceDescription,
    /// Drivers of the device and its interfaces, each once, without the generic one.
    pub(super) drivers: Vec<String>,
    /// Why it cannot be exported, or only by force.
    pub(super) obstacle: Option<String>,
}

/// The device with this bus id.
pub(super) fn device(bus_id: &str) -> Option<LocalDevice> {
    devices().into_iter().find(|device| device.description.bus_id == bus_id)
}
