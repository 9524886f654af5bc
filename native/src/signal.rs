//! Signals as something to read, the same on every system.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::c_int;

use crate::handle::Handle;
use crate::op::OsError;
use crate::socket::{self, check};

/// A signal that the program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    HangUp,
    /// SIGINT: end in order.
    Interrupt,
    /// SIGTERM: end in order.
    Terminate,
    /// SIGUSR1: write down what the program knows.
    User1,
}

impl Signal {
    const ALL: [Self; 4] = [Self::HangUp, Self::Interrupt, Self::Terminate, Self::User1];

    fn number(self) -> c_int {
        match self {
            Self::HangUp => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::User1 => libc::SIGUSR1,
        }
    }
}

/// The process's caught signals: wait with a poll for its [`handle`](Signals::handle), then call
/// [`take`](Signals::take) until it is empty.
#[derive(Debug)]
pub struct Signals {
    reader: Handle,
    /// Keeps the handler's end open.
    _writer: Handle,
}

/// Where the handler writes; -1 while nobody listens.
static WRITER: AtomicI32 = AtomicI32::new(-1);

impl Signals {
    /// Catches SIGHUP, SIGINT, SIGTERM and SIGUSR1 from now on. One listener per process; dropping
    /// it gives the signals back to the system's default.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is a listener already; `EMFILE`, `ENFILE`.
    pub fn catch() -> Result<Self, OsError> {
        let (reader, writer) = socket::pair()?;
        let free =
            WRITER.compare_exchange(-1, writer.as_raw_fd(), Ordering::AcqRel, Ordering::Acquire);
        if free.is_err() {
            return Err(OsError(libc::EBUSY));
        }
        let signals = Self { reader, _writer: writer };
        for signal in Signal::ALL {
            let handler: extern "C" fn(c_int) = handle;
            install(signal.number(), handler as libc::sighandler_t)?;
        }
        Ok(signals)
    }

    /// What to poll for reading.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.reader
    }

    /// The next signal that has come in.
    #[must_use]
    pub fn take(&self) -> Option<Signal> {
        let mut byte = 0u8;
        // SAFETY: `byte` is one writable byte; the socket does not block.
        let count = unsafe { libc::read(self.reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
        if count != 1 {
            return None;
        }
        Signal::ALL.into_iter().find(|signal| signal.number() == c_int::from(byte))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for signal in Signal::ALL {
            install(signal.number(), libc::SIG_DFL).expect("these signals can be caught");
        }
        WRITER.store(-1, Ordering::Release);
    }
}

/// Makes writing to a closed connection an error instead of a signal, in the whole process. The
/// Rust runtime does the same for programs, but not for libraries in foreign ones.
pub fn ignore_broken_pipe() {
    install(libc::SIGPIPE, libc::SIG_IGN).expect("SIGPIPE can be ignored");
}

/// Runs in a signal handler: only async-signal-safe calls, and errno as it was.
extern "C" fn handle(number: c_int) {
    let writer = WRITER.load(Ordering::Acquire);
    let byte = number as u8;
    let saved = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: write is async-signal-safe and `byte` is readable. The socket does not block: when it
    // is full of signals nobody has read, one more says nothing new.
    unsafe { libc::write(writer, (&raw const byte).cast(), 1) };
    set_errno(saved);
}

fn install(number: c_int, handler: libc::sighandler_t) -> Result<(), OsError> {
    // SAFETY: all-zero bytes are a valid sigaction (no flags, an empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is valid, and the handler does only what a handler may.
    check(unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) })
}

use crate::platform::system::set_errno;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_arrive_as_values_and_one_listener_is_enough() {
        let signals = Signals::catch().expect("nobody else listens");
        assert!(matches!(Signals::catch(), Err(OsError(libc::EBUSY))));
        assert_eq!(signals.take(), None);
        for signal in [Signal::User1, Signal::HangUp] {
            // SAFETY: raising a signal that is caught.
            assert_eq!(unsafe { libc::raise(signal.number()) }, 0);
        }
        assert_eq!(signals.take(), Some(Signal::User1));
        assert_eq!(signals.take(), Some(Signal::HangUp));
        assert_eq!(signals.take(), None);
    }
}
