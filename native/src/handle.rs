//! A file descriptor shared by its owner and the operations in flight on it.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use crate::op::OsError;
use crate::socket::check;

/// A reference to an open file descriptor, for one thread.
///
/// Every [`Op`](crate::Op) on a descriptor holds one, so the number cannot be closed and given to
/// another file while an operation still names it. The descriptor is closed when the last
/// reference is dropped. Cloning allocates nothing.
#[derive(Clone)]
pub struct Handle(Rc<Inner>);

struct Inner {
    /// Dropped before the descriptor is closed or given away.
    watch: RefCell<Option<Watch>>,
    fd: OwnedFd,
}

/// The note that a readiness reactor leaves on a descriptor that it watches.
pub(crate) struct Watch {
    /// Names this registration, unique in the process.
    pub(crate) serial: u64,
    fd: RawFd,
    watcher: Weak<dyn Watcher>,
}

/// What watches descriptors: an epoll or kqueue descriptor, or a simulated network.
pub trait Watcher {
    /// Stops watching a descriptor that is about to be closed or given away. A connection that is
    /// handed to the kernel lives on, and would wake its old reactor for ever. May be called from
    /// anywhere a handle is dropped.
    fn forget(&self, fd: RawFd, serial: u64);
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.upgrade() {
            watcher.forget(self.fd, self.serial);
        }
    }
}

impl Handle {
    /// Takes over `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(Rc::new(Inner { watch: RefCell::new(None), fd }))
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
        Rc::try_unwrap(self.0).map(|inner| inner.fd).map_err(Self)
    }

    /// A handle that stands for something simulated, known to its watcher by `serial`, which must
    /// be from `1 << 63` up to differ from all that real reactors use. Behind it is an open
    /// descriptor on which nothing ever happens.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`.
    pub fn simulated(serial: u64, watcher: Weak<dyn Watcher>) -> Result<Self, OsError> {
        assert!(serial >> 63 == 1, "lower numbers are of real registrations");
        // SAFETY: the path is a C string; open touches no other memory of ours.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        check(fd)?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let handle = unsafe { Self::from_raw(fd) };
        handle.set_watch(serial, watcher);
        Ok(handle)
    }

    /// The serial number of the registration that watches this descriptor, 0 without one.
    #[must_use]
    pub fn watch_serial(&self) -> u64 {
        self.0.watch.borrow().as_ref().map_or(0, |watch| watch.serial)
    }

    /// Notes a new registration; the one before, if any, is forgotten.
    pub(crate) fn set_watch(&self, serial: u64, watcher: Weak<dyn Watcher>) {
        let watch = Watch { serial, fd: self.as_raw_fd(), watcher };
        let old = self.0.watch.replace(Some(watch));
        drop(old);
    }

    /// Ends the present registration, if any, before the descriptor is closed: no reactor is woken
    /// by it any more until an operation names it again.
    pub fn clear_watch(&self) {
        let old = self.0.watch.take();
        drop(old);
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.as_raw_fd())
    }
}
