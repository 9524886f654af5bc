//! Threads and the cores they run on.

use std::thread::{self, JoinHandle};

/// How many cores the process may use; at least 1.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Binds the calling thread to the n-th of the cores that the process may use. False where the
/// system has no such thing (macOS) or does not want to: the thread then runs anywhere.
#[must_use]
pub fn pin(core: usize) -> bool {
    crate::platform::system::pin(core)
}

/// Starts a named thread: a reactor of another core, or a helper for calls that wait.
///
/// # Errors
///
/// The system has no room for another thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    // The system cuts names: 15 bytes on Linux, 63 on macOS.
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_no_core_that_is_not_there() {
        assert!(cores() >= 1);
        let thread = spawn("usbip-core-1", || {
            let name = thread::current().name().map(str::to_owned);
            (name, pin(usize::MAX))
        });
        let (name, pinned) = thread.expect("room for a thread").join().expect("no panic");
        assert_eq!(name.as_deref(), Some("usbip-core-1"));
        assert!(!pinned, "there is no such core");
    }
}
