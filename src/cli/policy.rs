//! `state`, `bind`, `unbind`, `policy`: what a running server exports, seen and changed.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::stats::{Server, only};
use crate::config::Cidr;
use crate::error::Error;
use crate::ledger::policy::Rule;
use crate::serve::admin::place;
use crate::serve::admin::state::{PolicyReply, StateReply};
use crate::telemetry::report::VERSION;

/// Which server, and in which form it is shown.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// Admin socket of the server, where more than one runs here
    #[arg(short, long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Print JSON, one line
    #[arg(long)]
    json: bool,
}

/// Show what a running server exports, who has it and since when
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    ask: AskArgs,
}

/// Make a running server export what a rule means
#[derive(Debug, Args)]
pub(super) struct BindArgs {
    /// A bus id, VID:PID, class=, serial=, path=, name~REGEX; commas for and, ! for not
    rule: Rule,
    #[command(flatten)]
    ask: AskArgs,
}

/// Make a running server export no more what a rule means
#[derive(Debug, Args)]
pub(super) struct UnbindArgs {
    /// The rule, as `policy list` shows it
    rule: Rule,
    #[command(flatten)]
    ask: AskArgs,
}

/// Show and change the rules of a running server
#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Add a rule before all others
    Add {
        /// The devices
        rule: Rule,
        /// Never export them
        #[arg(long)]
        deny: bool,
        /// Only for clients of this network; repeatable
        #[arg(long = "network", value_name = "CIDR")]
        networks: Vec<Cidr>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Show all rules, in order
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Remove a rule that was added
    Remove {
        /// The rule, as `policy list` shows it
        rule: Rule,
        #[command(flatten)]
        ask: AskArgs,
    },
}

pub(super) fn state(args: &StateArgs, out: &mut dyn Write) -> Result<(), Error> {
    let request = serde_json::json!({ "v": VERSION, "cmd": "state" });
    let Some(reply) = exchange::<StateReply>(&args.ask, &request, out)? else { return Ok(()) };
    for device in &reply.devices {
        let who = match (&device.holder, &device.lease, &device.reason) {
            (Some(holder), ..) => format!(", {} for {} s", holder.peer, holder.seconds),
            (_, Some(lease), _) => {
                format!(", promised to {} for {} s", lease.peer, lease.seconds_left)
            }
            (_, _, Some(reason)) => format!(": {reason}"),
            _ => String::new(),
        };
        let name = super::one_line(&device.name);
        let (vendor, product) = (&device.vendor_id, &device.product_id);
        writeln!(out, "{}: {name} ({vendor}:{product}) {}{who}", device.bus_id, device.state)?;
    }
    Ok(())
}

pub(super) fn bind(args: &BindArgs, out: &mut dyn Write) -> Result<(), Error> {
    edit("bind", &args.rule, &args.ask, out)
}

pub(super) fn unbind(args: &UnbindArgs, out: &mut dyn Write) -> Result<(), Error> {
    edit("unbind", &args.rule, &args.ask, out)
}

pub(super) fn policy(args: &PolicyArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.command {
        PolicyCommand::Add { rule, deny, networks, ask } => {
            let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
            let request = serde_json::json!({
                "v": VERSION, "cmd": "policy-add", "rule": rule.to_string(), "allow": !deny,
                "networks": networks
            });
            show(ask, &request, out)
        }
        PolicyCommand::List { ask } => {
            show(ask, &serde_json::json!({ "v": VERSION, "cmd": "policy-list" }), out)
        }
        PolicyCommand::Remove { rule, ask } => edit("policy-remove", rule, ask, out),
    }
}

fn edit(command: &str, rule: &Rule, ask: &AskArgs, out: &mut dyn Write) -> Result<(), Error> {
    let rule = rule.to_string();
    show(ask, &serde_json::json!({ "v": VERSION, "cmd": command, "rule": rule }), out)
}

fn show(ask: &AskArgs, request: &serde_json::Value, out: &mut dyn Write) -> Result<(), Error> {
    let Some(reply) = exchange::<PolicyReply>(ask, request, out)? else { return Ok(()) };
    for rule in &reply.rules {
        let verb = if rule.allow { "export" } else { "deny" };
        let networks = match rule.networks.is_empty() {
            true => String::new(),
            false => format!(" to {}", rule.networks.join(", ")),
        };
        writeln!(out, "{verb} {}{networks} ({})", super::one_line(&rule.rule), rule.origin)?;
    }
    if !reply.kept && request["cmd"] != "policy-list" {
        writeln!(out, "until the server ends; to keep rules start it with --state FILE")?;
    }
    Ok(())
}

/// Asks; the answer is printed as it is, or returned to be shown to people.
fn exchange<T: serde::de::DeserializeOwned>(
    ask: &AskArgs,
    request: &serde_json::Value,
    out: &mut dyn Write,
) -> Result<Option<T>, Error> {
    let path = match &ask.server {
        Some(path) => path.clone(),
        None => only(&place::running())?,
    };
    let mut server = Server::connect(&path)?;
    server.say(request)?;
    let line = server.line()?;
    let line = line.ok_or_else(|| Error::Failed("the server has ended".to_owned()))?;
    // An error is an error in either form.
    let reply = server.read(&line)?;
    if ask.json {
        out.write_all(line.as_bytes())?;
        return Ok(None);
    }
    Ok(Some(reply))
}
