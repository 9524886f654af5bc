//! What this server exports, and who has it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{AheadRule, ServeConfig};
use crate::device::ahead::{Ahead, Lead};
use crate::device::{Export, Opener, Remains};
use crate::usb::identity::DeviceDescription;

/// The exports, on core 0.
#[derive(Default)]
pub struct Exports {
    entries: Vec<Entry>,
    iso_prefetch: Vec<AheadRule>,
    iso_jitter: Vec<AheadRule>,
}

struct Entry {
    bus_id: String,
    /// `None` while the device is not there.
    export: Option<Box<dyn Export>>,
    /// What has come in the place of a device that a session still has.
    next: Option<Option<Box<dyn Export>>>,
    holder: Option<SocketAddr>,
}

/// Why an import is refused, with the status for the wire (kernel.md §1.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another session has the device.
    #[error("{bus_id} is in use by {holder}")]
    Busy {
        /// The device asked for.
        bus_id: String,
        /// Who has it.
        holder: SocketAddr,
    },
    /// The device cannot be taken.
    #[error("{bus_id} cannot be taken: {reason}")]
    Device {
        /// The device asked for.
        bus_id: String,
        /// For people.
        reason: String,
    },
    /// Nothing of that name is exported.
    #[error("{bus_id} is not exported here")]
    Unknown {
        /// The device asked for.
        bus_id: String,
    },
}

impl Refusal {
    /// The status of the 8-byte OP_REP_IMPORT.
    #[must_use]
    pub const fn status(&self) -> u32 {
        match self {
            Self::Busy { .. } => 2,
            Self::Device { .. } => 3,
            Self::Unknown { .. } => 4,
        }
    }
}

impl Exports {
    /// Sets for which devices to work ahead of their clients, and how far.
    pub fn work_ahead(&mut self, config: &ServeConfig) {
        self.iso_prefetch.clone_from(&config.iso_prefetch);
        self.iso_jitter.clone_from(&config.iso_jitter);
    }

    /// Adds a place for a device that may come and go.
    ///
    /// # Errors
    ///
    /// The bus id, if it has a place already.
    pub fn add_place(&mut self, bus_id: &str) -> Result<(), String> {
        if self.find(bus_id).is_some() {
            return Err(bus_id.to_owned());
        }
        let bus_id = bus_id.to_owned();
        self.entries.push(Entry { bus_id, export: None, next: None, holder: None });
        self.entries.sort_by(|a, b| a.bus_id.cmp(&b.bus_id));
        Ok(())
    }

    /// Adds an export.
    ///
    /// # Errors
    ///
    /// The bus id, if it is exported already.
    pub fn add(&mut self, export: Box<dyn Export>) -> Result<(), String> {
        let bus_id = export.describe().bus_id.clone();
        self.add_place(&bus_id)?;
        self.replace(&bus_id, Some(export));
        Ok(())
    }

    /// The device of a place has come (`Some`) or gone. A session that has the old one keeps it
    /// until it ends.
    pub fn replace(&mut self, bus_id: &str, export: Option<Box<dyn Export>>) {
        let at = self.find(bus_id).expect("only places that were added change");
        let entry = &mut self.entries[at];
        if entry.holder.is_some() {
            entry.next = Some(export);
        } else {
            entry.export = export;
        }
    }

    /// The devices that a client may import now, by bus id.
    #[must_use]
    pub fn available(&self) -> Vec<&DeviceDescription> {
        let free = self.entries.iter().filter(|entry| entry.holder.is_none());
        free.filter_map(|entry| Some(entry.export.as_ref()?.describe())).collect()
    }

    /// All devices, by bus id.
    #[must_use]
    pub fn all(&self) -> Vec<&DeviceDescription> {
        self.entries.iter().filter_map(|entry| Some(entry.export.as_ref()?.describe())).collect()
    }

    /// Checks and marks in one step, so that exactly one of many imports wins.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn reserve(
        &mut self,
        bus_id: &str,
        peer: SocketAddr,
    ) -> Result<(Opener, DeviceDescription), Refusal> {
        let unknown = || Refusal::Unknown { bus_id: bus_id.to_owned() };
        let at = self.find(bus_id).ok_or_else(unknown)?;
        let entry = &mut self.entries[at];
        if let Some(holder) = entry.holder {
            return Err(Refusal::Busy { bus_id: bus_id.to_owned(), holder });
        }
        let export = entry.export.as_mut().ok_or_else(unknown)?;
        let opener = export
            .reserve()
            .map_err(|reason| Refusal::Device { bus_id: bus_id.to_owned(), reason })?;
        entry.holder = Some(peer);
        let description = export.describe().clone();
        let lead = Lead {
            prefetch: time_for(&self.iso_prefetch, &description),
            jitter: time_for(&self.iso_jitter, &description),
        };
        Ok((opening_ahead(opener, &description, lead), description))
    }

    /// A session is over and its device is free again.
    pub fn release(&mut self, bus_id: &str, remains: Remains) {
        let at = self.find(bus_id).expect("an export stays while a session has its device");
        let entry = &mut self.entries[at];
        assert!(entry.holder.is_some(), "only a reserved device is released");
        entry.holder = None;
        match entry.next.take() {
            Some(next) => entry.export = next,
            None => entry.export.as_mut().expect("a lent export stays").restore(remains),
        }
    }

    /// Sessions that have a device.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.iter().filter(|entry| entry.holder.is_some()).count()
    }

    fn find(&self, bus_id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.bus_id == bus_id)
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
