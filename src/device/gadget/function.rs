//! What makes one simulated device different from another.

use std::time::Duration;

use usbip_fast_native::Doorbell;

use crate::usb::setup::Setup;

/// The part of a device behind chapter 9: its class and vendor requests and its data endpoints.
///
/// All calls happen on the core of the session, one at a time, and must not block.
pub trait Function {
    /// A request with an IN data stage that the base does not answer itself: class, vendor, or a
    /// standard request to an interface (such as a HID report descriptor). Puts the data at the
    /// front of `data`, which is `wLength` bytes, and returns how many bytes it is.
    ///
    /// # Errors
    ///
    /// [`Stall`] where the request is not supported.
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall>;

    /// As [`control_in`](Function::control_in), for requests with an OUT data stage or none.
    ///
    /// # Errors
    ///
    /// [`Stall`] where the request or its data is not accepted.
    fn control_out(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall>;

    /// Gives data of an IN endpoint. `data` is what the host has room for in this service:
    /// a whole number of packets, the last of which may have less room. Called once per packet for
    /// isochronous endpoints, where [`Then::Wait`] is a packet without data.
    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer;

    /// Takes data of an OUT endpoint, in whole packets, the last of which may be short. Empty
    /// `data` is a zero-length packet.
    fn data_out(&mut self, transfer: &Transfer, data: &[u8]) -> Answer;

    /// When a bulk endpoint that has answered [`Then::Wait`] will have something to give or room to
    /// take without a request of the host, in bus time; later than that answer. Paces with a clock
    /// ask again then. In the others bulk transfers know no time: there a function must not wait
    /// for it.
    fn ready_at(&self, _address: u8) -> Option<Duration> {
        None
    }

    /// The base has changed something below the function.
    fn changed(&mut self, change: Change);

    /// A session begins. A thread that works for the function rings this bell, that of the
    /// session's core, when it has something for [`handle_doorbell`](Function::handle_doorbell).
    ///
    /// # Errors
    ///
    /// Why the device cannot be used now, for people; the import is refused.
    fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        let _ = doorbell;
        Ok(())
    }

    /// The core's doorbell was rung, perhaps for another device. Says whether endpoints that were
    /// answered [`Then::Wait`] are to be asked again.
    fn handle_doorbell(&mut self) -> Wake {
        Wake::Nothing
    }
}

/// What a ring of the doorbell has changed for the endpoints of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing.
    Nothing,
    /// Those that wait may have something to say now.
    Again,
}

/// Where in a transfer the packets of one call stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Endpoint address, with the direction bit.
    pub address: u8,
    /// Bytes of a packet of this endpoint.
    pub max_packet_size: u16,
    /// Bytes moved by the same transfer before this call; 0 for isochronous packets.
    pub offset: usize,
    /// Bus time of this service since the session began (see [`Pace`](super::Pace)).
    pub time: Duration,
}

/// What the function did with the packets it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes moved, from the front of what was offered.
    pub bytes: usize,
    /// What follows them.
    pub then: Then,
}

/// What follows the bytes of an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Everything that was offered was moved.
    Continue,
    /// IN: the last packet was shorter than the endpoint's size, or empty: the transfer ends.
    Short,
    /// NAK: nothing more now. Asked again when any other transfer of the device was executed, at
    /// the next interval of an interrupt endpoint, and at [`Function::ready_at`] of a bulk one.
    Wait,
    /// The endpoint halts until the host clears it.
    Stall,
    /// IN: the next packet is larger than the room that the host left for it.
    Overflow,
}

impl Answer {
    /// Everything that was offered, which was this many bytes.
    #[must_use]
    pub const fn all(bytes: usize) -> Self {
        Self { bytes, then: Then::Continue }
    }

    /// Not a byte, then this.
    #[must_use]
    pub const fn nothing(then: Then) -> Self {
        Self { bytes: 0, then }
    }
}

/// The request is answered with a STALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall;

/// A change that the base made on the host's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// SET_CONFIGURATION, to this value; all interfaces are at alternate setting 0.
    Configuration(u8),
    /// SET_INTERFACE.
    Interface {
        /// Interface number.
        interface: u8,
        /// Alternate setting.
        alternate: u8,
    },
    /// SET_FEATURE(ENDPOINT_HALT) on this endpoint address.
    Halted(u8),
    /// CLEAR_FEATURE(ENDPOINT_HALT) on this endpoint address.
    HaltCleared(u8),
    /// A bus reset, also the one at the end of a session: transfers under way are void.
    Reset,
}
