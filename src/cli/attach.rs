//! `attach`: import a device.

use std::io::{self, Write};

use clap::Args;

use super::ServerArgs;
use crate::attach::{self, Patience, Server};
use crate::error::Error;
use crate::host::{self, Appearance, HostController};

/// Import a device of a server: it appears on this machine as if it were plugged in here
#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The server: a name or address, HOST:PORT allowed
    #[arg(short, long, value_name = "HOST")]
    pub(super) remote: String,
    /// Bus id of the device at the server, as `list -r` shows it
    #[arg(short, long = "busid", value_name = "BUSID")]
    pub(super) bus_id: String,
    /// Use exactly this port of the virtual host controller
    #[arg(long, value_name = "N")]
    pub(super) port: Option<u32>,
    /// Return as soon as the device is handed over, before it is ready
    #[arg(long)]
    pub(super) no_wait: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

pub(super) fn run(args: &AttachArgs, out: &mut dyn Write) -> Result<(), Error> {
    // A slip is told before a kernel module is missed.
    attach::check_bus_id(&args.server.server(&args.remote)?, &args.bus_id)?;
    let mut host = host::system()?;
    run_on(host.as_mut(), args, &Patience::default(), out)
}

fn run_on(
    host: &mut dyn HostController,
    args: &AttachArgs,
    patience: &Patience,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let server = args.server.server(&args.remote)?;
    let port = attach::attach(host, &server, &args.bus_id, args.port, patience)?;
    if args.no_wait {
        writeln!(out, "{server} {} is attached to port {port}", args.bus_id)?;
        return Ok(());
    }
    let appearance = attach::wait(host, port, patience)?;
    print(&server, &args.bus_id, port, &appearance, out)?;
    Ok(())
}

fn print(
    server: &Server,
    bus_id: &str,
    port: u32,
    seen: &Appearance,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{server} {bus_id} is attached to port {port} as {}", seen.bus_id)?;
    if !seen.drivers.is_empty() {
        writeln!(out, "  driver {}", seen.drivers.join(", "))?;
    }
    match seen.driverless {
        0 => {}
        1 => writeln!(out, "  1 interface has no driver")?,
        count => writeln!(out, "  {count} interfaces have no driver")?,
    }
    for name in &seen.names {
        writeln!(out, "  {name}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use usbip_fast_native::client::Family;

    #[test]
    fn what_appeared_is_printed_one_per_line() {
        let server = Server { host: "pi".into(), tcp_port: 3240, family: Family::Any };
        let seen = Appearance {
            bus_id: "3-1".into(),
            names: vec!["/dev/ttyACM0".into(), "card1".into()],
            drivers: vec!["cdc_acm".into(), "snd-usb-audio".into()],
            driverless: 1,
            complete: false,
        };
        let mut out = Vec::new();
        print(&server, "1-2", 4, &seen, &mut out).expect("memory");
        let expected = "\
pi:3240 1-2 is attached to port 4 as 3-1
  driver cdc_acm, snd-usb-audio
  1 interface has no driver
  /dev/ttyACM0
  card1
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
