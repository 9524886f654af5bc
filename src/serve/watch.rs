//! Devices named on the command line come and go: looks whether they are there.
//!
//! Reading about a device may wait for its lock, so a thread of its own does it, never a reactor.

use std::time::Duration;

use usbip_fast_native::{affinity, client};

use crate::device::{Export, real};
use crate::reactor::mailbox::Sender;
use crate::serve::core::Message;

/// How often to look. A device is exported within a second of being plugged in.
const INTERVAL: Duration = Duration::from_millis(500);

/// A device whose coming and going is watched.
pub struct Watched {
    /// Its place in the exports.
    pub bus_id: String,
    /// What was there when it was looked at last.
    pub seen: Option<String>,
}

/// Starts the thread that tells core 0 of every change. It ends with the process.
///
/// # Errors
///
/// The system has no room for another thread.
pub fn start(devices: Vec<Watched>, force: bool, mail: Sender<Message>) -> std::io::Result<()> {
    let mut devices = devices;
    affinity::spawn("usbip-watch", move || {
        loop {
            client::pause(INTERVAL);
            for device in &mut devices {
                look(device, force, &mail);
            }
        }
    })
    .map(drop)
}

/// Looks at one device and tells core 0 if it has come, gone, or come back as another.
fn look(device: &mut Watched, force: bool, mail: &Sender<Message>) {
    let present = real::presence(&device.bus_id);
    if present == device.seen {
        return;
    }
    let export = present.as_ref().and_then(|_| make(&device.bus_id, force));
    let message = Message::Changed { bus_id: device.bus_id.clone(), export };
    // A full mailbox is tried again at the next look, because `seen` stays as it is.
    match mail.try_send(message) {
        Ok(()) => device.seen = present,
        Err(_) => tracing::debug!(device.bus_id, "core 0 is behind"),
    }
}

fn make(bus_id: &str, force: bool) -> Option<Box<dyn Export + Send>> {
    real::export(bus_id, force).inspect_err(|reason| tracing::warn!("not exported: {reason}")).ok()
}
