//! Answers from the server, judged before anything of them is used.

use std::ops::Range;

use super::{Importer, ImporterEnd, Pending, Place};
use crate::usb::errno::{ECONNRESET, EPROTO, EXDEV};
use crate::usb::isochronous;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, block_bytes,
};
use crate::wire::deframe::{self, Deframer};
use crate::wire::urb::{self, RawRetSubmit, Reply};

/// Where in the stream the session is.
#[derive(Debug)]
pub(super) struct Receive {
    deframer: Deframer,
    body: Option<Body>,
}

/// What is still to come of a RET_SUBMIT: data, then the reply's packet descriptors.
#[derive(Debug)]
struct Body {
    slot: u32,
    ret: RawRetSubmit,
    actual_length: u32,
    data: Range<usize>,
    descriptors: Range<usize>,
    /// Descriptors in the reply.
    packets: u32,
}

impl Body {
    fn wanted(&mut self) -> &mut Range<usize> {
        if self.data.start < self.data.end { &mut self.data } else { &mut self.descriptors }
    }
}

impl Receive {
    pub(super) const fn new() -> Self {
        Self { deframer: Deframer::new(), body: None }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Importer<B> {
    /// The block that the next received bytes belong to, and where, if they belong to one. It is
    /// lent to the receive operation and comes back with
    /// [`handle_received`](Self::handle_received).
    pub fn poll_receive(&mut self) -> Option<(B, Range<usize>)> {
        if self.end.is_some() {
            return None;
        }
        let body = self.receive.body.as_mut()?;
        let urb = self.pending[body.slot as usize].as_mut().expect("a body belongs to a URB");
        match std::mem::replace(&mut urb.block, Place::Receiving) {
            Place::Here(block) => Some((block, body.wanted().clone())),
            other => {
                urb.block = other;
                None
            }
        }
    }

    /// Takes what one receive operation has brought: how many bytes went into the lent block, and
    /// the bytes behind them; nothing at all means end of stream. Returns how many of `bytes` were
    /// taken. It is fewer than all only while the block that they belong to is being sent: keep the
    /// rest, receive nothing, and call again after [`handle_sent`](Self::handle_sent), with `None`.
    #[must_use = "bytes not taken are to be given again"]
    pub fn handle_received(&mut self, lent: Option<(B, usize)>, bytes: &[u8]) -> usize {
        let direct = lent.as_ref().map_or(0, |(_, count)| *count);
        let at_end = direct == 0 && bytes.is_empty();
        if let Some((block, count)) = lent {
            self.take_back(block, count);
        }
        if at_end && self.end.is_none() {
            let clean = self.receive.body.is_none() && self.receive.deframer.partial_bytes() == 0;
            self.stop(if clean { ImporterEnd::PeerClosed } else { ImporterEnd::Truncated });
        }
        let mut rest = bytes;
        while self.end.is_none() && !rest.is_empty() {
            if !self.advance(&mut rest) {
                return bytes.len() - rest.len();
            }
        }
        bytes.len()
    }

    fn take_back(&mut self, block: B, count: usize) {
        let Some(body) = &mut self.receive.body else {
            unreachable!("a block is lent only for a body")
        };
        let slot = body.slot;
        let wanted = body.wanted();
        assert!(count <= wanted.len(), "a receive stays inside the lent range");
        wanted.start += count;
        self.return_block(slot, block);
        if self.end.is_none() {
            self.complete_if_through();
        }
    }

    /// Consumes a header or a part of a body; `false` if the block it belongs to is away.
    fn advance(&mut self, bytes: &mut &[u8]) -> bool {
        let Some(body) = &mut self.receive.body else {
            if let Some(header) = self.receive.deframer.next(bytes) {
                match urb::parse_reply(&header) {
                    Ok(Reply::Submit(ret)) => self.handle_ret_submit(ret),
                    Ok(Reply::Unlink(ret)) => self.handle_ret_unlink(ret.seqnum),
                    Err(malformed) => self.stop(malformed.into()),
                }
            }
            return true;
        };
        let urb = self.pending[body.slot as usize].as_mut().expect("a body belongs to a URB");
        let Place::Here(block) = &mut urb.block else { return false };
        let wanted = body.wanted();
        let count = bytes.len().min(wanted.len());
        let (head, rest) = bytes.split_at(count);
        *bytes = rest;
        block.as_mut()[wanted.start..wanted.start + count].copy_from_slice(head);
        wanted.start += count;
        self.complete_if_through();
        true
    }

    fn handle_ret_submit(&mut self, ret: RawRetSubmit) {
        // Seqnums count up, so a server can guess one; what was not asked cannot be answered.
        let asked = |slot: &u32| self.pending[*slot as usize].as_ref().is_some_and(|u| u.is_sent);
        let Some(slot) = self.by_seqnum.find(ret.seqnum).filter(asked) else {
            return self.stop(ImporterEnd::UnknownSeqnum(ret.seqnum));
        };
        let urb = self.pending[slot as usize].as_ref().expect("the index names slots in use");
        let Submission { direction, length, packets, .. } = urb.submission;
        let actual_length = match ret.reconcile(length) {
            Ok(actual_length) => actual_length,
            // Behind an OUT answer that is not isochronous comes no body whose size would be in
            // doubt: the URB ends, the session goes on.
            Err(error) if direction == Direction::Out && packets == 0 => {
                let status = error.errno();
                let finished = Finished { slot, status, actual_length: 0, error_count: 0 };
                return self.finish(slot, finished);
            }
            Err(error) => return self.stop(error.into()),
        };
        let body = match deframe::reply_body(&ret, direction, actual_length, packets) {
            Ok(body) => body,
            Err(malformed) => return self.stop(malformed.into()),
        };
        let descriptors = block_bytes(length, packets);
        self.receive.body = Some(Body {
            slot,
            ret,
            actual_length,
            data: BUFFER_OFFSET..BUFFER_OFFSET + body.payload_bytes as usize,
            descriptors: descriptors..descriptors + body.packets as usize * ISO_PACKET_BYTES,
            packets: body.packets,
        });
        self.complete_if_through();
    }

    fn complete_if_through(&mut self) {
        let Some(body) = &mut self.receive.body else { return };
        if body.wanted().start < body.wanted().end {
            return;
        }
        let body = self.receive.body.take().expect("looked at just now");
        let urb = self.pending[body.slot as usize].as_mut().expect("a body belongs to a URB");
        let finished = judge(urb, &body);
        self.finish(body.slot, finished);
    }

    /// Finalises an unlink (A19). If its URB has not been answered it never will be.
    fn handle_ret_unlink(&mut self, seqnum: u32) {
        // An answer to an unlink that we did not send means nothing and harms nothing.
        let Some(target) = self.unlinks.find(seqnum) else { return };
        self.unlinks.remove(seqnum);
        let Some(slot) = self.by_seqnum.find(target) else { return };
        let status = -ECONNRESET;
        self.finish(slot, Finished { slot, status, actual_length: 0, error_count: 0 });
    }
}

/// Compares a complete reply with its request and puts isochronous data in its places.
fn judge<B: AsRef<[u8]> + AsMut<[u8]>>(urb: &mut Pending<B>, body: &Body) -> Finished {
    let Submission { slot, direction, length, packets, .. } = urb.submission;
    let ret = &body.ret;
    let plain = Finished {
        slot,
        status: ret.status,
        actual_length: body.actual_length,
        error_count: ret.error_count,
    };
    let Place::Here(block) = &mut urb.block else {
        // Only an OUT URB without descriptors ends while its block is still being sent.
        return plain;
    };
    if packets == 0 {
        return plain;
    }
    let (request_block, reply) = block.as_mut().split_at_mut(block_bytes(length, packets));
    let (buffer, request) = request_block[BUFFER_OFFSET..].split_at_mut(length as usize);
    let request = isochronous::packets_mut(request);
    let reply = &reply[..body.packets as usize * ISO_PACKET_BYTES];
    let reply = isochronous::packets(reply);
    if reply.is_empty() && ret.status != 0 {
        // Servers answer so what never reached the device, such as a URB of an endpoint that it
        // does not have: the status is all there is to say.
        isochronous::refuse(request, -EXDEV);
        return Finished { actual_length: 0, error_count: packets, ..plain };
    }
    match isochronous::validate_reply(request, reply, ret.actual_length) {
        Ok(actual_length) => {
            if direction == Direction::In {
                isochronous::scatter(buffer, reply);
            }
            request.copy_from_slice(reply);
            let error_count = reply.iter().filter(|packet| packet.status.get() != 0).count();
            let error_count = u32::try_from(error_count).expect("at most 1024 packets");
            Finished { actual_length, error_count, ..plain }
        }
        Err(_) => {
            isochronous::refuse(request, -EPROTO);
            Finished { slot, status: -EPROTO, actual_length: 0, error_count: packets }
        }
    }
}
