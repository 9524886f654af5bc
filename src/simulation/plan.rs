//! What the simulated client sends: PDUs with what is known of them.

use zerocopy::IntoBytes;

use crate::session::exporter::SessionEnd;
use crate::simulation::descriptors::DEVICE_ID;
use crate::simulation::pattern::Pattern;
use crate::usb::isochronous::PacketDescriptor;
use crate::usb::transfer::{Direction, ISO_PACKET_BYTES, TransferType};
use crate::wire::urb::{CmdSubmit, CmdUnlink, HEADER_BYTES};

/// One PDU of the client, or what is to pass for one.
#[derive(Clone, Debug)]
pub enum Pdu {
    /// CMD_SUBMIT.
    Submit(Box<Plan>),
    /// CMD_UNLINK.
    Unlink {
        /// Its own seqnum.
        seqnum: u32,
        /// Of the URB that is to end.
        target: u32,
    },
    /// Bytes that must end the session.
    Hostile {
        /// What is sent.
        bytes: Vec<u8>,
        /// How it must end.
        end: SessionEnd,
    },
}

/// A CMD_SUBMIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The client's name for it; also sent as `start_frame`, by which the device knows it.
    pub seqnum: u32,
    /// Endpoint number.
    pub endpoint: u8,
    /// Direction.
    pub direction: Direction,
    /// Type of the endpoint, `None` if the device has no such endpoint.
    pub kind: Option<TransferType>,
    /// Bytes of the buffer.
    pub length: u32,
    /// `number_of_packets`; means something on isochronous endpoints.
    pub number_of_packets: i32,
    /// Offset and length of the packets.
    pub packets: Vec<(u32, u32)>,
    /// Setup packet.
    pub setup: [u8; 8],
    /// Whether it must be answered -EINVAL.
    pub invalid: bool,
}

impl Plan {
    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self, pattern: &Pattern) -> Vec<u8> {
        let mut bytes = self.header().to_vec();
        if self.direction == Direction::Out {
            bytes.extend_from_slice(pattern.slice(self.seqnum, 0, self.length as usize));
        }
        for &(offset, length) in &self.packets {
            bytes.extend_from_slice(PacketDescriptor::new(offset, length).as_bytes());
        }
        bytes
    }

    /// Their number.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        let payload = if self.direction == Direction::Out { self.length as usize } else { 0 };
        HEADER_BYTES + payload + self.packets.len() * ISO_PACKET_BYTES
    }

    /// The header alone.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        CmdSubmit {
            seqnum: self.seqnum,
            device_id: DEVICE_ID,
            direction: self.direction,
            endpoint: self.endpoint,
            transfer_flags: 0,
            buffer_length: self.length,
            start_frame: self.seqnum,
            number_of_packets: self.number_of_packets,
            interval: 0,
            setup: self.setup,
        }
        .emit(&mut header);
        header
    }

    /// Whether its answer is not to wait behind more than one bulk answer.
    #[must_use]
    pub fn is_periodic(&self) -> bool {
        matches!(self.kind, Some(TransferType::Interrupt | TransferType::Isochronous))
    }

    /// Whether its answer may wait for others.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self.kind, Some(TransferType::Bulk) | None)
    }

    /// URBs with the same value are answered in the order of their submission.
    #[must_use]
    pub fn order(&self) -> (u8, bool) {
        (self.endpoint, self.endpoint != 0 && self.direction == Direction::In)
    }
}

impl Pdu {
    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self, pattern: &Pattern) -> Vec<u8> {
        match self {
            Self::Submit(plan) => plan.bytes(pattern),
            Self::Unlink { seqnum, target } => unlink(*seqnum, DEVICE_ID, *target).to_vec(),
            Self::Hostile { bytes, .. } => bytes.clone(),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Submit(plan) => format!(
                "submit {} ep {} {:?} {:?} {} bytes, {} packets{}",
                plan.seqnum,
                plan.endpoint,
                plan.direction,
                plan.kind,
                plan.length,
                plan.packets.len(),
                if plan.invalid { ", invalid" } else { "" }
            ),
            Self::Unlink { seqnum, target } => format!("unlink {seqnum} of {target}"),
            Self::Hostile { end, .. } => format!("hostile: {end}"),
        }
    }

    /// Their number.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        match self {
            Self::Submit(plan) => plan.wire_bytes(),
            Self::Unlink { .. } => HEADER_BYTES,
            Self::Hostile { bytes, .. } => bytes.len(),
        }
    }
}

/// A CMD_UNLINK.
#[must_use]
pub fn unlink(seqnum: u32, device_id: u32, unlink_seqnum: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    CmdUnlink { seqnum, device_id, unlink_seqnum }.emit(&mut header);
    header
}
