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
//!
//! On other systems than Linux and macOS only the modules without any IO are there.

#![forbid(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod attach;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod cli;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod config;
pub mod control;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod device;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod error;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod host;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod hotplug;
pub mod ledger;
pub mod limits;
pub mod network;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod reactor;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod serve;
pub mod session;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod simulation;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod telemetry;
pub mod usb;
pub mod wire;
