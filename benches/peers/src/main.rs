//! Serves a simulated device with the crate `usbip`, to be measured by `usbip-fast bench`.
//!
//! ```text
//! usbip-fast-peers PORT
//! usbip-fast bench -r 127.0.0.1:PORT -b 0-0-0
//! ```
//!
//! One thread, as the server that it is compared with. The device has a CDC ACM interface, which
//! the crate brings along; what is measured are requests for its device descriptor, 18 bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use usbip::cdc::{CDC_ACM_SUBCLASS, UsbCdcAcmHandler};
use usbip::{ClassCode, UsbDevice, UsbInterfaceHandler, UsbIpServer};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(Ok(port)) = std::env::args().nth(1).map(|text| text.parse()) else {
        eprintln!("usage: usbip-fast-peers PORT");
        std::process::exit(2);
    };
    let handler: Box<dyn UsbInterfaceHandler + Send> = Box::new(UsbCdcAcmHandler::new());
    let device = UsbDevice::new(0).with_interface(
        ClassCode::CDC as u8,
        CDC_ACM_SUBCLASS,
        0,
        Some("echo"),
        UsbCdcAcmHandler::endpoints(),
        Arc::new(Mutex::new(handler)),
    );
    let server = Arc::new(UsbIpServer::new_simulated(vec![device]));
    usbip::server(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), server).await;
}
