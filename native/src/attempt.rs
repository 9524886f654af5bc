//! One try of an operation's system call, for the backends that wait for readiness.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, iovec, msghdr};

use crate::handle::Handle;
use crate::op::{Interest, Op, OsError, Outcome, Piece};
use crate::platform::sockets::{SEND_FLAGS, accept};
use crate::socket;

/// What a try came to.
pub(crate) enum Attempt {
    /// The operation is over.
    Done {
        /// How.
        result: Result<Outcome, OsError>,
        /// Fewer bytes moved than were asked for: the next try would block, unless the stream has
        /// ended.
        short: bool,
    },
    /// It has to wait for the descriptor.
    Blocked,
}

/// Makes the system call of an operation that is not a poll. A connect must have been started with
/// [`connect`]; here it is looked after.
pub(crate) fn attempt(op: &mut Op) -> Attempt {
    match op {
        Op::Accept { listener } => accept_one(listener),
        Op::Connect { socket, .. } => connected(socket),
        Op::Receive { socket, pieces } => transfer(pieces, |message| {
            // SAFETY: the header describes memory that the operation owns.
            unsafe { libc::recvmsg(socket.as_raw_fd(), message, 0) }
        }),
        Op::Send { socket, pieces, .. } => transfer(pieces, |message| {
            // SAFETY: as above; the kernel only reads.
            unsafe { libc::sendmsg(socket.as_raw_fd(), message, SEND_FLAGS) }
        }),
        Op::Poll { .. } => unreachable!("a poll is decided by edges and by poll_level"),
    }
}

/// Starts a connect.
pub(crate) fn connect(socket: &Handle, address: &SocketAddr) -> Attempt {
    let (storage, length) = socket::to_system(address);
    // SAFETY: `storage` holds a socket address of `length` bytes.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), length) };
    if result == 0 {
        return done(Ok(Outcome::Connected));
    }
    match OsError::last() {
        // An interrupted connect goes on by itself.
        OsError(libc::EINPROGRESS | libc::EINTR) => Attempt::Blocked,
        error => done(Err(error)),
    }
}

/// The poll(2) bits that a descriptor shows now; 0 when it is not ready.
pub(crate) fn poll_level(handle: &Handle, interest: Interest) -> u32 {
    let events = interest.poll_bits() as libc::c_short;
    let mut entry = libc::pollfd { fd: handle.as_raw_fd(), events, revents: 0 };
    // SAFETY: `entry` is one valid entry; a zero timeout never waits.
    let count = unsafe { libc::poll(&raw mut entry, 1, 0) };
    if count > 0 { u32::from(entry.revents as u16) } else { 0 }
}

/// The address and length of a piece, for the kernel.
///
/// This is the one place where a piece turns into raw memory, so it is where its range is checked.
pub(crate) fn to_iovec(piece: &Piece) -> iovec {
    let Piece { block, range } = piece;
    assert!(range.start < range.end && range.end <= block.len(), "a piece lies in its block");
    // SAFETY: the start lies within the block, checked above.
    let start = unsafe { block.as_non_null().add(range.start) };
    iovec { iov_base: start.as_ptr().cast(), iov_len: range.end - range.start }
}

/// The pieces as the kernel wants them, and their number.
pub(crate) fn to_iovecs(pieces: &[Option<Piece>; 2]) -> ([iovec; 2], usize) {
    let mut iovecs = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 2];
    let mut count = 0;
    for piece in pieces.iter().flatten() {
        iovecs[count] = to_iovec(piece);
        count += 1;
    }
    assert!(count > 0, "a transfer has at least one piece");
    (iovecs, count)
}

fn transfer(pieces: &[Option<Piece>; 2], call: impl Fn(*mut msghdr) -> libc::ssize_t) -> Attempt {
    let (mut iovecs, count) = to_iovecs(pieces);
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: msghdr = unsafe { mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = count as _;
    let wanted = iovecs[0].iov_len + iovecs[1].iov_len;
    loop {
        let moved = call(&raw mut message);
        match usize::try_from(moved) {
            Ok(moved) => {
                let short = moved > 0 && moved < wanted;
                return Attempt::Done { result: Ok(Outcome::Moved(moved)), short };
            }
            Err(_) => match OsError::last() {
                OsError(libc::EINTR) => {}
                // The two names are one number on our systems, but not by any standard.
                error if error.0 == libc::EAGAIN || error.0 == libc::EWOULDBLOCK => {
                    return Attempt::Blocked;
                }
                error => return done(Err(error)),
            },
        }
    }
}

fn accept_one(listener: &Handle) -> Attempt {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    loop {
        let mut length = mem::size_of_val(&storage) as libc::socklen_t;
        // SAFETY: `storage` and `length` describe a buffer large enough for every family.
        let fd =
            unsafe { accept(listener.as_raw_fd(), (&raw mut storage).cast(), &raw mut length) };
        if fd >= 0 {
            return done(Ok(accepted(fd, &storage)));
        }
        match OsError::last() {
            OsError(libc::EINTR) => {}
            error if error.0 == libc::EAGAIN || error.0 == libc::EWOULDBLOCK => {
                return Attempt::Blocked;
            }
            error => return done(Err(error)),
        }
    }
}

/// The outcome of an accept that returned `fd`.
pub(crate) fn accepted(fd: RawFd, peer: &libc::sockaddr_storage) -> Outcome {
    // SAFETY: the descriptor was just created by accept and belongs to nobody else.
    let handle = unsafe { Handle::from_raw(fd) };
    Outcome::Accepted(handle, socket::from_system(peer))
}

fn connected(socket: &Handle) -> Attempt {
    if let Err(error) = take_error(socket.as_raw_fd()) {
        return done(Err(error));
    }
    match socket::peer_address(socket) {
        Ok(_) => done(Ok(Outcome::Connected)),
        Err(OsError(libc::ENOTCONN)) => Attempt::Blocked,
        Err(error) => done(Err(error)),
    }
}

/// Takes the pending error of a socket, as after a connect that had to wait.
fn take_error(socket: RawFd) -> Result<(), OsError> {
    let mut error: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `error` and `length` describe a buffer of an int's size.
    socket::check(unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut length,
        )
    })?;
    if error == 0 { Ok(()) } else { Err(OsError(error)) }
}

fn done(result: Result<Outcome, OsError>) -> Attempt {
    Attempt::Done { result, short: false }
}

impl Interest {
    /// The poll(2) bits to ask for.
    pub(crate) fn poll_bits(self) -> u32 {
        let bits: c_int = match self {
            Self::Readable => c_int::from(libc::POLLIN),
            Self::Writable => c_int::from(libc::POLLOUT | libc::POLLWRNORM),
        };
        bits as u32
    }
}
