//! Frames of the control channel (control-channel.md §3.1, §3.2).

use super::Dialect;

/// The version of all dialects.
pub const VERSION: u8 = 1;

/// Longest payload of a frame: its length has 16 bits.
pub const PAYLOAD_BYTES: usize = 65_535;

/// What a frame is. The dialects number them differently from the sixth on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Client's first.
    Hello,
    /// Server's first.
    Ack,
    /// Something has changed: ask for the list. [`Dialect::Lease`] only.
    Changed,
    /// Client: are you there?
    Ping,
    /// Server: yes.
    Pong,
    /// Server: the complete state.
    Snapshot,
    /// Server: what differs. [`Dialect::Lease`] only.
    Delta,
    /// Client: keep a device for me. [`Dialect::Lease`] only.
    LeaseRequest,
    /// Server: kept, or why not. [`Dialect::Lease`] only.
    LeaseResponse,
}

impl Kind {
    const LEASE: [Self; 9] = [
        Self::Hello,
        Self::Ack,
        Self::Changed,
        Self::Ping,
        Self::Pong,
        Self::Snapshot,
        Self::Delta,
        Self::LeaseRequest,
        Self::LeaseResponse,
    ];
    const PLAIN: [Self; 5] = [Self::Hello, Self::Ack, Self::Ping, Self::Pong, Self::Snapshot];

    const fn all(dialect: Dialect) -> &'static [Self] {
        match dialect {
            Dialect::Lease => &Self::LEASE,
            Dialect::Plain | Dialect::PlainText => &Self::PLAIN,
        }
    }

    /// What a number means in this dialect.
    #[must_use]
    pub fn from_number(number: u8, dialect: Dialect) -> Option<Self> {
        Self::all(dialect).get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its number in this dialect, if it has one.
    #[must_use]
    pub fn number(self, dialect: Dialect) -> Option<u8> {
        let at = Self::all(dialect).iter().position(|&kind| kind == self)?;
        Some(u8::try_from(at + 1).expect("there are nine at most"))
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is; `None`: a number without a meaning.
    pub kind: Option<Kind>,
    /// [`VERSION`].
    pub version: u8,
    /// Bytes that follow the header.
    pub payload_bytes: u16,
    /// HELLO and ACK of [`Dialect::Lease`], else 0.
    pub capabilities: u32,
    /// ACK, CHANGED, SNAPSHOT and DELTA of [`Dialect::Lease`], else 0.
    pub sequence: u64,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None`: more bytes have to come.
    #[must_use]
    pub fn parse(bytes: &[u8], dialect: Dialect) -> Option<Self> {
        let bytes = bytes.get(..dialect.header_bytes())?;
        let (capabilities, sequence) = match dialect {
            Dialect::Lease => (
                u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes")),
                u64::from_be_bytes(bytes[8..16].try_into().expect("eight bytes")),
            ),
            Dialect::Plain | Dialect::PlainText => (0, 0),
        };
        Some(Self {
            kind: Kind::from_number(bytes[0], dialect),
            version: bytes[1],
            payload_bytes: u16::from_be_bytes([bytes[2], bytes[3]]),
            capabilities,
            sequence,
        })
    }
}

/// What [`encode`] refuses: a payload longer than a frame can say, of this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload of {0} bytes does not fit into a frame")]
pub struct Oversized(pub usize);

/// A whole frame.
///
/// # Errors
///
/// [`Oversized`].
///
/// # Panics
///
/// If the dialect has no such frame.
pub fn encode(
    dialect: Dialect,
    kind: Kind,
    capabilities: u32,
    sequence: u64,
    payload: &[u8],
) -> Result<Vec<u8>, Oversized> {
    let length = u16::try_from(payload.len()).map_err(|_| Oversized(payload.len()))?;
    let number = kind.number(dialect).expect("only frames that the dialect has are sent");
    let mut frame = Vec::with_capacity(dialect.header_bytes() + payload.len());
    frame.extend([number, VERSION]);
    frame.extend(length.to_be_bytes());
    if dialect == Dialect::Lease {
        frame.extend(capabilities.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
    }
    frame.extend(payload);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::super::capability;
    use super::*;

    #[test]
    fn hello_and_ack_are_the_bytes_of_the_reference() {
        let hello = encode(Dialect::Lease, Kind::Hello, capability::ALL, 0, &[]).expect("small");
        assert_eq!(hello, [1, 1, 0, 0, 0, 0, 0, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0]);
        let ack = encode(Dialect::Lease, Kind::Ack, capability::ALL, 7, &[]).expect("small");
        assert_eq!(ack, [2, 1, 0, 0, 0, 0, 0, 0x1f, 0, 0, 0, 0, 0, 0, 0, 7]);
        let changed = encode(Dialect::Lease, Kind::Changed, 0, 9, &[]).expect("small");
        assert_eq!(changed, [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let ack = encode(Dialect::Plain, Kind::Ack, 0, 0, &[]).expect("small");
        assert_eq!(ack, [2, 1, 0, 0]);
    }

    #[test]
    fn headers_are_read_as_written() {
        for dialect in [Dialect::Lease, Dialect::Plain, Dialect::PlainText] {
            for &kind in Kind::all(dialect) {
                let frame = encode(dialect, kind, 0, 0, b"{}").expect("small");
                let header = Header::parse(&frame, dialect).expect("complete");
                assert_eq!((header.kind, header.payload_bytes), (Some(kind), 2));
                for cut in 0..dialect.header_bytes() {
                    assert_eq!(Header::parse(&frame[..cut], dialect), None);
                }
            }
            for number in [0, 10, 255] {
                assert_eq!(Kind::from_number(number, dialect), None);
            }
        }
        assert_eq!(Kind::from_number(6, Dialect::Plain), None);
    }

    #[test]
    fn a_payload_of_65536_bytes_is_refused() {
        let most = vec![b' '; PAYLOAD_BYTES];
        assert!(encode(Dialect::Plain, Kind::Snapshot, 0, 0, &most).is_ok());
        let more = vec![b' '; PAYLOAD_BYTES + 1];
        let refused = encode(Dialect::Plain, Kind::Snapshot, 0, 0, &more);
        assert_eq!(refused, Err(Oversized(65_536)));
    }
}
