//! The descriptors of the simulated device: every transfer type, and an endpoint that changes its
//! type with the alternate setting.

use crate::usb::endpoint::EndpointMap;
use crate::usb::transfer::TransferType;

/// bus number << 16 | device number of the simulated device.
pub const DEVICE_ID: u32 = 0x0003_0009;

/// Bulk in configuration 1, IN and OUT; interrupt IN alone in configuration 2.
pub const BULK: u8 = 1;
/// Interrupt, IN and OUT.
pub const INTERRUPT: u8 = 2;
/// Isochronous, IN and OUT.
pub const ISOCHRONOUS: u8 = 3;
/// Interface 1, IN and OUT: none in alternate setting 0, bulk in 1, isochronous in 2.
pub const CHANGING: u8 = 4;

/// What a client knows of the device that it drives.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Device descriptor and all configurations in full.
    pub descriptors: Vec<u8>,
    /// Endpoints to use, each as often as it should be; 9 is one that there is not.
    pub endpoints: &'static [u8],
    /// One that is isochronous in the first configuration.
    pub isochronous: u8,
    /// The interface with alternate settings.
    pub interface: u16,
    /// Endpoints that come and go with them.
    pub changing: &'static [u8],
    /// Values for SET_CONFIGURATION.
    pub configurations: &'static [u16],
}

impl Shape {
    /// Of the device without manners.
    #[must_use]
    pub fn chaos() -> Self {
        Self {
            descriptors: descriptors(),
            endpoints: &[BULK, BULK, BULK, INTERRUPT, ISOCHRONOUS, ISOCHRONOUS, CHANGING, 9],
            isochronous: ISOCHRONOUS,
            interface: 1,
            changing: &[CHANGING],
            configurations: &[1, 1, 2, 0],
        }
    }

    /// Of a Gadget Zero with these descriptors.
    #[must_use]
    pub fn zero(descriptors: Vec<u8>) -> Self {
        Self {
            descriptors,
            endpoints: &[1, 1, 1, 2, 2, 3, 9],
            isochronous: 2,
            interface: 0,
            changing: &[2, 3],
            configurations: &[1, 1, 2, 0],
        }
    }

    /// The endpoints of the first configuration.
    #[must_use]
    pub fn endpoint_map(&self) -> EndpointMap {
        EndpointMap::new(&self.descriptors, 1)
    }
}

/// Device descriptor and both configurations in full.
#[must_use]
pub fn descriptors() -> Vec<u8> {
    use TransferType::{Bulk, Interrupt, Isochronous};
    let mut main = interface(0, 0, 6);
    for (number, kind) in [(BULK, Bulk), (INTERRUPT, Interrupt), (ISOCHRONOUS, Isochronous)] {
        main.extend(both(number, kind));
    }
    main.extend(interface(1, 0, 0));
    main.extend(interface(1, 1, 2));
    main.extend(both(CHANGING, Bulk));
    main.extend(interface(1, 2, 2));
    main.extend(both(CHANGING, Isochronous));
    let mut small = interface(0, 0, 1);
    small.extend(endpoint(0x80 | BULK, Interrupt));
    let mut all = vec![18, 1, 0, 2, 0, 0, 0, 64, 0x25, 0x05, 0xa0, 0xa4, 0, 1, 0, 0, 0, 2];
    all.extend(configuration(1, 2, &main));
    all.extend(configuration(2, 1, &small));
    all
}

fn configuration(value: u8, interfaces: u8, body: &[u8]) -> Vec<u8> {
    let total = u16::try_from(9 + body.len()).expect("a small configuration");
    let [low, high] = total.to_le_bytes();
    [&[9, 2, low, high, interfaces, value, 0, 0x80, 50], body].concat()
}

fn interface(number: u8, alternate: u8, endpoints: u8) -> Vec<u8> {
    vec![9, 4, number, alternate, endpoints, 0xff, 0, 0, 0]
}

fn both(number: u8, kind: TransferType) -> Vec<u8> {
    [endpoint(number, kind), endpoint(0x80 | number, kind)].concat()
}

fn endpoint(address: u8, kind: TransferType) -> Vec<u8> {
    let attributes = match kind {
        TransferType::Control => 0,
        TransferType::Isochronous => 1,
        TransferType::Bulk => 2,
        TransferType::Interrupt => 3,
    };
    vec![7, 5, address, attributes, 0, 2, 1]
}
