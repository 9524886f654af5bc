//! Text that people feed to a device: a file that is read at once, standard input by a thread.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::affinity;
use crate::bell_slot::BellSlot;
use crate::byte_queue::ByteQueue;
use crate::op::OsError;

/// Why standard input cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// One device reads it already.
    #[error("standard input is read by another device already")]
    InUse,
    /// The system refused a thread.
    #[error("no thread to read standard input: {0}")]
    SystemRefused(OsError),
}

/// The text of a file of at most `limit` bytes. May wait: to be called before the reactor runs.
///
/// # Errors
///
/// What the system says; `EFBIG` above the limit, `EILSEQ` where it is no UTF-8.
pub fn read_file(path: &Path, limit: usize) -> Result<String, OsError> {
    let failed = |error: std::io::Error| OsError(error.raw_os_error().unwrap_or(libc::EILSEQ));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let count = file.take(limit as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    if count > limit { Err(OsError(libc::EFBIG)) } else { Ok(text) }
}

/// Starts the thread that reads standard input into the queue until its end. One per process.
///
/// # Errors
///
/// See [`FeedError`].
pub fn read_stdin(queue: ByteQueue, bell: BellSlot) -> Result<(), FeedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(FeedError::InUse);
    }
    let work = move || {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut bytes) {
            if !queue.wait_write(&bytes[..count]) {
                return;
            }
            bell.ring();
        }
    };
    affinity::spawn("usb stdin", work).map(drop).map_err(|error| {
        FeedError::SystemRefused(OsError(error.raw_os_error().unwrap_or(libc::EAGAIN)))
    })
}
