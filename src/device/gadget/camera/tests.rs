//! Tests of the camera behind the base, on a virtual clock, with a host that knows the class.

use std::sync::Arc;

use usbip_fast_native::{Arena, Doorbell, doorbell};

use super::super::descriptors::Descriptors;
use super::picture::{CELL, Picture, Size, read_number};
use super::*;
use crate::device::{Completed, Device, Export};
use crate::usb::descriptor::{Descriptors as Parts, kind};
use crate::usb::errno;
use crate::usb::isochronous::{PacketDescriptor, packets, packets_mut};
use crate::usb::setup::request;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, Submission, TransferFlags, TransferType,
    block_bytes,
};

/// URBs in flight and packets of an isochronous one, as Linux has them.
const URBS: usize = 5;
const PACKETS: u32 = 32;

struct Silent;

impl doorbell::Ring for Silent {
    fn ring(&self) {}
}

/// A host with one camera.
struct Host {
    device: Box<dyn Device>,
    descriptors: Descriptors,
    arena: Arena,
    now: Duration,
    slot: u32,
    /// Bytes of an isochronous packet, or of a bulk payload.
    payload_bytes: usize,
    assembler: Assembler,
}

impl Host {
    fn new(text: &str) -> Self {
        let options = CameraOptions::parse(text).expect("options of a test");
        let opener = CameraExport::camera(&options, 1).reserve().expect("free");
        Self {
            device: opener(&Doorbell::new(Arc::new(Silent))),
            descriptors: options.descriptors(),
            arena: Arena::new(64 << 20),
            now: Duration::from_secs(5),
            slot: 0,
            payload_bytes: 0,
            assembler: Assembler::default(),
        }
    }

    fn submit(&mut self, mut submission: Submission, data: &[u8]) {
        self.slot += 1;
        submission.slot = self.slot;
        let bytes = block_bytes(submission.length, submission.packets);
        let mut block = self.device.allocate(&self.arena, bytes).expect("memory");
        block.as_mut()[BUFFER_OFFSET..][..data.len()].copy_from_slice(data);
        let end = BUFFER_OFFSET + submission.length as usize;
        let packet = submission.length.checked_div(submission.packets).unwrap_or(0);
        for (index, row) in (0..).zip(packets_mut(&mut block.as_mut()[end..bytes])) {
            *row = PacketDescriptor::new(index * packet, packet);
        }
        self.device.submit(submission, block, self.now);
    }

    fn control(&mut self, setup: Setup, data: &[u8]) -> Result<Vec<u8>, i32> {
        let direction = if setup.is_in() { Direction::In } else { Direction::Out };
        let submission = Submission {
            direction,
            setup: setup.to_bytes(),
            ..submission(TransferType::Control, u32::from(setup.length), 0)
        };
        self.submit(submission, data);
        let Completed { finished, block } = self.device.poll(self.now).expect("at once");
        let actual = finished.actual_length as usize;
        match finished.status {
            0 => Ok(block.as_ref()[BUFFER_OFFSET..][..actual].to_vec()),
            status => Err(status),
        }
    }

    fn get(&mut self, request: u8, selector: u8, index: u16) -> Result<Vec<u8>, i32> {
        let value = u16::from(selector) << 8;
        self.control(Setup { request_type: CLASS_IN, request, value, index, length: 64 }, &[])
    }

    fn set(&mut self, selector: u8, data: &[u8]) -> Result<Vec<u8>, i32> {
        let (value, length) = (u16::from(selector) << 8, data.len() as u16);
        let setup = Setup { request_type: CLASS_OUT, request: SET_CUR, value, index: 1, length };
        self.control(setup, data)
    }

    fn set_alternate(&mut self, value: u16) {
        let request = request::SET_INTERFACE;
        let setup = Setup { request_type: 1, request, value, index: 1, length: 0 };
        assert_eq!(self.control(setup, &[]), Ok(vec![]));
    }

    fn error_code(&mut self) -> u8 {
        self.get(GET_CUR, REQUEST_ERROR_CODE, 0).expect("always there")[0]
    }

    /// Proposes, takes what the camera makes of it, and begins a stream; gives the frame size.
    fn start(&mut self, format: u8, frame: u8, interval: u32) -> u32 {
        let mut proposal = [0; CONTROL_BYTES];
        proposal[2..4].copy_from_slice(&[format, frame]);
        proposal[4..8].copy_from_slice(&interval.to_le_bytes());
        self.set(PROBE, &proposal).expect("a probe");
        let agreed = self.get(GET_CUR, PROBE, 1).expect("a probe");
        self.set(COMMIT, &agreed).expect("a commit");
        assert_eq!(self.get(GET_CUR, COMMIT, 1).as_ref(), Ok(&agreed));
        let field = |at: usize| u32::from_le_bytes(agreed[at..at + 4].try_into().expect("four"));
        let (alternate, payload_bytes) = self.setting_for(field(22));
        if alternate > 0 {
            self.set_alternate(alternate);
        }
        self.payload_bytes = payload_bytes as usize;
        self.assembler = Assembler { payload_bytes: field(22) as usize, ..Assembler::default() };
        for _ in 0..URBS {
            self.read();
        }
        field(18)
    }

    /// The first alternate setting whose packets are large enough, and their size.
    fn setting_for(&self, wanted: u32) -> (u16, u32) {
        let first = self.descriptors.configurations().next().expect("one");
        let settings = first.settings().filter(|setting| setting.interface == 1);
        for setting in settings {
            let Some(endpoint) = setting.endpoints().next() else { continue };
            if endpoint.attributes & 3 == 2 {
                return (0, wanted);
            }
            let packets = u32::from(endpoint.max_packet_size >> 11 & 3) + 1;
            let bytes = match endpoint.companion {
                Some(companion) => companion.bytes_per_interval.into(),
                None => u32::from(endpoint.max_packet_size & 0x7ff) * packets,
            };
            if bytes >= wanted {
                return (setting.alternate.into(), bytes);
            }
        }
        panic!("no setting for {wanted} bytes");
    }

    fn is_bulk(&self) -> bool {
        self.setting_for(1).0 == 0
    }

    fn read(&mut self) {
        let (kind, packets) = match self.is_bulk() {
            true => (TransferType::Bulk, 0),
            false => (TransferType::Isochronous, PACKETS),
        };
        let length = self.payload_bytes as u32 * packets.max(1);
        self.submit(Submission { endpoint: 1, ..submission(kind, length, packets) }, &[]);
    }

    /// Lets the loop turn once when the camera wants it to, and takes what has come.
    fn turn(&mut self) {
        let due = self.device.deadline().expect("the camera has something to do");
        self.now = self.now.max(due);
        self.device.handle_deadline(self.now);
        while let Some(Completed { finished, block }) = self.device.poll(self.now) {
            assert_eq!((finished.status, finished.error_count), (0, 0));
            self.take(block.as_ref(), finished.actual_length as usize);
            self.read();
        }
    }

    fn take(&mut self, block: &[u8], actual: usize) {
        if self.is_bulk() {
            let data = &block[BUFFER_OFFSET..][..actual];
            return self.assembler.transfer(data, self.payload_bytes);
        }
        let (buffer, rows) = block[BUFFER_OFFSET..].split_at(self.payload_bytes * PACKETS as usize);
        for row in packets(&rows[..PACKETS as usize * ISO_PACKET_BYTES]) {
            let data = &buffer[row.offset.get() as usize..][..row.actual_length.get() as usize];
            self.assembler.packets += 1;
            if !data.is_empty() {
                self.assembler.payload(data);
            }
        }
    }

    /// Streams until so many frames are whole.
    fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        while self.assembler.frames.len() < count {
            self.turn();
        }
        std::mem::take(&mut self.assembler.frames)
    }
}

fn submission(kind: TransferType, length: u32, packets: u32) -> Submission {
    Submission {
        slot: 0,
        kind,
        direction: Direction::In,
        endpoint: 0,
        setup: [0; 8],
        length,
        packets,
        flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
        start_frame: 0,
    }
}

/// Puts frames together from payloads, by the rules of the class.
#[derive(Default)]
struct Assembler {
    payload_bytes: usize,
    /// A bulk payload that is not whole.
    pending: Vec<u8>,
    frame: Vec<u8>,
    frames: Vec<Vec<u8>>,
    identifier: Option<u8>,
    /// Presentation time of the frame under way, and the source clock of the last payload.
    times: (u32, u32),
    /// Isochronous packets so far, and at the end of each frame.
    packets: u64,
    ends: Vec<u64>,
}

impl Assembler {
    /// A bulk payload ends with a short transfer or at the negotiated size.
    fn transfer(&mut self, data: &[u8], length: usize) {
        self.pending.extend_from_slice(data);
        if data.len() < length || self.pending.len() >= self.payload_bytes {
            let payload = std::mem::take(&mut self.pending);
            self.payload(&payload);
        }
    }

    fn payload(&mut self, payload: &[u8]) {
        assert!(payload.len() <= self.payload_bytes, "no more than negotiated");
        let (header, data) = payload.split_at(12);
        assert_eq!((header[0], header[1] & 0xfc), (12, 0x8c), "times, nothing else");
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let (taken, sent) = (word(2), word(6));
        assert!(sent >= taken && sent >= self.times.1, "{sent} {taken} {:?}", self.times);
        if self.frame.is_empty() {
            assert_ne!(self.identifier, Some(header[1] & 1), "another frame");
            assert!(self.frames.is_empty() || taken > self.times.0);
        } else {
            assert_eq!(self.identifier, Some(header[1] & 1), "the same frame");
            assert_eq!(taken, self.times.0);
        }
        self.identifier = Some(header[1] & 1);
        self.times = (taken, sent);
        self.frame.extend_from_slice(data);
        if header[1] & 2 != 0 {
            self.frames.push(std::mem::take(&mut self.frame));
            self.ends.push(self.packets);
        }
    }
}

/// The number that a frame shows; every byte of it is as it has to be.
fn number(format: Format, size: Size, frame: &[u8]) -> u32 {
    let number = match format {
        Format::Yuy2 => {
            assert_eq!(frame.len(), size.yuy2_bytes());
            let width = usize::from(size.width);
            read_number(size, |x, y| frame[(y * width + x) * 2])
        }
        Format::Mjpeg => {
            let luma = jpeg::decode_luma(size, frame).expect("a whole JPEG");
            read_number(size, |x, y| luma[y / CELL * (usize::from(size.width) / CELL) + x / CELL])
        }
    };
    let number = number.expect("a number with its checksum");
    let (mut picture, mut expected) = (Picture::new(size), Vec::new());
    picture.draw(number);
    match format {
        Format::Yuy2 => picture.yuy2(&mut expected),
        Format::Mjpeg => jpeg::encode(&picture, &mut expected),
    }
    assert!(frame == expected, "frame {number} differs");
    number
}

fn numbers(format: Format, size: Size, frames: &[Vec<u8>]) -> Vec<u32> {
    frames.iter().map(|frame| number(format, size, frame)).collect()
}

const SIZES: [Size; 3] = [
    Size { width: 640, height: 480 },
    Size { width: 320, height: 240 },
    Size { width: 1280, height: 720 },
];

#[test]
fn every_mode_sends_every_frame_once_and_in_order() {
    for options in ["", "speed=super", "transfer=bulk", "transfer=bulk:speed=super"] {
        for (format_index, format) in [(1, Format::Yuy2), (2, Format::Mjpeg)] {
            for (frame_index, size) in (1..).zip(SIZES) {
                let mut host = Host::new(&format!("{options}:pace=demand"));
                let bytes = host.start(format_index, frame_index, 0);
                let frames = host.frames(3);
                assert!(frames.iter().all(|frame| frame.len() <= bytes as usize));
                let found = numbers(format, size, &frames[..3]);
                assert_eq!(found, [0, 1, 2], "{options} {format:?} {size}");
            }
        }
    }
}

#[test]
fn isochronous_frames_keep_the_clock_of_their_endpoint() {
    let mut host = Host::new("pace=demand");
    host.start(1, 1, 0);
    let frames = host.frames(30);
    let order: Vec<u32> = (0..frames.len() as u32).collect();
    assert_eq!(numbers(Format::Yuy2, SIZES[0], &frames), order);
    for (number, end) in (0..).zip(&host.assembler.ends) {
        // 8000 packets a second, 333333 units of 100 ns each frame.
        let due = (number * 333_333_u64).div_ceil(1250);
        assert!(*end > due && *end <= due + 266, "frame {number} ends in packet {end}");
    }
}

#[test]
fn a_stream_begins_with_number_0_each_time() {
    for (options, format) in [("", 1), ("transfer=bulk", 2)] {
        let mut host = Host::new(&format!("{options}:pace=demand"));
        for _ in 0..2 {
            host.start(format, 2, 0);
            let frames = host.frames(2);
            let kind = if format == 1 { Format::Yuy2 } else { Format::Mjpeg };
            assert_eq!(numbers(kind, SIZES[1], &frames[..2]), [0, 1]);
            for slot in 1..=host.slot {
                host.device.cancel(slot, host.now);
            }
            while host.device.poll(host.now).is_some() {}
            if host.is_bulk() {
                let request = request::CLEAR_FEATURE;
                let setup = Setup { request_type: 2, request, value: 0, index: 0x81, length: 0 };
                assert_eq!(host.control(setup, &[]), Ok(vec![]));
                host.read();
                host.device.handle_deadline(host.now);
                assert!(host.device.poll(host.now).is_none(), "nothing comes without a commit");
                host.device.cancel(host.slot, host.now);
                assert!(host.device.poll(host.now).is_some());
            } else {
                host.set_alternate(0);
            }
        }
    }
}

#[test]
fn a_clock_sends_as_many_frames_as_the_rate_says() {
    for options in ["pace=real", "pace=real:transfer=bulk", "pace=2:transfer=bulk:speed=super"] {
        let mut host = Host::new(options);
        host.start(2, 3, 0);
        let begin = host.now;
        let frames = host.frames(31);
        assert_eq!(numbers(Format::Mjpeg, SIZES[2], &frames), (0..31).collect::<Vec<_>>());
        let factor = if options.contains("pace=2") { 2.0 } else { 1.0 };
        let seconds = (host.now - begin).as_secs_f64() * factor;
        assert!((0.999..1.05).contains(&seconds), "{options}: {seconds} s for 30 intervals");
    }
}

#[test]
fn a_host_that_falls_behind_loses_whole_frames_only() {
    let mut host = Host::new("pace=real");
    host.start(1, 2, 0);
    let mut frames = host.frames(3);
    // Half a second without a URB.
    host.now += Duration::from_millis(500);
    frames.extend(host.frames(3));
    let found = numbers(Format::Yuy2, SIZES[1], &frames);
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    assert!(found.last() > Some(&15), "the newest picture is sent, not the oldest: {found:?}");
}

#[test]
fn controls_answer_as_the_class_says() {
    let mut host = Host::new("pace=none");
    for selector in [PROBE, COMMIT] {
        assert_eq!(host.get(GET_LEN, selector, 1), Ok(vec![34, 0]));
        assert_eq!(host.get(GET_INFO, selector, 1), Ok(vec![3]));
        assert_eq!(host.get(GET_CUR, selector, 1).expect("all of it").len(), CONTROL_BYTES);
    }
    let interval = |bytes: Vec<u8>| u32::from_le_bytes(bytes[4..8].try_into().expect("four"));
    assert_eq!(host.get(GET_MIN, PROBE, 1).map(interval), Ok(333_333));
    assert_eq!(host.get(GET_MAX, PROBE, 1).map(interval), Ok(666_666));
    assert_eq!(host.get(GET_DEF, PROBE, 1), host.get(GET_CUR, PROBE, 1));
    assert_eq!(host.get(GET_RES, PROBE, 1), Ok(vec![0; CONTROL_BYTES]));
    assert_eq!(host.get(GET_INFO, REQUEST_ERROR_CODE, 0), Ok(vec![1]));
    let proposal = host.get(GET_DEF, PROBE, 1).expect("a default");
    assert!(host.set(PROBE, &proposal[..26]).is_ok(), "a host of version 1.0");
}

#[test]
fn bad_requests_stall_and_say_why() {
    let mut host = Host::new("pace=none");
    let stalled = Err(-errno::EPIPE);
    let mut wrong = host.get(GET_DEF, PROBE, 1).expect("a default");
    wrong[3] = 9;
    assert_eq!(host.set(COMMIT, &wrong), stalled);
    assert_eq!((host.error_code(), host.error_code()), (4, 0), "out of range, then no fault");
    assert_eq!(host.set(PROBE, &wrong[..25]), stalled);
    assert_eq!(host.error_code(), 4);
    for (request, selector, index, code) in [
        (GET_CUR, PROBE, 0x0901, 6),
        (GET_CUR, 9, 1, 6),
        (GET_CUR, REQUEST_ERROR_CODE, 0x0200, 6),
        (GET_CUR, REQUEST_ERROR_CODE, 0x0900, 5),
        (GET_MIN, COMMIT, 1, 7),
        (GET_MAX, REQUEST_ERROR_CODE, 0, 7),
        (0x99, PROBE, 1, 7),
    ] {
        assert_eq!(host.get(request, selector, index), stalled, "{request:#x} {index:#x}");
        assert_eq!(host.error_code(), code, "{request:#x} {index:#x}");
    }
    let vendor = Setup { request_type: 0xc0, request: 1, value: 0, index: 0, length: 8 };
    assert_eq!(host.control(vendor, &[]), stalled);
}

/// wTotalLength of each class header covers the class descriptors of its interface.
#[test]
fn descriptors_are_whole() {
    for options in ["", "speed=super", "transfer=bulk", "format=mjpeg:size=1920x1080:fps=24"] {
        let descriptors = CameraOptions::parse(options).expect("fine").descriptors();
        let bytes = descriptors.find(kind::CONFIGURATION, 0).expect("one");
        assert_eq!(usize::from(u16::from_le_bytes([bytes[2], bytes[3]])), bytes.len());
        let parts: Vec<_> = Parts::new(bytes).map(|part| part.bytes).collect();
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), bytes.len());
        assert_eq!(parts[1], [8, kind::INTERFACE_ASSOCIATION, 0, 2, 0x0e, 3, 0, 2]);
        let mut headers = 0;
        for (at, part) in parts.iter().enumerate() {
            if part[1] != 0x24 || part[2] != 1 {
                continue;
            }
            let total = if headers == 0 { &part[5..7] } else { &part[4..6] };
            let class = parts[at..].iter().take_while(|part| part[1] == 0x24);
            let sum: usize = class.map(|part| part.len()).sum();
            assert_eq!(usize::from(u16::from_le_bytes([total[0], total[1]])), sum, "{options}");
            headers += 1;
        }
        assert_eq!(headers, 2);
    }
}

#[test]
fn alternate_settings_go_up_to_three_packets_a_microframe() {
    let sizes = |options: &str| -> Vec<u16> {
        let descriptors = CameraOptions::parse(options).expect("fine").descriptors();
        let first = descriptors.configurations().next().expect("one");
        let settings = first.settings().flat_map(|setting| setting.endpoints());
        settings.map(|endpoint| endpoint.max_packet_size).collect()
    };
    let more = |packets: u16| (packets - 1) << 11;
    let [two, three] = [more(2), more(3)];
    let high = [128, 512, 1024, 768 | two, 1024 | two, 896 | three, 1024 | three];
    assert_eq!(sizes(""), high);
    assert_eq!(sizes("speed=super"), [1024; 6]);
    assert_eq!(
        (sizes("transfer=bulk"), sizes("transfer=bulk:speed=super")),
        (vec![512], vec![1024])
    );
}

/// A bulk payload that fills its last packet ends with an empty one, in this transfer or the next.
#[test]
fn bulk_payloads_of_whole_packets_end_with_an_empty_one() {
    let size = Size { width: 160, height: 120 };
    let fits = |full: &usize| size.yuy2_bytes() % (full - 12) % 64 == 64 - 12;
    let payload_bytes = (192..8192).step_by(64).find(fits).expect("one of them does");
    let last = size.yuy2_bytes() % (payload_bytes - 12) + 12;
    let interval = Duration::from_millis(33);
    let agreement =
        Agreement { format: Format::Yuy2, size, interval, payload_bytes, clocked: false };
    for room in [payload_bytes, last, 64, 4096 * 64] {
        let mut stream = Stream::new(agreement);
        let mut assembler = Assembler { payload_bytes, ..Assembler::default() };
        let transfer =
            Transfer { address: 0x81, max_packet_size: 64, offset: 0, time: Duration::ZERO };
        let mut data = vec![0; room];
        while assembler.frames.len() < 2 {
            let answer = stream.bulk(&transfer, &mut data);
            assert!(answer.bytes == room || answer.then == Then::Short);
            // Several full payloads may stand in one transfer.
            let mut rest = &data[..answer.bytes];
            while assembler.pending.len() + rest.len() >= payload_bytes {
                let (front, behind) = rest.split_at(payload_bytes - assembler.pending.len());
                assembler.transfer(front, front.len());
                rest = behind;
            }
            assembler
                .transfer(rest, if answer.then == Then::Short { usize::MAX } else { rest.len() });
        }
        assert_eq!(numbers(Format::Yuy2, size, &assembler.frames), [0, 1], "room {room}");
    }
    let mut stream = Stream::new(agreement);
    let transfer = Transfer { address: 0x81, max_packet_size: 64, offset: 0, time: interval };
    assert_eq!(stream.bulk(&transfer, &mut [0; 63]).then, Then::Overflow);
}
