//! The connection below a client: socket, reactor and the importing end of the session.

use std::ops::Range;
use std::time::Duration;

use usbip_fast_native::{Arena, Block, Completion, Handle, Op, Piece, Reactor, Token, clock};

use super::ClientError;
use crate::limits;
use crate::session::ReceiveSize;
use crate::session::importer::{Importer, ImporterEnd, Transmit};
use crate::usb::transfer::{Finished, Submission};

/// Kinds of this connection's tokens; there is one operation of each.
const RECEIVE: Token = Token::new(1, 0, 0);
const SEND: Token = Token::new(2, 0, 0);

/// One connection that carries URBs, driven by its only user.
pub(super) struct Link {
    /// Dropped first: it takes back what the kernel has of the rest.
    reactor: Box<dyn Reactor>,
    pub(super) arena: Arena,
    socket: Handle,
    importer: Importer<Block>,
    completions: Vec<Completion>,
    /// Absent while a receive operation has it.
    receive_buffer: Option<Block>,
    receive_size: ReceiveSize,
    /// Bytes in the receive buffer that the session could not take yet.
    held: Range<usize>,
    /// Absent while a send operation has it, or `unsent`.
    send_buffer: Option<Block>,
    /// What a short send has left: of the send buffer, of a URB's block.
    unsent: [Option<Piece>; 2],
    sending: bool,
}

impl Link {
    pub(super) fn new(
        reactor: Box<dyn Reactor>,
        socket: Handle,
        device_id: u32,
    ) -> Result<Self, ClientError> {
        let arena = Arena::new(limits::ARENA_BYTES);
        let take = |bytes| arena.take(bytes).map(Block::from).ok_or(ClientError::NoMemory);
        Ok(Self {
            reactor,
            receive_buffer: Some(take(limits::RECEIVE_BUFFER_BYTES)?),
            receive_size: ReceiveSize::default(),
            send_buffer: Some(take(limits::SEND_BUFFER_BYTES)?),
            arena,
            socket,
            importer: Importer::new(device_id),
            completions: Vec::new(),
            held: 0..0,
            unsent: [None, None],
            sending: false,
        })
    }

    pub(super) fn submit(&mut self, submission: Submission, block: Block) {
        self.importer.submit(submission, block);
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        self.importer.unlink(slot);
    }

    /// Ends the session from our side; what is in flight comes back with the next turns.
    pub(super) fn stop(&mut self, reason: ImporterEnd) {
        self.importer.stop(reason);
    }

    pub(super) fn poll_finished(&mut self) -> Option<(Finished, Block)> {
        self.importer.poll_finished()
    }

    pub(super) fn end(&self) -> Option<&ImporterEnd> {
        self.importer.end()
    }

    /// Sends and receives what can be, waiting for something to happen until `deadline` at most.
    pub(super) fn turn(&mut self, deadline: Option<Duration>) {
        if self.importer.end().is_some() {
            self.abandon();
        }
        self.give_held();
        self.start_send();
        self.start_receive();
        let mut completions = std::mem::take(&mut self.completions);
        self.reactor.turn(deadline, &mut completions);
        for completion in completions.drain(..) {
            match completion.token {
                RECEIVE => self.handle_received(completion),
                SEND => self.handle_sent(completion),
                other => unreachable!("a completion of nobody: {other:?}"),
            }
        }
        self.completions = completions;
    }

    fn start_send(&mut self) {
        if self.sending || self.importer.end().is_some() {
            return;
        }
        let mut pieces = std::mem::take(&mut self.unsent);
        let is_rest = pieces.iter().any(Option::is_some);
        if pieces[0].is_none() && pieces[1].is_none() {
            let mut buffer = self.send_buffer.take().expect("with nothing unsent it is here");
            let Transmit { buffered, block } = self.importer.poll_transmit(buffer.as_mut());
            if buffered > 0 {
                pieces[0] = Some(Piece { block: buffer, range: 0..buffered });
            } else {
                self.send_buffer = Some(buffer);
            }
            pieces[1] = block.map(|(block, range)| Piece { block, range });
        }
        if pieces[0].is_some() || pieces[1].is_some() {
            self.sending = true;
            // Only what is queued behind it waits for this send.
            let quiet = !is_rest && !self.importer.has_transmit();
            self.reactor.submit(Op::Send { socket: self.socket.clone(), pieces, quiet }, SEND);
        }
    }

    fn handle_sent(&mut self, completion: Completion) {
        self.sending = false;
        let mut count = match completion.moved() {
            Ok(count) => count,
            Err(error) => {
                self.importer.stop(ImporterEnd::Network(error.to_string()));
                0
            }
        };
        let over = self.importer.end().is_some();
        for (place, piece) in completion.pieces.into_iter().enumerate() {
            let Some(mut piece) = piece else { continue };
            let sent = count.min(piece.range.len());
            count -= sent;
            piece.range.start += sent;
            if !piece.range.is_empty() && !over {
                self.unsent[place] = Some(piece);
            } else if place == 0 {
                self.send_buffer = Some(piece.block);
            } else {
                self.importer.handle_sent(piece.block);
            }
        }
    }

    fn start_receive(&mut self) {
        if !self.held.is_empty() || self.importer.end().is_some() {
            return;
        }
        let Some(block) = self.receive_buffer.take() else { return };
        let lent = self.importer.poll_receive().map(|(block, range)| Piece { block, range });
        let behind = self.receive_size.next(lent.as_ref().map_or(0, |piece| piece.range.len()));
        let buffer = Piece { block, range: 0..behind };
        let pieces = match lent {
            Some(lent) => [Some(lent), Some(buffer)],
            None => [Some(buffer), None],
        };
        self.reactor.submit(Op::Receive { socket: self.socket.clone(), pieces }, RECEIVE);
    }

    fn handle_received(&mut self, completion: Completion) {
        let count = completion.moved().unwrap_or_else(|error| {
            self.importer.stop(ImporterEnd::Network(error.to_string()));
            0
        });
        let (lent, buffer) = completion.into_received();
        let direct = lent.as_ref().map_or(0, |piece| piece.range.len()).min(count);
        let bytes = &buffer.block.as_ref()[..count - direct];
        let lent = lent.map(|piece| (piece.block, direct));
        let taken = self.importer.handle_received(lent, bytes);
        self.held = taken..bytes.len();
        self.receive_buffer = Some(buffer.block);
    }

    /// Brings back what operations have of a session that is over.
    fn abandon(&mut self) {
        self.reactor.cancel(SEND);
        self.reactor.cancel(RECEIVE);
        self.held = 0..0;
        let [buffer, block] = std::mem::take(&mut self.unsent);
        if let Some(piece) = buffer {
            self.send_buffer = Some(piece.block);
        }
        if let Some(piece) = block {
            self.importer.handle_sent(piece.block);
        }
    }

    /// Offers the bytes again that belonged to a block which was being sent.
    fn give_held(&mut self) {
        if self.held.is_empty() || self.sending || self.unsent[1].is_some() {
            return;
        }
        let buffer = self.receive_buffer.as_ref().expect("nothing is received over held bytes");
        let taken = self.importer.handle_received(None, &buffer.as_ref()[self.held.clone()]);
        self.held.start += taken;
    }
}

/// The time at which a wait of `timeout` from now is over; `None` waits without limit.
pub(super) fn deadline(timeout: Option<Duration>) -> Option<Duration> {
    timeout.and_then(|timeout| clock::now().checked_add(timeout))
}
