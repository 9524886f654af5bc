//! What a URB becomes on usbfs: the requests that must not go to the device as they are, the fields
//! of the others, and the statuses of errors (kernel.md has the measured table; USB 2.0 §9.4).
//!
//! SET_CONFIGURATION, SET_INTERFACE and CLEAR_FEATURE(ENDPOINT_HALT) change what the kernel and the
//! host controller must know of the device. Sent as plain control transfers they would leave both
//! out of step, so each becomes the ioctl that does it.

use usbip_fast_native::OsError;
use usbip_fast_native::linux::usbfs::{UrbKind, urb_flag};

use crate::usb::errno;
use crate::usb::setup::{Setup, StandardRequest};
use crate::usb::transfer::{Direction, Submission, TransferType};

/// What is to be done with a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answer with status 0: the device already has its address.
    Answer,
    /// A call that waits, for the helper.
    Request(Request),
    /// An asynchronous URB.
    Transfer,
}

/// A request of the client that a waiting call carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// CLEAR_FEATURE(ENDPOINT_HALT) for an endpoint address.
    ClearHalt(u8),
    /// SET_FEATURE(PORT_RESET): reset the device, keep its alternate settings.
    Reset,
    /// SET_CONFIGURATION.
    SetConfiguration(u8),
    /// SET_INTERFACE.
    SetInterface {
        /// Interface number.
        interface: u8,
        /// Alternate setting.
        alternate: u8,
    },
}

/// Sorts a submission.
pub(super) fn action(submission: &Submission) -> Action {
    if submission.kind != TransferType::Control {
        return Action::Transfer;
    }
    match Setup::from_bytes(submission.setup).classify() {
        StandardRequest::SetAddress => Action::Answer,
        StandardRequest::SetConfiguration(value) => {
            Action::Request(Request::SetConfiguration(value))
        }
        StandardRequest::SetInterface { interface, alternate } => {
            Action::Request(Request::SetInterface { interface, alternate })
        }
        StandardRequest::ClearHalt(endpoint) => Action::Request(Request::ClearHalt(endpoint)),
        StandardRequest::PortReset => Action::Request(Request::Reset),
        StandardRequest::Other => Action::Transfer,
    }
}

/// Type of the usbfs URB.
pub(super) const fn urb_kind(kind: TransferType) -> UrbKind {
    match kind {
        TransferType::Control => UrbKind::Control,
        TransferType::Isochronous => UrbKind::Isochronous,
        TransferType::Bulk => UrbKind::Bulk,
        TransferType::Interrupt => UrbKind::Interrupt,
    }
}

/// Endpoint address of the usbfs URB: with the direction bit, but 0 for control, where the setup
/// packet has the direction.
pub(super) const fn endpoint_address(submission: &Submission) -> u8 {
    match (submission.kind, submission.direction) {
        (TransferType::Control, _) => 0,
        (_, Direction::Out) => submission.endpoint,
        (_, Direction::In) => submission.endpoint | 0x80,
    }
}

/// Flags of the usbfs URB.
pub(super) const fn urb_flags(submission: &Submission) -> u32 {
    let flags = submission.flags;
    (if flags.short_not_ok { urb_flag::SHORT_NOT_OK } else { 0 })
        | (if flags.iso_asap { urb_flag::ISO_ASAP } else { 0 })
        | (if flags.zero_packet { urb_flag::ZERO_PACKET } else { 0 })
        | (if flags.no_interrupt { urb_flag::NO_INTERRUPT } else { 0 })
}

/// Status of a URB that the kernel did not take. Its numbers are those of the wire on every
/// architecture that has usbfs and is built for here; only what they mean differs in places.
pub(super) fn submit_status(kind: TransferType, error: OsError) -> i32 {
    match (error.0, kind) {
        // No such interface or endpoint: a device would stall the request.
        (errno::ENOENT, TransferType::Control) => -errno::EPIPE,
        // The endpoint is not active now.
        (errno::ENOENT, _) => -errno::ESHUTDOWN,
        (number, _) => -number,
    }
}

/// Status of a request that a waiting call carried out.
pub(super) fn request_status(result: Result<(), OsError>) -> i32 {
    match result {
        Ok(()) => 0,
        // No such configuration, interface, alternate setting or endpoint: a stall on the bus.
        Err(OsError(errno::EINVAL | errno::ENOENT)) => -errno::EPIPE,
        Err(OsError(errno::ENODEV)) => -errno::ESHUTDOWN,
        Err(OsError(number)) => -number,
    }
}

/// Status of a URB that was reaped. Killed ones (-2) were unlinked if somebody asked for it, else
/// their endpoint went away under them.
pub(super) const fn reaped_status(status: i32, was_cancelled: bool) -> i32 {
    match (status, was_cancelled) {
        (status, true) if status == -errno::ENOENT => -errno::ECONNRESET,
        (status, false) if status == -errno::ENOENT => -errno::ESHUTDOWN,
        (status, _) if status > 0 => -errno::EPROTO,
        (status, _) => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::transfer::TransferFlags;

    fn control(setup: [u8; 8]) -> Submission {
        Submission {
            slot: 0,
            kind: TransferType::Control,
            direction: Direction::Out,
            endpoint: 0,
            setup,
            length: 0,
            packets: 0,
            flags: TransferFlags::default(),
            start_frame: 0,
        }
    }

    #[test]
    fn requests_that_change_the_host_are_not_sent_as_they_are() {
        let cases = [
            ([0, 5, 7, 0, 0, 0, 0, 0], Action::Answer),
            ([0, 9, 2, 0, 0, 0, 0, 0], Action::Request(Request::SetConfiguration(2))),
            (
                [1, 11, 3, 0, 4, 0, 0, 0],
                Action::Request(Request::SetInterface { interface: 4, alternate: 3 }),
            ),
            ([2, 1, 0, 0, 0x82, 0, 0, 0], Action::Request(Request::ClearHalt(0x82))),
            ([0x23, 3, 4, 0, 1, 0, 0, 0], Action::Request(Request::Reset)),
            ([0x80, 6, 0, 1, 0, 0, 18, 0], Action::Transfer),
            ([0x40, 9, 2, 0, 0, 0, 0, 0], Action::Transfer),
        ];
        for (setup, expected) in cases {
            assert_eq!(action(&control(setup)), expected, "{setup:02x?}");
        }
        let bulk = Submission { kind: TransferType::Bulk, ..control([0, 9, 2, 0, 0, 0, 0, 0]) };
        assert_eq!(action(&bulk), Action::Transfer, "a bulk URB has no setup packet");
    }

    #[test]
    fn addresses_and_flags_follow_the_submission() {
        let flags = TransferFlags { short_not_ok: true, no_interrupt: true, ..Default::default() };
        let urb = Submission {
            kind: TransferType::Bulk,
            direction: Direction::In,
            endpoint: 3,
            flags,
            ..control([0; 8])
        };
        assert_eq!((endpoint_address(&urb), urb_flags(&urb)), (0x83, 0x81));
        let out = Submission { direction: Direction::Out, ..urb };
        assert_eq!(endpoint_address(&out), 3);
        let control = Submission { kind: TransferType::Control, endpoint: 0, ..urb };
        assert_eq!(endpoint_address(&control), 0);
    }

    #[test]
    fn errors_become_the_statuses_a_driver_understands() {
        let control = TransferType::Control;
        assert_eq!(submit_status(control, OsError(2)), -32);
        assert_eq!(submit_status(TransferType::Bulk, OsError(2)), -108);
        assert_eq!(submit_status(TransferType::Isochronous, OsError(90)), -90);
        assert_eq!(request_status(Err(OsError(22))), -32);
        assert_eq!(request_status(Err(OsError(19))), -108);
        assert_eq!(request_status(Err(OsError(110))), -110);
        assert_eq!(request_status(Ok(())), 0);
        assert_eq!(reaped_status(-2, true), -104);
        assert_eq!(reaped_status(-2, false), -108);
        assert_eq!(reaped_status(-121, true), -121, "it won the race");
        assert_eq!(reaped_status(0, true), 0);
    }
}
