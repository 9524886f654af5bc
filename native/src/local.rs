//! Stream sockets of this machine that have a path: one server listens, commands of the same user
//! connect. Access is the file's: 0600.
//!
//! A path is never taken from a server that lives, and always from one that has died: whoever
//! refuses to be connected to is dead. Looking and taking are one step under a lock of the
//! directory, so that two servers that start together do not take the same path.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libc::{c_int, sockaddr_un, socklen_t};

use crate::handle::Handle;
use crate::op::OsError;
use crate::socket;

/// Connections that may wait to be accepted.
const BACKLOG: c_int = 16;

/// How often, and how long in between, the lock of a directory is tried for.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why a path cannot be listened at. The texts begin behind the path's name.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another server listens there.
    #[error("is in use by another server")]
    InUse,
    /// Something that is no socket has the name.
    #[error("is there already and is no socket")]
    NoSocket,
    /// The directory is open to others.
    #[error("{} is not this user's alone; see: ls -ld {}", .0.display(), .0.display())]
    NotPrivate(PathBuf),
    /// The system's word.
    #[error("cannot be used: {0}")]
    System(#[from] io::Error),
    /// Longer than a socket's path may be.
    #[error("is too long for the path of a socket")]
    TooLong,
}

impl From<OsError> for LocalError {
    fn from(error: OsError) -> Self {
        Self::System(error.into())
    }
}

/// A listening socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct LocalListener {
    handle: Handle,
    path: PathBuf,
    /// Device and inode of the file, so that only the own one is removed.
    identity: (u64, u64),
}

impl LocalListener {
    /// Listens at `path`, for this user only. The socket is non-blocking and close-on-exec. A file
    /// left behind by a server that has died is replaced. Waits for another server that starts at
    /// this moment, at most a second.
    ///
    /// # Errors
    ///
    /// See [`LocalError`].
    pub fn open(path: &Path) -> Result<Self, LocalError> {
        let path = std::path::absolute(path)?;
        let address = address(&path)?;
        let folder = path.parent().ok_or(LocalError::NoSocket)?;
        let _lock = lock(folder)?;
        if !is_free(&path)? {
            return Err(LocalError::InUse);
        }
        let handle = socket::open(libc::AF_UNIX)?;
        let length = socklen_t::try_from(mem::size_of::<sockaddr_un>()).expect("a small structure");
        // SAFETY: `address` is a socket address of `length` bytes.
        socket::check(unsafe {
            libc::bind(handle.as_raw_fd(), (&raw const address).cast(), length)
        })?;
        let listener = Self { identity: identity(&path)?, handle, path };
        // Nobody can connect before it listens, so the mode is right from the first moment.
        let text = c_path(&listener.path)?;
        // SAFETY: `text` is a C string.
        socket::check(unsafe { libc::chmod(text.as_ptr(), 0o600) })?;
        // SAFETY: listen touches no memory of ours.
        socket::check(unsafe { libc::listen(listener.handle.as_raw_fd(), BACKLOG) })?;
        Ok(listener)
    }

    /// The socket.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Without it the next server finds that nobody listens, and replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a server listens at `path`. Does not wait.
#[must_use]
pub fn is_live(path: &Path) -> bool {
    probe(path).is_ok_and(|answer| answer == Probe::Live)
}

/// Removes the files of dead servers among the sockets in `folder`; what cannot be removed stays.
pub fn sweep(folder: &Path) {
    let Ok(_lock) = lock(folder) else { return };
    for path in sockets(folder) {
        // Removes it if nobody listens; its next user would do the same.
        let _ = is_free(&path);
    }
}

/// The sockets in a directory, dead ones included, by name; none if it cannot be read.
#[must_use]
pub fn sockets(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    let mut paths: Vec<_> = entries.flatten().filter(is_socket).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Makes `folder`, if it is not there, for this user only, and checks that it belongs to nobody
/// else.
///
/// # Errors
///
/// [`LocalError::NotPrivate`] where another user may write; what the system says.
pub fn prepare_folder(folder: &Path) -> Result<(), LocalError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    // SAFETY: geteuid touches no memory of ours and cannot fail.
    let own = found.uid() == unsafe { libc::geteuid() };
    if found.is_dir() && own && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(LocalError::NotPrivate(folder.to_owned()))
    }
}

/// Where programs of this user keep their sockets: `/run` for root (`/var/run` where that is
/// missing), else what `XDG_RUNTIME_DIR` says, else the directory for temporary files with a name
/// of the user's own in it.
#[must_use]
pub fn runtime_folder(program: &str) -> PathBuf {
    // SAFETY: geteuid touches no memory of ours and cannot fail.
    let user = unsafe { libc::geteuid() };
    if user == 0 {
        let run = if Path::new("/run").is_dir() { "/run" } else { "/var/run" };
        return Path::new(run).join(program);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder).join(program),
        None => std::env::temp_dir().join(format!("{program}-{user}")),
    }
}

/// The folders of [`runtime_folder`] of the users who are logged in, for root.
#[must_use]
pub fn runtime_folders_of_users(program: &str) -> Vec<PathBuf> {
    let Ok(users) = fs::read_dir("/run/user") else { return Vec::new() };
    users.flatten().map(|user| user.path().join(program)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    /// Nothing has the name.
    Absent,
    /// A socket that nobody listens at.
    Dead,
    /// Somebody listens.
    Live,
}

fn probe(path: &Path) -> Result<Probe, LocalError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Probe::Absent),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(LocalError::NoSocket),
        Ok(_) => {}
    }
    let address = address(path)?;
    let handle = socket::open(libc::AF_UNIX)?;
    let length = socklen_t::try_from(mem::size_of::<sockaddr_un>()).expect("a small structure");
    // SAFETY: `address` is a socket address of `length` bytes. The socket does not block.
    let result = socket::check(unsafe {
        libc::connect(handle.as_raw_fd(), (&raw const address).cast(), length)
    });
    match result {
        // A full queue has an owner too.
        Ok(()) | Err(OsError(libc::EAGAIN | libc::EINPROGRESS)) => Ok(Probe::Live),
        Err(OsError(libc::ECONNREFUSED)) => Ok(Probe::Dead),
        Err(OsError(libc::ENOENT)) => Ok(Probe::Absent),
        Err(error) => Err(error.into()),
    }
}

/// Whether `path` can be taken; removes what a dead server has left there. Under the lock.
fn is_free(path: &Path) -> Result<bool, LocalError> {
    match probe(path)? {
        Probe::Absent => Ok(true),
        Probe::Live => Ok(false),
        Probe::Dead => {
            fs::remove_file(path)?;
            Ok(true)
        }
    }
}

fn lock(folder: &Path) -> Result<File, LocalError> {
    let file = File::open(folder)?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut).into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn c_path(path: &Path) -> Result<CString, LocalError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput).into())
}

/// The system's form of a path, with its NUL.
fn address(path: &Path) -> Result<sockaddr_un, LocalError> {
    let bytes = c_path(path)?.into_bytes_with_nul();
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut address: sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() > address.sun_path.len() {
        return Err(LocalError::TooLong);
    }
    for (place, &byte) in address.sun_path.iter_mut().zip(&bytes) {
        *place = byte as libc::c_char;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// A directory of the test's own, gone at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            prepare_folder(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it was made");
        }
    }

    #[test]
    fn a_live_socket_is_not_taken_and_its_file_goes_with_it() {
        let folder = Folder::new("local-live");
        let path = folder.0.join("serve.sock");
        let listener = LocalListener::open(&path).expect("free");
        let mode = fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(is_live(&path));
        assert!(matches!(LocalListener::open(&path), Err(LocalError::InUse)));
        assert!(UnixStream::connect(&path).is_ok(), "still the first one's");
        drop(listener);
        assert!(!path.exists() && !is_live(&path));
    }

    #[test]
    fn what_a_dead_server_left_is_replaced_or_swept() {
        let folder = Folder::new("local-dead");
        let path = folder.0.join("serve.sock");
        let other = folder.0.join("serve-1.sock");
        for path in [&path, &other] {
            drop(UnixListener::bind(path).expect("free"));
            assert!(path.exists() && !is_live(path));
        }
        let listener = LocalListener::open(&path).expect("nobody listens");
        assert_eq!(sockets(&folder.0), [other.clone(), path.clone()]);
        sweep(&folder.0);
        assert_eq!(sockets(&folder.0), [path]);
        // A file of the same name that is another's stays.
        fs::remove_file(listener.path()).expect("there");
        let theirs = UnixListener::bind(listener.path()).expect("free");
        let path = listener.path().to_owned();
        drop(listener);
        assert!(path.exists());
        drop(theirs);
    }

    #[test]
    fn only_sockets_and_short_names_are_touched() {
        let folder = Folder::new("local-file");
        let path = folder.0.join("notes.txt");
        fs::write(&path, "mine").expect("written");
        assert!(matches!(LocalListener::open(&path), Err(LocalError::NoSocket)));
        assert_eq!(fs::read_to_string(&path).expect("there"), "mine");
        let long = folder.0.join("x".repeat(200));
        assert!(matches!(LocalListener::open(&long), Err(LocalError::TooLong)));
        let nowhere = folder.0.join("none/serve.sock");
        assert!(matches!(LocalListener::open(&nowhere), Err(LocalError::System(_))));
    }

    #[test]
    fn a_directory_of_everybody_is_refused() {
        let folder = Folder::new("local-open");
        let text = c_path(&folder.0).expect("a path");
        // SAFETY: `text` is a C string.
        assert_eq!(unsafe { libc::chmod(text.as_ptr(), 0o777) }, 0);
        assert!(matches!(prepare_folder(&folder.0), Err(LocalError::NotPrivate(_))));
    }
}
