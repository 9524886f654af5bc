//! Threads, memory and errors, the Linux way.

/// Puts the thread's error number back.
pub(crate) fn set_errno(number: libc::c_int) {
    // SAFETY: the thread's errno is always a valid place.
    unsafe { *libc::__errno_location() = number };
}

/// Bytes of the process's memory that are resident; `None` without `/proc`.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// See [`affinity::pin`](crate::affinity::pin).
pub(crate) fn pin(core: usize) -> bool {
    // SAFETY: all-zero bytes are an empty set of cores.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of_val(&allowed);
    // SAFETY: `allowed` is a writable set of `size` bytes; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return false;
    }
    let total = usize::try_from(libc::CPU_SETSIZE).expect("a count");
    // SAFETY: the index is below the size of the set.
    let is_allowed = |&index: &usize| unsafe { libc::CPU_ISSET(index, &allowed) };
    let Some(index) = (0..total).filter(is_allowed).nth(core) else { return false };
    // SAFETY: as for `allowed`.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is below the size of the set.
    unsafe { libc::CPU_SET(index, &mut one) };
    // SAFETY: `one` is a readable set of `size` bytes.
    unsafe { libc::sched_setaffinity(0, size, &raw const one) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core() {
        let count = || crate::affinity::cores();
        let thread = crate::affinity::spawn("pinned", move || (pin(0), count()));
        let (pinned, cores) = thread.expect("room for a thread").join().expect("no panic");
        assert!(pinned);
        assert_eq!(cores, 1);
    }
}
