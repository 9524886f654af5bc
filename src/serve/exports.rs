//! What this server exports, and who has it.

use std::net::SocketAddr;

use crate::device::{Export, Opener, Remains};
use crate::usb::identity::DeviceDescription;

/// The exports, on core 0.
#[derive(Default)]
pub struct Exports {
    entries: Vec<Entry>,
}

struct Entry {
    export: Box<dyn Export>,
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
    /// Adds an export.
    ///
    /// # Errors
    ///
    /// The bus id, if it is exported already.
    pub fn add(&mut self, export: Box<dyn Export>) -> Result<(), String> {
        let bus_id = &export.describe().bus_id;
        if self.find(bus_id).is_some() {
            return Err(bus_id.clone());
        }
        self.entries.push(Entry { export, holder: None });
        self.entries.sort_by(|a, b| a.export.describe().bus_id.cmp(&b.export.describe().bus_id));
        Ok(())
    }

    /// The devices that a client may import now, by bus id.
    #[must_use]
    pub fn available(&self) -> Vec<&DeviceDescription> {
        let free = self.entries.iter().filter(|entry| entry.holder.is_none());
        free.map(|entry| entry.export.describe()).collect()
    }

    /// All devices, by bus id.
    #[must_use]
    pub fn all(&self) -> Vec<&DeviceDescription> {
        self.entries.iter().map(|entry| entry.export.describe()).collect()
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
        let opener = entry
            .export
            .reserve()
            .map_err(|reason| Refusal::Device { bus_id: bus_id.to_owned(), reason })?;
        entry.holder = Some(peer);
        Ok((opener, entry.export.describe().clone()))
    }

    /// A session is over and its device is free again.
    pub fn release(&mut self, bus_id: &str, remains: Remains) {
        let at = self.find(bus_id).expect("an export stays while a session has its device");
        let entry = &mut self.entries[at];
        assert!(entry.holder.is_some(), "only a reserved device is released");
        entry.holder = None;
        entry.export.restore(remains);
    }

    /// Sessions that have a device.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.iter().filter(|entry| entry.holder.is_some()).count()
    }

    fn find(&self, bus_id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.export.describe().bus_id == bus_id)
    }
}
