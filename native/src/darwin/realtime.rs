//! Priorities and locked memory: not the macOS way.

use crate::op::OsError;

/// See [`realtime::run_first`](crate::realtime::run_first).
pub(crate) fn run_first(_priority: u8) -> Result<(), OsError> {
    Err(OsError(libc::ENOTSUP))
}

/// See [`realtime::lock_memory`](crate::realtime::lock_memory).
pub(crate) fn lock_memory(_bytes: usize) -> Result<(), OsError> {
    Err(OsError(libc::ENOTSUP))
}
