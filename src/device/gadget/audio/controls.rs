//! The class requests: sampling frequency, mute and volume.

use super::super::function::Stall;
use super::{AudioClass, AudioFormat, CONTROL_INTERFACE, entity};
use crate::usb::setup::Setup;

/// What a host can set.
#[derive(Clone, Debug)]
pub(super) struct Controls {
    class: AudioClass,
    /// Address of the data endpoint, at which Audio 1.0 sets the frequency.
    endpoint: u8,
    rates: Vec<u32>,
    rate: u32,
    mute: bool,
    /// In 1/256 dB.
    volume: i16,
}

/// The least volume, -60 dB, the greatest, 0 dB, and the steps between, 1 dB; all in 1/256 dB.
const VOLUMES: [i16; 3] = [-60 * 256, 0, 256];

/// Requests of Audio 1.0 (table A-9).
const SET_CUR: u8 = 0x01;
const GET_CUR: u8 = 0x81;
const GET_MIN: u8 = 0x82;
const GET_MAX: u8 = 0x83;
const GET_RES: u8 = 0x84;

/// Requests of Audio 2.0 (table A-14); CUR is written and read under one number.
const CUR: u8 = 0x01;
const RANGE: u8 = 0x02;

/// Recipients and directions of the requests.
const TO_INTERFACE: u8 = 0x21;
const FROM_INTERFACE: u8 = 0xa1;
const TO_ENDPOINT: u8 = 0x22;
const FROM_ENDPOINT: u8 = 0xa2;

/// Control selectors: of a feature unit (both editions), of an endpoint, of a clock source.
const MUTE: u8 = 1;
const VOLUME: u8 = 2;
const ENDPOINT_SAMPLING_FREQUENCY: u8 = 1;
const CLOCK_SAMPLING_FREQUENCY: u8 = 1;
const CLOCK_VALID: u8 = 2;

/// An answer to a request: 2 bytes and three ranges of 12 are the longest.
type Bytes = ([u8; 38], usize);

impl Controls {
    pub(super) fn new(format: &AudioFormat, endpoint: u8) -> Self {
        let AudioFormat { class, rate, .. } = *format;
        Self { class, endpoint, rates: format.rates.clone(), rate, mute: false, volume: 0 }
    }

    /// The sampling frequency that was set last, in Hz.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    pub(super) fn is_mute(&self) -> bool {
        self.mute
    }

    /// What the volume makes of a sample, in 1/65536.
    pub(super) fn gain(&self) -> i64 {
        (10_f64.powf(f64::from(self.volume) / 256.0 / 20.0) * 65_536.0).round() as i64
    }

    /// Answers a request with an IN data stage into the front of `data`.
    ///
    /// # Errors
    ///
    /// A stall where there is no such control.
    pub(super) fn read(&self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        let (bytes, length) = match self.class {
            AudioClass::Uac1 => self.read_1(setup)?,
            AudioClass::Uac2 => self.read_2(setup)?,
        };
        let length = length.min(data.len());
        data[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// Carries out a request with an OUT data stage.
    ///
    /// # Errors
    ///
    /// A stall where there is no such control, or it cannot have this value.
    pub(super) fn write(&mut self, setup: Setup, data: &[u8]) -> Result<(), Stall> {
        let [number, selector] = setup.value.to_le_bytes();
        let request = (setup.request_type, setup.request, selector, number);
        match (self.class, request) {
            (AudioClass::Uac1, (TO_ENDPOINT, SET_CUR, ENDPOINT_SAMPLING_FREQUENCY, 0))
                if setup.index == u16::from(self.endpoint) =>
            {
                let [low, middle, high] = fixed(data)?;
                self.set_rate(u32::from_le_bytes([low, middle, high, 0]))
            }
            (AudioClass::Uac2, (TO_INTERFACE, CUR, CLOCK_SAMPLING_FREQUENCY, 0))
                if setup.index == entity_index(entity::CLOCK) =>
            {
                self.set_rate(u32::from_le_bytes(fixed(data)?))
            }
            // SET_CUR of Audio 1.0 and CUR of Audio 2.0 are the same number.
            (_, (TO_INTERFACE, CUR, MUTE, 0)) if setup.index == entity_index(entity::FEATURE) => {
                let [mute] = fixed(data)?;
                self.mute = match mute {
                    0 | 1 => mute == 1,
                    _ => return Err(Stall),
                };
                Ok(())
            }
            (_, (TO_INTERFACE, CUR, VOLUME, 0)) if setup.index == entity_index(entity::FEATURE) => {
                let volume = i16::from_le_bytes(fixed(data)?);
                let [least, most, _] = VOLUMES;
                self.volume = (least..=most).contains(&volume).then_some(volume).ok_or(Stall)?;
                Ok(())
            }
            _ => Err(Stall),
        }
    }

    fn read_1(&self, setup: Setup) -> Result<Bytes, Stall> {
        let [number, selector] = setup.value.to_le_bytes();
        if number != 0 {
            return Err(Stall);
        }
        if setup.request_type == FROM_ENDPOINT {
            let is_known =
                selector == ENDPOINT_SAMPLING_FREQUENCY && setup.index == u16::from(self.endpoint);
            let rate = match setup.request {
                GET_CUR => Some(self.rate),
                GET_MIN => self.rates.first().copied(),
                GET_MAX => self.rates.last().copied(),
                _ => None,
            };
            let rate = rate.filter(|_| is_known).ok_or(Stall)?;
            return Ok(bytes(&rate.to_le_bytes()[..3]));
        }
        if setup.request_type != FROM_INTERFACE || setup.index != entity_index(entity::FEATURE) {
            return Err(Stall);
        }
        let [least, most, step] = VOLUMES;
        match (selector, setup.request) {
            (MUTE, GET_CUR) => Ok(bytes(&[u8::from(self.mute)])),
            (VOLUME, GET_CUR) => Ok(bytes(&self.volume.to_le_bytes())),
            (VOLUME, GET_MIN) => Ok(bytes(&least.to_le_bytes())),
            (VOLUME, GET_MAX) => Ok(bytes(&most.to_le_bytes())),
            (VOLUME, GET_RES) => Ok(bytes(&step.to_le_bytes())),
            _ => Err(Stall),
        }
    }

    fn read_2(&self, setup: Setup) -> Result<Bytes, Stall> {
        let [number, selector] = setup.value.to_le_bytes();
        if setup.request_type != FROM_INTERFACE || number != 0 {
            return Err(Stall);
        }
        let [interface, unit] = setup.index.to_le_bytes();
        if interface != CONTROL_INTERFACE {
            return Err(Stall);
        }
        match (unit, selector, setup.request) {
            (entity::CLOCK, CLOCK_SAMPLING_FREQUENCY, CUR) => Ok(bytes(&self.rate.to_le_bytes())),
            (entity::CLOCK, CLOCK_SAMPLING_FREQUENCY, RANGE) => Ok(self.rate_ranges()),
            (entity::CLOCK, CLOCK_VALID, CUR) => Ok(bytes(&[1])),
            (entity::FEATURE, MUTE, CUR) => Ok(bytes(&[u8::from(self.mute)])),
            (entity::FEATURE, VOLUME, CUR) => Ok(bytes(&self.volume.to_le_bytes())),
            (entity::FEATURE, VOLUME, RANGE) => {
                let [least, most, step] = VOLUMES.map(i16::to_le_bytes);
                Ok(bytes(&[[1, 0], least, most, step].concat()))
            }
            _ => Err(Stall),
        }
    }

    /// The parameter block of Audio 2.0 §5.2.3.3: a range of one value for each frequency.
    fn rate_ranges(&self) -> Bytes {
        let (mut answer, mut length) = bytes(&[self.rates.len() as u8, 0]);
        for rate in &self.rates {
            for word in [*rate, *rate, 0] {
                answer[length..length + 4].copy_from_slice(&word.to_le_bytes());
                length += 4;
            }
        }
        (answer, length)
    }

    fn set_rate(&mut self, rate: u32) -> Result<(), Stall> {
        self.rate = *self.rates.iter().find(|known| **known == rate).ok_or(Stall)?;
        Ok(())
    }
}

/// wIndex of a request to a unit, terminal or clock of the AudioControl interface.
fn entity_index(unit: u8) -> u16 {
    u16::from_le_bytes([CONTROL_INTERFACE, unit])
}

fn bytes(value: &[u8]) -> Bytes {
    let mut answer = [0; 38];
    answer[..value.len()].copy_from_slice(value);
    (answer, value.len())
}

/// A parameter block of exactly this size.
fn fixed<const N: usize>(data: &[u8]) -> Result<[u8; N], Stall> {
    data.try_into().map_err(|_| Stall)
}
