//! Submitting to and reaping from a usbfs node, for one thread.
//!
//! A *transfer* is one block and the usbfs URBs (*pieces*) that point into it: one for most, up to
//! eight for long isochronous ones. The queue owns the block from [`Queue::begin`] to
//! [`Queue::finish`].
//!
//! Who touches which memory, on which every `SAFETY` comment here rests:
//!
//! * The record of a piece (`struct usbdevfs_urb`) is read by the kernel within the submit call
//!   and written within the reap call that returns it, and at no other time.
//! * A buffer in ordinary memory is read within the submit call and written within the reap call.
//! * A buffer in an area ([`DeviceBlock`](super::DeviceBlock)) may be read or written by the
//!   controller at any time from the submit call until the piece is reaped. The pages stay the
//!   kernel's for as long, mapped or not.
//!
//! Submits and reaps on an open file are made by its queue alone, because it owns the only
//! [`Lane`]. So nothing is written behind anybody's back as soon as the queue makes no more calls,
//! except into areas: see [`Queue`]'s `Drop`.

use std::ffi::{c_int, c_uint, c_void};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::ioctl::{Lane, RawUrb, UrbAddress, number};
use crate::block::Block;
use crate::handle::Handle;
use crate::op::OsError;

/// Most isochronous packets that usbfs takes in one URB.
pub const PACKETS_PER_URB: usize = 128;

/// Most pieces of one transfer.
const PIECES: usize = 8;

/// Flags of a URB, as usbfs numbers them.
pub mod urb_flag {
    /// A short IN transfer is an error.
    pub const SHORT_NOT_OK: u32 = 0x01;
    /// Isochronous: start as soon as possible.
    pub const ISO_ASAP: u32 = 0x02;
    /// Bulk or interrupt OUT: end with a zero-length packet if the length is a multiple.
    pub const ZERO_PACKET: u32 = 0x40;
    /// No interrupt is wanted for this one.
    pub const NO_INTERRUPT: u32 = 0x80;
}

/// Transfer types, as usbfs numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrbKind {
    /// Isochronous.
    Isochronous = 0,
    /// Interrupt.
    Interrupt = 1,
    /// Control; the buffer begins with the 8 setup bytes.
    Control = 2,
    /// Bulk.
    Bulk = 3,
}

/// What a piece asks for.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// Transfer type.
    pub kind: UrbKind,
    /// Endpoint address with the direction bit; 0 for control.
    pub endpoint: u8,
    /// Bits of [`urb_flag`].
    pub flags: u32,
    /// The transfer buffer within the transfer's block. For isochronous pieces packet after packet
    /// without gaps.
    pub buffer: Range<usize>,
    /// Lengths of the isochronous packets in bytes, 1 to [`PACKETS_PER_URB`] of them; they fill
    /// the buffer exactly. Empty for other types.
    pub packets: &'a [u32],
}

/// `struct usbdevfs_iso_packet_desc`: an isochronous packet and its result.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IsoPacket {
    /// Bytes asked for.
    pub length: c_uint,
    /// Bytes moved.
    pub actual_length: c_uint,
    /// 0 or a negated error number, as 32 bits.
    pub status: c_uint,
}

/// How a piece ended.
#[derive(Clone, Copy, Debug)]
pub struct Reaped<'a> {
    /// 0 or a negated error number; -2 (ENOENT) for one that was killed.
    pub status: i32,
    /// Bytes moved, as the kernel says.
    pub actual_length: u32,
    /// Isochronous packets that failed, as the kernel says.
    pub error_count: u32,
    /// Results of the isochronous packets; empty for other types.
    pub packets: &'a [IsoPacket],
}

/// Names a transfer between [`Queue::begin`] and [`Queue::finish`]. Below the queue's capacity, so
/// it can index a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferId(u32);

impl TransferId {
    /// The index, 0 to capacity - 1.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The transfer of an index.
    #[must_use]
    pub fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("capacities are far below 2^32"))
    }
}

/// The URBs of one open device.
///
/// Dropping it with URBs in flight is safe: no call is made any more, so ordinary memory stays
/// untouched; blocks of areas that the controller may still use are leaked.
#[derive(Debug)]
pub struct Queue {
    node: Handle,
    transfers: Vec<Transfer>,
    vacant: Vec<u32>,
    records: Vec<Record>,
    spare_plain: Vec<u32>,
    spare_iso: Vec<u32>,
    iso_records: usize,
    capacity: usize,
    iso_capacity: usize,
    in_flight: usize,
    system_calls: u64,
}

#[derive(Debug, Default)]
struct Transfer {
    block: Option<Block>,
    pieces: [u32; PIECES],
    submitted: u8,
    in_flight: u8,
}

/// Memory of one `struct usbdevfs_urb`, at an address that stays.
#[derive(Debug)]
struct Record {
    urb: NonNull<RawUrb>,
    transfer: u32,
    is_iso: bool,
    in_flight: bool,
}

#[repr(C)]
struct RawIsoUrb {
    urb: RawUrb,
    packets: [IsoPacket; PACKETS_PER_URB],
}

impl Queue {
    /// An empty queue for at most `capacity` transfers and `iso_capacity` isochronous pieces at
    /// once. Memory for them is taken when they are first used and then kept.
    #[must_use]
    pub fn new(lane: Lane, capacity: usize, iso_capacity: usize) -> Self {
        assert!(iso_capacity >= PIECES, "a long isochronous transfer must fit");
        Self {
            node: Handle::new(lane.node),
            transfers: Vec::new(),
            vacant: Vec::new(),
            records: Vec::new(),
            spare_plain: Vec::new(),
            spare_iso: Vec::new(),
            iso_records: 0,
            capacity,
            iso_capacity,
            in_flight: 0,
            system_calls: 0,
        }
    }

    /// The node, to wait for: it is writable when something can be reaped.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.node
    }

    /// Pieces submitted and not reaped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submit and reap calls made so far.
    #[must_use]
    pub fn system_calls(&self) -> u64 {
        self.system_calls
    }

    /// Whether a transfer of `iso_pieces` isochronous pieces (0: of one other piece) fits now.
    #[must_use]
    pub fn has_room(&self, iso_pieces: usize) -> bool {
        let transfers = self.vacant.len() + (self.capacity - self.transfers.len());
        let iso = self.spare_iso.len() + (self.iso_capacity - self.iso_records);
        transfers > 0 && iso >= iso_pieces
    }

    /// Takes a block over. There must be room.
    pub fn begin(&mut self, block: Block) -> TransferId {
        let index = self.vacant.pop().unwrap_or_else(|| {
            assert!(self.transfers.len() < self.capacity, "there is room for the transfer");
            self.transfers.push(Transfer::default());
            u32::try_from(self.transfers.len() - 1).expect("capacities are far below 2^32")
        });
        let transfer = &mut self.transfers[index as usize];
        assert!(transfer.block.is_none() && transfer.submitted == 0, "the transfer is vacant");
        transfer.block = Some(block);
        TransferId(index)
    }

    /// Submits the next piece of a transfer.
    ///
    /// # Errors
    ///
    /// What the kernel says; the piece is then as if it had never been. `ENODEV`: the device is
    /// gone.
    ///
    /// # Panics
    ///
    /// If the buffer leaves the block, or packets do not fill it.
    pub fn submit(&mut self, id: TransferId, piece: &Piece<'_>) -> Result<(), OsError> {
        let is_iso = piece.kind == UrbKind::Isochronous;
        assert_eq!(is_iso, !piece.packets.is_empty(), "packets are for isochronous pieces");
        let record = self.take_record(is_iso);
        self.fill(record, id, piece);
        let urb = self.records[record as usize].urb;
        self.system_calls += 1;
        // SAFETY: the record is ours, filled in by `fill`, and not in flight. Its buffer lies in
        // the block, which the transfer owns until `finish`, and `finish` waits for this piece.
        let result = unsafe {
            libc::ioctl(self.node.as_raw_fd(), number::SUBMIT_URB, urb.as_ptr().cast::<c_void>())
        };
        if result < 0 {
            let error = OsError::last();
            self.give_record(record);
            return Err(error);
        }
        self.records[record as usize].in_flight = true;
        let transfer = &mut self.transfers[id.index()];
        transfer.pieces[usize::from(transfer.submitted)] = record;
        transfer.submitted += 1;
        transfer.in_flight += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// Reaps one piece, and says of which transfer and whether it was the last one in flight.
    /// `None`: there is nothing to reap now.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is gone and nothing is left to reap at this moment.
    pub fn reap(&mut self) -> Result<Option<(TransferId, bool)>, OsError> {
        let mut urb: *mut RawUrb = std::ptr::null_mut();
        self.system_calls += 1;
        // SAFETY: the kernel writes one pointer to `urb`, and to the record and ordinary buffer of
        // the piece it returns: both belong to this queue and are borrowed by nobody, because a
        // transfer's block is out of reach from `begin` to `finish`.
        let result = unsafe {
            libc::ioctl(
                self.node.as_raw_fd(),
                number::REAP_URB_NO_DELAY,
                (&raw mut urb).cast::<c_void>(),
            )
        };
        if result < 0 {
            return match OsError::last() {
                OsError(libc::EAGAIN) => Ok(None),
                error => Err(error),
            };
        }
        Ok(Some(self.account(NonNull::new(urb).expect("a reaped URB has a record"))))
    }

    /// Names of the pieces of a transfer that are in flight, for
    /// [`Control::discard`](super::Control::discard).
    pub fn addresses(&self, id: TransferId) -> impl Iterator<Item = UrbAddress> {
        let transfer = &self.transfers[id.index()];
        let pieces = &transfer.pieces[..usize::from(transfer.submitted)];
        let records = pieces.iter().map(|&piece| &self.records[piece as usize]);
        records
            .filter(|record| record.in_flight)
            .map(|record| UrbAddress(record.urb.as_ptr().addr()))
    }

    /// Ends a transfer that has nothing in flight: shows the pieces' results in the order of their
    /// submission and gives the block back.
    pub fn finish(
        &mut self,
        id: TransferId,
        mut show: impl FnMut(&mut Block, Reaped<'_>),
    ) -> Block {
        let transfer = &mut self.transfers[id.index()];
        assert_eq!(transfer.in_flight, 0, "a block is given back when all is reaped");
        let mut block = transfer.block.take().expect("the transfer has begun");
        let (pieces, count) = (transfer.pieces, usize::from(transfer.submitted));
        transfer.submitted = 0;
        for &piece in &pieces[..count] {
            show(&mut block, self.result(piece));
            self.give_record(piece);
        }
        self.vacant.push(id.0);
        block
    }

    fn fill(&mut self, record: u32, id: TransferId, piece: &Piece<'_>) {
        let block = self.transfers[id.index()].block.as_ref().expect("the transfer has begun");
        let Range { start, end } = piece.buffer;
        assert!(start <= end && end <= block.len(), "the buffer lies in the block");
        let packets_bytes: u64 = piece.packets.iter().copied().map(u64::from).sum();
        assert!(
            piece.packets.is_empty() || packets_bytes == (end - start) as u64,
            "packets fill the buffer: the kernel takes their sum for its length"
        );
        assert!(piece.packets.len() <= PACKETS_PER_URB, "the packets fit their record");
        // SAFETY: `start` is at most `len`, so the address is within or one behind the block.
        let buffer = unsafe { block.as_non_null().add(start) };
        let raw = RawUrb {
            kind: piece.kind as u8,
            endpoint: piece.endpoint,
            status: 0,
            flags: piece.flags,
            buffer: buffer.as_ptr().cast(),
            buffer_length: c_int::try_from(end - start).expect("blocks are far below 2 GiB"),
            actual_length: 0,
            start_frame: 0,
            number_of_packets: piece.packets.len() as c_int,
            error_count: 0,
            signr: 0,
            usercontext: std::ptr::without_provenance_mut(record as usize),
        };
        let entry = &mut self.records[record as usize];
        assert!(!entry.in_flight, "a record in flight is not filled in");
        entry.transfer = id.0;
        // SAFETY: the record is ours and not in flight.
        unsafe { entry.urb.as_ptr().write(raw) };
        if !piece.packets.is_empty() {
            assert!(entry.is_iso, "packets need a record with room for them");
            let urb = entry.urb.as_ptr().cast::<RawIsoUrb>();
            for (index, &length) in piece.packets.iter().enumerate() {
                // SAFETY: an isochronous record was allocated as a RawIsoUrb, the index is below
                // PACKETS_PER_URB, checked above, and the record is not in flight.
                unsafe { (*urb).packets[index] = IsoPacket { length, ..IsoPacket::default() } };
            }
        }
    }

    fn account(&mut self, urb: NonNull<RawUrb>) -> (TransferId, bool) {
        // SAFETY: the kernel returns only addresses that were submitted on this open file, which
        // were all given by this queue, and whose records live as long as it does.
        let index = unsafe { (*urb.as_ptr()).usercontext }.addr();
        let record = &mut self.records[index];
        assert!(record.urb == urb && record.in_flight, "a URB is reaped once");
        record.in_flight = false;
        let id = TransferId(record.transfer);
        let transfer = &mut self.transfers[id.index()];
        transfer.in_flight -= 1;
        self.in_flight -= 1;
        (id, transfer.in_flight == 0)
    }

    fn result(&self, record: u32) -> Reaped<'_> {
        let record = &self.records[record as usize];
        assert!(!record.in_flight, "a record in flight has no result");
        // SAFETY: the record is ours, initialised by `fill`, and not in flight, so that nobody
        // writes it while self is borrowed.
        let urb = unsafe { record.urb.as_ref() };
        let packets = if record.is_iso {
            // SAFETY: an isochronous record was allocated as a RawIsoUrb; not in flight as above.
            let packets = unsafe { &record.urb.cast::<RawIsoUrb>().as_ref().packets };
            &packets[..usize::try_from(urb.number_of_packets).unwrap_or(0).min(PACKETS_PER_URB)]
        } else {
            &[]
        };
        Reaped {
            status: urb.status,
            actual_length: u32::try_from(urb.actual_length).unwrap_or(0),
            error_count: u32::try_from(urb.error_count).unwrap_or(0),
            packets,
        }
    }

    fn take_record(&mut self, is_iso: bool) -> u32 {
        let spare = if is_iso { &mut self.spare_iso } else { &mut self.spare_plain };
        if let Some(index) = spare.pop() {
            return index;
        }
        if is_iso {
            assert!(self.iso_records < self.iso_capacity, "there is room for the piece");
            self.iso_records += 1;
        }
        self.records.push(Record::new(is_iso));
        u32::try_from(self.records.len() - 1).expect("capacities are far below 2^32")
    }

    fn give_record(&mut self, index: u32) {
        let record = &self.records[index as usize];
        assert!(!record.in_flight, "a record in flight is not given back");
        let spare = if record.is_iso { &mut self.spare_iso } else { &mut self.spare_plain };
        spare.push(index);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for transfer in &mut self.transfers {
            if transfer.in_flight > 0
                && let Some(Block::Device(block)) = transfer.block.take()
            {
                // The controller may still write to it, so nobody may ever have it again.
                std::mem::forget(block);
            }
        }
    }
}

impl Record {
    fn new(is_iso: bool) -> Self {
        let zero = RawUrb {
            kind: 0,
            endpoint: 0,
            status: 0,
            flags: 0,
            buffer: std::ptr::null_mut(),
            buffer_length: 0,
            actual_length: 0,
            start_frame: 0,
            number_of_packets: 0,
            error_count: 0,
            signr: 0,
            usercontext: std::ptr::null_mut(),
        };
        let urb = if is_iso {
            let packets = [IsoPacket::default(); PACKETS_PER_URB];
            NonNull::from(Box::leak(Box::new(RawIsoUrb { urb: zero, packets }))).cast()
        } else {
            NonNull::from(Box::leak(Box::new(zero)))
        };
        Self { urb, transfer: 0, is_iso, in_flight: false }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: the memory came from a Box of this type in `new` and is freed here only. The
        // kernel touches a record within calls of the queue only, and the queue is being dropped.
        unsafe {
            if self.is_iso {
                drop(Box::from_raw(self.urb.as_ptr().cast::<RawIsoUrb>()));
            } else {
                drop(Box::from_raw(self.urb.as_ptr()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    /// A queue on a file that takes no URB: every submit fails.
    fn queue_on_a_pipe() -> Queue {
        let (reader, _writer) = std::io::pipe().expect("the system has pipes");
        Queue::new(Lane { node: reader.into() }, 2, PIECES)
    }

    fn bulk(buffer: Range<usize>) -> Piece<'static> {
        Piece { kind: UrbKind::Bulk, endpoint: 0x81, flags: 0, buffer, packets: &[] }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_record_is_the_kernels() {
        assert_eq!(size_of::<RawUrb>(), 56);
        assert_eq!(std::mem::offset_of!(RawUrb, usercontext), 48);
        assert_eq!(std::mem::offset_of!(RawIsoUrb, packets), 56);
        assert_eq!(size_of::<IsoPacket>(), 12);
    }

    #[test]
    fn a_refused_piece_leaves_nothing_behind() {
        let mut queue = queue_on_a_pipe();
        let arena = Arena::new(1 << 20);
        let block = arena.take(512).expect("fits").into();
        let id = queue.begin(block);
        assert!(queue.submit(id, &bulk(64..512)).is_err());
        assert_eq!((queue.in_flight(), queue.addresses(id).count()), (0, 0));
        let mut shown = 0;
        let block = queue.finish(id, |_, _| shown += 1);
        assert_eq!((shown, block.len()), (0, 512));
        assert!(queue.reap().is_err());
    }

    #[test]
    fn room_counts_transfers_and_isochronous_pieces() {
        let mut queue = queue_on_a_pipe();
        let arena = Arena::new(1 << 20);
        assert!(queue.has_room(PIECES) && !queue.has_room(PIECES + 1));
        let first = queue.begin(arena.take(64).expect("fits").into());
        let _second = queue.begin(arena.take(64).expect("fits").into());
        assert!(!queue.has_room(0));
        queue.finish(first, |_, _| ());
        assert!(queue.has_room(1));
    }

    #[test]
    #[should_panic(expected = "the buffer lies in the block")]
    fn a_buffer_cannot_leave_its_block() {
        let mut queue = queue_on_a_pipe();
        let arena = Arena::new(1 << 20);
        let id = queue.begin(arena.take(512).expect("fits").into());
        let _ = queue.submit(id, &bulk(64..513));
    }

    #[test]
    #[should_panic(expected = "packets fill the buffer")]
    fn packets_cannot_leave_their_buffer() {
        let mut queue = queue_on_a_pipe();
        let arena = Arena::new(1 << 20);
        let id = queue.begin(arena.take(512).expect("fits").into());
        let packets = &[100, 101];
        let kind = UrbKind::Isochronous;
        let _ = queue.submit(id, &Piece { kind, packets, ..bulk(64..264) });
    }
}
