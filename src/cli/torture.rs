//! `torture`: the seeded simulator.

use std::io::Write;

use clap::Args;

use crate::error::Error;

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

/// Runs the command.
///
/// # Errors
///
/// Always, in this build.
pub fn run(args: &TortureArgs, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::Failed(format!("this build has no simulator for seed {}", args.seed)))
}
