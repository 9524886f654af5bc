//! The URB table of a session: every URB that the peer has submitted and that is not answered yet.
//!
//! Entries are found by slot (the name a device knows) and by seqnum (the name the peer knows).
//! The table grows to the depth that the peer uses, never beyond its capacity, and keeps what it
//! has: a steady stream allocates nothing.

use std::ops::Range;

use crate::session::seqnums::SeqnumIndex;
use crate::usb::transfer::Submission;
use crate::wire::urb::{HEADER_BYTES, RetSubmit, RetUnlink};

/// One URB between its CMD_SUBMIT and its last answer.
#[derive(Debug)]
pub struct Urb<B> {
    /// The peer's name for it.
    pub seqnum: u32,
    /// As the device gets it.
    pub submission: Submission,
    /// `number_of_packets` as the peer sent it, echoed in the answer.
    pub number_of_packets: i32,
    /// Bytes that count against the session's limit until the answer is on its way.
    pub charged_bytes: usize,
    /// Where it is in its life.
    pub state: UrbState<B>,
    /// The CMD_UNLINK that wants it ended, if any, by its seqnum.
    pub unlink: Option<u32>,
}

/// Where a URB is in its life.
#[derive(Debug)]
pub enum UrbState<B> {
    /// Its body is still arriving. The block is absent while a receive operation owns it.
    Receiving(Option<B>),
    /// Complete and waiting to be handed to the device.
    Waiting(B),
    /// The device has it, and its block.
    InFlight,
    /// It has ended. The block is kept only if the answer needs its bytes.
    Done(Answer<B>),
}

/// The answer to a URB that has ended, ready to leave.
#[derive(Debug)]
pub enum Answer<B> {
    /// RET_SUBMIT without a body.
    Header(RetSubmit),
    /// RET_SUBMIT with data or packet descriptors: the URB's block, and the part of it to send,
    /// header included.
    Encoded(B, Range<usize>),
    /// RET_UNLINK alone: the URB was stopped before it moved anything.
    Unlinked(RetUnlink),
}

impl<B> Answer<B> {
    /// Bytes of the whole PDU.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        match self {
            Self::Header(_) | Self::Unlinked(_) => HEADER_BYTES,
            Self::Encoded(_, range) => range.len(),
        }
    }
}

impl<B> UrbState<B> {
    /// For messages of broken invariants.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Receiving(_) => "receiving",
            Self::Waiting(_) => "waiting",
            Self::InFlight => "in flight",
            Self::Done(_) => "done",
        }
    }
}

/// The table: a slab of URBs with an index by seqnum.
#[derive(Debug)]
pub struct UrbTable<B> {
    entries: Vec<Option<Urb<B>>>,
    free: Vec<u32>,
    index: SeqnumIndex,
    capacity: usize,
}

impl<B> UrbTable<B> {
    /// An empty table for at most `capacity` URBs.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), index: SeqnumIndex::default(), capacity }
    }

    /// URBs in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot that the next [`insert`](Self::insert) will use, or `None` when the table is full.
    #[must_use]
    pub fn next_slot(&self) -> Option<u32> {
        if self.len() == self.capacity {
            return None;
        }
        let fresh = u32::try_from(self.entries.len()).expect("capacity fits 32 bits");
        Some(self.free.last().copied().unwrap_or(fresh))
    }

    /// Enters a URB under the slot that [`next_slot`](Self::next_slot) gave. Its seqnum must not be
    /// in the table.
    pub fn insert(&mut self, urb: Urb<B>) {
        let slot = self.next_slot().expect("the caller has asked for a slot");
        assert_eq!(slot, urb.submission.slot, "the slot was taken from next_slot");
        assert!(self.index.find(urb.seqnum).is_none(), "a seqnum stands once in the table");
        self.index.insert(urb.seqnum, slot);
        if self.free.pop().is_some() {
            let entry = &mut self.entries[slot as usize];
            assert!(entry.is_none(), "a free slot is empty");
            *entry = Some(urb);
        } else {
            self.entries.push(Some(urb));
            self.free.reserve(self.entries.len());
        }
    }

    /// Takes a URB out.
    pub fn remove(&mut self, slot: u32) -> Urb<B> {
        let urb = self.entries[slot as usize].take().expect("the slot is in use");
        self.index.remove(urb.seqnum);
        self.free.push(slot);
        urb
    }

    /// The URB of a slot, if the slot is in use.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&Urb<B>> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The URB of a slot, if the slot is in use.
    #[must_use]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Urb<B>> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// The slot of a seqnum.
    #[must_use]
    pub fn find(&self, seqnum: u32) -> Option<u32> {
        self.index.find(seqnum)
    }

    /// All slots in use, in no order.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.entries).filter(|(_, entry)| entry.is_some()).map(|(slot, _)| slot)
    }
}
