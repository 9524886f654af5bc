//! macOS: kqueue.

pub(crate) mod backends;
pub mod kqueue;
pub(crate) mod realtime;
pub(crate) mod sockets;
pub(crate) mod system;
