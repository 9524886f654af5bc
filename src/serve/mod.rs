//! The server: cores, the door, sessions, put together.

pub mod admin;
mod announce;
mod control;
mod core;
mod door;
mod exports;
mod farewell;
mod greeting;
mod inventory;
pub mod session;
pub mod table;
mod throttle;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use usbip_fast_native::backend::Options;
use usbip_fast_native::reactor::ReactorCounters;
use usbip_fast_native::{
    Handle, Reactor, affinity, clock, process, realtime, signal, socket, spool,
};

use crate::config::{ReactorChoice, ServeConfig};
use crate::device::Export;
use crate::device::gadget::simulate;
use crate::device::real;
use crate::error::Error;
use crate::ledger::Listed;
use crate::ledger::policy::Entry;
use crate::limits;
use crate::reactor::mailbox::{self, Receiver, Sender};
use crate::reactor::{select, turn};

use self::admin::Admin;
use self::core::{Core, CoreSetup, Message};
use self::door::Door;
use self::exports::Exports;
use self::inventory::{Inventory, Rules};
use self::watch::{Scanner, Watch};

/// Connections that may wait in a listener's queue.
const BACKLOG: u16 = 1024;

/// Descriptors for all connections and what else is open.
const DESCRIPTORS: u64 = 2 * limits::CONNECTIONS as u64;

/// Messages that may wait for a core: a new session or an ended one each.
const MAILBOX_MESSAGES: usize = 1024;

/// So many cores say at their end what they did, though the machine has fewer.
const LOGGED_CORES: usize = 8;

/// Runs a server until a signal stops it. Called once, by the command line, on the main thread,
/// which becomes core 0.
///
/// # Errors
///
/// What kept it from starting; everything begun is undone then. Or that devices were not given
/// back in time when it stopped.
pub fn run(config: &ServeConfig) -> Result<(), Error> {
    config.check()?;
    real::recover_in_background();
    let mut exports = Exports::default();
    add_simulated(&mut exports, &config.simulate)?;
    let rules = Rules {
        edits: kept_rules(config)?,
        typed: config.rules.clone(),
        file: config.file_rules.clone(),
    };
    let mut inventory = Inventory::new(&config.bus_ids, rules, config.force)
        .with_files(config.file.clone(), config.state.clone());
    check_named(config)?;
    let mut scanner = Scanner::default();
    if inventory.needs_devices() {
        inventory.set_present(scanner.look(config.force), &mut exports);
    }
    start(exports, inventory, scanner, config)
}

/// The rules that were made while an earlier server ran.
fn kept_rules(config: &ServeConfig) -> Result<Vec<Entry>, Error> {
    match &config.state {
        Some(path) if spool::exists(path) => watch::read_rules(path).map_err(Error::File),
        _ => Ok(Vec::new()),
    }
}

/// As [`run`], with devices of the caller's own instead of those that `config` names.
///
/// # Errors
///
/// As [`run`]; also when two of the devices have one bus id.
pub fn run_with(devices: Vec<Box<dyn Export>>, config: &ServeConfig) -> Result<(), Error> {
    config.check_listen()?;
    let mut exports = Exports::default();
    for device in devices {
        add_simulated_one(&mut exports, device)?;
    }
    start(exports, Inventory::default(), Scanner::default(), config)
}

fn start(
    mut exports: Exports,
    inventory: Inventory,
    scanner: Scanner,
    config: &ServeConfig,
) -> Result<(), Error> {
    if let Err(error) = process::raise_descriptor_limit(DESCRIPTORS) {
        tracing::warn!("the limit of open descriptors cannot be raised: {error}");
    }
    if config.realtime {
        take_realtime(config.cores)?;
    }
    exports.work_ahead(config);
    let listeners = listen(&config.listen)?;
    let bound: Vec<_> = listeners.iter().flat_map(socket::local_address).collect();
    let admin = admin::place::open(&config.admin, &bound)?.map(Admin::new);
    let signals = signal::Signals::catch()
        .map_err(|error| Error::Failed(format!("signals cannot be awaited: {error}")))?;
    let door = Door::new(listeners, signals, config, exports, inventory, admin);
    run_cores(config, door, scanner)
}

/// Shows before anything else is done whether the rights for `--realtime` are there.
fn take_realtime(cores: usize) -> Result<(), Error> {
    const GRANT: &str = "sudo setcap cap_sys_nice,cap_ipc_lock+ep $(command -v usbip-fast)";
    let refused = |what: &str, error| {
        Error::with_advice(format!("--realtime is refused: {what} ({error})"), GRANT)
    };
    let priority = limits::REALTIME_PRIORITY;
    realtime::run_first(priority).map_err(|error| {
        refused(&format!("SCHED_FIFO takes CAP_SYS_NICE, or ulimit -r {priority}"), error)
    })?;
    realtime::lock_memory(cores.saturating_mul(limits::ARENA_BYTES)).map_err(|error| {
        refused("locking memory takes CAP_IPC_LOCK, or ulimit -l unlimited", error)
    })
}

fn named_twice(bus_id: &str) -> Error {
    Error::Usage(format!("{bus_id} is named twice; name it once"))
}

/// The simulated devices that the command line names: `sim-1`, `sim-2` and so on.
fn add_simulated(exports: &mut Exports, simulate: &[String]) -> Result<(), Error> {
    let mut number: u8 = 0;
    for text in simulate {
        for spec in simulate::parse(text).map_err(|error| Error::Usage(error.to_string()))? {
            number = number.checked_add(1).ok_or_else(|| {
                Error::Usage("at most 255 simulated devices; name fewer".to_owned())
            })?;
            add_simulated_one(exports, spec.export(number))?;
        }
    }
    Ok(())
}

fn add_simulated_one(exports: &mut Exports, export: Box<dyn Export>) -> Result<(), Error> {
    let description = export.describe().clone();
    let (vendor, product) = (description.vendor, description.product);
    tracing::info!(
        "exporting {}: {vendor:04x}:{product:04x} {}",
        description.bus_id,
        description.product_name
    );
    if exports.ledger().get(&description.bus_id).is_some() {
        return Err(named_twice(&description.bus_id));
    }
    exports.plug(Listed::simulated(description), export);
    Ok(())
}

/// Refuses bus ids of the command line that make no sense, or whose device is in use here.
fn check_named(config: &ServeConfig) -> Result<(), Error> {
    let needs_rights = !config.bus_ids.is_empty() || !config.rules.is_empty();
    if needs_rights && !process::is_superuser() {
        // A rule of udev may allow it all the same, so this is no reason to end.
        tracing::warn!(
            "not root: if devices cannot be taken when they are asked for, type the command again \
             behind sudo"
        );
    }
    for (index, bus_id) in config.bus_ids.iter().enumerate() {
        if config.bus_ids[..index].contains(bus_id) {
            return Err(named_twice(bus_id));
        }
        if real::presence(bus_id).is_none() {
            tracing::warn!("{bus_id} is not there; it is exported when it comes");
        } else {
            real::export(bus_id, config.force).map_err(Error::Failed)?;
        }
    }
    Ok(())
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<Handle>, Error> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = socket::listen(address, BACKLOG)
            .map_err(|error| cannot_listen(address, &error.into()))?;
        let bound = socket::local_address(&listener).unwrap_or(address);
        tracing::info!("listening at {bound}");
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Why there is no listener at `address`, and what to type.
pub(crate) fn cannot_listen(address: SocketAddr, error: &io::Error) -> Error {
    let port = address.port();
    let (cause, advice) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "another program listens there".to_owned(),
            format!("ss -ltnp sport = :{port}, or choose another port with -t PORT"),
        ),
        io::ErrorKind::AddrNotAvailable => {
            ("this machine has no such address".to_owned(), "ip address".to_owned())
        }
        io::ErrorKind::PermissionDenied => (
            format!("port {port} is for root"),
            "the command again behind sudo, or choose a port above 1023 with -t PORT".to_owned(),
        ),
        _ => (error.to_string(), "ip address".to_owned()),
    };
    Error::with_advice(format!("cannot listen at {address}: {cause}"), &advice)
}

/// Brings up one thread per further core, then runs core 0 here.
fn run_cores(config: &ServeConfig, mut door: Door, scanner: Scanner) -> Result<(), Error> {
    let here = affinity::cores();
    if config.cores > here {
        tracing::warn!("{} cores are asked for and this machine has {here} to use", config.cores);
    }
    let mut reactor = open_reactor(0, config)?;
    let (own_mail, mail) = mailbox::channel(MAILBOX_MESSAGES, reactor.doorbell());
    door.inventory.watch_by(Watch::start(scanner, config.force, own_mail.clone())?);
    let mut senders = vec![own_mail];
    let mut others = Vec::new();
    for index in 1..config.cores {
        let (sender, other) = start_core(index, config)?;
        senders.push(sender);
        others.push(other);
    }
    for other in &others {
        // A core that is gone already shows when it is joined.
        let _ = other.peers.send(senders.clone());
    }
    let index = 0;
    let result = run_core(index, config, &mut *reactor, mail, senders, Some(door));
    if result.is_ok() {
        for other in others {
            other.thread.join().map_err(|_| Error::Failed("a core has failed".to_owned()))?;
        }
    }
    result
}

/// A core on a thread of its own that waits for the mailboxes of the others.
struct OtherCore {
    peers: mpsc::Sender<Vec<Sender<Message>>>,
    thread: JoinHandle<()>,
}

/// Starts the thread of a core; its reactor is made there, because it belongs to that thread.
fn start_core(index: usize, config: &ServeConfig) -> Result<(Sender<Message>, OtherCore), Error> {
    let (ready, made) = mpsc::channel();
    let (peers, wait_for_peers) = mpsc::channel();
    let config = config.clone();
    let body = move || {
        let opened = open_reactor(index, &config).map(|reactor| {
            let (sender, mail) = mailbox::channel(MAILBOX_MESSAGES, reactor.doorbell());
            (reactor, sender, mail)
        });
        let (mut reactor, mail) = match opened {
            Ok((reactor, sender, mail)) => {
                if ready.send(Ok(sender)).is_err() {
                    return;
                }
                (reactor, mail)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        // The server gave up starting if nobody sends the peers.
        let Ok(senders) = wait_for_peers.recv() else { return };
        if let Err(error) = run_core(index, &config, &mut *reactor, mail, senders, None) {
            tracing::error!("core {index}: {error}");
        }
    };
    let thread = affinity::spawn(&format!("usbip-core-{index}"), body)
        .map_err(|error| Error::Failed(format!("core {index} cannot start: {error}")))?;
    let lost = |_| Error::Failed(format!("core {index} ended while starting"));
    let sender = made.recv().map_err(lost)??;
    Ok((sender, OtherCore { peers, thread }))
}

fn open_reactor(index: usize, config: &ServeConfig) -> Result<Box<dyn Reactor>, Error> {
    let options = Options { spin: config.busy_poll, ..Options::default() };
    let opened = select::open(config.reactor.into(), &options);
    let (reactor, selection) = opened.map_err(|error| match config.reactor {
        ReactorChoice::Auto => Error::Failed(error.to_string()),
        _ => Error::Failed(format!("{error}; or type: --reactor auto")),
    })?;
    if index == 0 {
        tracing::info!("reactor: {selection}");
    } else {
        tracing::debug!(core = index, "reactor: {selection}");
    }
    Ok(reactor)
}

impl From<ReactorChoice> for select::Choice {
    fn from(choice: ReactorChoice) -> Self {
        match choice {
            ReactorChoice::Auto => Self::Auto,
            ReactorChoice::IoUring => Self::IoUring,
            ReactorChoice::Epoll => Self::Epoll,
            ReactorChoice::Kqueue => Self::Kqueue,
        }
    }
}

fn run_core(
    index: usize,
    config: &ServeConfig,
    reactor: &mut dyn Reactor,
    mail: Receiver<Message>,
    cores: Vec<Sender<Message>>,
    door: Option<Door>,
) -> Result<(), Error> {
    // Cores that the machine does not have have been spoken of.
    if config.cores > 1 && index < affinity::cores() && !affinity::pin(index) {
        tracing::warn!("core {index} cannot be pinned and runs anywhere");
    }
    if config.realtime
        && let Err(error) = realtime::run_first(limits::REALTIME_PRIORITY)
    {
        tracing::warn!("core {index} runs without priority: {error}");
    }
    let doorbell = reactor.doorbell();
    let mut core = Core::new(CoreSetup { index, mail, cores, doorbell, door });
    turn::run(reactor, &mut core, clock::now);
    let ReactorCounters { system_calls, operations, turns } = reactor.counters();
    let messages = core.messages();
    if index < affinity::cores().max(LOGGED_CORES) {
        tracing::info!(core = index, system_calls, operations, turns, messages, "core stopped");
    } else {
        tracing::debug!(core = index, system_calls, operations, turns, messages, "core stopped");
    }
    if core.was_cut_short() {
        return Err(Error::Failed(
            "the server ended with devices not given back; see: usbip-fast list -l".to_owned(),
        ));
    }
    Ok(())
}
