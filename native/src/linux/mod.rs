//! Linux: io_uring, epoll, usbfs, vhci, uevents.

pub(crate) mod backends;
pub mod epoll;
pub(crate) mod eventfd;
pub mod held_file;
pub(crate) mod realtime;
#[doc(hidden)]
pub mod refuse;
pub(crate) mod sockets;
pub mod sysfs;
pub(crate) mod system;
pub mod uevent;
pub mod uring;
pub mod usbfs;
pub mod vhci;
