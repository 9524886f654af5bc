//! SCSI commands of a disk (SPC-4, SBC-3): what a command block asks for, and sense data.

use super::BLOCK_BYTES;

/// Why a command failed: sense key, additional sense code and its qualifier (SPC-4 §4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sense {
    pub(super) key: u8,
    pub(super) code: u8,
    pub(super) qualifier: u8,
    /// It concerns an earlier command, which had been reported as passed.
    pub(super) deferred: bool,
}

impl Sense {
    pub(super) const STOPPED: Self = Self::new(2, 0x04, 0x02);
    pub(super) const READ_ERROR: Self = Self::new(3, 0x11, 0x00);
    pub(super) const WRITE_ERROR: Self = Self::new(3, 0x0c, 0x00);
    pub(super) const UNKNOWN_COMMAND: Self = Self::new(5, 0x20, 0x00);
    pub(super) const OUT_OF_RANGE: Self = Self::new(5, 0x21, 0x00);
    pub(super) const INVALID_FIELD: Self = Self::new(5, 0x24, 0x00);
    pub(super) const RESET: Self = Self::new(6, 0x29, 0x00);
    pub(super) const WRITE_PROTECTED: Self = Self::new(7, 0x27, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier, deferred: false }
    }

    /// Fixed format (SPC-4 §4.5.3).
    pub(super) fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[0] = if self.deferred { 0x71 } else { 0x70 };
        bytes[2] = self.key;
        bytes[7] = 10;
        bytes[12] = self.code;
        bytes[13] = self.qualifier;
        bytes
    }
}

/// What a command block asks for. Ranges are within the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// INQUIRY: standard data, or a page of vital product data.
    Inquiry { page: Option<u8>, room: usize },
    /// MODE SENSE: the header's form and a page, 0x3f for all.
    ModeSense { long: bool, page: u8, room: usize },
    /// PREVENT ALLOW MEDIUM REMOVAL, VERIFY without comparison: nothing to be done.
    Nothing,
    /// READ.
    Read(Range),
    /// READ CAPACITY.
    ReadCapacity { long: bool, room: usize },
    /// REPORT LUNS.
    ReportUnits { room: usize },
    /// REQUEST SENSE.
    Sense { room: usize },
    /// START STOP UNIT.
    Spin { start: bool },
    /// SYNCHRONIZE CACHE.
    Synchronize,
    /// TEST UNIT READY.
    TestReady,
    /// WRITE; `durable`: on the medium before the status (FUA).
    Write { range: Range, durable: bool },
}

/// Bytes of the medium, whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Reads a command block; `length` is what the host says of it.
pub(super) fn decode(block: &[u8; 16], length: usize, blocks: u64) -> Result<Request, Sense> {
    let c = Fields(block);
    if length < block_length(block[0]) {
        return Err(Sense::INVALID_FIELD);
    }
    let range = |first: u64, count: u64| range(first, count, blocks);
    Ok(match block[0] {
        opcode::TEST_UNIT_READY => Request::TestReady,
        opcode::REQUEST_SENSE => Request::Sense { room: c.byte(4) as usize },
        opcode::READ_6 => Request::Read(range(c.first_6(), c.count_6())?),
        opcode::WRITE_6 => {
            Request::Write { range: range(c.first_6(), c.count_6())?, durable: false }
        }
        opcode::INQUIRY => inquiry(&c)?,
        opcode::MODE_SENSE_6 => mode_sense(&c, false, c.byte(4) as usize)?,
        opcode::MODE_SENSE_10 => mode_sense(&c, true, c.half(7) as usize)?,
        opcode::START_STOP => start_stop(&c)?,
        opcode::PREVENT_ALLOW => Request::Nothing,
        opcode::READ_CAPACITY_10 => Request::ReadCapacity { long: false, room: 8 },
        opcode::SERVICE_ACTION_IN => match c.byte(1) & 0x1f {
            0x10 => Request::ReadCapacity { long: true, room: c.word(10) as usize },
            _ => return Err(Sense::INVALID_FIELD),
        },
        opcode::READ_10 => Request::Read(range(c.word(2), c.half(7))?),
        opcode::READ_12 => Request::Read(range(c.word(2), c.word(6))?),
        opcode::READ_16 => Request::Read(range(c.long(2), c.word(10))?),
        opcode::WRITE_10 => write(&c, range(c.word(2), c.half(7))?),
        opcode::WRITE_12 => write(&c, range(c.word(2), c.word(6))?),
        opcode::WRITE_16 => write(&c, range(c.long(2), c.word(10))?),
        opcode::VERIFY_10 => verify(&c, range(c.word(2), c.half(7)))?,
        opcode::VERIFY_12 => verify(&c, range(c.word(2), c.word(6)))?,
        opcode::VERIFY_16 => verify(&c, range(c.long(2), c.word(10)))?,
        // All of the cache is written whatever range is named, so only its bounds matter.
        opcode::SYNCHRONIZE_10 => {
            range(c.word(2), c.half(7))?;
            Request::Synchronize
        }
        opcode::SYNCHRONIZE_16 => {
            range(c.long(2), c.word(10))?;
            Request::Synchronize
        }
        opcode::REPORT_LUNS => match c.byte(2) {
            0..=2 => Request::ReportUnits { room: c.word(6) as usize },
            _ => return Err(Sense::INVALID_FIELD),
        },
        _ => return Err(Sense::UNKNOWN_COMMAND),
    })
}

impl Request {
    /// Whether it is carried out, and leaves the sense data alone, whatever state the unit is in
    /// (SPC-4 §5.14, SAM-5 §5.14).
    pub(super) fn ignores_attention(self) -> bool {
        matches!(self, Self::Inquiry { .. } | Self::ReportUnits { .. } | Self::Sense { .. })
    }

    /// Whether it needs a unit that was not stopped.
    pub(super) fn needs_medium(self) -> bool {
        !self.ignores_attention() && !matches!(self, Self::Spin { .. } | Self::ModeSense { .. })
    }
}

fn inquiry(c: &Fields<'_>) -> Result<Request, Sense> {
    let room = c.half(3) as usize;
    match (c.byte(1) & 1, block_page(c)) {
        (0, 0) => Ok(Request::Inquiry { page: None, room }),
        (1, page @ (0x00 | 0x80 | 0x83)) => Ok(Request::Inquiry { page: Some(page), room }),
        _ => Err(Sense::INVALID_FIELD),
    }
}

fn block_page(c: &Fields<'_>) -> u8 {
    c.0[2]
}

/// Current and default values are the same; none can be changed.
fn mode_sense(c: &Fields<'_>, long: bool, room: usize) -> Result<Request, Sense> {
    let page = block_page(c) & 0x3f;
    match page {
        0x08 | 0x3f => Ok(Request::ModeSense { long, page, room }),
        _ => Err(Sense::INVALID_FIELD),
    }
}

/// The medium cannot be removed, so it is not loaded or ejected.
fn start_stop(c: &Fields<'_>) -> Result<Request, Sense> {
    match c.byte(4) & 3 {
        0 => Ok(Request::Spin { start: false }),
        1 => Ok(Request::Spin { start: true }),
        _ => Err(Sense::INVALID_FIELD),
    }
}

fn write(c: &Fields<'_>, range: Range) -> Request {
    Request::Write { range, durable: c.byte(1) & 0x08 != 0 }
}

/// BYTCHK, a comparison with data of the host, is not done.
fn verify(c: &Fields<'_>, range: Result<Range, Sense>) -> Result<Request, Sense> {
    if c.byte(1) & 0x06 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    range.map(|_| Request::Nothing)
}

fn range(first: u64, count: u64, blocks: u64) -> Result<Range, Sense> {
    match first.checked_add(count) {
        Some(end) if end <= blocks => {
            Ok(Range { offset: first * BLOCK_BYTES, length: count * BLOCK_BYTES })
        }
        _ => Err(Sense::OUT_OF_RANGE),
    }
}

/// Bytes of a command block by its group (SPC-4 §4.2.5.1).
fn block_length(code: u8) -> usize {
    match code >> 5 {
        0 => 6,
        1 | 2 => 10,
        4 => 16,
        5 => 12,
        _ => 1,
    }
}

/// Big-endian fields.
struct Fields<'a>(&'a [u8; 16]);

impl Fields<'_> {
    fn byte(&self, at: usize) -> u64 {
        self.0[at].into()
    }

    fn half(&self, at: usize) -> u64 {
        self.byte(at) << 8 | self.byte(at + 1)
    }

    fn word(&self, at: usize) -> u64 {
        self.half(at) << 16 | self.half(at + 2)
    }

    fn long(&self, at: usize) -> u64 {
        self.word(at) << 32 | self.word(at + 4)
    }

    fn first_6(&self) -> u64 {
        self.word(0) & 0x1f_ffff
    }

    /// No blocks mean 256 in the commands of six bytes.
    fn count_6(&self) -> u64 {
        if self.byte(4) == 0 { 256 } else { self.byte(4) }
    }
}

/// Operation codes.
pub(super) mod opcode {
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    pub(crate) const READ_6: u8 = 0x08;
    pub(crate) const WRITE_6: u8 = 0x0a;
    pub(crate) const INQUIRY: u8 = 0x12;
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    pub(crate) const START_STOP: u8 = 0x1b;
    pub(crate) const PREVENT_ALLOW: u8 = 0x1e;
    pub(crate) const READ_CAPACITY_10: u8 = 0x25;
    pub(crate) const READ_10: u8 = 0x28;
    pub(crate) const WRITE_10: u8 = 0x2a;
    pub(crate) const VERIFY_10: u8 = 0x2f;
    pub(crate) const SYNCHRONIZE_10: u8 = 0x35;
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    pub(crate) const READ_16: u8 = 0x88;
    pub(crate) const WRITE_16: u8 = 0x8a;
    pub(crate) const VERIFY_16: u8 = 0x8f;
    pub(crate) const SYNCHRONIZE_16: u8 = 0x91;
    pub(crate) const SERVICE_ACTION_IN: u8 = 0x9e;
    pub(crate) const REPORT_LUNS: u8 = 0xa0;
    pub(crate) const READ_12: u8 = 0xa8;
    pub(crate) const WRITE_12: u8 = 0xaa;
    pub(crate) const VERIFY_12: u8 = 0xaf;
}
