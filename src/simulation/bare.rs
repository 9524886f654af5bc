//! The exporter alone, driven as the reactor's loop drives it, but with its steps in any order that
//! its documentation allows.

use std::ops::Range;
use std::time::Duration;

use usbip_fast_native::{Arena, Block};

use crate::device::{Device, DeviceState};
use crate::limits;
use crate::session::exporter::{Exporter, SessionEnd};
use crate::simulation::descriptors::{DEVICE_ID, Shape};
use crate::simulation::oracle::{Broken, Oracle, Seen};
use crate::simulation::random::Random;
use crate::simulation::side::Side;
use crate::simulation::wire::Wire;

/// The serving side of a connection without its reactor.
pub struct Bare {
    exporter: Exporter<Block>,
    device: Box<dyn Device>,
    arena: Arena,
    receive: Option<Option<(Block, Range<usize>)>>,
    sending: Option<Sending>,
    send_buffer: Vec<u8>,
    receive_buffer: Vec<u8>,
    /// How many bytes one receive brings at most.
    piece: usize,
    stopped: bool,
    wire: Wire,
    now: Duration,
}

/// What a send in flight still has to do, and the block that it owns.
struct Sending {
    bytes: Vec<u8>,
    sent: usize,
    _block: Option<Block>,
}

impl Bare {
    /// A session of `device` that has just begun.
    #[must_use]
    pub fn new(device: Box<dyn Device>, shape: &Shape, random: &mut Random) -> Self {
        let least = u32::try_from(limits::COALESCED_REPLY_BYTES).expect("a small limit");
        let send_buffer = random.pick(&[least, least + 100, 16_384, 65_536]);
        Self {
            exporter: Exporter::new(DEVICE_ID, shape.endpoint_map()),
            device,
            arena: Arena::new(512 * 1024 * 1024),
            receive: None,
            sending: None,
            send_buffer: vec![0; send_buffer as usize],
            receive_buffer: vec![0; limits::RECEIVE_BUFFER_BYTES],
            piece: random.pick(&[3, 50, 500, 5000, 70_000]),
            stopped: false,
            wire: Wire::new(random.pick(&[200, 5000, 60_000, 500_000])),
            now: Duration::from_secs(1),
        }
    }
}

impl Side for Bare {
    fn client_sends(&mut self, bytes: &[u8]) {
        self.wire.client_sends(bytes);
    }

    fn client_has_room(&self) -> bool {
        self.wire.client_room() > 0
    }

    fn client_closes(&mut self) {
        self.wire.closed = true;
    }

    fn client_reads(&mut self, limit: usize) -> Result<usize, Broken> {
        Ok(self.wire.client_reads(limit))
    }

    fn end(&self) -> Option<&SessionEnd> {
        self.exporter.end()
    }

    fn was_stopped(&self) -> bool {
        self.stopped
    }

    fn stop(&mut self, reason: SessionEnd) {
        self.stopped = true;
        self.exporter.stop(reason);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn hasten(&mut self) {
        self.piece = self.receive_buffer.len();
        self.wire.capacity = 1 << 30;
    }

    fn turn(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        given: &mut Vec<(usize, Seen)>,
    ) -> Result<(), Broken> {
        self.now += Duration::from_micros(random.below(400).into());
        let now = self.now;
        if random.chance(70) {
            self.receive(oracle, random)?;
        }
        if random.chance(90) {
            self.hand_over(now);
        }
        if self.device.deadline().is_some_and(|deadline| deadline <= now) {
            self.device.handle_deadline(now);
        }
        for _ in 0..random.below(8) {
            let Some(completed) = self.device.poll(now) else { break };
            self.exporter.handle_finished(completed.finished, completed.block);
            oracle.look_at_device()?;
        }
        if self.device.state() == DeviceState::Gone && random.chance(50) {
            self.exporter.handle_device_gone(now);
            oracle.told_gone();
        }
        self.exporter.handle_deadline(now);
        if random.chance(70) {
            self.transmit(oracle, random, given)?;
        }
        // The audit looks at every URB, so it looks at crowded tables less often.
        let crowd = u32::try_from(self.exporter.outstanding() / 16).expect("a bounded table");
        if self.exporter.end().is_none() && random.below(crowd * crowd + 1) == 0 {
            self.exporter.audit()?;
        }
        self.check(oracle)
    }

    fn is_quiet(&self) -> bool {
        self.sending.is_none() && !self.exporter.has_transmit() && self.wire.receivable() == 0
    }

    /// In some order.
    fn dismantle(mut self: Box<Self>, random: &mut Random) -> Result<(), Broken> {
        let now = self.now;
        self.device.close(now);
        let mut lent = self.receive.take();
        if random.chance(50) {
            self.return_lent(lent.take(), random);
        }
        if self.exporter.poll_submission().is_some() {
            return Err("a URB for the device after the end of the session".into());
        }
        let later = now + Duration::from_secs(1);
        while let Some(completed) = self.device.poll(later) {
            self.exporter.handle_finished(completed.finished, completed.block);
        }
        self.return_lent(lent, random);
        if self.device.state() != DeviceState::Closed && self.device.state() != DeviceState::Gone {
            return Err(format!("the device is {:?} after its close", self.device.state()));
        }
        let Self { exporter, device, arena, sending, .. } = *self;
        drop((exporter, device, sending));
        match arena.lent_blocks() {
            0 => Ok(()),
            blocks => Err(format!("{blocks} blocks leaked")),
        }
    }
}

impl Bare {
    /// Starts a receive, or completes it with what the wire has.
    fn receive(&mut self, oracle: &mut Oracle, random: &mut Random) -> Result<(), Broken> {
        if self.exporter.end().is_some() {
            return Ok(());
        }
        let Some(lent) = self.receive.take() else {
            // A driver may do without the block.
            let lent = if random.chance(90) { self.exporter.poll_receive() } else { None };
            self.receive = Some(lent);
            return Ok(());
        };
        let ready = self.wire.receivable();
        if ready == 0 && !self.wire.closed {
            self.receive = Some(lent);
            return Ok(());
        }
        let most = u32::try_from(ready.min(self.piece)).expect("bounded by the piece");
        let count = if ready == 0 { 0 } else { random.between(1, most) as usize };
        if count == 0 {
            oracle.end_of_stream();
        }
        let mut direct = 0;
        let lent = lent.map(|(mut block, range)| {
            direct = count.min(range.len());
            self.wire.receive(&mut block.as_mut()[range.start..range.start + direct]);
            (block, direct)
        });
        let behind = (count - direct).min(self.receive_buffer.len());
        self.wire.receive(&mut self.receive_buffer[..behind]);
        let Self { exporter, device, arena, receive_buffer, now, .. } = self;
        let mut memory = |bytes| device.allocate(arena, bytes);
        exporter.handle_received(lent, &receive_buffer[..behind], &mut memory, *now);
        oracle.taken(direct + behind)?;
        oracle.judge(self.exporter.end(), self.stopped)
    }

    fn hand_over(&mut self, now: Duration) {
        while let Some((submission, block)) = self.exporter.poll_submission() {
            self.device.submit(submission, block, now);
        }
        while let Some(slot) = self.exporter.poll_cancel() {
            self.device.cancel(slot, now);
        }
    }

    fn transmit(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        given: &mut Vec<(usize, Seen)>,
    ) -> Result<(), Broken> {
        if let Some(sending) = &mut self.sending {
            let rest = &sending.bytes[sending.sent..];
            let most = u32::try_from(rest.len()).expect("at most 16 MiB");
            let short = if random.chance(20) { random.between(1, most) } else { most };
            sending.sent += self.wire.send(&rest[..short as usize]);
            if sending.sent == sending.bytes.len() {
                self.sending = None;
            }
            return Ok(());
        }
        let over = self.exporter.end().is_some();
        let wanted = self.exporter.has_transmit();
        let transmit = self.exporter.poll_transmit(&mut self.send_buffer);
        if transmit.is_empty() == wanted {
            return Err(format!("has_transmit says {wanted}, which is not so"));
        }
        if transmit.is_empty() {
            return Ok(());
        }
        if over {
            return Err("an answer after the end of the session".into());
        }
        let mut bytes = self.send_buffer[..transmit.buffered].to_vec();
        let block = transmit.block.map(|(block, range)| {
            bytes.extend_from_slice(&block.as_ref()[range]);
            block
        });
        let seen = oracle.given(&bytes)?;
        if seen.len() != transmit.pdus as usize {
            return Err(format!("{} PDUs in a send of {}", seen.len(), transmit.pdus));
        }
        given.extend(seen);
        self.sending = Some(Sending { bytes, sent: 0, _block: block });
        Ok(())
    }

    /// The session's own books, and those of the oracle.
    fn check(&self, oracle: &Oracle) -> Result<(), Broken> {
        oracle.judge(self.exporter.end(), self.stopped)?;
        if self.exporter.end().is_some() {
            return Ok(());
        }
        let (held, known) = (self.exporter.outstanding(), oracle.outstanding());
        if held == known { Ok(()) } else { Err(format!("{held} URBs in the table, not {known}")) }
    }

    /// A receive that was in flight at the end comes back, perhaps with bytes.
    fn return_lent(&mut self, receive: Option<Option<(Block, Range<usize>)>>, random: &mut Random) {
        let Some(lent) = receive else { return };
        let most = u32::try_from(self.piece).expect("small");
        let lent = lent.map(|(block, range)| {
            let count = range.len().min(random.between(0, most) as usize);
            (block, count)
        });
        let Self { exporter, device, arena, receive_buffer, now, .. } = self;
        let behind = random.below(100) as usize;
        let mut memory = |bytes| device.allocate(arena, bytes);
        exporter.handle_received(lent, &receive_buffer[..behind], &mut memory, *now);
    }
}
