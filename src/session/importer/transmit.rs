//! Commands to the server.

use std::ops::Range;

use super::{Command, Importer, Place};
use crate::limits;
use crate::usb::transfer::{Direction, Submission};
use crate::wire::encode::{self, CommandParts};
use crate::wire::urb::{self, CmdSubmit, CmdUnlink, HEADER_BYTES, NOT_ISOCHRONOUS};

/// One send: first bytes of the send buffer, then possibly a part of a URB's own block.
#[derive(Debug)]
pub struct Transmit<B> {
    /// Bytes written to the front of the buffer given to [`Importer::poll_transmit`].
    pub buffered: usize,
    /// A large OUT command that leaves from its block, behind the buffered bytes. The block comes
    /// back with [`Importer::handle_sent`].
    pub block: Option<(B, Range<usize>)>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Importer<B> {
    /// Fills `buffer` with the commands that wait, in order of submission; the first large one ends
    /// the run. Call when no send is in flight.
    pub fn poll_transmit(&mut self, buffer: &mut [u8]) -> Transmit<B> {
        let mut transmit = Transmit { buffered: 0, block: None };
        while let Some(&command) = self.commands.front() {
            let room = &mut buffer[transmit.buffered..];
            match command {
                Command::Unlink { seqnum, unlink_seqnum } => {
                    let Some(header) = room.first_chunk_mut::<HEADER_BYTES>() else { break };
                    let device_id = self.device_id;
                    CmdUnlink { seqnum, device_id, unlink_seqnum }.emit(header);
                    self.unlinks.insert(seqnum, unlink_seqnum);
                    transmit.buffered += HEADER_BYTES;
                }
                Command::Submit(slot) => {
                    let parts = self.encode(slot);
                    let bytes = parts.head.len() + parts.tail.len();
                    if bytes > limits::COALESCED_REPLY_BYTES && parts.tail.is_empty() {
                        self.note_sent(slot);
                        transmit.block = Some(self.lend(slot, parts.head));
                        self.commands.pop_front();
                        break;
                    }
                    let Some(room) = room.get_mut(..bytes) else { break };
                    self.note_sent(slot);
                    self.copy(slot, &parts, room);
                    transmit.buffered += bytes;
                }
            }
            self.commands.pop_front();
        }
        transmit
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would give something.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The block of [`Transmit::block`] has left, or failed to.
    pub fn handle_sent(&mut self, block: B) {
        let slot = self.sending.take().expect("one block was lent");
        self.return_block(slot, block);
    }

    fn encode(&mut self, slot: u32) -> CommandParts {
        let device_id = self.device_id;
        let urb = self.pending[slot as usize].as_mut().expect("a queued command has its URB");
        let Place::Here(block) = &mut urb.block else {
            unreachable!("a block is lent after its command is encoded")
        };
        let Submission { direction, endpoint, setup, length, packets, flags, start_frame, .. } =
            urb.submission;
        let command = CmdSubmit {
            seqnum: urb.seqnum,
            device_id,
            direction,
            endpoint,
            transfer_flags: urb::raw_flags(flags, direction),
            buffer_length: length,
            start_frame,
            number_of_packets: NOT_ISOCHRONOUS,
            interval: 0,
            setup,
        };
        encode::encode_submit(block.as_mut(), &command, packets)
    }

    fn note_sent(&mut self, slot: u32) {
        self.pending[slot as usize].as_mut().expect("a queued command has its URB").is_sent = true;
    }

    fn copy(&mut self, slot: u32, parts: &CommandParts, room: &mut [u8]) {
        let urb = self.pending[slot as usize].as_ref().expect("a queued command has its URB");
        let Place::Here(block) = &urb.block else { unreachable!("encoded just now") };
        let (head, tail) = room.split_at_mut(parts.head.len());
        head.copy_from_slice(&block.as_ref()[parts.head.clone()]);
        tail.copy_from_slice(&block.as_ref()[parts.tail.clone()]);
    }

    fn lend(&mut self, slot: u32, range: Range<usize>) -> (B, Range<usize>) {
        assert!(self.sending.is_none(), "one block is lent at a time");
        self.sending = Some(slot);
        let urb = self.pending[slot as usize].as_mut().expect("a queued command has its URB");
        assert_eq!(urb.submission.direction, Direction::Out, "only OUT data is large");
        let Place::Here(block) = std::mem::replace(&mut urb.block, Place::Sending) else {
            unreachable!("encoded just now")
        };
        (block, range)
    }
}
