//! The doorbell of the Linux reactors: an eventfd that is written only when the bell is silent.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::chime::Chime;
use crate::doorbell::{Doorbell, Ring};
use crate::op::OsError;
use crate::socket::check;

/// The bell, shared by its reactor and whoever may ring it.
#[derive(Debug)]
pub(crate) struct Bell {
    chime: Chime,
    event: OwnedFd,
}

impl Bell {
    /// A silent bell. Reads from its descriptor wait while it is silent; writes never wait, because
    /// each is answered before the next.
    pub(crate) fn new() -> Result<Arc<Self>, OsError> {
        // SAFETY: eventfd touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        check(fd)?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Arc::new(Self { chime: Chime::new(), event }))
    }

    /// The eventfd to wait on.
    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Answers the bell; called when its descriptor has shown that it was rung.
    pub(crate) fn answer(&self) {
        self.chime.answer();
    }

    pub(crate) fn to_doorbell(self: &Arc<Self>) -> Doorbell {
        Doorbell::new(Arc::clone(self) as Arc<dyn Ring>)
    }
}

impl Ring for Bell {
    fn ring(&self) {
        if !self.chime.ring() {
            return;
        }
        let one = 1u64.to_ne_bytes();
        loop {
            // SAFETY: `one` is eight readable bytes.
            let written =
                unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            if written >= 0 {
                return;
            }
            let error = OsError::last();
            assert_eq!(error.0, libc::EINTR, "an eventfd takes a small number: {error}");
        }
    }
}
