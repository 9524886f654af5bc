//! The network between client and session: two streams of limited capacity.

use std::collections::VecDeque;

/// A connection.
#[derive(Debug)]
pub struct Wire {
    /// From the client, not yet received.
    to_server: VecDeque<u8>,
    /// To the client, not yet read.
    to_client: VecDeque<u8>,
    /// The client has closed its side.
    pub closed: bool,
    /// Bytes that fit into each direction.
    pub capacity: usize,
}

impl Wire {
    /// An idle connection.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { to_server: VecDeque::new(), to_client: VecDeque::new(), closed: false, capacity }
    }

    /// Bytes the client may still send.
    #[must_use]
    pub fn client_room(&self) -> usize {
        self.capacity.saturating_sub(self.to_server.len())
    }

    /// The client sends. It may go over the capacity by one PDU.
    pub fn client_sends(&mut self, bytes: &[u8]) {
        self.to_server.extend(bytes);
    }

    /// Bytes that the server can receive.
    #[must_use]
    pub fn receivable(&self) -> usize {
        self.to_server.len()
    }

    /// The server receives into `room`, which must not be larger than what is there.
    pub fn receive(&mut self, room: &mut [u8]) {
        assert!(room.len() <= self.to_server.len(), "only what is there is received");
        let (front, back) = self.to_server.as_slices();
        let first = room.len().min(front.len());
        let (head, tail) = room.split_at_mut(first);
        head.copy_from_slice(&front[..first]);
        tail.copy_from_slice(&back[..tail.len()]);
        self.to_server.drain(..room.len());
    }

    /// The server sends as much as fits of `bytes`; returns how much.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.capacity.saturating_sub(self.to_client.len()));
        self.to_client.extend(&bytes[..count]);
        count
    }

    /// The client reads up to `limit` bytes; returns how many.
    pub fn client_reads(&mut self, limit: usize) -> usize {
        let count = limit.min(self.to_client.len());
        self.to_client.drain(..count);
        count
    }
}
