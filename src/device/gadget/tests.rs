//! Tests of the base with Gadget Zero on it, on a virtual clock.

use std::time::Duration;

use usbip_fast_native::{Arena, Block};

use super::queue::iso;
use super::zero::{self, ZeroExport, ZeroOptions};
use super::*;
use crate::device::Export;
use crate::usb::setup::request;
use crate::usb::speed::Speed;
use crate::usb::transfer::{BUFFER_OFFSET, ISO_PACKET_BYTES, TransferFlags, block_bytes};

/// A device, its clock and its memory.
struct Bench {
    device: Box<dyn Device>,
    counters: Arc<StreamCounters>,
    arena: Arena,
    now: Duration,
    slot: u32,
}

struct Answered {
    slot: u32,
    status: i32,
    data: Vec<u8>,
    errors: u32,
    packets: Vec<(u32, i32)>,
}

impl Bench {
    fn new(options: &str) -> Self {
        let options = ZeroOptions::parse(options).expect("options of a test");
        let mut export = ZeroExport::zero(&options, 1);
        let opener = export.reserve().expect("free");
        let bell = usbip_fast_native::Doorbell::new(Arc::new(Silent));
        Self {
            device: opener(&bell),
            counters: export.counters(),
            arena: Arena::new(64 << 20),
            now: Duration::from_secs(77),
            slot: 0,
        }
    }

    fn submission(&mut self, kind: TransferType, address: u8, length: usize) -> Submission {
        self.slot += 1;
        Submission {
            slot: self.slot,
            kind,
            direction: if address & 0x80 == 0 { Direction::Out } else { Direction::In },
            endpoint: address & 0x0f,
            setup: [0; 8],
            length: length as u32,
            packets: 0,
            flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
            start_frame: 0,
        }
    }

    fn submit(&mut self, submission: Submission, data: &[u8], packet: usize) -> u32 {
        let bytes = block_bytes(submission.length, submission.packets);
        let mut block = self.device.allocate(&self.arena, bytes).expect("memory");
        block.as_mut().fill(0xee);
        block.as_mut()[BUFFER_OFFSET..][..data.len()].copy_from_slice(data);
        let end = BUFFER_OFFSET + submission.length as usize;
        let rows = &mut block.as_mut()[end..bytes];
        for (index, row) in iso::packets_mut(rows).enumerate() {
            row[..4].copy_from_slice(&((index * packet) as u32).to_be_bytes());
            row[4..8].copy_from_slice(&(packet as u32).to_be_bytes());
        }
        self.device.submit(submission, block, self.now);
        submission.slot
    }

    fn control(&mut self, setup: Setup, data: &[u8]) -> Answered {
        let address = setup.request_type & 0x80;
        let mut submission =
            self.submission(TransferType::Control, address, usize::from(setup.length));
        submission.setup = setup.to_bytes();
        let slot = self.submit(submission, data, 0);
        let answer = self.poll().expect("control is answered at once");
        assert_eq!(answer.slot, slot);
        answer
    }

    fn request(&mut self, request_type: u8, request: u8, value: u16, index: u16) -> i32 {
        self.control(Setup { request_type, request, value, index, length: 0 }, &[]).status
    }

    fn read(&mut self, request_type: u8, request: u8, value: u16, index: u16) -> Answered {
        self.control(Setup { request_type, request, value, index, length: 255 }, &[])
    }

    fn bulk_in(&mut self, length: usize) -> u32 {
        let submission = self.submission(TransferType::Bulk, 0x81, length);
        self.submit(submission, &[], 0)
    }

    fn bulk_out(&mut self, data: &[u8]) -> u32 {
        let submission = self.submission(TransferType::Bulk, 0x01, data.len());
        self.submit(submission, data, 0)
    }

    fn iso(&mut self, address: u8, packets: usize, packet: usize, asap: bool) -> u32 {
        let mut submission = self.submission(TransferType::Isochronous, address, packets * packet);
        submission.packets = packets as u32;
        submission.flags.iso_asap = asap;
        self.submit(submission, &[], packet)
    }

    fn interrupt_in(&mut self, length: usize) -> u32 {
        let submission = self.submission(TransferType::Interrupt, 0x83, length);
        self.submit(submission, &[], 0)
    }

    fn setting(&mut self, alternate: u16) {
        assert_eq!(self.request(0x01, request::SET_INTERFACE, alternate, 0), 0);
    }

    fn poll(&mut self) -> Option<Answered> {
        let Completed { finished, block } = self.device.poll(self.now)?;
        Some(answered(finished, &block))
    }

    /// Lets the loop turn without time passing.
    fn turn(&mut self) {
        if self.device.deadline().is_some_and(|due| due <= self.now) {
            self.device.handle_deadline(self.now);
        }
    }

    /// Lets time pass, waking the device whenever it wants to be woken.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.device.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.device.handle_deadline(self.now);
        }
        self.now = end;
    }

    fn slots(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.poll()).map(|answer| answer.slot).collect()
    }
}

/// The results in a block, wherever its buffer ends; `length` is not part of the answer, so the
/// packets are read from what the test has put behind the buffer.
fn answered(finished: crate::usb::transfer::Finished, block: &Block) -> Answered {
    let actual = finished.actual_length as usize;
    Answered {
        slot: finished.slot,
        status: finished.status,
        data: block.as_ref()[BUFFER_OFFSET..][..actual].to_vec(),
        errors: finished.error_count,
        packets: Vec::new(),
    }
}

struct Silent;

impl usbip_fast_native::doorbell::Ring for Silent {
    fn ring(&self) {}
}

const EVERY_SPEED: [&str; 4] = ["speed=low", "speed=full", "speed=high", "speed=super"];

#[test]
fn every_speed_enumerates() {
    for speed in EVERY_SPEED {
        let mut bench = Bench::new(speed);
        let device = bench.read(0x80, request::GET_DESCRIPTOR, 0x0100, 0);
        assert_eq!((device.status, device.data.len()), (0, 18), "{speed}");
        let packet_0 = [8, 64, 64, 9][EVERY_SPEED.iter().position(|x| *x == speed).expect("it")];
        assert_eq!(device.data[7], packet_0);
        for index in 0..2 {
            let configuration = bench.read(0x80, request::GET_DESCRIPTOR, 0x0200 + index, 0);
            let total = u16::from_le_bytes([configuration.data[2], configuration.data[3]]);
            assert_eq!(configuration.data.len(), usize::from(total));
            assert_eq!(bench.request(0, request::SET_CONFIGURATION, index + 1, 0), 0);
            let active = bench.read(0x80, request::GET_CONFIGURATION, 0, 0);
            assert_eq!(active.data, [index as u8 + 1]);
        }
        assert_eq!(bench.request(0, request::SET_CONFIGURATION, 9, 0), -errno::EPIPE);
        let product = bench.read(0x80, request::GET_DESCRIPTOR, 0x0302, 0x0409);
        assert_eq!(product.data[2..6], [b'G', 0, b'a', 0]);
        let bos = bench.read(0x80, request::GET_DESCRIPTOR, 0x0f00, 0);
        let expected = if speed == "speed=super" { (0, 22) } else { (-errno::EPIPE, 0) };
        assert_eq!((bos.status, bos.data.len()), expected, "{speed}");
        let qualifier = bench.read(0x80, request::GET_DESCRIPTOR, 0x0600, 0);
        let expected = if speed == "speed=high" { (0, 10) } else { (-errno::EPIPE, 0) };
        assert_eq!((qualifier.status, qualifier.data.len()), expected, "{speed}");
    }
}

#[test]
fn vendor_buffer_keeps_any_length() {
    let mut bench = Bench::new("pace=none");
    let setup =
        |request_type, request, length| Setup { request_type, request, value: 0, index: 0, length };
    for length in [u16::MAX, 1, 512] {
        let data: Vec<u8> = (0..length).map(|i| (i ^ length) as u8).collect();
        assert_eq!(bench.control(setup(0x40, zero::WRITE_BUFFER, length), &data).status, 0);
        let back = bench.control(setup(0xc0, zero::READ_BUFFER, length), &[]);
        assert_eq!((back.status, back.data == data), (0, true));
    }
    assert_eq!(bench.request(0x40, 0x77, 0, 0), -errno::EPIPE);
}

#[test]
fn none_completes_inside_submit() {
    let mut bench = Bench::new("pace=none:pattern=1");
    let slot = bench.bulk_in(1500);
    let answer = bench.poll().expect("at once");
    assert_eq!((answer.slot, answer.status, answer.data.len()), (slot, 0, 1500));
    assert_eq!(answer.data[512 + 64], 1);
    bench.setting(1);
    bench.iso(0x82, 1024, 1024, true);
    assert_eq!(bench.poll().expect("at once").data.len(), 1 << 20);
    bench.setting(2);
    bench.interrupt_in(3000);
    assert_eq!(bench.poll().expect("at once").data.len(), 3000);
    assert_eq!(bench.device.deadline(), None);
}

#[test]
fn demand_completes_when_the_loop_turns_and_not_before() {
    let mut bench = Bench::new("pace=demand");
    bench.setting(1);
    let slots = [bench.iso(0x82, 8, 1024, true), bench.iso(0x82, 8, 1024, true)];
    assert!(bench.poll().is_none());
    assert_eq!(bench.device.deadline(), Some(bench.now));
    bench.turn();
    assert_eq!(bench.slots(), slots);
    assert_eq!(bench.device.deadline(), None);
    bench.now += Duration::from_secs(100);
    bench.iso(0x82, 8, 1024, true);
    bench.turn();
    assert_eq!(bench.slots().len(), 1);
    assert_eq!((bench.counters.packets(), bench.counters.missed()), (24, 0));
}

#[test]
fn a_wrong_byte_halts_the_sink_until_it_is_cleared() {
    let mut bench = Bench::new("pace=none");
    bench.bulk_out(&[0; 1000]);
    assert_eq!(bench.poll().expect("done").status, 0);
    bench.bulk_out(&[0, 0, 1]);
    assert_eq!(bench.poll().expect("done").status, -errno::EPIPE);
    bench.bulk_out(&[0; 3]);
    assert_eq!(bench.poll().expect("done").status, -errno::EPIPE, "still halted");
    assert_eq!(bench.read(0x82, request::GET_STATUS, 0, 0x01).data, [1, 0]);
    assert_eq!(bench.request(0x02, request::CLEAR_FEATURE, 0, 0x01), 0);
    assert_eq!(bench.read(0x82, request::GET_STATUS, 0, 0x01).data, [0, 0]);
    bench.bulk_out(&[0; 3]);
    assert_eq!(bench.poll().expect("done").status, 0);
}

#[test]
fn loopback_waits_for_data_and_can_be_cancelled() {
    for pace in ["none", "demand", "real", "0.5"] {
        let mut bench = Bench::new(&format!("pace={pace}"));
        assert_eq!(bench.request(0, request::SET_CONFIGURATION, 2, 0), 0);
        let first = bench.bulk_in(100);
        let second = bench.bulk_in(4096);
        bench.pass(Duration::from_millis(3));
        assert!(bench.poll().is_none(), "nothing to give yet");
        bench.device.cancel(first, bench.now);
        let cancelled = bench.poll().expect("at once");
        assert_eq!((cancelled.slot, cancelled.status), (first, -errno::ECONNRESET));
        let out = bench.bulk_out(&[9; 700]);
        bench.pass(Duration::from_millis(3));
        let answers: Vec<_> = std::iter::from_fn(|| bench.poll()).collect();
        assert_eq!(answers.iter().map(|x| x.slot).collect::<Vec<_>>(), [out, second], "{pace}");
        assert_eq!(answers[1].data, [9; 700]);
    }
}
