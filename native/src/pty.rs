//! A pseudo-terminal of this machine as the other end of a serial line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use crate::affinity;
use crate::bell_slot::BellSlot;
use crate::byte_queue::ByteQueue;
use crate::op::OsError;
use crate::socket::check;

/// An open pseudo-terminal in raw mode. Programs open [`path`](Pty::path); what they write arrives
/// in one queue, what is put into the other they read.
#[derive(Debug)]
pub struct Pty {
    controller: Arc<File>,
    /// Kept open: without any open end the other one has errors instead of data.
    _terminal: OwnedFd,
    path: PathBuf,
    link: Option<PathBuf>,
}

impl Pty {
    /// Opens one; `link` is a path that is made to lead to it, in place of an older link. May
    /// wait: to be called before the reactor runs.
    ///
    /// # Errors
    ///
    /// What the system says: of pseudo-terminals, or `EEXIST` of a `link` that is no link.
    pub fn open(link: Option<&Path>) -> Result<Self, OsError> {
        let (mut controller, mut terminal) = (-1, -1);
        // SAFETY: both numbers are written before success is returned; the three others may be
        // null, and mean then: no name, default modes, no size.
        check(unsafe {
            libc::openpty(
                &raw mut controller,
                &raw mut terminal,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        })?;
        // SAFETY: openpty has just opened both, for us alone.
        let (controller, terminal) =
            unsafe { (OwnedFd::from_raw_fd(controller), OwnedFd::from_raw_fd(terminal)) };
        for end in [&controller, &terminal] {
            // SAFETY: an open descriptor; the call touches no memory.
            check(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        }
        make_raw(&terminal)?;
        let path = name_of(&terminal)?;
        let link = link.map(|link| place_link(&path, link)).transpose()?;
        let controller = Arc::new(File::from(controller));
        Ok(Self { controller, _terminal: terminal, path, link })
    }

    /// What programs open: the device, not the link to it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the two threads that carry bytes: from `outgoing` to the programs, and from them to
    /// `incoming`. They ring the bell after each piece, and end when the queues are closed and
    /// this value is dropped.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub fn start(
        &self,
        outgoing: ByteQueue,
        incoming: ByteQueue,
        bell: BellSlot,
    ) -> Result<(), OsError> {
        let (mut source, sink) = (Arc::clone(&self.controller), Arc::clone(&self.controller));
        let other_bell = bell.clone();
        let send = move || {
            let mut bytes = [0; 4096];
            loop {
                let count = outgoing.wait_read(&mut bytes);
                if count == 0 || (&*sink).write_all(&bytes[..count]).is_err() {
                    return;
                }
                other_bell.ring();
            }
        };
        let receive = move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut bytes) {
                if !incoming.wait_write(&bytes[..count]) {
                    return;
                }
                bell.ring();
            }
        };
        affinity::spawn("usb pty out", send).map_err(os_error)?;
        affinity::spawn("usb pty in", receive).map(drop).map_err(os_error)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            // Somebody may have put another link there since.
            if std::fs::read_link(link).is_ok_and(|target| target == self.path) {
                let _ = std::fs::remove_file(link);
            }
        }
    }
}

/// Bytes pass as they are: no echo, no lines, no signals.
fn make_raw(terminal: &OwnedFd) -> Result<(), OsError> {
    // SAFETY: all-zero bytes are a valid termios, and it is filled before it is used.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: an open terminal and a writable termios.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes) })?;
    // SAFETY: a writable termios.
    unsafe { libc::cfmakeraw(&raw mut modes) };
    // SAFETY: an open terminal and a whole termios.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const modes) })
}

fn name_of(terminal: &OwnedFd) -> Result<PathBuf, OsError> {
    let mut name = [0_u8; 128];
    // SAFETY: an open terminal; the name is written within the length given, with its NUL.
    let result =
        unsafe { libc::ttyname_r(terminal.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) };
    if result != 0 {
        return Err(OsError(result));
    }
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned().into())
}

fn place_link(path: &Path, link: &Path) -> Result<PathBuf, OsError> {
    if std::fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink()) {
        std::fs::remove_file(link).map_err(os_error)?;
    }
    std::os::unix::fs::symlink(path, link).map_err(os_error)?;
    Ok(link.to_owned())
}

fn os_error(error: io::Error) -> OsError {
    OsError(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_unchanged_both_ways_and_the_link_goes() {
        let link = std::env::temp_dir().join(format!("usbip-fast-pty-{}", std::process::id()));
        let pty = Pty::open(Some(&link)).expect("a pseudo-terminal");
        let (outgoing, incoming) = (ByteQueue::new(4096), ByteQueue::new(4096));
        pty.start(outgoing.clone(), incoming.clone(), BellSlot::default()).expect("two threads");
        let mut program = File::options().read(true).write(true).open(&link).expect("the link");
        let sent: Vec<u8> = (0..=255).collect();
        program.write_all(&sent).expect("room");
        let mut found = Vec::new();
        while found.len() < sent.len() {
            let mut bytes = [0; 64];
            let count = incoming.wait_read(&mut bytes);
            found.extend_from_slice(&bytes[..count]);
        }
        assert_eq!(found, sent);
        assert!(outgoing.wait_write(&sent));
        let mut back = vec![0; 256];
        program.read_exact(&mut back).expect("all of it");
        assert_eq!(back, sent);
        outgoing.close();
        incoming.close();
        drop(pty);
        assert!(std::fs::symlink_metadata(&link).is_err(), "the link is gone");
    }
}
