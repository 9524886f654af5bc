//! Serves a device of its own: what is written to its bulk OUT endpoint comes back in upper case
//! on bulk IN.
//!
//! ```text
//! cargo run --example serve_device
//! usbip-fast list -r 127.0.0.1
//! sudo usbip-fast attach -r 127.0.0.1 -b sim-1
//! ```

use std::collections::VecDeque;
use std::error::Error;

use usbip_fast::config::ServeConfig;
use usbip_fast::device::gadget::descriptors::{
    ConfigurationBuilder, DeviceSpec, EndpointSpec, InterfaceSpec,
};
use usbip_fast::device::gadget::{
    Answer, Change, Descriptors, Function, GadgetExport, Identity, Pace, Stall, Then, Transfer,
};
use usbip_fast::serve;
use usbip_fast::usb::identity::Class;
use usbip_fast::usb::setup::Setup;
use usbip_fast::usb::speed::Speed;

const MANUFACTURER: &str = "usbip-fast examples";
const PRODUCT: &str = "Shouter";
const SERIAL: &str = "1";

/// Bytes that wait to be read; beyond that the host has to read before it writes more.
const ROOM: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let identity = Identity {
        number: 1,
        manufacturer_name: MANUFACTURER,
        product_name: PRODUCT,
        serial: SERIAL,
    };
    let device = GadgetExport::new(Shouter::default(), descriptors(), Pace::None, identity);
    println!("serving {PRODUCT} as sim-1 at 127.0.0.1; end with Ctrl-C");
    serve::run_with(vec![Box::new(device)], &ServeConfig::default())?;
    Ok(())
}

fn descriptors() -> Descriptors {
    let speed = Speed::High;
    let class = Class { class: 0xff, ..Class::default() };
    // 1209:0001 is set aside for tests.
    let spec = DeviceSpec { speed, vendor: 0x1209, product: 0x0001, release: 0x0100, class };
    let setting = InterfaceSpec { number: 0, alternate: 0, class, string: 0 };
    let bulk = |address| EndpointSpec { address, attributes: 2, payload_bytes: 512, interval: 0 };
    let configuration = ConfigurationBuilder::new(1, 0)
        .interface(setting)
        .endpoint(bulk(0x81), speed)
        .endpoint(bulk(0x01), speed);
    Descriptors::new(spec, &[configuration], &[MANUFACTURER, PRODUCT, SERIAL])
}

/// The device's own part; chapter 9 of the USB standard is the base's.
#[derive(Default)]
struct Shouter {
    waiting: VecDeque<u8>,
}

impl Function for Shouter {
    fn control_in(&mut self, _setup: Setup, _data: &mut [u8]) -> Result<usize, Stall> {
        Err(Stall)
    }

    fn control_out(&mut self, _setup: Setup, _data: &[u8]) -> Result<(), Stall> {
        Err(Stall)
    }

    fn data_in(&mut self, _transfer: &Transfer, data: &mut [u8]) -> Answer {
        if self.waiting.is_empty() {
            return Answer::nothing(Then::Wait);
        }
        let count = data.len().min(self.waiting.len());
        for (place, byte) in data.iter_mut().zip(self.waiting.drain(..count)) {
            *place = byte;
        }
        // Fewer bytes than asked for end the transfer, as a short packet does.
        let then = if count == data.len() { Then::Continue } else { Then::Short };
        Answer { bytes: count, then }
    }

    fn data_out(&mut self, _transfer: &Transfer, data: &[u8]) -> Answer {
        if self.waiting.len() + data.len() > ROOM {
            return Answer::nothing(Then::Wait);
        }
        self.waiting.extend(data.iter().map(u8::to_ascii_uppercase));
        Answer::all(data.len())
    }

    fn changed(&mut self, change: Change) {
        if let Change::Reset | Change::Configuration(_) = change {
            self.waiting.clear();
        }
    }
}
