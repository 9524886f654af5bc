//! The reactor: the only seam between logic and kernel.

use std::time::Duration;

use crate::doorbell::Doorbell;
use crate::handle::Handle;
use crate::op::{Completion, Op, OsError, Token};
use crate::socket::{self, Direction};

/// What [`Reactor::turn`] saw beside completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The doorbell was rung since the last turn: look into the mailboxes.
    pub rung: bool,
}

/// Counters of a reactor since its start; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorCounters {
    /// System calls made by the reactor itself (io_uring_enter, epoll_wait, readv, sendmsg …).
    pub system_calls: u64,
    /// Operations submitted.
    pub operations: u64,
    /// Turns taken.
    pub turns: u64,
}

/// Something about a reactor that its user should know; not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The kernel refused to register memory (RLIMIT_MEMLOCK); it is used unregistered.
    RegistrationRefused(OsError),
}

/// A completion queue over the kernel, for one thread.
///
/// The contract, proven by one list of tests on every backend:
///
/// * [`submit`](Reactor::submit) never blocks and never fails: errors arrive as completions.
/// * Every token gets exactly one completion, after a cancel too, and the operation's memory
///   comes back with it.
/// * [`cancel`](Reactor::cancel) is never lost, whatever the state of the kernel's queues.
///   Cancelling a token that is not in flight does nothing.
/// * Nothing is called back from inside [`turn`](Reactor::turn): completions are appended to the
///   caller's vector and handled afterwards.
/// * A turn that has work to hand over does not sleep; otherwise it sleeps until the deadline,
///   a completion or the doorbell. One kernel entry per turn where the kernel allows it.
/// * Operations on different descriptors are independent. On one socket the caller keeps at most
///   one receive and one send in flight.
/// * No allocation per operation after warm-up.
pub trait Reactor {
    /// `"io-uring"`, `"epoll"`, `"kqueue"` or `"simulated"`.
    fn name(&self) -> &'static str;

    /// Starts `op`. The token must not be in flight already (asserted) and its kind must not be
    /// [`Token::RESERVED_KIND`].
    fn submit(&mut self, op: Op, token: Token);

    /// Asks for the operation to end early. Its completion still arrives, once: `ECANCELED` if it
    /// did nothing, else what it did.
    fn cancel(&mut self, token: Token);

    /// Ends the sending side of a connection, behind all that was sent: the peer reads the end of
    /// the stream. Never blocks. An error is none: the connection is gone then, and the next
    /// operation on it says so.
    fn shut_down_sending(&mut self, socket: &Handle) {
        let _ = socket::shutdown(socket, Direction::Send);
    }

    /// Submits what is queued, waits until something happens or `deadline` (of
    /// [`clock::now`](crate::clock::now); `None` waits without limit; a deadline in the past
    /// returns at once), and appends completions. Call again after handling them.
    fn turn(&mut self, deadline: Option<Duration>, completions: &mut Vec<Completion>) -> Turn;

    /// A bell that any thread may ring to end this reactor's sleep.
    fn doorbell(&self) -> Doorbell;

    /// Counters so far.
    fn counters(&self) -> ReactorCounters;

    /// What should be logged, once; ask when idle.
    fn take_notice(&mut self) -> Option<Notice> {
        None
    }
}
