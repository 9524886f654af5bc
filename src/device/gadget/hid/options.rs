//! The options of a simulated keyboard or mouse: `key=value` joined by colons.

use std::marker::PhantomData;
use std::path::Path;

use usbip_fast_native::feed;

use super::super::options::{OptionError, bad, number, pace, pairs};
use super::super::pace::Pace;
use super::program::{Program, Source, check};
use super::{Keyboard, Kind, Mouse};
use crate::limits;
use crate::usb::speed::Speed;

/// How a keyboard or mouse is made, at full speed unless told otherwise.
#[derive(Clone, Debug)]
pub struct HidOptions<K> {
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `speed=full|high`.
    pub speed: Speed,
    /// `serial=`: the serial number string.
    pub serial: Option<String>,
    /// `start=scroll`: the program begins when the host lights Scroll Lock.
    pub(super) starts_by_light: bool,
    source: Source,
    kind: PhantomData<K>,
}

/// How a keyboard is made. It types nothing unless it is told what.
pub type KeyboardOptions = HidOptions<Keyboard>;

/// How a mouse is made. It moves in a small circle unless it is told otherwise.
pub type MouseOptions = HidOptions<Mouse>;

const KEYBOARD_KEYS: &str = "type=TEXT, script=FILE, input=stdin, count=REPORTS, \
    start=poll|scroll, speed=full|high, serial=TEXT, pace=real|demand|none|FACTOR";

const MOUSE_KEYS: &str = "move=circle|none, count=REPORTS, script=FILE, input=stdin, \
    speed=full|high, serial=TEXT, pace=real|demand|none|FACTOR";

impl KeyboardOptions {
    /// Reads `key=value:key=value`; the empty text is the default device. Reads the script.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be; the line of a script too.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::new(Source::Rest);
        for pair in pairs(text) {
            match pair? {
                (key @ "type", value) => {
                    let script = format!("type {value}\n");
                    options.set_script(key, value, &script)?;
                }
                (key @ "start", value) => {
                    options.starts_by_light = match value {
                        "poll" => false,
                        "scroll" => true,
                        _ => return Err(bad(key, value, "must be poll or scroll")),
                    }
                }
                (key, value) => options.set(key, value, KEYBOARD_KEYS)?,
            }
        }
        Ok(options)
    }
}

impl MouseOptions {
    /// As [`KeyboardOptions::parse`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::new(Source::Pattern(None));
        for pair in pairs(text) {
            match pair? {
                ("move", "circle") => options.source = Source::Pattern(None),
                ("move", "none") => options.source = Source::Rest,
                (key @ "move", value) => return Err(bad(key, value, "must be circle or none")),
                (key, value) => options.set(key, value, MOUSE_KEYS)?,
            }
        }
        Ok(options)
    }
}

impl<K: Kind> HidOptions<K> {
    fn new(source: Source) -> Self {
        Self {
            pace: Pace::REAL,
            speed: Speed::Full,
            serial: None,
            starts_by_light: false,
            source,
            kind: PhantomData,
        }
    }

    /// What it is told to do; the last one named counts.
    pub(super) fn program(&self) -> Program<K> {
        Program::new(self.source.clone())
    }

    fn set(&mut self, key: &str, value: &str, keys: &'static str) -> Result<(), OptionError> {
        match key {
            "pace" => self.pace = pace(value)?,
            "speed" => {
                self.speed = match value {
                    "full" => Speed::Full,
                    "high" => Speed::High,
                    _ => return Err(bad(key, value, "must be full or high")),
                }
            }
            "serial" => self.serial = Some(value.to_owned()),
            "count" => self.source = Source::Pattern(Some(number(key, value, 1, u64::MAX)?)),
            "input" if value == "stdin" => self.source = Source::Stdin,
            "input" => return Err(bad(key, value, "must be stdin")),
            "script" => {
                let text = feed::read_file(Path::new(value), limits::SCRIPT_BYTES)
                    .map_err(|error| bad(key, value, format!("cannot be read: {error}")))?;
                self.set_script(key, value, &text)?;
            }
            _ => return Err(OptionError::unknown(key, K::NAME, keys)),
        }
        Ok(())
    }

    fn set_script(&mut self, key: &str, value: &str, text: &str) -> Result<(), OptionError> {
        check(text, PhantomData::<K>).map_err(|error| bad(key, value, error))?;
        self.source = Source::Script(text.into());
        Ok(())
    }
}
