//! Bytes from the peer: headers, bodies, and what is done with them.

use std::ops::Range;
use std::time::Duration;

use super::{Exporter, SessionEnd, is_periodic};
use crate::limits;
use crate::session::Memory;
use crate::session::flow::Lane;
use crate::session::urbs::{Urb, UrbState};
use crate::usb::errno::{EINVAL, ENODEV, ENOENT, ENOMEM, EXDEV};
use crate::usb::isochronous;
use crate::usb::setup::Setup;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, SETUP_OFFSET, Submission, TransferFlags,
    TransferType, block_bytes,
};
use crate::wire::deframe::{self, Body, Deframer};
use crate::wire::urb::{self, CmdSubmit, CmdUnlink, Request, RetUnlink};

/// Where in the stream the session is.
#[derive(Debug)]
pub(super) struct Receive {
    deframer: Deframer,
    awaited: Awaited,
}

/// The part of a PDU behind its header that is still to come.
#[derive(Debug)]
enum Awaited {
    /// None: the next byte belongs to a header.
    None,
    /// The OUT payload of a URB that will be refused: read and dropped, then `rest`.
    Dropped { slot: u32, remaining: usize, status: i32, packets: usize },
    /// Bytes for the block of the URB in `slot`, the next one at `range.start`.
    Wanted { slot: u32, range: Range<usize>, refusal: Option<i32> },
}

impl Receive {
    pub(super) fn new() -> Self {
        Self { deframer: Deframer::new(), awaited: Awaited::None }
    }

    /// URBs in the table whose body is still arriving: none or one.
    pub(super) fn urbs(&self) -> usize {
        usize::from(!matches!(self.awaited, Awaited::None))
    }

    fn is_between_pdus(&self) -> bool {
        matches!(self.awaited, Awaited::None) && self.deframer.partial_bytes() == 0
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Exporter<B> {
    /// The block that the next received bytes belong to, and where, if they belong to one. It is
    /// lent to the receive operation, whose completion brings it back through
    /// [`handle_received`](Self::handle_received). Call once before each receive operation.
    pub fn poll_receive(&mut self) -> Option<(B, Range<usize>)> {
        if self.end.is_some() {
            return None;
        }
        let Awaited::Wanted { slot, range, .. } = &self.receive.awaited else { return None };
        let urb = self.urbs.get_mut(*slot).expect("a receiving URB is in the table");
        let UrbState::Receiving(block) = &mut urb.state else {
            unreachable!("a URB whose body is awaited is {}", urb.state.name())
        };
        Some((block.take().expect("a block is lent once"), range.clone()))
    }

    /// Takes what one receive operation has brought: how many bytes went into the lent block, and
    /// the bytes behind them. Nothing at all means end of stream.
    ///
    /// The block comes back also if the session has ended meanwhile, and is dropped then.
    pub fn handle_received(
        &mut self,
        lent: Option<(B, usize)>,
        mut bytes: &[u8],
        memory: &mut impl Memory<B>,
        now: Duration,
    ) {
        let direct = lent.as_ref().map_or(0, |(_, count)| *count);
        let at_end = direct == 0 && bytes.is_empty();
        if let Some((block, count)) = lent {
            self.take_back(block, count);
        }
        while self.end.is_none() && !bytes.is_empty() {
            self.advance(&mut bytes, memory, now);
        }
        if self.end.is_none() && at_end {
            let clean = self.receive.is_between_pdus();
            self.stop(if clean { SessionEnd::PeerClosed } else { SessionEnd::Truncated });
        }
    }

    fn take_back(&mut self, block: B, count: usize) {
        if self.end.is_some() {
            return;
        }
        let Awaited::Wanted { slot, range, .. } = &mut self.receive.awaited else {
            unreachable!("a block is lent only for a body")
        };
        let slot = *slot;
        assert!(count <= range.len(), "a receive stays inside the lent range");
        range.start += count;
        self.counters.bytes_out += count as u64;
        let complete = range.start == range.end;
        let urb = self.urbs.get_mut(slot).expect("a receiving URB is in the table");
        assert!(matches!(urb.state, UrbState::Receiving(None)), "the block was lent");
        urb.state = UrbState::Receiving(Some(block));
        if complete {
            self.complete_body();
        }
    }

    /// Consumes a header, or part of a body.
    fn advance(&mut self, bytes: &mut &[u8], memory: &mut impl Memory<B>, now: Duration) {
        match &mut self.receive.awaited {
            Awaited::None => {
                let Some(header) = self.receive.deframer.next(bytes) else { return };
                match urb::parse_request(&header) {
                    Ok(Request::Submit(submit)) => self.handle_submit(&submit, memory),
                    Ok(Request::Unlink(unlink)) => self.handle_unlink(&unlink, now),
                    Err(malformed) => self.stop(malformed.into()),
                }
            }
            Awaited::Dropped { slot, remaining, status, packets } => {
                let count = bytes.len().min(*remaining);
                *bytes = &bytes[count..];
                *remaining -= count;
                self.counters.bytes_out += count as u64;
                if *remaining == 0 {
                    let (slot, status, packets) = (*slot, *status, *packets);
                    self.expect_descriptors(slot, status, packets);
                }
            }
            Awaited::Wanted { slot, range, .. } => {
                let count = bytes.len().min(range.len());
                let (head, rest) = bytes.split_at(count);
                *bytes = rest;
                let urb = self.urbs.get_mut(*slot).expect("a receiving URB is in the table");
                let UrbState::Receiving(Some(block)) = &mut urb.state else {
                    unreachable!("the block is here while bytes are handled")
                };
                block.as_mut()[range.start..range.start + count].copy_from_slice(head);
                range.start += count;
                self.counters.bytes_out += count as u64;
                if range.start == range.end {
                    self.complete_body();
                }
            }
        }
    }

    fn handle_submit(&mut self, submit: &CmdSubmit, memory: &mut impl Memory<B>) {
        if submit.device_id != self.device_id {
            return self.stop_wrong_device(submit.device_id);
        }
        if self.urbs.find(submit.seqnum).is_some() {
            return self.stop(SessionEnd::DuplicateSeqnum(submit.seqnum));
        }
        let kind = self.endpoints.kind(submit.endpoint, submit.direction);
        let Body { payload_bytes, packets } = match deframe::request_body(submit, kind) {
            Ok(body) => body,
            Err(malformed) => return self.stop(malformed.into()),
        };
        let length = submit.buffer_length as usize;
        let bytes = self.charged_bytes + length;
        let Some(slot) = self.urbs.next_slot().filter(|_| bytes <= hard_bytes()) else {
            return self.stop(SessionEnd::Overload { urbs: self.urbs.len(), bytes });
        };
        self.see_submit(submit.seqnum);
        let refusal = self.refuse(submit, kind);
        let wanted = refusal.is_none().then(|| block_bytes(submit.buffer_length, packets));
        let block = wanted.and_then(|bytes| memory.allocate(bytes));
        let refusal = refusal.or_else(|| block.is_none().then_some(-ENOMEM));
        // A refused isochronous URB still echoes its packet descriptors: they get a small block.
        let block = block.or_else(|| match packets {
            0 => None,
            packets => memory.allocate(block_bytes(0, packets)),
        });
        let submission = make_submission(slot, submit, kind, packets, refusal.is_none());
        let payload = payload_bytes as usize;
        let number_of_packets = match kind {
            // Descriptors for which there is no memory cannot be echoed.
            Some(_) if packets > 0 && block.is_none() => 0,
            Some(_) => submit.number_of_packets,
            // Whatever type the peer takes this endpoint for, nothing follows the header.
            None => 0,
        };
        self.enter(submit, submission, number_of_packets, block);
        let packets = packets as usize;
        if let Some(status) = refusal {
            self.receive.awaited = Awaited::Dropped { slot, remaining: payload, status, packets };
            if payload == 0 {
                self.expect_descriptors(slot, status, packets);
            }
            return;
        }
        self.prepare_body(slot, submit, payload + packets * ISO_PACKET_BYTES);
    }

    /// CMD_UNLINKs held for a CMD_SUBMIT that this one shows will never come are answered.
    fn see_submit(&mut self, seqnum: u32) {
        while let Some(unlink) = self.early_unlinks.pass(seqnum) {
            self.push_unlink(Lane::Urgent, RetUnlink { seqnum: unlink, status: 0 });
        }
    }

    fn stop_wrong_device(&mut self, got: u32) {
        self.stop(SessionEnd::WrongDeviceId { got, expected: self.device_id });
    }

    /// Whether a URB is answered without the device, and with what.
    fn refuse(&self, submit: &CmdSubmit, kind: Option<TransferType>) -> Option<i32> {
        let overloaded = self.urbs.len() >= limits::SESSION_URBS
            || self.charged_bytes + submit.buffer_length as usize > limits::SESSION_BYTES;
        match kind {
            _ if self.device_gone.is_some() => Some(-ENODEV),
            None => Some(-ENOENT),
            Some(TransferType::Control) if !setup_fits(submit) => Some(-EINVAL),
            _ if overloaded => Some(-ENOMEM),
            _ => None,
        }
    }

    fn enter(
        &mut self,
        submit: &CmdSubmit,
        submission: Submission,
        number_of_packets: i32,
        block: Option<B>,
    ) {
        let charged_bytes = submit.buffer_length as usize;
        self.order.push(submission.endpoint, submission.direction, submission.slot);
        self.charged_bytes += charged_bytes;
        self.periodic_urbs += usize::from(is_periodic(submission.kind));
        self.urbs.insert(Urb {
            seqnum: submit.seqnum,
            submission,
            number_of_packets,
            charged_bytes,
            state: UrbState::Receiving(block),
            unlink: self.early_unlinks.take(submit.seqnum),
        });
        // A peer may ask twice; all but the first are answered behind the URB.
        while let Some(unlink) = self.early_unlinks.take(submit.seqnum) {
            self.further_unlinks.push((submission.slot, unlink));
        }
    }

    /// Puts the setup packet where a control URB wants it, and waits for the body, if any.
    fn prepare_body(&mut self, slot: u32, submit: &CmdSubmit, body_bytes: usize) {
        let urb = self.urbs.get_mut(slot).expect("entered just now");
        let UrbState::Receiving(Some(block)) = &mut urb.state else {
            unreachable!("an accepted URB has a block")
        };
        if urb.submission.kind == TransferType::Control {
            block.as_mut()[SETUP_OFFSET..BUFFER_OFFSET].copy_from_slice(&submit.setup);
        }
        let start = match submit.direction {
            Direction::Out => BUFFER_OFFSET,
            Direction::In => BUFFER_OFFSET + submit.buffer_length as usize,
        };
        let range = start..start + body_bytes;
        let complete = range.start == range.end;
        self.receive.awaited = Awaited::Wanted { slot, range, refusal: None };
        if complete {
            self.complete_body();
        }
    }

    /// The payload of a refused URB is through: its descriptors, if any, are next.
    fn expect_descriptors(&mut self, slot: u32, status: i32, packets: usize) {
        let has_block = self
            .urbs
            .get(slot)
            .is_some_and(|urb| matches!(urb.state, UrbState::Receiving(Some(_))));
        let bytes = packets * ISO_PACKET_BYTES;
        self.receive.awaited = match (packets, has_block) {
            (0, _) => {
                self.receive.awaited = Awaited::None;
                return self.answer_refused(slot, status);
            }
            (_, true) => Awaited::Wanted {
                slot,
                range: BUFFER_OFFSET..BUFFER_OFFSET + bytes,
                refusal: Some(status),
            },
            (_, false) => Awaited::Dropped { slot, remaining: bytes, status, packets: 0 },
        };
    }

    /// The last byte of a URB is here.
    fn complete_body(&mut self) {
        let body = std::mem::replace(&mut self.receive.awaited, Awaited::None);
        let Awaited::Wanted { slot, refusal, .. } = body else {
            unreachable!("only an awaited body becomes complete")
        };
        let urb = self.urbs.get_mut(slot).expect("a receiving URB is in the table");
        let UrbState::Receiving(Some(block)) = &urb.state else {
            unreachable!("the block is back when its body is complete")
        };
        let Submission { length, packets, .. } = urb.submission;
        let descriptors = BUFFER_OFFSET + length as usize;
        let end = descriptors + packets as usize * ISO_PACKET_BYTES;
        let packets = isochronous::packets(&block.as_ref()[descriptors..end]);
        let refusal = refusal
            .or_else(|| isochronous::validate_layout(packets, length).err().map(|_| -EINVAL));
        if let Some(status) = refusal {
            return self.answer_refused(slot, status);
        }
        self.counters.urbs += 1;
        if urb.unlink.is_some() {
            let Submission { endpoint, direction, .. } = urb.submission;
            self.answer_unlinked(slot);
            return self.release_in_order(endpoint, direction);
        }
        let UrbState::Receiving(Some(block)) =
            std::mem::replace(&mut urb.state, UrbState::InFlight)
        else {
            unreachable!("matched above")
        };
        urb.state = UrbState::Waiting(block);
        self.submissions.push_back(slot);
    }

    /// Answers a URB that never reaches the device.
    fn answer_refused(&mut self, slot: u32, status: i32) {
        self.counters.urbs += 1;
        self.counters.refused += 1;
        let urb = self.urbs.get_mut(slot).expect("a refused URB is in the table");
        let UrbState::Receiving(mut block) = std::mem::replace(&mut urb.state, UrbState::InFlight)
        else {
            unreachable!("a refused URB was being received")
        };
        let packets = urb.submission.packets as usize;
        if let Some(block) = &mut block {
            let start = BUFFER_OFFSET + urb.submission.length as usize;
            let end = start + packets * ISO_PACKET_BYTES;
            isochronous::refuse(isochronous::packets_mut(&mut block.as_mut()[start..end]), -EXDEV);
        }
        let error_count = if block.is_some() { urb.submission.packets } else { 0 };
        self.answer(slot, status, 0, error_count, block);
    }

    fn handle_unlink(&mut self, unlink: &CmdUnlink, now: Duration) {
        if unlink.device_id != self.device_id {
            return self.stop_wrong_device(unlink.device_id);
        }
        self.counters.unlinks += 1;
        let Some(slot) = self.urbs.find(unlink.unlink_seqnum) else {
            if self.early_unlinks.hold(unlink.unlink_seqnum, unlink.seqnum, now) {
                return;
            }
            // Answered already, or never seen.
            return self.push_unlink(Lane::Urgent, RetUnlink { seqnum: unlink.seqnum, status: 0 });
        };
        let urb = self.urbs.get_mut(slot).expect("the index names slots in use");
        if urb.unlink.is_some() {
            self.further_unlinks.push((slot, unlink.seqnum));
            return self.check_further_unlinks();
        }
        match urb.state {
            UrbState::Waiting(_) => {
                urb.unlink = Some(unlink.seqnum);
                self.submissions.retain(|&waiting| waiting != slot);
                let Submission { endpoint, direction, .. } = urb.submission;
                self.answer_unlinked(slot);
                self.release_in_order(endpoint, direction);
            }
            UrbState::InFlight => {
                urb.unlink = Some(unlink.seqnum);
                self.cancels.push_back(slot);
            }
            UrbState::Done(_) => {
                let lane = Lane::of(urb.submission.kind);
                let Submission { endpoint, direction, .. } = urb.submission;
                if self.order.contains(endpoint, direction, slot) {
                    urb.unlink = Some(unlink.seqnum);
                    self.release(slot);
                } else {
                    self.push_unlink(lane, RetUnlink { seqnum: unlink.seqnum, status: 0 });
                }
            }
            UrbState::Receiving(_) => unreachable!("PDUs do not overlap"),
        }
    }

    fn check_further_unlinks(&mut self) {
        if self.further_unlinks.len() > limits::SESSION_URBS {
            self.stop(SessionEnd::Overload {
                urbs: self.further_unlinks.len(),
                bytes: self.charged_bytes,
            });
        }
    }
}

/// Bytes outstanding at which a peer is cut off.
const fn hard_bytes() -> usize {
    limits::SESSION_BYTES * limits::OVERLOAD_FACTOR
}

/// Whether length and direction of the setup packet are those of the transfer (kernel.md §1.4: a
/// mismatch makes the kernel's own server drop the connection; here it is an answer).
fn setup_fits(submit: &CmdSubmit) -> bool {
    let setup = Setup::from_bytes(submit.setup);
    let direction_fits = setup.length == 0 || setup.is_in() == (submit.direction == Direction::In);
    u32::from(setup.length) == submit.buffer_length && direction_fits
}

/// The URB as the device will get it; of a refused one only the packets have a place in the block.
fn make_submission(
    slot: u32,
    submit: &CmdSubmit,
    kind: Option<TransferType>,
    packets: u32,
    accepted: bool,
) -> Submission {
    let fallback = TransferType::Bulk;
    Submission {
        slot,
        kind: kind.unwrap_or(fallback),
        direction: submit.direction,
        endpoint: submit.endpoint,
        setup: submit.setup,
        length: if accepted { submit.buffer_length } else { 0 },
        packets,
        flags: kind.map_or_else(TransferFlags::default, |kind| {
            urb::mask_flags(kind, submit.direction, submit.transfer_flags)
        }),
        start_frame: submit.start_frame,
    }
}
