//! Everything of usbip-fast that is a system call, a foreign call or `unsafe`.
//!
//! The root package forbids unsafe code; what needs it lives here behind safe items. This crate
//! owns the vocabulary of the one seam between logic and kernel: [`Block`], [`Op`], [`Completion`]
//! and the [`Reactor`] trait. It knows nothing of USB/IP.

#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is where clocks, sockets, files and threads are touched"
)]

pub mod affinity;
pub mod arena;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod attempt;
pub mod backend;
pub mod bell_slot;
pub mod block;
pub mod byte_queue;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod chime;
pub mod client;
pub mod clock;
#[doc(hidden)]
pub mod contract;
pub mod disk;
pub mod doorbell;
pub mod feed;
pub mod handle;
pub mod local;
pub mod op;
pub mod process;
pub mod pty;
pub mod reactor;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod readiness;
pub mod realtime;
pub mod signal;
pub mod socket;
pub mod spool;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod table;

#[cfg(target_os = "linux")]
pub mod linux;

#[cfg(target_os = "macos")]
pub mod darwin;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod unsupported;

#[cfg(target_os = "macos")]
use darwin as platform;
#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
use unsupported as platform;

pub use arena::{Arena, ArenaBlock};
pub use bell_slot::BellSlot;
pub use block::Block;
pub use byte_queue::ByteQueue;
pub use doorbell::Doorbell;
pub use handle::Handle;
pub use op::{Completion, Interest, Op, OsError, Outcome, Piece, Token};
pub use reactor::{Reactor, Turn};
