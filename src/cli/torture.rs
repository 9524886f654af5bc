//! `torture`: the seeded simulator.

use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::simulation::{self, Options};

/// Run the exporter against a simulated world full of faults, repeatable by its seed
#[derive(Debug, Args)]
pub struct TortureArgs {
    /// Seed of the first run
    #[arg(long, value_name = "N")]
    pub seed: u64,
    /// Runs, each with the next seed
    #[arg(long, value_name = "M", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
}

/// Runs the command: progress and a summary on `out`.
///
/// # Errors
///
/// A run that broke a rule, with its seed and what happened before; or `out` cannot be written.
pub fn run(args: &TortureArgs, out: &mut dyn Write) -> Result<(), Error> {
    simulation::torture(args.seed, args.runs, Options::default(), out)
        .map(|_| ())
        .map_err(|error| Error::Failed(error.to_string()))
}
