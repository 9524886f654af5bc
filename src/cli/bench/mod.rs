//! `bench`: measure a device over the wire.

mod floor;
mod load;
mod report;
mod sample;
mod streams;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use usbip_fast_native::{affinity, clock};

use self::floor::Floor;
use self::load::Load;
use self::report::Report;
use self::sample::Sample;
use self::streams::Streams;
use super::ServerArgs;
use crate::attach::{self, Patience};
use crate::config::ReactorChoice;
use crate::error::Error;
use crate::host::userspace::Client;
use crate::reactor::select::Choice;

/// Device and floor are measured in this many turns each, so that what else the machine does
/// disturbs both alike.
const ROUNDS: u32 = 5;

/// Measure rate, throughput and latency of an exported device
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// The server: a name, an address or HOST:PORT
    #[arg(short, long, value_name = "HOST")]
    pub remote: String,
    /// Bus id of the device at the server
    #[arg(short, long = "busid", value_name = "BUSID")]
    pub bus_id: String,
    /// control, bulk-in, bulk-out, interrupt-in, interrupt-out, iso-in or iso-out
    #[arg(long, value_enum, default_value_t, value_name = "KIND", hide_possible_values = true)]
    pub transfer: Transfer,
    /// URBs in flight
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: u32,
    /// Devices at once, each with a connection: -b names the first, as sim-1, and sim-2 follows
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "floor",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub streams: u32,
    /// Bytes of each transfer; what suits the kind if left away
    #[arg(long, value_name = "BYTES")]
    pub size: Option<u32>,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Measure a bare TCP echo of the same sizes in the same run and print the ratio
    #[arg(long)]
    pub floor: bool,
    /// Run on the last core, and the floor's echo on the first, where the server belongs too
    #[arg(long)]
    pub pin: bool,
    /// auto, io-uring, epoll or kqueue
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    pub reactor: ReactorChoice,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transfer {
    /// Control IN: the device descriptor.
    #[default]
    Control,
    /// Bulk IN.
    BulkIn,
    /// Bulk OUT.
    BulkOut,
    /// Interrupt IN.
    InterruptIn,
    /// Interrupt OUT.
    InterruptOut,
    /// Isochronous IN.
    IsoIn,
    /// Isochronous OUT.
    IsoOut,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.01..=86_400.0).contains(seconds))
        .ok_or_else(|| "write 0.01 to 86400".to_owned())
}

impl BenchArgs {
    /// The server named by the arguments.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the text cannot name one.
    pub fn server(&self) -> Result<crate::attach::Server, Error> {
        self.server.server(&self.remote)
    }
}

/// Runs the command.
///
/// # Errors
///
/// When the device cannot be had, has no such endpoint, or fails a transfer.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Error> {
    let total = Duration::from_secs_f64(args.seconds);
    if args.streams > 1 {
        let Streams { sample, description, wire } = streams::run(args, total)?;
        return print(&Report::new(args, &description, wire, &[(sample, None)]), args, out);
    }
    let mut load = Load::new(connect(args, &args.bus_id)?, args)?;
    let mut progress = Progress::new(total * if args.floor { 2 } else { 1 });
    // What comes before the measurement warms both ends up and shows the size of an answer.
    let warm = load.run(total / 20, &mut |_| {})?;
    let mut floor = match args.floor {
        true => Some(Floor::start(load.wire(&warm), args.depth, args.pin).map_err(floor_error)?),
        false => None,
    };
    if args.pin && !affinity::pin(affinity::cores() - 1) {
        tracing::warn!("this system does not bind threads to cores");
    }
    let mut rounds: Vec<(Sample, Option<Sample>)> = Vec::new();
    for _ in 0..ROUNDS {
        let device = load.run(total / ROUNDS, &mut |sample| progress.show("device", sample))?;
        let bare = match &mut floor {
            Some(floor) => Some(
                floor
                    .run(total / ROUNDS, &mut |sample| progress.show("floor", sample))
                    .map_err(floor_error)?,
            ),
            None => None,
        };
        rounds.push((device, bare));
    }
    progress.finish();
    print(&Report::new(args, load.description(), load.wire(&warm), &rounds), args, out)
}

fn connect(args: &BenchArgs, bus_id: &str) -> Result<Client, Error> {
    let choice = Choice::from(args.reactor);
    Ok(attach::client(&args.server()?, bus_id, choice, &Patience::default())?)
}

fn print(report: &Report, args: &BenchArgs, out: &mut dyn Write) -> Result<(), Error> {
    if args.json {
        report.print_json(out)?
    } else {
        report.print_text(out)?
    }
    Ok(())
}

fn floor_error(error: std::io::Error) -> Error {
    Error::Failed(format!("the bare TCP echo failed: {error}; type the command without --floor"))
}

/// The line on a terminal that shows that something happens.
struct Progress {
    enabled: bool,
    started: Duration,
    total: Duration,
    next: Duration,
}

/// How often the line changes.
const PROGRESS_STEP: Duration = Duration::from_millis(200);

impl Progress {
    fn new(total: Duration) -> Self {
        let started = clock::now();
        Self { enabled: std::io::stderr().is_terminal(), started, total, next: started }
    }

    fn show(&mut self, what: &str, sample: &Sample) {
        if !self.enabled || sample.now() < self.next {
            return;
        }
        self.next = sample.now() + PROGRESS_STEP;
        let elapsed = sample.now().saturating_sub(self.started).as_secs_f64();
        // Nobody misses a progress line that cannot be written.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{elapsed:.1} of {:.1} s, {what}: {:.0} URB/s, {:.1} MB/s",
            self.total.as_secs_f64(),
            sample.rate(),
            sample.megabytes_per_second(),
        );
    }

    fn finish(&self) {
        if self.enabled {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
