//! The text after `--simulate`: devices joined by commas, each a name and its options.

use super::OptionError;
use super::audio::microphone::{MicrophoneExport, MicrophoneOptions};
use super::audio::speaker::{SpeakerExport, SpeakerOptions};
use super::camera::{CameraExport, CameraOptions};
use super::hid::{KeyboardExport, KeyboardOptions, MouseExport, MouseOptions};
use super::serial::{SerialExport, SerialOptions};
use super::storage::{StorageExport, StorageOptions};
use super::zero::{ZeroExport, ZeroOptions};
use crate::device::Export;

/// The devices there are: how each is called and how its options are read.
const KINDS: &[(&str, Reader)] = &[
    ("keyboard", |options| {
        let options = KeyboardOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| KeyboardExport::keyboard(&options, number)))
    }),
    ("mouse", |options| {
        let options = MouseOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| MouseExport::mouse(&options, number)))
    }),
    ("serial", |options| {
        let options = SerialOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| SerialExport::serial(&options, number)))
    }),
    ("storage", |options| {
        let options = StorageOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| StorageExport::storage(&options, number)))
    }),
    ("zero", |options| {
        let options = ZeroOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| ZeroExport::zero(&options, number)))
    }),
    ("microphone", |options| {
        let options = MicrophoneOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| MicrophoneExport::microphone(&options, number)))
    }),
    ("speaker", |options| {
        let options = SpeakerOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| SpeakerExport::speaker(&options, number)))
    }),
    ("camera", |options| {
        let options = CameraOptions::parse(options)?;
        Ok(SimulatedSpec::new(move |number| CameraExport::camera(&options, number)))
    }),
];

type Reader = fn(&str) -> Result<SimulatedSpec, OptionError>;

/// A simulated device that was asked for and not made yet.
pub struct SimulatedSpec(Box<dyn Fn(u8) -> Box<dyn Export>>);

/// Why the text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// The options of a device.
    #[error("{name}: {cause}")]
    BadOption {
        /// Which device.
        name: &'static str,
        /// What is wrong.
        #[source]
        cause: OptionError,
    },
    /// No such device.
    #[error("no simulated device is named {0:?}; there is: {names}", names = names())]
    UnknownName(String),
}

/// Reads `NAME[:key=value]…[,NAME…]`; `all[:key=value]…` is one of each, with options
/// that all of them have, such as `pace`.
///
/// # Errors
///
/// One line that names the device, the key and what is allowed.
pub fn parse(text: &str) -> Result<Vec<SimulatedSpec>, SimulateError> {
    let mut specs = Vec::new();
    for each in text.split(',') {
        match each.split_once(':').unwrap_or((each, "")) {
            ("all", options) => {
                for kind in KINDS {
                    specs.push(read(kind, options)?);
                }
            }
            (name, options) => {
                let kind = KINDS.iter().find(|(known, _)| *known == name);
                let kind = kind.ok_or_else(|| SimulateError::UnknownName(name.into()))?;
                specs.push(read(kind, options)?);
            }
        }
    }
    Ok(specs)
}

impl SimulatedSpec {
    fn new<E: Export + 'static>(make: impl Fn(u8) -> E + 'static) -> Self {
        Self(Box::new(move |number| Box::new(make(number))))
    }

    /// Makes the device `sim-NUMBER`; each of a server's simulated devices has a number of its own,
    /// from 1 to 255 (what stock clients keep of a device number).
    #[must_use]
    pub fn export(&self, number: u8) -> Box<dyn Export> {
        (self.0)(number)
    }
}

impl std::fmt::Debug for SimulatedSpec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimulatedSpec")
    }
}

fn read(
    (name, reader): &(&'static str, Reader),
    options: &str,
) -> Result<SimulatedSpec, SimulateError> {
    reader(options).map_err(|cause| SimulateError::BadOption { name, cause })
}

fn names() -> String {
    KINDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::speed::Speed;

    #[test]
    fn commas_separate_devices() {
        let specs = parse("zero:pace=none,zero:speed=super").expect("two devices");
        let speeds: Vec<_> = specs.iter().map(|spec| spec.export(1).describe().speed).collect();
        assert_eq!(speeds, [Speed::High, Speed::Super]);
    }

    #[test]
    fn all_is_one_of_each() {
        assert_eq!(parse("all").expect("every device").len(), KINDS.len());
    }

    #[test]
    fn errors_say_what_there_is() {
        let error = |text: &str| parse(text).expect_err(text).to_string();
        assert!(
            error("one").starts_with("no simulated device is named \"one\"; there is: keyboard")
        );
        assert!(error("zero,").contains("named \"\""));
        assert!(error("zero:pattern=x").starts_with("zero: pattern=x"));
    }

    #[test]
    fn devices_have_names_and_numbers_of_their_own() {
        let specs = parse("zero,zero:speed=super").expect("two devices");
        let exports: Vec<_> = specs.iter().zip(1..).map(|(spec, n)| spec.export(n)).collect();
        assert_eq!(exports[0].describe().bus_id, "sim-1");
        assert_eq!(exports[1].describe().bus_id, "sim-2");
        assert_eq!(exports[1].describe().device_id(), 0x00ff_0002);
        assert_eq!(exports[1].describe().path, "/sys/devices/simulated/sim-2");
    }
}
