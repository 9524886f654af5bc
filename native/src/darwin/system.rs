//! Threads, memory and errors, the macOS way.

/// Puts the thread's error number back.
pub(crate) fn set_errno(number: libc::c_int) {
    // SAFETY: the thread's errno is always a valid place.
    unsafe { *libc::__error() = number };
}

/// Bytes of the process's memory that are resident.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    // SAFETY: all-zero bytes are a valid proc_taskinfo.
    let mut info: libc::proc_taskinfo = unsafe { std::mem::zeroed() };
    let size = libc::c_int::try_from(std::mem::size_of_val(&info)).expect("a small structure");
    // SAFETY: `info` has room for `size` bytes.
    let got = unsafe {
        libc::proc_pidinfo(libc::getpid(), libc::PROC_PIDTASKINFO, 0, (&raw mut info).cast(), size)
    };
    (got == size).then_some(info.pti_resident_size)
}

/// See [`affinity::pin`](crate::affinity::pin): macOS takes hints at most.
pub(crate) fn pin(_core: usize) -> bool {
    false
}
