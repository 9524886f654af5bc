//! The helper thread of an open device: it takes the device, makes every call that waits, and
//! gives the device back, whatever way the session ended.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

use usbip_fast_native::linux::usbfs::{Control, Lane, UrbAddress, memory_limit_bytes};
use usbip_fast_native::{Doorbell, OsError};

use super::enumerate::{self, SystemTree, Tree};
use super::leftovers::{self, Before, Note};
use super::safety;
use super::translate::Request;
use crate::usb::identity::DeviceDescription;

/// The driver name of interfaces that a program has taken.
pub(super) const USBFS_DRIVER: &str = "usbfs";

/// What to take.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Bus id of the device.
    pub bus_id: String,
    /// idVendor and idProduct that it must still have.
    pub identity: (u16, u16),
    /// Take it although it is in use.
    pub force: bool,
}

/// Work for the helper, one at a time: until its report is in, the reactor leaves the node alone.
#[derive(Debug)]
pub(super) enum Job {
    /// Carry out a request of the client.
    Request(Request),
    /// Kill these URBs.
    Discard(Vec<UrbAddress>),
    /// Reset the device and give it back. The last one, but for `CloseNode`.
    Restore,
    /// Close the reactor's half of the node.
    CloseNode(OwnedFd),
}

/// What the helper has done.
#[derive(Debug)]
pub(super) enum Report {
    /// The device is ours.
    Opened(Opened),
    /// It is not, for this reason; nothing is held.
    Refused(String),
    /// A [`Job::Request`] ended.
    Done(Result<(), OsError>),
    /// These URBs are dead; the list comes back to be used again.
    Discarded(Vec<UrbAddress>),
    /// The device is given back.
    Restored,
}

/// An open device, for the reactor's thread.
#[derive(Debug)]
pub(super) struct Opened {
    /// Submits and reaps.
    pub lane: Lane,
    /// What the controller and this kernel can do.
    pub capabilities: u32,
    /// Bound of all usbfs memory of the system, in bytes.
    pub memory_limit_bytes: u64,
}

/// The helper's thread. Returns when the device has been given back.
pub(super) fn run(plan: &Plan, jobs: &Receiver<Job>, reports: &Sender<Report>, bell: &Doorbell) {
    let report = |report| {
        // Nobody listens any more when the device was dropped; then its end is near anyway.
        let _ = reports.send(report);
        bell.ring();
    };
    let mut taken = match Taken::take(plan) {
        Ok((taken, opened)) => {
            report(Report::Opened(opened));
            taken
        }
        Err(reason) => return report(Report::Refused(reason)),
    };
    // The loop also ends when the device was dropped without being closed.
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Request(request) => report(Report::Done(taken.carry_out(request))),
            Job::Discard(urbs) => {
                for &urb in &urbs {
                    // An error means that it is dead already or dying with the device.
                    let _ = taken.control.discard(urb);
                }
                report(Report::Discarded(urbs));
            }
            Job::Restore | Job::CloseNode(_) => break,
        }
    }
    drop(taken);
    report(Report::Restored);
    if let Ok(Job::CloseNode(node)) = jobs.recv() {
        drop(node);
    }
}

/// A device that is ours; given back when dropped.
pub(super) struct Taken {
    bus_id: String,
    /// For others, should this process be killed; goes when the device has been given back.
    note: Option<Note>,
    control: Control,
    /// Open while the device is ours, so that no driver takes an interface by itself.
    hub: Option<Control>,
    descriptors: Vec<u8>,
    before: Before,
    configuration: u8,
    interfaces: Vec<Interface>,
    /// Whether URBs may have reached the device, so that it needs a reset.
    was_lent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    number: u8,
    alternate: u8,
}

impl Taken {
    fn take(plan: &Plan) -> Result<(Self, Opened), String> {
        let bus_id = &plan.bus_id;
        let say = |what: &str, error: OsError| format!("{bus_id}: {what}: {error}");
        let found = enumerate::describe(&SystemTree, bus_id)
            .map_err(|error| say("it is not there", error))?;
        if (found.vendor, found.product) != plan.identity {
            return Err(format!(
                "{bus_id} is another device now: {:04x}:{:04x}",
                found.vendor, found.product
            ));
        }
        if !plan.force {
            safety::check(&SystemTree, bus_id).map_err(|error| format!("{bus_id} {error}"))?;
        }
        let is_usbfs = |driver| driver == USBFS_DRIVER;
        if !plan.force && leftovers::drivers(&SystemTree, &found).any(is_usbfs) {
            return Err(format!("{bus_id} is in use by another program"));
        }
        let (note, left) = Note::begin(&found).unzip();
        let hub = claim_port(bus_id);
        let path = node_path(found.bus_number, found.device_number);
        let (control, lane) = Control::open_with_lane(&path)
            .map_err(|error| say(&format!("cannot open {}", path.display()), error))?;
        let capabilities = control.capabilities().map_err(|error| say("is no usbfs", error))?;
        let mut taken = Self {
            bus_id: bus_id.clone(),
            note,
            control,
            hub,
            before: Before::new(&found),
            configuration: found.configuration,
            descriptors: found.descriptors,
            interfaces: Vec::new(),
            was_lent: false,
        };
        taken.interfaces = taken.interfaces_of(found.configuration);
        taken.remember(left.flatten());
        taken.claim_all().map_err(|(interface, error)| {
            say(&format!("cannot take interface {interface}"), error)
        })?;
        taken.was_lent = true;
        let memory_limit_bytes = memory_limit_bytes().unwrap_or(0);
        Ok((taken, Opened { lane, capabilities, memory_limit_bytes }))
    }

    /// A device that a dead server has left, to be given back by dropping this. It is reset only
    /// where nobody has any of it.
    pub(super) fn left_behind(
        found: &DeviceDescription,
        control: Control,
        before: Before,
        is_free: bool,
    ) -> Self {
        Self {
            bus_id: found.bus_id.clone(),
            note: None,
            control,
            hub: None,
            // In use, it stays in the configuration in which it is used.
            configuration: if is_free { found.configuration } else { before.configuration },
            before,
            descriptors: Vec::new(),
            interfaces: Vec::new(),
            was_lent: is_free,
        }
    }

    /// Notes what the device is before it is taken. What a dead server had noted holds where there
    /// is no driver.
    fn remember(&mut self, left: Option<Before>) {
        self.before.drivers = self.drivers();
        if let Some(left) = left {
            self.before.configuration = left.configuration;
            for (interface, driver) in left.drivers {
                if !self.before.drivers.iter().any(|(number, _)| *number == interface) {
                    self.before.drivers.push((interface, driver));
                }
            }
        }
        // By force taken from another program: it cannot have it back.
        self.before.drivers.retain(|(_, driver)| driver != USBFS_DRIVER);
        if let Some(note) = &self.note {
            note.write(&self.before);
        }
    }

    fn carry_out(&mut self, request: Request) -> Result<(), OsError> {
        match request {
            Request::ClearHalt(endpoint) => self.control.clear_halt(endpoint),
            Request::SetInterface { interface, alternate } => {
                self.control.set_interface(interface, alternate)?;
                for entry in self.interfaces.iter_mut().filter(|entry| entry.number == interface) {
                    entry.alternate = alternate;
                }
                Ok(())
            }
            Request::SetConfiguration(value) => self.set_configuration(value),
            Request::Reset => self.reset(),
        }
    }

    /// The kernel changes a configuration only while nobody has an interface, so all are released
    /// and, whether the device agreed or not, taken again.
    fn set_configuration(&mut self, value: u8) -> Result<(), OsError> {
        self.release_all();
        let result = self.control.set_configuration(value);
        if result.is_ok() {
            self.configuration = value;
            self.interfaces = self.interfaces_of(value);
        }
        self.claim_all_or_warn();
        result
    }

    /// A reset takes our claims away, and with them the alternate settings go back to 0.
    fn reset(&mut self) -> Result<(), OsError> {
        self.control.reset()?;
        self.claim_all_or_warn();
        for entry in self.interfaces.iter().filter(|entry| entry.alternate != 0) {
            self.control.set_interface(entry.number, entry.alternate)?;
        }
        Ok(())
    }

    fn interfaces_of(&self, configuration: u8) -> Vec<Interface> {
        let interfaces = enumerate::interfaces(&self.descriptors, configuration);
        interfaces.map(|(number, _)| Interface { number, alternate: 0 }).collect()
    }

    fn drivers(&self) -> Vec<(u8, String)> {
        let numbers = self.interfaces.iter().map(|interface| interface.number);
        numbers
            .filter_map(|number| Some((number, self.control.driver(number).ok().flatten()?)))
            .collect()
    }

    fn claim_all(&self) -> Result<(), (u8, OsError)> {
        for interface in &self.interfaces {
            let number = interface.number;
            self.control.disconnect_and_claim(number).map_err(|error| (number, error))?;
        }
        Ok(())
    }

    fn claim_all_or_warn(&self) {
        if let Err((interface, error)) = self.claim_all() {
            tracing::warn!(device = %self.bus_id, interface, %error, "cannot take interface again");
        }
    }

    fn release_all(&self) {
        for interface in &self.interfaces {
            // An error means that it is not ours any more, which is what is wanted.
            let _ = self.control.release_interface(interface.number);
        }
    }

    /// Lets the driver that an interface had before have it again.
    fn restore_driver(&self, interface: u8, original: &str) {
        let connected = self.control.connect(interface);
        if let Err(OsError(ENODEV)) = connected
            && self.control.driver(interface) == Err(OsError(ENODEV))
        {
            return;
        }
        if self.control.driver(interface) == Ok(None) {
            // A driver bound by hand is not found by matching.
            let name = format!("{}:{}.{interface}", self.bus_id, self.before.configuration);
            let _ = SystemTree.bind(&name, original);
        }
        match self.control.driver(interface) {
            Ok(Some(driver)) if driver == original => {}
            Ok(now) => {
                let now = now.as_deref().unwrap_or("no driver");
                tracing::warn!(
                    device = %self.bus_id, interface, was = original, now,
                    "the original driver did not come back"
                );
            }
            Err(_) => {}
        }
    }
}

impl Drop for Taken {
    /// Kills what is in flight, resets the device, and lets the original drivers have it again.
    /// Every step is tried, because the device may be half gone.
    fn drop(&mut self) {
        if self.was_lent {
            let _ = self.control.reset();
        }
        self.release_all();
        // Drivers are not bound while the port is claimed.
        self.hub = None;
        if self.configuration != self.before.configuration {
            let _ = self.control.set_configuration(self.before.configuration);
        }
        for (interface, driver) in &self.before.drivers {
            self.restore_driver(*interface, driver);
        }
        if let Some(note) = self.note.take() {
            note.remove();
        }
    }
}

const ENODEV: i32 = crate::usb::errno::ENODEV;

/// Claims the port that the device hangs on, if that can be had: a kernel without it, a hub that is
/// not ours to open or another owner only mean that drivers may have to be displaced again.
fn claim_port(bus_id: &str) -> Option<Control> {
    let (hub, port) = parent(bus_id)?;
    let number = |name: &str| SystemTree.attribute(&hub, name).ok()?.parse().ok();
    let path = node_path(number("busnum")?, number("devnum")?);
    let claimed = Control::open(&path).and_then(|hub| hub.claim_port(port).map(|()| hub));
    match claimed {
        Ok(hub) => Some(hub),
        Err(error) => {
            tracing::debug!(device = bus_id, %hub, port, %error, "cannot claim the port");
            None
        }
    }
}

/// Bus id of a device's hub, and the port there: `1-2.3` hangs on port 3 of `1-2`, and `1-2` on
/// port 2 of the root hub `usb1`.
fn parent(bus_id: &str) -> Option<(String, u32)> {
    if let Some((hub, port)) = bus_id.rsplit_once('.') {
        return Some((hub.to_owned(), port.parse().ok()?));
    }
    let (bus, port) = bus_id.split_once('-')?;
    Some((format!("usb{bus}"), port.parse().ok()?))
}

pub(super) fn node_path(bus_number: u32, device_number: u32) -> PathBuf {
    format!("/dev/bus/usb/{bus_number:03}/{device_number:03}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_are_found_in_bus_ids() {
        assert_eq!(parent("1-2"), Some(("usb1".to_owned(), 2)));
        assert_eq!(parent("3-1.12"), Some(("3-1".to_owned(), 12)));
        assert_eq!(parent("3-1.4.2"), Some(("3-1.4".to_owned(), 2)));
        assert_eq!(parent("usb1"), None);
    }

    #[test]
    fn nodes_have_three_digits() {
        assert_eq!(node_path(1, 23).to_str(), Some("/dev/bus/usb/001/023"));
    }
}
