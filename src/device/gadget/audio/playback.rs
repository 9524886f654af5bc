//! The buffer between the packets of a speaker and its sound, and the feedback that keeps it half
//! full.

use std::time::Duration;

use super::clock::SampleClock;

/// How much sound is in the buffer before it is played, and what the feedback aims at.
const TARGET_MS: u32 = 2;

/// The feedback asks for what is missing, or too much, within this time.
const CORRECTION_SECONDS: i64 = 1;

/// The frames that have come and those that were played, by the clock of the bus.
#[derive(Clone, Debug)]
pub(super) struct Playback {
    clock: SampleClock,
    /// Frames in the buffer.
    level: u64,
    /// The frame of the clock up to which it was played; `None` while the buffer is being filled.
    played: Option<u64>,
    /// The service interval of the packet before.
    previous: Option<u64>,
}

/// What a packet has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noticed {
    /// Service intervals since the packet before that had none.
    pub(super) gaps: u64,
    /// Frames that should have been played and were not there.
    pub(super) silent_frames: u64,
}

impl Playback {
    pub(super) fn new(rate: u32, packets_per_second: u32) -> Self {
        let clock = SampleClock::new(rate, packets_per_second);
        Self { clock, level: 0, played: None, previous: None }
    }

    /// Empties the buffer and waits for a stream at this rate.
    pub(super) fn restart(&mut self, rate: u32) {
        self.clock.set_rate(rate);
        self.clock.restart();
        (self.level, self.played, self.previous) = (0, None, None);
    }

    /// Takes the frames of a packet, and plays those that are due at the end of its interval.
    pub(super) fn packet(&mut self, time: Duration, frames: u64) -> Noticed {
        let interval = self.clock.interval(time);
        let previous = self.previous.replace(interval);
        let gaps = previous.map_or(0, |previous| interval.saturating_sub(previous + 1));
        self.level += frames;
        let Some(played) = self.played else {
            if self.level >= self.target() {
                self.clock.restart();
                self.played = Some(0);
            }
            return Noticed { gaps, ..Noticed::default() };
        };
        // Counted from what was played last: the frames of intervals without a packet are due too.
        let until = self.clock.frames(time).end;
        let due = until - played;
        let silent_frames = due.saturating_sub(self.level);
        self.level -= due - silent_frames;
        // An empty buffer is filled again before it is played.
        self.played = (silent_frames == 0).then_some(until);
        Noticed { gaps, silent_frames }
    }

    /// Frames of a packet that the host should send, in 1/65536 (16.16) of a frame per microframe
    /// at high speed, in 1/16384 (10.14) per frame of the bus at full speed.
    pub(super) fn feedback(&self) -> u32 {
        let per_second = i64::from(self.clock.packets_per_second());
        let shift = if per_second == 1000 { 14 } else { 16 };
        let nominal = ((i64::from(self.clock.rate()) << shift) + per_second / 2) / per_second;
        if self.played.is_none() {
            return u32::try_from(nominal).expect("at most 96 frames a packet");
        }
        let bound = nominal >> 8;
        // In frames; a buffer beyond any bound is cut off before it is multiplied.
        let missing = self.target() as i64 - self.level.min(1 << 20) as i64;
        let correction = (missing << shift) / (per_second * CORRECTION_SECONDS);
        u32::try_from(nominal + correction.clamp(-bound, bound)).expect("near the nominal value")
    }

    fn target(&self) -> u64 {
        u64::from(self.clock.rate() * TARGET_MS / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that follows the feedback as exactly as whole frames allow, with a clock that is off
    /// by this many parts of a million.
    fn play(rate: u32, packets_per_second: u32, packets: u64, off: i64) -> Playback {
        let mut playback = Playback::new(rate, packets_per_second);
        let shift = if packets_per_second == 1000 { 14 } else { 16 };
        let mut owed = 0;
        for packet in 0..packets {
            let feedback = i64::from(playback.feedback());
            owed += feedback + feedback * off / 1_000_000;
            let time = Duration::from_nanos(packet * 1_000_000_000 / u64::from(packets_per_second));
            let noticed = playback.packet(time, (owed >> shift) as u64);
            owed &= (1 << shift) - 1;
            assert_eq!(noticed, Noticed::default(), "packet {packet}");
        }
        playback
    }

    #[test]
    fn feedback_keeps_the_buffer_near_its_target() {
        for (rate, per_second) in [(44_100, 8000), (44_100, 1000), (48_000, 8000), (96_000, 1000)] {
            for off in [-500, 0, 500] {
                let playback = play(rate, per_second, u64::from(per_second) * 20, off);
                let away = playback.level.abs_diff(playback.target());
                // What an error of the host's clock costs in a second, and rounding.
                let allowed = u64::from(rate) * off.unsigned_abs() / 1_000_000 + 3;
                let near = if rate == 96_000 { away <= allowed + 96 } else { away <= allowed + 45 };
                assert!(near, "{rate} Hz, {per_second}, {off}: {away}");
            }
        }
    }

    #[test]
    fn nominal_values_are_those_of_the_standard() {
        let value = |rate, per_second| Playback::new(rate, per_second).feedback();
        assert_eq!(value(48_000, 8000), 6 << 16);
        assert_eq!(value(48_000, 1000), 48 << 14);
        assert_eq!(value(44_100, 8000), 361_267);
        assert_eq!(value(44_100, 1000), 722_534);
    }

    #[test]
    fn an_empty_buffer_is_counted_once_and_filled_again() {
        let mut playback = Playback::new(48_000, 1000);
        let mut silent = Vec::new();
        for ms in 0..20 {
            let frames = if (5..10).contains(&ms) { 0 } else { 48 };
            silent.push(playback.packet(Duration::from_millis(ms), frames).silent_frames);
        }
        // Two packets fill the buffer, so the third packet without sound is the first too many.
        let expected = (0..20).map(|ms| if ms == 7 { 48 } else { 0 });
        assert_eq!(silent, expected.collect::<Vec<_>>());
    }

    #[test]
    fn intervals_without_a_packet_are_gaps_and_are_played() {
        let mut playback = Playback::new(48_000, 1000);
        for ms in 0..10 {
            assert_eq!(playback.packet(Duration::from_millis(ms), 48), Noticed::default());
        }
        let noticed = playback.packet(Duration::from_millis(20), 48);
        assert_eq!(noticed, Noticed { gaps: 10, silent_frames: 11 * 48 - 3 * 48 });
        playback.restart(44_100);
        let noticed = playback.packet(Duration::from_millis(50), 44);
        assert_eq!(noticed, Noticed::default(), "another stream");
    }
}
