//! The type of an endpoint is that of the alternate setting last answered.

use usbip_fast::usb::transfer::{Direction, TransferType};

use crate::pair::*;

const fn set_interface(interface: u8, alternate: u8) -> [u8; 8] {
    [1, 11, alternate, 0, interface, 0, 0, 0]
}

const fn set_configuration(value: u8) -> [u8; 8] {
    [0, 9, value, 0, 0, 0, 0, 0]
}

/// Submits an IN URB with one packet descriptor behind it, if the endpoint is to take it for
/// isochronous, and returns the type that the device saw.
fn kind_seen(pair: &mut Pair, seqnum: u32, endpoint: u8, iso: bool) -> TransferType {
    let packets: &[(u32, u32)] = if iso { &[(0, 64)] } else { &[] };
    let mut submit = Submit::iso(seqnum, Direction::In, 64, packets);
    submit.command.endpoint = endpoint;
    pair.submit(&submit);
    assert_eq!(pair.end(), None);
    let kind = pair.device.held.last().expect("it was submitted").0.kind;
    pair.finish(seqnum, 0, 0);
    assert_eq!(pair.briefs(), [Ret(seqnum, 0, 0)]);
    kind
}

#[test]
fn the_map_follows_the_answer_of_set_interface() {
    let mut pair = Pair::new();
    // Alternate setting 0 has no such endpoint: the first one that has it counts.
    assert_eq!(kind_seen(&mut pair, 1, CHANGING, false), TransferType::Bulk);
    pair.submit(&Submit::control(2, set_interface(1, 2)));
    assert_eq!(kind_seen(&mut pair, 3, CHANGING, false), TransferType::Bulk, "not answered yet");
    pair.finish(2, 0, 0);
    assert_eq!(pair.briefs(), [Ret(2, 0, 0)]);
    assert_eq!(kind_seen(&mut pair, 4, CHANGING, true), TransferType::Isochronous);
    // A refused SET_INTERFACE changes nothing.
    pair.submit(&Submit::control(5, set_interface(1, 1)));
    pair.finish(5, -32, 0);
    assert_eq!(pair.briefs(), [Ret(5, -32, 0)]);
    assert_eq!(kind_seen(&mut pair, 6, CHANGING, true), TransferType::Isochronous);
    pair.submit(&Submit::control(7, set_interface(1, 1)));
    pair.finish(7, 0, 0);
    assert_eq!(pair.briefs(), [Ret(7, 0, 0)]);
    assert_eq!(kind_seen(&mut pair, 8, CHANGING, false), TransferType::Bulk);
}

#[test]
fn the_map_follows_the_answer_of_set_configuration() {
    let mut pair = Pair::new();
    pair.submit(&Submit::control(1, set_interface(1, 2)));
    pair.finish(1, 0, 0);
    pair.submit(&Submit::control(2, set_configuration(2)));
    pair.finish(2, 0, 0);
    assert_eq!(pair.briefs(), [Ret(1, 0, 0), Ret(2, 0, 0)]);
    assert_eq!(kind_seen(&mut pair, 3, BULK, false), TransferType::Interrupt);
    pair.submit(&Submit::output(4, BULK, 10));
    assert_eq!(pair.briefs(), [Ret(4, -2, 0)], "the second configuration has no OUT endpoint");
    // Back again: all interfaces are at alternate setting 0.
    pair.submit(&Submit::control(5, set_configuration(1)));
    pair.finish(5, 0, 0);
    assert_eq!(pair.briefs(), [Ret(5, 0, 0)]);
    assert_eq!(kind_seen(&mut pair, 6, CHANGING, false), TransferType::Bulk);
    // Unconfigured: endpoint 0 is all there is.
    pair.submit(&Submit::control(7, set_configuration(0)));
    pair.finish(7, 0, 0);
    pair.submit(&Submit::input(8, BULK, 10));
    pair.submit(&Submit::control_in(9, 18));
    pair.finish(9, 0, 18);
    assert_eq!(pair.briefs(), [Ret(7, 0, 0), Ret(9, 0, 18), Ret(8, -2, 0)]);
}

#[test]
fn an_unlinked_set_interface_that_took_effect_is_followed() {
    let mut pair = Pair::new();
    pair.submit(&Submit::control(1, set_interface(1, 2)));
    pair.unlink(2, 1);
    pair.finish(1, 0, 0);
    assert_eq!(pair.briefs(), [Ret(1, 0, 0), Unlinked(2, 0)]);
    assert_eq!(kind_seen(&mut pair, 3, CHANGING, true), TransferType::Isochronous);
}

#[test]
fn an_unknown_endpoint_is_answered_and_its_payload_is_consumed() {
    for piece in [1, 7, usize::MAX] {
        let mut pair = Pair::with_delivery(Delivery { piece, direct: true });
        pair.submit(&Submit::output(1, UNKNOWN, 1000));
        pair.submit(&Submit::input(2, UNKNOWN, 1000));
        pair.submit(&Submit::output(3, UNKNOWN, 0));
        pair.submit(&Submit::output(4, BULK, 10));
        pair.finish(4, 0, 10);
        let expected = [Ret(1, -2, 0), Ret(2, -2, 0), Ret(3, -2, 0), Ret(4, 0, 10)];
        assert_eq!(pair.briefs(), expected);
        assert_eq!(pair.device.seen, [4]);
    }
}
