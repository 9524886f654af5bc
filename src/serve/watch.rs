//! Devices of this machine come and go: looks at them when the kernel says so.
//!
//! Reading about a device may wait for its lock, so a thread of its own does it, never a reactor.
//! It does the little file work of a running server too: reading the rules again, and writing
//! those that were made meanwhile. What it finds goes to core 0, which decides.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use usbip_fast_native::{Handle, affinity, client, feed, socket, spool};

use crate::config::file::{ConfigFile, policy_text};
use crate::device::real;
use crate::error::Error;
use crate::hotplug::{self, Source, Woken};
use crate::ledger::policy::Entry;
use crate::limits;
use crate::reactor::mailbox::Sender;
use crate::serve::core::Message;
use crate::usb::identity::DeviceDescription;

/// Events come in bunches: a device that is plugged in makes a dozen.
const COALESCE: Duration = Duration::from_millis(100);

/// How often to look though the kernel has said nothing.
const SAFETY_INTERVAL: Duration = Duration::from_secs(30);

/// How often to look while a device is in use here: nobody tells when it no longer is.
const IN_USE_INTERVAL: Duration = Duration::from_secs(5);

/// How often to look where the kernel's word cannot be had.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A device that is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub description: DeviceDescription,
    /// Why it should not be taken, for people; begins with a verb.
    pub in_use: Option<String>,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Command {
    /// Look at the devices from now on.
    Look,
    /// Read the rules of this file.
    Reload(PathBuf),
    /// Write these rules to this file.
    Save(PathBuf, Vec<Entry>),
}

/// Where devices are looked for: this machine, or a script in tests.
trait Bus {
    fn bus_ids(&self) -> Vec<String>;
    /// Differs after each plugging-in; `None` if there is nothing. Never waits.
    fn presence(&self, bus_id: &str) -> Option<String>;
    /// May wait.
    fn describe(&self, bus_id: &str) -> Option<DeviceDescription>;
    /// Why it should not be taken.
    fn in_use(&self, bus_id: &str) -> Option<String>;
}

/// The devices of this machine; with `force` none of them is ever in use.
struct Machine {
    force: bool,
}

impl Bus for Machine {
    fn bus_ids(&self) -> Vec<String> {
        real::bus_ids()
    }

    fn presence(&self, bus_id: &str) -> Option<String> {
        real::presence(bus_id)
    }

    fn describe(&self, bus_id: &str) -> Option<DeviceDescription> {
        real::describe(bus_id)
    }

    fn in_use(&self, bus_id: &str) -> Option<String> {
        if self.force { None } else { real::in_use(bus_id) }
    }
}

/// Remembers what was there at the last look.
#[derive(Default)]
pub struct Scanner {
    seen: BTreeMap<String, (String, Arc<Found>)>,
}

impl Scanner {
    /// What is there on this machine now.
    pub fn look(&mut self, force: bool) -> Vec<Arc<Found>> {
        self.scan(&Machine { force });
        self.all()
    }

    /// Looks, and says whether anything is otherwise than at the last look.
    fn scan(&mut self, bus: &impl Bus) -> bool {
        let mut last = std::mem::take(&mut self.seen);
        let mut changed = false;
        for bus_id in bus.bus_ids() {
            let Some(presence) = bus.presence(&bus_id) else { continue };
            let before = last.remove(&bus_id);
            // Described anew only when it is another or otherwise: strings take its lock.
            let known = before.filter(|(seen, _)| *seen == presence).map(|(_, found)| found);
            let in_use = bus.in_use(&bus_id);
            let found = match known {
                Some(found) if found.in_use == in_use => found,
                Some(found) => {
                    changed = true;
                    Arc::new(Found { description: found.description.clone(), in_use })
                }
                None => {
                    changed = true;
                    let Some(description) = bus.describe(&bus_id) else { continue };
                    Arc::new(Found { description, in_use })
                }
            };
            self.seen.insert(bus_id, (presence, found));
        }
        changed || !last.is_empty()
    }

    fn all(&self) -> Vec<Arc<Found>> {
        self.seen.values().map(|(_, found)| Arc::clone(found)).collect()
    }

    fn patience(&self) -> Duration {
        let is_in_use = self.seen.values().any(|(_, found)| found.in_use.is_some());
        if is_in_use { IN_USE_INTERVAL } else { SAFETY_INTERVAL }
    }
}

/// The thread's other end, on core 0. The thread ends when it is dropped.
pub struct Watch {
    /// `None` while it is dropped: the thread finds the end when it wakes.
    commands: Option<mpsc::Sender<Command>>,
    wake: Handle,
    thread: Option<JoinHandle<()>>,
    /// The thread was given something to write.
    writes: Cell<bool>,
}

impl Watch {
    /// Starts the thread. It looks at devices only after [`Command::Look`], with what `scanner`
    /// knows already.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread or socket.
    pub fn start(scanner: Scanner, force: bool, mail: Sender<Message>) -> Result<Self, Error> {
        let failed = |error| Error::Failed(format!("devices cannot be watched: {error}"));
        let (wake, woken) = socket::pair().map_err(|error| failed(error.into()))?;
        let woken = woken.into_owned().expect("a new socket has one owner");
        let (commands, told) = mpsc::channel();
        let body = move || {
            let mut watcher =
                Watcher { scanner, bus: Machine { force }, told, mail, unsent: false };
            watcher.idle(woken);
        };
        let thread = Some(affinity::spawn("usbip-watch", body).map_err(failed)?);
        Ok(Self { commands: Some(commands), wake, thread, writes: Cell::new(false) })
    }

    /// Gives the thread something to do, soon.
    pub fn tell(&self, command: Command) {
        if matches!(command, Command::Save(..)) {
            self.writes.set(true);
        }
        let commands = self.commands.as_ref().expect("there until it is dropped");
        if commands.send(command).is_err() {
            tracing::error!("the thread that watches devices has ended");
        }
        socket::nudge(&self.wake);
    }
}

impl Drop for Watch {
    /// What was to be written is written. Else the thread may wait for a device, for which nobody
    /// should wait.
    fn drop(&mut self) {
        self.commands = None;
        socket::nudge(&self.wake);
        if let Some(thread) = self.thread.take().filter(|_| self.writes.get()) {
            // If it has failed its own message tells.
            let _ = thread.join();
        }
    }
}

/// The server is over.
struct Over;

/// The thread.
struct Watcher<B> {
    scanner: Scanner,
    bus: B,
    told: Receiver<Command>,
    mail: Sender<Message>,
    /// The last look has found a change that core 0 was not told of.
    unsent: bool,
}

impl<B: Bus> Watcher<B> {
    /// Until devices matter.
    fn idle(&mut self, wake: OwnedFd) {
        while let Ok(command) = self.told.recv() {
            if self.carry_out(command) {
                return match hotplug::open(wake) {
                    Ok(mut source) => self.listen(&mut *source),
                    Err(error) => {
                        tracing::warn!(
                            "the kernel does not tell of devices that come and go ({error}); they \
                             are looked at twice a second"
                        );
                        self.poll();
                    }
                };
            }
        }
    }

    fn listen(&mut self, source: &mut dyn Source) {
        // What has happened before the source was open has to be found.
        let mut woken = Woken::Changed;
        loop {
            match woken {
                Woken::Changed => {
                    client::pause(COALESCE);
                    // What has come meanwhile is seen by the look that follows.
                    let _ = source.wait(Duration::ZERO);
                    self.look();
                }
                Woken::TimeOver => self.look(),
                Woken::Told => {}
            }
            // A wait of no length may have taken a nudge, so this is asked for every time.
            if self.take_orders().is_err() {
                return;
            }
            let patience = if self.unsent { POLL_INTERVAL } else { self.scanner.patience() };
            woken = source.wait(patience);
        }
    }

    fn poll(&mut self) {
        loop {
            self.look();
            match self.told.recv_timeout(POLL_INTERVAL) {
                Ok(command) => _ = self.carry_out(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take_orders(&mut self) -> Result<(), Over> {
        loop {
            match self.told.try_recv() {
                Ok(command) => _ = self.carry_out(command),
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::TryRecvError::Disconnected) => return Err(Over),
            }
        }
    }

    fn look(&mut self) {
        self.unsent |= self.scanner.scan(&self.bus);
        if self.unsent {
            // A full mailbox is tried again at the next look.
            let sent = self.mail.try_send(Message::Present(self.scanner.all()));
            self.unsent = sent.is_err();
        }
    }

    /// Whether devices matter from now on.
    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Look => return true,
            Command::Reload(path) => {
                let message = Message::FileRules(read_rules(&path));
                if self.mail.try_send(message).is_err() {
                    tracing::error!("core 0 is behind; send SIGHUP again");
                }
            }
            Command::Save(path, entries) => {
                let text = format!("{HEAD}{}", policy_text(&entries));
                if let Err(error) = spool::replace(&path, text.as_bytes()) {
                    let path = path.display();
                    tracing::error!("the rules cannot be kept in {path}: {error}");
                }
            }
        }
        false
    }
}

/// Begins a file that the server writes.
const HEAD: &str = "# Written by usbip-fast; change it with: usbip-fast policy\n";

/// The rules of a file. May wait.
///
/// # Errors
///
/// For people: the file cannot be read, or what is wrong in it.
pub fn read_rules(path: &Path) -> Result<Vec<Entry>, String> {
    let name = path.display().to_string();
    let text = feed::read_file(path, limits::CONFIG_BYTES)
        .map_err(|error| format!("{name} cannot be read: {error}"))?;
    let file = ConfigFile::parse(&name, &text).map_err(|error| error.to_string())?;
    Ok(file.export)
}

#[cfg(test)]
mod tests;
