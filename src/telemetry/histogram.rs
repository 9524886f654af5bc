//! Latencies in fixed memory: one increment per value, percentiles good to an eighth.

/// Buckets per power of two.
const STEPS: u64 = 8;

/// Values from here up, in microseconds (134 s), fall into the last bucket.
const CEILING_US: u64 = 1 << 27;

/// Eight values of their own, then eight buckets for each power of two below the ceiling.
const BUCKETS: usize = 200;

/// A log-linear histogram of microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Enters a value. Costs no allocation and no loop.
    pub fn record(&mut self, value_us: u64) {
        self.buckets[place(value_us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(value_us);
    }

    /// Values entered.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exact, in microseconds; 0 without values.
    #[must_use]
    pub const fn max_us(&self) -> u64 {
        self.max_us
    }

    /// The value below or at which `fraction` (0 to 1) of all values lie: the upper end of its
    /// bucket, at most an eighth above the truth and never above the largest value.
    #[must_use]
    pub fn percentile_us(&self, fraction: f64) -> u64 {
        percentile_us(self.filled(), fraction).min(self.max_us)
    }

    /// The buckets that hold something: largest value that falls into it, in microseconds, and how
    /// many did. Ascending.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + Clone + '_ {
        let all = self.buckets.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(|(place, count)| (upper_us(place), *count))
    }
}

/// As [`Histogram::percentile_us`], of buckets as [`Histogram::filled`] gives them; 0 of none.
#[must_use]
pub fn percentile_us(buckets: impl Iterator<Item = (u64, u64)> + Clone, fraction: f64) -> u64 {
    let total: u64 = buckets.clone().map(|(_, count)| count).sum();
    #[expect(clippy::cast_sign_loss, reason = "a fraction of a count is not negative")]
    let rank = ((total as f64 * fraction).ceil() as u64).max(1);
    let mut below = 0;
    let mut last = 0;
    for (upper, count) in buckets {
        last = upper;
        below += count;
        if below >= rank {
            break;
        }
    }
    last
}

fn place(value_us: u64) -> usize {
    let value = value_us.min(CEILING_US - 1);
    if value < STEPS {
        return value as usize;
    }
    let power = u64::from(value.ilog2());
    let step = (value >> (power - 3)) & (STEPS - 1);
    ((power - 2) * STEPS + step) as usize
}

fn upper_us(place: usize) -> u64 {
    let place = place as u64;
    if place < STEPS {
        return place;
    }
    let shift = place / STEPS - 1;
    (((STEPS + place % STEPS) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_no_bucket_is_wide() {
        let mut last = None;
        for value in (0..4096).chain((12..27).map(|power| (1 << power) + 1)) {
            let at = place(value);
            assert!(value <= upper_us(at), "{value}");
            assert!(at == 0 || value > upper_us(at - 1), "{value}");
            assert!(upper_us(at) - value <= value / 8, "{value}: {}", upper_us(at));
            assert!(last <= Some(at), "buckets ascend");
            last = Some(at);
        }
        assert_eq!(place(CEILING_US - 1), BUCKETS - 1);
        assert_eq!(place(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_find_the_tail_and_the_maximum_is_exact() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile_us(0.5), histogram.max_us()), (0, 0));
        (0..990).for_each(|_| histogram.record(100));
        (0..10).for_each(|_| histogram.record(50_001));
        assert_eq!(histogram.count(), 1000);
        assert!((100..=112).contains(&histogram.percentile_us(0.5)));
        assert!((100..=112).contains(&histogram.percentile_us(0.99)));
        assert_eq!(histogram.percentile_us(0.991), 50_001, "never above the largest value");
        histogram.record(u64::MAX);
        assert_eq!(histogram.max_us(), u64::MAX);
    }

    #[test]
    fn the_difference_of_two_looks_has_its_own_percentiles() {
        let mut histogram = Histogram::default();
        (0..100).for_each(|_| histogram.record(5));
        let before: Vec<_> = histogram.filled().collect();
        (0..10).for_each(|_| histogram.record(1000));
        let after = histogram.filled();
        let new = after.map(|(upper, count)| {
            let old = before.iter().find(|(other, _)| *other == upper).map_or(0, |(_, old)| *old);
            (upper, count - old)
        });
        assert!(percentile_us(new, 0.5) >= 1000);
        assert_eq!(histogram.percentile_us(0.5), 5);
    }
}
