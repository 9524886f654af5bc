//! Tests of the disk, on a virtual clock, as a host drives it.

use proptest::prelude::*;
use usbip_fast_native::disk::{Lane, Request as Job, Work, Worker, lane};

use super::file::{DEPTH, FileMedium};
use super::medium::RamMedium;
use super::scsi::opcode;
use super::*;
use crate::device::Device;
use crate::device::gadget::Pace;
use crate::device::gadget::bench::{Bench, PACES, STALLED};
use crate::usb::speed::Speed;

const IN: u8 = 0x81;
const OUT: u8 = 0x01;
const BLOCK: usize = BLOCK_BYTES as usize;
const BLOCKS: u64 = 4096;

/// A host with a disk; the test plays the thread of a file.
struct Host {
    bench: Bench<Storage>,
    file: Option<PlayedFile>,
    tag: u32,
}

/// A file in memory, and what goes wrong with it.
struct PlayedFile {
    worker: Worker,
    bytes: Vec<u8>,
    jobs: Vec<Work>,
    fails: Option<Work>,
    asleep: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// Status of the data stage, if there was one.
    data_status: Option<i32>,
    data: Vec<u8>,
    verdict: u8,
    residue: u32,
}

impl Host {
    fn with(medium: Medium, text: &str, pace: Pace) -> Self {
        let options = StorageOptions::parse(text).expect("options of a test");
        let serial = options.serial(1);
        let descriptors = options.descriptors(&serial);
        let storage = Storage::new(medium, options.read_only, serial);
        Self { bench: Bench::new(storage, descriptors, pace), file: None, tag: 0x1000 }
    }

    /// A disk in memory, past its first unit attention.
    fn new(text: &str, pace: Pace) -> Self {
        let medium = Medium::Ram(RamMedium::new(BLOCKS * BLOCK_BYTES));
        let mut host = Self::with(medium, text, pace);
        host.ready();
        host
    }

    /// A disk on a file.
    fn on_file(text: &str, pace: Pace) -> Self {
        let (lane, worker): (Lane, Worker) = lane(DEPTH);
        let bytes = BLOCKS * BLOCK_BYTES;
        let mut host = Self::with(Medium::File(FileMedium::on_lane(bytes, lane)), text, pace);
        host.file = Some(PlayedFile {
            worker,
            bytes: vec![0; bytes as usize],
            jobs: Vec::new(),
            fails: None,
            asleep: false,
        });
        host.ready();
        host
    }

    fn ready(&mut self) {
        assert_eq!(self.nothing(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0]).verdict, 1);
        assert_eq!(self.sense(), (6, 0x29, 0));
        assert_eq!(self.nothing(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0]).verdict, 0);
    }

    fn file(&mut self) -> &mut PlayedFile {
        self.file.as_mut().expect("a disk on a file")
    }

    fn wrapper(&mut self, block: &[u8], length: u32, is_in: bool) -> Vec<u8> {
        self.tag += 1;
        let mut bytes = b"USBC".to_vec();
        bytes.extend_from_slice(&self.tag.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[if is_in { 0x80 } else { 0 }, 0, block.len() as u8]);
        bytes.extend_from_slice(block);
        bytes.resize(31, 0);
        bytes
    }

    /// Waits for one URB, and does the thread's work meanwhile.
    fn wait(&mut self) -> (i32, Vec<u8>) {
        loop {
            if let Some(answer) = self.bench.wait() {
                return (answer.status, answer.data);
            }
            assert!(self.file.as_mut().is_some_and(PlayedFile::step), "the device hangs");
            let now = self.bench.now;
            self.bench.device.handle_doorbell(now);
        }
    }

    fn send(&mut self, data: &[u8]) -> (i32, Vec<u8>) {
        self.bench.submit_out(OUT, data);
        self.wait()
    }

    fn receive(&mut self, length: usize) -> (i32, Vec<u8>) {
        self.bench.submit_in(IN, length);
        self.wait()
    }

    /// A command as a host carries it out (§5.3, figure 2): a stall is cleared, and the status
    /// asked for twice if need be.
    fn command(&mut self, block: &[u8], length: u32, is_in: bool, data: &[u8]) -> Outcome {
        let wrapper = self.wrapper(block, length, is_in);
        assert_eq!(self.send(&wrapper).0, 0, "a good wrapper is taken");
        let mut outcome =
            Outcome { data_status: None, data: Vec::new(), verdict: 0xff, residue: 0 };
        if length > 0 {
            let (status, moved) = match is_in {
                true => self.receive(length as usize),
                false => self.send(data),
            };
            outcome.data_status = Some(status);
            outcome.data = moved;
            if status == STALLED {
                self.bench.clear_halt(if is_in { IN } else { OUT });
            }
        }
        let (mut status, mut csw) = self.receive(13);
        if status == STALLED {
            assert!(is_in, "the status is stalled only where data was cut short");
            self.bench.clear_halt(IN);
            (status, csw) = self.receive(13);
        }
        assert_eq!((status, csw.len()), (0, 13));
        assert_eq!(csw[..4], *b"USBS");
        assert_eq!(csw[4..8], self.tag.to_le_bytes());
        outcome.residue = u32::from_le_bytes([csw[8], csw[9], csw[10], csw[11]]);
        outcome.verdict = csw[12];
        outcome
    }

    fn nothing(&mut self, block: &[u8]) -> Outcome {
        self.command(block, 0, false, &[])
    }

    fn ask(&mut self, block: &[u8], length: u32) -> Outcome {
        self.command(block, length, true, &[])
    }

    fn sense(&mut self) -> (u8, u8, u8) {
        let outcome = self.ask(&[opcode::REQUEST_SENSE, 0, 0, 0, 18, 0], 18);
        assert_eq!((outcome.verdict, outcome.residue, outcome.data.len()), (0, 0, 18));
        (outcome.data[2], outcome.data[12], outcome.data[13])
    }

    fn read(&mut self, first: u64, count: usize) -> Vec<u8> {
        let outcome = self.ask(&read_10(first, count), (count * BLOCK) as u32);
        assert_eq!((outcome.verdict, outcome.residue, outcome.data_status), (0, 0, Some(0)));
        outcome.data
    }

    fn write(&mut self, first: u64, data: &[u8]) {
        let block = write_10(first, data.len() / BLOCK);
        let outcome = self.command(&block, data.len() as u32, false, data);
        assert_eq!((outcome.verdict, outcome.residue, outcome.data_status), (0, 0, Some(0)));
    }

    fn reset(&mut self) {
        assert_eq!(self.bench.tell(RESET, &[]), 0);
        self.bench.clear_halt(IN);
        self.bench.clear_halt(OUT);
    }
}

impl PlayedFile {
    /// Carries out one request, if there is one.
    fn step(&mut self) -> bool {
        let Self { worker, bytes, jobs, fails, asleep } = self;
        !*asleep
            && worker.step(
                |job: &mut Job| {
                    jobs.push(job.work);
                    if *fails == Some(job.work) {
                        return Err(OsError(5));
                    }
                    let range = job.offset as usize..job.offset as usize + job.length;
                    match job.work {
                        Work::Read => job.buffer[..job.length].copy_from_slice(&bytes[range]),
                        Work::Write => bytes[range].copy_from_slice(&job.buffer[..job.length]),
                        Work::Synchronize => {}
                    }
                    Ok(())
                },
                false,
            )
    }
}

fn transfer_10(code: u8, first: u64, count: usize) -> [u8; 10] {
    let [_, _, _, _, a, b, c, d] = first.to_be_bytes();
    let [.., e, f] = count.to_be_bytes();
    [code, 0, a, b, c, d, 0, e, f, 0]
}

fn read_10(first: u64, count: usize) -> [u8; 10] {
    transfer_10(opcode::READ_10, first, count)
}

fn write_10(first: u64, count: usize) -> [u8; 10] {
    transfer_10(opcode::WRITE_10, first, count)
}

fn noise(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|i| ((i as u64 * 2_654_435_761) >> 13) as u8 ^ seed).collect()
}

#[test]
fn data_comes_back_at_every_pace_speed_and_medium() {
    for pace in PACES {
        for speed in ["speed=high", "speed=super"] {
            for mut host in [Host::new(speed, pace), Host::on_file(speed, pace)] {
                let data = noise(300 * BLOCK, 1);
                host.write(7, &data);
                assert_eq!(host.read(7, 300), data);
                assert_eq!(host.read(306, 2), [&data[299 * BLOCK..], &[0; BLOCK]].concat());
                host.write(8, &noise(BLOCK, 2));
                let back = host.read(6, 4);
                assert_eq!(back[..BLOCK], [0; BLOCK]);
                assert_eq!(back[2 * BLOCK..3 * BLOCK], noise(BLOCK, 2));
                assert_eq!(back[3 * BLOCK..], data[2 * BLOCK..3 * BLOCK]);
            }
        }
    }
}

#[test]
fn every_length_of_command_reads_and_writes() {
    let mut host = Host::new("", Pace::None);
    let data = noise(2 * BLOCK, 3);
    let blocks: [(&[u8], &[u8]); 4] = [
        (&[opcode::WRITE_6, 0, 0, 9, 2, 0], &[opcode::READ_6, 0, 0, 9, 2, 0]),
        (&write_10(20, 2), &read_10(20, 2)),
        (
            &[opcode::WRITE_12, 0, 0, 0, 0, 30, 0, 0, 0, 2, 0, 0],
            &[opcode::READ_12, 0, 0, 0, 0, 30, 0, 0, 0, 2, 0, 0],
        ),
        (
            &[opcode::WRITE_16, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0],
            &[opcode::READ_16, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0],
        ),
    ];
    for (write, read) in blocks {
        assert_eq!(host.command(write, 1024, false, &data).verdict, 0);
        let outcome = host.ask(read, 1024);
        assert_eq!((outcome.verdict, outcome.residue, &outcome.data), (0, 0, &data));
    }
    // No blocks: 256 of them in six bytes, none in the others.
    let outcome = host.ask(&[opcode::READ_6, 0, 0, 0, 0, 0], 256 * 512);
    assert_eq!((outcome.verdict, outcome.data.len()), (0, 256 * 512));
    assert_eq!(host.nothing(&read_10(0, 0)).verdict, 0);
}

#[test]
fn the_disk_describes_itself() {
    let mut host = Host::new("serial=0123456789AB", Pace::None);
    let outcome = host.ask(&[opcode::INQUIRY, 0, 0, 0, 36, 0], 36);
    assert_eq!(outcome.data[..8], [0, 0, 6, 2, 31, 0, 0, 0]);
    assert_eq!(&outcome.data[8..], b"USBFAST Simulated disk  0001");
    let outcome = host.ask(&[opcode::INQUIRY, 1, 0x00, 0, 255, 0], 255);
    assert_eq!((outcome.data, outcome.residue), (vec![0, 0, 0, 3, 0, 0x80, 0x83], 248));
    let outcome = host.ask(&[opcode::INQUIRY, 1, 0x80, 0, 255, 0], 255);
    assert_eq!(outcome.data[..4], [0, 0x80, 0, 12]);
    assert_eq!(&outcome.data[4..], b"0123456789AB");
    let outcome = host.ask(&[opcode::INQUIRY, 1, 0x83, 0, 255, 0], 255);
    assert_eq!(outcome.data[..8], [0, 0x83, 0, 40, 2, 1, 0, 36]);
    assert_eq!(&outcome.data[8..], b"USBFAST Simulated disk  0123456789AB");

    let outcome = host.ask(&[opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8);
    assert_eq!(outcome.data, [0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
    let mut block = [0; 16];
    (block[0], block[1], block[13]) = (opcode::SERVICE_ACTION_IN, 0x10, 32);
    let outcome = host.ask(&block, 32);
    assert_eq!(outcome.data[..12], [0, 0, 0, 0, 0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
    assert_eq!((outcome.data.len(), outcome.residue), (32, 0));
    let outcome = host.ask(&[opcode::REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16);
    assert_eq!(outcome.data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    // Six bytes, ten bytes, all pages, a room too small.
    let outcome = host.ask(&[opcode::MODE_SENSE_6, 0, 0x3f, 0, 192, 0], 192);
    assert_eq!(outcome.data[..7], [23, 0, 0x10, 0, 0x08, 18, 0x04]);
    assert_eq!((outcome.data.len(), outcome.residue), (24, 168));
    let outcome = host.ask(&[opcode::MODE_SENSE_10, 0, 0x08, 0, 0, 0, 0, 0, 255, 0], 255);
    assert_eq!(outcome.data[..11], [0, 26, 0, 0x10, 0, 0, 0, 0, 0x08, 18, 0x04]);
    let outcome = host.ask(&[opcode::MODE_SENSE_6, 0, 0x3f, 0, 4, 0], 4);
    assert_eq!((outcome.data.len(), outcome.residue, outcome.verdict), (4, 0, 0));

    assert_eq!(host.bench.ask(GET_MAX_LUN), Ok(vec![0]));
}

#[test]
fn a_disk_with_more_blocks_than_ten_bytes_can_say() {
    let (lane, _worker) = lane(DEPTH);
    let medium = Medium::File(FileMedium::on_lane(3 << 40, lane));
    let mut host = Host::with(medium, "", Pace::None);
    host.ready();
    let outcome = host.ask(&[opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8);
    assert_eq!(outcome.data, [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
}

/// Key, code and qualifier of each failure; the next command is carried out again.
#[test]
fn failures_have_their_sense_codes() {
    let mut host = Host::new("", Pace::None);
    type Case<'a> = (&'a [u8], u32, (u8, u8, u8));
    let cases: [Case<'_>; 11] = [
        (&[0xff, 0, 0, 0, 0, 0], 0, (5, 0x20, 0)),
        (&[0x04, 0, 0, 0, 0, 0], 0, (5, 0x20, 0)),
        (&read_10(BLOCKS, 1), 512, (5, 0x21, 0)),
        (&read_10(BLOCKS - 1, 2), 1024, (5, 0x21, 0)),
        (
            &[opcode::READ_16, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2, 0, 0],
            1024,
            (5, 0x21, 0),
        ),
        (&[opcode::INQUIRY, 0, 0x80, 0, 36, 0], 36, (5, 0x24, 0)),
        (&[opcode::INQUIRY, 1, 0xb0, 0, 36, 0], 36, (5, 0x24, 0)),
        (&[opcode::MODE_SENSE_6, 0, 0x01, 0, 192, 0], 192, (5, 0x24, 0)),
        (&[opcode::VERIFY_10, 2, 0, 0, 0, 0, 0, 0, 1, 0], 0, (5, 0x24, 0)),
        (&[opcode::START_STOP, 0, 0, 0, 2, 0], 0, (5, 0x24, 0)),
        (&[opcode::READ_10, 0, 0, 0, 0, 0], 512, (5, 0x24, 0)),
    ];
    for (block, length, sense) in cases {
        let outcome = host.ask(block, length);
        assert_eq!((outcome.verdict, outcome.residue), (1, length), "{block:02x?}");
        assert_eq!(outcome.data_status, (length > 0).then_some(STALLED), "{block:02x?}");
        assert_eq!(host.sense(), sense, "{block:02x?}");
        assert_eq!(host.sense(), (0, 0, 0), "told once");
    }
    assert_eq!(host.nothing(&[opcode::VERIFY_10, 0, 0, 0, 0, 0, 0, 0, 1, 0]).verdict, 0);
    assert_eq!(host.nothing(&[opcode::PREVENT_ALLOW, 0, 0, 0, 1, 0]).verdict, 0);
}

#[test]
fn a_stopped_disk_wants_to_be_started() {
    let mut host = Host::new("", Pace::None);
    assert_eq!(host.nothing(&[opcode::START_STOP, 0, 0, 0, 0, 0]).verdict, 0);
    assert_eq!(host.ask(&read_10(0, 1), 512).verdict, 1);
    assert_eq!(host.sense(), (2, 0x04, 0x02));
    assert_eq!(host.ask(&[opcode::INQUIRY, 0, 0, 0, 36, 0], 36).verdict, 0);
    assert_eq!(host.nothing(&[opcode::START_STOP, 0, 0, 0, 1, 0]).verdict, 0);
    host.read(0, 1);
}

#[test]
fn a_write_protected_disk_says_so() {
    let mut host = Host::new("readonly", Pace::None);
    let outcome = host.ask(&[opcode::MODE_SENSE_6, 0, 0x3f, 0, 192, 0], 192);
    assert_eq!(outcome.data[2], 0x90);
    let outcome = host.command(&write_10(0, 1), 512, false, &[1; 512]);
    assert_eq!(outcome.data_status, Some(STALLED));
    assert_eq!((outcome.verdict, outcome.residue), (1, 512));
    assert_eq!(host.sense(), (7, 0x27, 0));
    assert_eq!(host.read(0, 1), [0; 512]);
}

/// The cases of §6.7, by their numbers: what the host expects, what the command moves.
#[test]
fn the_thirteen_cases() {
    let ready: &[u8] = &[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0];
    let (read, write) = (read_10(5, 2), write_10(5, 2));
    for pace in PACES {
        let mut host = Host::new("", pace);
        let before = noise(2 * BLOCK, 4);
        host.write(5, &before);
        let mut case = |block: &[u8], length: u32, is_in: bool| {
            let outcome = host.command(block, length, is_in, &vec![9; length as usize]);
            (outcome.data_status, outcome.data.len(), outcome.verdict, outcome.residue)
        };
        // 1: Hn = Dn. 2: Hn < Di. 3: Hn < Do.
        assert_eq!(case(ready, 0, false), (None, 0, 0, 0));
        assert_eq!(case(&read, 0, true), (None, 0, 2, 0));
        assert_eq!(case(&write, 0, false), (None, 0, 2, 0));
        // 4: Hi > Dn. 5: Hi > Di. 6: Hi = Di. 7: Hi < Di. 8: Hi <> Do.
        assert_eq!(case(ready, 512, true), (Some(STALLED), 0, 0, 512));
        assert_eq!(case(&read, 4096, true), (Some(STALLED), 1024, 0, 3072));
        assert_eq!(case(&read, 1024, true), (Some(0), 1024, 0, 0));
        assert_eq!(case(&read, 512, true), (Some(STALLED), 0, 2, 512));
        assert_eq!(case(&write, 1024, true), (Some(STALLED), 0, 2, 1024));
        // 9: Ho > Dn. 10: Ho <> Di. 13: Ho < Do: nothing of it is written.
        assert_eq!(case(ready, 512, false), (Some(STALLED), 0, 0, 512));
        assert_eq!(case(&read, 1024, false), (Some(STALLED), 0, 2, 1024));
        assert_eq!(case(&write, 512, false), (Some(STALLED), 0, 2, 512));
        assert_eq!(host.read(5, 2), before);
        // 11: Ho > Do. 12: Ho = Do.
        let mut case = |block: &[u8], length: u32, is_in: bool| {
            let outcome = host.command(block, length, is_in, &vec![9; length as usize]);
            (outcome.data_status, outcome.data.len(), outcome.verdict, outcome.residue)
        };
        assert_eq!(case(&write, 4096, false), (Some(STALLED), 1024, 0, 3072));
        assert_eq!(case(&write, 1024, false), (Some(0), 1024, 0, 0));
        assert_eq!(host.read(5, 3), [vec![9; 1024], vec![0; 512]].concat());
    }
}

/// Data that ends within a packet ends the transfer; the stall comes with the next one.
#[test]
fn a_short_packet_ends_data_before_the_stall() {
    let mut host = Host::new("speed=super", Pace::None);
    let outcome = host.ask(&read_10(0, 3), 8192);
    assert_eq!((outcome.data_status, outcome.data.len()), (Some(0), 1536));
    assert_eq!((outcome.verdict, outcome.residue), (0, 8192 - 1536));
    let wrapper = host.wrapper(&read_10(0, 3), 8192, true);
    host.send(&wrapper);
    assert_eq!(host.receive(8192).1.len(), 1536);
    assert_eq!(host.receive(13), (STALLED, vec![]));
    host.bench.clear_halt(IN);
    assert_eq!(host.receive(13).1[12], 0);
}

#[test]
fn data_moves_in_transfers_of_any_size() {
    for pace in PACES {
        let mut host = Host::on_file("", pace);
        let data = noise(256 * BLOCK, 5);
        let wrapper = host.wrapper(&write_10(0, 256), data.len() as u32, false);
        host.send(&wrapper);
        for part in data.chunks(13 * BLOCK) {
            assert_eq!(host.send(part), (0, part.to_vec()));
        }
        assert_eq!(host.receive(13).1[8..13], [0; 5]);
        let wrapper = host.wrapper(&read_10(0, 256), data.len() as u32, true);
        host.send(&wrapper);
        let mut back = Vec::new();
        while back.len() < data.len() {
            let (status, part) = host.receive((data.len() - back.len()).min(7 * BLOCK));
            assert_eq!(status, 0);
            back.extend(part);
        }
        assert_eq!(back, data);
        assert_eq!(host.receive(13).1[8..13], [0; 5]);
    }
}

#[test]
fn a_host_that_stops_early_gets_a_residue() {
    let mut host = Host::new("", Pace::None);
    let wrapper = host.wrapper(&write_10(0, 8), 4096, false);
    host.send(&wrapper);
    // One block, and 100 bytes of the next: a short packet.
    assert_eq!(host.send(&[7; 612]).0, 0);
    let csw = host.receive(13).1;
    assert_eq!(u32::from_le_bytes([csw[8], csw[9], csw[10], csw[11]]), 4096 - 512);
    assert_eq!(host.read(0, 2), [[7; 512], [0; 512]].concat());
}

#[test]
fn what_does_not_fit_is_babble() {
    let mut host = Host::new("", Pace::None);
    let wrapper = host.wrapper(&read_10(0, 1), 512, true);
    host.send(&wrapper);
    assert_eq!(host.receive(100).0, -crate::usb::errno::EOVERFLOW);
    assert_eq!(host.receive(512).0, 0);
    assert_eq!(host.receive(12).0, -crate::usb::errno::EOVERFLOW);
    assert_eq!(host.receive(512).1.len(), 13, "a status is short wherever it goes");
}

#[test]
fn a_bad_wrapper_stalls_until_the_reset_recovery() {
    for pace in PACES {
        let mut host = Host::new("", pace);
        let good = host.wrapper(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], 0, false);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let bad = [
            good[..30].to_vec(),
            [&good[..], &[0]].concat(),
            Vec::new(),
            vec![0x55; 512],
            changed(0, b'X'),
            changed(3, b'S'),
            changed(12, 0x01),
            changed(13, 1),
            changed(13, 0x80),
            changed(14, 0),
            changed(14, 17),
        ];
        for bytes in bad {
            assert_eq!(host.send(&bytes).0, STALLED, "{bytes:02x?}");
            assert_eq!(host.receive(13).0, STALLED);
            // Clearing the halts alone does not help (§6.6.1).
            host.bench.clear_halt(IN);
            host.bench.clear_halt(OUT);
            assert_eq!(host.send(&good).0, STALLED);
            assert_eq!(host.receive(13).0, STALLED);
            host.reset();
            assert_eq!(host.nothing(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0]).verdict, 0);
        }
    }
}

#[test]
fn a_reset_ends_whatever_is_under_way() {
    let mut host = Host::on_file("", Pace::None);
    let blocks: [(Vec<u8>, u32, bool); 4] = [
        (read_10(0, 64).to_vec(), 64 * 512, true),
        (write_10(0, 64).to_vec(), 64 * 512, false),
        (vec![0xff, 0, 0, 0, 0, 0], 512, true),
        (vec![opcode::SYNCHRONIZE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, false),
    ];
    for (block, length, is_in) in blocks {
        let wrapper = host.wrapper(&block, length, is_in);
        host.send(&wrapper);
        if !is_in && length > 0 {
            assert_eq!(host.send(&[3; 1024]).0, 0);
        }
        if length == 0 {
            // The file is asked to synchronise, and its answer comes after the reset.
            host.file().asleep = true;
            let slot = host.bench.submit_in(IN, 13);
            assert_eq!(host.bench.wait(), None);
            host.bench.device.cancel(slot, host.bench.now);
            assert!(host.bench.poll().is_some());
            host.file().asleep = false;
        }
        host.reset();
        host.write(100, &noise(BLOCK, 6));
        assert_eq!(host.read(100, 1), noise(BLOCK, 6));
        let synchronize = [opcode::SYNCHRONIZE_16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(host.nothing(&synchronize).verdict, 0);
        assert_eq!(host.file().jobs.last(), Some(&Work::Synchronize));
    }
    assert_eq!(host.read(0, 2), [0; 1024], "a write that was aborted is not half done");
}

#[test]
fn unknown_class_requests_stall() {
    let mut host = Host::new("", Pace::None);
    assert_eq!(host.bench.tell(Setup { value: 1, ..RESET }, &[]), STALLED);
    assert_eq!(host.bench.tell(Setup { request: 0x00, ..RESET }, &[]), STALLED);
    assert_eq!(host.bench.ask(Setup { index: 1, ..GET_MAX_LUN }), Err(STALLED));
}

#[test]
fn what_is_synchronised_is_on_the_medium() {
    let mut host = Host::on_file("", Pace::Demand);
    let data = noise(100 * BLOCK, 8);
    // A write is accepted although the file does not answer.
    host.file().asleep = true;
    host.write(3, &data);
    assert!(host.file().jobs.is_empty());
    let block = [opcode::SYNCHRONIZE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let wrapper = host.wrapper(&block, 0, false);
    host.send(&wrapper);
    host.bench.submit_in(IN, 13);
    assert_eq!(host.bench.wait(), None, "no status before the medium has the data");
    host.file().asleep = false;
    assert_eq!(host.wait().1[12], 0);
    assert_eq!(host.file().bytes[3 * BLOCK..103 * BLOCK], data);
    assert_eq!(host.file().jobs.last(), Some(&Work::Synchronize));
    // FUA means the same for one command.
    let mut block = write_10(0, 1);
    block[1] = 0x08;
    host.file().jobs.clear();
    assert_eq!(host.command(&block, 512, false, &[1; 512]).verdict, 0);
    assert_eq!(host.file().jobs, [Work::Write, Work::Synchronize]);
}

#[test]
fn errors_of_the_file_become_sense_data() {
    let mut host = Host::on_file("", Pace::None);
    host.file().fails = Some(Work::Read);
    let outcome = host.ask(&read_10(0, 4), 2048);
    assert_eq!(outcome.data_status, Some(STALLED));
    assert_eq!((outcome.verdict, outcome.residue), (1, 2048));
    assert_eq!(host.sense(), (3, 0x11, 0));
    host.file().fails = None;
    host.read(0, 4);
    // A write that was accepted and fails later: the next command is told, and not carried out.
    host.file().fails = Some(Work::Write);
    host.write(0, &[1; 512]);
    while host.file().step() {}
    host.bench.device.handle_doorbell(host.bench.now);
    let outcome = host.command(&write_10(1, 1), 512, false, &[2; 512]);
    assert_eq!((outcome.data_status, outcome.verdict), (Some(STALLED), 1));
    let sense = host.ask(&[opcode::REQUEST_SENSE, 0, 0, 0, 18, 0], 18).data;
    assert_eq!((sense[0], sense[2], sense[12]), (0x71, 3, 0x0c), "a deferred error");
    // The same under a synchronisation is its own error.
    host.write(0, &[1; 512]);
    assert_eq!(host.nothing(&[opcode::SYNCHRONIZE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]).verdict, 1);
    assert_eq!(host.sense(), (3, 0x0c, 0));
}

#[test]
fn a_slow_file_makes_the_host_wait_and_loses_nothing() {
    let mut host = Host::on_file("", Pace::None);
    host.file().asleep = true;
    let data = noise(2048 * BLOCK, 9);
    // As much as there are buffers is accepted: two commands of 1 MiB, and no third.
    host.write(0, &data);
    host.write(2048, &data);
    let wrapper = host.wrapper(&write_10(0, 2048), data.len() as u32, false);
    host.send(&wrapper);
    host.bench.submit_out(OUT, &data);
    assert_eq!(host.bench.wait(), None);
    host.file().asleep = false;
    assert_eq!(host.wait().0, 0);
    assert_eq!(host.receive(13).1[12], 0);
    assert_eq!(host.read(2048, 2048), data);
}

#[test]
fn sequential_reads_are_read_ahead_and_others_are_not() {
    let mut host = Host::on_file("", Pace::None);
    host.read(100, 8);
    assert_eq!(host.file().jobs, [Work::Read]);
    host.read(108, 8);
    while host.file().step() {}
    host.bench.device.handle_doorbell(host.bench.now);
    let jobs = host.file().jobs.len();
    assert!(jobs > 2);
    host.file().asleep = true;
    assert_eq!(host.read(116, 64), [0; 64 * 512], "it is there already");
    host.file().asleep = false;
    host.file().jobs.clear();
    host.read(3000, 8);
    assert_eq!(host.file().jobs.last(), Some(&Work::Read));
    // What was written since is seen by what was read ahead before.
    host.read(0, 8);
    host.read(8, 8);
    host.write(16, &[5; 512]);
    assert_eq!(host.read(16, 1), [5; 512]);
}

#[test]
fn sessions_begin_with_an_attention_and_the_same_data() {
    let mut host = Host::new("", Pace::None);
    host.write(0, &[4; 512]);
    let setup = Setup { request_type: 0x23, request: 3, value: 4, index: 1, length: 0 };
    assert_eq!(host.bench.tell(setup, &[]), 0, "a port reset");
    assert_eq!(host.ask(&[opcode::INQUIRY, 0, 0, 0, 36, 0], 36).verdict, 0, "never held up");
    assert_eq!(host.ask(&read_10(0, 1), 512).verdict, 1);
    assert_eq!(host.sense(), (6, 0x29, 0));
    assert_eq!(host.read(0, 1), [4; 512]);
    assert_eq!(host.bench.tell(setup, &[]), 0);
    assert_eq!(host.sense(), (6, 0x29, 0), "who asks is told");
    assert_eq!(host.read(0, 1), [4; 512]);
}

#[test]
fn descriptors_are_as_they_were() {
    let golden = |text: &str| {
        let options = StorageOptions::parse(text).expect("options of a test");
        let listed = options.descriptors("0123456789AB").listed().to_vec();
        listed.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    };
    assert_eq!(
        golden("speed=high"),
        "12010002000000402505a5a400010102030109022000010100c000\
         0904000002080650000705810200020007050102000200"
    );
    assert_eq!(
        golden("speed=super"),
        "12012003000000092505a5a400010102030109022c00010100c000\
         090400000208065000070581020004000630 0f0000000705010200040006300f000000"
            .replace(' ', "")
    );
}

/// A step of the property test.
#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, usize, u8),
    Synchronize,
    Reset,
    /// The thread works, before anyone waits for it.
    Work(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let place = || {
        (0..BLOCKS, 1..400_usize)
            .prop_map(|(first, count)| (first, count.min((BLOCKS - first) as usize)))
    };
    prop_oneof![
        4 => place().prop_map(|(first, count)| Step::Read(first, count)),
        2 => (0..64_u64).prop_map(|first| Step::Read(first * 64, 64)),
        4 => (place(), any::<u8>()).prop_map(|((first, count), seed)| {
            Step::Write(first, count, seed)
        }),
        1 => Just(Step::Synchronize),
        1 => Just(Step::Reset),
        3 => (1..20_usize).prop_map(Step::Work),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_commands_agree_with_a_model(
        steps in proptest::collection::vec(step(), 1..30),
        on_file: bool,
        super_speed: bool,
        pace in 0..3_usize,
    ) {
        let text = if super_speed { "speed=super" } else { "speed=high" };
        let pace = PACES[pace];
        let mut host = if on_file { Host::on_file(text, pace) } else { Host::new(text, pace) };
        let mut model = vec![0; BLOCKS as usize * BLOCK];
        for step in steps {
            match step {
                Step::Read(first, count) => {
                    let range = first as usize * BLOCK..(first as usize + count) * BLOCK;
                    prop_assert!(host.read(first, count) == model[range], "{first} {count}");
                }
                Step::Write(first, count, seed) => {
                    let data = noise(count * BLOCK, seed);
                    host.write(first, &data);
                    model[first as usize * BLOCK..][..data.len()].copy_from_slice(&data);
                }
                Step::Synchronize => {
                    let block = [opcode::SYNCHRONIZE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    prop_assert_eq!(host.nothing(&block).verdict, 0);
                    if let Some(file) = &host.file {
                        prop_assert!(file.bytes == model, "all is on the medium");
                    }
                }
                Step::Reset => host.reset(),
                Step::Work(count) => {
                    for _ in 0..count {
                        host.file.as_mut().map(PlayedFile::step);
                    }
                }
            }
        }
    }
}

#[test]
fn options_choose_the_speed() {
    let options = StorageOptions::parse("speed=super").expect("fine");
    assert_eq!(options.descriptors("0123456789AB").speed(), Speed::Super);
}
