//! A file as a disk: a thread makes the calls that wait for it.
//!
//! Requests are carried out one after the other, in the order they were sent, so that a read sees
//! every write sent before it. Buffers travel with the requests and come back with the reports:
//! nothing is allocated per request.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::affinity;
use crate::bell_slot::BellSlot;
use crate::op::OsError;

/// A file that stands for a medium. Its size does not change while it is used.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    bytes: u64,
}

impl DiskFile {
    /// Opens what is there; a file that is missing is made, `create` bytes of zeros long, if that
    /// is given. May wait: to be called before the reactor runs.
    ///
    /// # Errors
    ///
    /// What the system says of the path.
    pub fn open(path: &Path, read_only: bool, create: Option<u64>) -> Result<Self, OsError> {
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only);
        let file = match (options.open(path), create) {
            (Err(error), Some(bytes)) if error.kind() == io::ErrorKind::NotFound => {
                let made = OpenOptions::new().read(true).write(true).create_new(true).open(path);
                made.and_then(|file| file.set_len(bytes).map(|()| file))
            }
            (opened, _) => opened,
        };
        let file = file.map_err(os_error)?;
        // The end is asked for by seeking, because a block device has no length in its metadata.
        let bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(os_error)?;
        Ok(Self { file, bytes })
    }

    /// Size when it was opened.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn carry_out(&self, request: &mut Request) -> Result<(), OsError> {
        let data = &mut request.buffer[..request.length];
        match request.work {
            Work::Read => self.file.read_exact_at(data, request.offset),
            Work::Write => self.file.write_all_at(data, request.offset),
            Work::Synchronize => self.file.sync_data(),
        }
        .map_err(os_error)
    }
}

/// What is to be done with the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Fill the buffer from the medium.
    Read,
    /// Put the buffer on the medium.
    Write,
    /// Everything written before is on the medium, safe from a loss of power.
    Synchronize,
}

/// A request, and with its result the report of it.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub work: Work,
    /// Chosen by the sender, to know the report by.
    pub serial: u64,
    /// Where on the medium, in bytes.
    pub offset: u64,
    /// Memory; empty where none is needed.
    pub buffer: Box<[u8]>,
    /// How much of the buffer takes part, in bytes.
    pub length: usize,
    /// How it ended. As sent: `Ok`.
    pub result: Result<(), OsError>,
}

/// The sender's side of the thread: never waits.
#[derive(Debug)]
pub struct Lane {
    requests: Option<SyncSender<Request>>,
    reports: Receiver<Request>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's side of a lane; a test may play the thread.
#[derive(Debug)]
pub struct Worker {
    requests: Receiver<Request>,
    reports: SyncSender<Request>,
}

/// Both sides, for at most `depth` requests that are sent and not reported.
#[must_use]
pub fn lane(depth: usize) -> (Lane, Worker) {
    let (requests, taken) = sync_channel(depth);
    let (done, reports) = sync_channel(depth);
    let lane = Lane { requests: Some(requests), reports, thread: None };
    (lane, Worker { requests: taken, reports: done })
}

/// Starts the thread of a file; it rings the slot's bell after each report.
///
/// # Errors
///
/// The system has no room for another thread.
pub fn start(file: Arc<DiskFile>, depth: usize, bell: BellSlot) -> Result<Lane, OsError> {
    let (mut lane, worker) = lane(depth);
    let work = move || {
        while worker.step(|request| file.carry_out(request), true) {
            bell.ring();
        }
    };
    lane.thread = Some(affinity::spawn("usb disk", work).map_err(os_error)?);
    Ok(lane)
}

impl Lane {
    /// Sends a request. `false`, and the request is gone, when the thread has ended.
    ///
    /// # Panics
    ///
    /// If more than `depth` requests are under way.
    #[must_use]
    pub fn send(&self, request: Request) -> bool {
        let Some(requests) = &self.requests else { return false };
        match requests.try_send(request) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => panic!("the sender counts what is under way"),
        }
    }

    /// The next report, if there is one.
    #[must_use]
    pub fn poll(&self) -> Option<Request> {
        self.reports.try_recv().ok()
    }
}

impl Drop for Lane {
    /// What was written before is carried out, then the thread ends: that is waited for, because
    /// the host was told that the data is there.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Worker {
    /// Carries one request out and reports it; `false` when there is none, or nobody sends any
    /// more. `wait` sleeps until there is one.
    pub fn step(
        &self,
        carry_out: impl FnOnce(&mut Request) -> Result<(), OsError>,
        wait: bool,
    ) -> bool {
        let taken = match wait {
            true => self.requests.recv().map_err(|_| TryRecvError::Disconnected),
            false => self.requests.try_recv(),
        };
        let Ok(mut request) = taken else { return false };
        request.result = carry_out(&mut request);
        // Nobody reads reports while the lane is dropped; the writes are carried out all the same.
        let _ = self.reports.try_send(request);
        true
    }
}

fn os_error(error: io::Error) -> OsError {
    OsError(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_written_and_read_back() {
        let path = std::env::temp_dir().join(format!("usbip-fast-disk-{}", std::process::id()));
        let missing = DiskFile::open(&path, false, None).expect_err("not there");
        assert_eq!(missing, OsError(libc::ENOENT));
        let file = Arc::new(DiskFile::open(&path, false, Some(8192)).expect("made"));
        assert_eq!(file.bytes(), 8192);
        let lane = start(Arc::clone(&file), 4, BellSlot::default()).expect("a thread");
        let request = |work, serial, length| Request {
            work,
            serial,
            offset: 512,
            buffer: vec![7; length].into(),
            length,
            result: Ok(()),
        };
        assert!(lane.send(request(Work::Write, 1, 1024)));
        assert!(lane.send(request(Work::Synchronize, 2, 0)));
        let beyond = Request { offset: 8000, ..request(Work::Read, 3, 512) };
        assert!(lane.send(beyond));
        let mut reports = Vec::new();
        while reports.len() < 3 {
            reports.extend(lane.poll());
            std::thread::yield_now();
        }
        assert_eq!(reports.iter().map(|report| report.serial).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((reports[0].result, reports[1].result), (Ok(()), Ok(())));
        assert!(reports[2].result.is_err(), "the medium ends before");
        // What was sent is on the medium when the lane is gone.
        assert!(lane.send(Request { offset: 4096, ..request(Work::Write, 4, 512) }));
        drop(lane);
        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it was there");
        assert_eq!(bytes[511..513], [0, 7]);
        assert_eq!(bytes[1535..1537], [7, 0]);
        assert_eq!(bytes[4096..4608], [7; 512]);
    }
}
