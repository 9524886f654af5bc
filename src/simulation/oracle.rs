//! Knows from the bytes in both directions, and from what the device saw, whether the session keeps
//! its rules.
//!
//! It is fed with every byte that the session has taken and every byte that it has given, at the
//! moment it did so, and complains with the rule that was broken.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::limits;
use crate::session::exporter::SessionEnd;
use crate::simulation::chaos::{DeviceResult, Notes};
use crate::simulation::pattern::Pattern;
use crate::simulation::plan::{Pdu, Plan};
use crate::usb::errno::{ECONNRESET, EINVAL, ENODEV, ENOENT, ENOMEM, EXDEV};
use crate::usb::isochronous;
use crate::usb::transfer::{Direction, ISO_PACKET_BYTES};
use crate::wire::urb::{self, HEADER_BYTES, RawRetSubmit, Reply, RetUnlink};

/// A rule was broken; the text says which and by what.
pub type Broken = String;

/// The checker.
#[derive(Debug)]
pub struct Oracle {
    notes: Rc<RefCell<Notes>>,
    pattern: Rc<Pattern>,
    /// Sent by the client and not taken in full by the session: (offset of its end, PDU, whether
    /// its header was taken).
    coming: VecDeque<(u64, Pdu, bool)>,
    sent_bytes: u64,
    taken_bytes: u64,
    urbs: BTreeMap<u32, Tracked>,
    unlinks: BTreeMap<u32, u32>,
    /// The youngest URB taken.
    newest: Option<u32>,
    /// The first CMD_UNLINK of each URB that has not come yet.
    early: BTreeMap<u32, u32>,
    order: BTreeMap<(u8, bool), VecDeque<u32>>,
    periodic: usize,
    charged_bytes: u64,
    /// How the session must end, once the reason was taken.
    must_end: Option<SessionEnd>,
    /// The client asks for more than may be outstanding: the session may end for it.
    pub may_overload: bool,
    /// Memory may be refused at any time.
    pub may_refuse_memory: bool,
    /// So much time has passed that CMD_UNLINKs which came too early may have been given up. That
    /// can be shortly before their URB comes after all, and nobody outside sees when it was.
    pub may_give_up: bool,
    /// The session was told that the device is gone.
    told_gone: bool,
    /// For the report.
    pub tallies: Tallies,
}

/// A URB that the session has taken (at least its header) and not answered.
#[derive(Debug)]
struct Tracked {
    plan: Plan,
    complete: bool,
    /// First CMD_UNLINK taken for it.
    unlink: Option<u32>,
    /// That came before the URB itself.
    stopped_early: bool,
    /// Statuses that the session may answer without the device.
    refusals: BTreeSet<i32>,
    /// It must not reach the device.
    refused: bool,
    seen: bool,
}

/// Numbers for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// RET_SUBMITs.
    pub answers: u64,
    /// RET_UNLINKs that stand alone.
    pub stopped: u64,
    /// RET_UNLINKs of 0.
    pub unlinks: u64,
    /// Answers without the device.
    pub refused: u64,
    /// Isochronous packets in answers.
    pub packets: u64,
}

/// An answer as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// RET_SUBMIT: seqnum and status.
    Answer(u32, i32),
    /// RET_UNLINK: seqnum, that of its URB, and status.
    Unlinked(u32, u32, i32),
}

macro_rules! require {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

impl Oracle {
    /// A checker of a session that has just begun.
    #[must_use]
    pub fn new(notes: Rc<RefCell<Notes>>, pattern: Rc<Pattern>) -> Self {
        Self {
            notes,
            pattern,
            coming: VecDeque::new(),
            sent_bytes: 0,
            taken_bytes: 0,
            urbs: BTreeMap::new(),
            unlinks: BTreeMap::new(),
            newest: None,
            early: BTreeMap::new(),
            order: BTreeMap::new(),
            periodic: 0,
            charged_bytes: 0,
            must_end: None,
            may_overload: false,
            may_refuse_memory: false,
            may_give_up: false,
            told_gone: false,
            tallies: Tallies::default(),
        }
    }

    /// What the device shares with the checker.
    #[must_use]
    pub fn shared(&self) -> (Rc<RefCell<Notes>>, Rc<Pattern>) {
        (Rc::clone(&self.notes), Rc::clone(&self.pattern))
    }

    /// The client has sent a PDU of `bytes` bytes.
    pub fn sent(&mut self, pdu: Pdu, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.coming.push_back((self.sent_bytes, pdu, false));
    }

    /// The session was told that the device is gone.
    pub fn told_gone(&mut self) {
        self.told_gone = true;
    }

    /// URBs that the session has begun to take and not answered: what stands in its table.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.urbs.len()
    }

    /// The session has read the end of the stream, and must end for it.
    pub fn end_of_stream(&mut self) {
        let between_pdus = self
            .coming
            .front()
            .is_none_or(|(end, pdu, _)| end - pdu.wire_bytes() as u64 == self.taken_bytes);
        let end = if between_pdus { SessionEnd::PeerClosed } else { SessionEnd::Truncated };
        self.must_end.get_or_insert(end);
    }

    /// The session has taken this many bytes of the stream.
    ///
    /// # Errors
    ///
    /// What it must not have done.
    pub fn taken(&mut self, bytes: usize) -> Result<(), Broken> {
        self.taken_bytes += bytes as u64;
        while self.must_end.is_none()
            && let Some((end, pdu, entered)) = self.coming.front_mut()
        {
            let header_end = *end - (pdu.wire_bytes() - HEADER_BYTES) as u64;
            if self.taken_bytes < header_end {
                break;
            }
            let complete = self.taken_bytes >= *end;
            let first = !std::mem::replace(entered, true);
            let pdu = if complete {
                self.coming.pop_front().expect("looked at above").1
            } else {
                pdu.clone()
            };
            self.take_pdu(pdu, first, complete);
            if !complete {
                break;
            }
        }
        self.look_at_device()
    }

    fn take_pdu(&mut self, pdu: Pdu, first: bool, complete: bool) {
        match pdu {
            Pdu::Hostile { end, .. } => self.must_end = Some(end),
            Pdu::Unlink { seqnum, target } => {
                self.unlinks.insert(seqnum, target);
                match self.urbs.get_mut(&target) {
                    Some(urb) => _ = urb.unlink.get_or_insert(seqnum),
                    None => self.note_early(seqnum, target),
                }
            }
            Pdu::Submit(plan) => {
                let seqnum = plan.seqnum;
                if first {
                    self.enter(*plan);
                }
                if complete && let Some(urb) = self.urbs.get_mut(&seqnum) {
                    urb.complete = true;
                }
            }
        }
    }

    /// Works out how a URB may be answered.
    fn enter(&mut self, plan: Plan) {
        if self.urbs.contains_key(&plan.seqnum) {
            self.must_end = Some(SessionEnd::DuplicateSeqnum(plan.seqnum));
            return;
        }
        let length = u64::from(plan.length);
        let over = |urbs: usize, bytes: u64| {
            urbs >= limits::SESSION_URBS || bytes + length > limits::SESSION_BYTES as u64
        };
        let overloaded = over(self.urbs.len(), self.charged_bytes);
        let mut refusals = BTreeSet::new();
        let mut refused = true;
        if self.told_gone {
            refusals.insert(-ENODEV);
        } else if plan.kind.is_none() {
            refusals.insert(-ENOENT);
        } else {
            if plan.invalid {
                refusals.insert(-EINVAL);
            }
            if overloaded || self.may_refuse_memory {
                refusals.insert(-ENOMEM);
            }
            refused = overloaded || plan.invalid;
        }
        self.order.entry(plan.order()).or_default().push_back(plan.seqnum);
        self.periodic += usize::from(plan.is_periodic());
        self.charged_bytes += length;
        let (seqnum, unlink) = (plan.seqnum, self.note_newest(plan.seqnum));
        let urb = Tracked {
            plan,
            complete: false,
            unlink,
            stopped_early: unlink.is_some(),
            refusals,
            refused,
            seen: false,
        };
        self.urbs.insert(seqnum, urb);
    }

    /// Notes that a submission has come; returns the unlink that came before it.
    fn note_newest(&mut self, seqnum: u32) -> Option<u32> {
        if self.newest.is_none_or(|newest| is_after(seqnum, newest)) {
            self.newest = Some(seqnum);
        }
        let unlink = self.early.remove(&seqnum);
        // Those passed over will not come any more.
        self.early.retain(|&target, _| is_after(target, seqnum));
        unlink
    }

    /// Notes an unlink of a URB that is not in the table, if that may still come.
    fn note_early(&mut self, seqnum: u32, target: u32) {
        let is_new = self.newest.is_none_or(|newest| is_after(target, newest));
        if is_new && is_after(seqnum, target) {
            self.early.entry(target).or_insert(seqnum);
        }
    }

    /// An unlink was answered before its URB came; the next for it, if any, waits in its place.
    fn give_up_early(&mut self, seqnum: u32, target: u32) {
        if self.early.get(&target) != Some(&seqnum) {
            return;
        }
        self.early.remove(&target);
        let others = self.unlinks.iter().filter(|&(_, &other)| other == target);
        let next = others.map(|(&other, _)| other).min_by_key(|other| other.wrapping_sub(seqnum));
        if let Some(next) = next {
            self.early.insert(target, next);
        }
    }

    /// Looks at what has reached the device since the last time.
    ///
    /// # Errors
    ///
    /// A URB that must not have reached it, or what the device complains about.
    pub fn look_at_device(&mut self) -> Result<(), Broken> {
        let mut notes = self.notes.borrow_mut();
        if let Some(text) = notes.complaint.take() {
            return Err(text);
        }
        while let Some(name) = notes.seen.pop_front() {
            let Some(urb) = self.urbs.get_mut(&name) else {
                return Err(format!("the device got URB {name}, which is not outstanding"));
            };
            require!(urb.complete, "the device got URB {name} before its last byte");
            require!(!urb.refused, "the device got URB {name}, which had to be refused");
            let stopped = urb.stopped_early && !self.may_give_up;
            require!(!stopped, "the device got URB {name}, unlinked before it came");
            require!(!urb.seen, "the device got URB {name} twice");
            urb.seen = true;
        }
        Ok(())
    }

    /// The session has given these bytes, whole PDUs, in one send. Returns them as the client will
    /// see them, each with its size.
    ///
    /// # Errors
    ///
    /// The rule that one of them breaks.
    pub fn given(&mut self, mut bytes: &[u8]) -> Result<Vec<(usize, Seen)>, Broken> {
        self.look_at_device()?;
        let periodic = self.periodic > 0;
        let mut bulk = 0;
        let mut seen = Vec::new();
        while !bytes.is_empty() {
            let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
                return Err("a send ends within a header".into());
            };
            let reply = urb::parse_reply(header).map_err(|malformed| malformed.to_string())?;
            let (size, one) = match reply {
                Reply::Unlink(unlink) => (HEADER_BYTES, self.ret_unlink(unlink)?),
                Reply::Submit(ret) => {
                    let urb = self.urbs.get(&ret.seqnum);
                    bulk += usize::from(urb.is_some_and(|urb| urb.plan.is_bulk()));
                    let size = self.ret_submit(&ret, header, body)?;
                    (size, Seen::Answer(ret.seqnum, ret.status))
                }
            };
            bytes = bytes.get(size..).ok_or("a send ends within a PDU")?;
            seen.push((size, one));
        }
        require!(
            !periodic || bulk <= 1,
            "{bulk} bulk answers in one send while periodic URBs are out"
        );
        Ok(seen)
    }

    fn ret_unlink(&mut self, ret: RetUnlink) -> Result<Seen, Broken> {
        let RetUnlink { seqnum, status } = ret;
        let Some(target) = self.unlinks.remove(&seqnum) else {
            return Err(format!("RET_UNLINK {seqnum} answers no CMD_UNLINK"));
        };
        let urb = self.urbs.get(&target);
        let loose = self.may_give_up && urb.is_some_and(|urb| urb.stopped_early);
        match status {
            0 => {
                let behind = urb.is_none() || loose;
                require!(behind, "RET_UNLINK(0) {seqnum} precedes the answer to {target}");
                self.tallies.unlinks += 1;
                self.give_up_early(seqnum, target);
            }
            status if status == -ECONNRESET => {
                let Some(urb) = urb else {
                    return Err(format!("{target} was answered, yet {seqnum} says it was stopped"));
                };
                let first = urb.unlink == Some(seqnum) || loose;
                require!(first, "{seqnum} was not the first for {target}");
                let result = self.notes.borrow_mut().results.remove(&target);
                match &result {
                    Some(result) => {
                        require!(result.stopped, "bytes or result of {target} lost: {result:?}");
                    }
                    None => require!(
                        !urb.seen && (!urb.refused || urb.stopped_early),
                        "{target} was not stopped by the device, nor before it"
                    ),
                }
                self.forget(target);
                self.tallies.stopped += 1;
            }
            other => return Err(format!("RET_UNLINK {seqnum} has status {other}")),
        }
        Ok(Seen::Unlinked(seqnum, target, status))
    }

    fn ret_submit(
        &mut self,
        ret: &RawRetSubmit,
        header: &[u8; HEADER_BYTES],
        body: &[u8],
    ) -> Result<usize, Broken> {
        let name = ret.seqnum;
        let Some(urb) = self.urbs.get(&name) else {
            return Err(format!("a second answer to {name}, or one to nothing"));
        };
        require!(urb.complete, "{name} is answered before its last byte has come");
        require!(header[8..20] == [0; 12] && header[40..] == [0; 8], "{name}: fields not 0");
        require!(ret.start_frame == name, "{name}: start_frame is not echoed");
        let result = self.notes.borrow_mut().results.remove(&name);
        let size = match &result {
            Some(result) => {
                let silent = result.stopped && result.cancelled;
                require!(!silent, "{name} was stopped, yet has a RET_SUBMIT");
                self.check_result(&urb.plan, result, ret, body)?
            }
            None => {
                require!(!urb.seen, "{name} is answered while the device has it");
                let allowed =
                    urb.refusals.contains(&ret.status) || ret.status == -ENODEV && self.told_gone;
                require!(allowed, "{name} is answered {} by nobody", ret.status);
                check_refusal(&urb.plan, ret, body)?
            }
        };
        if urb.unlink.is_none() {
            let oldest = self.order[&urb.plan.order()].front().copied();
            require!(oldest == Some(name), "{name} is answered before {oldest:?} of its endpoint");
        }
        self.tallies.refused += u64::from(result.is_none());
        self.tallies.answers += 1;
        self.tallies.packets += urb.plan.packets.len() as u64;
        self.forget(name);
        Ok(size)
    }

    /// The device has done it: the answer says what the device said, with its data.
    fn check_result(
        &self,
        plan: &Plan,
        result: &DeviceResult,
        ret: &RawRetSubmit,
        body: &[u8],
    ) -> Result<usize, Broken> {
        let name = plan.seqnum;
        let actual = result.actual_length;
        require!(
            (ret.status, ret.actual_length) == (result.status, actual as i32),
            "{name}: status {} and length {}, the device said {result:?}",
            ret.status,
            ret.actual_length
        );
        require!(
            ret.number_of_packets == plan.number_of_packets,
            "{name}: {} packets, not {}",
            ret.number_of_packets,
            plan.number_of_packets
        );
        let data = if plan.direction == Direction::In { actual as usize } else { 0 };
        let descriptors = result.packets.len() * ISO_PACKET_BYTES;
        let size = HEADER_BYTES + data + descriptors;
        require!(body.len() >= data + descriptors, "{name}: the PDU is too short");
        if result.packets.is_empty() {
            let fits = body[..data] == *self.pattern.slice(name, 0, data);
            require!(fits, "{name}: not the bytes of the device");
            require!(ret.error_count == 0, "{name}: error count without packets");
            return Ok(size);
        }
        let errors = result.packets.iter().filter(|packet| packet.1 != 0).count();
        require!(ret.error_count as usize == errors, "{name}: {} errors", ret.error_count);
        let packets = isochronous::packets(&body[data..data + descriptors]);
        let mut packed = 0;
        for ((packet, &(offset, length)), &(moved, status)) in
            packets.iter().zip(&plan.packets).zip(&result.packets)
        {
            let got = (packet.offset.get(), packet.length.get());
            require!(got == (offset, length), "{name}: layout {got:?}, not {offset} {length}");
            let got = (packet.actual_length.get(), packet.status.get());
            require!(got == (moved, status), "{name}: packet {got:?}, not {moved} {status}");
            if data > 0 {
                let moved = moved as usize;
                let bytes = &body[packed..packed + moved];
                let expected = self.pattern.slice(name, offset as usize, moved);
                require!(bytes == expected, "{name}: data of the packet at {offset} moved");
                packed += moved;
            }
        }
        Ok(size)
    }

    fn forget(&mut self, name: u32) {
        let urb = self.urbs.remove(&name).expect("looked up by the caller");
        let queue = self.order.get_mut(&urb.plan.order()).expect("it stands in order");
        queue.retain(|&other| other != name);
        self.periodic -= usize::from(urb.plan.is_periodic());
        self.charged_bytes -= u64::from(urb.plan.length);
    }

    /// Nothing is under way any more: everything must be answered.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn check_all_answered(&self) -> Result<(), Broken> {
        match self.early.values().find(|seqnum| self.unlinks.contains_key(seqnum)) {
            Some(seqnum) => Err(format!("CMD_UNLINK {seqnum}, which came early, never is")),
            None => self.check_answered_but_early(),
        }
    }

    /// As [`check_all_answered`](Self::check_all_answered); unlinks may still wait for their URBs.
    fn check_answered_but_early(&self) -> Result<(), Broken> {
        let open = self.urbs.values().find(|urb| urb.complete);
        if let Some(urb) = open {
            return Err(format!("{} is never answered: {urb:?}", urb.plan.seqnum));
        }
        let waits = |target: &u32| {
            let arriving = self.urbs.get(target).is_some_and(|urb| !urb.complete);
            arriving || self.early.contains_key(target)
        };
        match self.unlinks.iter().find(|(_, target)| !waits(target)) {
            Some((seqnum, target)) => Err(format!("CMD_UNLINK {seqnum} of {target} never is")),
            None => Ok(()),
        }
    }

    /// Judges the end of the session, or that there is none.
    ///
    /// # Errors
    ///
    /// An end without a reason, or a reason without an end.
    pub fn judge(&self, end: Option<&SessionEnd>, stopped: bool) -> Result<(), Broken> {
        match (end, &self.must_end) {
            (None, None) => Ok(()),
            (None, Some(must)) => Err(format!("the session goes on, but: {must}")),
            (Some(end), Some(must)) if end == must => Ok(()),
            (Some(SessionEnd::Overload { .. }), _) if self.may_overload => Ok(()),
            (Some(SessionEnd::DeviceGone), _) if self.told_gone => self.check_answered_but_early(),
            (Some(SessionEnd::GoneUnread), _) if self.told_gone => Ok(()),
            (Some(SessionEnd::Local(_) | SessionEnd::Network(_)), _) if stopped => Ok(()),
            (Some(end), must) => Err(format!("the session ended: {end}; expected: {must:?}")),
        }
    }
}

/// Whether `a` is younger than `b`.
fn is_after(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

/// The device has not seen it: nothing moved, and packets are echoed if there was memory for it.
fn check_refusal(plan: &Plan, ret: &RawRetSubmit, body: &[u8]) -> Result<usize, Broken> {
    let name = plan.seqnum;
    require!(ret.actual_length == 0, "{name}: a refused URB moved {}", ret.actual_length);
    let echoed = ret.number_of_packets;
    let count = plan.packets.len();
    let expected = if plan.kind.is_none() { 0 } else { plan.number_of_packets };
    if count > 0 && echoed == 0 {
        require!(ret.status == -ENOMEM || ret.status == -ENODEV, "{name}: packets not echoed");
        require!(ret.error_count == 0, "{name}: error count without packets");
        return Ok(HEADER_BYTES);
    }
    require!(echoed == expected, "{name}: {echoed} packets, not {expected}");
    require!(ret.error_count as usize == count, "{name}: {} errors", ret.error_count);
    let descriptors = count * ISO_PACKET_BYTES;
    require!(body.len() >= descriptors, "{name}: the PDU is too short");
    for (packet, &asked) in isochronous::packets(&body[..descriptors]).iter().zip(&plan.packets) {
        let got = (packet.offset.get(), packet.length.get());
        require!(got == asked, "{name}: layout {got:?}, not {asked:?}");
        let got = (packet.actual_length.get(), packet.status.get());
        require!(got == (0, -EXDEV), "{name}: packet {got:?} of a refused URB");
    }
    Ok(HEADER_BYTES + descriptors)
}
