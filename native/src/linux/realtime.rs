//! Priorities and locked memory, the Linux way.

use std::mem;

use crate::op::OsError;
use crate::socket::check;

/// See [`realtime::run_first`](crate::realtime::run_first).
pub(crate) fn run_first(priority: u8) -> Result<(), OsError> {
    let parameters = libc::sched_param { sched_priority: priority.into() };
    // Helper threads make calls that wait; they must not inherit the priority.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` lives through the call; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })
}

/// See [`realtime::lock_memory`](crate::realtime::lock_memory).
pub(crate) fn lock_memory(bytes: usize) -> Result<(), OsError> {
    raise_limit()?;
    // ONFAULT: what is only reserved must not become resident.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: locking changes no memory.
    check(unsafe { libc::mlockall(flags) })?;
    // A later allocation beyond the limit would fail where nobody expects it: try now.
    reserve(bytes).inspect_err(|_| {
        // SAFETY: unlocking changes no memory.
        unsafe { libc::munlockall() };
    })
}

/// Raises the limit of locked memory as far as that needs no right.
fn raise_limit() -> Result<(), OsError> {
    // SAFETY: all-zero bytes are a valid rlimit.
    let mut limit: libc::rlimit = unsafe { mem::zeroed() };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is readable.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
}

/// Takes address space that counts as locked, and gives it back.
fn reserve(bytes: usize) -> Result<(), OsError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if place == libc::MAP_FAILED {
        return Err(OsError::last());
    }
    // SAFETY: the mapping was made just now and nobody else knows it.
    check(unsafe { libc::munmap(place, bytes) })
}
