//! The reactor of macOS: the foreign calls under [`Readiness`].

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use libc::{c_int, kevent};

use crate::chime::Chime;
use crate::doorbell::{Doorbell, Ring};
use crate::handle::Watcher;
use crate::op::OsError;
use crate::reactor::Reactor;
use crate::readiness::{EDGES, Edge, Poller, Readiness};
use crate::socket::check;

/// Opens a reactor over kqueue that looks for `spin` before it sleeps.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn open(spin: Duration) -> Result<Box<dyn Reactor>, OsError> {
    Ok(Box::new(Readiness::new(Kqueue::new()?, spin)))
}

struct Kqueue {
    watcher: Rc<Registrations>,
    bell: Arc<Bell>,
    events: Vec<kevent>,
}

/// The queue and its bell, which other threads may ring for as long as they hold it.
struct Bell {
    queue: OwnedFd,
    chime: Chime,
}

struct Registrations(Arc<Bell>);

/// Identity of the bell's event, in a name space of its own.
const BELL: usize = 0;

const NOTHING: kevent =
    kevent { ident: 0, filter: 0, flags: 0, fflags: 0, data: 0, udata: std::ptr::null_mut() };

impl Kqueue {
    fn new() -> Result<Self, OsError> {
        // SAFETY: kqueue touches no memory of ours.
        let fd = unsafe { libc::kqueue() };
        check(fd)?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let queue = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: fcntl with F_SETFD takes numbers only.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        let bell = Arc::new(Bell { queue, chime: Chime::new() });
        let flags = libc::EV_ADD | libc::EV_CLEAR;
        let mut changes = [kevent { ident: BELL, filter: libc::EVFILT_USER, flags, ..NOTHING }; 1];
        bell.change(&mut changes)?;
        let watcher = Rc::new(Registrations(Arc::clone(&bell)));
        Ok(Self { watcher, bell, events: vec![NOTHING; EDGES] })
    }
}

impl Bell {
    /// Applies changes one by one; what became of each is in its `data`. The result is that of the
    /// first which failed.
    fn change(&self, changes: &mut [kevent]) -> Result<(), OsError> {
        let count = c_int::try_from(changes.len()).expect("a few changes");
        for change in changes.iter_mut() {
            change.flags |= libc::EV_RECEIPT;
        }
        let (list, now) = (changes.as_mut_ptr(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the list has `count` changes and as much room for their receipts.
        check(unsafe {
            libc::kevent(self.queue.as_raw_fd(), list, count, list, count, &raw const now)
        })?;
        match changes.iter().find(|receipt| receipt.data != 0) {
            Some(receipt) => Err(OsError(receipt.data as c_int)),
            None => Ok(()),
        }
    }
}

/// One change for each direction of a descriptor.
fn both(fd: RawFd, flags: u16, serial: u32) -> [kevent; 2] {
    let ident = usize::try_from(fd).expect("open descriptors are not negative");
    let udata = serial as usize as *mut libc::c_void;
    [libc::EVFILT_READ, libc::EVFILT_WRITE].map(|filter| kevent {
        ident,
        filter,
        flags,
        udata,
        ..NOTHING
    })
}

impl Poller for Kqueue {
    const NAME: &'static str = "kqueue";

    fn watch(&mut self, fd: RawFd, serial: u32) -> Result<(), OsError> {
        let mut changes = both(fd, libc::EV_ADD | libc::EV_CLEAR, serial);
        let result = self.bell.change(&mut changes);
        // Some descriptors (a listening socket, the end of a pipe) know one direction only.
        if changes.iter().any(|receipt| receipt.data == 0) { Ok(()) } else { result }
    }

    fn watcher(&self) -> Weak<dyn Watcher> {
        let watcher: Rc<dyn Watcher> = Rc::clone(&self.watcher) as Rc<dyn Watcher>;
        Rc::downgrade(&watcher)
    }

    fn wait(&mut self, timeout: Option<Duration>, edges: &mut Vec<Edge>) -> bool {
        let room = c_int::try_from(self.events.len()).expect("a few hundred events");
        let timeout = timeout.map(to_timespec);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (queue, events) = (self.bell.queue.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: `events` has room for `room` events; the timeout is null or valid.
        let count = unsafe { libc::kevent(queue, std::ptr::null(), 0, events, room, timeout) };
        let Ok(count) = usize::try_from(count) else {
            let error = OsError::last();
            assert_eq!(error.0, libc::EINTR, "waiting on an own kqueue fails: {error}");
            return false;
        };
        let mut rung = false;
        for event in &self.events[..count] {
            if event.filter == libc::EVFILT_USER {
                self.bell.chime.answer();
                rung = true;
            } else {
                edges.push(edge(event));
            }
        }
        rung
    }

    fn doorbell(&self) -> Doorbell {
        Doorbell::new(Arc::clone(&self.bell) as Arc<dyn Ring>)
    }
}

fn edge(event: &kevent) -> Edge {
    let read = event.filter == libc::EVFILT_READ;
    let ended = event.flags & libc::EV_EOF != 0;
    let mut bits = if read { libc::POLLIN } else { libc::POLLOUT | libc::POLLWRNORM };
    // The end of the reading side is half a connection, that of the writing side is all of it.
    if ended && !read {
        bits |= libc::POLLHUP;
    }
    if ended && event.fflags != 0 {
        bits |= libc::POLLERR;
    }
    let fd = RawFd::try_from(event.ident).expect("idents are descriptors");
    Edge { fd, serial: event.udata as usize as u32, bits: bits as u32, ended }
}

impl Ring for Bell {
    fn ring(&self) {
        if !self.chime.ring() {
            return;
        }
        let fflags = libc::NOTE_TRIGGER;
        let mut changes = [kevent { ident: BELL, filter: libc::EVFILT_USER, fflags, ..NOTHING }];
        self.change(&mut changes).expect("an event of our own can be triggered");
    }
}

impl Watcher for Registrations {
    fn forget(&self, fd: RawFd, _serial: u64) {
        // A direction that was never there cannot be deleted, and need not be.
        let _ = self.0.change(&mut both(fd, libc::EV_DELETE, 0));
    }
}

fn to_timespec(timeout: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    }
}
