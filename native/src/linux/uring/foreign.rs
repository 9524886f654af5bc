//! Operations as submission entries, and the structures that the kernel reads and writes meanwhile.

use std::cell::UnsafeCell;
use std::mem;
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use libc::{iovec, msghdr, sockaddr_storage, socklen_t};

use crate::attempt::{to_iovec, to_iovecs};
use crate::op::{Op, Piece};
use crate::platform::sockets::{CREATION_FLAGS, SEND_FLAGS};
use crate::socket;

/// What one operation lends to the kernel beside its blocks. It must stay where it is from
/// submission to completion.
pub(super) struct Foreign {
    message: msghdr,
    iovecs: [iovec; 2],
    address: sockaddr_storage,
    address_length: socklen_t,
}

/// The [`Foreign`] of each index of the table of operations; growing moves none of them.
#[derive(Default)]
pub(super) struct ForeignTable {
    segments: Vec<Box<[UnsafeCell<Foreign>; SEGMENT]>>,
}

const SEGMENT: usize = 64;

impl ForeignTable {
    /// Room of an operation. Whoever dereferences it must know that the kernel is not using it.
    pub(super) fn place(&mut self, index: u32) -> *mut Foreign {
        let index = index as usize;
        while self.segments.len() <= index / SEGMENT {
            self.segments.push(Box::new([const { UnsafeCell::new(Foreign::EMPTY) }; SEGMENT]));
        }
        self.segments[index / SEGMENT][index % SEGMENT].get()
    }

    /// Above every index that has ever been in flight.
    pub(super) fn capacity(&self) -> u32 {
        u32::try_from(self.segments.len() * SEGMENT).expect("below 2^32 operations")
    }

    /// Gives the memory up for good, because the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        mem::forget(mem::take(&mut self.segments));
    }
}

impl Foreign {
    // SAFETY: all-zero bytes are valid for these four types of plain C data.
    const EMPTY: Self = unsafe { mem::zeroed() };

    /// The peer that an accept wrote here.
    pub(super) fn address(&self) -> &sockaddr_storage {
        &self.address
    }

    fn set_address(&mut self, address: &std::net::SocketAddr) {
        (self.address, self.address_length) = socket::to_system(address);
    }

    fn set_pieces(&mut self, pieces: &[Option<Piece>; 2]) {
        let (iovecs, count) = to_iovecs(pieces);
        self.iovecs = iovecs;
        self.message = Self::EMPTY.message;
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = count as _;
    }
}

/// The submission entry of `op`, without user data. `fixed_slot` is the registered buffer that
/// holds the one piece of a send.
///
/// # Safety
///
/// `place` is this operation's own and the kernel is not using it.
pub(super) unsafe fn entry(op: &Op, place: *mut Foreign, fixed_slot: Option<u16>) -> Entry {
    let fd = types::Fd(op.handle().as_raw_fd());
    // SAFETY: the caller promises that nobody else uses the place.
    let foreign = unsafe { &mut *place };
    match op {
        Op::Accept { .. } => {
            foreign.address = Foreign::EMPTY.address;
            foreign.address_length = mem::size_of::<sockaddr_storage>() as socklen_t;
            let address = (&raw mut foreign.address).cast();
            opcode::Accept::new(fd, address, &raw mut foreign.address_length)
                .flags(CREATION_FLAGS)
                .build()
        }
        Op::Connect { address, .. } => {
            foreign.set_address(address);
            let address = (&raw const foreign.address).cast();
            opcode::Connect::new(fd, address, foreign.address_length).build()
        }
        Op::Receive { pieces, .. } => match single(pieces) {
            Some(piece) => {
                let (start, length) = raw_piece(piece);
                opcode::Recv::new(fd, start, length).build()
            }
            None => {
                foreign.set_pieces(pieces);
                opcode::RecvMsg::new(fd, &raw mut foreign.message).build()
            }
        },
        Op::Send { pieces, .. } => match (single(pieces), fixed_slot) {
            (Some(piece), Some(slot)) => {
                let (start, length) = raw_piece(piece);
                opcode::WriteFixed::new(fd, start, length, slot).build()
            }
            (Some(piece), None) => {
                let (start, length) = raw_piece(piece);
                opcode::Send::new(fd, start, length).flags(send_flags(op)).build()
            }
            (None, _) => {
                foreign.set_pieces(pieces);
                let flags = send_flags(op) as u32;
                opcode::SendMsg::new(fd, &raw const foreign.message).flags(flags).build()
            }
        },
        Op::Poll { interest, .. } => opcode::PollAdd::new(fd, interest.poll_bits()).build(),
    }
}

/// Whether the entry of `op` completes while it is submitted, whatever happens: then nothing has
/// to be said of it if all went well.
pub(super) fn completes_at_once(op: &Op, fixed_slot: Option<u16>) -> bool {
    matches!(op, Op::Send { quiet: true, .. }) && fixed_slot.is_none()
}

fn send_flags(op: &Op) -> libc::c_int {
    if completes_at_once(op, None) {
        // A send that moves a part only is a failed one for the kernel, and so told of.
        SEND_FLAGS | libc::MSG_DONTWAIT | libc::MSG_WAITALL
    } else {
        // The kernel goes on after a partial send without coming back to us.
        SEND_FLAGS | libc::MSG_WAITALL
    }
}

/// The entry that waits until `op`, which would block and was not parked by the kernel, can go on.
pub(super) fn wait_entry(op: &Op) -> Entry {
    let readable = matches!(op, Op::Accept { .. } | Op::Receive { .. });
    let bits = if readable { libc::POLLIN } else { libc::POLLOUT };
    opcode::PollAdd::new(types::Fd(op.handle().as_raw_fd()), bits as u32).build()
}

/// The only piece, if there is only one.
pub(super) fn single(pieces: &[Option<Piece>; 2]) -> Option<&Piece> {
    match pieces {
        [Some(piece), None] | [None, Some(piece)] => Some(piece),
        _ => None,
    }
}

fn raw_piece(piece: &Piece) -> (*mut u8, u32) {
    let iovec = to_iovec(piece);
    (iovec.iov_base.cast(), u32::try_from(iovec.iov_len).expect("blocks are far below 4 GiB"))
}
