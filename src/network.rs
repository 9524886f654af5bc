//! Ranges of network addresses.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

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

    /// The range of this prefix length that `address` is in.
    ///
    /// # Panics
    ///
    /// If the prefix is longer than the address.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        assert!(prefix <= width(address), "no address has a prefix of {prefix} bits");
        Self { address: masked(address, prefix), prefix }
    }

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

/// An IPv4 address that came through an IPv6 socket as the IPv4 address that it is.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
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
}
