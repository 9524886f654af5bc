//! The kernel's word of devices that come and go: netlink, KOBJECT_UEVENT.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, sockaddr_nl, socklen_t};

use crate::handle::Handle;
use crate::op::OsError;
use crate::socket::check;

/// Longest message that is read, in bytes. The kernel's are at most 2 KiB of environment and a
/// path.
pub const MESSAGE_BYTES: usize = 16 * 1024;

/// Asked of the kernel for messages that were not read yet, in bytes. Without the right to force
/// it, the system's own bound holds.
static RECEIVE_BUFFER_BYTES: c_int = 1024 * 1024;

/// The multicast group of the kernel itself; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// A listener. Poll its [`handle`](Uevents::handle) for reading, then call
/// [`take`](Uevents::take) until it is empty.
#[derive(Debug)]
pub struct Uevents {
    socket: Handle,
}

/// What [`Uevents::take`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// A message of the kernel: `ACTION@PATH`, then `KEY=VALUE`, each ended by a NUL.
    Message(&'a [u8]),
    /// Messages were lost, or somebody else sent one: look at what is there instead.
    Lost,
    /// Nothing more at present.
    Empty,
}

impl Uevents {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// `EPROTONOSUPPORT`, `EPERM` where a container forbids it; `EMFILE`, `ENFILE`.
    pub fn listen() -> Result<Self, OsError> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket touches no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) };
        check(fd)?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let socket = Handle::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let uevents = Self { socket };
        uevents.enlarge_buffer();
        uevents.bind()?;
        Ok(uevents)
    }

    /// What to poll for reading.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.socket
    }

    /// Waits until there is something to [`take`](Self::take), `wake` can be read, or `patience` is
    /// over. For a thread that may wait. The answer says whether there is something to take.
    #[must_use]
    pub fn wait(&self, wake: &Handle, patience: Duration) -> bool {
        let poll = |handle: &Handle| libc::pollfd {
            fd: handle.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = [poll(&self.socket), poll(wake)];
        let milliseconds = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the array is valid for its length. A signal may end the wait early.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, milliseconds) };
        polls[0].revents != 0
    }

    /// The next message. `buffer` is at least [`MESSAGE_BYTES`] long.
    pub fn take<'a>(&self, buffer: &'a mut [u8]) -> Taken<'a> {
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut sender: sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = size_of::<sockaddr_nl>() as socklen_t;
        // SAFETY: the buffer is writable for its length, and the sender's address for its own; the
        // socket does not block.
        let count = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
                (&raw mut sender).cast(),
                &raw mut length,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            return match OsError::last().0 {
                libc::EAGAIN => Taken::Empty,
                // ENOBUFS: the buffer has overflowed. Whatever else it is, looking is right.
                _ => Taken::Lost,
            };
        };
        // Any process may send to this group where it has the right; only the kernel has number 0.
        if sender.nl_pid != 0 || count > buffer.len() {
            return Taken::Lost;
        }
        Taken::Message(&buffer[..count])
    }

    fn enlarge_buffer(&self) {
        for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
            // SAFETY: the value is an integer of the size given.
            let done = unsafe {
                libc::setsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const RECEIVE_BUFFER_BYTES).cast(),
                    size_of::<c_int>() as socklen_t,
                )
            };
            if done == 0 {
                return;
            }
        }
    }

    fn bind(&self) -> Result<(), OsError> {
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut address: sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = KERNEL_GROUP;
        // SAFETY: the address is valid for its length.
        check(unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<sockaddr_nl>() as socklen_t,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_hears_nothing_does_not_wait() {
        let uevents = Uevents::listen().expect("listening needs no right");
        let mut buffer = vec![0; MESSAGE_BYTES];
        // Something may really have been plugged in meanwhile.
        while uevents.take(&mut buffer) != Taken::Empty {}
    }

    #[test]
    fn a_wait_ends_when_it_is_woken() {
        let uevents = Uevents::listen().expect("listening needs no right");
        let (wake, waker) = crate::socket::pair().expect("a pair");
        drop(waker);
        // Would last for ever otherwise.
        let _ = uevents.wait(&wake, Duration::MAX);
    }
}
