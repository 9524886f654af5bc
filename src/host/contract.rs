//! What every host controller must do, whatever stands behind it.

use std::os::fd::OwnedFd;

use usbip_fast_native::socket;

use super::{HostController, HostError, ImportedDevice, Origin, PortState, Progress};
use crate::usb::speed::Speed;

/// A controller under test and the world that it drives.
pub(super) trait World {
    /// The controller.
    fn controller(&mut self) -> &mut dyn HostController;

    /// Lets the world react to the last call.
    fn react(&mut self);
}

/// Runs the whole list on a world whose ports are all free.
pub(super) fn check(world: &mut dyn World) {
    numbers_are_unique_and_ascend(world);
    a_device_takes_a_free_port_and_gives_it_back(world);
    a_wanted_port_is_given_or_refused(world);
    an_empty_port_cannot_be_detached(world);
}

fn numbers_are_unique_and_ascend(world: &mut dyn World) {
    let ports = world.controller().ports().expect("readable");
    assert!(!ports.is_empty());
    assert!(ports.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert!(ports.iter().all(|port| port.state == PortState::Free && port.origin.is_none()));
}

fn a_device_takes_a_free_port_and_gives_it_back(world: &mut dyn World) {
    for speed in [Speed::Low, Speed::Full, Speed::High, Speed::Super] {
        let device = device(speed);
        let number = world.controller().attach(connection(), &device, None).expect("free port");
        world.react();
        let ports = world.controller().ports().expect("readable");
        let port = ports.iter().find(|port| port.number == number).expect("listed");
        assert_ne!(port.state, PortState::Free);
        assert!(port.hub.takes(speed));
        assert_eq!(port.device_id, device.device_id);
        assert_eq!(port.origin.as_ref(), Some(&device.origin));
        let progress = world.controller().progress(number).expect("readable");
        assert_ne!(progress, Progress::Gone);
        world.controller().detach(number).expect("attached");
        world.react();
        let progress = world.controller().progress(number).expect("readable");
        assert_eq!(progress, Progress::Gone);
        numbers_are_unique_and_ascend(world);
    }
}

fn a_wanted_port_is_given_or_refused(world: &mut dyn World) {
    let ports = world.controller().ports().expect("readable");
    let fits = |speed: Speed| {
        let port = ports.iter().rev().find(|port| port.hub.takes(speed)).expect("a fitting port");
        port.number
    };
    let wanted = fits(Speed::High);
    let device = device(Speed::High);
    let number = world.controller().attach(connection(), &device, Some(wanted)).expect("free");
    assert_eq!(number, wanted);
    world.react();
    let again = world.controller().attach(connection(), &device, Some(wanted));
    assert!(matches!(again, Err(HostError::PortTaken(port)) if port == wanted));
    let beyond = ports.last().expect("not empty").number + 1;
    let nowhere = world.controller().attach(connection(), &device, Some(beyond));
    assert!(matches!(nowhere, Err(HostError::NoSuchPort(port)) if port == beyond));
    world.controller().detach(wanted).expect("attached");
    world.react();
}

fn an_empty_port_cannot_be_detached(world: &mut dyn World) {
    let ports = world.controller().ports().expect("readable");
    let number = ports[0].number;
    let empty = world.controller().detach(number);
    assert!(matches!(empty, Err(HostError::PortEmpty(port)) if port == number));
    let beyond = ports.last().expect("not empty").number + 1;
    let nowhere = world.controller().detach(beyond);
    assert!(matches!(nowhere, Err(HostError::NoSuchPort(port)) if port == beyond));
}

/// A device of `speed` from a server that does not exist.
pub(super) fn device(speed: Speed) -> ImportedDevice {
    let origin = Origin { host: "server".into(), tcp_port: 3240, bus_id: "1-1.4".into() };
    ImportedDevice { device_id: 0x0001_0007, speed, origin }
}

/// One end of a connection whose other end is closed.
pub(super) fn connection() -> OwnedFd {
    let (one, _other) = socket::pair().expect("a pair");
    one.into_owned().expect("the only reference")
}
