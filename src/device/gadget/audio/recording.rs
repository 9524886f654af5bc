//! The file of a speaker: a WAV that is whole whenever a stream has ended.

use std::path::Path;

use usbip_fast_native::spool::Spool;

use super::wav::{self, WavFormat};
use crate::limits;

/// Writes what is played into a file, from a thread of its own.
#[derive(Debug)]
pub(super) struct Recording {
    spool: Spool,
    format: WavFormat,
    /// The header was handed over.
    begun: bool,
    /// What was not handed over yet.
    buffer: Vec<u8>,
    /// Bytes of samples handed over.
    written: u64,
    /// Bytes that found no room, because the disk is slower than the stream.
    lost: u64,
}

/// Bytes that are handed over together.
const CHUNK_BYTES: usize = 64 * 1024;

impl Recording {
    /// Begins a file; what was there before is gone.
    pub(super) fn new(path: &Path, format: WavFormat) -> Self {
        let spool = Spool::new(path, limits::SIMULATED_SPOOL_BYTES / CHUNK_BYTES, CHUNK_BYTES);
        let buffer = spool.chunk();
        let mut recording = Self { spool, format, begun: false, buffer, written: 0, lost: 0 };
        recording.begin();
        recording
    }

    /// What follows has this rate. Another rate than before begins the file anew: a file has one.
    pub(super) fn set_rate(&mut self, rate: u32) {
        if rate != self.format.rate {
            self.format.rate = rate;
            self.begun = false;
            self.begin();
        }
    }

    fn begin(&mut self) {
        let mut head = self.spool.chunk();
        head.extend_from_slice(&wav::header(self.format, 0));
        self.begun = self.spool.begin(head);
        self.written = 0;
    }

    /// Adds whole frames.
    pub(super) fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = CHUNK_BYTES - self.buffer.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.buffer.extend_from_slice(now);
            data = later;
            if self.buffer.len() == CHUNK_BYTES {
                self.flush();
            }
        }
    }

    /// Hands over everything, and what the header has to say then.
    pub(super) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if !self.begun {
            self.begin();
        }
        let chunk = std::mem::replace(&mut self.buffer, self.spool.chunk());
        let bytes = chunk.len() as u64;
        let [riff, data] = wav::sizes(self.written + bytes);
        let [riff_at, data_at] = wav::SIZE_OFFSETS;
        if self.begun && self.spool.append(chunk, [(riff_at, riff), (data_at, data)]) {
            self.written += bytes;
        } else {
            self.lost += bytes;
        }
    }

    /// Bytes that are not in the file though they were played.
    pub(super) fn lost_bytes(&self) -> u64 {
        self.lost
    }

    /// What went wrong with the file, for people.
    pub(super) fn failure(&self) -> Option<String> {
        self.spool.failure()
    }
}
