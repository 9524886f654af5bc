//! Both devices behind the base, on a virtual clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use usbip_fast_native::{Arena, spool};

use super::super::{Function, Gadget};
use super::microphone::{Microphone, MicrophoneOptions};
use super::signal::{Counter, CounterReader, Tone};
use super::speaker::{Speaker, SpeakerCounts, SpeakerOptions};
use super::*;
use crate::device::{Completed, Device};
use crate::usb::descriptor::{Descriptors as Parts, kind};
use crate::usb::endpoint::EndpointMap;
use crate::usb::errno;
use crate::usb::isochronous::{PacketDescriptor, packets, packets_mut};
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, Submission, TransferFlags, TransferType,
    block_bytes,
};

/// A device, its clock and its memory.
struct Bench<F> {
    device: Gadget<F>,
    arena: Arena,
    now: Duration,
    /// The largest packet of the data endpoint.
    room: u32,
}

struct Answered {
    status: i32,
    data: Vec<u8>,
    /// Actual length and status of each packet.
    packets: Vec<(u32, i32)>,
}

impl Bench<Microphone> {
    fn microphone(text: &str) -> Self {
        let options = MicrophoneOptions::parse(text).expect("options of a test");
        Self::new(Microphone::new(&options), options.descriptors(), options.audio.pace)
    }

    /// `urbs` URBs of these packets, one after the other, each with room for the largest packet.
    fn record(&mut self, urbs: usize, packets: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..urbs {
            let answer = self.iso(DATA_IN, &vec![self.room; packets], &[]);
            assert_eq!(answer.status, 0);
            assert!(answer.packets.iter().all(|(_, status)| *status == 0));
            data.extend(answer.data);
        }
        data
    }
}

impl Bench<Speaker> {
    fn speaker(text: &str) -> (Self, Arc<speaker::SpeakerCounters>) {
        let options = SpeakerOptions::parse(text).expect("options of a test");
        let speaker = Speaker::new(&options);
        let counters = speaker.counters();
        (Self::new(speaker, options.descriptors(), options.audio.pace), counters)
    }

    fn feedback(&mut self, bytes: u32) -> u32 {
        let answer = self.iso(FEEDBACK, &[bytes], &[]);
        assert_eq!((answer.status, answer.packets), (0, vec![(bytes, 0)]));
        answer.data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }
}

impl<F: Function + Send + 'static> Bench<F> {
    fn new(function: F, descriptors: Descriptors, pace: super::super::Pace) -> Self {
        let mut map = EndpointMap::new(descriptors.listed(), 1);
        map.set_interface(STREAM_INTERFACE, STREAMING);
        let room = map.active().next().expect("a data endpoint").packet_bytes();
        let device = Gadget::new(function, Arc::new(descriptors), pace);
        Self { device, arena: Arena::new(16 << 20), now: Duration::from_secs(5), room }
    }

    /// Executes a URB: submits it and lets time pass until it is there.
    fn execute(&mut self, submission: Submission, sizes: &[u32], data: &[u8]) -> Answered {
        let bytes = block_bytes(submission.length, submission.packets);
        let mut block = self.device.allocate(&self.arena, bytes).expect("memory");
        block.as_mut()[BUFFER_OFFSET..][..data.len()].copy_from_slice(data);
        let end = BUFFER_OFFSET + submission.length as usize;
        let mut offset = 0;
        for (row, size) in packets_mut(&mut block.as_mut()[end..bytes]).iter_mut().zip(sizes) {
            *row = PacketDescriptor::new(offset, *size);
            offset += size;
        }
        self.device.submit(submission, block, self.now);
        let Completed { finished, block } = loop {
            if let Some(completed) = self.device.poll(self.now) {
                break completed;
            }
            self.now = self.now.max(self.device.deadline().expect("it waits for something"));
            self.device.handle_deadline(self.now);
        };
        let (buffer, rest) = block.as_ref()[BUFFER_OFFSET..].split_at(submission.length as usize);
        let rows = packets(&rest[..sizes.len() * ISO_PACKET_BYTES]);
        let packets: Vec<_> =
            rows.iter().map(|x| (x.actual_length.get(), x.status.get())).collect();
        let data = match rows.is_empty() {
            true => buffer[..finished.actual_length as usize].to_vec(),
            false => rows
                .iter()
                .flat_map(|row| {
                    &buffer[row.offset.get() as usize..][..row.actual_length.get() as usize]
                })
                .copied()
                .collect(),
        };
        Answered { status: finished.status, data, packets }
    }

    fn iso(&mut self, address: u8, sizes: &[u32], data: &[u8]) -> Answered {
        let submission = Submission {
            slot: 1,
            kind: TransferType::Isochronous,
            direction: if address & 0x80 == 0 { Direction::Out } else { Direction::In },
            endpoint: address & 0x0f,
            setup: [0; 8],
            length: sizes.iter().sum(),
            packets: sizes.len() as u32,
            flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
            start_frame: 0,
        };
        self.execute(submission, sizes, data)
    }

    fn control(
        &mut self,
        request_type: u8,
        request: u8,
        value: u16,
        index: u16,
        data: &[u8],
    ) -> Answered {
        let is_in = request_type & 0x80 != 0;
        let length = if is_in { 255 } else { data.len() as u16 };
        let setup = Setup { request_type, request, value, index, length };
        let submission = Submission {
            slot: 1,
            kind: TransferType::Control,
            direction: if is_in { Direction::In } else { Direction::Out },
            endpoint: 0,
            setup: setup.to_bytes(),
            length: length.into(),
            packets: 0,
            flags: TransferFlags::default(),
            start_frame: 0,
        };
        self.execute(submission, &[], data)
    }

    fn setting(&mut self, alternate: u8) {
        let answer = self.control(1, request::SET_INTERFACE, alternate.into(), 1, &[]);
        assert_eq!(answer.status, 0);
    }

    /// Audio 2.0: the clock's frequency.
    fn set_clock(&mut self, rate: u32) -> i32 {
        self.control(0x21, 1, 0x0100, 0x0400, &rate.to_le_bytes()).status
    }
}

/// Reads a counter from bytes of samples.
fn counted(data: &[u8], channels: usize, bits: u8) -> CounterReader {
    let mut reader = CounterReader::new(bits);
    let sample_bytes = usize::from(bits / 8);
    for frame in data.chunks_exact(sample_bytes * channels) {
        let samples: Vec<_> = frame.chunks_exact(sample_bytes).map(wav::sample).collect();
        reader.read(&samples);
    }
    reader
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_recording_on_demand_is_without_a_gap() {
    for class in ["uac1", "uac2"] {
        for (bits, channels) in [(16, 1), (16, 2), (16, 8), (24, 1), (24, 2), (24, 8)] {
            for rate in RATES {
                let format = format!("bits={bits}:channels={channels}:rate={rate}");
                let text = format!("class={class}:speed=high:{format}:pace=demand");
                let mut bench = Bench::microphone(&text);
                bench.setting(1);
                let data = bench.record(20, 80);
                let reader = counted(&data, channels, bits);
                assert_eq!((reader.gaps(), reader.first()), (0, Some(0)), "{text}");
                assert_eq!(reader.frames(), u64::from(rate) / 5, "a fifth of a second: {text}");
            }
        }
    }
}

#[test]
fn the_odd_frequency_is_exact_over_ten_seconds() {
    for (speed, packets, sizes) in [("high", 8000, [5, 6]), ("full", 1000, [44, 45])] {
        let text = format!("speed={speed}:rate=44100:channels=1:pace=demand");
        let mut bench = Bench::microphone(&text);
        bench.setting(1);
        let mut frames = 0;
        for _ in 0..packets / 10 {
            let answer = bench.iso(DATA_IN, &[bench.room; 100], &[]);
            assert!(answer.packets.iter().all(|(bytes, _)| sizes.contains(&(bytes / 2))));
            frames += answer.data.len() / 2;
        }
        assert_eq!(frames, 441_000, "{speed}");
    }
}

#[test]
fn any_split_into_urbs_gives_the_same_bytes() {
    let whole = {
        let mut bench = Bench::microphone("rate=44100:bits=24:pace=demand");
        bench.setting(1);
        bench.record(1, 1024)
    };
    let few = proptest::test_runner::Config::with_cases(32);
    proptest::proptest!(few, |(splits in proptest::collection::vec(1_usize..200, 1..20))| {
        let mut bench = Bench::microphone("rate=44100:bits=24:pace=demand");
        bench.setting(1);
        let mut data = Vec::new();
        let mut left = 1024;
        for split in splits.into_iter().chain([1024]) {
            let packets = split.min(left);
            left -= packets;
            if packets > 0 {
                data.extend(bench.record(1, packets));
            }
        }
        assert!(data == whole);
    });
}

#[test]
fn a_running_clock_loses_what_nobody_asks_for() {
    let mut bench = Bench::microphone("rate=48000:pace=real");
    bench.setting(1);
    let mut data = bench.record(10, 8);
    bench.now += Duration::from_millis(5);
    data.extend(bench.record(10, 8));
    let reader = counted(&data, 2, 16);
    assert_eq!(reader.gaps(), 1);
    let gap = reader.first_gap().expect("seen");
    let lost = gap.found.expect("it goes on") - gap.expected.expect("known");
    // A URB that follows in time has its place behind the one before; only the pause is lost.
    assert!((234..=246).contains(&lost), "5 ms: {lost}");
    assert_eq!(reader.last(), Some(160 * 6 + lost - 1));
}

#[test]
fn a_full_queue_on_a_running_clock_loses_nothing() {
    let mut bench = Bench::microphone("rate=44100:pace=real");
    bench.setting(1);
    let start = bench.now;
    let data = bench.record(1, 1000);
    let reader = counted(&data, 2, 16);
    assert_eq!((reader.gaps(), reader.first()), (0, Some(0)));
    assert_eq!(reader.frames(), 44_100 / 8);
    assert!((bench.now - start).abs_diff(SECOND / 8) <= Duration::from_micros(250));
}

#[test]
fn streams_begin_at_setting_one_and_count_from_zero() {
    let mut bench = Bench::microphone("pace=demand");
    assert_eq!(bench.iso(DATA_IN, &[bench.room], &[]).status, -errno::ENOENT, "no bandwidth");
    for _ in 0..2 {
        bench.setting(1);
        let reader = counted(&bench.record(3, 8), 2, 16);
        assert_eq!((reader.first(), reader.gaps()), (Some(0), 0));
    }
    bench.setting(0);
    assert_eq!(bench.iso(DATA_IN, &[bench.room], &[]).status, -errno::ENOENT);
    let setting = bench.control(0x81, request::GET_INTERFACE, 0, 1, &[]);
    assert_eq!(setting.data, [0]);
    assert_ne!(bench.control(1, request::SET_INTERFACE, 2, 1, &[]).status, 0);
}

#[test]
fn a_packet_without_room_is_an_overflow() {
    let mut bench = Bench::microphone("rate=48000:pace=demand");
    bench.setting(1);
    let answer = bench.iso(DATA_IN, &[24, 23, 28], &[]);
    assert_eq!(answer.packets, [(24, 0), (0, -errno::EOVERFLOW), (24, 0)]);
}

#[test]
fn the_clock_of_class_2_is_read_and_set() {
    let mut bench = Bench::microphone("pace=demand");
    bench.setting(1);
    assert_eq!(bench.control(0xa1, 1, 0x0100, 0x0400, &[]).data, 48_000_u32.to_le_bytes());
    assert_eq!(bench.control(0xa1, 1, 0x0200, 0x0400, &[]).data, [1], "valid");
    let ranges = bench.control(0xa1, 2, 0x0100, 0x0400, &[]).data;
    let words = ranges[2..].chunks_exact(4);
    let words: Vec<_> = words.map(|x| u32::from_le_bytes(x.try_into().expect("four"))).collect();
    assert_eq!((ranges[0], ranges[1]), (3, 0));
    assert_eq!(words, [44_100, 44_100, 0, 48_000, 48_000, 0, 96_000, 96_000, 0]);
    assert_eq!(bench.record(1, 8).len(), 48 * 4);
    assert_eq!(bench.set_clock(96_000), 0);
    assert_eq!(bench.record(1, 8).len(), 96 * 4);
    assert_eq!(bench.set_clock(44_100), 0);
    assert_eq!(bench.record(10, 8).len(), 441 * 4);
    assert_eq!(bench.set_clock(44_101), -errno::EPIPE);
    assert_eq!(bench.control(0x21, 1, 0x0100, 0x0400, &[0; 3]).status, -errno::EPIPE);
    assert_eq!(bench.control(0xa1, 1, 0x0100, 0x0400, &[]).data, 44_100_u32.to_le_bytes());
}

#[test]
fn the_endpoint_of_class_1_has_the_frequency() {
    let mut bench = Bench::microphone("class=uac1:pace=demand");
    bench.setting(1);
    let rate = |rate: u32| rate.to_le_bytes()[..3].to_vec();
    for (request, value) in [(0x81, 48_000), (0x82, 44_100), (0x83, 96_000)] {
        assert_eq!(bench.control(0xa2, request, 0x0100, 0x81, &[]).data, rate(value));
    }
    assert_eq!(bench.control(0x22, 1, 0x0100, 0x81, &rate(96_000)).status, 0);
    assert_eq!(bench.record(1, 1).len(), 96 * 4);
    for (endpoint, value) in [(0x81, 8000), (0x01, 48_000)] {
        let answer = bench.control(0x22, 1, 0x0100, endpoint, &rate(value));
        assert_eq!(answer.status, -errno::EPIPE);
    }
    assert_eq!(bench.control(0xa2, 0x84, 0x0100, 0x81, &[]).status, -errno::EPIPE);
}

#[test]
fn mute_silences_and_volume_is_for_sounds() {
    for (class, get) in [("uac1", 0x81), ("uac2", 1)] {
        let mut bench = Bench::microphone(&format!("class={class}:pace=demand:tone=1000"));
        bench.setting(1);
        let peak = |data: &[u8]| data.chunks(2).map(|x| wav::sample(x).abs()).max().unwrap_or(0);
        let loud = peak(&bench.record(10, 8));
        assert!((16_380..=16_384).contains(&loud), "half scale: {loud}");
        let volume = (-6 * 256_i16).to_le_bytes();
        assert_eq!(bench.control(0x21, 1, 0x0200, 0x0200, &volume).status, 0);
        assert_eq!(bench.control(0xa1, get, 0x0200, 0x0200, &[]).data, volume);
        let soft = peak(&bench.record(10, 8));
        assert!((8200..=8215).contains(&soft), "half of that: {soft}");
        assert_eq!(bench.control(0x21, 1, 0x0100, 0x0200, &[1]).status, 0);
        assert_eq!(bench.control(0xa1, get, 0x0100, 0x0200, &[]).data, [1]);
        assert_eq!(peak(&bench.record(10, 8)), 0);
        for (value, data) in [(0x0100, &[2][..]), (0x0200, &[0, 1]), (0x0300, &[0]), (0x0101, &[1])]
        {
            assert_eq!(bench.control(0x21, 1, value, 0x0200, data).status, -errno::EPIPE);
        }
        assert_eq!(bench.control(0x21, 1, 0x0100, 0x0700, &[1]).status, -errno::EPIPE);
        assert_eq!(bench.control(0x40, 1, 0, 0, &[]).status, -errno::EPIPE);
    }
}

#[test]
fn volumes_have_a_range() {
    let mut bench = Bench::microphone("pace=demand");
    let range = bench.control(0xa1, 2, 0x0200, 0x0200, &[]).data;
    assert_eq!(range, [1, 0, 0x00, 0xc4, 0x00, 0x00, 0x00, 0x01]);
    let mut bench = Bench::microphone("class=uac1:pace=demand");
    let read =
        |bench: &mut Bench<_>, request| bench.control(0xa1, request, 0x0200, 0x0200, &[]).data;
    assert_eq!([0x82, 0x83, 0x84].map(|x| read(&mut bench, x)), [[0, 0xc4], [0, 0], [0, 1]]);
}

#[test]
fn a_tone_is_pure() {
    let mut bench = Bench::microphone("rate=44100:bits=24:channels=1:tone=443:pace=demand");
    bench.setting(1);
    let data = bench.record(1000, 8);
    let scale = f64::from(1 << 23);
    let samples: Vec<_> = data.chunks_exact(3).map(|x| f64::from(wav::sample(x)) / scale).collect();
    let found = Tone { frequency: 443 }.measure(&samples, 44_100).expect("a sine");
    assert!((found.frequency - 443.0).abs() < 0.001, "{found:?}");
    assert!((found.amplitude - 0.5).abs() < 0.001 && found.residue < 0.001, "{found:?}");
}

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("audio-{name}-{}", std::process::id()))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "makes the file of the test")]
fn a_file_is_played_over_and_over() {
    let path = place("loop");
    let format = wav::WavFormat { rate: 44_100, channels: 3, bits: 24 };
    let samples: Vec<u8> = (0..9 * 1000_u32).map(|i| (i * 7 % 251) as u8).collect();
    let file = [&wav::header(format, samples.len() as u64)[..], &samples].concat();
    std::fs::write(&path, file).expect("written");
    let name = path.to_str().expect("text");
    let mut bench = Bench::microphone(&format!("file={name}:pace=demand"));
    bench.setting(1);
    let data = bench.record(100, 8);
    assert_eq!(data.len(), 4410 * 9, "format and rate of the file");
    assert!(data.chunks(9000).all(|part| *part == samples[..part.len()]));
    let refused = |text: &str| MicrophoneOptions::parse(text).expect_err(text).to_string();
    assert!(refused(&format!("file={name}:rate=48000")).contains("another rate"));
    assert!(refused(&format!("file={name}:tone=3")).contains("without tone"));
    assert!(refused(&format!("file={name}.none")).contains("cannot be read"));
    std::fs::remove_file(&path).expect("it was there");
}

/// Packets as a host sends them: whole frames, the rest carried over.
fn play(bench: &mut Bench<Speaker>, data: &[u8], rate: usize, per_second: usize, frame: usize) {
    let mut sent = 0;
    let mut packet = 0;
    while sent < data.len() {
        let mut sizes = Vec::new();
        let start = sent;
        while sizes.len() < 8 && sent < data.len() {
            packet += 1;
            let until = (packet * rate / per_second * frame).min(data.len());
            sizes.push((until - sent) as u32);
            sent = until;
        }
        let answer = bench.iso(DATA_OUT, &sizes, &data[start..sent]);
        assert_eq!(answer.status, 0);
        assert!(answer.packets.iter().zip(&sizes).all(|(got, size)| *got == (*size, 0)));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "removes the file of the test")]
fn what_is_played_is_in_the_file() {
    for (class, speed, per_second) in [("uac1", "full", 1000), ("uac2", "high", 8000)] {
        let path = place(class);
        let name = path.to_str().expect("text");
        let text =
            format!("class={class}:speed={speed}:rate=44100:bits=24:file={name}:pace=demand");
        let (mut bench, counters) = Bench::speaker(&text);
        let data: Vec<u8> = (0..44_100 * 2)
            .flat_map(|n| {
                Counter::sample(n / 2, n as usize % 2, 24).to_le_bytes().into_iter().take(3)
            })
            .collect();
        bench.setting(1);
        play(&mut bench, &data, 44_100, per_second, 6);
        bench.setting(0);
        bench.setting(1);
        play(&mut bench, &data[..6000], 44_100, per_second, 6);
        bench.device.close(bench.now);
        let expected = SpeakerCounts { streams: 2, frames: 45_100, ..SpeakerCounts::default() };
        assert_eq!(counters.read(), expected);
        drop(bench);
        let bytes = spool::read(&path, 1 << 30).expect("written");
        let found = wav::parse(&bytes).expect("whole");
        assert_eq!(found.format, wav::WavFormat { rate: 44_100, channels: 2, bits: 24 });
        assert!(found.data == [&data[..], &data[..6000]].concat(), "bit for bit");
        std::fs::remove_file(&path).expect("it was there");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "removes the file of the test")]
fn another_rate_begins_the_file_anew() {
    let path = place("rates");
    let (mut bench, _) = Bench::speaker(&format!("file={}:pace=demand", path.display()));
    bench.setting(1);
    play(&mut bench, &[1; 4000], 48_000, 8000, 4);
    assert_eq!(bench.set_clock(96_000), 0);
    play(&mut bench, &[2; 8000], 96_000, 8000, 4);
    bench.setting(0);
    drop(bench);
    let bytes = spool::read(&path, 1 << 30).expect("written");
    let found = wav::parse(&bytes).expect("whole");
    assert_eq!((found.format.rate, found.data), (96_000, &[2; 8000][..]));
    std::fs::remove_file(&path).expect("it was there");
}

#[test]
fn feedback_is_nominal_before_the_stream_and_follows_it() {
    for (speed, bytes, nominal) in [("high", 4, 6 << 16), ("full", 3, 48 << 14)] {
        let (mut bench, counters) = Bench::speaker(&format!("speed={speed}:pace=demand"));
        bench.setting(1);
        assert_eq!(bench.feedback(bytes), nominal, "{speed}");
        let per_second = if speed == "high" { 8000 } else { 1000 };
        play(&mut bench, &[0; 48 * 4 * 50], 48_000, per_second, 4);
        assert_eq!(bench.feedback(bytes).abs_diff(nominal) / 8, 0, "{speed}: nothing to correct");
        // A host that sends too much is asked for less.
        for _ in 0..10 {
            let frames = if speed == "high" { 7 } else { 49 };
            bench.iso(DATA_OUT, &[frames * 4; 8], &vec![0; frames as usize * 32]);
        }
        assert!(bench.feedback(bytes) < nominal, "{speed}");
        assert_eq!(counters.read().underruns, 0);
    }
}

#[test]
fn a_stream_that_stands_still_runs_dry() {
    let (mut bench, counters) = Bench::speaker("pace=real");
    bench.setting(1);
    bench.iso(DATA_OUT, &[24; 200], &[0; 4800]);
    bench.now += Duration::from_millis(10);
    bench.iso(DATA_OUT, &[24; 8], &[0; 192]);
    let counts = counters.read();
    assert_eq!((counts.frames, counts.underruns, counts.torn_packets), (1248, 1, 0));
    assert!((79..=82).contains(&counts.gaps), "{counts:?}");
    assert!(counts.silent_frames > 300, "{counts:?}");
    bench.iso(DATA_OUT, &[23], &[0; 23]);
    assert_eq!(counters.read().torn_packets, 1);
}

#[test]
fn what_does_not_fit_is_refused_and_what_fits_has_room() {
    let error = |text: &str| MicrophoneOptions::parse(text).expect_err(text).to_string();
    assert!(error("speed=full:channels=8:bits=24").contains("8 channels of 24 bits"));
    assert!(error("class=uac1:rate=96000:channels=6").contains("speed=high"));
    assert!(error("channels=9").contains("1 to 8"));
    assert!(error("rate=8000").contains("44100, 48000 or 96000"));
    assert!(error("bits=20").contains("16 or 24"));
    assert!(error("class=uac3").contains("uac1 or uac2"));
    assert!(error("speed=super").contains("full or high"));
    assert!(error("tone=0").contains("1 to 22000"));
    assert!(error("colour=red").contains("microphone has class="));
    assert!(SpeakerOptions::parse("tone=1").expect_err("none").to_string().contains("file="));
    let options = SpeakerOptions::parse("file=/nonexistent/x.wav").expect_err("no such folder");
    assert!(options.to_string().contains("cannot be written"));
    let format = |text| MicrophoneOptions::parse(text).expect("fits").audio.format;
    assert_eq!(format("speed=full:channels=8").rates, [44_100, 48_000], "those that fit");
    assert_eq!(format("speed=high:channels=8:bits=24").payload_bytes(), 13 * 24);
    assert_eq!(format("class=uac1").speed, Speed::Full);
}

/// Every combination has descriptors that add up, an endpoint that takes its largest packet, and
/// units that refer to one another.
#[test]
fn descriptors_are_whole() {
    for class in ["uac1", "uac2"] {
        for (speed, channels, bits) in
            [("full", 1, 16), ("full", 6, 24), ("high", 2, 16), ("high", 8, 24)]
        {
            let text = format!("class={class}:speed={speed}:channels={channels}:bits={bits}");
            let microphone = MicrophoneOptions::parse(&text).expect("fits");
            let speaker = SpeakerOptions::parse(&text).expect("fits");
            for (options, descriptors) in [
                (&microphone.audio, microphone.descriptors()),
                (&speaker.audio, speaker.descriptors()),
            ] {
                check_descriptors(&text, &options.format, &descriptors);
            }
        }
    }
}

fn check_descriptors(text: &str, format: &AudioFormat, descriptors: &Descriptors) {
    let bytes = descriptors.find(kind::CONFIGURATION, 0).expect("one");
    assert_eq!(usize::from(u16::from_le_bytes([bytes[2], bytes[3]])), bytes.len(), "{text}");
    let parts: Vec<_> = Parts::new(bytes).map(|part| part.bytes).collect();
    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), bytes.len());
    assert!(parts.iter().all(|part| usize::from(part[0]) == part.len()), "{text}");
    assert_eq!(bytes[4], 2, "interfaces");
    // The AudioControl header counts itself and what follows up to the streaming interface.
    let header = parts.iter().position(|part| part[1..3] == [0x24, 1]).expect("a header");
    let at = if format.class == AudioClass::Uac1 { 5 } else { 6 };
    let total = u16::from_le_bytes([parts[header][at], parts[header][at + 1]]);
    let units = parts[header..].iter().take_while(|part| part[1] == 0x24);
    assert_eq!(units.map(|part| part.len()).sum::<usize>(), usize::from(total), "{text}");
    let mut map = EndpointMap::new(descriptors.listed(), 1);
    assert_eq!(map.active().count(), 0, "no bandwidth before a stream");
    map.set_interface(STREAM_INTERFACE, STREAMING);
    let data = map.active().next().expect("a data endpoint");
    assert_eq!(data.packet_bytes(), u32::from(format.payload_bytes()));
    assert!(data.max_packet_size <= 1023 && data.interval == 1, "{text}");
    let most = format.rates.iter().map(|rate| rate.div_ceil(format.packets_per_second())).max();
    let needed = most.expect("one rate") as usize * format.frame_bytes();
    assert!(needed <= data.packet_bytes() as usize, "{text}");
}

/// The bytes of one device of each edition, against what a parser of Linux's driver expects.
#[test]
fn descriptors_as_written_down() {
    let bytes = |text: &str| {
        let descriptors = SpeakerOptions::parse(text).expect("fits").descriptors();
        descriptors.find(kind::CONFIGURATION, 0).expect("one").to_vec()
    };
    let class_2 = bytes("rate=48000");
    let interfaces: Vec<_> = Parts::new(&class_2).map(|part| part.bytes.to_vec()).collect();
    assert_eq!(interfaces[1], [8, 0x0b, 0, 2, 1, 0, 0x20, 4]);
    assert_eq!(interfaces[2], [9, 4, 0, 0, 0, 1, 1, 0x20, 4]);
    assert_eq!(interfaces[3], [9, 0x24, 1, 0, 2, 1, 64, 0, 0]);
    assert_eq!(interfaces[4], [8, 0x24, 0x0a, 4, 1, 0b0101, 0, 0]);
    assert_eq!(interfaces[5], [17, 0x24, 2, 1, 1, 1, 0, 4, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(interfaces[6], [18, 0x24, 6, 2, 1, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(interfaces[7], [12, 0x24, 3, 3, 1, 3, 0, 2, 4, 0, 0, 0]);
    assert_eq!(interfaces[9], [9, 4, 1, 1, 2, 1, 2, 0x20, 4]);
    assert_eq!(interfaces[10], [16, 0x24, 1, 1, 0, 1, 1, 0, 0, 0, 2, 3, 0, 0, 0, 0]);
    assert_eq!(interfaces[11], [6, 0x24, 2, 1, 2, 16]);
    assert_eq!(interfaces[12], [7, 5, 0x01, 0x05, 28, 0, 1]);
    assert_eq!(interfaces[13], [8, 0x25, 1, 0, 0, 0, 0, 0]);
    assert_eq!(interfaces[14], [7, 5, 0x81, 0x11, 4, 0, 4]);
    assert_eq!(interfaces.len(), 15);
    let class_1 = bytes("class=uac1:rate=48000");
    let interfaces: Vec<_> = Parts::new(&class_1).map(|part| part.bytes.to_vec()).collect();
    assert_eq!(interfaces[2], [9, 0x24, 1, 0, 1, 40, 0, 1, 1]);
    assert_eq!(interfaces[3], [12, 0x24, 2, 1, 1, 1, 0, 2, 3, 0, 0, 0]);
    assert_eq!(interfaces[4], [10, 0x24, 6, 2, 1, 1, 3, 0, 0, 0]);
    assert_eq!(interfaces[5], [9, 0x24, 3, 3, 1, 3, 0, 2, 0]);
    assert_eq!(interfaces[8], [7, 0x24, 1, 1, 1, 1, 0]);
    assert_eq!(interfaces[9], [11, 0x24, 2, 1, 2, 2, 16, 1, 0x80, 0xbb, 0]);
    assert_eq!(interfaces[10], [9, 5, 0x01, 0x05, 196, 0, 1, 0, 0x81]);
    assert_eq!(interfaces[11], [7, 0x25, 1, 1, 0, 0, 0]);
    assert_eq!(interfaces[12], [9, 5, 0x81, 0x01, 3, 0, 1, 1, 0]);
    assert_eq!(interfaces.len(), 13);
}
