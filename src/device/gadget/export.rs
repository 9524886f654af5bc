//! Simulated devices as a server lists them.

use std::sync::Arc;

use super::{Descriptors, Function, Gadget, Pace, Saved, StreamCounters};
use crate::device::{Export, Opener, Remains};
use crate::usb::identity::DeviceDescription;

/// Bus that simulated devices claim to be on. Stock clients keep 8 bits of the bus number, and
/// real buses are numbered from 1 up.
const BUS_NUMBER: u32 = 255;

/// A simulated device that can be listed and lent out. Between sessions it keeps the device's
/// state; during one, the session has it.
pub struct GadgetExport<F> {
    description: DeviceDescription,
    descriptors: Arc<Descriptors>,
    pace: Pace,
    counters: Arc<StreamCounters>,
    saved: Option<Saved<F>>,
}

/// How a simulated device is told from others.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Which of the server's simulated devices it is, from 1: its bus id is `sim-N`.
    pub number: u8,
    /// Manufacturer string, as in the descriptors.
    pub manufacturer_name: &'a str,
    /// Product string, as in the descriptors.
    pub product_name: &'a str,
    /// Serial number string, as in the descriptors.
    pub serial: &'a str,
}

impl<F: Function + Send + 'static> GadgetExport<F> {
    /// A device that nobody has used yet.
    #[must_use]
    pub fn new(function: F, descriptors: Descriptors, pace: Pace, identity: Identity<'_>) -> Self {
        Self {
            description: describe(&descriptors, identity),
            pace,
            counters: Arc::default(),
            saved: Some(Saved::new(function, &descriptors)),
            descriptors: Arc::new(descriptors),
        }
    }

    /// Counters of the device's isochronous streams, over all its sessions.
    #[must_use]
    pub fn counters(&self) -> Arc<StreamCounters> {
        Arc::clone(&self.counters)
    }
}

impl<F: Function + Send + 'static> Export for GadgetExport<F> {
    fn describe(&self) -> &DeviceDescription {
        &self.description
    }

    fn reserve(&mut self) -> Result<Opener, String> {
        let saved = self.saved.take();
        let saved = saved.ok_or_else(|| format!("{} is in use", self.description.bus_id))?;
        let descriptors = Arc::clone(&self.descriptors);
        let counters = Arc::clone(&self.counters);
        let pace = self.pace;
        Ok(Box::new(move |doorbell| {
            let mut gadget = Gadget::resume(saved, descriptors, pace, counters);
            gadget.open(doorbell);
            Box::new(gadget)
        }))
    }

    fn restore(&mut self, remains: Remains) {
        let saved = remains.downcast::<Saved<F>>();
        self.saved = Some(*saved.expect("what comes back is what was lent out"));
    }
}

fn describe(descriptors: &Descriptors, identity: Identity<'_>) -> DeviceDescription {
    let device = descriptors.device();
    let first = descriptors.configurations().next();
    let bus_id = format!("sim-{}", identity.number);
    DeviceDescription {
        path: format!("/sys/devices/simulated/{bus_id}"),
        location: format!("simulated-{}", identity.number),
        bus_id,
        bus_number: BUS_NUMBER,
        device_number: u32::from(identity.number),
        speed: descriptors.speed(),
        vendor: device.vendor,
        product: device.product,
        release: device.release,
        class: device.class,
        configuration: first.map_or(0, |first| first.value),
        configurations: device.configurations,
        interfaces: first.map_or_else(Vec::new, |first| {
            let settings = first.settings().filter(|setting| setting.alternate == 0);
            settings.map(|setting| setting.class).collect()
        }),
        manufacturer_name: identity.manufacturer_name.to_owned(),
        product_name: identity.product_name.to_owned(),
        serial: identity.serial.to_owned(),
        descriptors: descriptors.listed().to_vec(),
    }
}
