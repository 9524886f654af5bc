//! usbfs: the device nodes through which Linux lends a USB device to a program.
//!
//! An open node comes apart into two halves, because every ioctl on it queues on one kernel mutex
//! and some hold that mutex while they wait for the device:
//!
//! * [`Control`], the half that may block, goes to a helper thread;
//! * [`Lane`], the half that never waits for the device, becomes the [`Queue`] of the reactor's
//!   thread and the [`Areas`] of DMA memory.
//!
//! Who holds both must not use the queue while a call of the control half is under way: the queue's
//! calls would wait for it.

mod helper;
mod ioctl;
mod memory;
mod queue;

pub use helper::{HelperError, spawn};
pub use ioctl::{Control, Lane, UrbAddress, capability};
pub use memory::{AREA_BYTES, AreaLimits, Areas, DeviceBlock, MAPPINGS_ARE_CACHED};
pub use queue::{IsoPacket, PACKETS_PER_URB, Piece, Queue, Reaped, TransferId, UrbKind, urb_flag};

/// Where the kernel keeps the bound on usbfs memory of the whole system, in MiB (0: none).
pub const MEMORY_LIMIT_PATH: &str = "/sys/module/usbcore/parameters/usbfs_memory_mb";

/// The bound on all usbfs memory of the system in bytes, pending URBs and mapped areas of all
/// programs together. `None` where usbfs is absent; `u64::MAX` where there is no bound.
#[must_use]
pub fn memory_limit_bytes() -> Option<u64> {
    let text = super::sysfs::read_text(MEMORY_LIMIT_PATH.as_ref()).ok()?;
    let mebibytes: u64 = text.trim().parse().ok()?;
    Some(if mebibytes == 0 { u64::MAX } else { mebibytes.saturating_mul(1024 * 1024) })
}
