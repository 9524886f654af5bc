//! The two ends of a session in one place: client, exporter, device and memory, without any IO.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use usbip_fast::limits;
use usbip_fast::session::exporter::{Exporter, SessionEnd};
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::isochronous::{self, PacketDescriptor};
use usbip_fast::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferType,
};
use usbip_fast::wire::urb::{self, CmdSubmit, CmdUnlink, HEADER_BYTES, Reply};

/// What the peer must name.
pub const DEVICE_ID: u32 = 0x0002_0003;

/// The device's endpoints, by number; each has an OUT and an IN side but the last.
pub const BULK: u8 = 1;
pub const INTERRUPT: u8 = 2;
pub const ISOCHRONOUS: u8 = 3;
/// In alternate settings 1 (bulk IN) and 2 (isochronous IN) of interface 1 only.
pub const CHANGING: u8 = 4;
/// A number that no configuration has.
pub const UNKNOWN: u8 = 9;

/// A session with all that stands around it.
pub struct Pair {
    pub now: Duration,
    pub exporter: Exporter<Memory>,
    pub device: ScriptedDevice,
    pub giver: Giver,
    /// What the client has out, to know what follows a reply's header.
    requests: HashMap<u32, (Direction, u32)>,
    received: Vec<u8>,
    send_buffer: Vec<u8>,
    /// How the client's bytes are cut: into the awaited block first, then behind it.
    pub delivery: Delivery,
}

/// How received bytes reach the session.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Bytes of one receive operation.
    pub piece: usize,
    /// Whether a receive goes straight into the block that the session lends.
    pub direct: bool,
}

/// A device that holds what it is given until the test finishes it.
#[derive(Default)]
pub struct ScriptedDevice {
    pub held: Vec<(Submission, Memory)>,
    /// Names (see [`Pair::submit`]) of the URBs that it was asked to cancel, in order.
    pub cancelled: Vec<u32>,
    /// Names of all URBs that it was given, in order.
    pub seen: Vec<u32>,
}

/// Gives memory, counts it, and refuses when told to.
#[derive(Default)]
pub struct Giver {
    live: Rc<Cell<usize>>,
    /// Requests of at least this many bytes are refused.
    pub refuse_from: Option<usize>,
}

/// A counted block.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    live: Rc<Cell<usize>>,
}

/// A CMD_SUBMIT to be: its header, its payload and its packets.
#[derive(Clone, Debug)]
pub struct Submit {
    pub command: CmdSubmit,
    pub payload: Vec<u8>,
    pub packets: Vec<(u32, u32)>,
}

/// One answer as the client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Submit {
        seqnum: u32,
        status: i32,
        actual_length: i32,
        number_of_packets: i32,
        error_count: u32,
        payload: Vec<u8>,
        /// Offset, length, actual length, status.
        packets: Vec<(u32, u32, u32, i32)>,
    },
    Unlink {
        seqnum: u32,
        status: i32,
    },
}

/// What matters of an answer in most tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brief {
    /// RET_SUBMIT: seqnum, status, actual length.
    Ret(u32, i32, i32),
    /// RET_UNLINK: seqnum, status.
    Unlinked(u32, i32),
}

pub use Brief::{Ret, Unlinked};

impl Pair {
    pub fn new() -> Self {
        Self::with_delivery(Delivery { piece: usize::MAX, direct: true })
    }

    pub fn with_delivery(delivery: Delivery) -> Self {
        Self {
            now: Duration::ZERO,
            exporter: Exporter::new(DEVICE_ID, EndpointMap::new(&descriptors(), 1)),
            device: ScriptedDevice::default(),
            giver: Giver::default(),
            requests: HashMap::new(),
            received: Vec::new(),
            send_buffer: vec![0; limits::SEND_BUFFER_BYTES],
            delivery,
        }
    }

    /// Sends a CMD_SUBMIT and hands over to the device what the session lets through.
    pub fn submit(&mut self, submit: &Submit) {
        let bytes = self.note(submit);
        self.send(&bytes);
    }

    /// The bytes of a CMD_SUBMIT that is sent by other means.
    pub fn note(&mut self, submit: &Submit) -> Vec<u8> {
        let CmdSubmit { seqnum, direction, .. } = submit.command;
        self.requests.insert(seqnum, (direction, submit.packets.len() as u32));
        submit.bytes()
    }

    pub fn unlink(&mut self, seqnum: u32, target: u32) {
        self.send(&unlink_bytes(seqnum, target));
    }

    /// Everything of `bytes` arrives, cut as [`Delivery`] says.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && self.exporter.end().is_none() {
            let taken = self.receive(rest);
            rest = &rest[taken..];
            self.hand_over();
        }
    }

    /// The client closes its side.
    pub fn close(&mut self) {
        let lent = self.exporter.poll_receive().map(|(block, _)| (block, 0));
        self.exporter.handle_received(lent, &[], &mut self.giver, self.now);
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let Delivery { piece, direct } = self.delivery;
        let count = piece.min(bytes.len()).min(limits::RECEIVE_BUFFER_BYTES);
        let lent = if direct { self.exporter.poll_receive() } else { None };
        let Some((mut block, range)) = lent else {
            self.exporter.handle_received(None, &bytes[..count], &mut self.giver, self.now);
            return count;
        };
        // As one readv: the block's range first, the buffer behind it.
        let into_block = piece.min(bytes.len()).min(range.len());
        let behind = (piece - into_block).min(bytes.len() - into_block);
        let behind = behind.min(limits::RECEIVE_BUFFER_BYTES);
        let start = range.start;
        block.bytes[start..start + into_block].copy_from_slice(&bytes[..into_block]);
        let total = into_block + behind;
        let lent = Some((block, into_block));
        self.exporter.handle_received(lent, &bytes[into_block..total], &mut self.giver, self.now);
        total
    }

    /// URBs and cancels go to the device.
    pub fn hand_over(&mut self) {
        while let Some((submission, block)) = self.exporter.poll_submission() {
            self.device.seen.push(submission.start_frame);
            self.device.held.push((submission, block));
        }
        while let Some(slot) = self.exporter.poll_cancel() {
            let held = self.device.held.iter().find(|(submission, _)| submission.slot == slot);
            self.device.cancelled.push(held.expect("only what is in flight").0.start_frame);
        }
    }

    /// The device finishes the URB of `seqnum`; IN data is filled with the seqnum's low byte.
    pub fn finish(&mut self, seqnum: u32, status: i32, actual_length: u32) {
        self.finish_with(seqnum, |submission, block| {
            let length = submission.length.min(actual_length) as usize;
            if submission.direction == Direction::In {
                block[BUFFER_OFFSET..BUFFER_OFFSET + length].fill(seqnum as u8);
            }
            (status, actual_length)
        });
    }

    /// The device finishes a URB as `work` says: status and length.
    pub fn finish_with(
        &mut self,
        seqnum: u32,
        work: impl FnOnce(&Submission, &mut [u8]) -> (i32, u32),
    ) {
        let is_it = |(submission, _): &(Submission, Memory)| submission.start_frame == seqnum;
        let at = self.device.held.iter().position(is_it).expect("the device has it");
        let (submission, mut block) = self.device.held.remove(at);
        let (status, actual_length) = work(&submission, &mut block.bytes);
        let finished = Finished { slot: submission.slot, status, actual_length, error_count: 0 };
        self.exporter.handle_finished(finished, block);
        self.hand_over();
    }

    /// One send of the session, as raw bytes; empty if it has nothing.
    pub fn transmit(&mut self) -> Vec<u8> {
        let transmit = self.exporter.poll_transmit(&mut self.send_buffer);
        let mut bytes = self.send_buffer[..transmit.buffered].to_vec();
        if let Some((block, Range { start, end })) = transmit.block {
            bytes.extend_from_slice(&block.bytes[start..end]);
        }
        bytes
    }

    /// The client reads all there is.
    pub fn answers(&mut self) -> Vec<Answer> {
        loop {
            let bytes = self.transmit();
            if bytes.is_empty() {
                break;
            }
            self.received.extend_from_slice(&bytes);
        }
        self.parse_received()
    }

    /// The client reads one send.
    pub fn answers_of_one_send(&mut self) -> Vec<Answer> {
        let bytes = self.transmit();
        self.received.extend_from_slice(&bytes);
        self.parse_received()
    }

    pub fn briefs(&mut self) -> Vec<Brief> {
        self.answers().iter().map(Answer::brief).collect()
    }

    fn parse_received(&mut self) -> Vec<Answer> {
        let received = std::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        let mut answers = Vec::new();
        while !rest.is_empty() {
            answers.push(parse_answer(&mut rest, |seqnum| self.requests[&seqnum]));
        }
        answers
    }

    pub fn end(&self) -> Option<&SessionEnd> {
        self.exporter.end()
    }

    pub fn live_blocks(&self) -> usize {
        self.giver.live.get()
    }
}

/// Every test ends with: no block is anywhere but with the device and the session.
impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.exporter.stop(SessionEnd::Local("the test is over".into()));
        for (submission, block) in self.device.held.drain(..) {
            let slot = submission.slot;
            let finished = Finished { slot, status: -108, actual_length: 0, error_count: 0 };
            self.exporter.handle_finished(finished, block);
        }
        self.exporter = Exporter::new(DEVICE_ID, EndpointMap::new(&[], 0));
        assert_eq!(self.giver.live.get(), 0, "blocks leaked");
    }
}

/// Reads one answer off the front; `request` gives direction and packets of a CMD_SUBMIT.
pub fn parse_answer(rest: &mut &[u8], request: impl Fn(u32) -> (Direction, u32)) -> Answer {
    let header: &[u8; HEADER_BYTES] = rest.first_chunk().expect("a whole header");
    *rest = &rest[HEADER_BYTES..];
    match urb::parse_reply(header).expect("a known command") {
        Reply::Unlink(unlink) => Answer::Unlink { seqnum: unlink.seqnum, status: unlink.status },
        Reply::Submit(ret) => {
            let (direction, packets) = request(ret.seqnum);
            let payload = if direction == Direction::In { ret.actual_length as usize } else { 0 };
            let packets = if packets == 0 { 0 } else { ret.number_of_packets as usize };
            let (payload, behind) = rest.split_at(payload);
            let (descriptors, behind) = behind.split_at(packets * ISO_PACKET_BYTES);
            *rest = behind;
            Answer::Submit {
                seqnum: ret.seqnum,
                status: ret.status,
                actual_length: ret.actual_length,
                number_of_packets: ret.number_of_packets,
                error_count: ret.error_count,
                payload: payload.to_vec(),
                packets: isochronous::packets(descriptors)
                    .iter()
                    .map(|p| {
                        (p.offset.get(), p.length.get(), p.actual_length.get(), p.status.get())
                    })
                    .collect(),
            }
        }
    }
}

pub fn unlink_bytes(seqnum: u32, target: u32) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES];
    CmdUnlink { seqnum, device_id: DEVICE_ID, unlink_seqnum: target }.emit(&mut header);
    header.to_vec()
}

impl Submit {
    /// Its name at the device is the seqnum, carried in `start_frame`.
    pub fn new(seqnum: u32, endpoint: u8, direction: Direction, length: u32) -> Self {
        let command = CmdSubmit {
            seqnum,
            device_id: DEVICE_ID,
            direction,
            endpoint,
            transfer_flags: 0,
            buffer_length: length,
            start_frame: seqnum,
            number_of_packets: 0,
            interval: 0,
            setup: [0; 8],
        };
        let payload = match direction {
            Direction::Out => (0..length).map(|at| (at ^ seqnum) as u8).collect(),
            Direction::In => Vec::new(),
        };
        Self { command, payload, packets: Vec::new() }
    }

    pub fn input(seqnum: u32, endpoint: u8, length: u32) -> Self {
        Self::new(seqnum, endpoint, Direction::In, length)
    }

    pub fn output(seqnum: u32, endpoint: u8, length: u32) -> Self {
        Self::new(seqnum, endpoint, Direction::Out, length)
    }

    pub fn control_in(seqnum: u32, length: u16) -> Self {
        let [low, high] = length.to_le_bytes();
        let mut submit = Self::input(seqnum, 0, length.into());
        submit.command.setup = [0x80, 6, 0, 1, 0, 0, low, high];
        submit
    }

    /// A control request without a data stage.
    pub fn control(seqnum: u32, setup: [u8; 8]) -> Self {
        let mut submit = Self::output(seqnum, 0, 0);
        submit.command.setup = setup;
        submit
    }

    /// Packets as (offset, length).
    pub fn iso(seqnum: u32, direction: Direction, length: u32, packets: &[(u32, u32)]) -> Self {
        let mut submit = Self::new(seqnum, ISOCHRONOUS, direction, length);
        submit.command.number_of_packets = packets.len() as i32;
        submit.packets = packets.to_vec();
        submit
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        self.command.emit(&mut header);
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(&self.payload);
        for &(offset, length) in &self.packets {
            let mut descriptor = PacketDescriptor::new(offset, length);
            // As Linux sends them.
            descriptor.status = (-18).into();
            bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&descriptor));
        }
        bytes
    }
}

impl Answer {
    pub fn brief(&self) -> Brief {
        match *self {
            Self::Submit { seqnum, status, actual_length, .. } => {
                Ret(seqnum, status, actual_length)
            }
            Self::Unlink { seqnum, status } => Unlinked(seqnum, status),
        }
    }
}

impl usbip_fast::session::Memory<Memory> for Giver {
    fn allocate(&mut self, bytes: usize) -> Option<Memory> {
        if self.refuse_from.is_some_and(|from| bytes >= from) {
            return None;
        }
        self.live.set(self.live.get() + 1);
        // Whatever the last owner left.
        Some(Memory { bytes: vec![0xa5; bytes], live: Rc::clone(&self.live) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.live.set(self.live.get() - 1);
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Device descriptor and two configurations; the second has one interrupt endpoint, 0x81.
pub fn descriptors() -> Vec<u8> {
    let first = configuration(
        1,
        2,
        &[
            &interface(0, 0, 6),
            &endpoint(0x81, TransferType::Bulk),
            &endpoint(0x01, TransferType::Bulk),
            &endpoint(0x82, TransferType::Interrupt),
            &endpoint(0x02, TransferType::Interrupt),
            &endpoint(0x83, TransferType::Isochronous),
            &endpoint(0x03, TransferType::Isochronous),
            &interface(1, 0, 0),
            &interface(1, 1, 1),
            &endpoint(0x84, TransferType::Bulk),
            &interface(1, 2, 1),
            &endpoint(0x84, TransferType::Isochronous),
        ],
    );
    let second =
        configuration(2, 1, &[&interface(0, 0, 1), &endpoint(0x81, TransferType::Interrupt)]);
    let mut all = vec![18, 1, 0, 2, 0, 0, 0, 64, 0x25, 0x05, 0xa0, 0xa4, 0, 1, 0, 0, 0, 2];
    all.extend(first);
    all.extend(second);
    all
}

fn configuration(value: u8, interfaces: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let [low, high] = ((9 + body.len()) as u16).to_le_bytes();
    [&[9, 2, low, high, interfaces, value, 0, 0x80, 50], body.as_slice()].concat()
}

fn interface(number: u8, alternate: u8, endpoints: u8) -> Vec<u8> {
    vec![9, 4, number, alternate, endpoints, 0xff, 0, 0, 0]
}

fn endpoint(address: u8, kind: TransferType) -> Vec<u8> {
    let attributes = match kind {
        TransferType::Control => 0,
        TransferType::Isochronous => 1,
        TransferType::Bulk => 2,
        TransferType::Interrupt => 3,
    };
    vec![7, 5, address, attributes, 0, 2, 1]
}
