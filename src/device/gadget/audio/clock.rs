//! The clock of a stream: which frames belong to which packet.

use std::ops::Range;
use std::time::Duration;

/// Counts frames by bus time. The frames of a packet are those of its service interval, so that a
/// packet that was never asked for takes its frames with it, and nothing adds up over time.
#[derive(Clone, Debug)]
pub(super) struct SampleClock {
    rate: u32,
    packets_per_second: u32,
    /// The first frame that no packet has had yet.
    next: u64,
    /// A service interval of the running stream, and its first frame.
    anchor: Option<(u64, u64)>,
}

impl SampleClock {
    /// A clock that stands at frame 0; it starts with the first packet.
    pub(super) fn new(rate: u32, packets_per_second: u32) -> Self {
        Self { rate, packets_per_second, next: 0, anchor: None }
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    pub(super) fn packets_per_second(&self) -> u32 {
        self.packets_per_second
    }

    /// Goes on at this rate from the next packet on; the frames stay numbered.
    pub(super) fn set_rate(&mut self, rate: u32) {
        if self.rate != rate {
            self.rate = rate;
            self.anchor = None;
        }
    }

    /// Stands at frame 0 again.
    pub(super) fn restart(&mut self) {
        self.next = 0;
        self.anchor = None;
    }

    /// The frames of the packet whose interval begins at this bus time.
    pub(super) fn frames(&mut self, time: Duration) -> Range<u64> {
        let interval = self.interval(time);
        let (start, base) = match self.anchor {
            Some(anchor) if anchor.0 <= interval => anchor,
            _ => *self.anchor.insert((interval, self.next)),
        };
        let first = base + self.until(interval - start);
        self.next = base + self.until(interval - start + 1);
        first..self.next
    }

    /// Number of the service interval that begins at this bus time.
    pub(super) fn interval(&self, time: Duration) -> u64 {
        time.as_secs() * u64::from(self.packets_per_second)
            + u64::from(time.subsec_nanos()) * u64::from(self.packets_per_second) / 1_000_000_000
    }

    /// Frames before this interval of the stream.
    fn until(&self, interval: u64) -> u64 {
        interval * u64::from(self.rate) / u64::from(self.packets_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(microframe: u64) -> Duration {
        Duration::from_nanos(microframe * 125_000)
    }

    #[test]
    fn a_rate_that_does_not_divide_is_exact_over_time() {
        let mut clock = SampleClock::new(44_100, 8000);
        let mut expected = 0;
        for microframe in 0..80_000 {
            let frames = clock.frames(at(1_000_003 + microframe));
            assert_eq!(frames.start, expected, "no frame is left out");
            assert!((5..=6).contains(&(frames.end - frames.start)));
            expected = frames.end;
        }
        assert_eq!(expected, 441_000, "ten seconds");
    }

    #[test]
    fn intervals_that_nobody_served_take_their_frames_with_them() {
        let mut clock = SampleClock::new(48_000, 1000);
        assert_eq!(clock.frames(Duration::from_millis(7)), 0..48);
        assert_eq!(clock.frames(Duration::from_millis(10)), 144..192);
    }

    #[test]
    fn a_change_of_rate_keeps_the_numbers_and_a_restart_does_not() {
        let mut clock = SampleClock::new(48_000, 1000);
        assert_eq!(clock.frames(Duration::from_millis(7)), 0..48);
        clock.set_rate(96_000);
        assert_eq!(clock.frames(Duration::from_millis(8)), 48..144);
        clock.set_rate(96_000);
        assert_eq!(clock.frames(Duration::from_millis(9)), 144..240);
        assert_eq!(clock.frames(Duration::from_millis(1)).start, 240, "time began anew");
        clock.restart();
        assert_eq!(clock.frames(Duration::from_millis(2)), 0..96);
    }
}
