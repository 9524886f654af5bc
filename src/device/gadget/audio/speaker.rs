//! A speaker: an asynchronous isochronous OUT stream with an explicit feedback endpoint.
//!
//! What the host sends goes into a WAV file as it comes, whatever mute and volume say. The speaker
//! also plays it, by the clock of the bus, from a buffer of a few milliseconds, and counts when
//! that runs empty; the feedback endpoint tells the host how many frames keep it full.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use usbip_fast_native::spool;

use super::super::export::{GadgetExport, Identity};
use super::super::function::{Answer, Change, Function, Stall, Then, Transfer};
use super::super::options::{OptionError, bad};
use super::controls::Controls;
use super::format::Role;
use super::options::{AudioOptions, Wishes, common_keys};
use super::playback::Playback;
use super::recording::Recording;
use super::wav::WavFormat;
use super::{DATA_OUT, MANUFACTURER, STREAM_INTERFACE, descriptors};
use crate::usb::setup::Setup;
use crate::usb::speed::Speed;

const PRODUCT: &str = "Speaker (simulated)";

const KEYS: &str = concat!(common_keys!(), ", file=NAME.wav");

/// How a speaker is made.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerOptions {
    /// What it has in common with a microphone.
    pub audio: AudioOptions,
    /// `file=NAME.wav`: where the sound goes. Streams follow one another in it; one at another rate
    /// begins it anew. Without it the speaker only counts.
    pub file: Option<PathBuf>,
}

/// What a speaker has counted over all its streams and sessions; the numbers only grow.
#[derive(Debug, Default)]
pub struct SpeakerCounters {
    streams: AtomicU64,
    frames: AtomicU64,
    gaps: AtomicU64,
    underruns: AtomicU64,
    silent_frames: AtomicU64,
    torn_packets: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpeakerCounts {
    /// Streams with at least one packet.
    pub streams: u64,
    /// Frames that have come.
    pub frames: u64,
    /// Service intervals without a packet between the first and the last of a stream.
    pub gaps: u64,
    /// How often the buffer ran empty between two packets of a stream.
    pub underruns: u64,
    /// Frames that should have been played then.
    pub silent_frames: u64,
    /// Packets that were not whole frames; the rest of such a packet is not played.
    pub torn_packets: u64,
}

/// What makes a simulated device a speaker.
#[derive(Debug)]
pub struct Speaker {
    controls: Controls,
    playback: Playback,
    frame_bytes: usize,
    feedback_bytes: usize,
    recording: Option<Recording>,
    counters: Arc<SpeakerCounters>,
    /// What was counted before the running stream; `None` without one.
    stream: Option<SpeakerCounts>,
}

/// An exported speaker.
pub type SpeakerExport = GadgetExport<Speaker>;

impl SpeakerOptions {
    /// Reads `key=value:key=value`; the empty text is a stereo speaker of 16 bits without a file.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be; a file that cannot be written
    /// is one.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut file = None;
        let wishes = Wishes::parse(text, "speaker", KEYS, |key, value| {
            if key != "file" {
                return Ok(false);
            }
            spool::try_to_write(value.as_ref())
                .map_err(|error| bad(key, value, format!("cannot be written: {error}")))?;
            file = Some(PathBuf::from(value));
            Ok(true)
        })?;
        Ok(Self { audio: wishes.decide()?, file })
    }

    /// The descriptors of a device with these options.
    #[must_use]
    pub fn descriptors(&self) -> super::Descriptors {
        descriptors(Role::Speaker, &self.audio.format, PRODUCT, &self.audio.serial)
    }
}

impl SpeakerExport {
    /// The device `sim-NUMBER` with these options.
    #[must_use]
    pub fn speaker(options: &SpeakerOptions, number: u8) -> Self {
        let identity = Identity {
            number,
            manufacturer_name: MANUFACTURER,
            product_name: PRODUCT,
            serial: &options.audio.serial,
        };
        Self::new(Speaker::new(options), options.descriptors(), options.audio.pace, identity)
    }
}

impl SpeakerCounters {
    /// The counters now.
    #[must_use]
    pub fn read(&self) -> SpeakerCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpeakerCounts {
            streams: read(&self.streams),
            frames: read(&self.frames),
            gaps: read(&self.gaps),
            underruns: read(&self.underruns),
            silent_frames: read(&self.silent_frames),
            torn_packets: read(&self.torn_packets),
        }
    }
}

impl Speaker {
    /// A speaker that has played nothing. Begins its file, if it has one.
    #[must_use]
    pub fn new(options: &SpeakerOptions) -> Self {
        let format = &options.audio.format;
        let wav = WavFormat {
            rate: format.rate,
            channels: format.channels.into(),
            bits: format.bits.into(),
        };
        Self {
            controls: Controls::new(format, DATA_OUT),
            playback: Playback::new(format.rate, format.packets_per_second()),
            frame_bytes: format.frame_bytes(),
            feedback_bytes: if format.speed == Speed::Full { 3 } else { 4 },
            recording: options.file.as_ref().map(|path| Recording::new(path, wav)),
            counters: Arc::default(),
            stream: None,
        }
    }

    /// What it counts; to be taken before it is exported.
    #[must_use]
    pub fn counters(&self) -> Arc<SpeakerCounters> {
        Arc::clone(&self.counters)
    }

    fn begin_stream(&mut self) {
        self.stream = Some(self.counters.read());
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
        let rate = self.controls.rate();
        self.playback.restart(rate);
        if let Some(recording) = &mut self.recording {
            recording.set_rate(rate);
        }
    }

    /// Says what the stream was, and makes its file whole.
    fn end_stream(&mut self) {
        let Some(before) = self.stream.take() else { return };
        let counts = self.counters.read();
        let mut lost_bytes = 0;
        if let Some(recording) = &mut self.recording {
            recording.flush();
            lost_bytes = recording.lost_bytes();
            if let Some(error) = recording.failure() {
                tracing::warn!(%error, "the speaker's file is not whole");
            }
        }
        tracing::info!(
            frames = counts.frames - before.frames,
            gaps = counts.gaps - before.gaps,
            underruns = counts.underruns - before.underruns,
            silent_frames = counts.silent_frames - before.silent_frames,
            torn_packets = counts.torn_packets - before.torn_packets,
            lost_bytes,
            "the speaker's stream has ended"
        );
    }
}

impl Function for Speaker {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        self.controls.read(setup, data)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        let before = self.controls.rate();
        self.controls.write(setup, data)?;
        if self.controls.rate() != before {
            // What follows is another stream, if packets follow at all.
            self.end_stream();
            self.playback.restart(self.controls.rate());
        }
        Ok(())
    }

    /// The feedback endpoint.
    fn data_in(&mut self, _transfer: &Transfer, data: &mut [u8]) -> Answer {
        let value = self.playback.feedback().to_le_bytes();
        let bytes = self.feedback_bytes;
        let Some(packet) = data.get_mut(..bytes) else {
            return Answer::nothing(Then::Overflow);
        };
        packet.copy_from_slice(&value[..bytes]);
        Answer { bytes, then: Then::Short }
    }

    fn data_out(&mut self, transfer: &Transfer, data: &[u8]) -> Answer {
        if self.stream.is_none() {
            self.begin_stream();
        }
        let frames = data.len() / self.frame_bytes;
        let noticed = self.playback.packet(transfer.time, frames as u64);
        let count = |counter: &AtomicU64, by: u64| {
            if by > 0 {
                counter.fetch_add(by, Ordering::Relaxed);
            }
        };
        count(&self.counters.frames, frames as u64);
        count(&self.counters.gaps, noticed.gaps);
        count(&self.counters.underruns, u64::from(noticed.silent_frames > 0));
        count(&self.counters.silent_frames, noticed.silent_frames);
        let whole = frames * self.frame_bytes;
        count(&self.counters.torn_packets, u64::from(data.len() > whole));
        if let Some(recording) = &mut self.recording {
            recording.add(&data[..whole]);
        }
        Answer::all(data.len())
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Interface { interface: STREAM_INTERFACE, .. }
            | Change::Configuration(_)
            | Change::Reset => {
                self.end_stream();
                self.playback.restart(self.controls.rate());
            }
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }
}
