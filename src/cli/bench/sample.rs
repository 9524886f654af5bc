//! What one round of a measurement has counted.

use std::time::Duration;

use hdrhistogram::Histogram;
use usbip_fast_native::clock;

/// Counts and latencies of one round.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    started: Duration,
    now: Duration,
    latencies: Histogram<u64>,
    pub(super) urbs: u64,
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) packet_errors: u64,
}

/// Longest latency that is told from longer ones, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// Decimal digits of a latency that count.
const DIGITS: u8 = 3;

impl Sample {
    /// Starts now.
    pub(super) fn new() -> Self {
        let started = clock::now();
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
            .expect("the bounds are in order and the digits few");
        Self { started, now: started, latencies, urbs: 0, bytes: 0, packets: 0, packet_errors: 0 }
    }

    /// One more transfer of `bytes` bytes, begun at `begun` and over at `now`.
    pub(super) fn record(&mut self, begun: Duration, now: Duration, bytes: u64) {
        let nanoseconds = u64::try_from(now.saturating_sub(begun).as_nanos()).unwrap_or(LONGEST_NS);
        self.latencies.saturating_record(nanoseconds);
        self.now = now;
        self.urbs += 1;
        self.bytes += bytes;
    }

    /// The time of the last transfer.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// From the start to the last transfer.
    pub(super) fn seconds(&self) -> f64 {
        self.now.saturating_sub(self.started).as_secs_f64().max(1e-9)
    }

    /// Transfers in a second.
    pub(super) fn rate(&self) -> f64 {
        self.urbs as f64 / self.seconds()
    }

    /// Payload, in 10^6 bytes.
    pub(super) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds()
    }

    /// The latency, in microseconds, that this share of the transfers did not exceed.
    pub(super) fn latency_us(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest latency, in microseconds.
    pub(super) fn longest_us(&self) -> f64 {
        self.latencies.max() as f64 / 1e3
    }

    /// What ran at the same time as one: counts add up, the time is that of the longest.
    pub(super) fn together<'a>(streams: impl Iterator<Item = &'a Self>) -> Self {
        let mut longest = Duration::ZERO;
        let streams = streams.inspect(|stream| {
            longest = longest.max(stream.now.saturating_sub(stream.started));
        });
        let mut sum = Self::sum(streams);
        sum.now = sum.started + longest;
        sum
    }

    /// All rounds as one.
    pub(super) fn sum<'a>(rounds: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::new();
        sum.now = sum.started;
        for round in rounds {
            sum.latencies.add(&round.latencies).expect("all have the same bounds");
            sum.now += round.now.saturating_sub(round.started);
            sum.urbs += round.urbs;
            sum.bytes += round.bytes;
            sum.packets += round.packets;
            sum.packet_errors += round.packet_errors;
        }
        sum
    }
}
