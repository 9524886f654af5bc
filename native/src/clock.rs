//! The monotonic clock, as a [`Duration`] since an arbitrary fixed point.
//!
//! Logic never reads a clock: `now` is an argument everywhere, and this is where the loop, the
//! helpers and the command line get it from.

use std::time::Duration;

/// Monotonic time since an arbitrary point that is the same for the whole process.
#[must_use]
pub fn now() -> Duration {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the duration of the call; CLOCK_MONOTONIC exists on
    // every supported system, so the call cannot fail.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    assert_eq!(result, 0, "the monotonic clock is readable");
    let seconds = u64::try_from(at.tv_sec).expect("monotonic seconds are not negative");
    let nanos = u32::try_from(at.tv_nsec).expect("nanoseconds are below 10^9");
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards() {
        let first = now();
        let second = now();
        assert!(second >= first);
    }
}
