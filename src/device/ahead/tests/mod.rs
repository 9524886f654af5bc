//! A client with a short queue, a network, and simulated devices, on a virtual clock.

mod bench;
mod rules;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use usbip_fast_native::Doorbell;
use usbip_fast_native::doorbell::Ring;

use self::bench::{Client, Delay, Distant, MS, Tap};
use super::*;
use crate::device::Export;
use crate::device::gadget::audio::signal::CounterReader;
use crate::device::gadget::audio::speaker::{
    Speaker, SpeakerCounters, SpeakerExport, SpeakerOptions,
};
use crate::device::gadget::{Gadget, simulate};

const DATA_IN: u8 = 0x81;
const DATA_OUT: u8 = 0x01;

/// 48 kHz in two channels of 16 bits, in microframes.
const PACKET: u32 = 24;

/// A queue longer than the longest round trip of [`Delay::FAR`], and shorter than one with a loss.
const DEPTH: usize = 30;

struct Silent;

impl Ring for Silent {
    fn ring(&self) {}
}

/// Where the working ahead is done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Nowhere,
    AtTheDevice,
    AtTheClient,
}

/// A simulated device behind a network.
fn far(text: &str, delay: Delay, place: Where, lead: Lead) -> Client {
    let spec = &simulate::parse(text).expect("a device")[0];
    let mut export = spec.export(1);
    let description = export.describe().clone();
    let device = export.reserve().expect("free")(&Doorbell::new(Arc::new(Silent)));
    far_device(device, &description, delay, place, lead)
}

fn far_device(
    device: Box<dyn Device>,
    description: &DeviceDescription,
    delay: Delay,
    place: Where,
    lead: Lead,
) -> Client {
    let ahead = |device| Box::new(Ahead::new(device, description, lead)) as Box<dyn Device>;
    let mut client = Client::new(match place {
        Where::Nowhere => Distant::wrap(device, delay, 7),
        Where::AtTheDevice => Distant::wrap(ahead(device), delay, 7),
        Where::AtTheClient => ahead(Distant::wrap(device, delay, 7)),
    });
    client.setting(1, 1);
    client
}

fn prefetch(milliseconds: u32) -> Lead {
    Lead { prefetch: Some(MS * milliseconds), jitter: None }
}

fn jitter(milliseconds: u32) -> Lead {
    Lead { prefetch: None, jitter: Some(MS * milliseconds) }
}

/// Records with `depth` URBs of 1 ms queued. Returns the gaps, those of the first 200 ms left out.
fn record(client: &mut Client, depth: usize, milliseconds: usize) -> u64 {
    let mut reader = CounterReader::new(16);
    let (mut asked, mut heard) = (0, 0);
    while heard < milliseconds {
        while asked < milliseconds && client.in_flight() < depth {
            client.iso(DATA_IN, &[28; 8], &[]);
            asked += 1;
        }
        for answer in client.answers.drain(..) {
            assert_eq!((answer.status, answer.errors), (0, 0));
            heard += 1;
            if heard > 200 {
                for frame in answer.data.chunks_exact(4) {
                    let sample = |at: usize| i16::from_le_bytes([frame[at], frame[at + 1]]).into();
                    reader.read(&[sample(0), sample(2)]);
                }
            }
        }
        assert!(heard >= milliseconds || client.step(), "the stream goes on");
    }
    reader.gaps()
}

#[test]
fn prefetch_keeps_a_recording_whole_where_the_queue_alone_does_not() {
    let gaps = |place, lead, is_asap| {
        let mut client = far("microphone", Delay::FAR, place, lead);
        client.is_asap = is_asap;
        let gaps = record(&mut client, DEPTH, 20_000);
        let level = client.device.ahead(DATA_IN);
        let missed = client.device.missed(DATA_IN).expect("a simulated device knows");
        assert_eq!(gaps == 0, missed == 0, "{gaps} gaps, {missed} missed");
        client.finish();
        (gaps, level)
    };
    let (without, level) = gaps(Where::Nowhere, Lead::default(), true);
    assert!(without > 10, "{without} gaps");
    assert_eq!(level, None);
    for is_asap in [true, false] {
        let (with, level) = gaps(Where::AtTheDevice, prefetch(60), is_asap);
        assert_eq!(with, 0);
        let level = level.expect("it was read ahead");
        assert_eq!(level.limit, MS * 60);
        let is_safe = level.low > Some(MS) && level.dry == 0;
        assert!(level.level <= level.limit && is_safe, "{level:?}");
    }
}

#[test]
fn a_queue_shorter_than_the_round_trip_is_helped_at_the_clients_end_only() {
    let gaps = |place| {
        let mut client = far("microphone", Delay::FAR, place, prefetch(80));
        let gaps = record(&mut client, 10, 20_000);
        client.finish();
        gaps
    };
    assert!(gaps(Where::Nowhere) > 100);
    assert!(gaps(Where::AtTheDevice) > 100, "no answer before the question");
    assert_eq!(gaps(Where::AtTheClient), 0);
}

#[test]
fn near_the_device_prefetch_changes_no_byte_and_adds_no_time() {
    for pace in ["real", "demand", "none", "0.1"] {
        let text = format!("microphone:pace={pace}");
        let mut plain = far(&text, Delay::NONE, Where::Nowhere, Lead::default());
        let mut ahead = far(&text, Delay::NONE, Where::AtTheDevice, prefetch(20));
        for client in [&mut plain, &mut ahead] {
            assert_eq!(record(client, 10, 1000), 0, "{pace}");
        }
        if pace == "real" {
            assert_eq!(plain.now, ahead.now);
        }
        plain.finish();
        ahead.finish();
    }
}

/// A speaker, what reaches it, and what it counts.
struct Played {
    gaps: u64,
    underruns: u64,
    is_exact: bool,
    level: Option<AheadLevel>,
}

fn open_speaker(
    delay: Delay,
    place: Where,
    lead: Lead,
) -> (Client, Rc<RefCell<Vec<u8>>>, Arc<SpeakerCounters>) {
    open_speaker_as("", delay, place, lead)
}

fn open_speaker_as(
    text: &str,
    delay: Delay,
    place: Where,
    lead: Lead,
) -> (Client, Rc<RefCell<Vec<u8>>>, Arc<SpeakerCounters>) {
    let options = SpeakerOptions::parse(text).expect("options");
    let description = SpeakerExport::speaker(&options, 1).describe().clone();
    let speaker = Speaker::new(&options);
    let counters = speaker.counters();
    let gadget = Gadget::new(speaker, Arc::new(options.descriptors()), options.audio.pace);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let tap = Tap { inner: Box::new(gadget), heard: Rc::clone(&heard) };
    (far_device(Box::new(tap), &description, delay, place, lead), heard, counters)
}

/// Plays with `depth` URBs of 1 ms queued.
fn play(delay: Delay, place: Where, lead: Lead, depth: usize, milliseconds: usize) -> Played {
    let (mut client, heard, counters) = open_speaker(delay, place, lead);
    let sizes = [PACKET; 8];
    let bytes = (PACKET * 8) as usize;
    let sound: Vec<u8> = (0..milliseconds * bytes).map(|at| (at * 7 + at / 251) as u8).collect();
    let (mut sent, mut answered) = (0, 0);
    while answered < milliseconds {
        while sent < milliseconds && client.in_flight() < depth {
            client.iso(DATA_OUT, &sizes, &sound[sent * bytes..][..bytes]);
            sent += 1;
        }
        for answer in client.answers.drain(..) {
            assert_eq!((answer.status, answer.errors, answer.data.len()), (0, 0, bytes));
            answered += 1;
        }
        assert!(answered >= milliseconds || client.step(), "the stream goes on");
    }
    let level = client.device.ahead(DATA_OUT);
    // What was accepted is played out before the alternate setting changes.
    client.setting(1, 0);
    let counts = counters.read();
    assert_eq!(counts.frames, milliseconds as u64 * 48);
    client.finish();
    let is_exact = *heard.borrow() == sound;
    Played { gaps: counts.gaps, underruns: counts.underruns, is_exact, level }
}

#[test]
fn the_jitter_buffer_keeps_a_sound_whole_where_the_queue_alone_does_not() {
    let without = play(Delay::FAR, Where::Nowhere, Lead::default(), DEPTH, 20_000);
    assert!(without.gaps > 10 && without.underruns > 0 && without.is_exact);
    let with = play(Delay::FAR, Where::AtTheDevice, jitter(60), DEPTH, 20_000);
    assert_eq!((with.gaps, with.underruns, with.is_exact), (0, 0, true));
    let level = with.level.expect("it was held back");
    assert!(level.level <= MS * 60 && level.low > Some(Duration::ZERO), "{level:?}");
    assert_eq!(level.dry, 0);
}

#[test]
fn a_short_queue_plays_over_a_long_way_with_the_buffer_at_the_clients_end() {
    let server = play(Delay::FAR, Where::AtTheDevice, jitter(80), 10, 20_000);
    assert!(server.gaps > 0 && server.is_exact, "{} gaps", server.gaps);
    let client = play(Delay::FAR, Where::AtTheClient, jitter(80), 10, 20_000);
    assert_eq!((client.gaps, client.underruns, client.is_exact), (0, 0, true));
}

#[test]
fn accepting_keeps_the_devices_pace_from_the_first_urb_on() {
    let (mut client, _, _) = open_speaker(Delay::NONE, Where::AtTheDevice, jitter(30));
    let begin = client.now;
    let mut at = Vec::new();
    while at.len() < 200 {
        while client.in_flight() < 10 {
            client.iso(DATA_OUT, &[PACKET; 8], &[1; 192]);
        }
        assert!(client.step(), "the stream goes on");
        at.extend(client.answers.drain(..).map(|answer| answer.at - begin));
    }
    for (number, at) in at.iter().enumerate() {
        let expected = MS * (number as u32 + 1);
        assert!(at.abs_diff(expected) <= MS * 2, "URB {number} at {at:?}");
    }
    client.finish();
}
