//! The vocabulary of USB: chapter 9 of USB 2.0 and USB 3.2, transfers, errno numbers. No IO.

pub mod descriptor;
pub mod endpoint;
pub mod errno;
pub mod identity;
pub mod isochronous;
pub mod setup;
pub mod speed;
pub mod transfer;
