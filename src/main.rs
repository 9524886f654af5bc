//! The program: parses the command line and runs one command.

use std::process::ExitCode;

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn main() -> ExitCode {
    usbip_fast::cli::main(std::env::args_os())
}

/// There is nothing here to drive a USB device with.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn main() -> ExitCode {
    eprintln!("usbip-fast: only supported on Linux and macOS");
    ExitCode::FAILURE
}
