//! The export ledger: what is exported, who has it, and what was told to those who listen.
//!
//! One owner, on core 0; everybody else asks by message. Every operation decides, then changes,
//! then publishes, in one call: nobody ever sees a state that was not meant. No clock and no IO:
//! the time is an argument, devices are what they are described as, and
//! [`Ledger::poll_publication`] hands out what the listeners are to be told.

mod entry;
mod lease;
pub mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::entry::{Entry, Stale};
pub use self::entry::{Holder, Identity, Listed, Published, State, UnavailableReason};
pub use self::lease::{Lease, LeaseError, LeaseRefusal, Listener};

/// A lease that is not used within this time is void.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// The ledger. See the module.
#[derive(Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// What was published last, by bus id.
    published: BTreeMap<String, Arc<Published>>,
    /// Counts publications.
    sequence: u64,
    last_lease: u64,
    outbox: VecDeque<Arc<Publication>>,
}

/// What has changed in one step, in the order of bus ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// One more than that of the publication before.
    pub sequence: u64,
    /// Devices that were not listed before.
    pub added: Vec<Arc<Published>>,
    /// Devices that are listed differently.
    pub updated: Vec<Arc<Published>>,
    /// Bus ids that are no longer listed.
    pub removed: Vec<String>,
}

/// Why a device is not lent out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing of that name is exported.
    #[error("{0} is not exported here")]
    Unknown(String),
    /// A session has it.
    #[error("{bus_id} is in use by {holder}")]
    Busy {
        /// The device asked for.
        bus_id: String,
        /// Who has it.
        holder: SocketAddr,
    },
    /// A lease on it was given out and not used yet.
    #[error("{bus_id} is promised to {holder} for a moment")]
    Leased {
        /// The device asked for.
        bus_id: String,
        /// Who has the lease.
        holder: SocketAddr,
    },
    /// It is listed, but cannot be had.
    #[error("{bus_id} is unavailable: {reason}")]
    Unavailable {
        /// The device asked for.
        bus_id: String,
        /// Why, for people.
        reason: UnavailableReason,
    },
}

/// What the end of a session means for the device it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is there for the next client.
    Kept,
    /// It was unplugged meanwhile and is listed no more.
    Dropped,
    /// Another one was plugged in in its place meanwhile, and is listed now.
    Replaced(Arc<Listed>),
}

impl Ledger {
    /// A device is plugged in (or has become one that is exported). At a bus id that is taken, the
    /// same device changes nothing; another one replaces it, at once if nobody has reserved it,
    /// else when the reservation ends. The answer says whether the device is listed now, so that
    /// the caller keeps what it needs to open it.
    pub fn plug(&mut self, listed: Arc<Listed>) -> Plugged {
        let bus_id = listed.description.bus_id.clone();
        let plugged = match self.entries.get_mut(&bus_id) {
            None => {
                self.entries.insert(bus_id.clone(), Entry::new(listed));
                Plugged::Listed
            }
            Some(entry) => entry.plug(listed),
        };
        self.publish(&[bus_id]);
        plugged
    }

    /// A device is unplugged (or is no longer to be exported). One that is reserved stays listed,
    /// as unavailable, until the reservation ends. The answer is `true` if it is gone at once.
    pub fn unplug(&mut self, bus_id: &str) -> bool {
        let Some(entry) = self.entries.get_mut(bus_id) else { return false };
        let gone = !entry.is_reserved();
        if gone {
            self.entries.remove(bus_id);
        } else {
            entry.stale = Some(Stale { reason: UnavailableReason::Removed, pending: None });
        }
        self.publish(&[bus_id.to_owned()]);
        gone
    }

    /// The device cannot be lent out for a reason of its own, or can again (`None`).
    pub fn mark(&mut self, bus_id: &str, trouble: Option<UnavailableReason>) {
        if let Some(entry) = self.entries.get_mut(bus_id) {
            entry.trouble = trouble;
            self.publish(&[bus_id.to_owned()]);
        }
    }

    /// Lends a device out, if nobody has it and no lease is on it: checks and marks in one step.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]; nothing has changed then, but for leases whose time was over.
    pub fn reserve(&mut self, bus_id: &str, holder: Holder) -> Result<Arc<Listed>, Refusal> {
        self.expire(holder.since);
        let unknown = || Refusal::Unknown(bus_id.to_owned());
        let entry = self.entries.get_mut(bus_id).ok_or_else(unknown)?;
        entry.check(bus_id)?;
        entry.holder = Some(holder);
        let listed = Arc::clone(&entry.listed);
        self.publish(&[bus_id.to_owned()]);
        Ok(listed)
    }

    /// The session that had a device is over (or never began).
    ///
    /// # Panics
    ///
    /// If nobody has the device.
    pub fn release(&mut self, bus_id: &str) -> Released {
        let entry = self.entries.get_mut(bus_id).expect("a device that is held stays listed");
        entry.holder.take().expect("only a device that is held is released");
        let released = self.settle(bus_id);
        self.publish(&[bus_id.to_owned()]);
        released
    }

    /// Forgets leases whose time is over. To be called when [`deadline`](Self::deadline) has come;
    /// what then becomes of a device that was unplugged or replaced under its lease is in
    /// [`poll_publication`](Self::poll_publication).
    pub fn expire(&mut self, now: Duration) {
        let over = |entry: &Entry| entry.lease.as_ref().is_some_and(|lease| lease.expiry <= now);
        self.drop_leases(over);
    }

    /// When the next lease runs out.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.lease.as_ref()).map(|l| l.expiry).min()
    }

    /// What listeners are to be told next.
    pub fn poll_publication(&mut self) -> Option<Arc<Publication>> {
        self.outbox.pop_front()
    }

    /// Counts publications, from 0; a snapshot of [`published`](Self::published) is as of this one.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Everything that is listed, in the order of bus ids.
    pub fn published(&self) -> impl Iterator<Item = &Arc<Published>> {
        self.published.values()
    }

    /// The devices that a client may import now, in the order of bus ids.
    pub fn available(&self) -> impl Iterator<Item = &Arc<Listed>> {
        let free = self.entries.values().filter(|entry| entry.state() == State::Available);
        free.map(|entry| &entry.listed)
    }

    /// What is listed at a bus id.
    #[must_use]
    pub fn get(&self, bus_id: &str) -> Option<&Arc<Listed>> {
        self.entries.get(bus_id).map(|entry| &entry.listed)
    }

    /// Sessions that have a device, with its bus id.
    pub fn held(&self) -> impl Iterator<Item = (&str, &Holder)> {
        let entries = self.entries.iter();
        entries.filter_map(|(bus_id, entry)| Some((bus_id.as_str(), entry.holder.as_ref()?)))
    }

    /// Leases that are out.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &Lease)> {
        let entries = self.entries.iter();
        entries.filter_map(|(bus_id, entry)| Some((bus_id.as_str(), entry.lease.as_ref()?)))
    }

    /// Ends a reservation that is no more: what came in the place of the device takes it now.
    fn settle(&mut self, bus_id: &str) -> Released {
        let entry = self.entries.get_mut(bus_id).expect("settled entries are there");
        if entry.is_reserved() {
            return Released::Kept;
        }
        match entry.stale.take() {
            None => Released::Kept,
            Some(Stale { pending: None, .. }) => {
                self.entries.remove(bus_id);
                Released::Dropped
            }
            Some(Stale { pending: Some(pending), .. }) => {
                *entry = Entry::new(Arc::clone(&pending));
                Released::Replaced(pending)
            }
        }
    }

    /// Compares what is with what was said of these devices, and says what differs.
    fn publish(&mut self, bus_ids: &[String]) {
        let mut publication = Publication {
            sequence: self.sequence + 1,
            added: Vec::new(),
            updated: Vec::new(),
            removed: Vec::new(),
        };
        for bus_id in bus_ids {
            let before = self.published.get(bus_id);
            match (before, self.entries.get(bus_id)) {
                (None, None) => {}
                (Some(_), None) => {
                    self.published.remove(bus_id);
                    publication.removed.push(bus_id.clone());
                }
                (before, Some(entry)) => {
                    if before.is_some_and(|before| entry.is_as(before)) {
                        continue;
                    }
                    let now = Arc::new(entry.published());
                    let list = match before {
                        None => &mut publication.added,
                        Some(_) => &mut publication.updated,
                    };
                    list.push(Arc::clone(&now));
                    self.published.insert(bus_id.clone(), now);
                }
            }
        }
        if !publication.is_empty() {
            self.sequence += 1;
            self.outbox.push_back(Arc::new(publication));
        }
    }
}

/// What came of [`Ledger::plug`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugged {
    /// It is listed; what was listed at that bus id before is not.
    Listed,
    /// It was listed already.
    Known,
    /// It will be listed when the reservation of the one before it ends.
    Pending,
}

impl Publication {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.updated.is_empty() && self.removed.is_empty()
    }
}
