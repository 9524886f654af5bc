//! One exported device.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::policy::Backend;
use super::{Lease, Plugged, Refusal};
use crate::network::{Cidr, canonical};
use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;

/// A device as it is exported. Never changes: another state of it is another object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the device is, taken before it was captured.
    pub description: DeviceDescription,
    /// Clients that may have it, besides this machine itself; empty: every client of the server.
    pub networks: Vec<Cidr>,
    /// How it is taken.
    pub backend: Backend,
    /// The device is made by this program.
    pub is_simulated: bool,
}

/// What tells one device from another at the same bus id. Neither the configuration nor the
/// interfaces are part of it, because capturing a device and its client's requests change both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    bus_number: u32,
    device_number: u32,
    speed: Speed,
    vendor: u16,
    product: u16,
    release: u16,
    class: Class,
    configurations: u8,
    serial: String,
}

impl Listed {
    /// A real device, for every client.
    #[must_use]
    pub const fn real(description: DeviceDescription) -> Self {
        let backend = Backend::Usbfs;
        Self { description, networks: Vec::new(), backend, is_simulated: false }
    }

    /// A device made by this program, for every client.
    #[must_use]
    pub const fn simulated(description: DeviceDescription) -> Self {
        let backend = Backend::Usbfs;
        Self { description, networks: Vec::new(), backend, is_simulated: true }
    }

    /// What tells it from another device at its bus id.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let device = &self.description;
        Identity {
            bus_number: device.bus_number,
            device_number: device.device_number,
            speed: device.speed,
            vendor: device.vendor,
            product: device.product,
            release: device.release,
            class: device.class,
            configurations: device.configurations,
            serial: device.serial.clone(),
        }
    }

    /// A name that is the same each time the device is plugged in, if it has a serial number; else
    /// the name of its place (control-channel.md §3.2).
    #[must_use]
    pub fn stable_id(&self) -> String {
        let device = &self.description;
        if self.is_simulated {
            format!("dynamic:{}", device.bus_id)
        } else if device.serial.is_empty() {
            format!("linux-busid:{}", device.bus_id)
        } else {
            format!("usb:{:04x}:{:04x}:{}", device.vendor, device.product, device.serial)
        }
    }

    /// Whether this client may see and have it.
    #[must_use]
    pub fn is_for(&self, peer: SocketAddr) -> bool {
        let address = canonical(peer.ip());
        self.networks.is_empty()
            || address.is_loopback()
            || self.networks.iter().any(|range| range.contains(address))
    }
}

/// Who has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The client.
    pub peer: SocketAddr,
    /// Since when.
    pub since: Duration,
}

/// Whether a listed device can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// By anybody.
    Available,
    /// A session has it, or a lease is on it.
    Busy,
    /// Not at present.
    Unavailable,
}

/// Why a listed device cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnavailableReason {
    /// It was unplugged while somebody had it.
    Removed,
    /// Another device was plugged in in its place while somebody had it.
    Replaced,
    /// The system, or the program's own attempt to take it, says why.
    Device(String),
}

impl fmt::Display for UnavailableReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => formatter.write_str("device removed"),
            Self::Replaced => formatter.write_str("device replaced"),
            Self::Device(reason) => formatter.write_str(reason),
        }
    }
}

/// What is said of a device. Never changes, as [`Listed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The device.
    pub listed: Arc<Listed>,
    /// Whether it can be had.
    pub state: State,
    /// Why it cannot, if it is unavailable.
    pub reason: Option<UnavailableReason>,
    /// Who has it, or has a lease on it.
    pub holder: Option<SocketAddr>,
}

/// A device that is no longer what its reservation was made for.
#[derive(Debug)]
pub(super) struct Stale {
    pub reason: UnavailableReason,
    /// What was plugged in in its place.
    pub pending: Option<Arc<Listed>>,
}

/// What the ledger knows of a bus id.
#[derive(Debug)]
pub(super) struct Entry {
    pub listed: Arc<Listed>,
    pub holder: Option<Holder>,
    pub lease: Option<Lease>,
    /// Only while it is reserved.
    pub stale: Option<Stale>,
    pub trouble: Option<UnavailableReason>,
}

impl Entry {
    pub fn new(listed: Arc<Listed>) -> Self {
        Self { listed, holder: None, lease: None, stale: None, trouble: None }
    }

    /// Held by a session, or promised by a lease.
    pub fn is_reserved(&self) -> bool {
        self.holder.is_some() || self.lease.is_some()
    }

    pub fn state(&self) -> State {
        if self.stale.is_some() {
            State::Unavailable
        } else if self.is_reserved() {
            State::Busy
        } else if self.trouble.is_some() {
            State::Unavailable
        } else {
            State::Available
        }
    }

    /// Another device at this bus id, or the same once more.
    pub fn plug(&mut self, listed: Arc<Listed>) -> Plugged {
        let is_reserved = self.is_reserved();
        if self.listed.identity() == listed.identity() {
            // It may have been taken for gone while somebody had it, and is there after all. What
            // it was described as when it was captured holds until it is free.
            self.stale = None;
            if !is_reserved {
                self.listed = listed;
            }
            Plugged::Known
        } else if is_reserved {
            self.stale = Some(Stale { reason: UnavailableReason::Replaced, pending: Some(listed) });
            Plugged::Pending
        } else {
            *self = Self::new(listed);
            Plugged::Listed
        }
    }

    /// Whether it can be lent out.
    pub fn check(&self, bus_id: &str) -> Result<(), Refusal> {
        let bus_id = || bus_id.to_owned();
        if let Some(stale) = &self.stale {
            let reason = stale.reason.clone();
            return Err(Refusal::Unavailable { bus_id: bus_id(), reason });
        }
        if let Some(holder) = &self.holder {
            return Err(Refusal::Busy { bus_id: bus_id(), holder: holder.peer });
        }
        if let Some(lease) = &self.lease {
            return Err(Refusal::Leased { bus_id: bus_id(), holder: lease.holder });
        }
        match &self.trouble {
            Some(reason) => Err(Refusal::Unavailable { bus_id: bus_id(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub fn published(&self) -> Published {
        Published {
            listed: Arc::clone(&self.listed),
            state: self.state(),
            reason: self.reason().cloned(),
            holder: self.reserved_by(),
        }
    }

    /// Whether this is what [`published`](Self::published) would say, without making it.
    pub fn is_as(&self, said: &Published) -> bool {
        said.state == self.state()
            && said.holder == self.reserved_by()
            && said.reason.as_ref() == self.reason()
            && (Arc::ptr_eq(&said.listed, &self.listed) || said.listed == self.listed)
    }

    fn reserved_by(&self) -> Option<SocketAddr> {
        self.holder.map(|holder| holder.peer).or(self.lease.as_ref().map(|lease| lease.holder))
    }

    fn reason(&self) -> Option<&UnavailableReason> {
        match (&self.stale, self.is_reserved()) {
            (Some(stale), _) => Some(&stale.reason),
            (None, true) => None,
            (None, false) => self.trouble.as_ref(),
        }
    }
}
