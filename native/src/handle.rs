//! A file descriptor shared by its owner and the operations in flight on it.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// A reference to an open file descriptor, for one thread.
///
/// Every [`Op`](crate::Op) on a descriptor holds one, so the number cannot be closed and given to
/// another file while an operation still names it. The descriptor is closed when the last
/// reference is dropped. Cloning allocates nothing.
#[derive(Clone)]
pub struct Handle(Rc<OwnedFd>);

impl Handle {
    /// Takes over `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(Rc::new(fd))
    }

    /// Takes over a raw descriptor that a system call has just returned.
    ///
    /// # Safety
    ///
    /// `fd` must be open and owned by nobody else.
    #[must_use]
    pub unsafe fn from_raw(fd: RawFd) -> Self {
        // SAFETY: the caller promises sole ownership of an open descriptor.
        Self::new(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Gives the descriptor up to the caller when this is the only reference, else gives the
    /// reference back. Used when a connection leaves the reactor (hand-over to another core or to
    /// the kernel): it must have no operation in flight.
    ///
    /// # Errors
    ///
    /// Returns the handle unchanged while other references exist.
    pub fn into_owned(self) -> Result<OwnedFd, Self> {
        Rc::try_unwrap(self.0).map_err(Self)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.as_raw_fd())
    }
}
