//! The command lines of the stock tools `usbip` and `usbipd`, for scripts that call us by their
//! names: their letters, and their exit codes, 0 for done and 1 for everything else.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{ArgGroup, Args, Parser, Subcommand};

use super::attach::AttachArgs;
use super::list::ListArgs;
use super::port::PortArgs;
use super::serve::ServeArgs;
use super::{FamilyArgs, LogArgs, ServerArgs, attach, conclude, list, port, refuse, serve};
use crate::error::Error;
use crate::host::{self, HostError};
use crate::telemetry::log::LogFormat;
use crate::wire::op;

/// Exit code for a wrong command line.
const USAGE: u8 = 1;

/// Import USB devices of other machines (usbip-fast with the command line of the stock tool)
#[derive(Debug, Parser)]
#[command(name = "usbip", version = concat!("(usbip-fast ", env!("CARGO_PKG_VERSION"), ")"))]
struct ClientLine {
    /// Log more
    #[arg(short, long)]
    debug: bool,
    /// Log to syslog: accepted, the log stays on stderr
    #[arg(short, long)]
    log: bool,
    /// TCP port of the server
    #[arg(short, long, value_name = "PORT", default_value_t = op::PORT)]
    tcp_port: u16,
    #[command(subcommand)]
    command: ClientCommand,
}

#[derive(Debug, Subcommand)]
enum ClientCommand {
    /// Import a device
    Attach(StockAttach),
    /// Give a device back
    Detach {
        /// Its port
        #[arg(short, long)]
        port: u32,
    },
    /// List devices of a server or of this machine
    List(StockList),
    /// Not needed here
    Bind(StockBind),
    /// Not needed here
    Unbind(StockBind),
    /// List imported devices
    Port,
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true)))]
struct StockAttach {
    /// The server
    #[arg(short, long, value_name = "HOST")]
    remote: String,
    /// Bus id of the device
    #[arg(short, long = "busid", value_name = "BUSID", group = "what")]
    bus_id: Option<String>,
    /// Id of a virtual device; on the wire the same as a bus id
    #[arg(short, long, value_name = "DEVID", group = "what")]
    device: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true)))]
struct StockList {
    /// One `busid=…#usbid=…#` line per device
    #[arg(short, long)]
    parsable: bool,
    /// Devices of a server
    #[arg(short, long, value_name = "HOST", group = "whose")]
    remote: Option<String>,
    /// Devices of this machine
    #[arg(short, long, group = "whose")]
    local: bool,
    /// Virtual devices of this machine: simulated ones need no listing
    #[arg(short, long, group = "whose")]
    device: bool,
}

#[derive(Debug, Args)]
struct StockBind {
    /// Bus id of the device
    #[arg(short, long = "busid", value_name = "BUSID")]
    bus_id: String,
}

/// Export USB devices (usbip-fast with the command line of the stock daemon)
#[derive(Debug, Parser)]
#[command(name = "usbipd", version = concat!("(usbip-fast ", env!("CARGO_PKG_VERSION"), ")"),
    disable_version_flag = true)]
struct DaemonLine {
    #[command(flatten)]
    serve: ServeArgs,
    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Virtual devices: accepted, what is exported is named by --simulate
    #[arg(short = 'e', long = "device")]
    device: bool,
}

/// `usbip …`.
pub(super) fn client(arguments: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let line = match ClientLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => return refuse(&error, "usbip", USAGE, out, err),
    };
    start_log(line.debug);
    let result = dispatch(line, out);
    conclude("usbip", result, out, err).min(USAGE)
}

/// `usbipd …`.
pub(super) fn daemon(arguments: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let line = match DaemonLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => return refuse(&error, "usbipd", USAGE, out, err),
    };
    start_log(line.serve.debug);
    conclude("usbipd", serve::run_stock(&line.serve), out, err).min(USAGE)
}

fn start_log(debug: bool) {
    LogArgs { verbose: 0, quiet: 0, log_format: LogFormat::Text }.start(debug);
}

fn dispatch(line: ClientLine, out: &mut dyn Write) -> Result<(), Error> {
    let family = FamilyArgs { ipv4: false, ipv6: false };
    let server = ServerArgs { tcp_port: line.tcp_port, family };
    match line.command {
        ClientCommand::Attach(args) => {
            let bus_id = args.bus_id.or(args.device).unwrap_or_default();
            let args =
                AttachArgs { remote: args.remote, bus_id, port: None, no_wait: true, server };
            // The stock tool says nothing when all is well.
            attach::run(&args, &mut io::sink())
        }
        ClientCommand::Detach { port } => {
            match host::system()?.detach(port) {
                Ok(()) => Ok(writeln!(out, "port {port} is detached")?),
                // For the stock tool that is no failure.
                Err(HostError::PortEmpty(port)) => {
                    Ok(writeln!(out, "nothing is attached to port {port}")?)
                }
                Err(error) => Err(error.into()),
            }
        }
        ClientCommand::List(StockList { device: true, .. }) => Ok(()),
        ClientCommand::List(StockList { parsable, remote, local, device: false }) => {
            list::run(&ListArgs { local, remote, json: false, parsable, server }, out)
        }
        ClientCommand::Bind(StockBind { bus_id }) => Err(Error::with_advice(
            "devices need not be bound to be exported",
            &format!("usbip-fast serve -b {bus_id}"),
        )),
        ClientCommand::Unbind(StockBind { bus_id }) => Err(Error::Failed(format!(
            "devices are not bound here, so {bus_id} cannot be unbound; stop the server instead"
        ))),
        ClientCommand::Port => port::run(&PortArgs { json: false, all: false }, out),
        ClientCommand::Version => {
            Ok(writeln!(out, "usbip (usbip-fast {})", env!("CARGO_PKG_VERSION"))?)
        }
    }
}
