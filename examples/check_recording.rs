//! Checks a recording of the simulated microphone, or what the simulated speaker was played.
//!
//! ```text
//! usbip-fast serve --simulate microphone          # attach it, then
//! arecord -D hw:1 -f S16_LE -r 48000 -c 2 -d 20 x.wav
//! cargo run --example check_recording -- x.wav
//! ```
//!
//! ```text
//! check_recording FILE                 every frame has the number that follows the one before
//! check_recording FILE --tone HZ       it is that sine, at half scale, without a click
//! check_recording FILE --same OTHER    the same samples, silence before and behind apart
//! check_recording FILE --make RATE BITS CHANNELS FRAMES     makes a numbered file, silence behind
//! ```
//!
//! Exit code 1 if it is not so.

#![allow(clippy::disallowed_methods, reason = "a program of its own reads its own files")]

use std::error::Error;
use std::process::ExitCode;

use usbip_fast::device::gadget::audio::signal::{Counter, CounterReader, Gap, Tone};
use usbip_fast::device::gadget::audio::wav::{self, Wav, WavFormat};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    match *arguments {
        [file] => counter(&wav::parse(&std::fs::read(file)?)?),
        [file, "--tone", hz] => tone(&wav::parse(&std::fs::read(file)?)?, hz.parse()?),
        [file, "--same", other] => {
            same(&wav::parse(&std::fs::read(file)?)?, &wav::parse(&std::fs::read(other)?)?)
        }
        [file, "--make", rate, bits, channels, frames] => {
            let format =
                WavFormat { rate: rate.parse()?, bits: bits.parse()?, channels: channels.parse()? };
            make(file, format, frames.parse()?)
        }
        _ => Err("usage: check_recording FILE \
            [--tone HZ | --same OTHER | --make RATE BITS CHANNELS FRAMES]"
            .into()),
    }
}

/// Every frame has the number that follows the one before.
fn counter(recording: &Wav<'_>) -> Result<String, Box<dyn Error>> {
    let WavFormat { rate, channels, bits } = recording.format;
    let mut reader = CounterReader::new(u8::try_from(bits)?);
    let mut samples = Vec::new();
    for frame in frames(recording) {
        samples.clear();
        samples.extend(frame.chunks_exact(recording.format.sample_bytes()).map(wav::sample));
        reader.read(&samples);
    }
    let (count, gaps) = (reader.frames(), reader.gaps());
    let what = format!("{count} frames of {channels} channels, {bits} bits, {rate} Hz");
    match (reader.first_gap(), reader.first(), reader.last()) {
        (None, Some(first), Some(last)) => Ok(format!("{what}: no gap, {first} to {last}")),
        (Some(Gap { at, expected, found }), ..) => {
            let number = |number: Option<u64>| number.map_or("nothing".into(), |n| n.to_string());
            let (expected, found) = (number(expected), number(found));
            Err(format!("{what}: {gaps} gaps, the first at {at}: {found} for {expected}").into())
        }
        _ => Err(format!("{what}: too short").into()),
    }
}

/// It is that sine in every channel.
fn tone(recording: &Wav<'_>, frequency: u32) -> Result<String, Box<dyn Error>> {
    let WavFormat { rate, bits, channels } = recording.format;
    let scale = f64::from(1_u32 << (bits - 1));
    let mut said = String::new();
    for channel in 0..usize::from(channels) {
        let sample = |frame: &[u8]| {
            let mut samples = frame.chunks_exact(recording.format.sample_bytes());
            samples.nth(channel).map_or(0.0, |bytes| f64::from(wav::sample(bytes)) / scale)
        };
        let samples: Vec<f64> = frames(recording).map(sample).collect();
        let found = Tone { frequency }.measure(&samples, rate);
        let found = found.ok_or_else(|| format!("channel {channel}: no sine"))?;
        said = format!(
            "{} frames, channel {channel}: {:.4} Hz, amplitude {:.4}, residue {:.6}",
            samples.len(),
            found.frequency,
            found.amplitude,
            found.residue
        );
        let right = (found.frequency / f64::from(frequency) - 1.0).abs() < 0.001
            && (found.amplitude - 0.5).abs() < 0.005
            && found.residue < 0.01;
        if !right {
            return Err(said.into());
        }
    }
    Ok(said)
}

/// The same samples; a player may put silence before and behind them.
fn same(one: &Wav<'_>, other: &Wav<'_>) -> Result<String, Box<dyn Error>> {
    if one.format != other.format {
        return Err(format!("{:?} is not {:?}", one.format, other.format).into());
    }
    let (before, content, behind) = without_silence(one);
    let (_, expected, _) = without_silence(other);
    let silence = format!("{before} silent frames before, {behind} behind");
    let frame_bytes = one.format.frame_bytes();
    if content == expected {
        return Ok(format!("{} frames are the same, {silence}", content.len() / frame_bytes));
    }
    let at = content.iter().zip(expected).position(|(one, other)| one != other);
    let at = at.unwrap_or(content.len().min(expected.len())) / frame_bytes;
    let [count, wanted] = [content, expected].map(|data| data.len() / frame_bytes);
    Err(format!("{count} frames for {wanted}, the first other one at {at}, {silence}").into())
}

/// Silent frames at the front, what is between, silent frames at the end.
fn without_silence<'a>(recording: &Wav<'a>) -> (usize, &'a [u8], usize) {
    let is_sound = |frame: &[u8]| frame.iter().any(|byte| *byte != 0);
    let count = frames(recording).len();
    let first = frames(recording).position(is_sound).unwrap_or(count);
    let last = frames(recording).rposition(is_sound).unwrap_or(count - 1);
    let frame_bytes = recording.format.frame_bytes();
    let content = &recording.data[first * frame_bytes..(last + 1) * frame_bytes];
    (first, content, count - last - 1)
}

/// Makes a file of frames with numbers from 2 on (0 and 1 look like silence), and a tenth of a
/// second of silence behind them: when a stream is closed, Linux's driver takes back URBs that it
/// has queued and counted as played.
fn make(file: &str, format: WavFormat, count: u64) -> Result<String, Box<dyn Error>> {
    let bits = u8::try_from(format.bits)?;
    if ![16, 24].contains(&bits) {
        return Err("BITS must be 16 or 24".into());
    }
    let silence = u64::from(format.rate) / 10;
    let bytes = (count + silence) * format.frame_bytes() as u64;
    let mut content = wav::header(format, bytes).to_vec();
    for frame in 2..count + 2 {
        for channel in 0..usize::from(format.channels) {
            let sample = Counter::sample(frame, channel, bits).to_le_bytes();
            content.extend_from_slice(&sample[..format.sample_bytes()]);
        }
    }
    content.resize(content.len() + silence as usize * format.frame_bytes(), 0);
    std::fs::write(file, content)?;
    Ok(format!("{file}: {count} frames, {silence} silent ones"))
}

fn frames<'a>(recording: &Wav<'a>) -> std::slice::ChunksExact<'a, u8> {
    recording.data.chunks_exact(recording.format.frame_bytes())
}
