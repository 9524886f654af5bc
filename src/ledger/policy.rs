//! Which devices are meant: rules, and what is to be done with the devices they match.

use std::fmt;
use std::str::FromStr;

use regex_lite::{Regex, RegexBuilder};

use crate::limits;
use crate::network::Cidr;
use crate::usb::identity::{Class, DeviceDescription};

/// Class of hubs, which are never exported: what hangs on them is.
const HUB_CLASS: u8 = 0x09;

/// A device is meant if it meets every criterion: `vid:pid` (hexadecimal, either may be `*`),
/// `busid=`, `serial=`, `path=`, `class=`, `name~REGEX`, joined by commas; `!` before one negates
/// it. A word without `=`, `~` and `:` is a bus id.
#[derive(Clone, Debug)]
pub struct Rule {
    text: String,
    criteria: Vec<Criterion>,
}

#[derive(Clone, Debug)]
struct Criterion {
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    BusId(String),
    Vendor(u16),
    Product(u16),
    Numbers(Option<u16>, Option<u16>),
    Serial(String),
    Path(String),
    Class(u8),
    Name(Regex),
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing is said, which would mean every device.
    #[error("an empty rule would mean every device; write *:* if that is meant")]
    Empty,
    /// Nothing between two commas, or nothing behind an equals sign.
    #[error("{0:?} says nothing; write {EXAMPLES}")]
    EmptyCriterion(String),
    /// No such key.
    #[error("{0:?} is no criterion; there are {EXAMPLES}")]
    UnknownKey(String),
    /// A number that is none.
    #[error("{0:?} is no number of four hexadecimal digits, such as 0525")]
    Number(String),
    /// No such class.
    #[error("{0:?} is no class; there are {CLASS_NAMES} and 0xNN")]
    Class(String),
    /// The pattern behind `name~`.
    #[error("{pattern:?} is no regular expression: {cause}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What the library says.
        cause: String,
    },
    /// Longer than any rule that means something.
    #[error("a rule of {0} bytes; at most {max} are read", max = limits::RULE_BYTES)]
    TooLong(usize),
}

const EXAMPLES: &str = "BUSID, VID:PID, busid=, vendor_id=, product_id=, serial=, path=, class=, \
    name~REGEX";

/// Names of USB classes (usb.org, Defined Class Codes).
const CLASSES: [(&str, u8); 13] = [
    ("audio", 0x01),
    ("cdc", 0x02),
    ("serial", 0x02),
    ("hid", 0x03),
    ("image", 0x06),
    ("printer", 0x07),
    ("storage", 0x08),
    ("hub", 0x09),
    ("smartcard", 0x0b),
    ("video", 0x0e),
    ("wireless", 0xe0),
    ("application", 0xfe),
    ("vendor", 0xff),
];
const CLASS_NAMES: &str = "audio, cdc, serial, hid, image, printer, storage, hub, smartcard, \
    video, wireless, application, vendor";

impl Rule {
    /// Whether this device is meant.
    #[must_use]
    pub fn matches(&self, device: &DeviceDescription) -> bool {
        self.criteria.iter().all(|criterion| criterion.test.holds(device) != criterion.negated)
    }

    /// The bus id, if the rule is nothing but one: it then means a place, not a device.
    #[must_use]
    pub fn bus_id(&self) -> Option<&str> {
        match &self.criteria[..] {
            [Criterion { negated: false, test: Test::BusId(bus_id) }] => Some(bus_id),
            _ => None,
        }
    }
}

impl Test {
    fn holds(&self, device: &DeviceDescription) -> bool {
        match self {
            Self::BusId(bus_id) => device.bus_id == *bus_id,
            Self::Vendor(vendor) => device.vendor == *vendor,
            Self::Product(product) => device.product == *product,
            Self::Numbers(vendor, product) => {
                vendor.is_none_or(|vendor| device.vendor == vendor)
                    && product.is_none_or(|product| device.product == product)
            }
            Self::Serial(serial) => device.serial == *serial,
            Self::Path(path) => device.location == *path,
            Self::Class(class) => has_class(device, *class),
            Self::Name(pattern) => {
                pattern.is_match(&format!("{} {}", device.manufacturer_name, device.product_name))
            }
        }
    }
}

/// The class of the device or of one of its interfaces.
fn has_class(device: &DeviceDescription, class: u8) -> bool {
    let is_it = |found: &Class| found.class == class;
    is_it(&device.class) || device.interfaces.iter().any(is_it)
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(RuleError::Empty);
        }
        if text.len() > limits::RULE_BYTES {
            return Err(RuleError::TooLong(text.len()));
        }
        let criteria = split(text).into_iter().map(Criterion::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), criteria })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rule {}

/// Commas separate criteria, but not inside a pattern's braces or brackets: `name~a{1,2}`.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, character) in text.char_indices() {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl Criterion {
    fn parse(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let (negated, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        if rest.is_empty() {
            return Err(RuleError::EmptyCriterion(text.to_owned()));
        }
        Ok(Self { negated, test: Test::parse(rest)? })
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self, RuleError> {
        // The sign that comes first decides: a serial number may hold any of the others.
        let sign = text.find(['=', '~', ':']).map(|at| (at, &text[at..=at]));
        match sign {
            None => Ok(Self::BusId(text.to_owned())),
            Some((at, ":")) => {
                let number = |text: &str| (text != "*").then(|| hexadecimal(text)).transpose();
                Ok(Self::Numbers(number(&text[..at])?, number(&text[at + 1..])?))
            }
            Some((at, sign)) => {
                let (key, value) = (text[..at].trim(), text[at + 1..].trim());
                if value.is_empty() {
                    return Err(RuleError::EmptyCriterion(text.to_owned()));
                }
                Self::keyed(key, sign, value)
            }
        }
    }

    fn keyed(key: &str, sign: &str, value: &str) -> Result<Self, RuleError> {
        match (key, sign) {
            ("busid", "=") => Ok(Self::BusId(value.to_owned())),
            ("vendor_id", "=") => hexadecimal(value).map(Self::Vendor),
            ("product_id", "=") => hexadecimal(value).map(Self::Product),
            ("serial", "=") => Ok(Self::Serial(value.to_owned())),
            ("path", "=") => Ok(Self::Path(value.to_owned())),
            ("class", "=") => class(value).map(Self::Class),
            ("name", "~") => {
                let pattern = RegexBuilder::new(value).case_insensitive(true).build();
                let cause = |error: regex_lite::Error| error.to_string();
                pattern.map(Self::Name).map_err(|error| RuleError::Pattern {
                    pattern: value.to_owned(),
                    cause: cause(error),
                })
            }
            _ => Err(RuleError::UnknownKey(format!("{key}{sign}"))),
        }
    }
}

/// Up to four hexadecimal digits, with or without `0x`.
fn hexadecimal(text: &str) -> Result<u16, RuleError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let number = digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = number.then(|| u16::from_str_radix(digits, 16).ok()).flatten();
    value.ok_or_else(|| RuleError::Number(text.to_owned()))
}

fn class(text: &str) -> Result<u8, RuleError> {
    let named = CLASSES.iter().find(|(name, _)| *name == text).map(|(_, class)| *class);
    let number = || u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    named.or_else(number).ok_or_else(|| RuleError::Class(text.to_owned()))
}

/// How a device is taken from its drivers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By this program itself.
    #[default]
    Usbfs,
    /// By the kernel's usbip-host: the connection is handed to the kernel.
    Kernel,
}

/// A rule and what it says of the devices it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The devices.
    pub rule: Rule,
    /// Whether they are exported; `false` keeps them from being exported by a later entry.
    pub allow: bool,
    /// Clients that may have them, besides this machine itself; empty: every client of the server.
    pub networks: Vec<Cidr>,
    /// How they are taken.
    pub backend: Backend,
}

impl Entry {
    /// Devices that are exported to every client, the usual way.
    #[must_use]
    pub const fn export(rule: Rule) -> Self {
        Self { rule, allow: true, networks: Vec::new(), backend: Backend::Usbfs }
    }
}

/// What is exported: a list of rules, of which the first that means a device decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules, in order.
    pub entries: Vec<Entry>,
}

impl Policy {
    /// What is to be done with this device; `None`: it is not exported. Hubs are not, and neither
    /// are devices that this machine has itself imported.
    #[must_use]
    pub fn decide(&self, device: &DeviceDescription) -> Option<&Entry> {
        if device.class.class == HUB_CLASS || is_imported(device) {
            return None;
        }
        let first = self.entries.iter().find(|entry| entry.rule.matches(device));
        first.filter(|entry| entry.allow)
    }
}

/// Whether this machine has the device from another one: exporting it again would let two machines
/// import from each other in a circle.
fn is_imported(device: &DeviceDescription) -> bool {
    device.location.contains("vhci_hcd")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceDescription {
        DeviceDescription {
            path: "/sys/bus/usb/devices/1-1.2".into(),
            bus_id: "1-1.2".into(),
            location: "pci-0000:00:14.0-usb-0:1.2".into(),
            bus_number: 1,
            device_number: 4,
            speed: crate::usb::speed::Speed::High,
            vendor: 0x0525,
            product: 0xa4a0,
            release: 0x0100,
            class: Class::default(),
            configuration: 1,
            configurations: 1,
            interfaces: vec![Class { class: 0x08, subclass: 6, protocol: 0x50 }],
            manufacturer_name: "Acme".into(),
            product_name: "Disk 3000".into(),
            serial: "A=1:2".into(),
            descriptors: Vec::new(),
        }
    }

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    #[test]
    fn each_criterion_means_its_property() {
        for text in [
            "1-1.2",
            "busid=1-1.2",
            "0525:a4a0",
            "0525:*",
            "*:a4a0",
            "*:*",
            "vendor_id=0x0525",
            "vendor_id=525",
            "product_id=A4A0",
            "serial=A=1:2",
            "path=pci-0000:00:14.0-usb-0:1.2",
            "class=storage",
            "class=0x08",
            "name~^acme disk [0-9]{3,4}$",
            "!class=hid",
            "!name~mouse",
            "vendor_id=0525, product_id=a4a0, serial=A=1:2, busid=1-1.2",
        ] {
            assert!(rule(text).matches(&device()), "{text}");
        }
        for text in [
            "1-1",
            "0525:a4a1",
            "0526:*",
            "serial=a=1:2",
            "path=pci-0000:00:14.0-usb-0:1",
            "class=video",
            "name~^disk",
            "!class=storage",
            "!*:*",
            "0525:a4a0,serial=B",
            "vendor_id=0525,product_id=a4a1",
        ] {
            assert!(!rule(text).matches(&device()), "{text}");
        }
    }

    #[test]
    fn slips_are_errors_that_say_what_there_is() {
        let error = |text: &str| text.parse::<Rule>().expect_err(text);
        assert_eq!(error(""), RuleError::Empty);
        assert_eq!(error("  "), RuleError::Empty);
        assert_eq!(error("1-1,"), RuleError::EmptyCriterion(String::new()));
        assert_eq!(error("!"), RuleError::EmptyCriterion("!".into()));
        assert_eq!(error("serial="), RuleError::EmptyCriterion("serial=".into()));
        assert_eq!(error("colour=red"), RuleError::UnknownKey("colour=".into()));
        assert_eq!(error("serial~x"), RuleError::UnknownKey("serial~".into()));
        assert_eq!(error("05250:a4a0"), RuleError::Number("05250".into()));
        assert_eq!(error("0525:"), RuleError::Number(String::new()));
        assert_eq!(error("+525:1"), RuleError::Number("+525".into()));
        assert_eq!(error("class=toaster"), RuleError::Class("toaster".into()));
        assert_eq!(error("class=0x108"), RuleError::Class("0x108".into()));
        assert!(matches!(error("name~("), RuleError::Pattern { .. }));
        assert_eq!(error(&"x".repeat(5000)), RuleError::TooLong(5000));
        assert!(error("colour=red").to_string().contains("path="));
    }

    #[test]
    fn only_a_lone_bus_id_means_a_place() {
        assert_eq!(rule("1-1").bus_id(), Some("1-1"));
        assert_eq!(rule("busid=1-1").bus_id(), Some("1-1"));
        assert_eq!(rule("!1-1").bus_id(), None);
        assert_eq!(rule("1-1,0525:*").bus_id(), None);
    }

    #[test]
    fn the_first_rule_that_means_a_device_decides() {
        let deny = Entry { allow: false, ..Entry::export(rule("serial=A=1:2")) };
        let all = Entry { backend: Backend::Kernel, ..Entry::export(rule("*:*")) };
        let policy = Policy { entries: vec![deny, all.clone()] };
        assert_eq!(policy.decide(&device()), None);
        let other = DeviceDescription { serial: "B".into(), ..device() };
        assert_eq!(policy.decide(&other), Some(&all));
        assert_eq!(Policy::default().decide(&other), None);
    }

    #[test]
    fn hubs_and_imported_devices_are_never_exported() {
        let policy = Policy { entries: vec![Entry::export(rule("*:*"))] };
        let class = Class { class: HUB_CLASS, subclass: 0, protocol: 1 };
        assert!(policy.decide(&device()).is_some());
        assert_eq!(policy.decide(&DeviceDescription { class, ..device() }), None);
        let location = "platform-vhci_hcd.0-usb-0:1".into();
        assert_eq!(policy.decide(&DeviceDescription { location, ..device() }), None);
    }
}
