//! What macOS does its own way with sockets.

use std::os::fd::AsRawFd;

use libc::c_int;

use crate::handle::Handle;
use crate::op::OsError;
use crate::socket::{
    KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, NOT_SENT_LOW_WATER_BYTES,
    USER_TIMEOUT_MS, check,
};

/// `socket` takes no flags here; see [`finish_creation`].
pub(crate) const CREATION_FLAGS: c_int = 0;

/// Sends need no flag: [`finish_creation`] silences the signal.
pub(crate) const SEND_FLAGS: c_int = 0;

/// Options of a tuned connection. `TCP_CONNECTIONTIMEOUT` bounds connecting,
/// `TCP_RXT_CONNDROPTIME` (seconds) is what Linux calls the user timeout.
pub(crate) const TCP_OPTIONS: &[(c_int, c_int)] = &[
    (libc::TCP_KEEPALIVE, KEEPALIVE_IDLE_SECONDS),
    (libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
    (libc::TCP_KEEPCNT, KEEPALIVE_PROBES),
    (TCP_RXT_CONNDROPTIME, USER_TIMEOUT_MS / 1000),
    (TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER_BYTES),
];

/// From `netinet/tcp.h`; the crate `libc` does not have it.
const TCP_RXT_CONNDROPTIME: c_int = 0x80;

/// From `netinet/tcp.h`; the crate `libc` does not have it.
const TCP_NOTSENT_LOWAT: c_int = 0x201;

/// Makes a new socket non-blocking, close-on-exec and free of SIGPIPE.
pub(crate) fn finish_creation(socket: &Handle) -> Result<(), OsError> {
    prepare(socket.as_raw_fd())
}

/// Accepts a connection as Linux's `accept4` does.
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
    let fd = unsafe { libc::accept(listener, address, length) };
    if fd < 0 {
        return fd;
    }
    if let Err(error) = prepare(fd) {
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { libc::close(fd) };
        // SAFETY: the thread's errno is a valid place; the caller reads the error from there.
        unsafe { *libc::__error() = error.0 };
        return -1;
    }
    fd
}

fn prepare(fd: c_int) -> Result<(), OsError> {
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).expect("an int is small");
    // SAFETY: these calls take numbers only, but for setsockopt, which reads an int.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK))?;
        check(libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_NOSIGPIPE,
            (&raw const on).cast(),
            length,
        ))
    }
}
