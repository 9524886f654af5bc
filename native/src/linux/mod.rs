//! Linux: io_uring, epoll, usbfs, vhci.

pub mod usbfs;
pub mod vhci;
