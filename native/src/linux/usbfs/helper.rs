//! The thread of an open device on which the calls that wait are made.

use crate::op::OsError;

/// Why there is no helper thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelperError {
    /// The system refused another thread.
    #[error("the system gives no thread for a device: {0}")]
    SystemRefused(OsError),
}

/// Starts a thread named `usbfs BUSID` (cut to what the system allows) that runs `work` and ends.
/// Its end is not waited for: a device that hangs in the kernel must not hang its server.
///
/// # Errors
///
/// When the system has no thread to give.
pub fn spawn(bus_id: &str, work: impl FnOnce() + Send + 'static) -> Result<(), HelperError> {
    // A helper only makes system calls and reads small files.
    const STACK_BYTES: usize = 128 * 1024;
    std::thread::Builder::new()
        .name(format!("usbfs {bus_id}"))
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map(drop)
        .map_err(|error| {
            HelperError::SystemRefused(OsError(error.raw_os_error().unwrap_or(libc::EAGAIN)))
        })
}
