//! Small files that outlive the process that wrote them. The text says what the process held; a
//! lock, which the kernel takes away with the process, says whether it still lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::op::OsError;
use crate::{client, clock};

/// How long to wait before a lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Most bytes that are read: whoever wrote more was not us.
const TEXT_BYTES: usize = 64 * 1024;

/// A file that is ours until this is dropped. Dropped without [`remove`](Self::remove) it is left
/// behind, as if the process had been killed.
#[derive(Debug)]
pub struct HeldFile {
    file: File,
    path: PathBuf,
}

impl HeldFile {
    /// Makes or opens a file, and its folder, and holds it. Waits up to `patience` for another
    /// holder to let go: only on threads that may wait.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` when somebody else holds it all the time; else what `mkdir`, `open` and `flock`
    /// say.
    pub fn hold(path: &Path, patience: Duration) -> Result<Self, OsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(os_error)?;
        }
        let deadline = clock::now() + patience;
        loop {
            let file = options().create(true).truncate(false).open(path).map_err(os_error)?;
            if let Some(held) = lock(file, path)? {
                return Ok(held);
            }
            if clock::now() >= deadline {
                return Err(OsError(libc::ETIMEDOUT));
            }
            client::pause(RETRY);
        }
    }

    /// Holds a file that a process has left behind; `None` where there is none, or its holder
    /// lives. Without the right to write it can still be read.
    ///
    /// # Errors
    ///
    /// What `open` and `flock` say.
    pub fn take_over(path: &Path) -> Result<Option<Self>, OsError> {
        let opened = options().open(path).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => File::open(path),
            _ => Err(error),
        });
        match opened {
            Ok(file) => lock(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(os_error(error)),
        }
    }

    /// What is written there; what is not UTF-8 is replaced.
    ///
    /// # Errors
    ///
    /// What `read` says; `EFBIG` for more than any holder writes.
    pub fn text(&self) -> Result<String, OsError> {
        let mut bytes = vec![0; TEXT_BYTES];
        let length = self.file.read_at(&mut bytes, 0).map_err(os_error)?;
        if length == TEXT_BYTES {
            return Err(OsError(libc::EFBIG));
        }
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Replaces what is written there.
    ///
    /// # Errors
    ///
    /// What `ftruncate` and `write` say.
    pub fn write(&self, text: &str) -> Result<(), OsError> {
        self.file.set_len(0).map_err(os_error)?;
        self.file.write_all_at(text.as_bytes(), 0).map_err(os_error)
    }

    /// Lets go of the file and removes it.
    ///
    /// # Errors
    ///
    /// What `unlink` says.
    pub fn remove(self) -> Result<(), OsError> {
        // Still held, so that nobody can have made a new one of that name.
        std::fs::remove_file(&self.path).map_err(os_error)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// `None` if somebody else has it, or removed it before it was locked.
fn lock(file: File, path: &Path) -> Result<Option<HeldFile>, OsError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(os_error(error)),
    }
    let locked = file.metadata().map_err(os_error)?;
    let is_there = std::fs::metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino()));
    Ok(is_there.then(|| HeldFile { file, path: path.to_owned() }))
}

fn os_error(error: io::Error) -> OsError {
    OsError(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PATIENCE: Duration = Duration::ZERO;

    /// A path below a folder that is not there yet and goes with the test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("held-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("deeper/1-1.2")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_has_one_holder() {
        let place = Place::new("one");
        assert!(HeldFile::take_over(&place.path()).expect("no error").is_none());
        let held = HeldFile::hold(&place.path(), NO_PATIENCE).expect("it is free");
        held.write("a longer text").expect("written");
        held.write("text").expect("written");
        assert_eq!(held.text().as_deref(), Ok("text"));
        let second = HeldFile::hold(&place.path(), NO_PATIENCE).expect_err("it is held");
        assert_eq!(second, OsError(libc::ETIMEDOUT));
        assert!(HeldFile::take_over(&place.path()).expect("no error").is_none());
    }

    #[test]
    fn what_is_left_behind_can_be_taken_over_once() {
        let place = Place::new("left");
        let held = HeldFile::hold(&place.path(), NO_PATIENCE).expect("it is free");
        held.write("text").expect("written");
        drop(held);
        let left = HeldFile::take_over(&place.path()).expect("no error").expect("left behind");
        assert_eq!(left.text().as_deref(), Ok("text"));
        left.remove().expect("removed");
        assert!(HeldFile::take_over(&place.path()).expect("no error").is_none());
    }

    #[test]
    fn a_holder_that_lets_go_is_waited_for() {
        let place = Place::new("wait");
        let held = HeldFile::hold(&place.path(), NO_PATIENCE).expect("it is free");
        held.write("old").expect("written");
        let path = place.path();
        let waiter = crate::affinity::spawn("waiter", move || {
            HeldFile::hold(&path, Duration::from_secs(60)).and_then(|held| held.text())
        });
        client::pause(3 * RETRY);
        held.remove().expect("removed");
        let text = waiter.expect("room for a thread").join().expect("no panic");
        assert_eq!(text.as_deref(), Ok(""), "a new file, not the one that was removed");
    }
}
