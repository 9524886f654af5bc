//! Tests of the base with Gadget Zero on it, on a virtual clock.

use std::time::Duration;

use usbip_fast_native::Arena;

use super::zero::{self, ZeroExport, ZeroOptions};
use super::*;
use crate::device::Export;
use crate::usb::isochronous::{PacketDescriptor, packets, packets_mut};
use crate::usb::setup::request;
use crate::usb::transfer::{BUFFER_OFFSET, ISO_PACKET_BYTES, TransferFlags, block_bytes};

/// A device, its clock and its memory.
struct Bench {
    device: Box<dyn Device>,
    counters: Arc<StreamCounters>,
    arena: Arena,
    now: Duration,
    slot: u32,
    /// Slot, buffer length and packets of what is in flight.
    buffers: Vec<(u32, usize, u32)>,
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
            buffers: Vec::new(),
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
        for (index, row) in packets_mut(rows).iter_mut().enumerate() {
            *row = PacketDescriptor::new((index * packet) as u32, packet as u32);
        }
        self.buffers.push((submission.slot, submission.length as usize, submission.packets));
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
        let at = self.buffers.iter().position(|(slot, ..)| *slot == finished.slot);
        let (_, length, count) = self.buffers.remove(at.expect("a slot comes back once"));
        let (buffer, rest) = block.as_ref()[BUFFER_OFFSET..].split_at(length);
        let rows = packets(&rest[..count as usize * ISO_PACKET_BYTES]);
        Some(Answered {
            slot: finished.slot,
            status: finished.status,
            data: buffer[..finished.actual_length as usize].to_vec(),
            errors: finished.error_count,
            packets: rows.iter().map(|x| (x.actual_length.get(), x.status.get())).collect(),
        })
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

const MS: Duration = Duration::from_millis(1);

#[test]
fn real_isochronous_packets_keep_the_bus_clock() {
    // bInterval 4 at high speed: one packet per millisecond.
    let mut bench = Bench::new("pace=real");
    bench.setting(1);
    let first = bench.iso(0x82, 8, 1024, true);
    let second = bench.iso(0x82, 8, 1024, true);
    bench.pass(8 * MS - MS / 10);
    assert!(bench.slots().is_empty(), "the eighth packet is not due yet");
    bench.pass(MS / 5);
    assert_eq!(bench.slots(), [first]);
    bench.pass(8 * MS);
    let answer = bench.poll().expect("eight milliseconds later");
    assert_eq!((answer.slot, answer.status, answer.errors), (second, 0, 0));
    assert_eq!(answer.packets, [(1024, 0); 8]);
    assert_eq!((bench.counters.packets(), bench.counters.missed()), (16, 0));
}

#[test]
fn real_stream_with_an_empty_queue_misses_packets() {
    let mut bench = Bench::new("pace=real");
    bench.setting(1);
    bench.iso(0x02, 4, 100, true);
    bench.pass(MS * 9 / 2);
    assert_eq!(bench.slots().len(), 1);
    bench.pass(3 * MS);
    assert_eq!(bench.counters.missed(), 0, "counted when the stream goes on");
    bench.iso(0x02, 4, 100, true);
    assert_eq!(bench.counters.missed(), 3);
    bench.pass(4 * MS);
    assert_eq!(bench.poll().expect("four more").packets, [(100, 0); 4], "none of its own is lost");
}

#[test]
fn real_stream_without_asap_continues_its_schedule() {
    let mut bench = Bench::new("pace=real");
    bench.setting(1);
    bench.iso(0x82, 4, 100, false);
    bench.pass(MS * 13 / 2);
    assert_eq!(bench.slots().len(), 1);
    bench.iso(0x82, 4, 100, false);
    bench.pass(2 * MS);
    let answer = bench.poll().expect("two late, two in time");
    assert_eq!(answer.packets, [(0, -18), (0, -18), (100, 0), (100, 0)]);
    assert_eq!((answer.status, answer.errors, answer.data.len()), (0, 2, 200));
    assert_eq!(bench.counters.missed(), 2);
}

#[test]
fn a_stream_that_was_stopped_starts_anew() {
    let mut bench = Bench::new("pace=real");
    bench.setting(1);
    for _ in 0..2 {
        bench.iso(0x82, 4, 100, false);
        bench.pass(5 * MS);
        assert_eq!(bench.poll().expect("done").packets, [(100, 0); 4]);
        bench.pass(Duration::from_secs(1));
    }
    let slot = bench.iso(0x82, 100, 100, true);
    bench.pass(5 * MS);
    bench.device.cancel(slot, bench.now);
    let cancelled = bench.poll().expect("five packets, then unlinked");
    assert_eq!((cancelled.status, cancelled.errors), (-errno::ECONNRESET, 95));
    assert_eq!(cancelled.packets[4..6], [(100, 0), (0, -errno::EXDEV)]);
    bench.pass(5 * MS);
    bench.iso(0x82, 4, 100, true);
    assert_eq!(bench.counters.missed(), 0);
}

#[test]
fn real_bulk_has_the_bandwidth_of_its_speed() {
    for (speed, rate) in [("full", 1_216_000.0), ("high", 53_248_000.0), ("super", 393_216_000.0)] {
        let mut bench = Bench::new(&format!("speed={speed}"));
        let start = bench.now;
        bench.bulk_in(4 << 20);
        while bench.device.deadline().is_some() {
            bench.now = bench.device.deadline().expect("just seen");
            bench.device.handle_deadline(bench.now);
        }
        assert_eq!(bench.slots().len(), 1);
        let measured = f64::from(4 << 20) / (bench.now - start).as_secs_f64();
        assert!((0.95..1.05).contains(&(measured / rate)), "{speed}: {measured}");
    }
}

#[test]
fn real_bulk_endpoints_share_the_budget() {
    let mut bench = Bench::new("speed=high");
    let large = bench.bulk_in(1 << 20);
    let small = bench.bulk_out(&[0; 4096]);
    bench.pass(MS);
    assert_eq!(bench.slots(), [small], "the small one does not wait for the large one");
    bench.pass(30 * MS);
    assert_eq!(bench.slots(), [large]);
}

#[test]
fn an_idle_bulk_endpoint_asks_for_no_wake_up() {
    let mut bench = Bench::new("speed=high");
    assert_eq!(bench.request(0, request::SET_CONFIGURATION, 2, 0), 0);
    bench.bulk_in(512);
    assert_eq!(bench.device.deadline(), None);
}

#[test]
fn interrupt_endpoints_move_one_packet_per_interval() {
    let mut bench = Bench::new("speed=low");
    let slots = [bench.interrupt_in(8), bench.interrupt_in(24)];
    bench.pass(MS * 21 / 2);
    assert_eq!(bench.slots(), slots[..1]);
    bench.pass(29 * MS);
    assert!(bench.slots().is_empty(), "24 bytes are three packets of 10 ms");
    bench.pass(MS);
    assert_eq!(bench.slots(), slots[1..]);
}

#[test]
fn a_scaled_pace_is_as_much_slower() {
    let mut bench = Bench::new("pace=0.1");
    bench.setting(1);
    bench.iso(0x82, 8, 1024, true);
    bench.pass(79 * MS);
    assert!(bench.slots().is_empty());
    bench.pass(2 * MS);
    assert_eq!(bench.slots().len(), 1);
}

#[test]
fn halting_and_switching_end_what_waits() {
    let mut bench = Bench::new("pace=real");
    let waiting = [bench.bulk_in(1 << 20), bench.bulk_in(8)];
    assert_eq!(bench.request_after(&waiting, request::SET_FEATURE, 0x02, 0x81), -errno::EPIPE);
    assert_eq!(bench.request(0x02, request::CLEAR_FEATURE, 0, 0x81), 0);
    let waiting = [bench.bulk_in(1 << 20), bench.bulk_in(8)];
    assert_eq!(bench.request_after(&waiting, request::SET_INTERFACE, 0x01, 0), -errno::ESHUTDOWN);
    bench.bulk_in(8);
    bench.pass(MS);
    assert_eq!(bench.poll().expect("works again").status, 0);
}

#[test]
fn urbs_for_endpoints_that_are_not_there_say_so() {
    let mut bench = Bench::new("pace=none");
    bench.iso(0x82, 1, 100, true);
    assert_eq!(bench.poll().expect("at once").status, -errno::ENOENT, "setting 0 has none");
    bench.setting(1);
    bench.iso(0x82, 2, 1025, true);
    let answer = bench.poll().expect("at once");
    assert_eq!((answer.status, answer.errors), (-errno::EMSGSIZE, 2));
    let submission = bench.submission(TransferType::Interrupt, 0x82, 8);
    bench.submit(submission, &[], 0);
    assert_eq!(bench.poll().expect("at once").status, -errno::EINVAL);
}

#[test]
fn short_reads_are_errors_where_the_client_says_so() {
    let mut bench = Bench::new("pace=none");
    let mut submission = bench.submission(TransferType::Control, 0x80, 64);
    let (request_type, request) = (0x80, request::GET_DESCRIPTOR);
    let setup = Setup { request_type, request, value: 0x0100, index: 0, length: 64 };
    submission.setup = setup.to_bytes();
    submission.flags.short_not_ok = true;
    bench.submit(submission, &[], 0);
    let answer = bench.poll().expect("at once");
    assert_eq!((answer.status, answer.data.len()), (-errno::EREMOTEIO, 18));
}

#[test]
fn zero_packet_follows_full_packets() {
    let mut bench = Bench::new("pace=none");
    assert_eq!(bench.request(0, request::SET_CONFIGURATION, 2, 0), 0);
    let read = bench.bulk_in(4096);
    bench.bulk_out(&[1; 512]);
    assert_eq!(bench.slots().len(), 1, "512 bytes do not end a transfer of 4096");
    let mut submission = bench.submission(TransferType::Bulk, 0x01, 512);
    submission.flags.zero_packet = true;
    bench.submit(submission, &[2; 512], 0);
    let answers: Vec<_> = std::iter::from_fn(|| bench.poll()).collect();
    let ended = answers.iter().find(|answer| answer.slot == read).expect("ended by the empty one");
    assert_eq!((ended.status, ended.data.len()), (0, 1024));
}

#[test]
fn state_moves_from_session_to_session() {
    let options = ZeroOptions::parse("pace=none").expect("fine");
    let mut export = ZeroExport::zero(&options, 1);
    let bell = usbip_fast_native::Doorbell::new(Arc::new(Silent));
    let mut bench = Bench::new("pace=none");
    let setup =
        |request_type, request| Setup { request_type, request, value: 0, index: 0, length: 3 };
    bench.device = export.reserve().expect("free")(&bell);
    assert!(export.reserve().is_err_and(|reason| reason == "sim-1 is in use"));
    assert_eq!(bench.control(setup(0x40, zero::WRITE_BUFFER), b"abc").status, 0);
    assert_eq!(bench.request(0, request::SET_CONFIGURATION, 2, 0), 0);
    let pending = bench.bulk_in(512);
    bench.device.close(bench.now);
    assert_eq!(bench.device.state(), DeviceState::Closing);
    let last = bench.poll().expect("comes back");
    assert_eq!((last.slot, last.status), (pending, -errno::ECONNRESET));
    assert_eq!(bench.device.state(), DeviceState::Closed);

    export.restore(bench.device.into_remains());
    bench.device = export.reserve().expect("back")(&bell);
    assert_eq!(bench.control(setup(0xc0, zero::READ_BUFFER), &[]).data, b"abc");
    assert_eq!(bench.read(0x80, request::GET_CONFIGURATION, 0, 0).data, [1]);
    bench.bulk_in(64);
    assert_eq!(bench.slots().len(), 1, "a source again, no loopback");
}

impl Bench {
    /// Makes a request that ends these URBs, and returns the status they all got.
    fn request_after(&mut self, waiting: &[u32], request: u8, request_type: u8, index: u16) -> i32 {
        let setup = Setup { request_type, request, value: 0, index, length: 0 };
        let mut submission = self.submission(TransferType::Control, 0, 0);
        submission.setup = setup.to_bytes();
        let slot = self.submit(submission, &[], 0);
        let answers: Vec<_> = std::iter::from_fn(|| self.poll()).collect();
        let (own, ended): (Vec<_>, Vec<_>) = answers.iter().partition(|x| x.slot == slot);
        assert_eq!(own[0].status, 0);
        assert_eq!(ended.iter().map(|x| x.slot).collect::<Vec<_>>(), waiting);
        assert!(ended.iter().all(|x| x.status == ended[0].status));
        ended[0].status
    }
}
