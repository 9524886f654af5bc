//! What concerns this process as a whole: its limits, its rights, its place in the background.

use std::io;

use crate::op::OsError;
use crate::socket::check;

/// A soft and a hard limit; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// How many descriptors the process may have open (RLIMIT_NOFILE).
///
/// # Errors
///
/// None on the supported systems.
pub fn descriptor_limit() -> Result<Limit, OsError> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    read_limit(libc::RLIMIT_NOFILE as i32)
}

/// How many bytes the process may lock or register (RLIMIT_MEMLOCK).
///
/// # Errors
///
/// None on the supported systems.
pub fn locked_memory_limit() -> Result<Limit, OsError> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    read_limit(libc::RLIMIT_MEMLOCK as i32)
}

/// Raises the soft limit of open descriptors to `count`, or as far as the hard limit allows, and
/// returns what it is then.
///
/// # Errors
///
/// `EPERM`, `EINVAL` where the system has a lower bound of its own.
pub fn raise_descriptor_limit(count: u64) -> Result<u64, OsError> {
    let Limit { soft, hard } = descriptor_limit()?;
    if soft >= count {
        return Ok(soft);
    }
    let wanted = count.min(hard);
    let limit = libc::rlimit { rlim_cur: wanted as _, rlim_max: hard as _ };
    // SAFETY: `limit` is a valid limit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(wanted)
}

/// The number of this process.
#[must_use]
pub fn id() -> u32 {
    std::process::id()
}

/// Whether the process has the rights of the superuser.
#[must_use]
pub fn is_superuser() -> bool {
    // SAFETY: geteuid touches no memory of ours and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn read_limit(resource: i32) -> Result<Limit, OsError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable limit; the resource is one of the system's.
    check(unsafe { libc::getrlimit(resource as _, &raw mut limit) })?;
    #[expect(clippy::useless_conversion, reason = "the type differs between systems")]
    let widen = |value: libc::rlim_t| u64::try_from(value).unwrap_or(u64::MAX);
    Ok(Limit { soft: widen(limit.rlim_cur), hard: widen(limit.rlim_max) })
}

pub use crate::platform::system::resident_bytes;

/// Goes on in the background: the caller's shell gets its prompt back, and this process, now
/// without a terminal, goes on as another one. Input and output lead nowhere then; the log does
/// too unless it was sent to a file or a pipe. To be called before any thread exists.
///
/// # Errors
///
/// When the system refuses another process or session.
pub fn go_to_background() -> io::Result<()> {
    // SAFETY: fork duplicates the calling thread only. The caller promises that there is no other,
    // so no lock can be held by a thread that does not exist in the child.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: ends the process at once; nothing that was buffered is written twice.
        _ => unsafe { libc::_exit(0) },
    }
    // SAFETY: no precondition; fails only for a group leader, which a fresh child is not.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the path is a literal with its NUL.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if null == -1 {
        return Err(io::Error::last_os_error());
    }
    for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: no precondition; a closed descriptor is no terminal.
        let is_terminal = unsafe { libc::isatty(stream) } == 1;
        if stream == libc::STDERR_FILENO && !is_terminal {
            continue;
        }
        // SAFETY: both numbers are open; the target is a standard stream, which belongs to no
        // value of this program that could be surprised.
        if unsafe { libc::dup2(null, stream) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    if null > libc::STDERR_FILENO {
        // SAFETY: opened above and owned by nobody else.
        unsafe { libc::close(null) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_use_are_readable() {
        let limit = descriptor_limit().expect("readable");
        assert!(limit.soft > 0 && limit.soft <= limit.hard);
        let raised = raise_descriptor_limit(limit.soft).expect("nothing to do");
        assert_eq!(raised, limit.soft);
        let bytes = resident_bytes().expect("readable");
        assert!(bytes > 64 * 1024 && bytes < 1 << 40, "{bytes}");
    }
}
