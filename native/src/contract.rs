//! What every reactor must do, as one list of checks for every backend.
//!
//! A check is told on what [`Ground`] it stands: real sockets, or simulated ones. It panics when
//! the reactor breaks its contract.

mod cancel;
mod driver;
mod quiet;
mod stream;
mod system;
mod turn;

use std::net::SocketAddr;
use std::time::Duration;

use crate::handle::Handle;
use crate::reactor::Reactor;
use crate::socket::Direction;

pub use driver::Driver;
pub use system::System;

/// Where a reactor gets its sockets and its time from.
pub trait Ground {
    /// A fresh reactor.
    fn open(&self) -> Box<dyn Reactor>;

    /// The time of which deadlines are.
    fn now(&self) -> Duration;

    /// A socket that listens on a free port of this machine.
    fn listen(&self, backlog: u16) -> (Handle, SocketAddr);

    /// A socket that can connect to `address`.
    fn stream(&self, address: &SocketAddr) -> Handle;

    /// Two connected sockets.
    fn pair(&self) -> (Handle, Handle);

    /// As [`socket::shutdown`](crate::socket::shutdown).
    fn shutdown(&self, socket: &Handle, direction: Direction);

    /// As [`socket::reset_on_close`](crate::socket::reset_on_close).
    fn reset_on_close(&self, socket: &Handle);

    /// Heap allocations of this thread so far, where they are counted.
    fn allocations(&self) -> Option<u64> {
        None
    }
}

/// One row of the contract.
pub struct Check {
    /// What is promised.
    pub name: &'static str,
    /// Panics if the promise is broken.
    pub run: fn(&dyn Ground),
}

/// Every row of the contract.
#[must_use]
pub fn checks() -> Vec<Check> {
    let lists = [stream::CHECKS, quiet::CHECKS, cancel::CHECKS, turn::CHECKS];
    lists.into_iter().flatten().map(|&(name, run)| Check { name, run }).collect()
}

/// A row within this module.
type Row = (&'static str, fn(&dyn Ground));
