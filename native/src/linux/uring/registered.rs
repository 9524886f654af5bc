//! Chunks of memory that the kernel has pinned, so that a send need not look its pages up.

use std::rc::{Rc, Weak};

use io_uring::Submitter;

use crate::arena::{Chunk, Registration};
use crate::block::Block;
use crate::op::{OsError, Piece};

/// The table of registered buffers. A chunk is registered at its first use and its slot is free
/// again some time after the arena has given the chunk back.
pub(super) struct Registered {
    slots: Vec<Option<Weak<Chunk>>>,
    free: Vec<u16>,
    /// The first refusal, until somebody has asked for it.
    refusal: Option<OsError>,
    refused: bool,
    turns: u32,
}

/// Chunks of 1 MiB: enough for a gibibyte.
const SLOTS: u16 = 1024;

/// Turns between two looks for chunks that are gone.
const SWEEP_TURNS: u32 = 4096;

impl Registered {
    /// Makes an empty table; `None` if the kernel (before 5.19) has no sparse tables.
    pub(super) fn new(ring: &Submitter<'_>) -> Option<Self> {
        ring.register_buffers_sparse(SLOTS.into()).ok()?;
        Some(Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            free: (0..SLOTS).rev().collect(),
            refusal: None,
            refused: false,
            turns: 0,
        })
    }

    /// The slot of the chunk that holds the piece, registering it if it is new.
    pub(super) fn slot(&mut self, ring: &Submitter<'_>, piece: &Piece) -> Option<u16> {
        let Block::Arena(block) = &piece.block else { return None };
        let chunk = block.chunk();
        match chunk.registration.get() {
            Some(Registration::Slot(slot)) => {
                // The note may be of another reactor, or of one that is gone.
                let known = self.slots.get(usize::from(slot))?.as_ref()?;
                std::ptr::eq(known.as_ptr(), Rc::as_ptr(chunk)).then_some(slot)
            }
            Some(Registration::Refused) => None,
            None => self.register(ring, chunk),
        }
    }

    fn register(&mut self, ring: &Submitter<'_>, chunk: &Rc<Chunk>) -> Option<u16> {
        if self.free.is_empty() {
            self.sweep(ring);
        }
        let result = match self.free.last() {
            Some(&slot) => {
                let iovec = libc::iovec {
                    iov_base: chunk.address().as_ptr().cast(),
                    iov_len: chunk.length(),
                };
                // SAFETY: the kernel pins the pages itself; they stay valid to it even after the
                // chunk is unmapped, and by then no operation names the slot.
                unsafe { ring.register_buffers_update(slot.into(), &[iovec], None) }
                    .map(|()| slot)
                    .map_err(|error| OsError(error.raw_os_error().unwrap_or(libc::EIO)))
            }
            None => Err(OsError(libc::ENOSPC)),
        };
        match result {
            Ok(slot) => {
                self.free.pop();
                self.slots[usize::from(slot)] = Some(Rc::downgrade(chunk));
                chunk.registration.set(Some(Registration::Slot(slot)));
                Some(slot)
            }
            Err(error) => {
                chunk.registration.set(Some(Registration::Refused));
                if !std::mem::replace(&mut self.refused, true) {
                    self.refusal = Some(error);
                }
                None
            }
        }
    }

    /// Called once a turn: now and then unpins chunks that are gone.
    pub(super) fn handle_turn(&mut self, ring: &Submitter<'_>) {
        self.turns += 1;
        if self.turns >= SWEEP_TURNS {
            self.turns = 0;
            self.sweep(ring);
        }
    }

    /// The first refusal, once.
    pub(super) fn take_refusal(&mut self) -> Option<OsError> {
        self.refusal.take()
    }

    fn sweep(&mut self, ring: &Submitter<'_>) {
        for (slot, chunk) in (0..SLOTS).zip(&mut self.slots) {
            if chunk.as_ref().is_none_or(|chunk| chunk.strong_count() > 0) {
                continue;
            }
            let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // SAFETY: an empty entry refers to no memory.
            if unsafe { ring.register_buffers_update(slot.into(), &[nothing], None) }.is_ok() {
                *chunk = None;
                self.free.push(slot);
            }
        }
    }
}
