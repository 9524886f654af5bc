//! Everything of usbip-fast that is a system call, a foreign call or `unsafe`.
//!
//! The root package forbids unsafe code; what needs it lives here behind safe items. This crate
//! owns the vocabulary of the one seam between logic and kernel: [`Block`], [`Op`], [`Completion`]
//! and the [`Reactor`] trait. It knows nothing of USB/IP.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is where clocks, sockets, files and threads are touched"
)]

pub mod affinity;
pub mod arena;
mod attempt;
pub mod backend;
pub mod block;
mod chime;
pub mod client;
pub mod clock;
#[doc(hidden)]
pub mod contract;
pub mod doorbell;
pub mod handle;
pub mod op;
pub mod process;
pub mod reactor;
mod readiness;
pub mod signal;
pub mod socket;
mod table;

#[cfg(target_os = "linux")]
pub mod linux;

#[cfg(target_os = "linux")]
use linux as platform;

pub use arena::{Arena, ArenaBlock};
pub use block::Block;
pub use doorbell::Doorbell;
pub use handle::Handle;
pub use op::{Completion, Interest, Op, OsError, Outcome, Piece, Token};
pub use reactor::{Reactor, Turn};
