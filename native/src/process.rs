//! What the process may and does use.

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
    read_limit(libc::RLIMIT_NOFILE as i32)
}

/// How many bytes the process may lock or register (RLIMIT_MEMLOCK).
///
/// # Errors
///
/// None on the supported systems.
pub fn locked_memory_limit() -> Result<Limit, OsError> {
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
