//! What a line of the admin socket asks for.

use std::time::Duration;

use serde::Deserialize;

use super::line::Line;
use crate::ledger::policy::{Entry, Rule, RuleError};
use crate::limits;
use crate::network::CidrError;
use crate::telemetry::report::VERSION;

/// The commands there are.
const COMMANDS: [&str; 7] =
    ["bind", "policy-add", "policy-list", "policy-remove", "state", "stats", "unbind"];

/// Bounds of the interval of a watch, in milliseconds.
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// The interval of a watch that names none, in milliseconds.
const INTERVAL_MS: u64 = 1000;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Something that core 0 answers by itself.
    Ask(Question),
    /// Figures: once, or again and again.
    Stats {
        /// How long after one line the next one is due.
        watch: Option<Duration>,
    },
}

/// What core 0 answers by itself, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Export what a rule means.
    Bind(Rule),
    /// A rule before all others.
    PolicyAdd(Entry),
    /// All rules.
    PolicyList,
    /// A rule that was added is to go.
    PolicyRemove(Rule),
    /// What is exported, and who has it.
    State,
    /// Export no more what a rule means.
    Unbind(Rule),
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// The interval is out of bounds.
    #[error(
        "interval_ms is {interval_ms}; write {} to {}",
        INTERVALS_MS.start(),
        INTERVALS_MS.end()
    )]
    Interval {
        /// What was asked for.
        interval_ms: u64,
    },
    /// Not JSON, or a key that no command has, or a value of another type.
    #[error("not understood: {0}")]
    Malformed(String),
    /// Longer than a line may be.
    #[error("the line is longer than {} bytes", limits::ADMIN_LINE_BYTES)]
    TooLong,
    /// No such command.
    #[error("there is no command {0:?}")]
    UnknownCommand(String),
    /// A command lacks its rule, has one that means nothing, or keys that it does not know.
    #[error("{0}")]
    Rule(String),
    /// A version of the protocol that this server does not speak.
    #[error("version {0} of the protocol is not spoken here, version {VERSION} is")]
    Version(u32),
}

/// A line as it is written; a key that is not here is an error, so that none is ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "current", rename = "v")]
    _version: u32,
    cmd: String,
    #[serde(default)]
    watch: bool,
    interval_ms: Option<u64>,
    rule: Option<String>,
    allow: Option<bool>,
    networks: Option<Vec<String>>,
}

impl Written {
    fn rule(&self) -> Result<Rule, RequestError> {
        let text = self.rule.as_deref().unwrap_or("");
        text.parse().map_err(|error: RuleError| RequestError::Rule(error.to_string()))
    }

    fn entry(&self) -> Result<Entry, RequestError> {
        let networks = self.networks.iter().flatten().map(|text| text.parse());
        let networks = networks.collect::<Result<_, CidrError>>();
        let networks = networks.map_err(|error| RequestError::Rule(error.to_string()))?;
        let allow = self.allow.unwrap_or(true);
        Ok(Entry { allow, networks, ..Entry::export(self.rule()?) })
    }
}

fn current() -> u32 {
    VERSION
}

/// Reads a line.
pub(super) fn parse(line: &Line) -> Result<Request, RequestError> {
    let Line::Whole(bytes) = line else { return Err(RequestError::TooLong) };
    check_head(bytes)?;
    let written: Written = serde_json::from_slice(bytes)
        .map_err(|error| RequestError::Malformed(error.to_string()))?;
    let interval_ms = written.interval_ms.unwrap_or(INTERVAL_MS);
    if !INTERVALS_MS.contains(&interval_ms) {
        return Err(RequestError::Interval { interval_ms });
    }
    let watch = written.watch.then(|| Duration::from_millis(interval_ms));
    match written.cmd.as_str() {
        "bind" => Ok(Request::Ask(Question::Bind(written.rule()?))),
        "policy-add" => Ok(Request::Ask(Question::PolicyAdd(written.entry()?))),
        "policy-list" => Ok(Request::Ask(Question::PolicyList)),
        "policy-remove" => Ok(Request::Ask(Question::PolicyRemove(written.rule()?))),
        "state" => Ok(Request::Ask(Question::State)),
        "stats" => Ok(Request::Stats { watch }),
        "unbind" => Ok(Request::Ask(Question::Unbind(written.rule()?))),
        _ => Err(RequestError::UnknownCommand(written.cmd)),
    }
}

/// Version and command come first: a newer client's further keys must not hide what is wrong.
fn check_head(bytes: &[u8]) -> Result<(), RequestError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default = "current")]
        v: u32,
        cmd: String,
    }
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|error| RequestError::Malformed(error.to_string()))?;
    if head.v != VERSION {
        return Err(RequestError::Version(head.v));
    }
    if !COMMANDS.contains(&head.cmd.as_str()) {
        return Err(RequestError::UnknownCommand(head.cmd));
    }
    Ok(())
}

/// The line that answers what is no request; it lists the commands.
pub(super) fn refusal(error: &RequestError) -> Vec<u8> {
    let answer = serde_json::json!({
        "v": VERSION,
        "reply": "error",
        "error": error.to_string(),
        "commands": COMMANDS,
    });
    let mut line = answer.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, RequestError> {
        parse(&Line::Whole(text.into()))
    }

    #[test]
    fn requests_are_read() {
        let once = Ok(Request::Stats { watch: None });
        assert_eq!(read(r#"{"v":1,"cmd":"stats"}"#), once);
        assert_eq!(read(r#" {"cmd" : "stats", "watch": false } "#), once);
        let watch = |ms| Ok(Request::Stats { watch: Some(Duration::from_millis(ms)) });
        assert_eq!(read(r#"{"cmd":"stats","watch":true}"#), watch(1000));
        assert_eq!(read(r#"{"cmd":"stats","watch":true,"interval_ms":100}"#), watch(100));
    }

    #[test]
    fn rules_are_read() {
        let rule = |text: &str| text.parse::<Rule>().expect(text);
        let ask = |question| Ok(Request::Ask(question));
        assert_eq!(read(r#"{"cmd":"state"}"#), ask(Question::State));
        let bind = read(r#"{"cmd":"bind","rule":"class=audio"}"#);
        assert_eq!(bind, ask(Question::Bind(rule("class=audio"))));
        let text = r#"{"cmd":"policy-add","rule":"1-1","allow":false,"networks":["::1"]}"#;
        let networks = vec!["::1".parse().expect("an address")];
        let entry = Entry { allow: false, networks, ..Entry::export(rule("1-1")) };
        assert_eq!(read(text), ask(Question::PolicyAdd(entry)));
        for text in [
            r#"{"cmd":"bind"}"#,
            r#"{"cmd":"unbind","rule":""}"#,
            r#"{"cmd":"policy-remove","rule":"colour=red"}"#,
            r#"{"cmd":"policy-add","rule":"1-1","networks":["x"]}"#,
        ] {
            assert!(matches!(read(text), Err(RequestError::Rule(_))), "{text}");
        }
    }

    #[test]
    fn every_mistake_has_its_name() {
        let unknown = |text| matches!(read(text), Err(RequestError::UnknownCommand(_)));
        assert!(unknown(r#"{"v":1,"cmd":"fly"}"#));
        assert!(unknown(r#"{"cmd":"fly","to":"class=audio"}"#), "before its keys are judged");
        let malformed = |text| matches!(read(text), Err(RequestError::Malformed(_)));
        for text in ["", "stats", "[]", "{}", "\u{0}\u{1}", r#"{"cmd":"stats""#, r#"{"cmd":7}"#] {
            assert!(malformed(text), "{text:?}");
        }
        assert!(malformed(r#"{"cmd":"stats","wach":true}"#), "a slip is not ignored");
        assert!(malformed(r#"{"cmd":"stats","interval_ms":-1}"#));
        assert!(malformed(&"[".repeat(4000)), "deep nesting");
        assert_eq!(read(r#"{"v":2,"cmd":"stats","new":1}"#), Err(RequestError::Version(2)));
        for interval_ms in [0, 99, 3_600_001] {
            let text = format!(r#"{{"cmd":"stats","watch":true,"interval_ms":{interval_ms}}}"#);
            assert_eq!(read(&text), Err(RequestError::Interval { interval_ms }));
        }
        assert_eq!(parse(&Line::TooLong), Err(RequestError::TooLong));
    }

    #[test]
    fn refusals_list_the_commands() {
        let line = refusal(&RequestError::UnknownCommand("x\ny".into()));
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!((&value["v"], &value["reply"]), (&1.into(), &"error".into()));
        assert_eq!(value["commands"], serde_json::json!(COMMANDS));
    }
}
