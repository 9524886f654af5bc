//! A device that keeps the promises of [`Device`] and nothing else: it is late, hangs, stalls,
//! moves a part, finishes out of order, loses races against cancels, lies about lengths, and may
//! be unplugged at any time.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use usbip_fast_native::{Arena, Block};

use crate::device::{Completed, Device, DeviceState};
use crate::simulation::pattern::Pattern;
use crate::simulation::random::Random;
use crate::usb::errno::{ECONNRESET, EOVERFLOW, EPIPE, EPROTO, EREMOTEIO, ESHUTDOWN, EXDEV};
use crate::usb::isochronous::{self, PacketDescriptor, packets_mut};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, SETUP_OFFSET, Submission, TransferType,
};

/// What device and checker share.
#[derive(Debug, Default)]
pub struct Notes {
    /// URBs that reached the device and were not looked at by the checker yet, by name.
    pub seen: VecDeque<u32>,
    /// How each URB must be answered, by name, once the device has finished it.
    pub results: BTreeMap<u32, DeviceResult>,
    /// The first broken promise that the device has noticed.
    pub complaint: Option<String>,
    /// Pull the plug at the next call.
    pub unplug: bool,
    /// The device is gone.
    pub gone: bool,
    /// No more delays: whatever is pending ends at once.
    pub hurry: bool,
}

/// What the answer to a URB must be if it is a RET_SUBMIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceResult {
    /// Status.
    pub status: i32,
    /// Bytes.
    pub actual_length: u32,
    /// Actual length and status of each packet.
    pub packets: Vec<(u32, i32)>,
    /// It was stopped before a byte moved, so that RET_UNLINK alone is the answer if the client
    /// had wanted that by then.
    pub stopped: bool,
    /// The session had cancelled it, so the client had.
    pub cancelled: bool,
}

/// How badly a device behaves, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// URBs that end only when cancelled.
    pub hang: u32,
    /// URBs that end with an error.
    pub error: u32,
    /// Results with impossible lengths.
    pub lie: u32,
    /// Allocations refused.
    pub no_memory: u32,
    /// Most microseconds until a URB ends.
    pub latency_us: u32,
    /// Whether an endpoint's URBs end in the order of submission.
    pub ordered: bool,
}

impl Manners {
    /// As the dice fall.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            hang: random.pick(&[0, 0, 2, 10]),
            error: random.pick(&[0, 5, 30]),
            lie: random.pick(&[0, 0, 5]),
            no_memory: random.pick(&[0, 0, 0, 5]),
            latency_us: random.pick(&[1, 300, 3000, 20_000]),
            ordered: random.chance(60),
        }
    }
}

/// The device.
pub struct Chaos {
    notes: Rc<RefCell<Notes>>,
    pattern: Rc<Pattern>,
    manners: Manners,
    random: Random,
    state: DeviceState,
    held: Vec<Held>,
}

struct Held {
    submission: Submission,
    block: Block,
    /// `None`: hangs.
    due: Option<Duration>,
    cancelled: bool,
}

impl Chaos {
    /// A device that notes what it sees in `notes`.
    #[must_use]
    pub fn new(
        notes: Rc<RefCell<Notes>>,
        pattern: Rc<Pattern>,
        manners: Manners,
        random: Random,
    ) -> Self {
        let state = DeviceState::Ready;
        Self { notes, pattern, manners, random, state, held: Vec::new() }
    }

    fn complain(&self, text: String) {
        self.notes.borrow_mut().complaint.get_or_insert(text);
    }

    /// What must hold for a URB on arrival.
    fn inspect(&self, submission: &Submission, block: &[u8]) {
        let slot = submission.slot;
        if self.held.iter().any(|held| held.submission.slot == slot) {
            self.complain(format!("slot {slot} was submitted twice"));
        }
        if let Err(text) = look_at_arrival(submission, block, &self.pattern) {
            self.complain(text);
        }
    }

    /// Unplugs if that is wanted.
    fn look_at_plug(&mut self, now: Duration) {
        let wanted = self.notes.borrow().unplug;
        if wanted && self.state == DeviceState::Ready {
            self.state = DeviceState::Gone;
            self.notes.borrow_mut().gone = true;
            self.end_all(now);
        }
    }

    fn end_all(&mut self, now: Duration) {
        for held in &mut self.held {
            held.cancelled = true;
            held.due = Some(now);
        }
    }

    /// The URBs that may end when they are due, with their index.
    fn free(&self) -> impl Iterator<Item = (usize, &Held)> {
        let mut blocked = 0_u64;
        self.held.iter().enumerate().filter(move |(_, held)| {
            let Submission { endpoint, direction, .. } = held.submission;
            let inward = direction == Direction::In && endpoint != 0;
            let bit = 1_u64 << (u32::from(endpoint) * 2 + u32::from(inward));
            let free = !self.manners.ordered || held.cancelled || blocked & bit == 0;
            blocked |= bit;
            free
        })
    }

    /// Index of a URB that may end now.
    fn ripe(&self, now: Duration) -> Option<usize> {
        let hurry = self.notes.borrow().hurry;
        let mut free = self.free();
        let ripe = free.find(|(_, held)| hurry || held.due.is_some_and(|due| due <= now));
        ripe.map(|(index, _)| index)
    }

    /// Does the transfer, or a part of it.
    fn finish(&mut self, held: Held) -> Completed {
        let Held { submission, mut block, cancelled, .. } = held;
        let (status, share) = self.fate(&submission, cancelled);
        let result = match submission.packets {
            0 => self.move_bytes(&submission, block.as_mut(), status, share),
            _ => self.move_packets(&submission, block.as_mut(), status, share),
        };
        let (finished, expected) = result;
        self.notes.borrow_mut().results.insert(submission.start_frame, expected);
        Completed { finished, block }
    }

    /// Status, and how many percent of the bytes move.
    fn fate(&mut self, submission: &Submission, cancelled: bool) -> (i32, u32) {
        if self.state == DeviceState::Gone {
            return (-ESHUTDOWN, 0);
        }
        let part = self.random.pick(&[0, 0, 0, 1, 50, 99, 100]);
        if cancelled && !self.random.chance(20) {
            // A request that takes effect either does so or not at all.
            return match submission.kind {
                TransferType::Control => (-ECONNRESET, 0),
                _ => (-ECONNRESET, part),
            };
        }
        if self.random.chance(self.manners.error) {
            return (self.random.pick(&[-EPIPE, -EPROTO, -EOVERFLOW, -EREMOTEIO]), part);
        }
        (0, self.random.pick(&[100, 100, 100, 100, 0, 50, 99]))
    }

    fn move_bytes(
        &mut self,
        submission: &Submission,
        block: &mut [u8],
        status: i32,
        share: u32,
    ) -> (Finished, DeviceResult) {
        let Submission { slot, start_frame: name, length, .. } = *submission;
        let actual =
            u32::try_from(u64::from(length) * u64::from(share) / 100).expect("a part of 32 bits");
        if submission.direction == Direction::In {
            let size = actual as usize;
            block[BUFFER_OFFSET..BUFFER_OFFSET + size]
                .copy_from_slice(self.pattern.slice(name, 0, size));
        }
        let mut finished = Finished { slot, status, actual_length: actual, error_count: 0 };
        let mut expected = DeviceResult {
            status,
            actual_length: actual,
            packets: Vec::new(),
            stopped: status == -ECONNRESET && actual == 0,
            cancelled: true,
        };
        if status == 0 && self.random.chance(self.manners.lie) {
            finished.actual_length = length.saturating_add(self.random.pick(&[1, 1000, u32::MAX]));
            expected.status = -EOVERFLOW;
            expected.actual_length = 0;
        }
        (finished, expected)
    }

    fn move_packets(
        &mut self,
        submission: &Submission,
        block: &mut [u8],
        status: i32,
        share: u32,
    ) -> (Finished, DeviceResult) {
        let Submission { slot, start_frame: name, length, packets, .. } = *submission;
        let area = &mut block[BUFFER_OFFSET..];
        let (buffer, behind) = area.split_at_mut(length as usize);
        let descriptors = packets_mut(&mut behind[..packets as usize * ISO_PACKET_BYTES]);
        let done = u64::from(packets) * u64::from(share) / 100;
        let mut expected = DeviceResult {
            status,
            actual_length: 0,
            packets: Vec::new(),
            stopped: false,
            cancelled: true,
        };
        for (index, descriptor) in (0_u64..).zip(descriptors.iter_mut()) {
            let asked = descriptor.length.get();
            let (moved, status) = if index >= done {
                (0, -EXDEV)
            } else if self.random.chance(self.manners.error) {
                (asked / 2, -EPROTO)
            } else {
                (self.random.pick(&[asked, asked, asked, asked / 3, 0]), 0)
            };
            if submission.direction == Direction::In {
                let (start, size) = (descriptor.offset.get() as usize, moved as usize);
                buffer[start..start + size].copy_from_slice(self.pattern.slice(name, start, size));
            }
            descriptor.actual_length = moved.into();
            descriptor.status = status.into();
            let lies = status == 0 && self.random.chance(self.manners.lie);
            let (moved, status) = if lies { (0, -EOVERFLOW) } else { (moved, status) };
            if lies {
                descriptor.actual_length = asked.saturating_add(1).into();
            }
            expected.packets.push((moved, status));
            expected.actual_length += moved;
        }
        expected.stopped = status == -ECONNRESET && expected.actual_length == 0;
        let actual_length = expected.actual_length;
        (Finished { slot, status, actual_length, error_count: 0 }, expected)
    }
}

/// What must hold for every URB that reaches a device.
///
/// # Errors
///
/// What does not, for people.
pub fn look_at_arrival(
    submission: &Submission,
    block: &[u8],
    pattern: &Pattern,
) -> Result<(), String> {
    let Submission { start_frame: name, length, packets, .. } = *submission;
    let (buffer, behind) = block[BUFFER_OFFSET..].split_at(length as usize);
    let outward = submission.direction == Direction::Out;
    if outward && buffer != pattern.slice(name, 0, buffer.len()) {
        return Err(format!("the OUT data of URB {name} is not what was sent"));
    }
    let control = submission.kind == TransferType::Control;
    if control && block[SETUP_OFFSET..BUFFER_OFFSET] != submission.setup {
        return Err(format!("the setup packet of URB {name} does not stand before its data"));
    }
    if packets > 0 && submission.kind != TransferType::Isochronous {
        return Err(format!("URB {name} has packets but is not isochronous"));
    }
    let descriptors = isochronous::packets(&behind[..packets as usize * ISO_PACKET_BYTES]);
    match bad_layout(descriptors, length) {
        Some(text) => Err(format!("URB {name}: {text}")),
        None => Ok(()),
    }
}

/// The rules of B21, told in another way than the code under test tells them.
fn bad_layout(packets: &[PacketDescriptor], length: u32) -> Option<&'static str> {
    if packets.first().is_some_and(|first| first.offset.get() != 0) {
        return Some("the first packet is not at 0");
    }
    let mut end = 0_u64;
    for packet in packets {
        let (offset, bytes) = (u64::from(packet.offset.get()), u64::from(packet.length.get()));
        if offset < end {
            return Some("packets overlap");
        }
        end = offset + bytes;
    }
    (end > u64::from(length)).then_some("packets lie beyond the buffer")
}

impl Device for Chaos {
    fn state(&self) -> DeviceState {
        self.state.clone()
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        if self.random.chance(self.manners.no_memory) {
            return None;
        }
        arena.take(bytes).map(Block::from)
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        self.look_at_plug(now);
        self.inspect(&submission, block.as_ref());
        self.notes.borrow_mut().seen.push_back(submission.start_frame);
        let hangs = self.random.chance(self.manners.hang);
        let latency = Duration::from_micros(self.random.below(self.manners.latency_us).into());
        let due = (!hangs || self.state != DeviceState::Ready).then_some(now + latency);
        self.held.push(Held { submission, block, due, cancelled: false });
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.look_at_plug(now);
        let latency = Duration::from_micros(self.random.pick(&[0, 0, 50, 2000]));
        let held = self.held.iter_mut().find(|held| held.submission.slot == slot);
        if let Some(held) = held {
            held.cancelled = true;
            held.due = Some(now + latency);
        }
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.look_at_plug(now);
        if let Some(index) = self.ripe(now) {
            let held = self.held.remove(index);
            return Some(self.finish(held));
        }
        if self.state == DeviceState::Closing && self.held.is_empty() {
            self.state = DeviceState::Closed;
        }
        None
    }

    fn deadline(&self) -> Option<Duration> {
        self.free().filter_map(|(_, held)| held.due).min()
    }

    fn close(&mut self, now: Duration) {
        if !matches!(self.state, DeviceState::Closing | DeviceState::Closed) {
            self.state = DeviceState::Closing;
            self.end_all(now);
        }
    }
}
