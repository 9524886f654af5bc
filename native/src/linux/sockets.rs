//! What Linux does its own way with sockets.

use libc::c_int;

use crate::handle::Handle;
use crate::op::OsError;
use crate::socket::{
    KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, NOT_SENT_LOW_WATER_BYTES,
    USER_TIMEOUT_MS,
};

/// Flags of `socket` and `socketpair`.
pub(crate) const CREATION_FLAGS: c_int = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Flags of every send: no signal when the peer is gone.
pub(crate) const SEND_FLAGS: c_int = libc::MSG_NOSIGNAL;

/// Options of a tuned connection.
pub(crate) const TCP_OPTIONS: &[(c_int, c_int)] = &[
    (libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
    (libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
    (libc::TCP_KEEPCNT, KEEPALIVE_PROBES),
    (libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
    (libc::TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER_BYTES),
];

/// What a new socket still lacks: nothing, the flags did it all.
#[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
pub(crate) fn finish_creation(_socket: &Handle) -> Result<(), OsError> {
    Ok(())
}

/// Accepts a connection as `accept4` does.
///
/// # Safety
///
/// `address` and `length` describe a writable buffer.
pub(crate) unsafe fn accept(
    listener: c_int,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) -> c_int {
    // SAFETY: the caller vouches for the buffer.
    unsafe { libc::accept4(listener, address, length, CREATION_FLAGS) }
}
