//! The options of a simulated Gadget Zero: `key=value` joined by colons.

use super::super::options::{OptionError, bad, number, pace, pairs};
use super::super::pace::Pace;
use super::Pattern;
use crate::usb::speed::Speed;

/// How a Gadget Zero is made. [`ZeroOptions::default`] is a high-speed device in real time.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroOptions {
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `pattern=0|1`.
    pub pattern: Pattern,
    /// `speed=low|full|high|super`.
    pub speed: Speed,
    /// `iso_maxpacket=`: bytes per service interval: 1 to 1023 (full), 3072 (high), 49152 (super).
    pub iso_maxpacket: u16,
    /// `iso_interval=`: bInterval, 1 to 16: every 2^(n-1) (micro)frames.
    pub iso_interval: u8,
    /// `int_maxpacket=`: bytes per service interval: 1 to 8 (low), 64 (full), 3072 (high, super).
    pub int_maxpacket: u16,
    /// `int_interval=`: bInterval: 1 to 255 frames (full), 10 to 255 (low), else 1 to 16 as above.
    pub int_interval: u8,
    /// `serial=`: the serial number string.
    pub serial: String,
}

const KEYS: &str = "pace=real|demand|none|FACTOR, pattern=0|1, speed=low|full|high|super, \
    iso_maxpacket=BYTES, iso_interval=N, int_maxpacket=BYTES, int_interval=N, serial=TEXT";

impl Default for ZeroOptions {
    fn default() -> Self {
        Self {
            pace: Pace::REAL,
            pattern: Pattern::Zeros,
            speed: Speed::High,
            iso_maxpacket: 1024,
            iso_interval: 4,
            int_maxpacket: 1024,
            int_interval: 4,
            serial: "0123456789.0123456789.0123456789".to_owned(),
        }
    }
}

impl ZeroOptions {
    /// Reads `key=value:key=value`; the empty text is the default device.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        // The speed decides the defaults and bounds of the others, wherever it stands.
        let mut options = Self::default();
        for pair in pairs(text) {
            if let ("speed", value) = pair? {
                options = options.at(read_speed(value)?);
            }
        }
        for pair in pairs(text) {
            let (key, value) = pair?;
            options.set(key, value)?;
        }
        Ok(options)
    }

    /// The same device at another speed: sizes are cut to what that speed allows, intervals are
    /// those nearest to 1 ms.
    #[must_use]
    pub fn at(&self, speed: Speed) -> Self {
        let bounds = Bounds::of(speed);
        Self {
            speed,
            iso_maxpacket: self.iso_maxpacket.min(bounds.iso_maxpacket),
            iso_interval: bounds.default_iso_interval,
            int_maxpacket: self.int_maxpacket.min(bounds.int_maxpacket),
            int_interval: bounds.default_int_interval,
            ..self.clone()
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        let bounds = Bounds::of(self.speed);
        match key {
            "pace" => self.pace = pace(value)?,
            "pattern" => {
                self.pattern = match value {
                    "0" => Pattern::Zeros,
                    "1" => Pattern::Modulo63,
                    _ => return Err(bad(key, value, "must be 0 or 1")),
                }
            }
            "speed" => self.speed = read_speed(value)?,
            "iso_maxpacket" => {
                self.iso_maxpacket = number(key, value, 1, bounds.iso_maxpacket)?;
            }
            "iso_interval" => self.iso_interval = number(key, value, 1, 16)? as u8,
            "int_maxpacket" => {
                self.int_maxpacket = number(key, value, 1, bounds.int_maxpacket)?;
            }
            "int_interval" => {
                let (least, most) = bounds.int_intervals;
                self.int_interval = number(key, value, least, most)? as u8;
            }
            "serial" => self.serial = value.to_owned(),
            _ => return Err(OptionError::unknown(key, "zero", KEYS)),
        }
        Ok(())
    }
}

/// What a speed allows (USB 2.0 §5.6.3, §5.7.3, §5.7.4; USB 3.2 §9.6.6).
struct Bounds {
    iso_maxpacket: u16,
    int_maxpacket: u16,
    int_intervals: (u16, u16),
    default_iso_interval: u8,
    default_int_interval: u8,
}

impl Bounds {
    fn of(speed: Speed) -> Self {
        let (iso_maxpacket, int_maxpacket, int_intervals) = match speed {
            // No isochronous endpoints at low speed: the bound is never used.
            Speed::Low => (1, 8, (10, 255)),
            Speed::Unknown | Speed::Full => (1023, 64, (1, 255)),
            Speed::High | Speed::Wireless => (3072, 3072, (1, 16)),
            Speed::Super | Speed::SuperPlus => (48 * 1024, 3072, (1, 16)),
        };
        let (default_iso_interval, default_int_interval) = match speed {
            Speed::Low => (1, 10),
            Speed::Unknown | Speed::Full => (1, 1),
            _ => (4, 4),
        };
        Self {
            iso_maxpacket,
            int_maxpacket,
            int_intervals,
            default_iso_interval,
            default_int_interval,
        }
    }
}

fn read_speed(value: &str) -> Result<Speed, OptionError> {
    match value {
        "low" => Ok(Speed::Low),
        "full" => Ok(Speed::Full),
        "high" => Ok(Speed::High),
        "super" => Ok(Speed::Super),
        _ => Err(bad("speed", value, "must be low, full, high or super")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let options = ZeroOptions::parse("iso_maxpacket=1000:speed=full:pace=none").expect("fine");
        assert_eq!(options.speed, Speed::Full);
        assert_eq!(options.iso_maxpacket, 1000);
        assert_eq!(options.iso_interval, 1, "the default of full speed");
        assert_eq!(options.pace, Pace::None);
        assert_eq!(ZeroOptions::parse("").expect("empty"), ZeroOptions::default());
    }

    #[test]
    fn errors_name_the_key_and_the_rule() {
        let error = |text: &str| ZeroOptions::parse(text).expect_err(text).to_string();
        assert!(error("colour=red").contains("pattern=0|1"), "the keys are listed");
        assert_eq!(error("pattern=7"), "pattern=7: must be 0 or 1");
        assert!(error("speed=full:iso_maxpacket=1024").contains("1 to 1023"));
        assert!(error("speed=low:int_interval=1").contains("10 to 255"));
        assert!(error("pace").contains("key=value"));
        assert!(error("pace=quick").contains("factor"));
        assert!(error("speed=warp").contains("low, full, high or super"));
    }
}
