//! The control channel: a long-lived connection on which a server tells its clients which devices
//! there are and who has them (control-channel.md §3).
//!
//! Three dialects share one preface and one version number. [`Dialect`] tells them apart,
//! [`frame`] reads and writes frames, [`message`] what is in them; [`Publisher`] is the server's
//! end of one connection. Bytes and the time go in, frames and events come out; no IO.

pub mod announce;
pub mod frame;
pub mod message;
mod publisher;

pub use self::announce::Announcement;
pub use self::publisher::{ChannelError, Event, Publisher};
pub use crate::wire::op::CONTROL_PREFACE as PREFACE;

/// Which form of the protocol a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Headers of 16 bytes, capabilities, sequence numbers, differences, leases.
    Lease,
    /// Headers of 4 bytes, complete states only, numbers for state and backend.
    Plain,
    /// As `Plain`, with words for state and backend.
    PlainText,
}

impl Dialect {
    /// Bytes of a frame's header.
    #[must_use]
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::Lease => 16,
            Self::Plain | Self::PlainText => 4,
        }
    }
}

/// What a peer of [`Dialect::Lease`] can do, one bit each.
pub mod capability {
    /// Understands CHANGED.
    pub const CHANGED: u32 = 1;
    /// Sends PING, understands PONG.
    pub const PING: u32 = 1 << 1;
    /// Frames with a payload.
    pub const PAYLOADS: u32 = 1 << 2;
    /// SNAPSHOT and DELTA.
    pub const STATE: u32 = 1 << 3;
    /// LEASE_REQUEST, LEASE_RESPONSE and IMPORT_EXT.
    pub const LEASE: u32 = 1 << 4;

    /// Without these there is no connection.
    pub const REQUIRED: u32 = CHANGED | PING;
    /// All or nothing.
    pub const EXTENDED: u32 = PAYLOADS | STATE | LEASE;
    /// Everything there is.
    pub const ALL: u32 = REQUIRED | EXTENDED;

    /// Whether a peer gets states and leases, not only word that something changed.
    #[must_use]
    pub const fn is_extended(capabilities: u32) -> bool {
        capabilities & EXTENDED == EXTENDED
    }
}
