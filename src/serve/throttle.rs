//! How often one address may begin something: a burst, then a steady rate.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits;
use crate::network::canonical;

/// Between two beginnings of an address whose burst is used.
const INTERVAL: Duration = Duration::from_millis(1000 / (limits::CONTROL_RATE as u64));

/// How far ahead of time an address may be.
const BURST: Duration = Duration::from_millis(
    1000 / (limits::CONTROL_RATE as u64) * (limits::CONTROL_BURST as u64 - 1),
);

/// Beginnings by address.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When an address would be where it is if it had kept to the rate. One whose time is over has
    /// its whole burst again, and need not be here.
    due: BTreeMap<IpAddr, Duration>,
}

impl Throttle {
    /// Whether this address may begin now; counted if so.
    pub fn admits(&mut self, address: IpAddr, now: Duration) -> bool {
        let address = network(address);
        if !self.due.contains_key(&address) {
            self.make_room(now);
        }
        let due = self.due.entry(address).or_default();
        let begins = (*due).max(now);
        if begins > now + BURST {
            return false;
        }
        *due = begins + INTERVAL;
        true
    }

    fn make_room(&mut self, now: Duration) {
        if self.due.len() < limits::CONTROL_ADDRESSES {
            return;
        }
        self.due.retain(|_, due| *due > now);
        if self.due.len() < limits::CONTROL_ADDRESSES {
            return;
        }
        let first = self.due.iter().min_by_key(|(_, due)| **due).map(|(address, _)| *address);
        self.due.remove(&first.expect("the table is full"));
    }
}

/// A machine has all addresses of an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match canonical(address) {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn admitted(throttle: &mut Throttle, address: &str, tries: u32, now: Duration) -> u32 {
        (0..tries).map(|_| u32::from(throttle.admits(ip(address), now))).sum()
    }

    #[test]
    fn ten_thousand_in_a_minute_become_a_burst_and_a_rate() {
        let mut throttle = Throttle::default();
        let step = Duration::from_millis(6);
        let tries = (0..10_000).map(|n| throttle.admits(ip("192.0.2.1"), NOW + step * n));
        let admitted = tries.filter(|&admitted| admitted).count() as u32;
        let most = limits::CONTROL_BURST + 60 * limits::CONTROL_RATE;
        assert!((most - 2..=most).contains(&admitted), "{admitted} of at most {most}");
        assert!(throttle.admits(ip("192.0.2.2"), NOW), "others are not hurt");
    }

    #[test]
    fn a_burst_comes_back() {
        let mut throttle = Throttle::default();
        let burst = limits::CONTROL_BURST;
        assert_eq!(admitted(&mut throttle, "192.0.2.1", 1000, NOW), burst);
        assert_eq!(admitted(&mut throttle, "192.0.2.1", 1000, NOW + INTERVAL), 1);
        let later = NOW + Duration::from_secs(60);
        assert_eq!(admitted(&mut throttle, "::ffff:192.0.2.1", 1000, later), burst);
    }

    #[test]
    fn many_addresses_fill_no_memory() {
        let mut throttle = Throttle::default();
        for network in 0..3 * limits::CONTROL_ADDRESSES {
            let address = format!("2001:db8:0:{network:x}::1");
            assert!(throttle.admits(ip(&address), NOW));
        }
        assert_eq!(throttle.due.len(), limits::CONTROL_ADDRESSES);
        let burst = limits::CONTROL_BURST;
        assert_eq!(admitted(&mut throttle, "2001:db8:1::1", 300, NOW), burst);
        assert_eq!(admitted(&mut throttle, "2001:db8:1::2", 300, NOW), 0, "the same machine");
    }
}
