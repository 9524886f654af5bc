//! Where the system does not tell of devices that come and go.

use std::os::fd::OwnedFd;

use usbip_fast_native::OsError;

use super::Source;
use crate::usb::errno;

/// See `netlink::open`.
///
/// # Errors
///
/// Always.
pub fn open(_wake: OwnedFd) -> Result<Box<dyn Source>, OsError> {
    Err(OsError(errno::ENODEV))
}
