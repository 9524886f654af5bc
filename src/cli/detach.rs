//! `detach`: give imported devices back.

use std::io::Write;

use clap::{ArgGroup, Args};

use crate::error::Error;
use crate::host::{self, HostController, HostError, PortState};

/// Give an imported device back to its server
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true)))]
pub(super) struct DetachArgs {
    /// The port it is attached to, as `port` shows it
    #[arg(short, long, value_name = "PORT", group = "which")]
    pub(super) port: Option<u32>,
    /// All imported devices
    #[arg(long, group = "which")]
    pub(super) all: bool,
}

pub(super) fn run(args: &DetachArgs, out: &mut dyn Write) -> Result<(), Error> {
    run_on(host::system()?.as_mut(), args, out)
}

pub(super) fn run_on(
    host: &mut dyn HostController,
    args: &DetachArgs,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if let Some(port) = args.port {
        host.detach(port)?;
        writeln!(out, "port {port} is detached")?;
        return Ok(());
    }
    let ports = host.ports()?;
    let mut first_error = None;
    let mut detached = 0;
    for port in ports.iter().filter(|port| port.state != PortState::Free) {
        match host.detach(port.number) {
            Ok(()) => {
                detached += 1;
                writeln!(out, "port {} is detached", port.number)?;
            }
            // It ended by itself meanwhile, which is what was asked for.
            Err(HostError::PortEmpty(_)) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => Err(error.into()),
        None if detached == 0 => Ok(writeln!(out, "nothing is attached")?),
        None => Ok(()),
    }
}
