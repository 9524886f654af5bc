//! What a measurement has shown.

use std::io::{self, Write};

use serde::Serialize;

use super::BenchArgs;
use super::load::WireBytes;
use super::sample::Sample;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    transfer: String,
    depth: u32,
    size: usize,
    device: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
}

#[derive(Debug, Serialize)]
struct Figures {
    seconds: f64,
    urbs: u64,
    urbs_per_second: f64,
    megabytes_per_second: f64,
    latency_us: Latency,
    isochronous_packets: u64,
    isochronous_packet_errors: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// Device over floor, the median of the rounds.
#[derive(Debug, Serialize)]
struct Ratio {
    rounds: usize,
    rate: f64,
    latency_p50: f64,
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        transfer: &str,
        wire: WireBytes,
        rounds: &[(Sample, Option<Sample>)],
    ) -> Self {
        let device = Sample::sum(rounds.iter().map(|(device, _)| device));
        let pairs: Vec<(&Sample, &Sample)> =
            rounds.iter().filter_map(|(device, floor)| Some((device, floor.as_ref()?))).collect();
        let floor = (!pairs.is_empty())
            .then(|| Figures::new(&Sample::sum(pairs.iter().map(|&(_, floor)| floor))));
        let ratio = (!pairs.is_empty()).then(|| Ratio {
            rounds: pairs.len(),
            rate: median(pairs.iter().map(|(device, floor)| device.rate() / floor.rate())),
            latency_p50: median(
                pairs.iter().map(|(device, floor)| device.latency_us(0.5) / floor.latency_us(0.5)),
            ),
        });
        Self {
            schema: 1,
            transfer: transfer.to_owned(),
            depth: args.depth,
            size: wire.payload,
            device: Figures::new(&device),
            floor,
            ratio,
        }
    }

    pub(super) fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    pub(super) fn print_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}, {} bytes, depth {}", self.transfer, self.size, self.depth)?;
        self.device.print("device", out)?;
        if let (Some(floor), Some(ratio)) = (&self.floor, &self.ratio) {
            floor.print("floor", out)?;
            writeln!(
                out,
                "ratio   rate {:.3}, p50 latency {:.3} (device to floor, median of {} rounds)",
                ratio.rate, ratio.latency_p50, ratio.rounds
            )?;
        }
        Ok(())
    }
}

impl Figures {
    fn new(sample: &Sample) -> Self {
        Self {
            seconds: sample.seconds(),
            urbs: sample.urbs,
            urbs_per_second: sample.rate(),
            megabytes_per_second: sample.megabytes_per_second(),
            latency_us: Latency {
                p50: sample.latency_us(0.5),
                p90: sample.latency_us(0.9),
                p99: sample.latency_us(0.99),
                p99_9: sample.latency_us(0.999),
                max: sample.longest_us(),
            },
            isochronous_packets: sample.packets,
            isochronous_packet_errors: sample.packet_errors,
        }
    }

    fn print(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let Latency { p50, p90, p99, p99_9, max } = self.latency_us;
        writeln!(
            out,
            "{name:7} {:.0} URB/s, {:.1} MB/s; latency in µs: p50 {p50:.1}, p90 {p90:.1}, \
             p99 {p99:.1}, p99.9 {p99_9:.1}, max {max:.1}",
            self.urbs_per_second, self.megabytes_per_second
        )?;
        if self.isochronous_packets > 0 {
            writeln!(
                out,
                "        {} isochronous packets, {} with errors",
                self.isochronous_packets, self.isochronous_packet_errors
            )?;
        }
        Ok(())
    }
}

/// The middle value; of an even number the lower of the two.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0].into_iter()), 1.0);
    }

    #[test]
    fn figures_add_up_over_rounds() {
        let mut round = Sample::new();
        let begun = round.now();
        for milliseconds in 1..=100 {
            round.record(begun, begun + Duration::from_millis(milliseconds), 1000);
        }
        let sum = Sample::sum([&round, &round].into_iter());
        let figures = Figures::new(&sum);
        assert_eq!(figures.urbs, 200);
        assert!((figures.seconds - 0.2).abs() < 1e-9);
        assert!((figures.urbs_per_second - 1000.0).abs() < 1e-3);
        assert!((figures.megabytes_per_second - 1.0).abs() < 1e-6);
        assert!((figures.latency_us.p50 - 50_000.0).abs() < 100.0);
        assert!((figures.latency_us.max - 100_000.0).abs() < 100.0);
        let together = Figures::new(&Sample::together([&round, &round].into_iter()));
        assert_eq!(together.urbs, 200);
        assert!((together.urbs_per_second - 2000.0).abs() < 1e-3);
    }
}
