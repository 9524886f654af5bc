//! The wrappers of the Bulk-Only Transport: commands in, statuses out (Mass Storage Class,
//! Bulk-Only Transport 1.0, section 5).

/// Bytes of a command block wrapper.
pub(super) const COMMAND_BYTES: usize = 31;

/// Bytes of a command status wrapper.
pub(super) const STATUS_BYTES: usize = 13;

const COMMAND_SIGNATURE: [u8; 4] = *b"USBC";
const STATUS_SIGNATURE: [u8; 4] = *b"USBS";

/// A command as the host wraps it (CBW, §5.1). Its lengths are claims of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrapper {
    /// dCBWTag: comes back in the status.
    pub(super) tag: u32,
    /// dCBWDataTransferLength.
    pub(super) length: u32,
    /// Bit 7 of bmCBWFlags: the host expects data, where `length` is not 0.
    pub(super) is_in: bool,
    /// CBWCB; zeros behind bCBWCBLength.
    pub(super) block: [u8; 16],
    /// bCBWCBLength, 1 to 16.
    pub(super) block_length: usize,
}

impl Wrapper {
    /// `None` for what is not valid (§6.2.1) or not meaningful (§6.2.2) to a device with one unit.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; COMMAND_BYTES] = bytes.try_into().ok()?;
        let (flags, unit, block_length) = (bytes[12], bytes[13], usize::from(bytes[14]));
        let meaningful = flags & 0x7f == 0 && unit == 0 && (1..=16).contains(&block_length);
        if bytes[..4] != COMMAND_SIGNATURE || !meaningful {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let mut block = [0; 16];
        block[..block_length].copy_from_slice(&bytes[15..15 + block_length]);
        Some(Self { tag: word(4), length: word(8), is_in: flags & 0x80 != 0, block, block_length })
    }
}

/// bCSWStatus (§5.2, table 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Command passed.
    Passed = 0,
    /// Command failed: the sense data says why.
    Failed = 1,
    /// The host and the device disagree on the data.
    PhaseError = 2,
}

/// A status (CSW, §5.2). `residue` is what the host expected less what was processed.
pub(super) fn status(tag: u32, residue: u32, verdict: Verdict) -> [u8; STATUS_BYTES] {
    let mut bytes = [0; STATUS_BYTES];
    bytes[..4].copy_from_slice(&STATUS_SIGNATURE);
    bytes[4..8].copy_from_slice(&tag.to_le_bytes());
    bytes[8..12].copy_from_slice(&residue.to_le_bytes());
    bytes[12] = verdict as u8;
    bytes
}
