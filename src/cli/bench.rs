//! `bench`: measure a device over the wire.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::ServerArgs;
use crate::error::Error;

/// Measure rate, throughput and latency of an exported device
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The server: a name or address, HOST:PORT allowed
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
    /// Bytes of each transfer; what suits the kind if left away
    #[arg(long, value_name = "BYTES")]
    pub size: Option<u32>,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Measure a bare TCP echo of the same sizes in the same run and print the ratio
    #[arg(long)]
    pub floor: bool,
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
    #[must_use]
    pub fn server(&self) -> crate::attach::Server {
        self.server.server(&self.remote)
    }
}

/// Runs the command.
///
/// # Errors
///
/// Always, in this build.
pub fn run(args: &BenchArgs, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::Failed(format!("this build cannot measure {}", args.server())))
}
