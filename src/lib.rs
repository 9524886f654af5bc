//! usbip-fast: export the USB devices of one machine and import them on another, over USB/IP.
//!
//! The modules, lowest first; nothing points up (see `ARCHITECTURE.md`):
//!
//! * [`limits`]: every limit, by name.
//! * [`usb`]: the vocabulary of USB 2.0 and 3.2 chapter 9, without any IO.
//! * [`wire`]: the bytes of USB/IP 1.1.1.
//! * [`session`]: the two ends of a data connection, without any IO.
//! * [`device`]: what a server exports; [`host`]: where a client attaches.
//! * [`reactor`]: the loop of one core.
//! * [`serve`], [`attach`]: compositions; [`cli`]: the commands.
//! * [`simulation`]: sessions in a world of faults, repeatable by a seed.

#![forbid(unsafe_code)]

pub mod attach;
pub mod cli;
pub mod config;
pub mod device;
pub mod error;
pub mod host;
pub mod limits;
pub mod reactor;
pub mod serve;
pub mod session;
pub mod simulation;
pub mod telemetry;
pub mod usb;
pub mod wire;
