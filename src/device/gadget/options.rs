//! What the options of all simulated devices have in common: `key=value` joined by colons.

use std::fmt::Display;
use std::str::FromStr;

use super::pace::Pace;

/// Why the text of a device's options is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The key exists, the value does not fit.
    #[error("{key}={value}: {rule}")]
    BadValue {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// Not `key=value`.
    #[error("{0:?} is not key=value")]
    NotAPair(String),
    /// No such key.
    #[error("unknown key {key:?}; {device} has {keys}")]
    UnknownKey {
        /// What was given.
        key: String,
        /// The device's name.
        device: &'static str,
        /// Its keys, with what each can be.
        keys: &'static str,
    },
}

impl OptionError {
    /// `key` is none of the `keys` of `device`.
    #[must_use]
    pub fn unknown(key: &str, device: &'static str, keys: &'static str) -> Self {
        Self::UnknownKey { key: key.into(), device, keys }
    }
}

/// Takes the text apart; nothing between two colons is nothing at all.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, &str), OptionError>> {
    let parts = text.split(':').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').ok_or_else(|| OptionError::NotAPair(part.into())))
}

/// A number between two bounds, both included.
pub(super) fn number<N>(key: &str, value: &str, least: N, most: N) -> Result<N, OptionError>
where
    N: Copy + Display + FromStr + PartialOrd,
{
    let rule = || format!("must be a number from {least} to {most}");
    let found = value.parse().map_err(|_| bad(key, value, rule()))?;
    if (least..=most).contains(&found) { Ok(found) } else { Err(bad(key, value, rule())) }
}

/// The value of `pace=`.
pub(super) fn pace(value: &str) -> Result<Pace, OptionError> {
    value.parse().map_err(|error| bad("pace", value, format!("pace {error}")))
}

/// The key exists, the value does not fit: the rule says what it must be.
pub(super) fn bad(key: &str, value: &str, rule: impl Into<String>) -> OptionError {
    OptionError::BadValue { key: key.into(), value: value.into(), rule: rule.into() }
}
