//! Linux tells of devices by netlink.

use std::os::fd::OwnedFd;
use std::time::Duration;

use usbip_fast_native::linux::uevent::{MESSAGE_BYTES, Taken, Uevents};
use usbip_fast_native::{Handle, OsError, clock, socket};

use super::uevent::concerns_a_usb_device;
use super::{Source, Woken};

struct Netlink {
    uevents: Uevents,
    wake: Handle,
    buffer: Vec<u8>,
}

/// Listens from now on; what is written to the other end of `wake` ends a wait. The answer belongs
/// to the calling thread.
///
/// # Errors
///
/// The system does not let this process listen, as in some containers.
pub fn open(wake: OwnedFd) -> Result<Box<dyn Source>, OsError> {
    let uevents = Uevents::listen()?;
    Ok(Box::new(Netlink { uevents, wake: Handle::new(wake), buffer: vec![0; MESSAGE_BYTES] }))
}

impl Source for Netlink {
    fn wait(&mut self, patience: Duration) -> Woken {
        let end = clock::now() + patience;
        loop {
            let left = end.saturating_sub(clock::now());
            if self.uevents.wait(&self.wake, left) && self.have_devices_changed() {
                return Woken::Changed;
            }
            if socket::take_nudges(&self.wake) {
                return Woken::Told;
            }
            if left.is_zero() {
                return Woken::TimeOver;
            }
        }
    }
}

impl Netlink {
    /// Takes all that has come: other subsystems speak here too.
    fn have_devices_changed(&mut self) -> bool {
        let mut changed = false;
        loop {
            match self.uevents.take(&mut self.buffer) {
                Taken::Message(message) => changed |= concerns_a_usb_device(message),
                // Whatever was lost, looking is right; and a socket that says so for ever must not
                // keep this thread here.
                Taken::Lost => return true,
                Taken::Empty => return changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nudge_and_a_closed_end_wake() {
        let (wake, waker) = socket::pair().expect("a pair");
        let mut source = open(wake.into_owned().expect("one owner")).expect("no right is needed");
        let wait = |source: &mut Box<dyn Source>, patience| loop {
            // Something may really have been plugged in meanwhile.
            match source.wait(patience) {
                Woken::Changed => {}
                other => return other,
            }
        };
        assert_eq!(wait(&mut source, Duration::from_millis(1)), Woken::TimeOver);
        socket::nudge(&waker);
        socket::nudge(&waker);
        assert_eq!(wait(&mut source, Duration::from_secs(60)), Woken::Told);
        assert_eq!(wait(&mut source, Duration::from_millis(1)), Woken::TimeOver, "taken together");
        drop(waker);
        assert_eq!(wait(&mut source, Duration::from_secs(60)), Woken::Told);
    }
}
