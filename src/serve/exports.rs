//! What this server exports: the ledger, and what opens the devices that are listed in it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AheadRule, ServeConfig};
use crate::device::ahead::{Ahead, Lead};
use crate::device::{Export, Opener, Remains};
use crate::ledger::{
    Holder, Lease, LeaseError, LeaseRefusal, Ledger, Listed, Listener, Plugged, Publication,
    Refusal, Released,
};
use crate::usb::identity::DeviceDescription;

/// The exports, on core 0.
#[derive(Default)]
pub struct Exports {
    ledger: Ledger,
    /// By bus id, what opens the device that is listed there.
    openers: BTreeMap<String, Handle>,
    /// By bus id, what opens the device that will be listed when a reservation ends.
    pending: BTreeMap<String, Handle>,
    outbox: VecDeque<Arc<Publication>>,
    iso_prefetch: Vec<AheadRule>,
    iso_jitter: Vec<AheadRule>,
}

struct Handle {
    listed: Arc<Listed>,
    export: Box<dyn Export>,
}

/// Why a client does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The ledger says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its lease does not fit.
    #[error("{bus_id}: {cause}")]
    Lease {
        /// The device asked for.
        bus_id: String,
        /// Why.
        #[source]
        cause: LeaseError,
    },
    /// The device is for others.
    #[error("{0} is not for this client (see the rule's networks)")]
    NotForClient(String),
    /// The device cannot be opened.
    #[error("{bus_id} cannot be taken: {reason}")]
    Device {
        /// The device asked for.
        bus_id: String,
        /// For people.
        reason: String,
    },
}

impl ImportError {
    /// The status of the 8-byte OP_REP_IMPORT (kernel.md §1.1).
    #[must_use]
    pub const fn status(&self) -> u32 {
        match self {
            Self::Refused(Refusal::Busy { .. } | Refusal::Leased { .. }) => 2,
            Self::Lease { .. } => 1,
            Self::Device { .. } | Self::Refused(Refusal::Unavailable { .. }) => 3,
            // Who may not have it need not know that it is there.
            Self::Refused(Refusal::Unknown(_)) | Self::NotForClient(_) => 4,
        }
    }
}

/// How a client asks for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Plainly.
    Plain,
    /// With a lease that it was given.
    Lease {
        /// Its number.
        id: u64,
        /// What the client chose.
        nonce: u64,
    },
}

impl Exports {
    /// Sets for which devices to work ahead of their clients, and how far.
    pub fn work_ahead(&mut self, config: &ServeConfig) {
        self.iso_prefetch.clone_from(&config.iso_prefetch);
        self.iso_jitter.clone_from(&config.iso_jitter);
    }

    /// A device is there, or is there again.
    pub fn plug(&mut self, listed: Listed, export: Box<dyn Export>) {
        let bus_id = listed.description.bus_id.clone();
        let listed = Arc::new(listed);
        let handle = Handle { listed: Arc::clone(&listed), export };
        match self.ledger.plug(listed) {
            Plugged::Listed => drop(self.openers.insert(bus_id, handle)),
            Plugged::Pending => drop(self.pending.insert(bus_id, handle)),
            // While somebody has it, what opened it is what it is given back to.
            Plugged::Known => {
                let is_held = self.ledger.held().any(|(held, _)| held == bus_id);
                if !is_held {
                    self.openers.insert(bus_id, handle);
                }
            }
        }
        self.follow();
    }

    /// A device is gone, or is no longer to be exported.
    pub fn unplug(&mut self, bus_id: &str) {
        self.pending.remove(bus_id);
        self.ledger.unplug(bus_id);
        self.follow();
    }

    /// The devices that this client may import now, by bus id.
    #[must_use]
    pub fn available(&self, peer: SocketAddr) -> Vec<&DeviceDescription> {
        let free = self.ledger.available().filter(|listed| listed.is_for(peer));
        free.map(|listed| &listed.description).collect()
    }

    /// Lends a device out: checks and marks in one step, so that exactly one of many clients wins.
    ///
    /// # Errors
    ///
    /// See [`ImportError`].
    pub fn lend(
        &mut self,
        bus_id: &str,
        claim: Claim,
        peer: SocketAddr,
        now: Duration,
    ) -> Result<(Opener, Arc<Listed>), ImportError> {
        if self.ledger.get(bus_id).is_some_and(|listed| !listed.is_for(peer)) {
            return Err(ImportError::NotForClient(bus_id.to_owned()));
        }
        let holder = Holder { peer, since: now };
        let lent = match claim {
            Claim::Plain => self.ledger.reserve(bus_id, holder).map_err(ImportError::from),
            Claim::Lease { id, nonce } => {
                let lent = self.ledger.consume_lease(bus_id, id, nonce, holder);
                lent.map_err(|cause| ImportError::Lease { bus_id: bus_id.to_owned(), cause })
            }
        };
        self.follow();
        let listed = lent?;
        let handle = self.openers.get_mut(bus_id).expect("what is listed can be opened");
        match handle.export.reserve() {
            Ok(opener) => {
                let device = &listed.description;
                let lead = Lead {
                    prefetch: time_for(&self.iso_prefetch, device),
                    jitter: time_for(&self.iso_jitter, device),
                };
                Ok((opening_ahead(opener, device, lead), listed))
            }
            Err(reason) => {
                self.ledger.release(bus_id);
                self.follow();
                Err(ImportError::Device { bus_id: bus_id.to_owned(), reason })
            }
        }
    }

    /// A session is over and its device is free again.
    pub fn release(&mut self, bus_id: &str, remains: Remains) {
        if self.ledger.release(bus_id) == Released::Kept {
            let handle = self.openers.get_mut(bus_id).expect("a lent device stays listed");
            handle.export.restore(remains);
        }
        self.follow();
    }

    /// Promises a device to a listener of the control channel.
    ///
    /// # Errors
    ///
    /// See [`LeaseRefusal`].
    pub fn lease(
        &mut self,
        listener: Listener,
        peer: SocketAddr,
        bus_id: &str,
        nonce: u64,
        now: Duration,
    ) -> Result<Lease, LeaseRefusal> {
        if self.ledger.get(bus_id).is_some_and(|listed| !listed.is_for(peer)) {
            return Err(LeaseRefusal::Unavailable("unknown busid".to_owned()));
        }
        let lease = self.ledger.issue_lease(listener, peer, bus_id, nonce, now);
        self.follow();
        lease
    }

    /// A listener of the control channel is gone.
    pub fn drop_listener(&mut self, listener: Listener) {
        self.ledger.drop_listener(listener);
        self.follow();
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.ledger.deadline()
    }

    /// Time has passed: leases may have run out.
    pub fn handle_deadline(&mut self, now: Duration) {
        self.ledger.expire(now);
        self.follow();
    }

    /// What has changed, for those who listen; each once.
    pub fn poll_publication(&mut self) -> Option<Arc<Publication>> {
        self.outbox.pop_front()
    }

    /// The ledger, to be read.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// All devices, by bus id.
    pub fn all(&self) -> impl Iterator<Item = &DeviceDescription> {
        self.ledger.published().map(|published| &published.listed.description)
    }

    /// Sessions that have a device.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ledger.held().count()
    }

    /// Brings what opens devices in line with what is listed, as the ledger's publications say.
    fn follow(&mut self) {
        while let Some(publication) = self.ledger.poll_publication() {
            for bus_id in &publication.removed {
                self.openers.remove(bus_id);
                self.pending.remove(bus_id);
            }
            for published in publication.added.iter().chain(&publication.updated) {
                let bus_id = &published.listed.description.bus_id;
                let is_pending = |it: &Handle| Arc::ptr_eq(&it.listed, &published.listed);
                if self.pending.get(bus_id).is_some_and(is_pending) {
                    let handle = self.pending.remove(bus_id).expect("just found");
                    self.openers.insert(bus_id.clone(), handle);
                }
            }
            self.outbox.push_back(publication);
        }
    }
}

/// The time of the first rule that means a device, else that of the first for all devices.
fn time_for(rules: &[AheadRule], device: &DeviceDescription) -> Option<Duration> {
    let means = |rule: &&AheadRule| rule.rule.as_ref().is_some_and(|rule| rule.matches(device));
    let found = rules.iter().find(means);
    found.or_else(|| rules.iter().find(|rule| rule.rule.is_none())).map(|rule| rule.time)
}

/// Puts what works ahead before the device, if it is to.
fn opening_ahead(opener: Opener, device: &DeviceDescription, lead: Lead) -> Opener {
    if lead.is_none() {
        return opener;
    }
    let device = device.clone();
    Box::new(move |doorbell| Box::new(Ahead::new(opener(doorbell), &device, lead)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gadget::simulate;
    use crate::ledger::{LEASE_TTL, State};

    const NOW: Duration = Duration::from_secs(50);

    fn simulated(number: u8) -> (Listed, Box<dyn Export>) {
        let export = simulate::parse("zero").expect("a device").remove(0).export(number);
        (Listed::simulated(export.describe().clone()), export)
    }

    /// Another device at the same bus id.
    fn other(number: u8) -> (Listed, Box<dyn Export>) {
        let (mut listed, export) = simulated(number);
        listed.description.serial = "another".into();
        (listed, export)
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 7))
    }

    fn with_one() -> Exports {
        let mut exports = Exports::default();
        let (listed, export) = simulated(1);
        exports.plug(listed, export);
        exports
    }

    fn lend(exports: &mut Exports) -> Result<Remains, ImportError> {
        let (opener, _) = exports.lend("sim-1", Claim::Plain, peer(), NOW)?;
        let reactor = crate::reactor::select::open(
            crate::reactor::select::Choice::Auto,
            &usbip_fast_native::backend::Options::default(),
        );
        let (reactor, _) = reactor.expect("a reactor");
        Ok(opener(&reactor.doorbell()).into_remains())
    }

    fn serials(exports: &Exports) -> Vec<String> {
        exports.all().map(|device| device.serial.clone()).collect()
    }

    #[test]
    fn a_device_is_lent_to_one_and_then_to_the_next() {
        let mut exports = with_one();
        let remains = lend(&mut exports).expect("free");
        let refused = lend(&mut exports).expect_err("in use");
        assert_eq!(refused.status(), 2);
        assert!(refused.to_string().contains("192.0.2.1:7"), "{refused}");
        assert!(exports.available(peer()).is_empty());
        exports.release("sim-1", remains);
        assert_eq!(exports.available(peer()).len(), 1);
        lend(&mut exports).expect("free again");
    }

    #[test]
    fn what_replaces_a_lent_device_is_opened_when_it_is_back() {
        let mut exports = with_one();
        let remains = lend(&mut exports).expect("free");
        let (listed, export) = other(1);
        exports.plug(listed, export);
        assert_eq!(exports.ledger().published().next().expect("listed").state, State::Unavailable);
        exports.release("sim-1", remains);
        assert_eq!(serials(&exports), ["another"]);
        assert!(exports.pending.is_empty());
        lend(&mut exports).expect("the new one is free");
    }

    #[test]
    fn what_is_unplugged_while_lent_goes_when_it_is_back() {
        let mut exports = with_one();
        let remains = lend(&mut exports).expect("free");
        exports.unplug("sim-1");
        let (listed, export) = simulated(1);
        exports.plug(listed, export);
        exports.unplug("sim-1");
        exports.release("sim-1", remains);
        assert!(serials(&exports).is_empty() && exports.openers.is_empty());
        assert_eq!(lend(&mut exports).expect_err("gone").status(), 4);
    }

    #[test]
    fn a_lease_that_runs_out_lets_a_replacement_in() {
        let mut exports = with_one();
        exports.lease(Listener(1), peer(), "sim-1", 5, NOW).expect("free");
        let (listed, export) = other(1);
        exports.plug(listed, export);
        assert_eq!(exports.deadline(), Some(NOW + LEASE_TTL));
        exports.handle_deadline(NOW + LEASE_TTL);
        assert_eq!(serials(&exports), ["another"]);
        lend(&mut exports).expect("the new one can be opened");
    }

    #[test]
    fn a_lease_opens_its_device() {
        let mut exports = with_one();
        let lease = exports.lease(Listener(1), peer(), "sim-1", 5, NOW).expect("free");
        assert_eq!(lend(&mut exports).expect_err("promised").status(), 2);
        let wrong = Claim::Lease { id: lease.id, nonce: 6 };
        let refused = exports.lend("sim-1", wrong, peer(), NOW).err().expect("wrong");
        assert_eq!(refused.to_string(), "sim-1: lease mismatch");
        let right = Claim::Lease { id: lease.id, nonce: 5 };
        assert!(exports.lend("sim-1", right, peer(), NOW).is_ok());
    }

    #[test]
    fn a_device_for_others_is_not_there() {
        let mut exports = Exports::default();
        let (mut listed, export) = simulated(1);
        listed.networks = vec!["10.0.0.0/8".parse().expect("a range")];
        exports.plug(listed, export);
        assert!(exports.available(peer()).is_empty());
        assert_eq!(lend(&mut exports).expect_err("not for it").status(), 4);
        assert!(exports.lease(Listener(1), peer(), "sim-1", 5, NOW).is_err());
    }

    #[test]
    fn a_rule_for_a_device_goes_before_one_for_all() {
        let spec = &simulate::parse("zero").expect("a device")[0];
        let (first, second) = (spec.export(1), spec.export(2));
        let rules = |texts: &[&str]| -> Vec<AheadRule> {
            texts.iter().map(|text| text.parse().expect("a rule")).collect()
        };
        let time = |texts: &[&str], export: &dyn Export| {
            time_for(&rules(texts), export.describe()).map(|time| time.as_millis())
        };
        assert_eq!(time(&[], &*first), None);
        assert_eq!(time(&["20"], &*first), Some(20));
        assert_eq!(time(&["20", "30=sim-1", "40=0525:*"], &*first), Some(30));
        assert_eq!(time(&["20", "30=sim-1"], &*second), Some(20));
        assert_eq!(time(&["30=sim-1"], &*second), None);
    }
}
