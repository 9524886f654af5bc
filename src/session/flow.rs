//! In which order answers leave: lanes.
//!
//! Endpoint 0, interrupt and isochronous answers go before bulk ones. While the peer has periodic
//! URBs out, at most one bulk PDU is handed to the network at a time, so that a periodic answer
//! never waits behind more than that one. Bulk never starves: after [`URGENT_QUANTUM_BYTES`] of
//! urgent answers one bulk PDU has its turn.

use std::collections::VecDeque;

use crate::usb::transfer::TransferType;
use crate::wire::urb::RetUnlink;

/// Urgent bytes that may pass a waiting bulk answer before it has its turn.
pub const URGENT_QUANTUM_BYTES: usize = 256 * 1024;

/// One PDU that waits to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// RET_SUBMIT of the URB in this slot.
    Submit(u32),
    /// RET_UNLINK; travels in the lane of the URB it is about, behind that URB's own answer.
    Unlink(RetUnlink),
}

/// A queue of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Endpoint 0, interrupt, isochronous.
    Urgent,
    /// Bulk.
    Bulk,
}

impl Lane {
    /// The lane of an endpoint's answers.
    #[must_use]
    pub const fn of(kind: TransferType) -> Self {
        match kind {
            TransferType::Bulk => Self::Bulk,
            TransferType::Control | TransferType::Interrupt | TransferType::Isochronous => {
                Self::Urgent
            }
        }
    }
}

/// The answers that wait to leave.
#[derive(Debug, Default)]
pub struct Lanes {
    urgent: VecDeque<Reply>,
    bulk: VecDeque<Reply>,
    urgent_bytes: usize,
}

impl Lanes {
    /// Queues an answer behind all others of its lane.
    pub fn push(&mut self, lane: Lane, reply: Reply) {
        match lane {
            Lane::Urgent => self.urgent.push_back(reply),
            Lane::Bulk => self.bulk.push_back(reply),
        }
    }

    /// The answer whose turn it is, without taking it.
    #[must_use]
    pub fn peek(&self) -> Option<(Lane, Reply)> {
        let bulk_has_waited = self.urgent_bytes >= URGENT_QUANTUM_BYTES;
        match (self.urgent.front(), self.bulk.front()) {
            (Some(_), Some(&bulk)) if bulk_has_waited => Some((Lane::Bulk, bulk)),
            (Some(&urgent), _) => Some((Lane::Urgent, urgent)),
            (None, Some(&bulk)) => Some((Lane::Bulk, bulk)),
            (None, None) => None,
        }
    }

    /// Takes the answer that [`peek`](Self::peek) has shown; `bytes` is its size on the wire.
    pub fn take(&mut self, lane: Lane, bytes: usize) {
        let taken = match lane {
            Lane::Urgent => {
                self.urgent_bytes = self.urgent_bytes.saturating_add(bytes);
                self.urgent.pop_front()
            }
            Lane::Bulk => {
                self.urgent_bytes = 0;
                self.bulk.pop_front()
            }
        };
        assert!(taken.is_some(), "only a shown answer is taken");
        if self.bulk.is_empty() {
            self.urgent_bytes = 0;
        }
    }

    /// The answers waiting, one lane after the other.
    pub fn replies(&self) -> impl Iterator<Item = Reply> + '_ {
        self.urgent.iter().chain(&self.bulk).copied()
    }

    /// Answers waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.urgent.len() + self.bulk.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_first_but_bulk_never_starves() {
        let mut lanes = Lanes::default();
        lanes.push(Lane::Bulk, Reply::Submit(100));
        for slot in 0..10 {
            lanes.push(Lane::Urgent, Reply::Submit(slot));
        }
        let mut order = Vec::new();
        while let Some((lane, Reply::Submit(slot))) = lanes.peek() {
            lanes.take(lane, 100 * 1024);
            order.push(slot);
        }
        assert_eq!(order, [0, 1, 2, 100, 3, 4, 5, 6, 7, 8, 9]);
    }
}
