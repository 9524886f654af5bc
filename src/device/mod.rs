//! What a server exports.
//!
//! An [`Export`] is a thing that can be listed and opened; a [`Device`] is one that is open and
//! takes URBs. Both belong to one core. Nothing here blocks: calls that wait run on a helper thread
//! of the device, which rings the core's doorbell.

pub mod ahead;
pub mod contract;
pub mod faulty;
pub mod gadget;
#[cfg(not(target_os = "linux"))]
pub mod nothing;
#[cfg(target_os = "linux")]
pub mod usbfs;

#[cfg(not(target_os = "linux"))]
pub use nothing as real;
#[cfg(target_os = "linux")]
pub use usbfs as real;

use std::time::Duration;

use usbip_fast_native::{Arena, Block, Doorbell, Handle, Interest};

use crate::usb::identity::DeviceDescription;
use crate::usb::transfer::{Finished, Submission};

/// An open device: URBs go in, each comes back exactly once.
///
/// Who calls what: after any of [`submit`](Device::submit), [`cancel`](Device::cancel),
/// [`handle_ready`](Device::handle_ready), [`handle_doorbell`](Device::handle_doorbell),
/// [`handle_deadline`](Device::handle_deadline) and [`close`](Device::close), the loop calls
/// [`poll`](Device::poll) until it returns `None` or the budget of the turn is used (and then again
/// in the next turn), then reads [`deadline`](Device::deadline) and
/// [`readiness`](Device::readiness) anew.
pub trait Device {
    /// Where the device is in its life; changes only inside the calls named above.
    fn state(&self) -> DeviceState;

    /// Takes memory for a URB of `bytes` block bytes (see
    /// [`block_bytes`](crate::usb::transfer::block_bytes)) from wherever this device likes it.
    /// `None`: no memory, the URB is to be answered -ENOMEM.
    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        arena.take(bytes).map(Block::from)
    }

    /// Starts a URB. Never blocks and never fails: an error comes back through
    /// [`poll`](Device::poll). Order of submission is order of execution per endpoint; endpoints
    /// are independent.
    fn submit(&mut self, submission: Submission, block: Block, now: Duration);

    /// Asks for the URB of `slot` to end early. It still comes back once: with -104 (ECONNRESET)
    /// and the bytes already moved if it was stopped, or with its own result if it won the race.
    /// A slot not in flight is ignored.
    fn cancel(&mut self, slot: u32, now: Duration);

    /// The next finished URB.
    fn poll(&mut self, now: Duration) -> Option<Completed>;

    /// The time at which [`handle_deadline`](Device::handle_deadline) wants to be called.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Time has passed [`deadline`](Device::deadline).
    fn handle_deadline(&mut self, now: Duration) {
        let _ = now;
    }

    /// What to wait for in the reactor at present. The loop keeps one poll operation in flight
    /// while this is `Some` and renews it after each [`handle_ready`](Device::handle_ready).
    fn readiness(&self) -> Option<(Handle, Interest)> {
        None
    }

    /// The descriptor of [`readiness`](Device::readiness) is ready; `events` are poll(2) bits.
    fn handle_ready(&mut self, events: u32, now: Duration) {
        let _ = (events, now);
    }

    /// (Micro)frames of running isochronous streams at this endpoint address for which there was no
    /// packet, since the device was opened. `None` if the device cannot tell: then the session
    /// takes the time in which the device had nothing.
    fn missed(&self, address: u8) -> Option<u64> {
        let _ = address;
        None
    }

    /// Time in this session during which a request (an alternate setting, a reset, the end of a
    /// URB) has kept the device from all others.
    fn busy_time(&self, now: Duration) -> Duration {
        let _ = now;
        Duration::ZERO
    }

    /// What working ahead of the client has come to on the endpoint at this address; `None` where
    /// nothing is done ahead.
    fn ahead(&self, address: u8) -> Option<ahead::AheadLevel> {
        let _ = address;
        None
    }

    /// The core's doorbell was rung: results of the helper thread may be there.
    fn handle_doorbell(&mut self, now: Duration) {
        let _ = now;
    }

    /// Ends the device's use: pending URBs are cancelled and come back, the hardware is reset, the
    /// original drivers are restored. Ends in [`DeviceState::Closed`]. Idempotent.
    fn close(&mut self, now: Duration);

    /// Takes the closed (or failed) device apart. What is in the box is between it and its
    /// [`Export`]: a simulated device's state, or nothing.
    fn into_remains(self: Box<Self>) -> Remains {
        Box::new(())
    }
}

/// Life of an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Being taken from its drivers; URBs are not accepted yet.
    Opening,
    /// URBs are accepted.
    Ready,
    /// The hardware is gone: pending URBs come back with -108, later ones with -19.
    Gone,
    /// [`Device::close`] was called and is under way.
    Closing,
    /// Nothing is in flight, everything is restored; the device can be dropped.
    Closed,
    /// It could not be opened; the text says why, for people. Nothing is held.
    Failed(String),
}

/// A finished URB and its memory.
#[derive(Debug)]
pub struct Completed {
    /// How it ended.
    pub finished: Finished,
    /// The block given with the submission.
    pub block: Block,
}

/// A thing that can be listed and opened. Belongs to core 0; the [`Device`] it opens belongs to the
/// core of the session.
pub trait Export {
    /// What it is. Taken before capture; does not change while a session has it.
    fn describe(&self) -> &DeviceDescription;

    /// Lends it out for one session. The opener goes to the session's core and is called there.
    ///
    /// # Errors
    ///
    /// One line for people, when it is plain at once that the device cannot be had.
    fn reserve(&mut self) -> Result<Opener, String>;

    /// Takes back what [`Device::into_remains`] left after the session.
    fn restore(&mut self, remains: Remains);
}

/// Opens a reserved device on the core of its session. The device starts in
/// [`DeviceState::Opening`] or [`DeviceState::Ready`]; what goes wrong later is
/// [`DeviceState::Failed`]. The doorbell is that core's: the device's helper thread rings it when
/// there is something for [`Device::handle_doorbell`].
pub type Opener = Box<dyn FnOnce(&Doorbell) -> Box<dyn Device> + Send>;

/// What a session leaves of a device, on its way back to its [`Export`].
pub type Remains = Box<dyn std::any::Any + Send>;
