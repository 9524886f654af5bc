//! What the camera can send: formats, sizes and rates, as far as the bus carries them.

use super::jpeg;
use super::options::{CameraOptions, Transport};
use super::picture::Size;
use super::stream::HEADER_BYTES;
use crate::usb::speed::Speed;

/// Pixel format of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Uncompressed: Y0 Cb Y1 Cr, two bytes a pixel.
    Yuy2,
    /// Each frame is a JPEG.
    Mjpeg,
}

impl Format {
    /// Most bytes of a frame.
    #[must_use]
    pub fn frame_bytes(self, size: Size) -> usize {
        match self {
            Self::Yuy2 => size.yuy2_bytes(),
            Self::Mjpeg => jpeg::max_bytes(size),
        }
    }
}

/// All formats, in the order of bFormatIndex.
#[derive(Clone, Debug)]
pub(super) struct Modes {
    pub(super) formats: Vec<FormatModes>,
    bus: Bus,
}

/// One format and its sizes, in the order of bFrameIndex; the first is the default.
#[derive(Clone, Debug)]
pub(super) struct FormatModes {
    pub(super) format: Format,
    pub(super) frames: Vec<FrameModes>,
}

/// One size and its rates.
#[derive(Clone, Debug)]
pub(super) struct FrameModes {
    pub(super) size: Size,
    /// Most bytes of a frame.
    pub(super) frame_bytes: u32,
    /// Times between frames in units of 100 ns, shortest first; never empty.
    pub(super) intervals: Vec<u32>,
    pub(super) default_interval: u32,
}

/// The streaming endpoint and the bus it is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bus {
    pub(super) speed: Speed,
    pub(super) transport: Transport,
}

/// Sizes that are always there.
const SIZES: [Size; 3] = [
    Size { width: 640, height: 480 },
    Size { width: 320, height: 240 },
    Size { width: 1280, height: 720 },
];

/// Rates, in frames a second, that are there where they fit.
const RATES: [u32; 3] = [60, 30, 15];

/// Where none of those fits, the first of these that does.
const SLOW_RATES: [u32; 5] = [10, 5, 3, 2, 1];

/// Units of dwFrameInterval in a second.
const UNITS_PER_SECOND: u32 = 10_000_000;

/// Units of dwFrameInterval in a microframe.
const UNITS_PER_MICROFRAME: u32 = 1250;

/// Bytes of a bulk payload, its header included: a whole number of packets at every speed, and no
/// more than Linux reads with one URB.
const BULK_PAYLOAD_BYTES: u32 = 16 * 1024;

impl Modes {
    pub(super) fn new(options: &CameraOptions) -> Self {
        let bus = Bus { speed: options.speed, transport: options.transport };
        let mut sizes = vec![options.size];
        sizes.extend(SIZES.into_iter().filter(|size| *size != options.size));
        let formats = [Format::Yuy2, Format::Mjpeg];
        let wanted = formats.into_iter().filter(|x| options.format.is_none_or(|only| only == *x));
        let formats = wanted
            .map(|format| FormatModes {
                format,
                frames: sizes
                    .iter()
                    .map(|size| FrameModes::new(format, *size, options.fps, bus))
                    .collect(),
            })
            .collect();
        Self { formats, bus }
    }

    /// The mode of these bFormatIndex and bFrameIndex, which count from 1.
    pub(super) fn find(&self, format: u8, frame: u8) -> Option<(Format, &FrameModes)> {
        let modes = self.formats.get(usize::from(format).checked_sub(1)?)?;
        Some((modes.format, modes.frames.get(usize::from(frame).checked_sub(1)?)?))
    }

    /// dwMaxPayloadTransferSize for frames of so many bytes at this interval.
    pub(super) fn payload_bytes(&self, frame_bytes: u32, interval: u32) -> u32 {
        self.bus.payload_bytes(frame_bytes, interval).expect("only rates that fit are offered")
    }
}

impl FrameModes {
    fn new(format: Format, size: Size, fps: u16, bus: Bus) -> Self {
        let frame_bytes = u32::try_from(format.frame_bytes(size)).expect("a frame is below 64 MiB");
        let fits = |rate: &u32| bus.payload_bytes(frame_bytes, interval_of(*rate)).is_some();
        let wanted = u32::from(fps);
        let mut rates: Vec<_> = RATES.into_iter().chain([wanted]).filter(fits).collect();
        if rates.is_empty() {
            rates.extend(SLOW_RATES.into_iter().find(fits));
        }
        rates.sort_unstable_by(|a, b| b.cmp(a));
        rates.dedup();
        assert!(!rates.is_empty(), "the largest picture fits a high-speed bus once a second");
        let default = rates.iter().find(|rate| **rate <= wanted).or(rates.last());
        let default_interval = interval_of(*default.expect("just seen"));
        let intervals = rates.into_iter().map(interval_of).collect();
        Self { size, frame_bytes, intervals, default_interval }
    }

    /// The offered interval nearest to this one; 0 asks for the default.
    pub(super) fn nearest(&self, interval: u32) -> u32 {
        let nearest = self.intervals.iter().min_by_key(|offered| offered.abs_diff(interval));
        match interval {
            0 => self.default_interval,
            _ => *nearest.expect("never empty"),
        }
    }

    /// Bits a second at the offered interval that this picks.
    pub(super) fn bit_rate(&self, interval: u32) -> u32 {
        let bits = u64::from(self.frame_bytes) * 8 * u64::from(UNITS_PER_SECOND);
        u32::try_from(bits / u64::from(interval)).unwrap_or(u32::MAX)
    }
}

impl Bus {
    /// What the isochronous endpoint moves per microframe in each alternate setting from 1 on.
    pub(super) fn isochronous_payloads(self) -> &'static [u16] {
        if self.speed.is_super() {
            &[1024, 4096, 8192, 16_384, 32_768, 49_152]
        } else {
            &[128, 512, 1024, 1536, 2048, 2688, 3072]
        }
    }

    /// Bytes of a payload, header included, with which frames of this size leave in time: of an
    /// isochronous endpoint the smallest packet that does. `None` where there is none.
    pub(super) fn payload_bytes(self, frame_bytes: u32, interval: u32) -> Option<u32> {
        match self.transport {
            Transport::Bulk => {
                // What hosts get through a bus with nothing else on it, payload headers deducted.
                let bytes_per_second = if self.speed.is_super() { 350_000_000 } else { 45_000_000 };
                let needed = u64::from(frame_bytes) * u64::from(UNITS_PER_SECOND);
                (needed <= bytes_per_second * u64::from(interval)).then_some(BULK_PAYLOAD_BYTES)
            }
            Transport::Isochronous => {
                // One microframe to spare: a frame begins with the first one after it is due.
                let packets = (interval / UNITS_PER_MICROFRAME).checked_sub(1)?.max(1);
                let needed = frame_bytes.div_ceil(packets) + HEADER_BYTES as u32;
                let payloads = self.isochronous_payloads().iter().copied().map(u32::from);
                payloads.into_iter().find(|payload| *payload >= needed)
            }
        }
    }
}

/// dwFrameInterval of a rate in frames a second.
fn interval_of(rate: u32) -> u32 {
    UNITS_PER_SECOND / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(options: &str, format: u8, frame: u8) -> Vec<u32> {
        let modes = Modes::new(&CameraOptions::parse(options).expect("options of a test"));
        let (_, found) = modes.find(format, frame).expect("it is there");
        found.intervals.iter().map(|interval| UNITS_PER_SECOND / interval).collect()
    }

    #[test]
    fn rates_are_those_the_bus_carries() {
        assert_eq!(rates("", 1, 1), [30, 15], "640x480 YUY2");
        assert_eq!(rates("", 1, 2), [60, 30, 15], "320x240 YUY2");
        assert_eq!(rates("", 1, 3), [10], "1280x720 YUY2");
        assert_eq!(rates("", 2, 3), [60, 30, 15], "1280x720 MJPEG");
        assert_eq!(rates("speed=super", 1, 3), [60, 30, 15]);
        assert_eq!(rates("transfer=bulk:fps=24", 1, 3), [24, 15]);
    }

    #[test]
    fn a_wanted_rate_and_size_come_first() {
        let modes = Modes::new(&CameraOptions::parse("size=1280x720:fps=25").expect("fine"));
        let (format, frame) = modes.find(2, 1).expect("MJPEG");
        assert_eq!((format, frame.size.to_string().as_str()), (Format::Mjpeg, "1280x720"));
        assert_eq!(frame.default_interval, 400_000);
        assert_eq!(frame.intervals, [166_666, 333_333, 400_000, 666_666]);
        assert!(modes.find(0, 1).is_none() && modes.find(1, 0).is_none());
        assert!(modes.find(3, 1).is_none() && modes.find(1, 4).is_none());
    }

    #[test]
    fn the_largest_picture_fits_everywhere() {
        for speed in ["high", "super"] {
            for transfer in ["iso", "bulk"] {
                let text = format!("size=3840x2160:fps=1:speed={speed}:transfer={transfer}");
                assert!(!rates(&text, 1, 1).is_empty() && !rates(&text, 2, 1).is_empty());
            }
        }
    }
}
