//! Chores of the repository that are not part of the program.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a chore reads files and runs programs"
)]

mod plot;
mod targets;
mod toolchain;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  darwin-check     type-check and lint for macOS, on any Debian machine
  portable-check   compile for ARM64 Linux, Windows and FreeBSD
  plot             draw `title`, `x`, `y` and SERIES lines of standard input as SVG
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let outcome = match (command.as_deref(), arguments.next()) {
        (Some("darwin-check"), None) => targets::run("darwin-check", targets::DARWIN),
        (Some("portable-check"), None) => targets::run("portable-check", targets::PORTABLE),
        (Some("plot"), None) => plot::run(),
        (Some("-h" | "--help"), None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
