//! Speeds of USB devices and their codes.

use std::fmt;

/// The signalling rate of a device, with its USB/IP code (kernel.md §1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Speed {
    /// Not known.
    Unknown = 0,
    /// 1.5 Mbit/s.
    Low = 1,
    /// 12 Mbit/s.
    Full = 2,
    /// 480 Mbit/s.
    High = 3,
    /// Wireless USB 2.5.
    Wireless = 4,
    /// 5 Gbit/s.
    Super = 5,
    /// 10 Gbit/s and above.
    SuperPlus = 6,
}

impl Speed {
    /// The speed of a USB/IP code, or `None` for a code that does not exist.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Unknown,
            1 => Self::Low,
            2 => Self::Full,
            3 => Self::High,
            4 => Self::Wireless,
            5 => Self::Super,
            6 => Self::SuperPlus,
            _ => return None,
        })
    }

    /// The USB/IP code.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The speed of a text in Mbit/s as the Linux file `speed` has it.
    #[must_use]
    pub fn from_sysfs(text: &str) -> Self {
        match text.trim() {
            "1.5" => Self::Low,
            "12" => Self::Full,
            "480" => Self::High,
            "5000" => Self::Super,
            "10000" | "20000" => Self::SuperPlus,
            _ => Self::Unknown,
        }
    }

    /// Whether the device hangs on a SuperSpeed root hub.
    #[must_use]
    pub const fn is_super(self) -> bool {
        matches!(self, Self::Super | Self::SuperPlus)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown speed",
            Self::Low => "1.5 Mbit/s",
            Self::Full => "12 Mbit/s",
            Self::High => "480 Mbit/s",
            Self::Wireless => "wireless",
            Self::Super => "5 Gbit/s",
            Self::SuperPlus => "10 Gbit/s or more",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=6 {
            assert_eq!(Speed::from_code(code).map(Speed::code), Some(code));
        }
        assert_eq!(Speed::from_code(7), None);
    }
}
