//! Device memory and ioctls of usbfs nodes.

use std::ptr::NonNull;

/// A part of a DMA area that usbfs has mapped for one open device.
#[derive(Debug)]
pub struct DeviceBlock {
    address: NonNull<u8>,
    length: usize,
}

impl DeviceBlock {
    /// Usable bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never true for a block that was handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// First byte; 64-byte aligned.
    #[must_use]
    pub fn as_non_null(&self) -> NonNull<u8> {
        self.address
    }
}
