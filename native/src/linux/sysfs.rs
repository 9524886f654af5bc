//! Small files that the kernel fills: `/sys` and `/proc`.
//!
//! Some reads and most writes under a USB device wait for that device's lock (strings, the active
//! configuration; `descriptors` and the identity numbers do not). They belong on a thread that may
//! wait.

use std::path::{Path, PathBuf};

use crate::op::OsError;

/// The whole text of a file; what is not UTF-8 is replaced.
///
/// # Errors
///
/// What `open` and `read` say; `ENOENT` for an attribute that a device does not have.
pub fn read_text(path: &Path) -> Result<String, OsError> {
    read_bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The whole content of a file.
///
/// # Errors
///
/// As [`read_text`].
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, OsError> {
    std::fs::read(path).map_err(os_error)
}

/// Writes a text as it is, without a newline, in one call.
///
/// # Errors
///
/// What `open` and `write` say.
pub fn write_text(path: &Path, text: &str) -> Result<(), OsError> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(os_error)?;
    file.write_all(text.as_bytes()).map_err(os_error)
}

/// Names in a directory, sorted.
///
/// # Errors
///
/// What `opendir` says.
pub fn list(path: &Path) -> Result<Vec<String>, OsError> {
    let entries = std::fs::read_dir(path).map_err(os_error)?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The path without links, of something that exists.
///
/// # Errors
///
/// `ENOENT` when there is no such thing.
pub fn resolve(path: &Path) -> Result<PathBuf, OsError> {
    std::fs::canonicalize(path).map_err(os_error)
}

fn os_error(error: std::io::Error) -> OsError {
    OsError(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_and_resolves_what_every_linux_has() {
        let mounts = read_text("/proc/self/mountinfo".as_ref()).expect("procfs is mounted");
        assert!(mounts.contains(" / "), "the root directory is mounted");
        let names = list("/proc/self".as_ref()).expect("procfs is mounted");
        assert!(names.iter().any(|name| name == "status"));
        assert!(
            resolve("/proc/self".as_ref())
                .expect("exists")
                .ends_with(std::process::id().to_string())
        );
        assert_eq!(read_text("/proc/none".as_ref()), Err(OsError(libc::ENOENT)));
    }
}
