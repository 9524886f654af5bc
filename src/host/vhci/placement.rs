//! The choice of a port, and what to do when the driver does not take it.

use std::io;
use std::time::Duration;

use crate::host::{HostError, Hub, Port, PortState};
use crate::usb::errno;
use crate::usb::speed::Speed;

/// EAGAIN: the controller's hub is not up yet.
const EAGAIN: i32 = 11;

/// How long to leave a controller that is not ready alone, and how often: 2 s in all.
const NOT_READY_DELAY: Duration = Duration::from_millis(100);
const NOT_READY_ROUNDS: u32 = 20;

/// The search for a port for one device. Give the present rows to
/// [`choose`](Placement::choose), try its choice, and tell a failure to
/// [`refused`](Placement::refused), which says whether to go on.
#[derive(Debug)]
pub(super) struct Placement {
    speed: Speed,
    wanted: Option<u32>,
    taken: Vec<u32>,
    not_ready_rounds: u32,
}

/// The port and speed to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) port: u32,
    pub(super) speed: Speed,
}

/// When to choose again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Now,
    After(Duration),
}

impl Placement {
    /// A search for a device of `speed`, for exactly the port `wanted` if there is one.
    ///
    /// # Errors
    ///
    /// [`HostError::SpeedUnknown`]: the driver takes no device without a speed.
    pub(super) fn new(speed: Speed, wanted: Option<u32>) -> Result<Self, HostError> {
        if speed == Speed::Unknown {
            return Err(HostError::SpeedUnknown);
        }
        Ok(Self { speed, wanted, taken: Vec::new(), not_ready_rounds: 0 })
    }

    /// The port to try now.
    ///
    /// Among free ports of the right hub the one whose hub has the fewest devices: a hub's ports
    /// share one sequence counter that breaks at 2³¹ (kernel.md §0.3) and one lock. The driver
    /// derives the hub from the speed and not from the port, so a port of the wrong hub would
    /// silently become another one.
    ///
    /// # Errors
    ///
    /// When no port is left, or the wanted one is not to be had.
    pub(super) fn choose(&self, ports: &[Port]) -> Result<Choice, HostError> {
        let port = match self.wanted {
            Some(number) => self.judge_wanted(number, ports)?,
            None => self.emptiest(ports)?,
        };
        Ok(Choice { port, speed: self.speed })
    }

    /// The driver did not take `choice`: says when to choose again.
    ///
    /// # Errors
    ///
    /// When trying again cannot help.
    pub(super) fn refused(&mut self, choice: Choice, error: io::Error) -> Result<Retry, HostError> {
        match error.raw_os_error() {
            Some(errno::EBUSY) => match self.wanted {
                Some(port) => Err(HostError::PortTaken(port)),
                None => {
                    self.taken.push(choice.port);
                    Ok(Retry::Now)
                }
            },
            Some(EAGAIN) if self.not_ready_rounds < NOT_READY_ROUNDS => {
                self.not_ready_rounds += 1;
                Ok(Retry::After(NOT_READY_DELAY))
            }
            // Drivers before Linux 6.12 do not know SuperSpeedPlus; the device enumerates as
            // SuperSpeed just as well.
            Some(errno::EINVAL) if self.speed == Speed::SuperPlus => {
                self.speed = Speed::Super;
                Ok(Retry::Now)
            }
            _ => Err(match error.kind() {
                io::ErrorKind::PermissionDenied => HostError::RightsMissing("attaching a device"),
                io::ErrorKind::NotFound => HostError::DriverMissing("its files are gone"),
                _ => HostError::Refused { port: choice.port, speed: choice.speed, source: error },
            }),
        }
    }

    fn judge_wanted(&self, number: u32, ports: &[Port]) -> Result<u32, HostError> {
        let port = ports.iter().find(|port| port.number == number);
        let port = port.ok_or(HostError::NoSuchPort(number))?;
        if !port.hub.takes(self.speed) {
            return Err(HostError::PortUnfit { port: number, hub: port.hub, speed: self.speed });
        }
        if port.state != PortState::Free {
            return Err(HostError::PortTaken(number));
        }
        Ok(number)
    }

    fn emptiest(&self, ports: &[Port]) -> Result<u32, HostError> {
        let load = |of: &Port| {
            let same_hub = |port: &&Port| port.controller == of.controller && port.hub == of.hub;
            ports.iter().filter(same_hub).filter(|port| self.is_taken(port)).count()
        };
        ports
            .iter()
            .filter(|port| port.hub.takes(self.speed) && !self.is_taken(port))
            .min_by_key(|port| (load(port), port.number))
            .map(|port| port.number)
            .ok_or_else(|| HostError::NoFreePort {
                hub: if self.speed.is_super() { Hub::Super } else { Hub::High },
                count: ports.iter().filter(|port| port.hub.takes(self.speed)).count(),
            })
    }

    fn is_taken(&self, port: &Port) -> bool {
        port.state != PortState::Free || self.taken.contains(&port.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free ports of `controllers` controllers with `width` ports per hub.
    fn free_ports(controllers: u32, width: u32) -> Vec<Port> {
        (0..controllers * 2 * width)
            .map(|number| Port {
                number,
                controller: number / (2 * width),
                hub: if number / width % 2 == 1 { Hub::Super } else { Hub::High },
                state: PortState::Free,
                speed: Speed::Unknown,
                device_id: 0,
                local_bus_id: None,
                origin: None,
            })
            .collect()
    }

    fn one_hub(width: u32) -> Vec<Port> {
        let mut ports = free_ports(1, width);
        ports.truncate(width as usize);
        ports.iter_mut().for_each(|port| port.hub = Hub::Only);
        ports
    }

    fn fill(mut ports: Vec<Port>, speed: Speed, devices: usize) -> (Vec<u32>, Option<HostError>) {
        let mut chosen = Vec::new();
        for _ in 0..devices {
            match Placement::new(speed, None).expect("a speed").choose(&ports) {
                Ok(choice) => {
                    chosen.push(choice.port);
                    let index = usize::try_from(choice.port).expect("small");
                    ports[index].state = PortState::Starting;
                }
                Err(error) => return (chosen, Some(error)),
            }
        }
        (chosen, None)
    }

    fn os(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn devices_spread_over_controllers() {
        let (chosen, _) = fill(free_ports(8, 15), Speed::High, 9);
        assert_eq!(chosen, [0, 30, 60, 90, 120, 150, 180, 210, 1]);
        let (chosen, _) = fill(free_ports(8, 15), Speed::SuperPlus, 9);
        assert_eq!(chosen, [15, 45, 75, 105, 135, 165, 195, 225, 16]);
    }

    #[test]
    fn eight_by_one_ends_after_eight_per_hub() {
        let (chosen, error) = fill(free_ports(1, 8), Speed::Super, 9);
        assert_eq!(chosen, [8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(matches!(error, Some(HostError::NoFreePort { hub: Hub::Super, count: 8 })));
        let (chosen, _) = fill(free_ports(1, 8), Speed::Low, 3);
        assert_eq!(chosen, [0, 1, 2]);
    }

    #[test]
    fn an_only_hub_takes_all_speeds() {
        assert_eq!(fill(one_hub(8), Speed::Full, 2).0, [0, 1]);
        assert_eq!(fill(one_hub(8), Speed::Super, 1).0, [0]);
    }

    #[test]
    fn a_busy_port_is_left_for_another() {
        let ports = free_ports(2, 8);
        let mut placement = Placement::new(Speed::High, None).expect("a speed");
        let first = placement.choose(&ports).expect("free");
        assert_eq!(placement.refused(first, os(errno::EBUSY)).expect("go on"), Retry::Now);
        let second = placement.choose(&ports).expect("free");
        assert_eq!(second.port, 16, "the other controller is emptier now");
        let mut all_busy = free_ports(1, 1);
        all_busy.truncate(1);
        let mut placement = Placement::new(Speed::High, None).expect("a speed");
        let only = placement.choose(&all_busy).expect("free");
        placement.refused(only, os(errno::EBUSY)).expect("go on");
        assert!(matches!(placement.choose(&all_busy), Err(HostError::NoFreePort { .. })));
    }

    #[test]
    fn super_speed_plus_falls_back_once() {
        let ports = free_ports(1, 8);
        let mut placement = Placement::new(Speed::SuperPlus, None).expect("a speed");
        let first = placement.choose(&ports).expect("free");
        assert_eq!(first.speed, Speed::SuperPlus);
        assert_eq!(placement.refused(first, os(errno::EINVAL)).expect("go on"), Retry::Now);
        let second = placement.choose(&ports).expect("free");
        assert_eq!(second, Choice { port: first.port, speed: Speed::Super });
        let end = placement.refused(second, os(errno::EINVAL));
        assert!(matches!(end, Err(HostError::Refused { speed: Speed::Super, .. })));
    }

    #[test]
    fn a_controller_that_is_not_ready_is_given_two_seconds() {
        let mut placement = Placement::new(Speed::High, None).expect("a speed");
        let choice = placement.choose(&free_ports(1, 8)).expect("free");
        for _ in 0..NOT_READY_ROUNDS {
            let retry = placement.refused(choice, os(EAGAIN)).expect("go on");
            assert_eq!(retry, Retry::After(NOT_READY_DELAY));
        }
        assert!(matches!(placement.refused(choice, os(EAGAIN)), Err(HostError::Refused { .. })));
    }

    #[test]
    fn a_wanted_port_is_judged() {
        let mut ports = free_ports(1, 8);
        ports[3].state = PortState::Used;
        let ask = |number, speed| {
            Placement::new(speed, Some(number)).expect("a speed").choose(&ports).map(|it| it.port)
        };
        assert_eq!(ask(2, Speed::High).expect("free"), 2);
        assert!(matches!(ask(3, Speed::High), Err(HostError::PortTaken(3))));
        assert!(matches!(ask(9, Speed::High), Err(HostError::PortUnfit { port: 9, .. })));
        assert!(matches!(ask(16, Speed::High), Err(HostError::NoSuchPort(16))));
        let mut placement = Placement::new(Speed::High, Some(2)).expect("a speed");
        let choice = placement.choose(&ports).expect("free");
        let lost = placement.refused(choice, os(errno::EBUSY));
        assert!(matches!(lost, Err(HostError::PortTaken(2))), "no other port is tried");
    }

    #[test]
    fn errors_that_end_the_search() {
        assert!(matches!(Placement::new(Speed::Unknown, None), Err(HostError::SpeedUnknown)));
        let refuse = |number| {
            let mut placement = Placement::new(Speed::High, None).expect("a speed");
            let choice = placement.choose(&free_ports(1, 8)).expect("free");
            placement.refused(choice, os(number)).expect_err("no retry")
        };
        assert!(matches!(refuse(13), HostError::RightsMissing(_)));
        assert!(matches!(refuse(errno::ENOENT), HostError::DriverMissing(_)));
        assert!(matches!(refuse(errno::EINVAL), HostError::Refused { port: 0, .. }));
    }
}
