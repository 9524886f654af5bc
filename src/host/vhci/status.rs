//! The lines of the driver's `status` files.

use usbip_fast_native::linux::vhci::StatusText;

use crate::host::{Hub, Port, PortState};
use crate::usb::speed::Speed;

/// The ports of one controller. Which controller a port belongs to is told by the file it stands
/// in, so no number of ports or controllers is assumed. A line that is not a port is skipped.
pub(super) fn parse(status: &StatusText) -> impl Iterator<Item = Port> + '_ {
    status.text.lines().filter_map(|line| parse_line(status.controller, line))
}

/// `hs  0004 006 003 00020003 000007 1-1`; drivers before Linux 4.13 have no first column.
fn parse_line(controller: u32, line: &str) -> Option<Port> {
    let mut words = line.split_whitespace().peekable();
    let hub = match *words.peek()? {
        "hs" => Hub::High,
        "ss" => Hub::Super,
        _ => Hub::Only,
    };
    if hub != Hub::Only {
        words.next();
    }
    let number = words.next()?.parse().ok()?;
    let state = state(words.next()?.parse().ok()?)?;
    let speed = words.next()?.parse().ok().and_then(Speed::from_code).unwrap_or(Speed::Unknown);
    let device_id = u32::from_str_radix(words.next()?, 16).ok()?;
    // The socket's number means something only in the process that attached.
    let _socket = words.next()?;
    let local_bus_id = words.next().filter(|id| *id != "0-0").map(str::to_owned);
    Some(Port { number, controller, hub, state, speed, device_id, local_bus_id, origin: None })
}

/// The driver's numbers of the states of a client port (kernel.md §2.1).
fn state(number: u32) -> Option<PortState> {
    Some(match number {
        4 => PortState::Free,
        5 => PortState::Starting,
        6 => PortState::Used,
        7 => PortState::Failed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "hub port sta spd dev      sockfd local_busid\n";

    fn ports(text: &str) -> Vec<Port> {
        parse(&StatusText { controller: 2, text: text.to_owned() }).collect()
    }

    #[test]
    fn both_hubs_are_read() {
        let found = ports(&format!(
            "{HEADER}hs  0060 004 000 00000000 000000 0-0\n\
             hs  0061 006 003 00020003 000007 5-2\n\
             ss  0075 005 005 0001000a 000009 0-0\n\
             ss  0076 007 005 0001000a 000009 6-1\n"
        ));
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].state, PortState::Free);
        assert_eq!((found[0].hub, found[0].controller), (Hub::High, 2));
        assert_eq!(found[1].number, 61);
        assert_eq!(found[1].speed, Speed::High);
        assert_eq!(found[1].device_id, 0x0002_0003);
        assert_eq!(found[1].local_bus_id.as_deref(), Some("5-2"));
        assert_eq!((found[2].hub, found[2].state), (Hub::Super, PortState::Starting));
        assert_eq!(found[2].local_bus_id, None);
        assert_eq!(found[3].state, PortState::Failed);
    }

    #[test]
    fn a_controller_that_is_not_ready_has_free_ports() {
        let found = ports("hs  0000 000 000 00000000 0000000000000000 0-0\n");
        assert!(found.is_empty(), "state 0 is no state of a port");
        let found = ports("hs  0000 004 000 00000000 0000000000000000 0-0\n");
        assert_eq!(found[0].state, PortState::Free);
    }

    #[test]
    fn old_drivers_have_no_hub_column() {
        let found = ports(
            "prt sta spd bus dev socket           local_busid\n\
             000 004 000 000 000         (nil) 0-0\n\
             001 006 003 00020003 ffff88003c1f8000 3-2\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].state, PortState::Free);
        assert_eq!((found[1].hub, found[1].number), (Hub::Only, 1));
        assert_eq!(found[1].local_bus_id.as_deref(), Some("3-2"));
    }

    #[test]
    fn damaged_lines_are_skipped() {
        assert!(
            ports("hs\nhs  00x0 004 000 0 0 0-0\n\nhs 0001 004\nss  -1 4 0 0 0 0-0\n").is_empty()
        );
    }
}
