//! Threads that run before others, and memory that is never swapped out.

use crate::op::OsError;

/// Makes the calling thread run before every thread without such a priority: `SCHED_FIFO`,
/// priority 1 to 99. Threads that it starts later run as usual.
///
/// # Errors
///
/// `EPERM` without the right (`CAP_SYS_NICE`, or `RLIMIT_RTPRIO` of at least `priority`);
/// `ENOTSUP` where the system has no such thing.
pub fn run_first(priority: u8) -> Result<(), OsError> {
    crate::platform::realtime::run_first(priority)
}

/// Keeps every page of the process in memory from its first use on, `bytes` of memory taken later
/// included.
///
/// # Errors
///
/// `ENOMEM` or `EPERM` without the right (`CAP_IPC_LOCK`, or `RLIMIT_MEMLOCK` beyond what the
/// process has and `bytes`): nothing is locked then. `ENOTSUP` where the system has no such thing.
pub fn lock_memory(bytes: usize) -> Result<(), OsError> {
    crate::platform::realtime::lock_memory(bytes)
}
