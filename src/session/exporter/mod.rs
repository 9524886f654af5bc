//! The exporting end of a data connection: CMD_SUBMIT and CMD_UNLINK in, answers out.
//!
//! The rules are those the wire imposes (ARCHITECTURE.md, *Rules of the wire*): one answer per
//! URB, in one of two forms if it was unlinked; order kept per endpoint; endpoints independent; a
//! device's error is a status, never the end of the connection; a peer's number is a hostile
//! number.
//!
//! Who calls what. The driver of a connection, after anything happened:
//!
//! 1. hands every [`poll_submission`](Exporter::poll_submission) to the device, then every
//!    [`poll_cancel`](Exporter::poll_cancel);
//! 2. gives every finished URB to [`handle_finished`](Exporter::handle_finished);
//! 3. if no send is in flight, sends what [`poll_transmit`](Exporter::poll_transmit) gives;
//! 4. calls [`handle_deadline`](Exporter::handle_deadline) when [`deadline`](Exporter::deadline)
//!    is over;
//! 5. if no receive is in flight and [`end`](Exporter::end) is `None`, receives into the block of
//!    [`poll_receive`](Exporter::poll_receive) and a buffer behind it, and reports to
//!    [`handle_received`](Exporter::handle_received).

mod audit;
mod end;
mod receive;
mod transmit;

use std::collections::VecDeque;
use std::time::Duration;

pub use end::SessionEnd;
pub use transmit::Transmit;

use crate::limits;
use crate::session::flow::{Lane, Lanes, Reply};
use crate::session::order::EndpointOrder;
use crate::session::unlink::{EarlyUnlinks, UnlinkForm};
use crate::session::urbs::{Answer, Urb, UrbState, UrbTable};
use crate::usb::endpoint::EndpointMap;
use crate::usb::errno::{ECONNRESET, EOVERFLOW};
use crate::usb::setup::{Setup, StandardRequest};
use crate::usb::transfer::{Direction, Finished, Submission, TransferType};
use crate::wire::encode;
use crate::wire::urb::{RetSubmit, RetUnlink};

use receive::Receive;

/// How long a peer may take to read its last answers once the device has left the bus. It holds
/// the device's place until then.
pub const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// One session of one imported device.
#[derive(Debug)]
pub struct Exporter<B> {
    device_id: u32,
    endpoints: EndpointMap,
    urbs: UrbTable<B>,
    order: EndpointOrder,
    lanes: Lanes,
    receive: Receive,
    submissions: VecDeque<u32>,
    cancels: VecDeque<u32>,
    /// CMD_UNLINKs for a URB that another CMD_UNLINK already wants ended: (slot, seqnum).
    further_unlinks: Vec<(u32, u32)>,
    early_unlinks: EarlyUnlinks,
    charged_bytes: usize,
    periodic_urbs: usize,
    /// Since when.
    device_gone: Option<Duration>,
    end: Option<SessionEnd>,
    counters: Counters,
    /// Slots of the URBs whose answers the last transmit has.
    answered: Vec<u32>,
}

/// What a session has done so far; the numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CMD_SUBMITs taken in full.
    pub urbs: u64,
    /// URBs answered with a status other than 0, unlinked ones not counted.
    pub errors: u64,
    /// URBs answered without the device: it is gone, a limit, no such endpoint, a bad request.
    pub refused: u64,
    /// CMD_UNLINKs.
    pub unlinks: u64,
    /// Payload bytes from the peer.
    pub bytes_out: u64,
    /// Payload bytes to the peer.
    pub bytes_in: u64,
    /// Isochronous packets.
    pub packets: u64,
    /// Isochronous packets with an error.
    pub packet_errors: u64,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Exporter<B> {
    /// A session of the device that the peer must name `device_id` (bus number << 16 | device
    /// number), with the endpoints it has at present.
    #[must_use]
    pub fn new(device_id: u32, endpoints: EndpointMap) -> Self {
        Self {
            device_id,
            endpoints,
            urbs: UrbTable::new(limits::SESSION_URBS * limits::OVERLOAD_FACTOR),
            order: EndpointOrder::new(),
            lanes: Lanes::default(),
            receive: Receive::new(),
            submissions: VecDeque::new(),
            cancels: VecDeque::new(),
            further_unlinks: Vec::new(),
            early_unlinks: EarlyUnlinks::default(),
            charged_bytes: 0,
            periodic_urbs: 0,
            device_gone: None,
            end: None,
            counters: Counters::default(),
            answered: Vec::new(),
        }
    }

    /// Why the session is over, once it is. Nothing more is received or transmitted then; URBs
    /// that the device still has are given back with [`handle_finished`](Self::handle_finished).
    #[must_use]
    pub fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The endpoints, as the device has last been told.
    #[must_use]
    pub fn endpoints(&self) -> &EndpointMap {
        &self.endpoints
    }

    /// URBs taken from the peer and not yet answered.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.urbs.len()
    }

    /// The next URB for the device, in order of arrival. Call until `None`. Once the session is
    /// over no URB reaches the device any more.
    pub fn poll_submission(&mut self) -> Option<(Submission, B)> {
        if self.end.is_some() {
            return None;
        }
        let slot = self.submissions.pop_front()?;
        let urb = self.urbs.get_mut(slot).expect("a waiting URB is in the table");
        match std::mem::replace(&mut urb.state, UrbState::InFlight) {
            UrbState::Waiting(block) => Some((urb.submission, block)),
            other => unreachable!("a queued URB waits, it is not {}", other.name()),
        }
    }

    /// The next slot to cancel at the device. Call until `None`, after
    /// [`poll_submission`](Self::poll_submission).
    pub fn poll_cancel(&mut self) -> Option<u32> {
        self.cancels.pop_front()
    }

    /// A URB has come back from the device. Every submission comes back once, also after the end.
    pub fn handle_finished(&mut self, finished: Finished, block: B) {
        let Finished { slot, status, actual_length, error_count } = finished;
        let urb = self.urbs.get_mut(slot).expect("a device returns URBs that it was given");
        assert!(matches!(urb.state, UrbState::InFlight), "a device returns a URB once");
        if urb.unlink.is_some() {
            // A cancel not asked for yet must not hit the next URB that gets this slot.
            self.cancels.retain(|&wanted| wanted != slot);
        }
        if self.end.is_some() {
            self.forget(slot);
            return;
        }
        // A driver that claims more bytes than the buffer holds has overrun it.
        let (status, actual_length) = if actual_length > urb.submission.length {
            (-EOVERFLOW, 0)
        } else {
            (status, actual_length)
        };
        if status == 0 && urb.submission.kind == TransferType::Control {
            let setup = Setup::from_bytes(urb.submission.setup);
            self.follow(setup);
        }
        self.answer(slot, status, actual_length, error_count, Some(block));
    }

    /// The device has left the bus. What it still has comes back with -ESHUTDOWN, what the peer
    /// sends from now on is answered -ENODEV, and when all that has come in full is answered the
    /// session ends; at the latest after [`GONE_TIMEOUT`]. Calls after the first do nothing.
    pub fn handle_device_gone(&mut self, now: Duration) {
        self.device_gone.get_or_insert(now);
    }

    /// When [`handle_deadline`](Self::handle_deadline) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.end.is_some() {
            return None;
        }
        let gone = self.device_gone.map(|since| since + GONE_TIMEOUT);
        self.early_unlinks.deadline().into_iter().chain(gone).min()
    }

    /// Does what is due: answers CMD_UNLINKs whose CMD_SUBMIT does not come, and ends a session
    /// whose device has been gone for too long.
    pub fn handle_deadline(&mut self, now: Duration) {
        if self.end.is_some() {
            return;
        }
        while let Some(seqnum) = self.early_unlinks.expire(now) {
            self.push_unlink(Lane::Urgent, RetUnlink { seqnum, status: 0 });
        }
        if self.device_gone.is_some_and(|since| since + GONE_TIMEOUT <= now) {
            self.stop(SessionEnd::GoneUnread);
        }
    }

    /// Ends the session from our side.
    pub fn stop(&mut self, reason: SessionEnd) {
        if self.end.is_none() {
            self.end = Some(reason);
        }
    }

    /// The endpoint map follows what the device has answered, so that the type of an endpoint is
    /// the one of the alternate setting the peer knows to be active.
    fn follow(&mut self, setup: Setup) {
        match setup.classify() {
            StandardRequest::SetConfiguration(value) => self.endpoints.set_configuration(value),
            StandardRequest::SetInterface { interface, alternate } => {
                self.endpoints.set_interface(interface, alternate);
            }
            _ => {}
        }
    }

    /// Gives a URB its answer and lets out what is in order now.
    fn answer(
        &mut self,
        slot: u32,
        status: i32,
        actual_length: u32,
        error_count: u32,
        block: Option<B>,
    ) {
        let urb = self.urbs.get_mut(slot).expect("an answered URB is in the table");
        let Submission { endpoint, direction, .. } = urb.submission;
        let unlinked = urb.unlink;
        if unlinked.is_some() && UnlinkForm::judge(status, actual_length) == UnlinkForm::Alone {
            self.answer_unlinked(slot);
        } else {
            self.count(slot, status, actual_length, error_count);
            let urb = self.urbs.get_mut(slot).expect("looked up above");
            urb.state = UrbState::Done(make_answer(urb, status, actual_length, error_count, block));
            if unlinked.is_some() {
                self.release(slot);
            }
        }
        self.release_in_order(endpoint, direction);
    }

    fn count(&mut self, slot: u32, status: i32, actual_length: u32, error_count: u32) {
        let urb = self.urbs.get(slot).expect("the caller has looked it up");
        self.counters.errors += u64::from(status != 0 && urb.unlink.is_none());
        self.counters.packets += u64::from(urb.submission.packets);
        self.counters.packet_errors += u64::from(error_count);
        if urb.submission.direction == Direction::In {
            self.counters.bytes_in += u64::from(actual_length);
        }
    }

    /// RET_UNLINK(-ECONNRESET) and nothing else. It stands in the table until it leaves, so that
    /// whatever the peer still says of this URB is answered behind it.
    fn answer_unlinked(&mut self, slot: u32) {
        let urb = self.urbs.get_mut(slot).expect("an unlinked URB is in the table");
        let seqnum = urb.unlink.take().expect("only an unlinked URB is answered so");
        urb.state = UrbState::Done(Answer::Unlinked(RetUnlink { seqnum, status: -ECONNRESET }));
        self.release(slot);
    }

    /// Lets the answers of an endpoint out, oldest first, up to the first URB not done.
    fn release_in_order(&mut self, endpoint: u8, direction: Direction) {
        while let Some(slot) = self.order.front(endpoint, direction) {
            let urb = self.urbs.get(slot).expect("an ordered URB is in the table");
            if !matches!(urb.state, UrbState::Done(_)) {
                return;
            }
            self.release(slot);
        }
    }

    /// Queues the answer of a URB that is done, and behind it those to its CMD_UNLINKs.
    fn release(&mut self, slot: u32) {
        let urb = self.urbs.get_mut(slot).expect("a released URB is in the table");
        assert!(matches!(urb.state, UrbState::Done(_)), "only what is done is released");
        let Submission { endpoint, direction, kind, .. } = urb.submission;
        let unlink = urb.unlink.take();
        self.order.remove(endpoint, direction, slot);
        let lane = Lane::of(kind);
        self.lanes.push(lane, Reply::Submit(slot));
        if let Some(seqnum) = unlink {
            self.push_unlink(lane, RetUnlink { seqnum, status: 0 });
        }
        self.push_further_unlinks(slot, lane);
    }

    fn push_unlink(&mut self, lane: Lane, reply: RetUnlink) {
        self.lanes.push(lane, Reply::Unlink(reply));
        // Every URB may be unlinked once or twice; a peer that heaps up more answers than that
        // without reading them is out for our memory.
        if self.lanes.len() > limits::SESSION_URBS * limits::OVERLOAD_FACTOR * 2 {
            self.stop(SessionEnd::Overload { urbs: self.lanes.len(), bytes: self.charged_bytes });
        }
    }

    fn push_further_unlinks(&mut self, slot: u32, lane: Lane) {
        while let Some(at) = self.further_unlinks.iter().position(|&(of, _)| of == slot) {
            let (_, seqnum) = self.further_unlinks.remove(at);
            self.push_unlink(lane, RetUnlink { seqnum, status: 0 });
        }
    }

    /// Takes a URB out of all tables; its answer has left or is not to leave.
    fn forget(&mut self, slot: u32) -> Urb<B> {
        let urb = self.retire(slot);
        self.order.remove(urb.submission.endpoint, urb.submission.direction, slot);
        urb
    }

    /// Takes a released URB out of the table and gives back what it was charged.
    fn retire(&mut self, slot: u32) -> Urb<B> {
        let urb = self.urbs.remove(slot);
        self.charged_bytes -= urb.charged_bytes;
        self.periodic_urbs -= usize::from(is_periodic(urb.submission.kind));
        urb
    }
}

/// Fills the answer in and keeps the block only if it has bytes to send.
fn make_answer<B: AsMut<[u8]>>(
    urb: &Urb<B>,
    status: i32,
    actual_length: u32,
    error_count: u32,
    block: Option<B>,
) -> Answer<B> {
    let Submission { direction, length, packets, start_frame, .. } = urb.submission;
    let ret = RetSubmit {
        seqnum: urb.seqnum,
        status,
        actual_length,
        start_frame,
        number_of_packets: urb.number_of_packets,
        error_count,
    };
    let carries_data = packets > 0 || (direction == Direction::In && actual_length > 0);
    match block {
        Some(mut block) if carries_data => {
            let range = encode::encode_reply(block.as_mut(), direction, length, packets, &ret);
            Answer::Encoded(block, range)
        }
        _ => Answer::Header(ret),
    }
}

/// Whether a URB of this type is served at fixed times, so that its answer must not wait.
const fn is_periodic(kind: TransferType) -> bool {
    matches!(kind, TransferType::Interrupt | TransferType::Isochronous)
}
