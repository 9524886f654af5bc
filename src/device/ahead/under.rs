//! The wrapped device, the wrapper's own URBs on it, and what goes back to the client.

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast_native::{Arena, Block};

use super::index_of;
use super::layout::packets_mut;
use crate::device::{Completed, Device};
use crate::limits;
use crate::usb::errno;
use crate::usb::isochronous;
use crate::usb::transfer::{Finished, Submission, TransferFlags, TransferType};

/// Marks the slots of the wrapper's own URBs.
const OWN: u32 = 1 << 31;

/// The wrapped device and what all lanes share.
pub(super) struct Under {
    pub(super) inner: Box<dyn Device>,
    /// Answers to the client, in order.
    pub(super) finished: VecDeque<Completed>,
    /// Where memory comes from, since the session has asked for the first of it.
    arena: Option<Arena>,
    /// Own URBs with the device, by slot.
    own: Vec<Option<Own>>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    submission: Submission,
    is_cancelled: bool,
}

impl Own {
    fn lane(&self) -> usize {
        index_of(self.submission.endpoint, self.submission.direction)
    }
}

impl Under {
    pub(super) fn new(inner: Box<dyn Device>) -> Self {
        let (finished, own, free) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { inner, finished, arena: None, own, free }
    }

    /// Memory for the client.
    pub(super) fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        if self.arena.is_none() {
            self.arena = Some(arena.clone());
        }
        self.inner.allocate(arena, bytes)
    }

    /// Memory for an own URB.
    pub(super) fn take_block(&mut self, bytes: usize) -> Option<Block> {
        let arena = self.arena.clone()?;
        self.inner.allocate(&arena, bytes)
    }

    /// Whether the device may get one more own URB.
    pub(super) fn has_room(&self) -> bool {
        self.own.len() - self.free.len() < limits::AHEAD_URBS
    }

    /// Starts an own URB; the slot in `submission` means nothing. An isochronous one goes on at
    /// once where a stream has run dry, even if the client's would not: without ISO_ASAP all
    /// packets would be late from then on that were read ahead or held back.
    pub(super) fn start(&mut self, submission: Submission, block: Block, now: Duration) {
        let own = Some(Own { submission, is_cancelled: false });
        let index = match self.free.pop() {
            Some(index) => {
                self.own[index as usize] = own;
                index
            }
            None => {
                self.own.push(own);
                self.free.reserve(self.own.len());
                self.own.len() as u32 - 1
            }
        };
        let iso_asap = submission.kind == TransferType::Isochronous;
        let flags = TransferFlags { iso_asap, ..submission.flags };
        self.inner.submit(Submission { slot: OWN | index, flags, ..submission }, block, now);
    }

    /// The lane of a finished URB, if it is one of the wrapper's.
    pub(super) fn lane_of(&self, slot: u32) -> Option<usize> {
        let own = self.own.get((slot & !OWN) as usize).filter(|_| slot & OWN != 0)?;
        Some(own.expect("a device gives back what it was given, once").lane())
    }

    /// An own URB is back. Returns it, and whether its end was asked for.
    pub(super) fn take_back(&mut self, slot: u32) -> (Submission, bool) {
        let index = slot & !OWN;
        let own = self.own[index as usize].take().expect("an own URB comes back once");
        self.free.push(index);
        (own.submission, own.is_cancelled)
    }

    /// Asks for the end of all own URBs of a lane.
    pub(super) fn cancel_lane(&mut self, lane: usize, now: Duration) {
        for index in 0..self.own.len() {
            if let Some(own) = &mut self.own[index]
                && own.lane() == lane
                && !own.is_cancelled
            {
                own.is_cancelled = true;
                self.inner.cancel(OWN | index as u32, now);
            }
        }
    }

    /// Answers a URB of the client's that has moved nothing.
    pub(super) fn answer(&mut self, submission: &Submission, mut block: Block, status: i32) {
        isochronous::refuse(packets_mut(&mut block, submission), -errno::EXDEV);
        let &Submission { slot, packets, .. } = submission;
        let finished = Finished { slot, status, actual_length: 0, error_count: packets };
        self.finished.push_back(Completed { finished, block });
    }
}
