//! Carries out one service of one endpoint on the URB in front of its queue.

use std::time::Duration;

use super::descriptors::ActiveEndpoint;
use super::function::{Answer, Function, Then, Transfer};
use super::queue::Urb;
use crate::usb::errno;
use crate::usb::isochronous::PacketDescriptor;
use crate::usb::transfer::Direction;

/// What a service did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes moved, and the URB needs another service.
    Moved(usize),
    /// The URB is over with this status.
    Finished(i32),
    /// The function halted the endpoint; the URB is over with -EPIPE.
    Stalled,
    /// NAK.
    Wait,
}

/// What [`packets`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packets {
    /// The URB is over.
    pub(super) finished: bool,
    /// Packets that reached the function.
    pub(super) served: u64,
    /// Packets whose interval was past.
    pub(super) missed: u64,
}

/// Moves at most `limit` bytes of a bulk or interrupt URB, at least one packet.
pub(super) fn transfer<F: Function>(
    function: &mut F,
    endpoint: &ActiveEndpoint,
    urb: &mut Urb,
    limit: usize,
    time_ns: u64,
) -> Step {
    let total = urb.submission.length as usize;
    let start = urb.actual;
    let end = total.min(start.saturating_add(limit));
    let ends_with_zero_packet = urb.zero_packet;
    let transfer = Transfer {
        address: endpoint.address,
        max_packet_size: endpoint.max_packet_size,
        offset: start,
        time: Duration::from_nanos(time_ns),
    };
    let (buffer, _) = urb.parts_mut();
    let offered = &mut buffer[start..end];
    let room = offered.len();
    let answer = match endpoint.is_in() {
        true => function.data_in(&transfer, offered),
        false => function.data_out(&transfer, offered),
    };
    let Answer { bytes, then } = answer;
    assert!(bytes <= room && (then != Then::Continue || bytes == room), "an answer in bounds");
    urb.actual += bytes;
    match then {
        // The call for the zero-length packet itself offers nothing and comes last.
        Then::Continue if urb.actual == total && ends_with_zero_packet && start < total => {
            Step::Moved(bytes)
        }
        Then::Continue if urb.actual == total => Step::Finished(0),
        Then::Continue => Step::Moved(bytes),
        Then::Short => Step::Finished(urb.short_status()),
        Then::Wait if bytes > 0 => Step::Moved(bytes),
        Then::Wait => Step::Wait,
        Then::Stall => Step::Stalled,
        Then::Overflow => Step::Finished(-errno::EOVERFLOW),
    }
}

/// Serves the isochronous packets of a URB whose intervals begin at `until_ns` or before, and lets
/// those fall that were late when the URB came. `next_ns` is the endpoint's next interval.
pub(super) fn packets<F: Function>(
    function: &mut F,
    endpoint: &ActiveEndpoint,
    urb: &mut Urb,
    next_ns: &mut u64,
    until_ns: u64,
) -> Packets {
    let (first, late) = (urb.packets, urb.late);
    let (mut actual_sum, mut errors, mut missed) = (0, 0, 0);
    let (buffer, descriptors) = urb.parts_mut();
    let count = descriptors.len();
    let mut number = first;
    while number < count && *next_ns <= until_ns {
        let descriptor = &mut descriptors[number];
        let (actual, status) = if number < late {
            missed += 1;
            (0, -errno::EXDEV)
        } else {
            let (offset, length) = place(descriptor);
            let transfer = Transfer {
                address: endpoint.address,
                max_packet_size: endpoint.max_packet_size,
                offset: 0,
                time: Duration::from_nanos(*next_ns),
            };
            let data = &mut buffer[offset..offset + length];
            packet_data(function, &transfer, endpoint.is_in(), data)
        };
        descriptor.actual_length = u32::try_from(actual).expect("a packet is short").into();
        descriptor.status = status.into();
        actual_sum += actual;
        errors += u32::from(status != 0);
        *next_ns += endpoint.interval_ns;
        number += 1;
    }
    urb.actual += actual_sum;
    urb.errors += errors;
    urb.packets = number;
    Packets { finished: number == count, served: (number - first) as u64 - missed, missed }
}

/// Whether every packet is within the buffer and within what the endpoint moves per interval.
///
/// # Errors
///
/// The status of the URB: -EINVAL outside of the buffer, -EMSGSIZE above the endpoint's payload.
pub(super) fn check_packets(endpoint: &ActiveEndpoint, urb: &mut Urb) -> Result<(), i32> {
    let (buffer, descriptors) = urb.parts_mut();
    for descriptor in descriptors {
        let (offset, length) = place(descriptor);
        if offset.checked_add(length).is_none_or(|end| end > buffer.len()) {
            return Err(-errno::EINVAL);
        }
        if length > endpoint.payload_bytes {
            return Err(-errno::EMSGSIZE);
        }
    }
    Ok(())
}

/// Whether a zero-length packet must follow the data of this URB.
pub(super) fn wants_zero_packet(endpoint: &ActiveEndpoint, urb: &Urb) -> bool {
    let length = urb.submission.length;
    urb.submission.flags.zero_packet
        && urb.submission.direction == Direction::Out
        && length > 0
        && length.is_multiple_of(endpoint.max_packet_size.into())
}

/// Isochronous transfers have no handshake: what a function cannot give or take is a packet of
/// fewer bytes, never a stall.
fn packet_data<F: Function>(
    function: &mut F,
    transfer: &Transfer,
    is_in: bool,
    data: &mut [u8],
) -> (usize, i32) {
    let answer = match is_in {
        true => function.data_in(transfer, data),
        false => function.data_out(transfer, data),
    };
    assert!(answer.bytes <= data.len(), "an answer in bounds");
    match answer.then {
        Then::Overflow => (answer.bytes, -errno::EOVERFLOW),
        // The host has sent the whole packet, whatever the function kept of it.
        _ if !is_in => (data.len(), 0),
        _ => (answer.bytes, 0),
    }
}

/// Offset and length within the buffer.
fn place(packet: &PacketDescriptor) -> (usize, usize) {
    (packet.offset.get() as usize, packet.length.get() as usize)
}
