//! URBs that wait for their endpoint: one pool, and in it a list per endpoint.

use usbip_fast_native::Block;

use crate::device::Completed;
use crate::limits;
use crate::usb::errno;
use crate::usb::isochronous::{PacketDescriptor, packets_mut};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferType, block_bytes,
};

/// A URB in the hands of the device.
#[derive(Debug)]
pub(super) struct Urb {
    pub(super) submission: Submission,
    pub(super) block: Block,
    /// Bytes moved so far.
    pub(super) actual: usize,
    /// Isochronous packets done so far.
    pub(super) packets: usize,
    /// Isochronous packets that failed.
    pub(super) errors: u32,
    /// Isochronous packets, from the first, whose service interval is past already.
    pub(super) late: usize,
    /// A zero-length packet has still to follow the data.
    pub(super) zero_packet: bool,
}

impl Urb {
    /// Takes a submission over.
    ///
    /// # Panics
    ///
    /// If the block is smaller than the submission says.
    pub(super) fn new(submission: Submission, block: Block) -> Self {
        let needed = block_bytes(submission.length, submission.packets);
        assert!(block.len() >= needed, "a block holds its URB");
        Self { submission, block, actual: 0, packets: 0, errors: 0, late: 0, zero_packet: false }
    }

    /// The transfer buffer and the isochronous packet descriptors behind it.
    pub(super) fn parts_mut(&mut self) -> (&mut [u8], &mut [PacketDescriptor]) {
        let length = self.submission.length as usize;
        let descriptors = self.submission.packets as usize * ISO_PACKET_BYTES;
        let bytes = &mut self.block.as_mut()[BUFFER_OFFSET..BUFFER_OFFSET + length + descriptors];
        let (buffer, descriptors) = bytes.split_at_mut(length);
        (buffer, packets_mut(descriptors))
    }

    pub(super) fn is_isochronous(&self) -> bool {
        self.submission.kind == TransferType::Isochronous
    }

    /// Ends it. Isochronous packets that were not reached get -EXDEV, as on Linux.
    pub(super) fn complete(mut self, status: i32) -> Completed {
        if self.is_isochronous() && self.packets < self.submission.packets as usize {
            let done = self.packets;
            let rest = self.submission.packets - done as u32;
            for packet in &mut self.parts_mut().1[done..] {
                packet.actual_length = 0.into();
                packet.status = (-errno::EXDEV).into();
            }
            self.errors += rest;
        }
        let actual_length = u32::try_from(self.actual).expect("below the buffer's length");
        assert!(actual_length <= self.submission.length, "no more than the buffer is moved");
        let finished = Finished {
            slot: self.submission.slot,
            status,
            actual_length,
            error_count: self.errors,
        };
        Completed { finished, block: self.block }
    }

    /// Status of a transfer that ended short of its buffer.
    pub(super) fn short_status(&self) -> i32 {
        let Submission { direction, flags, length, .. } = self.submission;
        let short = self.actual < length as usize;
        if short && flags.short_not_ok && direction == Direction::In {
            -errno::EREMOTEIO
        } else {
            0
        }
    }
}

/// All waiting URBs of a device. Grows with use up to [`limits::SESSION_URBS`] entries, then
/// allocates no more.
#[derive(Debug, Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    free: Option<u32>,
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    urb: Option<Urb>,
    next: Option<u32>,
}

/// First and last entry of one endpoint's list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    ends: Option<(u32, u32)>,
}

impl List {
    pub(super) fn is_empty(self) -> bool {
        self.ends.is_none()
    }
}

impl Pool {
    pub(super) fn is_full(&self) -> bool {
        self.waiting >= limits::SESSION_URBS
    }

    pub(super) fn push(&mut self, list: &mut List, urb: Urb) {
        assert!(!self.is_full(), "the caller looks for room first");
        self.waiting += 1;
        let entry = Entry { urb: Some(urb), next: None };
        let index = match self.free {
            Some(index) => {
                self.free = self.entries[index as usize].next;
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("bounded by a small limit")
            }
        };
        list.ends = match list.ends {
            Some((first, last)) => {
                self.entries[last as usize].next = Some(index);
                Some((first, index))
            }
            None => Some((index, index)),
        };
    }

    /// Puts a URB that was just taken off the front back there.
    pub(super) fn push_front(&mut self, list: &mut List, urb: Urb) {
        let rest = std::mem::take(list);
        self.push(list, urb);
        if let (Some((first, _)), Some((second, last))) = (list.ends, rest.ends) {
            self.entries[first as usize].next = Some(second);
            list.ends = Some((first, last));
        }
    }

    pub(super) fn front(&self, list: List) -> Option<&Urb> {
        let (first, _) = list.ends?;
        self.entries[first as usize].urb.as_ref()
    }

    pub(super) fn front_mut(&mut self, list: List) -> Option<&mut Urb> {
        let (first, _) = list.ends?;
        self.entries[first as usize].urb.as_mut()
    }

    pub(super) fn pop(&mut self, list: &mut List) -> Option<Urb> {
        let (first, last) = list.ends?;
        let next = self.entries[first as usize].next;
        list.ends = next.map(|next| (next, last));
        Some(self.take(first))
    }

    /// Takes the URB of this slot out of the list, if it is there.
    pub(super) fn remove(&mut self, list: &mut List, slot: u32) -> Option<Urb> {
        let (first, last) = list.ends?;
        let mut previous = None;
        let mut index = first;
        while self.slot_of(index) != slot {
            previous = Some(index);
            index = self.entries[index as usize].next?;
        }
        let Some(previous) = previous else { return self.pop(list) };
        self.entries[previous as usize].next = self.entries[index as usize].next;
        list.ends = Some((first, if index == last { previous } else { last }));
        Some(self.take(index))
    }

    fn slot_of(&self, index: u32) -> u32 {
        let urb = self.entries[index as usize].urb.as_ref();
        urb.expect("an entry in a list holds a URB").submission.slot
    }

    fn take(&mut self, index: u32) -> Urb {
        self.waiting -= 1;
        let entry = &mut self.entries[index as usize];
        entry.next = self.free;
        self.free = Some(index);
        entry.urb.take().expect("an entry in a list holds a URB")
    }
}
