//! Texts made from the command line itself: shell completions and the manual.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::Error;

/// Print the completions of a shell
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or that of one command
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The command
    command: Option<String>,
}

pub(super) fn completions(
    args: &CompletionsArgs,
    mut line: Command,
    out: &mut dyn Write,
) -> Result<(), Error> {
    // The generator panics when its output fails, so it writes to memory.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut line, "usbip-fast", &mut text);
    Ok(out.write_all(&text)?)
}

pub(super) fn man(args: &ManArgs, mut line: Command, out: &mut dyn Write) -> Result<(), Error> {
    line.build();
    let line = match &args.command {
        None => line,
        Some(name) => line.find_subcommand(name).cloned().ok_or_else(|| {
            Error::Usage(format!("there is no command {name}; type: usbip-fast help"))
        })?,
    };
    Ok(clap_mangen::Man::new(line).render(&mut &mut *out)?)
}
