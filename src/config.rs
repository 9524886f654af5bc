//! What a server is told to do, checked.

pub mod file;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::ledger::policy::{Entry, Rule};
use crate::limits;
use crate::network::canonical;
pub use crate::network::{Cidr, CidrError};

/// Everything `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Simulated devices, one each: `NAME[:key=value]…`.
    pub simulate: Vec<String>,
    /// Bus ids of real devices.
    pub bus_ids: Vec<String>,
    /// Rules of the command line, those that deny first.
    pub rules: Vec<Entry>,
    /// Rules of the configuration file, which come after them.
    pub file_rules: Vec<Entry>,
    /// The configuration file, which SIGHUP reads again.
    pub file: Option<PathBuf>,
    /// Where rules that are made while the server runs are kept.
    pub state: Option<PathBuf>,
    /// Addresses to listen at, names resolved, none twice. An IPv6 address takes IPv6 only.
    pub listen: Vec<SocketAddr>,
    /// Peers that may connect, besides this machine itself.
    pub allow: Vec<Cidr>,
    /// Cores, and so reactor threads; at least 1.
    pub cores: usize,
    /// Which reactor to run on.
    pub reactor: ReactorChoice,
    /// Run before other programs, from memory that is never swapped out.
    pub realtime: bool,
    /// How long a core looks for something to do before it sleeps.
    pub busy_poll: Duration,
    /// How long to read isochronous and interrupt IN ahead of the client, for which devices.
    pub iso_prefetch: Vec<AheadRule>,
    /// How much isochronous OUT to hold back, for which devices.
    pub iso_jitter: Vec<AheadRule>,
    /// Take devices even when this machine visibly needs them.
    pub force: bool,
    /// Where the commands of this machine reach the server.
    pub admin: AdminChoice,
    /// Who may listen for changes of the exports.
    pub control: ControlChoice,
}

impl Default for ServeConfig {
    /// Nothing to export, at the standard port of this machine, on one core, without admin socket.
    fn default() -> Self {
        Self {
            simulate: Vec::new(),
            bus_ids: Vec::new(),
            rules: Vec::new(),
            file_rules: Vec::new(),
            file: None,
            state: None,
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            allow: Vec::new(),
            cores: 1,
            reactor: ReactorChoice::Auto,
            realtime: false,
            busy_poll: Duration::ZERO,
            iso_prefetch: Vec::new(),
            iso_jitter: Vec::new(),
            force: false,
            admin: AdminChoice::Off,
            control: ControlChoice::Plain,
        }
    }
}

/// No machine in sight has more cores.
pub const MOST_CORES: usize = 1024;

/// The TCP port that is registered for USB/IP.
const DEFAULT_PORT: u16 = 3240;

impl ServeConfig {
    /// Refuses what must not run: nothing to export, or the network let in without a word.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] with what to type.
    pub fn check(&self) -> Result<(), Error> {
        // With a file, rules may be made while the server runs.
        let is_named = !self.simulate.is_empty() || !self.bus_ids.is_empty();
        if !is_named && self.rules.is_empty() && self.file.is_none() && self.state.is_none() {
            return Err(Error::Usage(
                "nothing to export; add -b BUSID (see: usbip-fast list -l), --export RULE or \
                 --simulate zero"
                    .into(),
            ));
        }
        if let Some(text) = self.bus_ids.iter().find(|text| !is_bus_id(text)) {
            return Err(Error::Usage(format!(
                "-b {text:?} is no bus id; type: usbip-fast list -l, and take one such as 1-1.4"
            )));
        }
        self.check_listen()
    }

    /// Refuses to let the network in without a word.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] with what to type.
    pub fn check_listen(&self) -> Result<(), Error> {
        let open = self.listen.iter().find(|address| !canonical(address.ip()).is_loopback());
        match open {
            Some(address) if self.allow.is_empty() => Err(Error::Usage(format!(
                "--listen {address} lets the network in; add --allow CIDR for those who may \
                 connect, such as --allow {}",
                suggestion(address.ip())
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a peer at `address` may connect. This machine itself always may.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        canonical(address).is_loopback() || self.allow.iter().any(|range| range.contains(address))
    }
}

/// Whether Linux may ever give a device this name: `BUS-PORT[.PORT]…`. A device that is not there
/// is waited for, so a slip would wait for ever; and the name becomes part of a path.
fn is_bus_id(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= limits::BUS_ID_BYTES
        && text
            .split_once('-')
            .is_some_and(|(bus, ports)| is_number(bus) && ports.split('.').all(is_number))
}

/// A time to work ahead by, and the devices it is for: `MS` or `MS=RULE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AheadRule {
    /// 1 ms to [`limits::AHEAD_MS`].
    pub time: Duration,
    /// `None`: every device that no other rule means.
    pub rule: Option<Rule>,
}

impl FromStr for AheadRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (time, rule) = match text.split_once('=') {
            Some((time, rule)) => (time, Some(rule)),
            None => (text, None),
        };
        let known = time.parse().ok().filter(|time| (1..=limits::AHEAD_MS).contains(time));
        let milliseconds: u16 = known.ok_or_else(|| {
            let most = limits::AHEAD_MS;
            format!("write milliseconds, 1 to {most}, and for one device MS=BUSID or MS=VID:PID")
        })?;
        let rule = rule.map(|rule| rule.parse().map_err(|error| format!("{error}"))).transpose()?;
        Ok(Self { time: Duration::from_millis(milliseconds.into()), rule })
    }
}

/// Which kernel interface the reactors use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReactorChoice {
    /// The best that this system allows.
    #[default]
    Auto,
    /// io_uring, or fail.
    IoUring,
    /// epoll.
    Epoll,
    /// kqueue (macOS).
    Kqueue,
}

/// What the control channel speaks with clients that know no leases; with those that do it speaks
/// their dialect in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ControlChoice {
    /// Numbers for states: sing-usbip from June 2026 on.
    #[default]
    Plain,
    /// Words for states: sing-usbip before that.
    PlainText,
    /// No control channel at all.
    Off,
}

/// Where the admin socket of a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminChoice {
    /// Where the commands look for it; without it if that place cannot be had.
    Usual,
    /// At this path, or fail.
    At(PathBuf),
    /// Nowhere.
    #[default]
    Off,
}

/// A range to put before the user's eyes: the network of the address, or a private one.
fn suggestion(address: IpAddr) -> Cidr {
    match (canonical(address), address.is_unspecified()) {
        (IpAddr::V4(_), true) => Cidr::around(Ipv4Addr::new(192, 168, 0, 0).into(), 16),
        (IpAddr::V4(v4), false) => Cidr::around(v4.into(), 24),
        (IpAddr::V6(_), true) => Cidr::around(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        (IpAddr::V6(v6), false) => Cidr::around(v6.into(), 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn config(listen: &[&str], allow: &[&str]) -> ServeConfig {
        ServeConfig {
            simulate: vec!["zero".into()],
            bus_ids: Vec::new(),
            listen: listen.iter().map(|text| text.parse().expect("an address")).collect(),
            allow: allow.iter().map(|text| cidr(text)).collect(),
            ..ServeConfig::default()
        }
    }

    #[test]
    fn the_network_is_let_in_only_by_word() {
        assert!(config(&["127.0.0.1:3240", "[::1]:3240"], &[]).check().is_ok());
        let error = config(&["127.0.0.1:1", "192.0.2.7:3240"], &[]).check().expect_err("open");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().ends_with("--allow 192.0.2.0/24"), "{error}");
        let error = config(&["[::]:3240"], &[]).check().expect_err("open");
        assert!(error.to_string().ends_with("--allow fd00::/8"), "{error}");
        assert!(config(&["0.0.0.0:3240"], &["192.168.0.0/16"]).check().is_ok());
    }

    #[test]
    fn nothing_to_export_is_refused() {
        let nothing = ServeConfig { simulate: Vec::new(), ..config(&["127.0.0.1:1"], &[]) };
        assert!(nothing.check().expect_err("nothing").to_string().contains("-b BUSID"));
        let real = ServeConfig { bus_ids: vec!["1-1".into()], ..nothing };
        assert!(real.check().is_ok());
    }

    #[test]
    fn a_bus_id_that_no_device_can_have_is_not_waited_for() {
        let of = |text: &str| ServeConfig { bus_ids: vec![text.into()], ..config(&[], &[]) };
        for good in ["1-1", "3-2.1.4", "12-10"] {
            assert!(of(good).check().is_ok(), "{good}");
        }
        for bad in ["", "1", "1-", "-1", "1-1.", "1_1", "usb1", "../1-1", "1-1:1.0", "sim-1"] {
            let error = of(bad).check().expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(error.to_string().contains("usbip-fast list -l"), "{error}");
        }
    }

    #[test]
    fn times_to_work_ahead_have_bounds_and_rules() {
        let rule = |text: &str| text.parse::<AheadRule>();
        let all = AheadRule { time: Duration::from_millis(20), rule: None };
        assert_eq!(rule("20"), Ok(all.clone()));
        let one = AheadRule { rule: Some("busid=1-1".parse().expect("a rule")), ..all };
        assert_eq!(rule("20=busid=1-1"), Ok(one));
        assert!(rule("1").is_ok() && rule("1000=0525:*").is_ok());
        for bad in ["", "0", "1001", "-1", "x", "20ms", "=1-1", "20=", "20=colour=red"] {
            assert!(rule(bad).is_err(), "{bad}");
        }
        assert!(rule("2s").expect_err("no number").contains("1 to 1000"));
    }

    #[test]
    fn this_machine_and_the_allowed_are_admitted() {
        let config = config(&["0.0.0.0:3240"], &["10.0.0.0/8"]);
        assert!(config.admits(ip("127.0.0.1")) && config.admits(ip("::1")));
        assert!(config.admits(ip("::ffff:127.0.0.1")));
        assert!(config.admits(ip("10.1.1.1")));
        assert!(!config.admits(ip("11.1.1.1")));
    }
}
