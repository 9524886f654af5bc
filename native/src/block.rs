//! The memory of one URB or of one buffer: a block that has exactly one owner at any time.

use std::ptr::NonNull;

use crate::arena::ArenaBlock;
#[cfg(target_os = "linux")]
use crate::linux::usbfs::DeviceBlock;

/// Memory that can be handed to the kernel by moving it.
///
/// Two kinds, never mixed: an [`ArenaBlock`] can be registered with io_uring; a device block is
/// memory that usbfs has mapped for a device's DMA, which the kernel refuses to pin, so it can
/// never be registered. A block in flight has no slice, because the operation owns it.
#[derive(Debug)]
pub enum Block {
    /// Ordinary memory of an [`Arena`](crate::Arena).
    Arena(ArenaBlock),
    /// Memory mapped from a usbfs node.
    #[cfg(target_os = "linux")]
    Device(DeviceBlock),
}

impl Block {
    /// Usable bytes, at least what was asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Arena(block) => block.len(),
            #[cfg(target_os = "linux")]
            Self::Device(block) => block.len(),
        }
    }

    /// Whether there is not a single byte; blocks are never handed out empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is memory of an arena, which anybody may keep; a device's goes back to it.
    #[must_use]
    pub const fn is_of_arena(&self) -> bool {
        match self {
            Self::Arena(_) => true,
            #[cfg(target_os = "linux")]
            Self::Device(_) => false,
        }
    }

    /// The first byte, for system calls; valid while the block is owned by caller or operation.
    #[must_use]
    pub fn as_non_null(&self) -> NonNull<u8> {
        match self {
            Self::Arena(block) => block.as_non_null(),
            #[cfg(target_os = "linux")]
            Self::Device(block) => block.as_non_null(),
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: both kinds own `len` initialised bytes at their address until they are dropped,
        // and the borrow of self keeps writers away.
        unsafe { std::slice::from_raw_parts(self.as_non_null().as_ptr(), self.len()) }
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`, and the unique borrow of self makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.as_non_null().as_ptr(), self.len()) }
    }
}

impl From<ArenaBlock> for Block {
    fn from(block: ArenaBlock) -> Self {
        Self::Arena(block)
    }
}
