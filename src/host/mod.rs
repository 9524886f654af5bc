//! Where a client attaches: host controllers whose ports take imported devices.
//!
//! The calls here wait, for a driver's mutex or for `modprobe`: they are made by commands and by
//! helper threads, never by a reactor.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use crate::usb::speed::Speed;

#[cfg(all(test, target_os = "linux"))]
mod contract;
pub mod userspace;
#[cfg(target_os = "linux")]
pub mod vhci;

/// A host controller of this machine that takes devices over a connection.
pub trait HostController {
    /// All ports, free ones too, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// When the controller's driver is missing or cannot be asked.
    fn ports(&self) -> Result<Vec<Port>, HostError>;

    /// Whether this process may attach at all: to be asked before a server is asked to take a
    /// device away from its own drivers for us.
    ///
    /// # Errors
    ///
    /// [`HostError::RightsMissing`].
    fn check_rights(&self) -> Result<(), HostError>;

    /// Gives a device to a free port, or to exactly `wanted`, and returns the port's number. From
    /// then on the connection belongs to the port; it ends with it, and the port with it.
    ///
    /// The connection has been through the import and not one byte beyond it was read. Call
    /// [`progress`](HostController::progress) from time to time to see what becomes of the device.
    ///
    /// # Errors
    ///
    /// When there is no such port or none is free, rights are missing or the driver refuses. The
    /// connection is closed then.
    fn attach(
        &mut self,
        connection: OwnedFd,
        device: &ImportedDevice,
        wanted: Option<u32>,
    ) -> Result<u32, HostError>;

    /// Takes the device off a port; its connection ends.
    ///
    /// # Errors
    ///
    /// When nothing is attached there or rights are missing.
    fn detach(&mut self, port: u32) -> Result<(), HostError>;

    /// What has become of the device of a port that was attached.
    ///
    /// # Errors
    ///
    /// When the controller's driver cannot be asked.
    fn progress(&self, port: u32) -> Result<Progress, HostError>;
}

/// The host controller of this system that takes imported devices, its driver loaded if need be
/// and if this process may.
///
/// # Errors
///
/// When there is none, with what to do about it.
#[cfg(target_os = "linux")]
pub fn system() -> Result<Box<dyn HostController>, HostError> {
    Ok(Box::new(vhci::Vhci::open(usbip_fast_native::linux::vhci::Files::system())?))
}

/// The host controller of this system that takes imported devices.
///
/// # Errors
///
/// Always: this system has none that is known.
#[cfg(not(target_os = "linux"))]
pub fn system() -> Result<Box<dyn HostController>, HostError> {
    Err(HostError::Unsupported)
}

/// A device after a successful import, as a port needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedDevice {
    /// `busnum << 16 | devnum` at the server.
    pub device_id: u32,
    /// Signalling rate at the server.
    pub speed: Speed,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where the device of a port comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Server, as the user wrote it.
    pub host: String,
    /// TCP port of the server.
    pub tcp_port: u16,
    /// Bus id at the server.
    pub bus_id: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.host, self.tcp_port, self.bus_id)
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Number, unique over all controllers.
    pub number: u32,
    /// Controller it belongs to.
    pub controller: u32,
    /// Root hub it belongs to.
    pub hub: Hub,
    /// Where the port is in its life.
    pub state: PortState,
    /// Speed of the attached device.
    pub speed: Speed,
    /// `busnum << 16 | devnum` at the server; 0 when free.
    pub device_id: u32,
    /// Bus id of the device on this machine, once it has one.
    pub local_bus_id: Option<String>,
    /// Where the device comes from, if somebody noted it.
    pub origin: Option<Origin>,
}

/// The kind of root hub a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hub {
    /// USB 2: low, full and high speed.
    High,
    /// USB 3.
    Super,
    /// An old driver's only hub.
    Only,
}

impl Hub {
    /// Whether a device of `speed` belongs on this hub.
    #[must_use]
    pub const fn takes(self, speed: Speed) -> bool {
        match self {
            Self::High => !speed.is_super(),
            Self::Super => speed.is_super(),
            Self::Only => true,
        }
    }
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::High => "high-speed",
            Self::Super => "SuperSpeed",
            Self::Only => "USB",
        })
    }
}

/// Life of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Nothing is attached.
    Free,
    /// Attached; the device has no address yet.
    Starting,
    /// The device has an address.
    Used,
    /// The connection broke or the peer broke the rules.
    Failed,
}

/// What has become of an attached device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The system is still talking to it.
    Starting,
    /// It is configured.
    Configured(Appearance),
    /// The port is free again: the connection ended.
    Gone,
    /// The port is in its error state.
    Failed,
}

/// How a configured device shows up on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appearance {
    /// Its bus id here.
    pub bus_id: String,
    /// What a user can open or name: `/dev/ttyACM0`, `/dev/sda`, `card1`, `eth1`.
    pub names: Vec<String>,
    /// Drivers bound to its interfaces, each once.
    pub drivers: Vec<String>,
    /// Interfaces without a driver.
    pub driverless: usize,
    /// Whether each driver has made what is expected of it; if not, waiting may show more.
    pub complete: bool,
}

/// Why a host controller could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The driver is not loaded.
    #[error("the kernel module vhci_hcd is not loaded ({0}); type: sudo modprobe vhci-hcd")]
    DriverMissing(&'static str),
    /// The driver is not loaded and loading it failed.
    #[error("the kernel module vhci_hcd cannot be loaded ({0}); type: usbip-fast doctor")]
    DriverUnavailable(String),
    /// All ports that fit are taken.
    #[error("no {hub} port is free, all {count} are taken; type: usbip-fast port, and detach one")]
    NoFreePort {
        /// The kind of hub that was needed.
        hub: Hub,
        /// How many ports of that kind there are.
        count: usize,
    },
    /// The user named a port that does not exist.
    #[error("there is no port {0}; type: usbip-fast port --all")]
    NoSuchPort(u32),
    /// Detaching a port that has nothing attached.
    #[error("nothing is attached to port {0}; type: usbip-fast port")]
    PortEmpty(u32),
    /// The user named a port that is in use.
    #[error("port {0} is taken; type: usbip-fast detach -p {0}, or leave --port away")]
    PortTaken(u32),
    /// The user named a port of the other kind of hub.
    #[error("port {port} is a {hub} port and the device runs at {speed}; leave --port away")]
    PortUnfit {
        /// The port named.
        port: u32,
        /// What it is.
        hub: Hub,
        /// What the device is.
        speed: Speed,
    },
    /// The driver refused without saying more.
    #[error("vhci_hcd refuses a device of {speed} on port {port} ({source}); type: dmesg | tail")]
    Refused {
        /// The port tried last.
        port: u32,
        /// The speed tried last.
        speed: Speed,
        /// What the write returned.
        source: io::Error,
    },
    /// Only root may.
    #[error("{0} needs root; type the command again behind sudo")]
    RightsMissing(&'static str),
    /// The server announced a speed that no port takes.
    #[error("the server does not say how fast the device is; plug it in again at the server")]
    SpeedUnknown,
    /// The system failed in a way that has no advice of its own.
    #[error("{doing} failed: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such driver for this system.
    #[error("attaching devices is only supported on Linux")]
    Unsupported,
}
