//! The host controller of Linux for imported devices: the `vhci_hcd` driver.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use usbip_fast_native::client::pause;
use usbip_fast_native::linux::vhci::{Files, prepare_connection};
use usbip_fast_native::process::is_superuser;

use super::{HostController, HostError, ImportedDevice, Origin, Port, PortState, Progress};
use crate::usb::errno;
use placement::{Placement, Retry};

mod appearance;
mod placement;
mod status;

/// The driver `vhci_hcd`, all of its controllers together.
#[derive(Debug)]
pub struct Vhci {
    files: Files,
}

impl Vhci {
    /// Uses the driver behind `files`, loading it first when it is missing and this process is
    /// root.
    ///
    /// # Errors
    ///
    /// [`HostError::DriverMissing`] with the reason.
    pub fn open(files: Files) -> Result<Self, HostError> {
        if !files.is_loaded() {
            if !is_superuser() {
                return Err(HostError::DriverMissing("and only root may load it"));
            }
            files.load_driver().map_err(|error| HostError::DriverUnavailable(error.to_string()))?;
            if !files.is_loaded() {
                let reason = "modprobe made no controller appear";
                return Err(HostError::DriverUnavailable(reason.into()));
            }
        }
        Ok(Self { files })
    }

    fn rows(&self) -> Result<Vec<Port>, HostError> {
        let texts = self.files.status().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => HostError::DriverMissing("its files are gone"),
            _ => HostError::System { doing: "reading the status of vhci_hcd", source },
        })?;
        let mut ports: Vec<_> = texts.iter().flat_map(status::parse).collect();
        ports.sort_by_key(|port| port.number);
        Ok(ports)
    }

    fn row(&self, number: u32) -> Result<Option<Port>, HostError> {
        Ok(self.rows()?.into_iter().find(|port| port.number == number))
    }

    /// Without the record the device works all the same, so a failure is told and no error.
    fn note_origin(&self, port: u32, origin: &Origin) {
        let text = format!("{} {} {}\n", origin.host, origin.tcp_port, origin.bus_id);
        if let Err(error) = self.files.write_record(port, &text) {
            tracing::warn!(port, %error, "the origin of the port could not be noted");
        }
    }

    /// A record of nothing harms nobody, so a failure is no error here either.
    fn forget_origin(&self, port: u32) {
        if let Err(error) = self.files.remove_record(port) {
            tracing::debug!(port, %error, "the record of the port could not be removed");
        }
    }
}

impl HostController for Vhci {
    fn ports(&self) -> Result<Vec<Port>, HostError> {
        let mut ports = self.rows()?;
        for port in ports.iter_mut().filter(|port| port.state != PortState::Free) {
            port.origin = self.files.record(port.number).and_then(|text| parse_record(&text));
        }
        Ok(ports)
    }

    fn check_rights(&self) -> Result<(), HostError> {
        self.files.check_rights().map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => HostError::RightsMissing("attaching a device"),
            _ => HostError::System { doing: "opening the attach file of vhci_hcd", source },
        })
    }

    fn attach(
        &mut self,
        connection: OwnedFd,
        device: &ImportedDevice,
        wanted: Option<u32>,
    ) -> Result<u32, HostError> {
        prepare_connection(connection.as_fd())
            .map_err(|source| HostError::System { doing: "preparing the connection", source })?;
        let mut placement = Placement::new(device.speed, wanted)?;
        loop {
            let choice = placement.choose(&self.rows()?)?;
            let (port, speed) = (choice.port, choice.speed.code());
            match self.files.attach(port, connection.as_fd(), device.device_id, speed) {
                Ok(()) => {
                    self.note_origin(port, &device.origin);
                    return Ok(port);
                }
                Err(error) => match placement.refused(choice, error)? {
                    Retry::Now => {}
                    Retry::After(delay) => pause(delay),
                },
            }
        }
    }

    fn detach(&mut self, number: u32) -> Result<(), HostError> {
        let port = self.row(number)?.ok_or(HostError::NoSuchPort(number))?;
        if port.state == PortState::Free {
            self.forget_origin(number);
            return Err(HostError::PortEmpty(number));
        }
        match self.files.detach(number) {
            Ok(()) => {
                self.forget_origin(number);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
                // It went away between the look and the write.
                self.forget_origin(number);
                Err(HostError::PortEmpty(number))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(HostError::RightsMissing("detaching a device"))
            }
            Err(source) => Err(HostError::System { doing: "detaching the port", source }),
        }
    }

    fn progress(&self, number: u32) -> Result<Progress, HostError> {
        let port = self.row(number)?.ok_or(HostError::NoSuchPort(number))?;
        Ok(match (port.state, port.local_bus_id) {
            (PortState::Free, _) => Progress::Gone,
            (PortState::Failed, _) => Progress::Failed,
            (PortState::Used, Some(bus_id)) => {
                if self.files.attribute(&bus_id, "bConfigurationValue").is_none() {
                    return Ok(Progress::Starting);
                }
                let descendants = self.files.descendants(&bus_id);
                Progress::Configured(appearance::summarize(bus_id, &descendants))
            }
            (PortState::Starting | PortState::Used, _) => Progress::Starting,
        })
    }
}

/// Reads a record: host, TCP port and bus id, separated by white space.
fn parse_record(text: &str) -> Option<Origin> {
    let mut words = text.split_whitespace();
    let (host, tcp_port, bus_id) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    Some(Origin { host: host.to_owned(), tcp_port, bus_id: bus_id.to_owned() })
}

#[cfg(test)]
mod tests;
