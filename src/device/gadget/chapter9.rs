//! The standard requests (USB 2.0 §9.4, USB 3.2 §9.4) and the state behind them.

use super::descriptors::{Descriptors, endpoint_index};
use super::function::Stall;
use crate::usb::descriptor::Setting;
use crate::usb::endpoint::{EndpointInfo, EndpointMap};
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::TransferType;

/// What the standard requests can change. Moves with the device from session to session.
#[derive(Clone, Debug)]
pub(super) struct Chapter9 {
    /// Active configuration, alternate settings and their endpoints.
    map: EndpointMap,
    /// Halted endpoints, one bit each by [`endpoint_index`].
    halted: u32,
    /// Bits of the answer to GET_STATUS(device) that the host can set: remote wakeup, U1, U2, LTM.
    features: u16,
}

/// What the base has to do after a request was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Configured(u8),
    InterfaceSet { interface: u8, alternate: u8 },
    Halted(u8),
    HaltCleared(u8),
    Reset,
}

/// Who answers a request.
pub(super) enum Verdict<T> {
    Answered(T),
    Stalled,
    /// Not chapter 9, or a standard request that only the function knows.
    Function,
}

impl Chapter9 {
    /// The state after enumeration: the first configuration is active, as on a device that was
    /// plugged into a host before it was exported.
    pub(super) fn configured(descriptors: &Descriptors) -> Self {
        let configuration = descriptors.configurations().next().map_or(0, |first| first.value);
        let map = EndpointMap::new(descriptors.listed(), configuration);
        Self { map, halted: 0, features: 0 }
    }

    /// bConfigurationValue of the active configuration, 0 if none.
    pub(super) fn configuration(&self) -> u8 {
        self.map.configuration()
    }

    /// The endpoints of the active alternate settings.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &EndpointInfo> {
        self.map.active()
    }

    pub(super) fn is_halted(&self, index: usize) -> bool {
        self.halted & 1 << index != 0
    }

    pub(super) fn set_halted(&mut self, index: usize, halted: bool) {
        self.halted = self.halted & !(1 << index) | u32::from(halted) << index;
    }

    /// Answers a request with an IN data stage into the front of `data`.
    pub(super) fn read(
        &self,
        setup: Setup,
        descriptors: &Descriptors,
        data: &mut [u8],
    ) -> Verdict<usize> {
        let [index, _] = setup.index.to_le_bytes();
        let [low, high] = setup.value.to_le_bytes();
        let found = match (setup.request_type, setup.request) {
            (0x80, request::GET_DESCRIPTOR) => match descriptors.find(high, low) {
                Some(bytes) => return Verdict::Answered(copy(bytes, data)),
                None => None,
            },
            (0x80, request::GET_CONFIGURATION) => Some([self.configuration(), 0]).zip(Some(1)),
            (0x80, request::GET_STATUS) => Some((self.device_status(), 2)),
            (0x81, request::GET_STATUS) => self.interface(descriptors, index).map(|_| ([0; 2], 2)),
            (0x82, request::GET_STATUS) => self.endpoint_status(index).zip(Some(2)),
            (0x81, request::GET_INTERFACE) => {
                self.interface(descriptors, index).map(|alternate| ([alternate, 0], 1))
            }
            (0x82, request::SYNCH_FRAME) => self
                .endpoint(index)
                .filter(|endpoint| endpoint.kind == TransferType::Isochronous)
                .map(|_| ([0; 2], 2)),
            (0x80 | 0x82, _) => None,
            _ => return Verdict::Function,
        };
        match found {
            Some((bytes, length)) => Verdict::Answered(copy(&bytes[..length], data)),
            None => Verdict::Stalled,
        }
    }

    /// Carries out a request with an OUT data stage or none.
    pub(super) fn write(&mut self, setup: Setup, descriptors: &Descriptors) -> Verdict<Effect> {
        let [index, _] = setup.index.to_le_bytes();
        let [value, _] = setup.value.to_le_bytes();
        let done = match (setup.request_type, setup.request) {
            // The address belongs to the host's side; the two others are timing hints.
            (0x00, request::SET_ADDRESS | request::SET_SEL | request::SET_ISOCH_DELAY) => {
                Ok(Effect::Nothing)
            }
            (0x00, request::SET_CONFIGURATION) => self.set_configuration(descriptors, value),
            (0x01, request::SET_INTERFACE) => self.set_interface(descriptors, index, value),
            (0x00, request::SET_FEATURE) => self.set_feature(descriptors, setup.value, true),
            (0x00, request::CLEAR_FEATURE) => self.set_feature(descriptors, setup.value, false),
            (0x02, request::SET_FEATURE) => self.set_halt(setup, true),
            (0x02, request::CLEAR_FEATURE) => self.set_halt(setup, false),
            // FUNCTION_SUSPEND and its undoing (USB 3.2 §9.4.9): nothing here sleeps.
            (0x01, request::SET_FEATURE | request::CLEAR_FEATURE)
                if setup.value == 0 && descriptors.speed().is_super() =>
            {
                self.interface(descriptors, index).map(|_| Effect::Nothing).ok_or(Stall)
            }
            // A reset of the port that the device hangs on, sent by clients that can say so.
            (0x23, request::SET_FEATURE) if setup.value == 4 => {
                self.reset();
                Ok(Effect::Reset)
            }
            (0x00 | 0x02, _) => Err(Stall),
            _ => return Verdict::Function,
        };
        match done {
            Ok(effect) => Verdict::Answered(effect),
            Err(Stall) => Verdict::Stalled,
        }
    }

    /// What a port reset does to it. The host restores configuration and alternate settings at
    /// once, so they stay.
    pub(super) fn reset(&mut self) {
        self.halted = 0;
        self.features = 0;
    }

    fn set_configuration(&mut self, descriptors: &Descriptors, value: u8) -> Result<Effect, Stall> {
        if value != 0 && descriptors.configurations().with_value(value).is_none() {
            return Err(Stall);
        }
        self.map.set_configuration(value);
        self.halted = 0;
        Ok(Effect::Configured(value))
    }

    fn set_interface(
        &mut self,
        descriptors: &Descriptors,
        interface: u8,
        alternate: u8,
    ) -> Result<Effect, Stall> {
        let exists = self
            .settings(descriptors)
            .any(|found| found.interface == interface && found.alternate == alternate);
        if !exists {
            return Err(Stall);
        }
        self.map.set_interface(interface, alternate);
        let own = self.map.active().filter(|endpoint| endpoint.interface == interface);
        let halts = own.fold(0, |halts, endpoint| halts | 1 << endpoint_index(endpoint.address));
        self.halted &= !halts;
        Ok(Effect::InterfaceSet { interface, alternate })
    }

    /// Device features (USB 2.0 table 9-6, USB 3.2 table 9-7) and where GET_STATUS shows them.
    fn set_feature(
        &mut self,
        descriptors: &Descriptors,
        feature: u16,
        on: bool,
    ) -> Result<Effect, Stall> {
        let bit = match feature {
            1 => 1,
            48..=50 if descriptors.speed().is_super() => feature - 48 + 2,
            _ => return Err(Stall),
        };
        self.features = self.features & !(1 << bit) | u16::from(on) << bit;
        Ok(Effect::Nothing)
    }

    fn set_halt(&mut self, setup: Setup, halted: bool) -> Result<Effect, Stall> {
        let [address, _] = setup.index.to_le_bytes();
        if setup.value != 0 {
            return Err(Stall);
        }
        if address & 0x0f == 0 {
            // A halt of endpoint 0 ends with the next setup packet: there is nothing to keep.
            return Ok(Effect::Nothing);
        }
        let endpoint = self.endpoint(address).ok_or(Stall)?;
        if endpoint.kind == TransferType::Isochronous {
            return if halted { Err(Stall) } else { Ok(Effect::Nothing) };
        }
        self.set_halted(endpoint_index(address), halted);
        Ok(if halted { Effect::Halted(address) } else { Effect::HaltCleared(address) })
    }

    /// Self-powered, and the features that are on.
    fn device_status(&self) -> [u8; 2] {
        (self.features | 1).to_le_bytes()
    }

    fn endpoint_status(&self, address: u8) -> Option<[u8; 2]> {
        if address & 0x0f == 0 {
            return Some([0, 0]);
        }
        self.endpoint(address)?;
        Some([u8::from(self.is_halted(endpoint_index(address))), 0])
    }

    /// The alternate setting of an interface of the active configuration.
    fn interface(&self, descriptors: &Descriptors, number: u8) -> Option<u8> {
        self.settings(descriptors).find(|setting| setting.interface == number)?;
        Some(self.map.alternate(number))
    }

    fn endpoint(&self, address: u8) -> Option<&EndpointInfo> {
        self.map.active().find(|found| found.address == address)
    }

    /// The alternate settings of the active configuration.
    fn settings<'a>(&self, descriptors: &'a Descriptors) -> impl Iterator<Item = Setting<'a>> {
        let active = descriptors.configurations().with_value(self.configuration());
        active.into_iter().flat_map(|configuration| configuration.settings())
    }
}

fn copy(bytes: &[u8], data: &mut [u8]) -> usize {
    let length = bytes.len().min(data.len());
    data[..length].copy_from_slice(&bytes[..length]);
    length
}
