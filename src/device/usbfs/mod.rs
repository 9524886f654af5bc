//! Devices of this machine through usbfs, Linux's way to lend a USB device to a program.
//!
//! A [`UsbfsExport`] is a device that can be lent; opening it starts a helper thread that takes the
//! device from its drivers and makes every call that waits, while URBs are submitted and reaped on
//! the reactor's thread. When a session ends, however it ends, URBs are killed, the device is
//! reset, interfaces are released and the original drivers bound again. If the whole process dies,
//! the kernel kills the URBs and releases the interfaces but binds no driver: the next server that
//! starts does that ([`recover`]).

mod enumerate;
mod helper;
mod isochronous;
mod leftovers;
mod machine;
mod safety;
mod translate;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use usbip_fast_native::linux::sysfs;
use usbip_fast_native::linux::usbfs::{
    AreaLimits, Areas, MAPPINGS_ARE_CACHED, Queue, capability, spawn,
};
use usbip_fast_native::{Arena, Block, Doorbell, Handle, Interest, OsError};

use self::enumerate::SystemTree;
use self::helper::{Opened, Plan};
use self::machine::Machine;
use crate::device::{Completed, Device, DeviceState, Export, Opener, Remains};
use crate::limits;
use crate::usb::identity::DeviceDescription;
use crate::usb::transfer::Submission;

pub use self::leftovers::{Recovered, recover, recover_in_background};
pub use self::safety::InUse;

/// poll(2) bits that say that a node's device is gone: POLLERR and POLLHUP.
const HUNG_UP: u32 = 0x08 | 0x10;

/// A device without a URB for so long gives idle DMA memory back.
const TRIM_AFTER: Duration = Duration::from_secs(2);

/// All USB devices of this machine that are no hubs, those of vhci_hcd included. Reads strings
/// under the devices' locks, so it may wait: call it where waiting is allowed.
///
/// # Errors
///
/// When sysfs does not show the USB bus.
pub fn enumerate() -> Result<Vec<DeviceDescription>, OsError> {
    enumerate::describe_all(&SystemTree)
}

/// Why a device should not be taken now, if there is a reason. Asked again when it is opened. Reads
/// many small files: call it where waiting is allowed.
///
/// # Errors
///
/// The reason, for people; it begins with a verb whose subject is the device.
pub fn check_idle(bus_id: &str) -> Result<(), InUse> {
    safety::check(&SystemTree, bus_id)
}

/// As [`check_idle`], as a text.
#[must_use]
pub fn in_use(bus_id: &str) -> Option<String> {
    check_idle(bus_id).err().map(|reason| reason.to_string())
}

/// Bus ids of all devices on ports, hubs included. Does not wait for a device.
#[must_use]
pub fn bus_ids() -> Vec<String> {
    let names = sysfs::list(Path::new(enumerate::DEVICES)).unwrap_or_default();
    names.into_iter().filter(|name| enumerate::is_bus_id(name)).collect()
}

/// The device of a bus id as it is now, `None` if there is none. May wait, as [`enumerate`].
#[must_use]
pub fn describe(bus_id: &str) -> Option<DeviceDescription> {
    enumerate::describe(&SystemTree, bus_id).ok()
}

/// What lends out a device that [`describe`] has found. With `force` it is taken although it is in
/// use. Reads nothing.
#[must_use]
pub fn adopt(description: DeviceDescription, force: bool) -> Box<dyn Export + Send> {
    Box::new(UsbfsExport { description, force, is_lent: false })
}

/// Tells one plugging-in of a device from the next, and a configured device from one that is not
/// yet: a text that changes with it, `None` while nothing is there. Takes no device's lock, so it
/// does not wait.
#[must_use]
pub fn presence(bus_id: &str) -> Option<String> {
    let folder = Path::new("/sys/bus/usb/devices").join(bus_id);
    let read = |name| sysfs::read_text(&folder.join(name)).ok();
    let interfaces = sysfs::list(&folder).ok()?.iter().filter(|name| name.contains(':')).count();
    let identity = [read("devnum")?, read("idVendor")?, read("idProduct")?].join(" ");
    Some(format!("{identity} {interfaces}"))
}

/// The device of a bus id, as it is now, ready to be lent out. With `force` it is taken although
/// it is in use. May wait, as [`enumerate`].
///
/// # Errors
///
/// One line for people: there is no such device, it is a hub, or this machine needs it.
pub fn export(bus_id: &str, force: bool) -> Result<Box<dyn Export + Send>, String> {
    let export = UsbfsExport::new(bus_id, force)?;
    if !force {
        check_idle(bus_id).map_err(|reason| format!("{bus_id} {reason}"))?;
    }
    Ok(Box::new(export))
}

/// A device that can be lent out.
#[derive(Debug)]
pub struct UsbfsExport {
    description: DeviceDescription,
    force: bool,
    is_lent: bool,
}

impl UsbfsExport {
    /// The device of a bus id, as it is now. With `force` it is taken although it is in use. May
    /// wait, as [`enumerate`].
    ///
    /// # Errors
    ///
    /// One line for people: there is no such device, or it is a hub.
    pub fn new(bus_id: &str, force: bool) -> Result<Self, String> {
        let description = enumerate::describe(&SystemTree, bus_id)
            .map_err(|error| format!("there is no USB device {bus_id}: {error}"))?;
        safety::check_hub(&SystemTree, bus_id).map_err(|error| format!("{bus_id} {error}"))?;
        Ok(Self { description, force, is_lent: false })
    }
}

impl Export for UsbfsExport {
    fn describe(&self) -> &DeviceDescription {
        &self.description
    }

    fn reserve(&mut self) -> Result<Opener, String> {
        let bus_id = self.description.bus_id.clone();
        if self.is_lent {
            return Err(format!("{bus_id} is lent out already"));
        }
        self.is_lent = true;
        let identity = (self.description.vendor, self.description.product);
        let plan = Plan { bus_id, identity, force: self.force };
        Ok(Box::new(move |bell| Box::new(UsbfsDevice::open(plan, bell))))
    }

    fn restore(&mut self, _: Remains) {
        self.is_lent = false;
    }
}

/// An open device.
#[derive(Debug)]
struct UsbfsDevice {
    bus_id: String,
    machine: Machine<Queue>,
    areas: Option<Areas>,
    handle: Option<Handle>,
    /// When the last URB went or came; `None` after idle memory has gone back.
    last_use: Option<Duration>,
}

impl UsbfsDevice {
    fn open(plan: Plan, bell: &Doorbell) -> Self {
        let (jobs, helper_jobs) = mpsc::channel();
        let (helper_reports, reports) = mpsc::channel();
        let mut machine = Machine::new(jobs, reports);
        let bus_id = plan.bus_id.clone();
        let bell = bell.clone();
        let helper = move || helper::run(&plan, &helper_jobs, &helper_reports, &bell);
        if let Err(error) = spawn(&bus_id, helper) {
            machine.fail(error.to_string());
        }
        Self { bus_id, machine, areas: None, handle: None, last_use: None }
    }

    /// When the device is closed, leaves the node to the helper to close. Where a poll operation
    /// still holds it, it closes with that.
    fn settle(&mut self) {
        let Some(queue) = self.machine.take_urbs() else { return };
        tracing::debug!(
            device = %self.bus_id,
            calls = queue.system_calls(),
            busy_ms = self.machine.busy_time(Duration::ZERO).as_millis(),
            "given back"
        );
        drop(queue);
        self.areas = None;
        if let Some(Ok(node)) = self.handle.take().map(Handle::into_owned) {
            self.machine.close_node(node);
        }
    }
}

/// The node's two sides on this thread: memory for URBs, if it is of use here, and the queue.
fn furnish(opened: Opened) -> (Queue, Option<Areas>) {
    let queue = Queue::new(opened.lane, limits::SESSION_URBS, limits::USBFS_ISO_URBS);
    let has_areas = MAPPINGS_ARE_CACHED && opened.capabilities & capability::MMAP != 0;
    let share = |part| usize::try_from(opened.memory_limit_bytes / part).unwrap_or(usize::MAX);
    let device_bytes = share(4).min(limits::USBFS_AREA_BYTES);
    let area_limits = AreaLimits { device_bytes, process_bytes: share(2) };
    let areas = (has_areas && device_bytes > 0).then(|| Areas::new(&queue, area_limits));
    (queue, areas)
}

impl Device for UsbfsDevice {
    fn state(&self) -> DeviceState {
        self.machine.state()
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        if let Some(block) = self.areas.as_mut().and_then(|areas| areas.take(bytes)) {
            return Some(Block::Device(block));
        }
        arena.take(bytes).map(Block::from)
    }

    fn submit(&mut self, submission: Submission, block: Block, now: Duration) {
        self.last_use = Some(now);
        self.machine.submit(submission, block, now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.machine.cancel(slot, now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.machine.poll(now)
    }

    fn deadline(&self) -> Option<Duration> {
        let trim = self.last_use.filter(|_| self.areas.is_some()).map(|at| at + TRIM_AFTER);
        self.machine.deadline().into_iter().chain(trim).min()
    }

    fn handle_deadline(&mut self, now: Duration) {
        if self.last_use.is_some_and(|at| at + TRIM_AFTER <= now) {
            self.last_use = None;
            if let Some(areas) = &mut self.areas {
                areas.trim();
            }
        }
        self.machine.handle_deadline(now);
        self.settle();
    }

    fn readiness(&self) -> Option<(Handle, Interest)> {
        let handle = self.handle.as_ref().filter(|_| self.machine.wants_readiness())?;
        Some((handle.clone(), Interest::Writable))
    }

    fn handle_ready(&mut self, events: u32, now: Duration) {
        self.machine.handle_ready(events & HUNG_UP != 0, now);
    }

    fn busy_time(&self, now: Duration) -> Duration {
        self.machine.busy_time(now)
    }

    fn handle_doorbell(&mut self, now: Duration) {
        let Self { machine, areas, handle, .. } = self;
        machine.handle_doorbell(now, |opened| {
            let (queue, own_areas) = furnish(opened);
            *areas = own_areas;
            *handle = Some(queue.handle().clone());
            queue
        });
        self.settle();
    }

    fn close(&mut self, now: Duration) {
        self.machine.close(now);
        self.settle();
    }
}
