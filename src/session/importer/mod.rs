//! The importing end of a data connection: URBs of a driver out as commands, answers in.
//!
//! Nothing that the server says is believed before it is compared with the request (A3, A7): a
//! length, a packet layout, a sequence number. A broken rule ends the URB with an error number and,
//! where the stream can no longer be followed, the session.
//!
//! Who calls what. The driver of a connection, after anything happened:
//!
//! 1. takes every [`poll_finished`](Importer::poll_finished);
//! 2. if no send is in flight, sends what [`poll_transmit`](Importer::poll_transmit) gives, and
//!    brings a block that was sent back with [`handle_sent`](Importer::handle_sent);
//! 3. if no receive is in flight and [`end`](Importer::end) is `None`, receives into the block of
//!    [`poll_receive`](Importer::poll_receive) and a buffer behind it, and reports to
//!    [`handle_received`](Importer::handle_received).

mod receive;
mod transmit;

use std::collections::VecDeque;

pub use transmit::Transmit;

use crate::session::seqnums::SeqnumIndex;
use crate::usb::errno::{ECONNRESET, ESHUTDOWN};
use crate::usb::transfer::{Finished, ISO_PACKET_BYTES, Submission, block_bytes};
use crate::wire::urb::Malformed;

use receive::Receive;

/// One session as a client.
#[derive(Debug)]
pub struct Importer<B> {
    device_id: u32,
    next_seqnum: u32,
    pending: Vec<Option<Pending<B>>>,
    by_seqnum: SeqnumIndex,
    /// CMD_UNLINKs that were sent and are not answered: their seqnum to that of the URB they want
    /// ended, which may have ended by then.
    unlinks: SeqnumIndex,
    commands: VecDeque<Command>,
    finished: VecDeque<(Finished, B)>,
    /// The slot whose block a send operation has.
    sending: Option<u32>,
    receive: Receive,
    end: Option<ImporterEnd>,
}

/// A URB without an answer.
#[derive(Debug)]
struct Pending<B> {
    seqnum: u32,
    submission: Submission,
    block: Place<B>,
    /// Its command has been handed to the network: only from then on can it be answered.
    is_sent: bool,
    cancel: Cancel,
    /// The answer that could not be finished because the block was still being sent.
    outcome: Option<Finished>,
}

/// Where the block of a pending URB is.
#[derive(Debug)]
enum Place<B> {
    Here(B),
    /// A send operation has it.
    Sending,
    /// A receive operation has it.
    Receiving,
}

/// Whether a URB is wanted ended. Cancelling is idempotent: one CMD_UNLINK at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    No,
    Begun,
}

/// A command that waits to leave.
#[derive(Clone, Copy, Debug)]
enum Command {
    Submit(u32),
    Unlink { seqnum: u32, unlink_seqnum: u32 },
}

/// Why a client's session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImporterEnd {
    /// Ended by us, for the reason given.
    #[error("{0}")]
    Local(String),
    /// A header that cannot be read.
    #[error("malformed reply: {0}")]
    Malformed(#[from] Malformed),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Network(String),
    /// The server closed between two PDUs.
    #[error("closed by the server")]
    PeerClosed,
    /// A reply whose length cannot be believed, so that the stream cannot be followed.
    #[error("the server broke the protocol: {0}")]
    Reply(#[from] crate::wire::urb::ReplyError),
    /// The stream ended inside a PDU.
    #[error("the connection ended inside a PDU")]
    Truncated,
    /// An answer to nothing.
    #[error("the server broke the protocol: unexpected RET_SUBMIT seq {0}")]
    UnknownSeqnum(u32),
}

/// Bytes of the block of a client's URB: as [`block_bytes`], and room for the packet descriptors
/// of the reply beside those of the request.
#[must_use]
pub const fn client_block_bytes(length: u32, packets: u32) -> usize {
    block_bytes(length, packets) + packets as usize * ISO_PACKET_BYTES
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Importer<B> {
    /// A session with the device that the import reply named `device_id`.
    #[must_use]
    pub fn new(device_id: u32) -> Self {
        Self {
            device_id,
            next_seqnum: 1,
            pending: Vec::new(),
            by_seqnum: SeqnumIndex::default(),
            unlinks: SeqnumIndex::default(),
            commands: VecDeque::new(),
            finished: VecDeque::new(),
            sending: None,
            receive: Receive::new(),
            end: None,
        }
    }

    /// Why the session is over, once it is.
    #[must_use]
    pub fn end(&self) -> Option<&ImporterEnd> {
        self.end.as_ref()
    }

    /// URBs that have not come back through [`poll_finished`](Self::poll_finished).
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.by_seqnum.len()
    }

    /// Starts a URB under `submission.slot`, a small number of the caller's that is not in use. The
    /// block has [`client_block_bytes`]; OUT data and packet descriptors (offset, length) stand in
    /// their places. It comes back once, through [`poll_finished`](Self::poll_finished); after the
    /// end of the session with -ESHUTDOWN.
    ///
    /// # Panics
    ///
    /// If the slot is in use.
    pub fn submit(&mut self, submission: Submission, block: B) {
        let slot = submission.slot;
        let place = slot as usize;
        if self.pending.len() <= place {
            self.pending.resize_with(place + 1, || None);
        }
        assert!(self.pending[place].is_none(), "slot {slot} is in use");
        if self.end.is_some() {
            return self.finished.push_back((gone(slot), block));
        }
        let seqnum = self.take_seqnum();
        self.by_seqnum.insert(seqnum, slot);
        let block = Place::Here(block);
        let (is_sent, cancel, outcome) = (false, Cancel::No, None);
        let urb = Pending { seqnum, submission, block, is_sent, cancel, outcome };
        self.pending[place] = Some(urb);
        self.commands.push_back(Command::Submit(slot));
    }

    /// Wants the URB of `slot` ended. It still comes back once: with -ECONNRESET and the bytes that
    /// had moved. A slot that is not in use, or asked before, is ignored.
    pub fn unlink(&mut self, slot: u32) {
        let Some(Some(urb)) = self.pending.get_mut(slot as usize) else { return };
        if urb.cancel == Cancel::Begun || urb.outcome.is_some() || self.end.is_some() {
            return;
        }
        urb.cancel = Cancel::Begun;
        let unlink_seqnum = urb.seqnum;
        let seqnum = self.take_seqnum();
        self.commands.push_back(Command::Unlink { seqnum, unlink_seqnum });
    }

    /// The next URB that has come back, with its block: IN data at its packets' offsets, the
    /// packet results in the descriptors behind the buffer.
    pub fn poll_finished(&mut self) -> Option<(Finished, B)> {
        self.finished.pop_front()
    }

    /// Ends the session. Every URB comes back with -ESHUTDOWN; those whose block an operation has,
    /// when that operation brings it back.
    pub fn stop(&mut self, reason: ImporterEnd) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(reason);
        self.commands.clear();
        for slot in 0..self.pending.len() {
            let slot = u32::try_from(slot).expect("slots are 32 bits wide");
            self.finish(slot, gone(slot));
        }
    }

    /// A number that no URB or CMD_UNLINK in flight has; 0 is never used.
    fn take_seqnum(&mut self) -> u32 {
        loop {
            let seqnum = self.next_seqnum;
            self.next_seqnum = self.next_seqnum.wrapping_add(1);
            let taken =
                self.by_seqnum.find(seqnum).is_some() || self.unlinks.find(seqnum).is_some();
            if seqnum != 0 && !taken {
                return seqnum;
            }
        }
    }

    /// Gives a URB back, or notes its outcome until its block is here.
    fn finish(&mut self, slot: u32, finished: Finished) {
        let Some(entry) = self.pending.get_mut(slot as usize) else { return };
        let Some(urb) = entry else { return };
        if let Place::Sending | Place::Receiving = urb.block {
            urb.outcome = Some(finished);
            return;
        }
        let urb = entry.take().expect("looked at just now");
        self.by_seqnum.remove(urb.seqnum);
        let Place::Here(block) = urb.block else { unreachable!("checked above") };
        let status = match urb.cancel {
            Cancel::Begun if self.end.is_none() => -ECONNRESET,
            Cancel::Begun | Cancel::No => finished.status,
        };
        self.finished.push_back((Finished { status, ..finished }, block));
    }

    /// An operation has brought a block back.
    fn return_block(&mut self, slot: u32, block: B) {
        let urb = self.pending[slot as usize].as_mut().expect("a lent block keeps its URB");
        urb.block = Place::Here(block);
        if let Some(finished) = urb.outcome.take() {
            self.finish(slot, finished);
        }
    }
}

/// The end of a URB whose session is over.
const fn gone(slot: u32) -> Finished {
    Finished { slot, status: -ESHUTDOWN, actual_length: 0, error_count: 0 }
}
