//! Answers to the peer: which leave next, and in what form.

use std::ops::Range;

use super::{Exporter, SessionEnd};
use crate::limits;
use crate::session::flow::{Lane, Reply};
use crate::session::urbs::{Answer, UrbState};
use crate::wire::urb::HEADER_BYTES;

/// One send: first bytes of the send buffer, then possibly a part of a URB's own block.
#[derive(Debug)]
pub struct Transmit<B> {
    /// Bytes written to the front of the buffer given to [`Exporter::poll_transmit`].
    pub buffered: usize,
    /// A large answer that leaves from where the device put it, behind the buffered bytes.
    pub block: Option<(B, Range<usize>)>,
    /// PDUs in this send.
    pub pdus: u32,
}

impl<B> Transmit<B> {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffered == 0 && self.block.is_none()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Exporter<B> {
    /// Fills `buffer` with the answers whose turn it is. Small ones are copied together; the first
    /// large one goes from its block and ends the run, as does the first bulk one while the peer
    /// has periodic URBs out. Call when no send is in flight; the answers count as given then.
    pub fn poll_transmit(&mut self, buffer: &mut [u8]) -> Transmit<B> {
        let mut transmit = Transmit { buffered: 0, block: None, pdus: 0 };
        self.answered.clear();
        if self.end.is_some() {
            return transmit;
        }
        let mut bulk_pdus = 0;
        // As it was before this send: the peer of the last periodic answer is about to ask again.
        let periodic = self.periodic_urbs > 0;
        while let Some((lane, reply)) = self.lanes.peek() {
            if lane == Lane::Bulk && bulk_pdus > 0 && periodic {
                break;
            }
            let bytes = self.wire_bytes(reply);
            if bytes > limits::COALESCED_REPLY_BYTES {
                self.lanes.take(lane, bytes);
                transmit.block = Some(self.take_large(reply));
                transmit.pdus += 1;
                break;
            }
            let room = &mut buffer[transmit.buffered..];
            let Some(room) = room.get_mut(..bytes) else { break };
            self.lanes.take(lane, bytes);
            self.write_small(reply, room);
            transmit.buffered += bytes;
            transmit.pdus += 1;
            bulk_pdus += u32::from(lane == Lane::Bulk);
        }
        self.end_if_gone(&transmit);
        transmit
    }

    /// The slots of the URBs whose answers the last [`poll_transmit`](Self::poll_transmit) gave.
    /// They are free for others from the next [`handle_received`](Self::handle_received) on.
    #[must_use]
    pub fn answered(&self) -> &[u32] {
        &self.answered
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would give something.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        self.end.is_none() && !self.lanes.is_empty()
    }

    fn wire_bytes(&self, reply: Reply) -> usize {
        match reply {
            Reply::Unlink(_) => HEADER_BYTES,
            Reply::Submit(slot) => self.answer_of(slot).wire_bytes(),
        }
    }

    fn answer_of(&self, slot: u32) -> &Answer<B> {
        match &self.urbs.get(slot).expect("a queued answer's URB is in the table").state {
            UrbState::Done(answer) => answer,
            other => unreachable!("a queued answer is done, not {}", other.name()),
        }
    }

    fn take_large(&mut self, reply: Reply) -> (B, Range<usize>) {
        let Reply::Submit(slot) = reply else { unreachable!("only an answer with data is large") };
        self.answered.push(slot);
        let UrbState::Done(Answer::Encoded(block, range)) = self.retire(slot).state else {
            unreachable!("only an answer with data is large")
        };
        (block, range)
    }

    fn write_small(&mut self, reply: Reply, room: &mut [u8]) {
        let slot = match reply {
            Reply::Unlink(unlink) => {
                return unlink.emit(room.try_into().expect("sized for a header"));
            }
            Reply::Submit(slot) => slot,
        };
        self.answered.push(slot);
        let UrbState::Done(answer) = self.retire(slot).state else {
            unreachable!("a queued answer is done")
        };
        match answer {
            Answer::Header(ret) => ret.emit(room.try_into().expect("sized for a header")),
            Answer::Encoded(block, range) => room.copy_from_slice(&block.as_ref()[range]),
            Answer::Unlinked(ret) => ret.emit(room.try_into().expect("sized for a header")),
        }
    }

    /// A session whose device is gone ends when its last answer has left. A URB that has not come
    /// in full does not keep it alive: a peer that stops within one would hold the device.
    fn end_if_gone(&mut self, transmit: &Transmit<B>) {
        let answered = self.urbs.len() == self.receive.urbs();
        let quiet = answered && self.lanes.is_empty() && transmit.is_empty();
        if self.device_gone.is_some() && quiet {
            self.stop(SessionEnd::DeviceGone);
        }
    }
}
