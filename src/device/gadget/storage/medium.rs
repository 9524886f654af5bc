//! Where the blocks of a disk are: in memory, or in a file behind a helper thread.

use usbip_fast_native::{Doorbell, OsError};

use super::file::FileMedium;

/// A medium. Nothing here waits: what is not there yet is asked for again after the doorbell rang.
#[derive(Debug)]
pub(super) enum Medium {
    Ram(RamMedium),
    File(FileMedium),
}

impl Medium {
    /// Size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Ram(ram) => ram.bytes,
            Self::File(file) => file.bytes(),
        }
    }

    /// A session begins; see [`Function::opened`](super::Function::opened).
    pub(super) fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        match self {
            Self::Ram(_) => Ok(()),
            Self::File(file) => file.opened(doorbell),
        }
    }

    /// A command begins to read here.
    pub(super) fn begin_read(&mut self, offset: u64, length: u64) {
        if let Self::File(file) = self {
            file.begin_read(offset, length);
        }
    }

    /// Copies what is there from `offset` on into the front of `data`, and says how much that is:
    /// 0 for nothing yet. What the command begun last wants is within the medium.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<usize, OsError> {
        match self {
            Self::Ram(ram) => {
                ram.read(offset, data);
                Ok(data.len())
            }
            Self::File(file) => file.read(offset, data),
        }
    }

    /// A command begins to write.
    pub(super) fn begin_write(&mut self) {
        if let Self::File(file) = self {
            file.begin_write();
        }
    }

    /// How many of `wanted` bytes [`write`](Self::write) takes now.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        match self {
            Self::Ram(_) => wanted,
            Self::File(file) => file.room(wanted),
        }
    }

    /// Writes what there is room for, behind what the same command wrote before.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        match self {
            Self::Ram(ram) => ram.write(offset, data),
            Self::File(file) => file.write(offset, data),
        }
    }

    /// The command has written all it will.
    pub(super) fn end_write(&mut self) {
        if let Self::File(file) = self {
            file.end_write();
        }
    }

    /// Puts everything on the medium: `None` while that is under way. To be called until it
    /// answers.
    pub(super) fn synchronize(&mut self) -> Option<Result<(), OsError>> {
        match self {
            Self::Ram(_) => Some(Ok(())),
            Self::File(file) => file.synchronize(),
        }
    }

    /// The error of a write that had been accepted.
    pub(super) fn take_error(&mut self) -> Option<OsError> {
        match self {
            Self::Ram(_) => None,
            Self::File(file) => file.take_error(),
        }
    }

    /// Stops what a command has begun and not ended: the bus was reset.
    pub(super) fn abort(&mut self) {
        if let Self::File(file) = self {
            file.abort();
        }
    }

    /// The doorbell was rung: whether anything has come in.
    pub(super) fn handle_doorbell(&mut self) -> bool {
        match self {
            Self::Ram(_) => false,
            Self::File(file) => file.handle_doorbell(),
        }
    }
}

/// Zeros until written to; memory is taken piece by piece with the first write to each.
#[derive(Debug)]
pub(super) struct RamMedium {
    bytes: u64,
    pieces: Vec<Option<Box<[u8]>>>,
}

/// Bytes of a piece of memory.
const PIECE_BYTES: usize = 64 * 1024;

impl RamMedium {
    /// A medium of `bytes` bytes, which a [limit](crate::limits::RAM_DISK_BYTES) bounds.
    pub(super) fn new(bytes: u64) -> Self {
        let count = bytes.div_ceil(PIECE_BYTES as u64);
        let count = usize::try_from(count).expect("bounded by the options");
        Self { bytes, pieces: vec![None; count] }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut at = usize::try_from(offset).expect("within memory");
        let mut rest = data;
        while !rest.is_empty() {
            let (piece, within) = (at / PIECE_BYTES, at % PIECE_BYTES);
            let count = rest.len().min(PIECE_BYTES - within);
            let (front, behind) = rest.split_at_mut(count);
            match &self.pieces[piece] {
                Some(bytes) => front.copy_from_slice(&bytes[within..within + count]),
                None => front.fill(0),
            }
            at += count;
            rest = behind;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = usize::try_from(offset).expect("within memory");
        let mut rest = data;
        while !rest.is_empty() {
            let (piece, within) = (at / PIECE_BYTES, at % PIECE_BYTES);
            let count = rest.len().min(PIECE_BYTES - within);
            let (front, behind) = rest.split_at(count);
            let bytes =
                self.pieces[piece].get_or_insert_with(|| vec![0; PIECE_BYTES].into_boxed_slice());
            bytes[within..within + count].copy_from_slice(front);
            at += count;
            rest = behind;
        }
    }
}
