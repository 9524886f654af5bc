//! Stream sockets: making them, their options, their addresses.
//!
//! Everything here returns at once. What waits (accept, connect, receive, send) is an
//! [`Op`](crate::Op).

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, sockaddr_storage, socklen_t};

use crate::handle::Handle;
use crate::op::OsError;

/// Seconds of silence after which a peer is probed.
pub const KEEPALIVE_IDLE_SECONDS: i32 = 5;

/// Seconds between probes.
pub const KEEPALIVE_INTERVAL_SECONDS: i32 = 1;

/// Unanswered probes after which the peer counts as dead.
pub const KEEPALIVE_PROBES: i32 = 5;

/// Milliseconds that sent bytes may stay unacknowledged before the connection fails.
pub const USER_TIMEOUT_MS: i32 = 10_000;

/// Bytes that may wait unsent in the kernel before the socket stops being writable.
pub const NOT_SENT_LOW_WATER_BYTES: i32 = 128 * 1024;

/// A listening, non-blocking, close-on-exec TCP socket. An IPv6 socket takes IPv6 only, so that
/// `0.0.0.0` and `::` can be listened on side by side. Port 0 lets the system choose; see
/// [`local_address`].
///
/// # Errors
///
/// What `socket`, `bind` or `listen` answer: `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`,
/// `EAFNOSUPPORT` …
pub fn listen(address: SocketAddr, backlog: u16) -> Result<Handle, OsError> {
    let socket = open(family(&address))?;
    set_flag(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    if address.is_ipv6() {
        set_flag(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    let (storage, length) = to_system(&address);
    // SAFETY: `storage` holds a socket address of `length` bytes.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    // SAFETY: listen touches no memory of ours.
    check(unsafe { libc::listen(socket.as_raw_fd(), c_int::from(backlog)) })?;
    Ok(socket)
}

/// A fresh non-blocking, close-on-exec TCP socket for a connection to `address`.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `EAFNOSUPPORT`.
pub fn stream(address: &SocketAddr) -> Result<Handle, OsError> {
    open(family(address))
}

/// Two connected stream sockets of this machine, non-blocking and close-on-exec.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`.
pub fn pair() -> Result<(Handle, Handle), OsError> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | CREATION_FLAGS, 0, fds.as_mut_ptr())
    })?;
    // SAFETY: both descriptors were just created and belong to nobody else.
    let (one, two) = unsafe { (Handle::from_raw(fds[0]), Handle::from_raw(fds[1])) };
    finish_creation(&one)?;
    finish_creation(&two)?;
    Ok((one, two))
}

/// Wakes whoever waits to read at the other end of a [`pair`]. One that has many nudges unread
/// needs no further one.
pub fn nudge(socket: &Handle) {
    let byte = 1u8;
    // SAFETY: `byte` is one readable byte; the socket does not block.
    unsafe { libc::send(socket.as_raw_fd(), (&raw const byte).cast(), 1, SEND_FLAGS) };
}

/// Takes all nudges that have come. Whether there were any, or the other end is closed.
#[must_use]
pub fn take_nudges(socket: &Handle) -> bool {
    let mut bytes = [0u8; 64];
    let mut any = false;
    loop {
        // SAFETY: `bytes` is writable for its length; the socket does not block.
        let count =
            unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match count {
            0 => return true,
            1.. => any = true,
            _ => return any,
        }
    }
}

/// Prepares a connected TCP socket for USB/IP: no delay, a dead peer known in ≤ 11 s, and not more
/// than [`NOT_SENT_LOW_WATER_BYTES`] queued in front of a periodic reply. Where the system lacks an
/// option it does without.
///
/// # Errors
///
/// `EINVAL` or `ENOPROTOOPT` when it is not a TCP socket.
pub fn tune(socket: &Handle) -> Result<(), OsError> {
    set_flag(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    set_flag(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE)?;
    for &(name, value) in TCP_OPTIONS {
        set_option(socket, libc::IPPROTO_TCP, name, value)?;
    }
    Ok(())
}

/// Asks for kernel buffers of the given sizes, in bytes, for sending and receiving. The system
/// clamps and, on Linux, doubles them.
///
/// # Errors
///
/// `ENOTSOCK`.
pub fn set_buffer_bytes(
    socket: &Handle,
    send: Option<i32>,
    receive: Option<i32>,
) -> Result<(), OsError> {
    if let Some(bytes) = send {
        set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)?;
    }
    if let Some(bytes) = receive {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    Ok(())
}

/// Makes closing the socket reset the connection instead of ending it in order.
///
/// # Errors
///
/// `ENOTSOCK`.
pub fn reset_on_close(socket: &Handle) -> Result<(), OsError> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_value(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Which direction [`shutdown`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Nothing more will be received.
    Receive,
    /// Nothing more will be sent: the peer sees the end of the stream.
    Send,
    /// Both.
    Both,
}

/// Ends one or both directions of a connection; operations in flight on it complete.
///
/// # Errors
///
/// `ENOTCONN` when the peer has ended it already.
pub fn shutdown(socket: &Handle, direction: Direction) -> Result<(), OsError> {
    let how = match direction {
        Direction::Receive => libc::SHUT_RD,
        Direction::Send => libc::SHUT_WR,
        Direction::Both => libc::SHUT_RDWR,
    };
    // SAFETY: shutdown touches no memory of ours.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), how) })
}

/// The address a socket is bound to.
///
/// # Errors
///
/// `ENOTSOCK`.
pub fn local_address(socket: &Handle) -> Result<SocketAddr, OsError> {
    address_by(socket, libc::getsockname)
}

/// The address of the other end.
///
/// # Errors
///
/// `ENOTCONN` when there is none (any more).
pub fn peer_address(socket: &Handle) -> Result<SocketAddr, OsError> {
    address_by(socket, libc::getpeername)
}

/// Turns a system call's -1 into the error it left.
pub(crate) fn check(result: c_int) -> Result<(), OsError> {
    if result < 0 { Err(OsError::last()) } else { Ok(()) }
}

/// An address in the system's form, and its length.
pub(crate) fn to_system(address: &SocketAddr) -> (sockaddr_storage, socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let place = (&raw mut storage).cast::<libc::sockaddr_in>();
            // SAFETY: sockaddr_storage is large and aligned enough for every address family.
            let place = unsafe { &mut *place };
            place.sin_family = libc::AF_INET as libc::sa_family_t;
            place.sin_port = v4.port().to_be();
            place.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            size_of_socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let place = (&raw mut storage).cast::<libc::sockaddr_in6>();
            // SAFETY: as above.
            let place = unsafe { &mut *place };
            place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            place.sin6_port = v6.port().to_be();
            place.sin6_addr.s6_addr = v6.ip().octets();
            place.sin6_flowinfo = v6.flowinfo();
            place.sin6_scope_id = v6.scope_id();
            size_of_socklen::<libc::sockaddr_in6>()
        }
    };
    (storage, length)
}

/// An address from the system's form; a socket that has none of IPv4 or IPv6 (a UNIX socket) gets
/// 0.0.0.0:0.
pub(crate) fn from_system(storage: &sockaddr_storage) -> SocketAddr {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which address the storage holds.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id))
        }
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    }
}

type AddressCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut socklen_t) -> c_int;

fn address_by(socket: &Handle, call: AddressCall) -> Result<SocketAddr, OsError> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = size_of_socklen::<sockaddr_storage>();
    // SAFETY: `storage` and `length` describe a buffer large enough for every family.
    check(unsafe { call(socket.as_raw_fd(), (&raw mut storage).cast(), &raw mut length) })?;
    Ok(from_system(&storage))
}

fn family(address: &SocketAddr) -> c_int {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

pub(crate) fn open(family: c_int) -> Result<Handle, OsError> {
    // SAFETY: socket touches no memory of ours.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | CREATION_FLAGS, 0) };
    check(fd)?;
    // SAFETY: the descriptor was just created and belongs to nobody else.
    let socket = Handle::new(unsafe { OwnedFd::from_raw_fd(fd) });
    finish_creation(&socket)?;
    Ok(socket)
}

fn set_flag(socket: &Handle, level: c_int, name: c_int) -> Result<(), OsError> {
    set_option(socket, level, name, 1)
}

fn set_option(socket: &Handle, level: c_int, name: c_int, value: c_int) -> Result<(), OsError> {
    set_value(socket, level, name, &value)
}

fn set_value<T>(socket: &Handle, level: c_int, name: c_int, value: &T) -> Result<(), OsError> {
    let (pointer, length) = ((&raw const *value).cast(), size_of_socklen::<T>());
    // SAFETY: the pointer and the length describe `value`, which the call only reads.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) })
}

fn size_of_socklen<T>() -> socklen_t {
    socklen_t::try_from(mem::size_of::<T>()).expect("socket structures are small")
}

pub(crate) use crate::platform::sockets::{CREATION_FLAGS, finish_creation};
use crate::platform::sockets::{SEND_FLAGS, TCP_OPTIONS};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_system_form() {
        for text in ["127.0.0.1:3240", "255.1.2.3:65535", "[::1]:3240", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().expect("valid");
            assert_eq!(from_system(&to_system(&address).0), address);
        }
    }

    #[test]
    fn both_families_listen_on_one_port() {
        let four = listen("127.0.0.1:0".parse().expect("valid"), 16).expect("free port");
        let port = local_address(&four).expect("bound").port();
        assert_ne!(port, 0);
        match listen(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), 16) {
            Ok(six) => assert_eq!(local_address(&six).expect("bound").port(), port),
            // A machine without IPv6 has nothing to show here.
            Err(error) => assert!(
                error.0 == libc::EADDRNOTAVAIL || error.0 == libc::EAFNOSUPPORT,
                "{error:?}"
            ),
        }
    }

    #[test]
    fn tuned_sockets_carry_the_options() {
        let address = "127.0.0.1:1".parse().expect("valid");
        let socket = stream(&address).expect("a socket");
        tune(&socket).expect("TCP");
        for (name, wanted) in TCP_OPTIONS.iter().chain(&[(libc::TCP_NODELAY, 1)]) {
            let mut value: c_int = 0;
            let mut length = size_of_socklen::<c_int>();
            // SAFETY: `value` and `length` describe a buffer of an int's size.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    *name,
                    (&raw mut value).cast(),
                    &raw mut length,
                )
            };
            assert_eq!((result, value), (0, *wanted));
        }
        let (one, _two) = pair().expect("a pair");
        assert!(tune(&one).is_err(), "not TCP");
    }
}
