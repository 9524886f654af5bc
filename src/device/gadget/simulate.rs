//! The text after `--simulate`: devices joined by commas, each a name and its options.

use super::zero::{OptionError, ZeroExport, ZeroOptions};
use crate::device::Export;

/// A simulated device that was asked for and not made yet.
#[derive(Clone, Debug, PartialEq)]
pub enum SimulatedSpec {
    /// `zero`: a Gadget Zero.
    Zero(ZeroOptions),
}

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
    #[error("no simulated device is named {0:?}; there is: zero")]
    UnknownName(String),
}

/// Reads `NAME[:key=value]…[,NAME…]`.
///
/// # Errors
///
/// One line that names the device, the key and what is allowed.
pub fn parse(text: &str) -> Result<Vec<SimulatedSpec>, SimulateError> {
    text.split(',').map(parse_one).collect()
}

impl SimulatedSpec {
    /// Makes the device `sim-NUMBER`; each of a server's simulated devices has a number of its own,
    /// from 1 to 255 (what stock clients keep of a device number).
    #[must_use]
    pub fn export(&self, number: u8) -> Box<dyn Export> {
        match self {
            Self::Zero(options) => Box::new(ZeroExport::zero(options, number)),
        }
    }
}

fn parse_one(text: &str) -> Result<SimulatedSpec, SimulateError> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    match name {
        "zero" => ZeroOptions::parse(options)
            .map(SimulatedSpec::Zero)
            .map_err(|cause| SimulateError::BadOption { name: "zero", cause }),
        _ => Err(SimulateError::UnknownName(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gadget::Pace;
    use crate::usb::speed::Speed;

    #[test]
    fn commas_separate_devices() {
        let specs = parse("zero:pace=none,zero:speed=super").expect("two devices");
        let [SimulatedSpec::Zero(first), SimulatedSpec::Zero(second)] = &specs[..] else {
            panic!("two zeros: {specs:?}");
        };
        assert_eq!((first.pace, first.speed), (Pace::None, Speed::High));
        assert_eq!((second.pace, second.speed), (Pace::REAL, Speed::Super));
    }

    #[test]
    fn errors_say_what_there_is() {
        let error = |text: &str| parse(text).expect_err(text).to_string();
        assert_eq!(error("one"), "no simulated device is named \"one\"; there is: zero");
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
