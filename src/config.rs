//! What a server is told to do, checked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::limits;

/// Everything `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Simulated devices, one each: `NAME[:key=value]…`.
    pub simulate: Vec<String>,
    /// Bus ids of real devices.
    pub bus_ids: Vec<String>,
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
    /// Take devices even when this machine visibly needs them.
    pub force: bool,
    /// Where the commands of this machine reach the server.
    pub admin: AdminChoice,
}

impl Default for ServeConfig {
    /// Nothing to export, at the standard port of this machine, on one core, without admin socket.
    fn default() -> Self {
        Self {
            simulate: Vec::new(),
            bus_ids: Vec::new(),
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            allow: Vec::new(),
            cores: 1,
            reactor: ReactorChoice::Auto,
            realtime: false,
            busy_poll: Duration::ZERO,
            force: false,
            admin: AdminChoice::Off,
        }
    }
}

/// The TCP port that is registered for USB/IP.
const DEFAULT_PORT: u16 = 3240;

impl ServeConfig {
    /// Refuses what must not run: nothing to export, or the network let in without a word.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] with what to type.
    pub fn check(&self) -> Result<(), Error> {
        if self.simulate.is_empty() && self.bus_ids.is_empty() {
            return Err(Error::Usage(
                "nothing to export; add -b BUSID (see: usbip-fast list -l) or --simulate zero"
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

/// A range of addresses: `192.168.0.0/16`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// All IPv4 addresses.
    pub const ALL_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 };
    /// All IPv6 addresses.
    pub const ALL_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 };

    /// Whether `address` is in the range. An IPv4 address that came through an IPv6 socket
    /// (`::ffff:a.b.c.d`) counts as the IPv4 address that it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, canonical(address)) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let mask = mask(32, self.prefix);
                u128::from(range.to_bits()) & mask == u128::from(address.to_bits()) & mask
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let mask = mask(128, self.prefix);
                range.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// Why a text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash.
    #[error("{0:?} is no IP address; write 192.168.0.0/16 or fd00::/8")]
    Address(String),
    /// Bits behind the prefix: most likely a slip that would allow more or less than was meant.
    #[error("{0} has bits beyond its prefix; write {1}")]
    HostBits(String, Cidr),
    /// The part behind the slash.
    #[error("{0:?} is no prefix length; write 0 to {1}")]
    Prefix(String, u8),
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address_text, prefix_text) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address_text
            .parse()
            .map_err(|_| CidrError::Address(address_text.to_owned()))
            .map(canonical)?;
        let width = width(address);
        let prefix = match prefix_text {
            None => width,
            Some(text) => text
                .parse()
                .ok()
                .filter(|prefix| *prefix <= width)
                .ok_or_else(|| CidrError::Prefix(text.to_owned(), width))?,
        };
        let masked = masked(address, prefix);
        if masked != address {
            return Err(CidrError::HostBits(text.to_owned(), Self { address: masked, prefix }));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The upper `prefix` of `width` bits.
fn mask(width: u8, prefix: u8) -> u128 {
    let low = u32::from(width - prefix);
    let all = u128::MAX >> (128 - u32::from(width));
    all & u128::MAX.checked_shl(low).unwrap_or(0)
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u128::from(v4.to_bits()) & mask(32, prefix);
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).expect("32 bits were kept")))
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask(128, prefix))),
    }
}

/// A range to put before the user's eyes: the network of the address, or a private one.
fn suggestion(address: IpAddr) -> Cidr {
    match (canonical(address), address.is_unspecified()) {
        (IpAddr::V4(_), true) => Cidr { address: Ipv4Addr::new(192, 168, 0, 0).into(), prefix: 16 },
        (IpAddr::V4(v4), false) => Cidr { address: masked(v4.into(), 24), prefix: 24 },
        (IpAddr::V6(_), true) => {
            Cidr { address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 8 }
        }
        (IpAddr::V6(v6), false) => Cidr { address: masked(v6.into(), 64), prefix: 64 },
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

    #[test]
    fn ranges_contain_what_they_say() {
        assert!(cidr("192.168.0.0/16").contains(ip("192.168.255.1")));
        assert!(!cidr("192.168.0.0/16").contains(ip("192.169.0.1")));
        assert!(cidr("10.1.2.3").contains(ip("10.1.2.3")));
        assert!(!cidr("10.1.2.3").contains(ip("10.1.2.2")));
        assert!(cidr("0.0.0.0/0").contains(ip("8.8.8.8")));
        assert!(!cidr("0.0.0.0/0").contains(ip("fe80::1")), "families are apart");
        assert!(cidr("fd00::/8").contains(ip("fdff::1")));
        assert!(!cidr("fd00::/8").contains(ip("fe00::1")));
        assert!(cidr("::/0").contains(ip("2001:db8::1")));
        assert!(!cidr("::1/128").contains(ip("::2")));
        assert!(Cidr::ALL_V4.contains(ip("1.2.3.4")) && Cidr::ALL_V6.contains(ip("1::2")));
    }

    #[test]
    fn mapped_addresses_are_the_addresses_they_map() {
        assert!(cidr("10.0.0.0/8").contains(ip("::ffff:10.9.8.7")));
        assert!(!cidr("::/0").contains(ip("::ffff:10.9.8.7")));
        assert_eq!(cidr("::ffff:10.9.8.7"), cidr("10.9.8.7/32"));
    }

    #[test]
    fn slips_are_refused_with_the_right_text() {
        let error = |text: &str| text.parse::<Cidr>().expect_err("a slip").to_string();
        assert!(error("192.168.1.0/16").ends_with("write 192.168.0.0/16"));
        assert!(error("192.168.0.0/33").contains("0 to 32"));
        assert!(error("fd00::/129").contains("0 to 128"));
        assert!(error("lan/8").contains("no IP address"));
        assert!(error("10.0.0.0/").contains("no prefix length"));
        assert!(error("").contains("no IP address"));
    }

    #[test]
    fn every_prefix_length_holds_its_own_address() {
        for prefix in 0..=32 {
            let range = Cidr { address: masked(ip("203.0.113.77"), prefix), prefix };
            assert!(range.contains(ip("203.0.113.77")), "{range}");
            assert_eq!(cidr(&range.to_string()), range);
        }
        for prefix in 0..=128 {
            let range = Cidr { address: masked(ip("2001:db8::77"), prefix), prefix };
            assert!(range.contains(ip("2001:db8::77")), "{range}");
        }
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
    fn this_machine_and_the_allowed_are_admitted() {
        let config = config(&["0.0.0.0:3240"], &["10.0.0.0/8"]);
        assert!(config.admits(ip("127.0.0.1")) && config.admits(ip("::1")));
        assert!(config.admits(ip("::ffff:127.0.0.1")));
        assert!(config.admits(ip("10.1.1.1")));
        assert!(!config.admits(ip("11.1.1.1")));
    }
}
