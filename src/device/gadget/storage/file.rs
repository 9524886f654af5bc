//! A file as a medium: a bounded number of buffers between the bus and the thread of the file.
//!
//! Writes are accepted once they are in a buffer, and carried out in order by the thread (a write
//! cache, as the disk tells its host). Reads that go on where the last one ended are read ahead.

use std::collections::VecDeque;
use std::sync::Arc;

use usbip_fast_native::disk::{self, DiskFile, Lane, Request, Work};
use usbip_fast_native::{BellSlot, Doorbell, OsError};

use crate::limits;

/// Bytes of a buffer: what one call reads or writes at most.
const BUFFER_BYTES: usize = 128 * 1024;

/// Buffers of one disk.
const BUFFERS: usize = limits::DISK_CACHE_BYTES / BUFFER_BYTES;

/// Requests under way at once: every buffer and one synchronisation.
pub(super) const DEPTH: usize = BUFFERS + 1;

/// How far a sequential reader is read ahead of, in bytes. Writers have the other buffers.
const READ_AHEAD_BYTES: u64 = (BUFFERS / 2 * BUFFER_BYTES) as u64;

/// A thread that is gone answers nothing; this is said for it.
const NO_THREAD: OsError = OsError(crate::usb::errno::EIO);

/// The reactor's side of a file.
#[derive(Debug)]
pub(super) struct FileMedium {
    file: Option<Arc<DiskFile>>,
    bytes: u64,
    lane: Option<Lane>,
    bell: BellSlot,
    free: Vec<Box<[u8]>>,
    /// Buffers made so far, wherever they are.
    made: usize,
    /// Consecutive pieces of the medium, read or being read.
    window: VecDeque<Piece>,
    /// Up to where the running command reads, and how far ahead of that is read.
    wanted_end: u64,
    ahead: u64,
    /// Where the last reading command ended.
    last_end: u64,
    filling: Option<Filling>,
    synchronization: Synchronization,
    error: Option<OsError>,
    serial: u64,
}

/// A piece of the medium in memory, or on its way there.
#[derive(Debug)]
struct Piece {
    offset: u64,
    length: usize,
    /// Of the request that reads it.
    serial: u64,
    data: Option<Result<Box<[u8]>, OsError>>,
}

/// A buffer that a writing command fills.
#[derive(Debug)]
struct Filling {
    buffer: Box<[u8]>,
    offset: u64,
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synchronization {
    Idle,
    Running,
    /// Under way, but its command was aborted: the next one waits for its end and asks anew.
    Abandoned,
    Done(Result<(), OsError>),
}

impl FileMedium {
    /// A medium whose thread starts with the first session.
    pub(super) fn new(file: Arc<DiskFile>) -> Self {
        let bytes = file.bytes();
        Self { file: Some(file), ..Self::with(bytes, None) }
    }

    fn with(bytes: u64, lane: Option<Lane>) -> Self {
        Self {
            file: None,
            bytes,
            lane,
            bell: BellSlot::default(),
            free: Vec::with_capacity(BUFFERS),
            made: 0,
            window: VecDeque::with_capacity(BUFFERS),
            wanted_end: 0,
            ahead: 0,
            last_end: 0,
            filling: None,
            synchronization: Synchronization::Idle,
            error: None,
            serial: 0,
        }
    }

    /// A medium whose thread a test plays.
    #[cfg(test)]
    pub(super) fn on_lane(bytes: u64, lane: Lane) -> Self {
        Self::with(bytes, Some(lane))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        self.bell.set(doorbell);
        if let (None, Some(file)) = (&self.lane, &self.file) {
            let lane = disk::start(Arc::clone(file), DEPTH, self.bell.clone());
            let lane = lane.map_err(|error| format!("no thread for the disk's file: {error}"))?;
            self.lane = Some(lane);
        }
        Ok(())
    }

    pub(super) fn begin_read(&mut self, offset: u64, length: u64) {
        self.ahead = if offset == self.last_end { READ_AHEAD_BYTES } else { 0 };
        self.wanted_end = offset + length;
        self.last_end = self.wanted_end;
        // A window that does not reach here is of no use; one that does is gone on with.
        let covered = self.window.back().is_some_and(|last| last.end() >= offset)
            && self.window.front().is_some_and(|first| first.offset <= offset);
        if !covered {
            self.drop_window();
        }
        self.discard_before(offset);
        self.fill_window(offset);
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<usize, OsError> {
        self.discard_before(offset);
        let mut copied = 0;
        for piece in &self.window {
            let at = offset + copied as u64;
            let Some(within) = at.checked_sub(piece.offset) else { break };
            let within = usize::try_from(within).expect("below the length of a buffer");
            match &piece.data {
                Some(Ok(bytes)) if copied < data.len() => {
                    let count = (piece.length - within).min(data.len() - copied);
                    data[copied..copied + count].copy_from_slice(&bytes[within..within + count]);
                    copied += count;
                }
                Some(Err(error)) if copied == 0 => {
                    let error = *error;
                    self.drop_window();
                    return Err(error);
                }
                _ => break,
            }
        }
        self.fill_window(offset);
        Ok(copied)
    }

    /// What is written makes what was read ahead old.
    pub(super) fn begin_write(&mut self) {
        self.drop_window();
    }

    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let filling = self.filling.as_ref().map_or(0, |filling| BUFFER_BYTES - filling.length);
        let free = (self.free.len() + BUFFERS - self.made) * BUFFER_BYTES;
        wanted.min(filling + free)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut offset = offset;
        while !rest.is_empty() {
            let mut filling = self.filling.take().unwrap_or_else(|| {
                let buffer = self.buffer().expect("the caller asks for room first");
                Filling { buffer, offset, length: 0 }
            });
            let count = rest.len().min(BUFFER_BYTES - filling.length);
            filling.buffer[filling.length..][..count].copy_from_slice(&rest[..count]);
            filling.length += count;
            offset += count as u64;
            rest = &rest[count..];
            self.filling = Some(filling);
            if self.is_full() {
                self.end_write();
            }
        }
    }

    pub(super) fn end_write(&mut self) {
        if let Some(Filling { buffer, offset, length }) = self.filling.take() {
            self.send(Work::Write, offset, buffer, length);
        }
    }

    pub(super) fn synchronize(&mut self) -> Option<Result<(), OsError>> {
        match self.synchronization {
            Synchronization::Idle => {
                if self.send(Work::Synchronize, 0, Box::default(), 0).is_some() {
                    self.synchronization = Synchronization::Running;
                    return None;
                }
                Some(Err(self.error.take().unwrap_or(NO_THREAD)))
            }
            Synchronization::Running | Synchronization::Abandoned => None,
            Synchronization::Done(result) => {
                self.synchronization = Synchronization::Idle;
                // A write before it that failed is not on the medium either.
                Some(self.error.take().map_or(result, Err))
            }
        }
    }

    pub(super) fn take_error(&mut self) -> Option<OsError> {
        self.error.take()
    }

    pub(super) fn abort(&mut self) {
        if let Some(filling) = self.filling.take() {
            self.free.push(filling.buffer);
        }
        self.synchronization = match self.synchronization {
            Synchronization::Running | Synchronization::Abandoned => Synchronization::Abandoned,
            Synchronization::Idle | Synchronization::Done(_) => Synchronization::Idle,
        };
        self.drop_window();
    }

    pub(super) fn handle_doorbell(&mut self) -> bool {
        let mut any = false;
        while let Some(report) = self.lane.as_ref().and_then(Lane::poll) {
            any = true;
            self.handle_report(report);
        }
        any
    }

    fn handle_report(&mut self, report: Request) {
        let Request { work, serial, buffer, result, .. } = report;
        match work {
            Work::Read => {
                let place = self.window.iter_mut().find(|piece| piece.serial == serial);
                match (place, result) {
                    (Some(piece), Ok(())) => piece.data = Some(Ok(buffer)),
                    (Some(piece), Err(error)) => {
                        piece.data = Some(Err(error));
                        self.free.push(buffer);
                    }
                    // Nobody wants it any more.
                    (None, _) => self.free.push(buffer),
                }
            }
            Work::Write => {
                self.free.push(buffer);
                if let Err(error) = result {
                    self.error.get_or_insert(error);
                }
            }
            Work::Synchronize if self.synchronization == Synchronization::Running => {
                self.synchronization = Synchronization::Done(result);
            }
            Work::Synchronize => self.synchronization = Synchronization::Idle,
        }
    }

    /// Has read, as far as buffers reach, what the command still wants and what may come after.
    fn fill_window(&mut self, offset: u64) {
        let limit = (self.wanted_end + self.ahead).min(self.bytes);
        let mut next = self.window.back().map_or(offset, Piece::end);
        while next < limit {
            let left = limit - next;
            // Read-ahead goes in whole buffers, so that it is not cut ever smaller.
            if next >= self.wanted_end && left < BUFFER_BYTES as u64 && limit < self.bytes {
                return;
            }
            let Some(buffer) = self.buffer() else { return };
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let serial = self.send(Work::Read, next, buffer, length);
            let data = if serial.is_some() { None } else { Some(Err(NO_THREAD)) };
            let serial = serial.unwrap_or_default();
            self.window.push_back(Piece { offset: next, length, serial, data });
            next += length as u64;
        }
    }

    /// Forgets pieces that end here or before.
    fn discard_before(&mut self, offset: u64) {
        while let Some(piece) = self.window.pop_front_if(|piece| piece.end() <= offset) {
            if let Some(Ok(buffer)) = piece.data {
                self.free.push(buffer);
            }
        }
    }

    fn drop_window(&mut self) {
        self.discard_before(u64::MAX);
    }

    fn is_full(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| filling.length == BUFFER_BYTES)
    }

    fn buffer(&mut self) -> Option<Box<[u8]>> {
        let free = self.free.pop();
        if free.is_none() && self.made < BUFFERS {
            self.made += 1;
            return Some(vec![0; BUFFER_BYTES].into_boxed_slice());
        }
        free
    }

    /// The request's serial, if there is a thread to take it.
    fn send(&mut self, work: Work, offset: u64, buffer: Box<[u8]>, length: usize) -> Option<u64> {
        self.serial += 1;
        let request = Request { work, serial: self.serial, offset, buffer, length, result: Ok(()) };
        if self.lane.as_ref().is_some_and(|lane| lane.send(request)) {
            return Some(self.serial);
        }
        // The buffer is gone with the thread; another may be made in its place.
        self.made -= usize::from(work != Work::Synchronize);
        self.error.get_or_insert(NO_THREAD);
        None
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}
