//! Devices of this machine that come and go.

pub mod uevent;
