//! Many seeds in a row, with a summary.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::session::exporter::SessionEnd;
use crate::simulation::{Failure, Options, run};

/// Why a series of runs stopped early.
#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    /// A run broke a rule.
    #[error("{0}")]
    Broken(#[from] Box<Failure>),
    /// The progress could not be written.
    #[error("cannot write the progress: {0}")]
    Output(#[from] io::Error),
}

/// What a series of runs did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// PDUs that the clients sent.
    pub pdus: u64,
    /// RET_SUBMITs.
    pub answers: u64,
    /// URBs that never reached a device.
    pub refused: u64,
    /// URBs stopped before a byte moved.
    pub stopped: u64,
    /// Isochronous packets.
    pub packets: u64,
    /// How many runs were of which kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How often a session ended in which way.
    pub ends: BTreeMap<&'static str, u64>,
}

/// Runs between two lines of progress.
const PROGRESS: u64 = 1000;

/// Runs the seeds `seed`, `seed` + 1 … and writes progress and a summary for people.
///
/// # Errors
///
/// The first run that broke a rule, or that `out` could not be written.
pub fn torture(
    seed: u64,
    runs: u64,
    options: Options,
    out: &mut dyn Write,
) -> Result<Totals, TortureError> {
    let mut totals = Totals::default();
    for number in 0..runs {
        totals.add(seed.wrapping_add(number), options)?;
        if totals.runs % PROGRESS == 0 && totals.runs < runs {
            writeln!(out, "{} of {runs} runs, {} PDUs", totals.runs, totals.pdus)?;
        }
    }
    let Totals { runs, pdus, answers, refused, stopped, packets, kinds, ends } = &totals;
    writeln!(out, "{runs} runs from seed {seed}: no rule broken")?;
    writeln!(out, "{pdus} PDUs, {answers} answers, {refused} of them without the device")?;
    writeln!(out, "{stopped} URBs stopped, {packets} isochronous packets")?;
    for (kind, count) in kinds {
        writeln!(out, "{count:>8} worlds: {kind}")?;
    }
    for (end, count) in ends {
        writeln!(out, "{count:>8} sessions ended: {end}")?;
    }
    Ok(totals)
}

impl Totals {
    /// Runs one seed and adds what it did.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn add(&mut self, seed: u64, options: Options) -> Result<(), Box<Failure>> {
        let report = run(seed, options)?;
        self.runs += 1;
        self.pdus += report.pdus;
        self.answers += report.tallies.answers;
        self.refused += report.tallies.refused;
        self.stopped += report.tallies.stopped;
        self.packets += report.tallies.packets;
        *self.kinds.entry(report.kind).or_default() += 1;
        *self.ends.entry(name(&report.end)).or_default() += 1;
        Ok(())
    }
}

fn name(end: &SessionEnd) -> &'static str {
    match end {
        SessionEnd::DeviceGone => "the device was unplugged",
        SessionEnd::DuplicateSeqnum(_) => "a seqnum was used twice",
        SessionEnd::GoneUnread => "unplugged, not read",
        SessionEnd::Local(_) => "from our side",
        SessionEnd::Malformed(_) => "a malformed PDU",
        SessionEnd::Network(_) => "the network failed",
        SessionEnd::Overload { .. } => "too much outstanding",
        SessionEnd::PeerClosed => "the client closed",
        SessionEnd::Truncated => "within a PDU",
        SessionEnd::WrongDeviceId { .. } => "another device id",
    }
}
