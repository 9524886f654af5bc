//! The first message of a connection: what does the peer want?
//!
//! The peer's bytes are read exactly, never beyond the request: a connection that asks for an
//! import may be handed to the kernel, which must find the next byte (kernel.md §1.1).

use std::time::Duration;

use crate::wire::op::{self, OpHeader};

/// A peer has this long for its whole request (B8).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest request that is understood: OP header and the body of IMPORT_EXT, in bytes.
pub const REQUEST_BYTES: usize = op::REQUEST_IMPORT_EXT_BYTES;

const HEADER_BYTES: usize = op::HEADER_BYTES;

/// A connection whose request is still arriving.
#[derive(Debug)]
pub struct Handshake {
    bytes: [u8; REQUEST_BYTES],
    filled: usize,
    wanted: usize,
    deadline: Duration,
}

/// What a fresh connection turned out to want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// OP_REQ_DEVLIST: send the list, then close.
    DeviceList,
    /// OP_REQ_IMPORT of this bus id.
    Import(String),
    /// OP_REQ_IMPORT_EXT: an import by whoever has a lease on the device.
    ImportWithLease {
        /// The device.
        bus_id: String,
        /// The lease.
        lease_id: u64,
        /// What the client chose when it asked for the lease.
        nonce: u64,
    },
    /// The preface of a control connection; HELLO is behind it, unread.
    Control,
}

/// Why a connection ended before it had a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The bus id has no NUL or is not text.
    #[error("malformed bus id in an import request")]
    MalformedBusId,
    /// End of stream inside the request; a connection closed before the first byte is no error.
    #[error("the peer closed inside its request")]
    PeerClosed,
    /// Nothing, or too little, came in time.
    #[error("no complete request within 10 seconds")]
    TimedOut,
    /// A code that is no request of USB/IP. Answered by closing.
    #[error("unknown request code {0:#06x}: not a USB/IP client?")]
    UnknownCode(u16),
}

impl Handshake {
    /// A connection accepted at `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            bytes: [0; REQUEST_BYTES],
            filled: 0,
            wanted: HEADER_BYTES,
            deadline: now + REQUEST_TIMEOUT,
        }
    }

    /// How many bytes to read next, at most; never 0. Call again after
    /// [`handle_received`](Self::handle_received) returned `Ok(None)`.
    #[must_use]
    pub fn wanted_bytes(&self) -> usize {
        self.wanted - self.filled
    }

    /// Whether anything of the request has come.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.filled > 0
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Takes what was read, at most [`wanted_bytes`](Self::wanted_bytes). Empty means end of
    /// stream.
    ///
    /// # Errors
    ///
    /// See [`HandshakeError`]; the connection is to be closed.
    pub fn handle_received(&mut self, bytes: &[u8]) -> Result<Option<Request>, HandshakeError> {
        assert!(bytes.len() <= self.wanted_bytes(), "read exactly, never beyond the request");
        if bytes.is_empty() {
            return Err(HandshakeError::PeerClosed);
        }
        self.bytes[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        if self.filled < self.wanted {
            return Ok(None);
        }
        let (header, body) = self.bytes[..self.filled].split_first_chunk().expect("filled");
        if *header == op::CONTROL_PREFACE {
            return Ok(Some(Request::Control));
        }
        let code = OpHeader::parse(*header).code;
        self.wanted = match code {
            op::REQ_DEVLIST => return Ok(Some(Request::DeviceList)),
            op::REQ_IMPORT => op::REQUEST_IMPORT_BYTES,
            op::REQ_IMPORT_EXT => op::REQUEST_IMPORT_EXT_BYTES,
            code => return Err(HandshakeError::UnknownCode(code)),
        };
        if self.filled < self.wanted {
            return Ok(None);
        }
        parse_import(code, body).map(Some).map_err(|_| HandshakeError::MalformedBusId)
    }

    /// Ends the connection once its time is over.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::TimedOut`] from the deadline on.
    pub fn handle_timeout(&self, now: Duration) -> Result<(), HandshakeError> {
        if now < self.deadline { Ok(()) } else { Err(HandshakeError::TimedOut) }
    }
}

/// Reads what is behind the header, which is complete.
fn parse_import(code: u16, body: &[u8]) -> Result<Request, op::Malformed> {
    if code == op::REQ_IMPORT {
        let field = body.try_into().expect("the field's size");
        return Ok(Request::Import(op::parse_import_bus_id(field)?.to_owned()));
    }
    let body = body.try_into().expect("the body's size");
    // Flags are for a later version: who sets them is served as if it had not.
    let op::ImportExt { bus_id, lease_id, nonce, flags: _ } = op::ImportExt::parse(body)?;
    Ok(Request::ImportWithLease { bus_id, lease_id, nonce })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8], step: usize) -> Result<Option<Request>, HandshakeError> {
        let mut handshake = Handshake::new(Duration::ZERO);
        let mut rest = bytes;
        while !rest.is_empty() {
            let now = step.min(handshake.wanted_bytes()).min(rest.len());
            let (head, tail) = rest.split_at(now);
            rest = tail;
            if let Some(request) = handshake.handle_received(head)? {
                assert!(rest.is_empty(), "the request ends where it ends");
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    #[test]
    fn requests_are_read_exactly_in_any_pieces() {
        let import = op::request_import("1-2").expect("short enough");
        for step in 1..=40 {
            assert_eq!(feed(&import, step), Ok(Some(Request::Import("1-2".into()))));
            assert_eq!(feed(&op::request_devlist(), step), Ok(Some(Request::DeviceList)));
        }
    }

    #[test]
    fn an_import_with_a_lease_is_read_exactly_in_any_pieces() {
        let asked = op::ImportExt { bus_id: "1-2".into(), lease_id: 9, nonce: 7, flags: 1 };
        let request = asked.to_request().expect("short enough");
        let wanted = Request::ImportWithLease { bus_id: "1-2".into(), lease_id: 9, nonce: 7 };
        for step in 1..=64 {
            assert_eq!(feed(&request, step), Ok(Some(wanted.clone())));
        }
        let mut nameless = request;
        nameless[8] = 0;
        assert_eq!(feed(&nameless, 64), Err(HandshakeError::MalformedBusId));
    }

    #[test]
    fn a_preface_is_all_of_its_eight_bytes() {
        for step in 1..=8 {
            assert_eq!(feed(b"SBUSBIP1", step), Ok(Some(Request::Control)));
        }
        assert_eq!(feed(b"SBUSBIP0", 8), Err(HandshakeError::UnknownCode(0x5553)));
        assert_eq!(feed(b"SBUSBIP", 7), Ok(None));
    }

    #[test]
    fn version_and_status_of_a_request_are_not_judged() {
        let mut request = op::request_devlist();
        request[0] = 9;
        request[7] = 1;
        assert_eq!(feed(&request, 8), Ok(Some(Request::DeviceList)));
    }

    #[test]
    fn garbage_is_named() {
        assert_eq!(feed(b"GET / HT", 8), Err(HandshakeError::UnknownCode(0x5420)));
        let mut import = op::request_import("1-2").expect("short enough");
        import[8..].fill(b'a');
        assert_eq!(feed(&import, 40), Err(HandshakeError::MalformedBusId));
    }

    #[test]
    fn b8_a_silent_peer_has_ten_seconds() {
        let handshake = Handshake::new(Duration::from_secs(5));
        assert_eq!(handshake.handle_timeout(Duration::from_millis(14_999)), Ok(()));
        assert_eq!(
            handshake.handle_timeout(Duration::from_secs(15)),
            Err(HandshakeError::TimedOut)
        );
    }
}
