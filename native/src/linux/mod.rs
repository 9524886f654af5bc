//! Linux: io_uring, epoll, usbfs, vhci.

pub mod sysfs;
pub mod usbfs;
