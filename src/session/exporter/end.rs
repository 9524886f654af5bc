//! Why a session ended.

/// The end of a session, blame in the name. The text is one line for the log and names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The device has left the bus; everything was answered.
    #[error("the device is gone")]
    DeviceGone,
    /// The peer used a seqnum again while the first URB of that name was not answered.
    #[error("the peer broke the protocol: seqnum {0} is in use already")]
    DuplicateSeqnum(u32),
    /// The device has left the bus, and the peer has not taken the last answers in time.
    #[error("the device is gone, and the peer does not take its last answers")]
    GoneUnread,
    /// Ended by us, for the reason given.
    #[error("{0}")]
    Local(String),
    /// The header of a PDU cannot be read.
    #[error("malformed PDU: {0}")]
    Malformed(#[from] crate::wire::urb::Malformed),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Network(String),
    /// Twice the limit of what may be outstanding.
    #[error("the peer broke the protocol: {urbs} URBs or answers and {bytes} bytes outstanding")]
    Overload {
        /// URBs or answers not taken yet.
        urbs: usize,
        /// Bytes of their buffers.
        bytes: usize,
    },
    /// The peer closed the connection between two PDUs: the normal end.
    #[error("closed by the peer")]
    PeerClosed,
    /// The stream ended inside a PDU.
    #[error("the connection ended inside a PDU")]
    Truncated,
    /// A PDU for another device than the imported one.
    #[error("the peer broke the protocol: device id {got:#010x}, imported was {expected:#010x}")]
    WrongDeviceId {
        /// What the PDU had.
        got: u32,
        /// What the import had.
        expected: u32,
    },
}
