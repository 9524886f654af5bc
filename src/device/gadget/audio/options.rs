//! The options that both devices have: `key=value` joined by colons.

use super::super::options::{OptionError, bad, number, pace, pairs};
use super::super::pace::Pace;
use super::format::{AudioClass, AudioFormat, RATES, most_bytes};
use super::wav::WavFormat;
use crate::usb::speed::Speed;

/// How a simulated sound device is made, apart from what it records or plays.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioOptions {
    /// `class=uac1|uac2`, `speed=full|high`, `rate=44100|48000|96000`, `bits=16|24`,
    /// `channels=1` to `8`.
    ///
    /// Without `rate` the device has every frequency that fits into its packets and stands at
    /// 48 kHz until the host chooses one; with `rate` it has that one alone. Without `speed` a
    /// class 2 device is a high-speed one, a class 1 device a full-speed one.
    pub format: AudioFormat,
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `serial=`: the serial number string.
    pub serial: String,
}

/// What the text says; what it leaves open is decided when all of it is known.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    class: AudioClass,
    speed: Option<Speed>,
    rate: Option<u32>,
    bits: Option<u8>,
    channels: Option<u8>,
    pace: Pace,
    serial: String,
}

/// The keys above, for the errors of both devices.
macro_rules! common_keys {
    () => {
        "class=uac1|uac2, rate=44100|48000|96000, bits=16|24, channels=1..8, speed=full|high, \
         pace=real|demand|none|FACTOR, serial=TEXT"
    };
}
pub(super) use common_keys;

impl Wishes {
    /// Reads the common keys, and hands each other one to `other`, which says whether it knows it.
    pub(super) fn parse(
        text: &str,
        device: &'static str,
        keys: &'static str,
        mut other: impl FnMut(&str, &str) -> Result<bool, OptionError>,
    ) -> Result<Self, OptionError> {
        let mut wishes = Self {
            class: AudioClass::Uac2,
            speed: None,
            rate: None,
            bits: None,
            channels: None,
            pace: Pace::REAL,
            serial: "1".to_owned(),
        };
        for pair in pairs(text) {
            let (key, value) = pair?;
            if !wishes.set(key, value)? && !other(key, value)? {
                return Err(OptionError::unknown(key, device, keys));
            }
        }
        Ok(wishes)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<bool, OptionError> {
        match key {
            "class" => {
                self.class = match value {
                    "uac1" => AudioClass::Uac1,
                    "uac2" => AudioClass::Uac2,
                    _ => return Err(bad(key, value, "must be uac1 or uac2")),
                }
            }
            "speed" => {
                self.speed = match value {
                    "full" => Some(Speed::Full),
                    "high" => Some(Speed::High),
                    _ => return Err(bad(key, value, "must be full or high")),
                }
            }
            "rate" => {
                let known = RATES.into_iter().find(|rate| rate.to_string() == value);
                let rule = "must be 44100, 48000 or 96000";
                self.rate = Some(known.ok_or_else(|| bad(key, value, rule))?);
            }
            "bits" => {
                self.bits = match value {
                    "16" => Some(16),
                    "24" => Some(24),
                    _ => return Err(bad(key, value, "must be 16 or 24")),
                }
            }
            "channels" => self.channels = Some(number(key, value, 1, 8)?),
            "pace" => self.pace = pace(value)?,
            "serial" => self.serial = value.to_owned(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes format and rate of a file where the text does not say them.
    ///
    /// # Errors
    ///
    /// Where the text says something else than the file, or no device can have the file's format.
    pub(super) fn adopt(&mut self, file: &str, found: WavFormat) -> Result<(), OptionError> {
        let refuse = |what: String| Err(bad("file", file, what));
        let channels = u8::try_from(found.channels).ok().filter(|count| (1..=8).contains(count));
        let (Some(channels), true) = (channels, RATES.contains(&found.rate)) else {
            let WavFormat { rate, channels, .. } = found;
            return refuse(format!(
                "has {channels} channels at {rate} Hz; must have 1 to 8 at 44100, 48000 or 96000"
            ));
        };
        let bits = found.bits as u8;
        let differs = [
            ("rate", self.rate.is_some_and(|rate| rate != found.rate)),
            ("bits", self.bits.is_some_and(|wished| wished != bits)),
            ("channels", self.channels.is_some_and(|wished| wished != channels)),
        ];
        if let Some((key, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return refuse(format!("has another {key} than is asked for; leave {key} out"));
        }
        (self.rate, self.bits, self.channels) = (Some(found.rate), Some(bits), Some(channels));
        Ok(())
    }

    /// Decides what was left open.
    ///
    /// # Errors
    ///
    /// Where the packets of the speed are too small for the stream.
    pub(super) fn decide(self) -> Result<AudioOptions, OptionError> {
        let Self { class, speed, rate, bits, channels, pace, serial } = self;
        let usual = if class == AudioClass::Uac1 { Speed::Full } else { Speed::High };
        let rates = rate.map_or_else(|| RATES.to_vec(), |rate| vec![rate]);
        let format = AudioFormat {
            class,
            speed: speed.unwrap_or(usual),
            bits: bits.unwrap_or(16),
            channels: channels.unwrap_or(2),
            rates,
            rate: rate.unwrap_or(48_000),
        };
        let (bits, channels) = (format.bits, format.channels);
        let fitting = format.at(format.speed).ok_or_else(|| {
            let rule = format!(
                "{channels} channels of {bits} bits at {} Hz do not fit into packets of {} bytes; \
                 take fewer channels, fewer bits, a lower rate, or speed=high",
                rate.unwrap_or(RATES[0]),
                most_bytes(format.speed),
            );
            bad("speed", "full", rule)
        })?;
        Ok(AudioOptions { format: fitting, pace, serial })
    }
}
