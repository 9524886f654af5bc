//! A microphone: an asynchronous isochronous IN stream of a signal that can be recognised.
//!
//! The frames that it gives follow the clock of the bus. With `pace=demand` that clock moves only
//! when packets are asked for, and so the recording has every frame; with a clock that runs, the
//! frames of service intervals at which the host asks for nothing are lost, as those of a real
//! microphone, and the recording shows it.

use std::sync::Arc;

use usbip_fast_native::spool;

use super::super::export::{GadgetExport, Identity};
use super::super::function::{Answer, Change, Function, Stall, Then, Transfer};
use super::super::options::{OptionError, bad, number};
use super::clock::SampleClock;
use super::controls::Controls;
use super::format::Role;
use super::options::{AudioOptions, Wishes, common_keys};
use super::signal::{Counter, Tone};
use super::{DATA_IN, MANUFACTURER, STREAM_INTERFACE, descriptors, wav};
use crate::limits;
use crate::usb::setup::Setup;

const PRODUCT: &str = "Microphone (simulated)";

const KEYS: &str = concat!(common_keys!(), ", tone=HZ, file=NAME.wav");

/// How a microphone is made.
#[derive(Clone, Debug, PartialEq)]
pub struct MicrophoneOptions {
    /// What it has in common with a speaker.
    pub audio: AudioOptions,
    /// `tone=HZ` or `file=NAME.wav`; the counter without either.
    pub signal: Signal,
}

/// What a microphone hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The number of each frame; see [`super::signal`].
    Counter,
    /// A sine at half scale.
    Tone(Tone),
    /// These bytes, which are whole frames of the device's format, again and again.
    Samples(Arc<[u8]>),
}

/// What makes a simulated device a microphone.
#[derive(Debug)]
pub struct Microphone {
    controls: Controls,
    clock: SampleClock,
    signal: Signal,
    /// What the volume makes of a sample, in 1/65536.
    gain: i64,
    bits: u8,
    sample_bytes: usize,
    frame_bytes: usize,
}

/// An exported microphone.
pub type MicrophoneExport = GadgetExport<Microphone>;

impl MicrophoneOptions {
    /// Reads `key=value:key=value`; the empty text is a stereo microphone of 16 bits.
    /// A file is read whole, here and now, and decides what the text leaves open.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut signal = None;
        let mut file = None;
        let mut wishes = Wishes::parse(text, "microphone", KEYS, |key, value| {
            match key {
                // The lowest of the frequencies can carry less than half of itself.
                "tone" => {
                    let frequency = number(key, value, 1, 22_000)?;
                    signal = Some(Signal::Tone(Tone { frequency }));
                }
                "file" => file = Some(value.to_owned()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if let Some(name) = file {
            if signal.is_some() {
                return Err(bad("file", &name, "goes without tone"));
            }
            let bytes = spool::read(name.as_ref(), limits::SIMULATED_FILE_BYTES)
                .map_err(|error| bad("file", &name, format!("cannot be read: {error}")))?;
            let found =
                wav::parse(&bytes).map_err(|error| bad("file", &name, error.to_string()))?;
            wishes.adopt(&name, found.format)?;
            signal = Some(Signal::Samples(found.data.into()));
        }
        Ok(Self { audio: wishes.decide()?, signal: signal.unwrap_or(Signal::Counter) })
    }

    /// The descriptors of a device with these options.
    #[must_use]
    pub fn descriptors(&self) -> super::Descriptors {
        descriptors(Role::Microphone, &self.audio.format, PRODUCT, &self.audio.serial)
    }
}

impl MicrophoneExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn microphone(options: &MicrophoneOptions, number: u8) -> Self {
        let identity = Identity {
            number,
            manufacturer_name: MANUFACTURER,
            product_name: PRODUCT,
            serial: &options.audio.serial,
        };
        Self::new(Microphone::new(options), options.descriptors(), options.audio.pace, identity)
    }
}

impl Microphone {
    /// A microphone that no host has asked for anything.
    #[must_use]
    pub fn new(options: &MicrophoneOptions) -> Self {
        let format = &options.audio.format;
        let controls = Controls::new(format, DATA_IN);
        Self {
            gain: controls.gain(),
            controls,
            clock: SampleClock::new(format.rate, format.packets_per_second()),
            signal: options.signal.clone(),
            bits: format.bits,
            sample_bytes: format.sample_bytes(),
            frame_bytes: format.frame_bytes(),
        }
    }

    /// Writes the frames from this number on; `data` is whole frames.
    fn fill(&self, first: u64, data: &mut [u8]) {
        if self.controls.is_mute() {
            return data.fill(0);
        }
        let bits = self.bits;
        let frames = data.chunks_exact_mut(self.frame_bytes).zip(first..);
        match &self.signal {
            Signal::Counter => frames.for_each(|(frame, number)| {
                for (channel, place) in frame.chunks_exact_mut(self.sample_bytes).enumerate() {
                    put(place, Counter::sample(number, channel, bits));
                }
            }),
            Signal::Tone(tone) => frames.for_each(|(frame, number)| {
                let sample = tone.sample(number, self.clock.rate(), bits);
                for place in frame.chunks_exact_mut(self.sample_bytes) {
                    put(place, sample);
                }
            }),
            Signal::Samples(samples) => {
                let frames_there = (samples.len() / self.frame_bytes) as u64;
                frames.for_each(|(frame, number)| {
                    let start = (number % frames_there) as usize * self.frame_bytes;
                    frame.copy_from_slice(&samples[start..][..self.frame_bytes]);
                });
            }
        }
        if self.signal != Signal::Counter {
            self.attenuate(data);
        }
    }

    /// Carries out the volume. The counter keeps its numbers at any volume.
    fn attenuate(&self, data: &mut [u8]) {
        let gain = self.gain;
        if gain == 1 << 16 {
            return;
        }
        for place in data.chunks_exact_mut(self.sample_bytes) {
            let sample = i64::from(wav::sample(place));
            put(place, ((sample * gain) >> 16) as i32);
        }
    }
}

impl Function for Microphone {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        self.controls.read(setup, data)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        self.controls.write(setup, data)?;
        self.clock.set_rate(self.controls.rate());
        self.gain = self.controls.gain();
        Ok(())
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        let frames = self.clock.frames(transfer.time);
        let bytes = (frames.end - frames.start) as usize * self.frame_bytes;
        let Some(packet) = data.get_mut(..bytes) else {
            return Answer::nothing(Then::Overflow);
        };
        self.fill(frames.start, packet);
        Answer { bytes, then: Then::Short }
    }

    fn data_out(&mut self, _transfer: &Transfer, data: &[u8]) -> Answer {
        Answer::all(data.len())
    }

    /// Every stream counts from 0.
    fn changed(&mut self, change: Change) {
        match change {
            Change::Interface { interface: STREAM_INTERFACE, .. }
            | Change::Configuration(_)
            | Change::Reset => self.clock.restart(),
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }
}

/// Writes a sample of two or three bytes, little-endian.
fn put(place: &mut [u8], sample: i32) {
    let length = place.len();
    place.copy_from_slice(&sample.to_le_bytes()[..length]);
}
