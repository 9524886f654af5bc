//! Operations on the exporting session in any order: PDUs of a client, pieces of its stream, what
//! the device does, sends, and ends. The simulator's oracle checks every answer as long as it can
//! know what the stream means; the books of the session and the count of blocks are checked always.
//!
//! Input: operations of one byte, each followed by its own arguments (see `Harness::step`).

#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use usbip_fast::limits;
use usbip_fast::session::Memory;
use usbip_fast::session::exporter::{Exporter, SessionEnd};
use usbip_fast::simulation::chaos::{DeviceResult, Notes};
use usbip_fast::simulation::descriptors::{DEVICE_ID, descriptors};
use usbip_fast::simulation::oracle::Oracle;
use usbip_fast::simulation::pattern::Pattern;
use usbip_fast::simulation::plan::{Pdu, Plan};
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::isochronous::{PacketDescriptor, packets_mut, validate_layout};
use usbip_fast::usb::setup::{Setup, StandardRequest};
use usbip_fast::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferType,
};

thread_local! {
    /// Made once: it is the same for all inputs.
    static PATTERN: Rc<Pattern> = Rc::new(Pattern::new());
}

fuzz_target!(|input: &[u8]| {
    let mut harness = Harness::new();
    let mut rest = Arguments(input);
    while let Some(operation) = rest.next() {
        harness.step(operation, &mut rest);
        harness.check();
    }
    harness.wind_down();
});

/// What is left of the input.
struct Arguments<'a>(&'a [u8]);

impl Arguments<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

/// Counts what it gives.
#[derive(Default)]
struct Giver {
    live: Rc<Cell<usize>>,
    refuses: bool,
}

struct Counted(Vec<u8>, Rc<Cell<usize>>);

impl Memory<Counted> for Giver {
    fn allocate(&mut self, bytes: usize) -> Option<Counted> {
        if self.refuses {
            return None;
        }
        self.live.set(self.live.get() + 1);
        Some(Counted(vec![0xa5; bytes], Rc::clone(&self.live)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.set(self.1.get() - 1);
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

struct Harness {
    exporter: Exporter<Counted>,
    giver: Giver,
    oracle: Oracle,
    notes: Rc<RefCell<Notes>>,
    pattern: Rc<Pattern>,
    endpoints: EndpointMap,
    held: Vec<(Submission, Counted)>,
    /// Slots that the device was asked to cancel.
    cancelled: Vec<u32>,
    stream: VecDeque<u8>,
    send_buffer: Vec<u8>,
    next_seqnum: u32,
    early_unlinks: u32,
    /// The oracle no longer knows what the stream means.
    lost: bool,
    stopped: bool,
}

impl Harness {
    fn new() -> Self {
        let pattern = PATTERN.with(Rc::clone);
        let notes = Rc::new(RefCell::new(Notes::default()));
        let mut oracle = Oracle::new(Rc::clone(&notes), Rc::clone(&pattern));
        oracle.may_overload = true;
        oracle.may_refuse_memory = true;
        let endpoints = EndpointMap::new(&descriptors(), 1);
        Self {
            exporter: Exporter::new(DEVICE_ID, endpoints.clone()),
            giver: Giver::default(),
            oracle,
            notes,
            pattern,
            endpoints,
            held: Vec::new(),
            cancelled: Vec::new(),
            stream: VecDeque::new(),
            send_buffer: vec![0; limits::SEND_BUFFER_BYTES],
            next_seqnum: 1,
            early_unlinks: 0,
            lost: false,
            stopped: false,
        }
    }

    fn step(&mut self, operation: u8, rest: &mut Arguments<'_>) {
        match operation % 16 {
            0..=4 => self.submit(rest),
            5 | 6 => self.unlink(rest.byte()),
            7 | 8 => self.deliver(1 + usize::from(rest.byte()) * 8, operation & 0x80 == 0),
            9 | 10 => self.finish(rest),
            11 => self.hand_over(),
            12 | 13 => self.transmit(),
            14 => {
                let bytes: Vec<u8> = (0..rest.byte() % 64).map(|_| rest.byte()).collect();
                self.lost |= !bytes.is_empty();
                self.stream.extend(bytes);
            }
            _ => match rest.byte() % 8 {
                0 => {
                    self.exporter.handle_device_gone(Duration::ZERO);
                    self.oracle.told_gone();
                }
                1 => {
                    self.stopped = true;
                    self.exporter.stop(SessionEnd::Local("told to".into()));
                }
                2..=4 => self.giver.refuses = !self.giver.refuses,
                _ => self.deliver(usize::MAX, true),
            },
        }
    }

    /// Endpoint and shape, length, then what the type asks for.
    fn submit(&mut self, rest: &mut Arguments<'_>) {
        let shape = rest.byte();
        let direction = if shape & 0x10 == 0 { Direction::Out } else { Direction::In };
        let endpoint = shape & 7;
        let length = u32::from(rest.word() % 9000);
        let mut plan = Plan {
            seqnum: self.next_seqnum,
            endpoint,
            direction,
            kind: self.endpoints.kind(endpoint, direction),
            length,
            number_of_packets: i32::from(shape >> 5) - 4,
            packets: Vec::new(),
            setup: [0; 8],
            invalid: false,
        };
        self.next_seqnum += 1;
        match plan.kind {
            Some(TransferType::Control) => set_up(&mut plan, rest),
            Some(TransferType::Isochronous) => lay_out(&mut plan, rest),
            _ => {}
        }
        self.send(Pdu::Submit(Box::new(plan)));
    }

    fn unlink(&mut self, which: u8) {
        let seqnum = self.next_seqnum;
        self.next_seqnum += 1;
        // Mostly one of the last, sometimes one that is still to come, or never comes.
        let target = if which < 0xe0 {
            seqnum.wrapping_sub(u32::from(which) + 1)
        } else {
            self.early_unlinks += 1;
            self.lost |= self.early_unlinks > 50;
            self.next_seqnum -= 1;
            seqnum
        };
        let own = if target == seqnum { 1_000_000 + self.early_unlinks } else { seqnum };
        self.send(Pdu::Unlink { seqnum: own, target });
    }

    fn send(&mut self, pdu: Pdu) {
        self.stream.extend(pdu.bytes(&self.pattern));
        let size = pdu.wire_bytes();
        self.oracle.sent(pdu, size);
    }

    fn deliver(&mut self, count: usize, direct: bool) {
        if self.exporter.end().is_some() || self.stream.is_empty() {
            return;
        }
        let bytes: Vec<u8> = self.stream.drain(..count.min(self.stream.len())).collect();
        let mut taken = 0;
        let lent = if direct { self.exporter.poll_receive() } else { None };
        let lent = lent.map(|(mut block, range)| {
            taken = range.len().min(bytes.len());
            block.0[range.start..range.start + taken].copy_from_slice(&bytes[..taken]);
            (block, taken)
        });
        self.exporter.handle_received(lent, &bytes[taken..], &mut self.giver, Duration::ZERO);
        if !self.lost {
            self.oracle.taken(bytes.len()).expect("the oracle");
        }
    }

    fn hand_over(&mut self) {
        while let Some((submission, block)) = self.exporter.poll_submission() {
            let Submission { start_frame: name, direction, length, .. } = submission;
            let size = length as usize;
            if direction == Direction::Out && !self.lost {
                let data = &block.0[BUFFER_OFFSET..BUFFER_OFFSET + size];
                assert_eq!(data, self.pattern.slice(name, 0, size));
            }
            self.notes.borrow_mut().seen.push_back(name);
            self.held.push((submission, block));
        }
        while let Some(slot) = self.exporter.poll_cancel() {
            let held = self.held.iter().any(|(submission, _)| submission.slot == slot);
            assert!(held, "only what the device has is cancelled");
            self.cancelled.push(slot);
        }
    }

    /// Which URB, its status, its length, and how its packets fared.
    fn finish(&mut self, rest: &mut Arguments<'_>) {
        self.hand_over();
        if self.held.is_empty() {
            return;
        }
        let index = usize::from(rest.byte()) % self.held.len();
        let status = [0, 0, 0, 0, -104, -104, -32, -71][usize::from(rest.byte() % 8)];
        let actual = u32::from(rest.word());
        let salt = rest.byte();
        self.finish_one(index, status, actual, salt);
    }

    fn finish_one(&mut self, index: usize, status: i32, actual: u32, salt: u8) {
        let (submission, mut block) = self.held.remove(index);
        let Submission { slot, start_frame: name, kind, length, packets, .. } = submission;
        // A device stops only what it was asked to stop.
        let cancelled = self.cancelled.contains(&slot);
        self.cancelled.retain(|&other| other != slot);
        let status = if status == -104 && !cancelled { -71 } else { status };
        let (finished, result) = match packets {
            0 => {
                let fits = actual <= length;
                let size = if fits { actual as usize } else { 0 };
                block.0[BUFFER_OFFSET..BUFFER_OFFSET + size]
                    .copy_from_slice(self.pattern.slice(name, 0, size));
                let result = DeviceResult {
                    status: if fits { status } else { -75 },
                    actual_length: size as u32,
                    packets: Vec::new(),
                    stopped: fits && status == -104 && size == 0,
                    cancelled,
                };
                (Finished { slot, status, actual_length: actual, error_count: 0 }, result)
            }
            _ => move_packets(&self.pattern, &submission, &mut block, status, salt),
        };
        if kind == TransferType::Control && result.status == 0 {
            self.follow(Setup::from_bytes(submission.setup));
        }
        self.notes.borrow_mut().results.insert(name, result);
        self.exporter.handle_finished(finished, block);
    }

    fn follow(&mut self, setup: Setup) {
        match setup.classify() {
            StandardRequest::SetConfiguration(value) => self.endpoints.set_configuration(value),
            StandardRequest::SetInterface { interface, alternate } => {
                self.endpoints.set_interface(interface, alternate);
            }
            _ => return,
        }
        // What is on its way, or waits in another lane, was planned for the endpoints as they were.
        self.lost |= !self.stream.is_empty() || self.exporter.outstanding() > 1;
    }

    fn transmit(&mut self) {
        let over = self.exporter.end().is_some();
        let transmit = self.exporter.poll_transmit(&mut self.send_buffer);
        let mut bytes = self.send_buffer[..transmit.buffered].to_vec();
        if let Some((block, range)) = transmit.block {
            bytes.extend_from_slice(&block.0[range]);
        }
        assert!(!over || bytes.is_empty(), "nothing leaves after the end");
        if !self.lost {
            let seen = self.oracle.given(&bytes).expect("the oracle");
            assert_eq!(seen.len(), transmit.pdus as usize);
        }
    }

    fn check(&mut self) {
        if self.exporter.end().is_none() {
            self.exporter.audit().expect("the books");
        }
        if !self.lost {
            self.oracle.look_at_device().expect("the oracle");
            self.oracle.judge(self.exporter.end(), self.stopped).expect("the oracle");
        }
    }

    fn wind_down(mut self) {
        self.giver.refuses = false;
        self.deliver(usize::MAX, false);
        self.hand_over();
        while let Some((submission, _)) = self.held.first() {
            let length = submission.length;
            self.finish_one(0, 0, length, 0);
            self.check();
        }
        // What was withdrawn early and never came is answered when nobody waits for it any more.
        if let Some(deadline) = self.exporter.deadline() {
            self.exporter.handle_deadline(deadline);
        }
        while self.exporter.has_transmit() {
            self.transmit();
            self.check();
        }
        if self.exporter.end().is_none() && !self.lost {
            self.oracle.check_all_answered().expect("the oracle");
        }
        let Self { exporter, giver, .. } = self;
        drop(exporter);
        assert_eq!(giver.live.get(), 0, "a block is lost");
    }
}

/// A vendor request, or one that changes the endpoints; or one whose length is wrong.
fn set_up(plan: &mut Plan, rest: &mut Arguments<'_>) {
    let what = rest.byte();
    let request_type = if plan.direction == Direction::In { 0xc0 } else { 0x40 };
    let mut setup = Setup { request_type, request: 0x5b, value: 0, index: 0, length: 0 };
    match what % 8 {
        0 | 1 => {
            plan.length = 0;
            setup.request_type = what & 1;
            setup.request = if what & 1 == 0 { 9 } else { 11 };
            setup.value = u16::from(what >> 3) % 4;
            setup.index = what.into();
        }
        2 => {
            plan.invalid = true;
            setup.length = plan.length as u16 ^ 1;
        }
        _ => setup.length = plan.length as u16,
    }
    plan.setup = setup.to_bytes();
}

/// Gap and length of each packet, a byte each; the sum may be too much.
fn lay_out(plan: &mut Plan, rest: &mut Arguments<'_>) {
    let count = rest.byte() % 20;
    let mut at = 0;
    for _ in 0..count {
        let (gap, length) = (u32::from(rest.byte() / 32), u32::from(rest.byte()));
        plan.packets.push((at + gap, length));
        at += gap + length;
    }
    let layout: Vec<_> =
        plan.packets.iter().map(|&(at, length)| PacketDescriptor::new(at, length)).collect();
    plan.invalid = validate_layout(&layout, plan.length).is_err();
    plan.number_of_packets = if count == 0 { -1 } else { i32::from(count) };
}

/// Packets moved in full, in part or not at all, as the bits of `salt` say.
fn move_packets(
    pattern: &Pattern,
    submission: &Submission,
    block: &mut Counted,
    status: i32,
    salt: u8,
) -> (Finished, DeviceResult) {
    let Submission { slot, start_frame: name, length, packets, .. } = *submission;
    let (buffer, behind) = block.0[BUFFER_OFFSET..].split_at_mut(length as usize);
    let descriptors = packets_mut(&mut behind[..packets as usize * ISO_PACKET_BYTES]);
    let packets = Vec::new();
    // Only what was cancelled has the status of it.
    let mut result =
        DeviceResult { status, actual_length: 0, packets, stopped: false, cancelled: true };
    for (index, descriptor) in descriptors.iter_mut().enumerate() {
        let (offset, asked) = (descriptor.offset.get() as usize, descriptor.length.get());
        let (moved, status) = match salt.rotate_left(index as u32) & 3 {
            0 => (asked, 0),
            1 => (asked / 2, 0),
            2 => (0, -18),
            _ => (asked / 3, -71),
        };
        let bytes = pattern.slice(name, offset, moved as usize);
        buffer[offset..offset + moved as usize].copy_from_slice(bytes);
        descriptor.actual_length = moved.into();
        descriptor.status = status.into();
        result.packets.push((moved, status));
        result.actual_length += moved;
    }
    result.stopped = status == -104 && result.actual_length == 0;
    let actual_length = result.actual_length;
    (Finished { slot, status, actual_length, error_count: 0 }, result)
}
