//! The program: parses the command line and runs one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    usbip_fast::cli::main(std::env::args_os())
}
