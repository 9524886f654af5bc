//! The clock of a simulated device: how bus time follows the time of the process.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::usb::speed::Speed;

/// How fast a simulated device runs. Control transfers are executed at once in every pace.
///
/// What differs is when the other transfers are executed, and what the time of a packet is (the
/// [`time`](super::Transfer::time) that a [`Function`](super::Function) sees):
///
/// | Pace | bulk | interrupt, isochronous | time of a packet |
/// |---|---|---|---|
/// | `real`, `F` | by the bytes of a (micro)frame | one service per interval | of its interval |
/// | `demand` | at the next turn of the loop | the same | counted by the endpoint |
/// | `none` | inside `submit` | the same | counted by the endpoint |
///
/// * **`real` and `F`**: the bus clock runs from the first submission on, `F` times as fast as the
///   process's clock. The function is given the packets of an isochronous URB when its last one is
///   due (or something else needs the device), each with its own time. Isochronous service
///   intervals that pass while the queue of a running stream is empty are counted as missed, as
///   real hardware loses them (see [`StreamCounters`](super::StreamCounters)).
/// * **`demand`**: the bus clock stands still while nothing is queued. Each endpoint has a clock of
///   its own that moves on by one interval per packet served, and it serves everything that is
///   queued when the loop turns. So no packet is ever lost to time: one that is missing or out of
///   order at the client was lost on the way.
/// * **`none`**: as `demand`, but without waiting for the turn: the URB can be polled as soon as
///   `submit` has returned. URBs stay pending only where the function has nothing to say (NAK).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Bus time is process time multiplied by this, above 0: 1 is real, 0.1 ten times slower.
    Clock(f64),
    /// Time advances only when a URB is queued.
    Demand,
    /// No time at all.
    None,
}

impl Pace {
    /// The clock of the bus as it is.
    pub const REAL: Self = Self::Clock(1.0);

    /// Largest and smallest factor that the command line takes.
    const FACTORS: std::ops::RangeInclusive<f64> = 0.000_001..=1_000.0;
}

/// The text is neither a pace's name nor a factor within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not real, demand, none or a factor from 0.000001 to 1000")]
pub struct UnknownPace;

impl FromStr for Pace {
    type Err = UnknownPace;

    fn from_str(text: &str) -> Result<Self, UnknownPace> {
        match text {
            "real" => Ok(Self::REAL),
            "demand" => Ok(Self::Demand),
            "none" => Ok(Self::None),
            _ => match text.parse::<f64>() {
                Ok(factor) if Self::FACTORS.contains(&factor) => Ok(Self::Clock(factor)),
                _ => Err(UnknownPace),
            },
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demand => f.write_str("demand"),
            Self::None => f.write_str("none"),
            Self::Clock(1.0) => f.write_str("real"),
            Self::Clock(factor) => write!(f, "{factor}"),
        }
    }
}

/// Converts between the time of the process and that of the bus, which starts at 0 with the first
/// submission and is counted in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct BusClock {
    factor: f64,
    origin: Option<Duration>,
}

impl BusClock {
    pub(super) fn new(pace: Pace) -> Self {
        let factor = match pace {
            Pace::Clock(factor) => factor,
            Pace::Demand | Pace::None => 1.0,
        };
        Self { factor, origin: None }
    }

    /// Bus time at `now`, in nanoseconds.
    pub(super) fn bus_ns(&mut self, now: Duration) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        let elapsed_ns = now.saturating_sub(origin).as_nanos() as u64;
        if self.factor == 1.0 {
            return elapsed_ns;
        }
        (elapsed_ns as f64 * self.factor) as u64
    }

    /// The first moment of the process at which the bus has reached `bus_ns`.
    pub(super) fn process_time(&self, bus_ns: u64) -> Duration {
        let origin = self.origin.unwrap_or_default();
        if self.factor == 1.0 {
            return origin + Duration::from_nanos(bus_ns);
        }
        // One nanosecond more, so that rounding never wakes the loop too early.
        origin + Duration::from_nanos((bus_ns as f64 / self.factor).ceil() as u64 + 1)
    }
}

/// Length of a frame (low and full speed) or microframe, in nanoseconds.
pub(super) const fn frame_ns(speed: Speed) -> u64 {
    match speed {
        Speed::Unknown | Speed::Low | Speed::Full => 1_000_000,
        _ => 125_000,
    }
}

/// Bytes of bulk data that fit into one (micro)frame of an otherwise idle bus: 19 packets of 64
/// bytes (USB 2.0 table 5-9), 13 of 512 (table 5-10), 48 of 1024 (400 MB/s of the 500 MB/s that
/// Gen 1 has after 8b/10b coding). Low speed has no bulk transfers.
pub(super) const fn bulk_bytes_per_frame(speed: Speed) -> usize {
    match speed {
        Speed::Unknown | Speed::Low | Speed::Full => 19 * 64,
        Speed::High | Speed::Wireless => 13 * 512,
        Speed::Super | Speed::SuperPlus => 48 * 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_read_and_written() {
        for text in ["real", "demand", "none", "0.1", "12"] {
            assert_eq!(text.parse::<Pace>().expect("known").to_string(), text);
        }
        for text in ["", "0", "-1", "NaN", "inf", "fast", "1e9"] {
            assert_eq!(text.parse::<Pace>(), Err(UnknownPace), "{text:?}");
        }
    }

    #[test]
    fn a_scaled_clock_never_wakes_too_early() {
        for factor in [1.0, 0.1, 0.3, 7.0] {
            let mut clock = BusClock::new(Pace::Clock(factor));
            let start = Duration::from_secs(1234);
            assert_eq!(clock.bus_ns(start), 0);
            for frame in [1, 2, 3, 8001, 80_000_001] {
                let due = frame * 125_000;
                let at = clock.process_time(due);
                assert!(clock.bus_ns(at) >= due, "factor {factor} frame {frame}");
                assert!(clock.bus_ns(at) < due + 125_000, "and not a frame late");
            }
        }
    }
}
