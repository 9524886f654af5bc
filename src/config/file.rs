//! The configuration file of a server: TOML, every key known, every error with its place.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Cidr, MOST_CORES, ReactorChoice};
use crate::ledger::policy::{Backend, Entry, Rule};

/// Longest line that is shown with an error, in characters.
const SHOWN_LINE: usize = 160;

/// What a configuration file says; what it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Addresses to listen at, `ADDR[:PORT]`.
    pub listen: Option<Vec<String>>,
    /// Peers that may connect.
    pub allow: Option<Vec<Cidr>>,
    /// Cores to use.
    pub cores: Option<usize>,
    /// Which reactor to run on.
    pub reactor: Option<ReactorChoice>,
    /// Run before other programs.
    pub realtime: Option<bool>,
    /// How long a core looks for something to do before it sleeps, in microseconds.
    pub busy_poll_us: Option<u64>,
    /// Take devices even when this machine visibly needs them.
    pub force: Option<bool>,
    /// Path of the admin socket, or `none`.
    pub admin: Option<String>,
    /// Path of the file for rules that were made while the server ran, or `none`.
    pub state: Option<String>,
    /// Simulated devices.
    pub simulate: Option<Vec<String>>,
    /// The rules, in order.
    pub export: Vec<Entry>,
}

/// A slip in a configuration file: its place, what it is, and the line with a caret below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    file: String,
    line: usize,
    column: usize,
    message: String,
    /// The line and how many characters of it are meant; `None` if it is too long to be shown.
    shown: Option<(String, usize)>,
}

impl ConfigFile {
    /// Reads the text of a file; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// The first slip.
    pub fn parse(name: &str, text: &str) -> Result<Self, FileError> {
        let at = |(span, message): Slip| FileError::new(name, text, span, message);
        let written: Written = toml::from_str(text).map_err(|error| at(slip(&error)))?;
        written.check().map_err(at)
    }
}

/// Where, and what.
type Slip = (Range<usize>, String);

fn slip(error: &toml::de::Error) -> Slip {
    // What is missing as a whole has no place of its own.
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    (error.span().unwrap_or(0..0), message)
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    listen: Option<Spanned<Vec<String>>>,
    allow: Option<Spanned<Vec<Spanned<String>>>>,
    cores: Option<Spanned<i64>>,
    reactor: Option<Spanned<String>>,
    realtime: Option<bool>,
    busy_poll_us: Option<Spanned<i64>>,
    force: Option<bool>,
    admin: Option<String>,
    state: Option<String>,
    simulate: Option<Spanned<Vec<String>>>,
    export: Option<Spanned<Vec<Spanned<WrittenEntry>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    rule: Spanned<String>,
    allow: Option<bool>,
    networks: Option<Spanned<Vec<Spanned<String>>>>,
    backend: Option<Spanned<String>>,
}

impl Written {
    fn check(self) -> Result<ConfigFile, Slip> {
        let Self { realtime, force, admin, state, .. } = self;
        let mut export = Vec::new();
        if let Some(tables) = self.export {
            let tables = not_empty("export", tables)?;
            for (index, table) in (1..).zip(tables) {
                export.push(table.into_inner().check(index)?);
            }
        }
        Ok(ConfigFile {
            listen: self.listen.map(|list| not_empty("listen", list)).transpose()?,
            allow: self.allow.map(|list| ranges("allow", list)).transpose()?,
            cores: self.cores.map(|count| bounded("cores", &count, MOST_CORES)).transpose()?,
            reactor: self.reactor.map(|word| reactor(&word)).transpose()?,
            realtime,
            busy_poll_us: self
                .busy_poll_us
                .map(|time| bounded("busy_poll_us", &time, 1_000_000).map(|time| time as u64))
                .transpose()?,
            force,
            admin,
            state,
            simulate: self.simulate.map(|list| not_empty("simulate", list)).transpose()?,
            export,
        })
    }
}

impl WrittenEntry {
    /// `index`: its place among the tables, from 1, for people.
    fn check(self, index: usize) -> Result<Entry, Slip> {
        let name = format!("export {index}");
        let rule = parse::<Rule>(&name, &self.rule)?;
        let networks = self.networks.map(|list| ranges(&format!("{name}: networks"), list));
        let backend = match &self.backend {
            None => Backend::Usbfs,
            Some(word) if word.get_ref() == "usbfs" => Backend::Usbfs,
            Some(word) if word.get_ref() == "kernel" => {
                let message = "the kernel backend is not built in; write backend = \"usbfs\"";
                return Err((word.span(), format!("{name}: {message}")));
            }
            Some(word) => {
                let message =
                    format!("{name}: there is no backend {:?}; write usbfs", word.get_ref());
                return Err((word.span(), message));
            }
        };
        let networks = networks.transpose()?.unwrap_or_default();
        Ok(Entry { rule, allow: self.allow.unwrap_or(true), networks, backend })
    }
}

fn not_empty<T>(name: &str, list: Spanned<Vec<T>>) -> Result<Vec<T>, Slip> {
    match list.get_ref().is_empty() {
        true => Err((list.span(), format!("{name} is an empty list; leave it away"))),
        false => Ok(list.into_inner()),
    }
}

fn ranges(name: &str, list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<Cidr>, Slip> {
    not_empty(name, list)?.iter().map(|text| parse(name, text)).collect()
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &str, text: &Spanned<String>) -> Result<T, Slip> {
    text.get_ref().parse().map_err(|error: T::Err| (text.span(), format!("{name}: {error}")))
}

fn bounded(name: &str, number: &Spanned<i64>, most: usize) -> Result<usize, Slip> {
    let value = usize::try_from(*number.get_ref()).ok();
    let value = value.filter(|value| (1..=most).contains(value));
    value.ok_or_else(|| (number.span(), format!("{name}: write 1 to {most}")))
}

fn reactor(word: &Spanned<String>) -> Result<ReactorChoice, Slip> {
    let choice = ReactorChoice::from_str(word.get_ref(), false);
    choice.map_err(|_| (word.span(), "reactor: write auto, io-uring, epoll or kqueue".to_owned()))
}

impl FileError {
    fn new(file: &str, text: &str, span: Range<usize>, message: String) -> Self {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        let before = text[line_start..start].chars().count();
        let length = line.chars().count();
        let end = span.end.clamp(start, line_start + line.len().max(start - line_start));
        let meant = text.get(start..end).map_or(1, |meant| meant.chars().count().max(1));
        Self {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            message,
            shown: (length <= SHOWN_LINE).then(|| (line.replace('\t', " "), meant)),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, shown } = self;
        write!(formatter, "{file}:{line}:{column}: {message}")?;
        if let Some((text, meant)) = shown {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let (indent, carets) = (" ".repeat(column - 1), "^".repeat(*meant));
            write!(formatter, "\n{margin} |\n{number} | {text}\n{margin} | {indent}{carets}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

/// The text of a file that holds just these rules.
#[must_use]
pub fn policy_text(entries: &[Entry]) -> String {
    #[derive(Serialize)]
    struct Tables {
        export: Vec<Table>,
    }
    #[derive(Serialize)]
    struct Table {
        rule: String,
        allow: bool,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        networks: Vec<String>,
        backend: Backend,
    }
    if entries.is_empty() {
        return String::new();
    }
    let table = |entry: &Entry| Table {
        rule: entry.rule.to_string(),
        allow: entry.allow,
        networks: entry.networks.iter().map(ToString::to_string).collect(),
        backend: entry.backend,
    };
    let tables = Tables { export: entries.iter().map(table).collect() };
    toml::to_string(&tables).expect("texts and truth values are TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse("c.toml", text).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let text = r#"
            listen = ["0.0.0.0", "[::1]:99"]
            allow = ["192.168.0.0/16", "::1"]
            cores = 2
            reactor = "io-uring"
            realtime = true
            busy_poll_us = 50
            force = false
            admin = "none"
            state = "/x/policy.toml"
            simulate = ["zero:pace=none"]

            [[export]]
            rule = "class=hid"
            allow = false

            [[export]]
            rule = "0525:*,serial=7"
            networks = ["10.0.0.0/8"]
            backend = "usbfs"
        "#;
        let file = read(text).expect("good");
        assert_eq!(file.listen.expect("said"), ["0.0.0.0", "[::1]:99"]);
        assert_eq!(file.allow.expect("said").len(), 2);
        assert_eq!((file.cores, file.busy_poll_us), (Some(2), Some(50)));
        assert_eq!(file.reactor, Some(ReactorChoice::IoUring));
        assert_eq!((file.realtime, file.force), (Some(true), Some(false)));
        let deny = Entry { allow: false, ..Entry::export("class=hid".parse().expect("a rule")) };
        assert_eq!(file.export[0], deny);
        assert_eq!(file.export[1].networks, ["10.0.0.0/8".parse().expect("a range")]);
        assert_eq!(read("").expect("nothing is said"), ConfigFile::default());
    }

    #[test]
    fn slips_are_shown_with_line_and_caret() {
        let shown = |text: &str| read(text).expect_err(text);
        assert_eq!(
            shown("cores = 1\n\n[[export]]\nrule = \"colour=red\"\n"),
            "c.toml:4:8: export 1: \"colour=\" is no criterion; there are BUSID, VID:PID, busid=, \
             vendor_id=, product_id=, serial=, path=, class=, name~REGEX\n  \
             |\n4 | rule = \"colour=red\"\n  |        ^^^^^^^^^^^^"
        );
        assert_eq!(
            shown("[[export]]\nrule = \"1-1\"\n[[export]]\nrule = \"\"\n"),
            "c.toml:4:8: export 2: an empty rule would mean every device; write *:* if that is \
             meant\n  |\n4 | rule = \"\"\n  |        ^^"
        );
        assert_eq!(
            shown("export = []"),
            "c.toml:1:10: export is an empty list; leave it away\n  |\n1 | export = []\n  \
             |          ^^"
        );
        assert_eq!(
            shown("[[export]]\nrule = \"1-1\"\nnetworks = []"),
            "c.toml:3:12: export 1: networks is an empty list; leave it away\n  |\n3 | networks \
             = []\n  |            ^^"
        );
        assert_eq!(
            shown("[[export]]\nrule = \"1-1\"\nnetworks = [\"10.0.0.1/8\"]"),
            "c.toml:3:13: export 1: networks: 10.0.0.1/8 has bits beyond its prefix; write \
             10.0.0.0/8\n  |\n3 | networks = [\"10.0.0.1/8\"]\n  |             ^^^^^^^^^^^^"
        );
        assert_eq!(
            shown("[[export]]\nrule = \"1-1\"\nbackend = \"kernel\""),
            "c.toml:3:11: export 1: the kernel backend is not built in; write backend = \
             \"usbfs\"\n  |\n3 | backend = \"kernel\"\n  |           ^^^^^^^^"
        );
        assert_eq!(
            shown("cores = 0"),
            "c.toml:1:9: cores: write 1 to 1024\n  |\n1 | cores = 0\n  |         ^"
        );
        assert!(shown("[[export]]\nallow = true").contains("missing field `rule`"));
    }

    #[test]
    fn unknown_keys_and_wrong_values_have_their_place() {
        let place = |text: &str| {
            let error = read(text).expect_err(text);
            let mut lines = error.lines();
            let head = lines.next().expect("a line").to_owned();
            (head, lines.next_back().unwrap_or("").to_owned())
        };
        let (head, carets) = place("cores = 1\nkores = 2\n");
        assert!(head.starts_with("c.toml:2:1: unknown field `kores`"), "{head}");
        assert_eq!(carets, "  | ^^^^^");
        let (head, carets) = place("[[export]]\nrule = \"1-1\"\nalow = true\n");
        assert!(head.starts_with("c.toml:3:1: unknown field `alow`"), "{head}");
        assert_eq!(carets, "  | ^^^^");
        let (head, carets) = place("\tcores = \"two\"");
        assert!(head.starts_with("c.toml:1:10: invalid type: string \"two\""), "{head}");
        assert_eq!(carets, "  |          ^^^^^");
        let (head, carets) = place("reactor = \"fast\"");
        assert_eq!(head, "c.toml:1:11: reactor: write auto, io-uring, epoll or kqueue");
        assert_eq!(carets, "  |           ^^^^^^");
        for text in ["cores = ", "[export", "listen = [\"ä\", 1]", "x", "[[export]]\nrule", "\u{0}"]
        {
            let error = read(text).expect_err(text);
            assert!(error.starts_with("c.toml:") && error.contains('^'), "{error}");
        }
        let long = format!("listen = [{}", "\"x\", ".repeat(100));
        assert_eq!(read(&long).expect_err("cut").lines().count(), 1, "too long to be shown");
    }

    #[test]
    fn rules_are_written_as_they_are_read() {
        let entries = vec![
            Entry { allow: false, ..Entry::export("name~^\"a\\d{1,2}\"$".parse().expect("rule")) },
            Entry {
                networks: vec!["10.0.0.0/8".parse().expect("a range")],
                ..Entry::export("1-1".parse().expect("rule"))
            },
        ];
        assert_eq!(read(&policy_text(&entries)).expect("read back").export, entries);
        assert!(read(&policy_text(&[])).expect("read back").export.is_empty());
    }
}
