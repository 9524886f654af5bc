//! Devices of this machine that come and go.

#[cfg(target_os = "linux")]
mod netlink;
#[cfg(not(target_os = "linux"))]
mod nothing;
pub mod uevent;

#[cfg(target_os = "linux")]
pub use netlink::open;
#[cfg(not(target_os = "linux"))]
pub use nothing::open;

use std::time::Duration;

/// Says when to look at the devices again. Belongs to a thread that may wait.
pub trait Source {
    /// Waits until devices have changed, the thread is told something, or `patience` is over.
    fn wait(&mut self, patience: Duration) -> Woken;
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Devices have come or gone, or it is not known whether they have.
    Changed,
    /// Somebody has woken the thread.
    Told,
    /// Nothing has happened.
    TimeOver,
}
