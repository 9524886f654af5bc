//! The options of a simulated camera: `key=value` joined by colons.

use super::super::options::{OptionError, bad, number, pace, pairs};
use super::super::pace::Pace;
use super::modes::{Format, Modes};
use super::picture::Size;
use crate::usb::speed::Speed;

/// How a camera is made. [`CameraOptions::default`] is a high-speed device in real time that sends
/// 640 × 480 pixels 30 times a second through an isochronous endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraOptions {
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `size=WIDTHxHEIGHT`: the default size, beside 640x480, 320x240 and 1280x720.
    pub size: Size,
    /// `fps=`: the default rate in frames a second, 1 to 240, where the bus carries it.
    pub fps: u16,
    /// `format=yuy2|mjpeg`: the only format; both without it.
    pub format: Option<Format>,
    /// `speed=high|super`.
    pub speed: Speed,
    /// `transfer=iso|bulk`.
    pub transport: Transport,
    /// `serial=`: the serial number string.
    pub serial: String,
}

/// Type of the endpoint that the pictures come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Isochronous, with one alternate setting for each bandwidth.
    Isochronous,
    /// Bulk, in the only alternate setting.
    Bulk,
}

const KEYS: &str = "pace=real|demand|none|FACTOR, size=WIDTHxHEIGHT, fps=N, format=yuy2|mjpeg, \
    speed=high|super, transfer=iso|bulk, serial=TEXT";

impl Default for CameraOptions {
    fn default() -> Self {
        Self {
            pace: Pace::REAL,
            size: Size { width: 640, height: 480 },
            fps: 30,
            format: None,
            speed: Speed::High,
            transport: Transport::Isochronous,
            serial: "camera-1".to_owned(),
        }
    }
}

impl CameraOptions {
    /// Reads `key=value:key=value`; the empty text is the default camera.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be; a rate that no format reaches at
    /// the default size is wrong.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut wanted_fps = None;
        for pair in pairs(text) {
            let (key, value) = pair?;
            options.set(key, value)?;
            if key == "fps" {
                wanted_fps = Some(value);
            }
        }
        match wanted_fps {
            Some(value) => options.check_rate(value).map(|()| options),
            None => Ok(options),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        match key {
            "pace" => self.pace = pace(value)?,
            "size" => {
                self.size = value.parse().map_err(|rule| bad(key, value, format!("{rule}")))?;
            }
            "fps" => self.fps = number(key, value, 1, 240)?,
            "format" => {
                self.format = Some(match value {
                    "yuy2" => Format::Yuy2,
                    "mjpeg" => Format::Mjpeg,
                    _ => return Err(bad(key, value, "must be yuy2 or mjpeg")),
                });
            }
            "speed" => {
                self.speed = match value {
                    "high" => Speed::High,
                    "super" => Speed::Super,
                    _ => return Err(bad(key, value, "must be high or super")),
                };
            }
            "transfer" => {
                self.transport = match value {
                    "iso" => Transport::Isochronous,
                    "bulk" => Transport::Bulk,
                    _ => return Err(bad(key, value, "must be iso or bulk")),
                };
            }
            "serial" => self.serial = value.to_owned(),
            _ => return Err(OptionError::unknown(key, "camera", KEYS)),
        }
        Ok(())
    }

    fn check_rate(&self, value: &str) -> Result<(), OptionError> {
        let modes = Modes::new(self);
        let defaults = modes.formats.iter().map(|modes| &modes.frames[0]);
        let fastest = defaults.map(|frame| 10_000_000 / frame.intervals[0]).max();
        let fastest = fastest.expect("there is a format");
        if fastest >= u32::from(self.fps) {
            return Ok(());
        }
        let rule = format!("at {} and this speed at most {fastest} fit the bus", self.size);
        Err(bad("fps", value, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let text = "fps=60:transfer=bulk:size=1280x720:speed=super:format=yuy2:pace=demand";
        let options = CameraOptions::parse(text).expect("fine");
        assert_eq!(options.size, Size { width: 1280, height: 720 });
        assert_eq!((options.fps, options.transport), (60, Transport::Bulk));
        assert_eq!((options.speed, options.format), (Speed::Super, Some(Format::Yuy2)));
        assert_eq!(CameraOptions::parse("").expect("empty"), CameraOptions::default());
    }

    #[test]
    fn errors_name_the_key_and_the_rule() {
        let error = |text: &str| CameraOptions::parse(text).expect_err(text).to_string();
        assert!(error("colour=red").contains("format=yuy2|mjpeg"), "the keys are listed");
        assert!(error("size=640x481").contains("multiple of"));
        assert!(error("fps=0").contains("1 to 240"));
        assert_eq!(error("format=h264"), "format=h264: must be yuy2 or mjpeg");
        assert!(error("speed=full").contains("high or super"));
        assert!(error("transfer=interrupt").contains("iso or bulk"));
        let error = error("format=yuy2:size=1280x720:fps=30");
        assert_eq!(error, "fps=30: at 1280x720 and this speed at most 10 fit the bus");
    }
}
