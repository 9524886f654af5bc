//! What a simulated microphone hears: signals that a program can recognise in a recording.
//!
//! [`Counter`] numbers the frames, so that a recording proves that none is missing;
//! [`CounterReader`] reads it back. A [`Tone`] is a pure sine; [`Tone::measure`] finds its
//! frequency in a recording.
//!
//! # Encoding of the counter
//!
//! Frame `n` is half of a pair: its number, modulo 2^31, is `2 * pair + half`, and `pair` has 30
//! bits. Each sample of 16 bits is
//!
//! ```text
//! bit  15 … 1                                     0
//!      half 0: the low 15 bits of pair            0
//!      half 1: the high 15 bits of pair           1
//! ```
//!
//! plus 4096 times the channel's number (from 0), modulo 2^16, so that no channel can be taken for
//! another one. In a sample of 24 bits these 16 are the upper ones, and the lower 8 are the low
//! bits of `n` plus 32 times the channel's number; cut to 16 bits it is still a counter.
//!
//! So a single frame that is lost or doubled breaks the alternation of bit 0, any other number of
//! them the order of the pairs, and two frames in a row are enough to know their number. It
//! repeats after 2^31 frames: 12 hours at 48 kHz.

use std::f64::consts::TAU;

/// The signal that numbers its frames.
#[derive(Clone, Copy, Debug)]
pub struct Counter;

/// Numbers of frames begin again after this many.
pub const COUNTER_FRAMES: u64 = 1 << 31;

impl Counter {
    /// The sample of a channel (from 0, at most 8) in a frame, for samples of 16 or 24 bits.
    #[must_use]
    pub fn sample(frame: u64, channel: usize, bits: u8) -> i32 {
        let pair = frame % COUNTER_FRAMES / 2;
        let half = if frame.is_multiple_of(2) { pair & 0x7fff } else { pair >> 15 };
        let word = ((half << 1 | frame & 1) as u16).wrapping_add((channel as u16) << 12);
        let word = i32::from(word as i16);
        if bits == 16 {
            return word;
        }
        word << 8 | i32::from((frame as u8).wrapping_add((channel as u8) << 5))
    }

    /// The number of the first of two frames in a row, from channel 0 of both. `None` if they are
    /// not frames of the counter.
    fn locate(first: i32, second: i32, bits: u8) -> Option<u64> {
        let cut = |sample: i32| (if bits == 16 { sample } else { sample >> 8 }) as u16;
        let (first, second) = (cut(first), cut(second));
        let halves = [first, second].map(|word| u64::from(word >> 1));
        match (first & 1, second & 1) {
            (0, 1) => Some((halves[1] << 15 | halves[0]) << 1),
            (1, 0) => {
                // The high bits are those of the pair before the one that the low bits are of.
                let low = halves[1].wrapping_sub(1) & 0x7fff;
                Some((halves[0] << 15 | low) << 1 | 1)
            }
            _ => None,
        }
    }
}

/// Reads the counter of a recording, frame by frame.
#[derive(Clone, Debug)]
pub struct CounterReader {
    bits: u8,
    frames: u64,
    /// Channel 0 of the frame before, and whether its number is known.
    previous: Option<(i32, Option<u64>)>,
    first: Option<u64>,
    first_gap: Option<Gap>,
    gaps: u64,
}

/// A place where a recording does not go on as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which frame of the recording, from 0, is not the one that should follow.
    pub at: u64,
    /// The number it should have had; `None` where no number was known.
    pub expected: Option<u64>,
    /// The number with which the counter goes on behind it; `None` if it does not.
    pub found: Option<u64>,
}

impl CounterReader {
    /// A reader of samples of 16 or 24 bits that has read nothing.
    #[must_use]
    pub fn new(bits: u8) -> Self {
        Self { bits, frames: 0, previous: None, first: None, first_gap: None, gaps: 0 }
    }

    /// Reads the next frame: a sample of each channel.
    pub fn read(&mut self, samples: &[i32]) {
        let at = self.frames;
        self.frames += 1;
        let Some(&sample) = samples.first() else { return };
        let number = match self.previous {
            // Its number is found out with the frame behind it.
            None => None,
            Some((_, Some(before))) => {
                let expected = (before + 1) % COUNTER_FRAMES;
                if self.is_frame(expected, samples) {
                    Some(expected)
                } else {
                    self.note(Gap { at, expected: Some(expected), found: None });
                    None
                }
            }
            Some((before, None)) => self.synchronise(before, samples, at),
        };
        self.previous = Some((sample, number));
    }

    /// Finds the numbers of two frames from both of them.
    fn synchronise(&mut self, before: i32, samples: &[i32], at: u64) -> Option<u64> {
        let located = Counter::locate(before, samples[0], self.bits);
        let located = located.filter(|before| self.is_frame(before + 1, samples));
        let Some(before) = located else {
            if self.gaps == 0 {
                self.note(Gap { at: at - 1, expected: None, found: None });
            }
            return None;
        };
        self.first.get_or_insert(before);
        if self.gaps == 1 {
            self.first_gap.as_mut().map(|gap| gap.found.get_or_insert(before));
        }
        Some((before + 1) % COUNTER_FRAMES)
    }

    fn is_frame(&self, number: u64, samples: &[i32]) -> bool {
        let mut channels = samples.iter().enumerate();
        channels.all(|(channel, sample)| Counter::sample(number, channel, self.bits) == *sample)
    }

    fn note(&mut self, gap: Gap) {
        self.gaps += 1;
        self.first_gap.get_or_insert(gap);
    }

    /// Frames read.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Number of the first frame; `None` before two frames in a row were of the counter.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.first
    }

    /// Number of the last frame; `None` if it is not known.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.previous.and_then(|(_, number)| number)
    }

    /// Where the recording does not go on as it should for the first time.
    #[must_use]
    pub fn first_gap(&self) -> Option<Gap> {
        self.first_gap
    }

    /// How often it does not.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps
    }
}

/// A sine at half of full scale, the same in all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tone {
    /// In Hz.
    pub frequency: u32,
}

/// What [`Tone::measure`] finds in a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// In Hz.
    pub frequency: f64,
    /// Of the sine, as a part of full scale.
    pub amplitude: f64,
    /// What is left when the sine is taken away (root of the mean square), as a part of the
    /// amplitude: noise, clicks, or a phase that jumps where frames are missing.
    pub residue: f64,
}

impl Tone {
    /// The sample of every channel in a frame.
    #[must_use]
    pub fn sample(self, frame: u64, rate: u32, bits: u8) -> i32 {
        // Whole periods are taken away in whole numbers: the phase stays exact for ever.
        let rate = u64::from(rate);
        let phase = u64::from(self.frequency) * (frame % rate) % rate;
        let half_scale = f64::from(1_u32 << (bits - 2));
        ((phase as f64 / rate as f64 * TAU).sin() * half_scale).round() as i32
    }

    /// Measures one channel of a recording that should be this tone; `samples` are parts of full
    /// scale. `None` if it has no two upward zero crossings.
    #[must_use]
    pub fn measure(self, samples: &[f64], rate: u32) -> Option<Measured> {
        let rate = f64::from(rate);
        let crossings =
            samples.windows(2).enumerate().filter(|(_, two)| two[0] < 0.0 && two[1] >= 0.0);
        let mut times = crossings.map(|(at, two)| at as f64 + two[0] / (two[0] - two[1]));
        let first = times.next()?;
        let (count, last) = times.fold((0_u64, first), |(count, _), time| (count + 1, time));
        if count == 0 {
            return None;
        }
        let frequency = count as f64 * rate / (last - first);
        let turn = f64::from(self.frequency) * TAU / rate;
        let wave = |at: usize| (turn * at as f64).sin_cos();
        let scale = 2.0 / samples.len() as f64;
        let (sine, cosine) = samples.iter().enumerate().fold((0.0, 0.0), |sums, (at, sample)| {
            let (sine, cosine) = wave(at);
            (sums.0 + sample * sine * scale, sums.1 + sample * cosine * scale)
        });
        let amplitude = sine.hypot(cosine);
        let rest = samples.iter().enumerate().map(|(at, sample)| {
            let wave = wave(at);
            (sample - sine * wave.0 - cosine * wave.1).powi(2)
        });
        let residue = (rest.sum::<f64>() / samples.len() as f64).sqrt() / amplitude;
        Some(Measured { frequency, amplitude, residue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, channels: usize, bits: u8) -> Vec<i32> {
        (0..channels).map(|channel| Counter::sample(number, channel, bits)).collect()
    }

    fn read(numbers: impl IntoIterator<Item = u64>, channels: usize, bits: u8) -> CounterReader {
        let mut reader = CounterReader::new(bits);
        for number in numbers {
            reader.read(&frame(number, channels, bits));
        }
        reader
    }

    #[test]
    fn any_start_is_recognised_in_any_format() {
        for bits in [16, 24] {
            for channels in 1..=8 {
                for start in [0, 1, 2, 65_535, 65_536, 0x1234_5677, COUNTER_FRAMES - 3] {
                    let reader = read(start..start + 10, channels, bits);
                    assert_eq!(reader.first(), Some(start), "{bits} bits, {channels} channels");
                    assert_eq!(reader.last(), Some((start + 9) % COUNTER_FRAMES));
                    assert_eq!((reader.frames(), reader.gaps()), (10, 0));
                }
            }
        }
    }

    #[test]
    fn every_length_of_a_gap_is_seen_and_measured() {
        for bits in [16, 24] {
            for start in [0, 1, 32_700] {
                for lost in [1, 2, 3, 4, 6, 44, 48, 256, 32_768, 65_536, 65_537, 131_072, 1 << 24] {
                    let before = start..start + 100;
                    let after = start + 100 + lost..start + 200 + lost;
                    let reader = read(before.chain(after), 1, bits);
                    let gap = reader.first_gap().expect("seen");
                    // The high half changes only in every second frame.
                    assert!((100..=101).contains(&gap.at), "{lost} lost: {gap:?}");
                    let found = gap.found.expect("it goes on");
                    assert_eq!(found - gap.expected.expect("known"), lost);
                    assert_eq!(reader.gaps(), 1);
                    assert_eq!(reader.last(), Some(start + 199 + lost));
                }
            }
        }
    }

    #[test]
    fn doubled_frames_silence_and_swapped_channels_are_gaps() {
        for doubled in [1, 2, 48] {
            let reader = read((0..100).chain(100 - doubled..200), 2, 16);
            assert_eq!(reader.first_gap().expect("seen").found, Some(100 - doubled));
        }
        let mut reader = read(0..100, 2, 24);
        for _ in 0..10 {
            reader.read(&[0, 0]);
        }
        assert_eq!(reader.first_gap().map(|gap| gap.at), Some(100));
        assert_eq!(reader.last(), None);
        let mut reader = CounterReader::new(16);
        for number in 0..10 {
            let mut swapped = frame(number, 2, 16);
            swapped.swap(0, 1);
            reader.read(&swapped);
        }
        assert!(reader.gaps() > 0);
        assert_eq!(reader.first(), None);
    }

    #[test]
    fn silence_between_is_one_gap() {
        let silence = std::iter::repeat_n(vec![0], 100);
        let mut reader = read(0..100, 1, 16);
        for samples in silence {
            reader.read(&samples);
        }
        for number in 500..600 {
            reader.read(&frame(number, 1, 16));
        }
        let gap = Gap { at: 100, expected: Some(100), found: Some(500) };
        assert_eq!((reader.gaps(), reader.first_gap()), (1, Some(gap)));
        assert_eq!(reader.last(), Some(599));
    }

    #[test]
    fn a_frame_is_the_same_in_24_bits_cut_to_16() {
        for number in [0, 1, 77, 1 << 20, (1 << 30) + 1] {
            for channel in 0..8 {
                let long = Counter::sample(number, channel, 24);
                assert_eq!(long >> 8, Counter::sample(number, channel, 16));
                assert!((-(1 << 23)..1 << 23).contains(&long));
            }
        }
    }

    #[test]
    fn a_tone_is_measured() {
        for (rate, bits) in [(44_100, 16), (48_000, 24), (96_000, 16)] {
            let tone = Tone { frequency: 443 };
            let full_scale = f64::from(1_u32 << (bits - 1));
            let sample = |n| f64::from(tone.sample(n, rate, bits)) / full_scale;
            let samples: Vec<_> = (1000..u64::from(rate) * 2).map(sample).collect();
            let found = tone.measure(&samples, rate).expect("a sine");
            assert!((found.frequency - 443.0).abs() < 0.01, "{found:?}");
            assert!((found.amplitude - 0.5).abs() < 0.001, "{found:?}");
            assert!(found.residue < 0.001, "{found:?}");
            let torn: Vec<_> = [&samples[..20_000], &samples[20_006..]].concat();
            let found = tone.measure(&torn, rate).expect("a sine");
            assert!(found.residue > 0.01, "six frames are missing: {found:?}");
        }
        assert_eq!(Tone { frequency: 443 }.measure(&[0.0; 100], 48_000), None);
    }

    #[test]
    fn a_tone_stays_in_phase_for_ever() {
        let tone = Tone { frequency: 443 };
        let days = 48_000 * 86_400 * 30;
        assert_eq!(tone.sample(days + 17, 48_000, 24), tone.sample(17, 48_000, 24));
    }
}
