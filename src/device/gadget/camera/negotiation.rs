//! The video probe and commit controls (USB Video Class 1.1 §4.3.1.1): what host and camera agree
//! on before a stream.

use super::CLOCK_HZ;
use super::modes::{Format, Modes};
use super::picture::Size;

/// Bytes of the controls in version 1.1 of the class.
pub(super) const CONTROL_BYTES: usize = 34;

/// Bytes of the controls in version 1.0, which lacks the clock and what follows it.
const OLD_CONTROL_BYTES: usize = 26;

/// The fields that differ from one state of the controls to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// bmHint, as the host sent it.
    hint: u16,
    format: u8,
    frame: u8,
    /// dwFrameInterval, in units of 100 ns.
    pub(super) interval: u32,
    /// dwMaxVideoFrameSize.
    frame_bytes: u32,
    /// dwMaxPayloadTransferSize.
    pub(super) payload_bytes: u32,
}

impl Negotiated {
    /// The camera's own choice.
    pub(super) fn default_of(modes: &Modes) -> Self {
        Self::settle(modes, 0, [1, 1], 0)
    }

    /// What the camera makes of the host's proposal; `None` if it is too short for one.
    pub(super) fn of_proposal(modes: &Modes, data: &[u8]) -> Option<Self> {
        if data.len() < OLD_CONTROL_BYTES {
            return None;
        }
        let hint = u16::from_le_bytes([data[0], data[1]]);
        let interval = u32::from_le_bytes([data[4], data[5], data[6], data[7]]);
        Some(Self::settle(modes, hint, [data[2], data[3]], interval))
    }

    /// Whether the camera took the host's format, frame and interval as they were.
    pub(super) fn agrees_with(&self, data: &[u8]) -> bool {
        data[2..4] == [self.format, self.frame] && data[4..8] == self.interval.to_le_bytes()
    }

    /// The same with the shortest or the longest interval: what GET_MIN and GET_MAX answer.
    pub(super) fn extreme(&self, modes: &Modes, longest: bool) -> Self {
        let interval = if longest { u32::MAX } else { 1 };
        Self::settle(modes, self.hint, [self.format, self.frame], interval)
    }

    pub(super) fn to_bytes(self) -> [u8; CONTROL_BYTES] {
        let mut bytes = [0; CONTROL_BYTES];
        bytes[0..2].copy_from_slice(&self.hint.to_le_bytes());
        bytes[2..4].copy_from_slice(&[self.format, self.frame]);
        bytes[4..8].copy_from_slice(&self.interval.to_le_bytes());
        bytes[18..22].copy_from_slice(&self.frame_bytes.to_le_bytes());
        bytes[22..26].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[26..30].copy_from_slice(&CLOCK_HZ.to_le_bytes());
        // Headers have frame identifiers and ends of frames; one version of each payload format.
        bytes[30..34].copy_from_slice(&[3, 1, 1, 1]);
        bytes
    }

    /// Format and size that the indices mean.
    pub(super) fn mode(&self, modes: &Modes) -> (Format, Size) {
        let (format, frame) = modes.find(self.format, self.frame).expect("settled");
        (format, frame.size)
    }

    /// Whatever does not exist is replaced: the format by the first, the frame by the format's
    /// first, the interval by the nearest.
    fn settle(modes: &Modes, hint: u16, [format, frame]: [u8; 2], interval: u32) -> Self {
        let format = if modes.find(format, 1).is_some() { format } else { 1 };
        let frame = if modes.find(format, frame).is_some() { frame } else { 1 };
        let (_, mode) = modes.find(format, frame).expect("there is a first of each");
        let interval = mode.nearest(interval);
        let payload_bytes = modes.payload_bytes(mode.frame_bytes, interval);
        Self { hint, format, frame, interval, frame_bytes: mode.frame_bytes, payload_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::CameraOptions;
    use super::*;

    fn modes(options: &str) -> Modes {
        Modes::new(&CameraOptions::parse(options).expect("options of a test"))
    }

    #[test]
    fn the_default_is_byte_exact() {
        let bytes = Negotiated::default_of(&modes("")).to_bytes();
        let mut expected = [0; CONTROL_BYTES];
        expected[2..8].copy_from_slice(&[1, 1, 0x15, 0x16, 0x05, 0x00]);
        expected[18..26].copy_from_slice(&[0x00, 0x60, 0x09, 0x00, 0x80, 0x0a, 0x00, 0x00]);
        expected[26..].copy_from_slice(&[0x00, 0x6c, 0xdc, 0x02, 3, 1, 1, 1]);
        assert_eq!(bytes, expected, "YUY2 640x480, 333333, 614400 bytes, 2688 a packet, 48 MHz");
    }

    #[test]
    fn proposals_are_clamped_to_what_there_is() {
        let modes = modes("");
        let settle = |format, frame, interval: u32| {
            let mut data = [0xff; CONTROL_BYTES];
            data[0..4].copy_from_slice(&[1, 0, format, frame]);
            data[4..8].copy_from_slice(&interval.to_le_bytes());
            let settled = Negotiated::of_proposal(&modes, &data).expect("long enough");
            (settled.format, settled.frame, settled.interval, settled.agrees_with(&data))
        };
        assert_eq!(settle(2, 3, 166_666), (2, 3, 166_666, true));
        assert_eq!(settle(2, 3, 200_000), (2, 3, 166_666, false));
        assert_eq!(settle(1, 1, 1), (1, 1, 333_333, false), "60 would not fit");
        assert_eq!(settle(1, 1, u32::MAX), (1, 1, 666_666, false));
        assert_eq!(settle(1, 9, 0), (1, 1, 333_333, false));
        assert_eq!(settle(0, 0, 0), (1, 1, 333_333, false));
        assert_eq!(settle(7, 2, 666_666), (1, 2, 666_666, false));
        assert_eq!(Negotiated::of_proposal(&modes, &[1; 25]), None);
        assert!(Negotiated::of_proposal(&modes, &[1; 26]).is_some(), "a host of version 1.0");
    }

    #[test]
    fn payloads_follow_the_rate() {
        let modes = modes("size=320x240");
        let now = Negotiated::default_of(&modes);
        assert_eq!(now.extreme(&modes, false).payload_bytes, 1536, "60 frames a second");
        assert_eq!(now.payload_bytes, 1024, "30");
        assert_eq!(now.extreme(&modes, true).payload_bytes, 512, "15");
    }
}
