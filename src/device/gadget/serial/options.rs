//! The options of a simulated serial line: `key=value` joined by colons.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use usbip_fast_native::pty::Pty;

use super::super::options::{OptionError, bad, pace, pairs};
use super::super::pace::Pace;
use crate::usb::speed::Speed;

/// What is at the other end of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the host sends comes back.
    #[default]
    Echo,
    /// A pseudo-terminal of the server.
    Pty,
}

/// How a serial line is made. [`SerialOptions::default`] is an echo at high speed.
#[derive(Clone, Debug)]
pub struct SerialOptions {
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `speed=full|high|super`.
    pub speed: Speed,
    /// `mode=echo|pty`.
    pub mode: Mode,
    /// `serial=`: the serial number string.
    pub serial: Option<String>,
    /// Opened with the options, and given to the one device that is made of them.
    pty: Arc<Mutex<Option<Pty>>>,
}

const KEYS: &str = "mode=echo|pty, link=PATH, speed=full|high|super, serial=TEXT, \
    pace=real|demand|none|FACTOR";

impl Default for SerialOptions {
    fn default() -> Self {
        Self {
            pace: Pace::REAL,
            speed: Speed::High,
            mode: Mode::Echo,
            serial: None,
            pty: Arc::default(),
        }
    }
}

impl SerialOptions {
    /// Reads `key=value:key=value`; the empty text is the default device. Opens the
    /// pseudo-terminal, and says where it is in the log.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be; what the system says.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut link = None;
        for pair in pairs(text) {
            match pair? {
                ("link", value) => link = Some(value),
                (key, value) => options.set(key, value)?,
            }
        }
        match (options.mode, link) {
            (Mode::Echo, None) => {}
            (Mode::Echo, Some(link)) => return Err(bad("link", link, "needs mode=pty")),
            (Mode::Pty, link) => options.open(link)?,
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        match key {
            "pace" => self.pace = pace(value)?,
            "mode" => {
                self.mode = match value {
                    "echo" => Mode::Echo,
                    "pty" => Mode::Pty,
                    _ => return Err(bad(key, value, "must be echo or pty")),
                }
            }
            "speed" => {
                self.speed = match value {
                    "full" => Speed::Full,
                    "high" => Speed::High,
                    "super" => Speed::Super,
                    _ => return Err(bad(key, value, "must be full, high or super")),
                }
            }
            "serial" => self.serial = Some(value.to_owned()),
            _ => return Err(OptionError::unknown(key, "serial", KEYS)),
        }
        Ok(())
    }

    fn open(&mut self, link: Option<&str>) -> Result<(), OptionError> {
        let pty = Pty::open(link.map(Path::new)).map_err(|error| match link {
            Some(link) => bad("link", link, format!("cannot be made to lead to a pty: {error}")),
            None => bad("mode", "pty", format!("the system has none: {error}")),
        })?;
        tracing::info!(path = %pty.path().display(), link, "the serial line's other end");
        self.pty = Arc::new(Mutex::new(Some(pty)));
        Ok(())
    }

    /// The pseudo-terminal, for the first that asks.
    pub(super) fn take_pty(&self) -> Option<Pty> {
        self.pty.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
