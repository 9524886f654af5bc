//! Importing a device from a server: the handshake, the hand-over to a host controller, and the
//! wait until the device is there. All of it blocks and is meant for commands and helper threads.

use std::fmt;
use std::io;
use std::time::Duration;

use usbip_fast_native::backend::Options;
use usbip_fast_native::client::{Connection, Family, pause};
use usbip_fast_native::{Handle, clock, socket};

use crate::host::userspace::{Client, ClientError};
use crate::host::{Appearance, HostController, HostError, ImportedDevice, Origin, Progress};
use crate::reactor::select::{self, Choice, SelectError};
use crate::wire::op::{self, ListProgress, Malformed, OpHeader, RemoteDevice};

/// A USB/IP server as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub tcp_port: u16,
    /// Which addresses of the name to use.
    pub family: Family,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{}", self.host, self.tcp_port)
        } else {
            write!(f, "{}:{}", self.host, self.tcp_port)
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the connection.
    pub connect: Duration,
    /// For a request to leave.
    pub request: Duration,
    /// For the whole reply. A server may have to take the device from its drivers first.
    pub reply: Duration,
    /// For the device to be configured by this system.
    pub configure: Duration,
    /// For nothing new to appear, once every driver has made what is expected of it.
    pub settle: Duration,
    /// For nothing new to appear, while a driver is missing or has not made what is expected.
    pub settle_incomplete: Duration,
    /// Between two looks at a port.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(5),
            reply: Duration::from_secs(30),
            configure: Duration::from_secs(20),
            settle: Duration::from_millis(200),
            settle_incomplete: Duration::from_secs(3),
            look: Duration::from_millis(50),
        }
    }
}

/// Why a device could not be imported, or a server not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The user's bus id cannot be one.
    #[error("{source}; type: usbip-fast list -r {}", .server.host)]
    BusId {
        /// Who would have been asked.
        server: Server,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The device was imported but does not say what it is.
    #[error("{server} gave {bus_id}, but {source}; type: usbip-fast list -r {}", .server.host)]
    Client {
        /// Who gave it.
        server: Server,
        /// What was asked for.
        bus_id: String,
        /// What is wrong.
        source: ClientError,
    },
    /// No connection.
    #[error("cannot reach {server}: {}", advice(.source, .server))]
    Connect {
        /// Who was called.
        server: Server,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke during the handshake.
    #[error("{server} ended the connection without a reply; type there: usbip-fast doctor")]
    Ended {
        /// Who ended it.
        server: Server,
    },
    /// The host controller's part failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The reply is not what the protocol says.
    #[error(
        "{server} does not answer as a USB/IP server: {source}; \
         type the TCP port of one: usbip-fast list -r {} -t PORT", .server.host
    )]
    Malformed {
        /// Who answered.
        server: Server,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The port is taken but the device never got ready.
    #[error(
        "port {port} is attached but the device was not configured within {} s; \
         type: usbip-fast detach -p {port}", .waited.as_secs()
    )]
    NotConfigured {
        /// The port.
        port: u32,
        /// How long it had.
        waited: Duration,
    },
    /// The connection ended while this system talked to the device.
    #[error("the device left port {port} before it was ready; type: dmesg | tail")]
    PortEnded {
        /// The port.
        port: u32,
    },
    /// This system has no reactor of the kind asked for.
    #[error("{0}; or type: --reactor auto")]
    Reactor(#[from] SelectError),
    /// The server says no.
    #[error("{server} refuses {bus_id}: {reason}; type: usbip-fast list -r {}", .server.host)]
    Refused {
        /// Who refuses.
        server: Server,
        /// What was asked for.
        bus_id: String,
        /// The status of the reply in words.
        reason: &'static str,
    },
    /// Nothing came in time.
    #[error(
        "{server} did not answer within {} ms; is its TCP port right? \
         type there: usbip-fast doctor",
        .waited.as_millis()
    )]
    Silent {
        /// Who is silent.
        server: Server,
        /// How long it had.
        waited: Duration,
    },
    /// The connection failed during the handshake.
    #[error("the connection to {server} failed: {source}; type: ping {}", .server.host)]
    Transport {
        /// The other end.
        server: Server,
        /// What the system said.
        source: io::Error,
    },
    /// The server gave another device than the one asked for.
    #[error("asked {server} for {asked} and it gave {given}; the device was not attached")]
    WrongDevice {
        /// Who gave it.
        server: Server,
        /// The bus id asked for.
        asked: String,
        /// The bus id in the reply.
        given: String,
    },
}

/// Asks a server what it exports.
///
/// # Errors
///
/// When the server cannot be reached, does not answer in time, or not as it should.
pub fn list(server: &Server, patience: &Patience) -> Result<Vec<RemoteDevice>, AttachError> {
    let mut call = Call::open(server, patience)?;
    call.ask(&op::request_devlist(), op::REP_DEVLIST)?;
    let mut body = Vec::new();
    loop {
        match op::devlist_progress(&body).map_err(|error| call.malformed(error))? {
            ListProgress::Complete(_) => break,
            ListProgress::More(missing) => {
                let had = body.len();
                body.resize(had + missing, 0);
                call.receive(&mut body[had..])?;
            }
        }
    }
    op::parse_devlist(&body).map_err(|error| call.malformed(error))
}

/// Refuses a text that can be no bus id, before anything else is done.
///
/// # Errors
///
/// [`AttachError::BusId`].
pub fn check_bus_id(server: &Server, bus_id: &str) -> Result<(), AttachError> {
    op::request_import(bus_id)
        .map(|_| ())
        .map_err(|source| AttachError::BusId { server: server.clone(), source })
}

/// Asks a server for a device. The connection that comes back carries URBs from now on; not one
/// byte beyond the reply was read.
///
/// # Errors
///
/// As for [`list`]; also when the server refuses or gives another device.
pub fn import(
    server: &Server,
    bus_id: &str,
    patience: &Patience,
) -> Result<(Connection, RemoteDevice), AttachError> {
    let request = op::request_import(bus_id)
        .map_err(|source| AttachError::BusId { server: server.clone(), source })?;
    let mut call = Call::open(server, patience)?;
    call.ask(&request, op::REP_IMPORT).map_err(|error| match error {
        AttachError::Malformed { source: Malformed::Refused(status), .. } => AttachError::Refused {
            server: server.clone(),
            bus_id: bus_id.to_owned(),
            reason: op::status_text(status),
        },
        other => other,
    })?;
    let mut record = [0; op::DEVICE_BYTES];
    call.receive(&mut record)?;
    let device = op::parse_device_record(&record).map_err(|error| call.malformed(error))?;
    if device.bus_id != bus_id {
        return Err(AttachError::WrongDevice {
            server: server.clone(),
            asked: bus_id.to_owned(),
            given: device.bus_id,
        });
    }
    Ok((call.connection, device))
}

/// Imports a device for this program itself, without a kernel in between.
///
/// # Errors
///
/// As for [`import`]; also when there is no reactor or the device cannot be asked what it is.
pub fn client(
    server: &Server,
    bus_id: &str,
    choice: Choice,
    patience: &Patience,
) -> Result<Client, AttachError> {
    let (reactor, _) = select::open(choice, &Options::default())?;
    let (connection, device) = import(server, bus_id, patience)?;
    let transport = |source| AttachError::Transport { server: server.clone(), source };
    let socket = Handle::new(connection.into_non_blocking().map_err(transport)?);
    socket::tune(&socket).map_err(|error| transport(error.into()))?;
    let device_id = device.device_id();
    Client::new(reactor, socket, device_id, device.speed, device.configuration).map_err(|source| {
        AttachError::Client { server: server.clone(), bus_id: bus_id.to_owned(), source }
    })
}

/// Imports a device and gives it to a port of `host`; returns the port. The device is on its way
/// then: see [`wait`].
///
/// # Errors
///
/// As for [`import`] and [`HostController::attach`].
pub fn attach(
    host: &mut dyn HostController,
    server: &Server,
    bus_id: &str,
    wanted: Option<u32>,
    patience: &Patience,
) -> Result<u32, AttachError> {
    host.check_rights()?;
    let (connection, device) = import(server, bus_id, patience)?;
    let imported = ImportedDevice {
        device_id: device.device_id(),
        speed: device.speed,
        origin: Origin {
            host: server.host.clone(),
            tcp_port: server.tcp_port,
            bus_id: bus_id.to_owned(),
        },
    };
    let socket = connection
        .into_socket()
        .map_err(|source| AttachError::Transport { server: server.clone(), source })?;
    Ok(host.attach(socket, &imported, wanted)?)
}

/// Waits until the device of `port` is configured and its drivers have made what they will make.
///
/// # Errors
///
/// When the port falls back before that, or the device is not configured in time.
pub fn wait(
    host: &dyn HostController,
    port: u32,
    patience: &Patience,
) -> Result<Appearance, AttachError> {
    let start = clock::now();
    let mut seen: Option<Appearance> = None;
    let mut changed_at = start;
    loop {
        let progress = host.progress(port)?;
        let now = clock::now();
        match progress {
            Progress::Gone | Progress::Failed => return Err(AttachError::PortEnded { port }),
            Progress::Starting if now.saturating_sub(start) >= patience.configure => {
                return Err(AttachError::NotConfigured { port, waited: patience.configure });
            }
            Progress::Starting => {}
            Progress::Configured(appearance) => {
                if seen.as_ref() != Some(&appearance) {
                    changed_at = now;
                }
                let enough =
                    if appearance.complete { patience.settle } else { patience.settle_incomplete };
                if now.saturating_sub(changed_at) >= enough {
                    return Ok(appearance);
                }
                seen = Some(appearance);
            }
        }
        pause(patience.look);
    }
}

/// One question to one server.
struct Call<'a> {
    connection: Connection,
    server: &'a Server,
    patience: &'a Patience,
    /// Set when the request has left.
    reply_deadline: Duration,
}

impl<'a> Call<'a> {
    fn open(server: &'a Server, patience: &'a Patience) -> Result<Self, AttachError> {
        let deadline = clock::now() + patience.connect;
        let connection =
            Connection::open(&server.host, server.tcp_port, server.family, deadline)
                .map_err(|source| AttachError::Connect { server: server.clone(), source })?;
        Ok(Self { connection, server, patience, reply_deadline: deadline })
    }

    /// Sends a request and reads the header of the reply to it.
    fn ask(&mut self, request: &[u8], reply_code: u16) -> Result<(), AttachError> {
        let deadline = clock::now() + self.patience.request;
        self.connection
            .send(request, deadline)
            .map_err(|error| self.transport(error, self.patience.request))?;
        self.reply_deadline = clock::now() + self.patience.reply;
        let mut header = [0; op::HEADER_BYTES];
        self.receive(&mut header)?;
        OpHeader::parse(header).check_reply(reply_code).map_err(|error| self.malformed(error))
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<(), AttachError> {
        self.connection
            .receive(buffer, self.reply_deadline)
            .map_err(|error| self.transport(error, self.patience.reply))
    }

    fn transport(&self, source: io::Error, waited: Duration) -> AttachError {
        let server = self.server.clone();
        match source.kind() {
            io::ErrorKind::TimedOut => AttachError::Silent { server, waited },
            // A server that dislikes a request closes, and what it did not read makes that a reset.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => AttachError::Ended { server },
            _ => AttachError::Transport { server, source },
        }
    }

    fn malformed(&self, source: Malformed) -> AttachError {
        AttachError::Malformed { server: self.server.clone(), source }
    }
}

/// What an error of connecting most likely means, and what to type.
fn advice(error: &io::Error, server: &Server) -> String {
    let here = matches!(server.host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]");
    match error.kind() {
        io::ErrorKind::ConnectionRefused if here => {
            format!("nothing listens there; type: usbip-fast serve -b BUSID --listen {server}")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "nothing listens there; type on that machine: usbip-fast serve -b BUSID --listen \
             0.0.0.0:{} --allow CIDR",
            server.tcp_port
        ),
        io::ErrorKind::TimedOut => {
            format!(
                "no answer; does a firewall drop TCP port {}? type: ping {}",
                server.tcp_port, server.host
            )
        }
        _ => format!("{error}; type: ping {}", server.host),
    }
}

#[cfg(test)]
mod tests;
