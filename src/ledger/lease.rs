//! Leases: a device is kept for one client for a moment, between its choice and its import.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::{Holder, Identity, LEASE_TTL, Ledger, Listed, Refusal};

/// A listener of the control channel, who can have leases. Its leases end with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener(pub u64);

/// A promise: until `expiry`, only who shows `id` and `nonce` may import the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Never given twice.
    pub id: u64,
    /// Who asked.
    pub listener: Listener,
    /// The client of that listener.
    pub holder: SocketAddr,
    /// What the client chose.
    pub nonce: u64,
    /// The sequence number when it was asked for.
    pub generation: u64,
    /// When it is void.
    pub expiry: Duration,
    /// The device that was meant.
    pub identity: Identity,
}

/// Why no lease is given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// No bus id was named.
    #[error("missing busid")]
    MissingBusId,
    /// Another lease is on the device.
    #[error("lease already active")]
    Leased,
    /// There is no such device, or it cannot be had.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a lease does not open its device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No lease is on the device, or its time is over.
    #[error("lease not found")]
    NotFound,
    /// Not the numbers that were given out; the lease stays.
    #[error("lease mismatch")]
    Mismatch,
    /// Its time is over.
    #[error("lease expired")]
    Expired,
    /// Another device is there now.
    #[error("lease stale")]
    Stale,
    /// The device cannot be had.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Ledger {
    /// Promises a device to a client.
    ///
    /// # Errors
    ///
    /// See [`LeaseRefusal`]; nothing has changed then, but for leases whose time was over.
    pub fn issue_lease(
        &mut self,
        listener: Listener,
        holder: SocketAddr,
        bus_id: &str,
        nonce: u64,
        now: Duration,
    ) -> Result<Lease, LeaseRefusal> {
        self.expire(now);
        if bus_id.is_empty() {
            return Err(LeaseRefusal::MissingBusId);
        }
        let generation = self.sequence();
        let unavailable = |reason: &str| LeaseRefusal::Unavailable(reason.to_owned());
        let entry = self.entries.get_mut(bus_id).ok_or_else(|| unavailable("unknown busid"))?;
        entry.check(bus_id).map_err(|refusal| match refusal {
            Refusal::Leased { .. } => LeaseRefusal::Leased,
            Refusal::Busy { .. } => unavailable("busy"),
            Refusal::Unknown(_) => unavailable("unknown busid"),
            Refusal::Unavailable { reason, .. } => LeaseRefusal::Unavailable(reason.to_string()),
        })?;
        self.last_lease += 1;
        let lease = Lease {
            id: self.last_lease,
            listener,
            holder,
            nonce,
            generation,
            expiry: now + LEASE_TTL,
            identity: entry.listed.identity(),
        };
        entry.lease = Some(lease.clone());
        self.publish(&[bus_id.to_owned()]);
        Ok(lease)
    }

    /// Lends a device to the client that has the lease on it, and ends the lease: checks and marks
    /// in one step.
    ///
    /// # Errors
    ///
    /// See [`LeaseError`]. A lease that does not fit stays; one whose device has changed ends.
    pub fn consume_lease(
        &mut self,
        bus_id: &str,
        id: u64,
        nonce: u64,
        holder: Holder,
    ) -> Result<Arc<Listed>, LeaseError> {
        let lease = self.entries.get(bus_id).and_then(|entry| entry.lease.as_ref());
        let verdict = match lease {
            None => Err(LeaseError::NotFound),
            Some(lease) if (lease.id, lease.nonce) != (id, nonce) => Err(LeaseError::Mismatch),
            Some(lease) if lease.expiry <= holder.since => Err(LeaseError::Expired),
            Some(_) => Ok(()),
        };
        // The time of other leases, and of this one, may be over; that is said in any case.
        self.expire(holder.since);
        verdict?;
        let entry = self.entries.get_mut(bus_id).expect("a leased device is listed");
        let lease = entry.lease.take().expect("judged above");
        let verdict = if entry.is_replaced(&lease.identity) {
            Err(LeaseError::Stale)
        } else {
            entry.check(bus_id).map_err(LeaseError::from)
        };
        let verdict = verdict.map(|()| {
            entry.holder = Some(holder);
            Arc::clone(&entry.listed)
        });
        self.settle(bus_id);
        self.publish(&[bus_id.to_owned()]);
        verdict
    }

    /// A listener is gone, and its leases with it.
    pub fn drop_listener(&mut self, listener: Listener) {
        let its = |entry: &Entry| entry.lease.as_ref().is_some_and(|it| it.listener == listener);
        self.drop_leases(its);
    }

    pub(super) fn drop_leases(&mut self, wanted: impl Fn(&Entry) -> bool) {
        let of_it = self.entries.iter().filter(|(_, entry)| wanted(entry));
        let bus_ids: Vec<String> = of_it.map(|(bus_id, _)| bus_id.clone()).collect();
        if bus_ids.is_empty() {
            return;
        }
        for bus_id in &bus_ids {
            self.entries.get_mut(bus_id).expect("found above").lease = None;
            self.settle(bus_id);
        }
        self.publish(&bus_ids);
    }
}

impl Entry {
    fn is_replaced(&self, identity: &Identity) -> bool {
        let pending = self.stale.as_ref().is_some_and(|stale| stale.pending.is_some());
        pending || self.listed.identity() != *identity
    }
}
