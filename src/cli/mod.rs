//! The command line: one file per command.
//!
//! A command writes its answer to stdout and everything else to stderr; it ends with 0 (done),
//! 1 (failed, one line says why and what to type) or 2 (wrong usage). Called by the names `usbip`
//! and `usbipd` the program understands the command line of the stock tools.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "commands may wait for files, names and sockets"
)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use usbip_fast_native::client::Family;

use crate::attach::{AttachError, Server};
use crate::error::Error;
use crate::host::HostError;
use crate::telemetry::log::{self, LogFormat};
use crate::wire::op;

mod attach;
pub mod bench;
mod detach;
mod doctor;
mod documents;
mod list;
mod local;
mod names;
mod policy;
mod port;
mod serve;
mod stats;
mod stock;
pub mod torture;

/// Export USB devices of this machine and import those of others, over USB/IP.
#[derive(Debug, Parser)]
#[command(name = "usbip-fast", version, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Attach(attach::AttachArgs),
    Bench(bench::BenchArgs),
    Bind(policy::BindArgs),
    #[command(hide = true)]
    Completions(documents::CompletionsArgs),
    Detach(detach::DetachArgs),
    Doctor(doctor::DoctorArgs),
    List(list::ListArgs),
    #[command(hide = true)]
    Man(documents::ManArgs),
    Policy(policy::PolicyArgs),
    Port(port::PortArgs),
    Serve(Box<serve::ServeArgs>),
    State(policy::StateArgs),
    Stats(stats::StatsArgs),
    Torture(torture::TortureArgs),
    Unbind(policy::UnbindArgs),
}

/// What the log shows.
#[derive(Clone, Copy, Debug, Args)]
struct LogArgs {
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less; twice for errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
    /// Form of the log on stderr: text or json
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

impl LogArgs {
    /// `debug`: the stock daemon's letter for one step more.
    fn start(self, debug: bool) {
        let level = log::level(self.verbose.saturating_add(debug.into()), self.quiet);
        log::start(level, self.log_format);
    }
}

/// Where a server is reached.
#[derive(Clone, Debug, Args)]
struct ServerArgs {
    /// TCP port of the server
    #[arg(short, long, value_name = "PORT", default_value_t = op::PORT)]
    tcp_port: u16,
    #[command(flatten)]
    family: FamilyArgs,
}

/// Which addresses of a name to use.
#[derive(Clone, Copy, Debug, Args)]
struct FamilyArgs {
    /// Use IPv4 only
    #[arg(short = '4', long)]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl FamilyArgs {
    /// Both letters together mean what none means, as with the stock daemon.
    const fn family(self) -> Family {
        match (self.ipv4, self.ipv6) {
            (true, false) => Family::V4,
            (false, true) => Family::V6,
            _ => Family::Any,
        }
    }
}

impl ServerArgs {
    /// The server `remote`: a name or an address, with `:PORT` behind it if it has its own.
    fn server(&self, remote: &str) -> Result<Server, Error> {
        let advice = "write -r HOST or -r HOST:PORT";
        let refused = |cause: String| Error::Usage(format!("-r {remote}: {cause}; {advice}"));
        let (host, tcp_port) = split_port(remote).map_err(refused)?;
        let tcp_port = tcp_port.unwrap_or(self.tcp_port);
        if tcp_port == 0 {
            return Err(refused("no server has TCP port 0".to_owned()));
        }
        Ok(Server { host: host.to_owned(), tcp_port, family: self.family.family() })
    }
}

/// Splits `host`, `host:port` and `[v6]:port`. An IPv6 address without brackets has no port.
///
/// # Errors
///
/// What is wrong with the text, so that no name is looked up that cannot be one.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port.map(|port| (port, port.parse())) {
        None => None,
        Some((_, Ok(port))) => Some(port),
        Some((port, Err(_))) => return Err(format!("{port:?} is no TCP port, 1 to 65535")),
    };
    let impossible = |letter: char| letter.is_control() || letter.is_whitespace() || letter == '/';
    if host.is_empty() {
        return Err("there is no name or address".to_owned());
    }
    // The resolver takes a bare number for an address: 3240 for 0.0.12.168.
    if host.contains(impossible) || host.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{host:?} is no name or address"));
    }
    Ok((host, port))
}

/// Runs the program with the arguments of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut out = io::stdout().lock();
    let mut err = io::stderr();
    ExitCode::from(run(&arguments, &mut out, &mut err))
}

/// Runs one command and returns its exit code.
fn run(arguments: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let called = arguments.first().and_then(|path| Path::new(path).file_name()?.to_str());
    match called {
        Some("usbip") => stock::client(arguments, out, err),
        Some("usbipd") => stock::daemon(arguments, out, err),
        _ => own(arguments, out, err),
    }
}

fn own(arguments: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let parsed = CommandLine::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    let line = match parsed {
        Ok(line) => line,
        Err(error) => return refuse(&error, &program_and_command(arguments), 2, out, err),
    };
    let result = dispatch(&line, out);
    conclude("usbip-fast", result, out, err)
}

/// `usbip-fast attach` if that is the command, so that the advice is to type its `--help`.
fn program_and_command(arguments: &[OsString]) -> String {
    let line = CommandLine::command();
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    match words.find(|word| !word.starts_with('-')).and_then(|word| line.find_subcommand(word)) {
        Some(command) => format!("usbip-fast {}", command.get_name()),
        None => "usbip-fast".to_owned(),
    }
}

fn dispatch(line: &CommandLine, out: &mut dyn Write) -> Result<(), Error> {
    let debug = matches!(&line.command, Command::Serve(args) if args.debug);
    line.log.start(debug);
    match &line.command {
        Command::Attach(args) => attach::run(args, out),
        Command::Bench(args) => bench::run(args, out),
        Command::Bind(args) => policy::bind(args, out),
        Command::Completions(args) => documents::completions(args, CommandLine::command(), out),
        Command::Detach(args) => detach::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
        Command::List(args) => list::run(args, out),
        Command::Man(args) => documents::man(args, CommandLine::command(), out),
        Command::Policy(args) => policy::policy(args, out),
        Command::Port(args) => port::run(args, out),
        Command::Serve(args) => serve::run(args),
        Command::State(args) => policy::state(args, out),
        Command::Stats(args) => stats::run(args, out),
        Command::Torture(args) => torture::run(args, out),
        Command::Unbind(args) => policy::unbind(args, out),
    }
}

/// Turns the end of a command into an exit code, and tells an error in one line. A reader of our
/// output that has seen enough is no failure.
fn conclude(
    program: &str,
    result: Result<(), Error>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    match result.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => 0,
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Error::Reported) => Error::Reported.exit_code(),
        Err(error @ Error::File(_)) => {
            for (index, line) in error.to_string().lines().enumerate() {
                let head = if index == 0 { format!("{program}: ") } else { String::new() };
                let _ = writeln!(err, "{head}{}", one_line(line));
            }
            error.exit_code()
        }
        Err(error) => {
            // With stderr gone too there is nobody left to tell.
            let _ = writeln!(err, "{program}: {}", one_line(&error.to_string()));
            error.exit_code()
        }
    }
}

/// What was typed or came from elsewhere may hold line ends, and codes that a terminal obeys.
fn one_line(text: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Answers a command line that names no command to run: help and version on stdout, or what is
/// wrong with it, in one line. `command`: what to type before `--help`; its first word is the
/// program's name.
fn refuse(
    error: &clap::Error,
    command: &str,
    usage_code: u8,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let program = command.split(' ').next().unwrap_or(command);
    if !error.use_stderr() {
        return conclude(program, write!(out, "{error}").map_err(Into::into), out, err);
    }
    let text = error.to_string();
    let cause: Vec<_> = text
        .trim_start_matches("error: ")
        .lines()
        .take_while(|line| !line.is_empty() && !line.starts_with("Usage:"))
        .map(str::trim)
        .collect();
    let cause = match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "no command given".to_owned()
        }
        _ => cause.join(" "),
    };
    let _ = writeln!(err, "{program}: {}; type: {command} --help", one_line(&cause));
    usage_code
}

/// `count` things: `1 device`, `2 devices`.
fn counted(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

impl From<AttachError> for Error {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::BusId { .. } => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests;
