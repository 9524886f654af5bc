//! What core 0 answers by itself: what is exported, who has it, and by which rules.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Question;
use crate::ledger::State;
use crate::serve::exports::Exports;
use crate::serve::inventory::{EditError, Inventory};
use crate::telemetry::report::VERSION;

/// What is exported and who has it; also what `usbip-fast state` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReply {
    /// Version of the protocol.
    pub v: u32,
    /// `state`.
    pub reply: String,
    /// Counts changes of what is listed here.
    pub sequence: u64,
    /// By bus id.
    pub devices: Vec<DeviceState>,
}

/// A device that is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Its bus id.
    pub bus_id: String,
    /// Four hexadecimal digits.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub product_id: String,
    /// Product string.
    pub name: String,
    /// Serial number string.
    pub serial: String,
    /// Its place, as in the rule `path=`.
    pub path: String,
    /// Made by the server itself.
    pub simulated: bool,
    /// `available`, `busy` or `unavailable`.
    pub state: String,
    /// Why it is unavailable.
    pub reason: Option<String>,
    /// The client that has it.
    pub holder: Option<HolderState>,
    /// The client that it is promised to.
    pub lease: Option<LeaseState>,
    /// Clients that may have it; empty: all.
    pub networks: Vec<String>,
}

/// Who has a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderState {
    /// The client.
    pub peer: String,
    /// Since the import.
    pub seconds: u64,
}

/// Whom a device is promised to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The client.
    pub peer: String,
    /// Until it is void.
    pub seconds_left: u64,
}

/// The rules; also what `usbip-fast policy list` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReply {
    /// Version of the protocol.
    pub v: u32,
    /// `policy`.
    pub reply: String,
    /// Whether rules made now are there after a restart of the server.
    pub kept: bool,
    /// In order; the first that means a device decides.
    pub rules: Vec<RuleState>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// Its text.
    pub rule: String,
    /// Whether it exports or denies.
    pub allow: bool,
    /// Clients that may have its devices; empty: all.
    pub networks: Vec<String>,
    /// `runtime`, `command line` or `file`.
    pub origin: String,
}

/// The line that answers a question, which may change the rules.
pub fn answer(
    question: Question,
    inventory: &mut Inventory,
    exports: &mut Exports,
    now: Duration,
) -> Vec<u8> {
    let edited = match question {
        Question::State => return line(&state(exports, now)),
        Question::PolicyList => Ok(()),
        Question::PolicyAdd(entry) => inventory.add(entry, exports),
        Question::PolicyRemove(rule) => inventory.remove(&rule, exports),
        Question::Bind(rule) => inventory.bind(rule, exports),
        Question::Unbind(rule) => inventory.unbind(rule, exports),
    };
    match edited {
        Ok(()) => line(&policy(inventory)),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &EditError) -> Vec<u8> {
    let error = error.to_string();
    line(&serde_json::json!({ "v": VERSION, "reply": "error", "error": error }))
}

fn line(reply: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).expect("numbers and text become JSON");
    line.push(b'\n');
    line
}

fn state(exports: &Exports, now: Duration) -> StateReply {
    let ledger = exports.ledger();
    let mut devices: Vec<DeviceState> = ledger
        .published()
        .map(|published| {
            let device = &published.listed.description;
            let state = match published.state {
                State::Available => "available",
                State::Busy => "busy",
                State::Unavailable => "unavailable",
            };
            DeviceState {
                bus_id: device.bus_id.clone(),
                vendor_id: format!("{:04x}", device.vendor),
                product_id: format!("{:04x}", device.product),
                name: device.product_name.clone(),
                serial: device.serial.clone(),
                path: device.location.clone(),
                simulated: published.listed.is_simulated,
                state: state.to_owned(),
                reason: published.reason.as_ref().map(ToString::to_string),
                holder: None,
                lease: None,
                networks: published.listed.networks.iter().map(ToString::to_string).collect(),
            }
        })
        .collect();
    // Both lists are in the order of bus ids.
    for (bus_id, holder) in ledger.held() {
        let seconds = now.saturating_sub(holder.since).as_secs();
        let held = HolderState { peer: holder.peer.to_string(), seconds };
        find(&mut devices, bus_id).holder = Some(held);
    }
    for (bus_id, lease) in ledger.leases() {
        let seconds_left = lease.expiry.saturating_sub(now).as_secs();
        let lease = LeaseState { peer: lease.holder.to_string(), seconds_left };
        find(&mut devices, bus_id).lease = Some(lease);
    }
    StateReply { v: VERSION, reply: "state".to_owned(), sequence: ledger.sequence(), devices }
}

fn find<'a>(devices: &'a mut [DeviceState], bus_id: &str) -> &'a mut DeviceState {
    let at = devices.binary_search_by(|device| device.bus_id.as_str().cmp(bus_id));
    &mut devices[at.expect("what is reserved is listed")]
}

fn policy(inventory: &Inventory) -> PolicyReply {
    let rule = |(origin, entry): (&str, &crate::ledger::policy::Entry)| RuleState {
        rule: entry.rule.to_string(),
        allow: entry.allow,
        networks: entry.networks.iter().map(ToString::to_string).collect(),
        origin: origin.to_owned(),
    };
    let rules = inventory.rules().all().map(rule).collect();
    PolicyReply { v: VERSION, reply: "policy".to_owned(), kept: inventory.is_kept(), rules }
}
