//! What a stream of sound is made of, and what fits into the packets of a speed.

use crate::usb::speed::Speed;

/// The sampling frequencies there are, in Hz.
pub const RATES: [u32; 3] = [44_100, 48_000, 96_000];

/// Which edition of the device class a device follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioClass {
    /// Audio 1.0, of 1998.
    Uac1,
    /// Audio 2.0, of 2006.
    Uac2,
}

/// The format of a stream, and the frequencies that it can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioFormat {
    /// Edition of the class.
    pub class: AudioClass,
    /// Full or high.
    pub speed: Speed,
    /// 16 or 24.
    pub bits: u8,
    /// 1 to 8.
    pub channels: u8,
    /// Sampling frequencies in Hz, ascending, at least one.
    pub rates: Vec<u32>,
    /// The frequency before a host has chosen one.
    pub rate: u32,
}

/// Which way the sound goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Microphone,
    Speaker,
}

impl AudioClass {
    /// bInterfaceProtocol.
    pub(super) const fn protocol(self) -> u8 {
        match self {
            Self::Uac1 => 0,
            Self::Uac2 => 0x20,
        }
    }
}

impl AudioFormat {
    /// Bytes of one sample.
    #[must_use]
    pub fn sample_bytes(&self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Bytes of one frame: a sample of every channel.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.sample_bytes() * usize::from(self.channels)
    }

    /// Packets of a second: every endpoint here has bInterval 1.
    #[must_use]
    pub fn packets_per_second(&self) -> u32 {
        packets_per_second(self.speed)
    }

    /// The largest packet of any of the frequencies, in bytes. One frame more than the frequency
    /// needs, which is what lets an asynchronous stream catch up.
    #[must_use]
    pub fn payload_bytes(&self) -> u16 {
        let most = self.rates.iter().copied().max().unwrap_or(self.rate);
        let bytes = payload_bytes(most, self.frame_bytes(), self.speed);
        u16::try_from(bytes).expect("rates that do not fit were left out")
    }

    /// The same at another speed, with those frequencies that fit there; `None` if none does.
    pub(super) fn at(&self, speed: Speed) -> Option<Self> {
        let frame_bytes = self.frame_bytes();
        let fits = |rate: &u32| payload_bytes(*rate, frame_bytes, speed) <= most_bytes(speed);
        let rates: Vec<u32> = self.rates.iter().copied().filter(fits).collect();
        let rate = if rates.contains(&self.rate) { self.rate } else { *rates.last()? };
        Some(Self { speed, rates, rate, ..self.clone() })
    }
}

impl Role {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Microphone => "microphone",
            Self::Speaker => "speaker",
        }
    }

    /// bcdDevice: the two devices have the same numbers otherwise.
    pub(super) const fn release(self) -> u16 {
        match self {
            Self::Microphone => 0x0100,
            Self::Speaker => 0x0101,
        }
    }

    /// Types of the input and the output terminal (Terminal Types 2.0): microphone, speaker, or
    /// the stream of the bus.
    pub(super) const fn terminal_types(self) -> [[u8; 2]; 2] {
        const STREAM: [u8; 2] = 0x0101_u16.to_le_bytes();
        match self {
            Self::Microphone => [0x0201_u16.to_le_bytes(), STREAM],
            Self::Speaker => [STREAM, 0x0301_u16.to_le_bytes()],
        }
    }
}

/// Most bytes of one packet (USB 2.0 §5.6.3). High-bandwidth endpoints are not needed: the largest
/// stream there is, 96 kHz of 8 channels of 24 bits, has 312-byte packets.
pub(super) fn most_bytes(speed: Speed) -> usize {
    if speed == Speed::Full { 1023 } else { 1024 }
}

/// Bytes of the largest packet of a stream.
pub(super) fn payload_bytes(rate: u32, frame_bytes: usize, speed: Speed) -> usize {
    (rate / packets_per_second(speed) + 1) as usize * frame_bytes
}

/// Where the channels are (both editions number the places alike): one is the centre, more are
/// front left, front right, centre, low frequencies, back left, back right and the two between.
pub(super) fn channel_places(channels: u8) -> u16 {
    if channels == 1 { 0x0004 } else { (1 << channels) - 1 }
}

fn packets_per_second(speed: Speed) -> u32 {
    if speed == Speed::Full { 1000 } else { 8000 }
}
