//! The reactors of this system, by name.

use std::time::Duration;

use crate::reactor::Reactor;

/// A kernel interface that a reactor can stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Linux, where it is allowed.
    IoUring,
    /// Linux.
    Epoll,
    /// macOS.
    Kqueue,
}

impl Backend {
    /// As written on the command line and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
            Self::Kqueue => "kqueue",
        }
    }
}

/// How to open a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Entries of the submission queue of io_uring, a power of two.
    pub queue_entries: u32,
    /// io_uring registers arena chunks and sends single pieces from them as fixed buffers. SIGPIPE
    /// is then ignored in the whole process, because a fixed send is a write and knows no
    /// `MSG_NOSIGNAL`.
    pub registered: bool,
    /// How long a turn looks for something to do before it sleeps. Burns a core and saves the
    /// wake-up, where nothing else wants that core; zero sleeps at once.
    pub spin: Duration,
    /// The best mode to try on io_uring; a lesser one shows how an older kernel would do.
    pub ring_mode: RingMode,
}

/// How io_uring delivers completions, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingMode {
    /// Only inside the reactor's own kernel entry: DEFER_TASKRUN (6.1).
    #[default]
    Deferred,
    /// At the thread's next entry of any kind, without an interrupt: COOP_TASKRUN (5.19).
    Cooperative,
    /// By interrupting the thread.
    Interrupting,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_entries: 256,
            registered: false,
            spin: Duration::ZERO,
            ring_mode: RingMode::Deferred,
        }
    }
}

/// A reactor and what there is to say about it.
pub struct Opened {
    /// For the thread that opened it, which alone may use it.
    pub reactor: Box<dyn Reactor>,
    /// How it runs, for the log; empty when there is nothing to say.
    pub detail: String,
}

/// Why a reactor cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kernel says no.
    #[error("{name} is refused: {reason}", name = backend.name())]
    Kernel {
        /// What was asked for.
        backend: Backend,
        /// The cause, for people.
        reason: String,
        /// What to type to change that, if there is anything.
        remedy: Option<&'static str>,
    },
    /// The mechanism is one of another system.
    #[error("{name} does not exist on this system", name = .0.name())]
    NotHere(Backend),
    /// There is no reactor for this system at all.
    #[error("only supported on Linux and macOS")]
    Unsupported,
}

/// The reactors of this system, best first.
#[must_use]
pub fn preferred() -> &'static [Backend] {
    crate::platform::backends::PREFERRED
}

/// Opens a reactor for the calling thread.
///
/// # Errors
///
/// See [`Refusal`].
pub fn open(backend: Backend, options: &Options) -> Result<Opened, Refusal> {
    if preferred().is_empty() {
        return Err(Refusal::Unsupported);
    }
    if !preferred().contains(&backend) {
        return Err(Refusal::NotHere(backend));
    }
    crate::platform::backends::open(backend, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_beyond_all_clocks_is_slept_for() {
        for &backend in preferred() {
            let Ok(Opened { mut reactor, .. }) = open(backend, &Options::default()) else {
                continue;
            };
            let bell = reactor.doorbell();
            let ringer = crate::affinity::spawn("ringer", move || {
                crate::client::pause(Duration::from_millis(20));
                bell.ring();
            });
            assert!(reactor.turn(Some(Duration::MAX), &mut Vec::new()).rung);
            let calls = reactor.counters().system_calls;
            assert!(calls < 10, "{} made {calls} calls while it slept", backend.name());
            ringer.expect("room for a thread").join().expect("no panic");
        }
    }

    #[test]
    fn the_systems_own_reactors_open_and_foreign_ones_do_not() {
        let options = Options::default();
        for backend in [Backend::IoUring, Backend::Epoll, Backend::Kqueue] {
            match open(backend, &options) {
                Ok(opened) => {
                    assert!(preferred().contains(&backend));
                    assert_eq!(opened.reactor.name(), backend.name());
                }
                Err(Refusal::NotHere(_)) => assert!(!preferred().contains(&backend)),
                // A hardened machine; the reactor of last resort must be there all the same.
                Err(refusal) => assert_ne!(preferred().last(), Some(&backend), "{refusal}"),
            }
        }
    }
}
