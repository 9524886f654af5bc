//! `doctor`: what this machine has, lacks, and what to type about it.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::limits;
use crate::wire::op;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

/// Check this machine: modules, memory, rights, limits; what is missing and what to type
///
/// Devices that a server which was killed has left without drivers are given back to them.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs, out: &mut dyn Write) -> Result<(), Error> {
    let mut findings = platform::findings();
    findings.push(tcp_port(op::PORT));
    findings.push(memory());
    if args.json {
        print_json(&findings, out)?
    } else {
        print_text(&findings, out)?
    }
    if findings.iter().any(|finding| finding.state == State::Missing) {
        return Err(Error::Reported);
    }
    Ok(())
}

/// One line of the report; also the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    /// What to type, if anything helps.
    command: Option<String>,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be, or of no consequence.
    Ok,
    /// Works, but not as well as it could or not for everything.
    Warn,
    /// A command of this program cannot work.
    Missing,
}

impl State {
    const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), command: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, command: impl Into<String>) -> Self {
        let command = Some(command.into()).filter(|command: &String| !command.is_empty());
        Self { name, state: State::Warn, detail: detail.into(), command }
    }

    fn missing(name: &'static str, detail: impl Into<String>, command: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::warn(name, detail, command) }
    }
}

fn tcp_port(port: u16) -> Finding {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Finding::ok("TCP port", format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warn(
            "TCP port",
            format!("{port} is in use, by a USB/IP server or something else"),
            format!("ss -ltnp 'sport = :{port}'"),
        ),
        Err(error) => Finding::missing("TCP port", format!("{port} cannot be used: {error}"), ""),
    }
}

/// What a session can take at most, as the limits say.
fn memory() -> Finding {
    const MIB: usize = 1024 * 1024;
    let buffers = 2 * limits::SEND_BUFFER_BYTES + limits::RECEIVE_BUFFER_BYTES;
    Finding::ok(
        "session limits",
        format!(
            "{} URBs and {} MiB of transfers unanswered, one transfer up to {} MiB, {} KiB of \
             buffers",
            limits::SESSION_URBS,
            limits::SESSION_BYTES / MIB,
            limits::TRANSFER_BYTES as usize / MIB,
            buffers / 1024
        ),
    )
}

fn print_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        findings: &'a [Finding],
    }
    serde_json::to_writer_pretty(&mut *out, &Document { schema: 1, findings })?;
    writeln!(out)
}

fn print_text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, state, detail, command } in findings {
        writeln!(out, "{:7}  {name:width$}  {detail}", state.text())?;
        if let Some(command) = command {
            writeln!(out, "{:7}  {:width$}  type: {command}", "", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_state_and_what_to_type() {
        let findings = [
            Finding::ok("rights", "root"),
            Finding::warn("usbfs memory", "16 MiB", "echo 256"),
            Finding::missing("vhci_hcd", "not loaded", ""),
        ];
        let mut out = Vec::new();
        print_text(&findings, &mut out).expect("memory");
        let expected = "\
ok       rights        root
warn     usbfs memory  16 MiB
                       type: echo 256
missing  vhci_hcd      not loaded
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn json_has_a_schema_and_lower_case_states() {
        let mut out = Vec::new();
        print_json(&[Finding::missing("x", "y", "z")], &mut out).expect("memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["schema"], 1);
        assert_eq!(value["findings"][0]["state"], "missing");
        assert_eq!(value["findings"][0]["command"], "z");
    }

    #[test]
    fn a_port_in_use_is_told() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(tcp_port(port).state, State::Warn);
        drop(listener);
        assert_eq!(tcp_port(port).state, State::Ok);
    }
}
