//! The reactor for Linux where io_uring is refused.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use libc::{c_int, epoll_event};

use crate::doorbell::Doorbell;
use crate::handle::Watcher;
use crate::linux::eventfd::Bell;
use crate::op::OsError;
use crate::reactor::Reactor;
use crate::readiness::{EDGES, Edge, Poller, Readiness};
use crate::socket::check;

/// Opens a reactor over epoll that looks for `spin` before it sleeps.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn open(spin: Duration) -> Result<Box<dyn Reactor>, OsError> {
    Ok(Box::new(Readiness::new(Epoll::new()?, spin)))
}

struct Epoll {
    queue: Rc<Queue>,
    bell: Arc<Bell>,
    events: Vec<epoll_event>,
    /// Nanosecond timeouts; cleared when the kernel (before 5.11) or a filter refuses the call.
    precise: bool,
}

struct Queue(OwnedFd);

/// Key of the bell: no descriptor has this number.
const BELL: u64 = u64::MAX;

/// Both directions, the peer's end of stream, edge-triggered. usbfs says "a URB can be reaped" with
/// OUT and WRNORM.
const EVENTS: c_int =
    libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLRDHUP | libc::EPOLLET;

impl Epoll {
    fn new() -> Result<Self, OsError> {
        // SAFETY: epoll_create1 touches no memory of ours.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let queue = Queue(unsafe { OwnedFd::from_raw_fd(fd) });
        let bell = Bell::new()?;
        // Edge-triggered, each write is an edge of its own, so the bell need never be read.
        queue.add(bell.fd(), libc::EPOLLIN | libc::EPOLLET, BELL)?;
        let events = vec![epoll_event { events: 0, u64: 0 }; EDGES];
        Ok(Self { queue: Rc::new(queue), bell, events, precise: true })
    }

    /// Waits and returns the number of events, or the error.
    fn wait_raw(&mut self, timeout: Option<Duration>) -> Result<usize, OsError> {
        let capacity = c_int::try_from(self.events.len()).expect("a few hundred events");
        let queue = self.queue.0.as_raw_fd();
        let events = self.events.as_mut_ptr();
        if self.precise && timeout.is_some_and(|timeout| !timeout.is_zero()) {
            let timeout = timeout.map(to_timespec).expect("checked above");
            // SAFETY: `events` has room for `capacity` events and `timeout` is a valid timespec; no
            // signal mask is given.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    queue,
                    events,
                    capacity,
                    &raw const timeout,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            let error = OsError::last();
            if error.0 != libc::ENOSYS && error.0 != libc::EPERM {
                return Err(error);
            }
            self.precise = false;
        }
        let timeout = timeout.map_or(-1, to_milliseconds);
        // SAFETY: `events` has room for `capacity` events.
        let count = unsafe { libc::epoll_wait(queue, events, capacity, timeout) };
        usize::try_from(count).map_err(|_| OsError::last())
    }
}

impl Poller for Epoll {
    const NAME: &'static str = "epoll";

    fn watch(&mut self, fd: RawFd, serial: u32) -> Result<(), OsError> {
        let number = u64::from(u32::try_from(fd).expect("open descriptors are not negative"));
        self.queue.add(fd, EVENTS, u64::from(serial) << 32 | number)
    }

    fn watcher(&self) -> Weak<dyn Watcher> {
        let queue: Rc<dyn Watcher> = Rc::clone(&self.queue) as Rc<dyn Watcher>;
        Rc::downgrade(&queue)
    }

    fn wait(&mut self, timeout: Option<Duration>, edges: &mut Vec<Edge>) -> bool {
        let count = match self.wait_raw(timeout) {
            Ok(count) => count,
            Err(OsError(libc::EINTR)) => return false,
            Err(error) => panic!("waiting on an own epoll descriptor fails: {error}"),
        };
        let mut rung = false;
        for event in &self.events[..count] {
            let (bits, key) = (event.events, event.u64);
            if key == BELL {
                self.bell.answer();
                rung = true;
                continue;
            }
            // The EPOLL bits are the poll(2) bits.
            edges.push(Edge {
                fd: key as u32 as RawFd,
                serial: (key >> 32) as u32,
                bits,
                ended: bits & libc::EPOLLRDHUP as u32 != 0,
            });
        }
        rung
    }

    fn doorbell(&self) -> Doorbell {
        self.bell.to_doorbell()
    }
}

impl Queue {
    fn add(&self, fd: RawFd, events: c_int, key: u64) -> Result<(), OsError> {
        self.control(libc::EPOLL_CTL_ADD, fd, &mut epoll_event { events: events as u32, u64: key })
    }

    fn control(&self, call: c_int, fd: RawFd, event: &mut epoll_event) -> Result<(), OsError> {
        // SAFETY: `event` is a valid event for the duration of the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), call, fd, event) })
    }
}

impl Watcher for Queue {
    fn forget(&self, fd: RawFd, _serial: u64) {
        let gone = self.control(libc::EPOLL_CTL_DEL, fd, &mut epoll_event { events: 0, u64: 0 });
        assert_eq!(gone, Ok(()), "a watched descriptor is registered until it is forgotten");
    }
}

fn to_timespec(timeout: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    }
}

/// Rounded up: a reactor must not wake before its deadline and spin.
fn to_milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up() {
        assert_eq!(to_milliseconds(Duration::ZERO), 0);
        assert_eq!(to_milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(to_milliseconds(Duration::from_millis(7)), 7);
        assert_eq!(to_milliseconds(Duration::MAX), c_int::MAX);
    }
}
