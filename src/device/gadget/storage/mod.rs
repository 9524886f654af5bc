//! A disk: SCSI commands over the Bulk-Only Transport, on memory or on a file.
//!
//! One command at a time: a wrapper on bulk OUT, data in the direction it names, a status on bulk
//! IN. The host's length and the command's own are compared before anything is done; the thirteen
//! cases of the transport (§6.7) come down to four rules:
//!
//! * they agree (1, 6, 12): the data moves, then the status;
//! * the host expects more (4, 5, 9, 11): what there is moves, a stall ends it, the residue says
//!   how much is missing;
//! * the host expects less, or the other direction (2, 3, 7, 8, 10, 13): nothing is done, a stall
//!   ends the data and the status is a phase error;
//! * a wrapper that is none stalls both endpoints until a Bulk-Only Mass Storage Reset (§6.6.1).

mod bulk_only;
mod descriptors;
mod file;
mod medium;
mod options;
mod pages;
mod scsi;

use usbip_fast_native::{Doorbell, OsError};

use self::bulk_only::{STATUS_BYTES, Verdict, Wrapper, status};
use self::medium::Medium;
pub use self::options::StorageOptions;
use self::pages::Page;
use self::scsi::{Request, Sense};
use super::export::{GadgetExport, Identity};
use super::function::{Answer, Change, Function, Stall, Then, Transfer, Wake};
use crate::usb::setup::Setup;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 512;

/// Bulk-Only Mass Storage Reset (§3.1).
const RESET: Setup = Setup { request_type: 0x21, request: 0xff, value: 0, index: 0, length: 0 };

/// Get Max LUN (§3.2).
const GET_MAX_LUN: Setup =
    Setup { request_type: 0xa1, request: 0xfe, value: 0, index: 0, length: 1 };

/// What makes a simulated device a disk.
#[derive(Debug)]
pub struct Storage {
    medium: Medium,
    read_only: bool,
    serial: String,
    phase: Phase,
    tag: u32,
    /// What the host expected and was not processed yet.
    residue: u32,
    verdict: Verdict,
    /// The cache is written before the status.
    durable: bool,
    sense: Sense,
    /// The host has not been told yet that the unit was reset.
    attention: bool,
    stopped: bool,
    page: Page,
    counters: Counters,
}

/// What the transport does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Awaits a wrapper.
    Command,
    /// Sends the page from this byte on, up to that one.
    Telling(usize, usize),
    /// Sends bytes of the medium: offset and what is left.
    Reading(u64, u64),
    /// Takes bytes for the medium: offset and what is left.
    Writing(u64, u64),
    /// Ends the data with a stall of bulk IN.
    StallingIn,
    /// Ends the data with a stall of bulk OUT.
    StallingOut,
    /// Sends the status.
    Status,
    /// No wrapper is taken before a reset.
    Broken,
}

/// What was done since the session began.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    reads: u64,
    writes: u64,
    synchronizations: u64,
}

/// An exported disk.
pub type StorageExport = GadgetExport<Storage>;

impl StorageExport {
    /// The device `sim-NUMBER` with these options, on the medium that was made by them.
    #[must_use]
    pub fn storage(options: &StorageOptions, number: u8) -> Self {
        let serial = options.serial(number);
        let identity = Identity {
            number,
            manufacturer_name: descriptors::MANUFACTURER,
            product_name: descriptors::PRODUCT,
            serial: &serial,
        };
        let storage = Storage::new(options.medium(), options.read_only, serial.clone());
        Self::new(storage, options.descriptors(&serial), options.pace, identity)
    }
}

impl Storage {
    fn new(medium: Medium, read_only: bool, serial: String) -> Self {
        Self {
            medium,
            read_only,
            serial,
            phase: Phase::Command,
            tag: 0,
            residue: 0,
            verdict: Verdict::Passed,
            durable: false,
            sense: Sense::default(),
            attention: true,
            stopped: false,
            page: Page::default(),
            counters: Counters::default(),
        }
    }

    /// Takes a wrapper: decides what the host gets and when.
    fn begin(&mut self, wrapper: &Wrapper) {
        self.tag = wrapper.tag;
        self.residue = wrapper.length;
        self.verdict = Verdict::Passed;
        self.durable = false;
        let blocks = self.medium.bytes() / BLOCK_BYTES;
        let request = scsi::decode(&wrapper.block, wrapper.block_length, blocks);
        let data = request.and_then(|request| {
            self.check(request)?;
            self.prepare(request)
        });
        self.phase = match data {
            Ok(data) => self.reconcile(data, wrapper),
            Err(sense) => {
                self.fail(sense);
                self.without_data(wrapper)
            }
        };
        match self.phase {
            Phase::Reading(offset, left) => {
                self.counters.reads += 1;
                self.medium.begin_read(offset, left);
            }
            Phase::Writing(..) => {
                self.counters.writes += 1;
                self.medium.begin_write();
            }
            _ => {}
        }
    }

    /// What stands against a command whatever it is (SPC-4 §5.14, SBC-3 §5.25).
    fn check(&mut self, request: Request) -> Result<(), Sense> {
        if request.ignores_attention() {
            return Ok(());
        }
        if std::mem::take(&mut self.attention) {
            return Err(Sense::RESET);
        }
        if self.medium.take_error().is_some() {
            return Err(Sense { deferred: true, ..Sense::WRITE_ERROR });
        }
        if self.stopped && request.needs_medium() {
            return Err(Sense::STOPPED);
        }
        let writes = matches!(request, Request::Write { .. });
        if writes && self.read_only { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
    }

    /// What a command that may be carried out moves, if the host agrees.
    fn prepare(&mut self, request: Request) -> Result<Data, Sense> {
        let room = match request {
            Request::Inquiry { page: None, room } => {
                self.page.inquiry();
                room
            }
            Request::Inquiry { page: Some(page), room } => {
                self.page.product_data(page, &self.serial);
                room
            }
            Request::ModeSense { long, room, .. } => {
                self.page.mode(long, self.read_only);
                room
            }
            Request::ReadCapacity { long, room } => {
                self.page.capacity(long, self.medium.bytes() / BLOCK_BYTES);
                room
            }
            Request::ReportUnits { room } => {
                self.page.units();
                room
            }
            Request::Sense { room } => {
                // Without sense data it tells of the reset, and the host knows then.
                if self.sense == Sense::default() && std::mem::take(&mut self.attention) {
                    self.sense = Sense::RESET;
                }
                self.page.set(&std::mem::take(&mut self.sense).to_bytes());
                room
            }
            Request::Read(range) => return Ok(Data::Read(range)),
            Request::Write { range, durable } => {
                self.durable = durable;
                return Ok(Data::Write(range));
            }
            Request::Spin { start } => {
                self.stopped = !start;
                self.durable = !start;
                return Ok(Data::None);
            }
            Request::Synchronize => {
                self.durable = true;
                return Ok(Data::None);
            }
            Request::Nothing | Request::TestReady => return Ok(Data::None),
        };
        Ok(Data::Page(self.page.bytes().len().min(room)))
    }

    /// Compares what the command moves with what the host expects (§6.7).
    fn reconcile(&mut self, data: Data, wrapper: &Wrapper) -> Phase {
        let (length, is_in) = match data {
            Data::None => (0, wrapper.is_in),
            Data::Page(length) => (length as u64, true),
            Data::Read(range) => (range.length, true),
            Data::Write(range) => (range.length, false),
        };
        if length > wrapper.length.into() || length > 0 && is_in != wrapper.is_in {
            self.verdict = Verdict::PhaseError;
            self.durable = false;
            return self.without_data(wrapper);
        }
        match data {
            _ if length == 0 => self.without_data(wrapper),
            Data::Page(length) => Phase::Telling(0, length),
            Data::Read(range) => Phase::Reading(range.offset, range.length),
            Data::Write(range) => Phase::Writing(range.offset, range.length),
            Data::None => unreachable!("it has no length"),
        }
    }

    /// No data moves, whatever the host expects.
    fn without_data(&self, wrapper: &Wrapper) -> Phase {
        match (wrapper.length, wrapper.is_in) {
            (0, _) => Phase::Status,
            (_, true) => Phase::StallingIn,
            (_, false) => Phase::StallingOut,
        }
    }

    fn fail(&mut self, sense: Sense) {
        self.sense = sense;
        self.verdict = Verdict::Failed;
    }

    /// Packets of a page.
    fn tell(&mut self, at: usize, end: usize, packet: usize, data: &mut [u8]) -> Answer {
        let count = match fitting(data.len(), (end - at) as u64, packet) {
            Some(count) => count,
            None => return Answer::nothing(Then::Overflow),
        };
        data[..count].copy_from_slice(&self.page.bytes()[at..at + count]);
        self.phase = Phase::Telling(at + count, end);
        self.sent(count, at + count == end, packet, data.len())
    }

    /// Packets of the medium.
    fn read(&mut self, offset: u64, left: u64, packet: usize, data: &mut [u8]) -> Answer {
        let Some(wanted) = fitting(data.len(), left, packet) else {
            return Answer::nothing(Then::Overflow);
        };
        let found = match self.medium.read(offset, &mut data[..wanted]) {
            Ok(found) => found,
            Err(error) => return self.read_failed(offset, error),
        };
        // Only the last packet of the command is short.
        let count = if found == wanted { found } else { found - found % packet };
        self.phase = Phase::Reading(offset + count as u64, left - count as u64);
        self.sent(count, left == count as u64, packet, data.len())
    }

    fn read_failed(&mut self, offset: u64, error: OsError) -> Answer {
        tracing::warn!(offset, %error, "the disk's file cannot be read");
        self.fail(Sense::READ_ERROR);
        self.phase = Phase::Status;
        Answer::nothing(Then::Stall)
    }

    /// What follows `count` bytes given to the host, which had room for `room`.
    fn sent(&mut self, count: usize, done: bool, packet: usize, room: usize) -> Answer {
        self.residue -= u32::try_from(count).expect("no more than the host expects");
        let full = count == room;
        let then = match done {
            false => {
                if full {
                    Then::Continue
                } else {
                    Then::Wait
                }
            }
            true if self.residue == 0 => {
                self.phase = Phase::Status;
                let short = !count.is_multiple_of(packet);
                // Behind whole packets the status follows in the same transfer, if it goes on.
                if full {
                    Then::Continue
                } else if short {
                    Then::Short
                } else {
                    Then::Wait
                }
            }
            true if full || !count.is_multiple_of(packet) => {
                self.phase = Phase::StallingIn;
                if full { Then::Continue } else { Then::Short }
            }
            true => {
                self.phase = Phase::Status;
                Then::Stall
            }
        };
        Answer { bytes: count, then }
    }

    /// Packets for the medium; the host stops early with a short one.
    fn write(&mut self, offset: u64, left: u64, packet: usize, data: &[u8]) -> Answer {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        let room = self.medium.room(wanted);
        let accepted = if room < wanted { room - room % packet } else { wanted };
        // A block that the host did not send whole is not written.
        let count = accepted - accepted % BLOCK_BYTES as usize;
        self.medium.write(offset, &data[..count]);
        self.residue -= u32::try_from(count).expect("no more than the host expects");
        let left = left - count as u64;
        self.phase = Phase::Writing(offset + count as u64, left);
        if accepted < wanted {
            return Answer { bytes: accepted, then: Then::Wait };
        }
        let is_short = data.is_empty() || !data.len().is_multiple_of(packet);
        if left > 0 && !is_short {
            return Answer::all(data.len());
        }
        self.medium.end_write();
        // The packet that the end was in has been taken whole; what follows it is not.
        let bytes = accepted.next_multiple_of(packet).min(data.len());
        if bytes < data.len() {
            self.phase = Phase::Status;
            return Answer { bytes, then: Then::Stall };
        }
        let awaits_more = self.residue as usize > bytes - count && !is_short;
        self.phase = if awaits_more { Phase::StallingOut } else { Phase::Status };
        Answer::all(bytes)
    }

    /// The status, once the medium is as far as it has to be.
    fn conclude(&mut self, data: &mut [u8]) -> Answer {
        if data.len() < STATUS_BYTES {
            return Answer::nothing(Then::Overflow);
        }
        if self.durable {
            let Some(result) = self.medium.synchronize() else {
                return Answer::nothing(Then::Wait);
            };
            self.durable = false;
            self.counters.synchronizations += 1;
            if let Err(error) = result {
                tracing::warn!(%error, "the disk's file cannot be written");
                self.fail(Sense::WRITE_ERROR);
            }
        }
        data[..STATUS_BYTES].copy_from_slice(&status(self.tag, self.residue, self.verdict));
        self.phase = Phase::Command;
        let then = if data.len() == STATUS_BYTES { Then::Continue } else { Then::Short };
        Answer { bytes: STATUS_BYTES, then }
    }

    /// What was under way is void.
    fn abort(&mut self) {
        self.phase = Phase::Command;
        self.durable = false;
        self.medium.abort();
    }

    fn log_use(&mut self) {
        let Counters { reads, writes, synchronizations } = std::mem::take(&mut self.counters);
        if reads + writes + synchronizations > 0 {
            let serial = &self.serial;
            tracing::info!(serial, reads, writes, synchronizations, "use of the disk ended");
        }
    }
}

/// What a command moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    None,
    Page(usize),
    Read(scsi::Range),
    Write(scsi::Range),
}

/// How much of what is left fits into the host's room: all, or whole packets. `None` where the next
/// packet does not fit.
fn fitting(room: usize, left: u64, packet: usize) -> Option<usize> {
    match usize::try_from(left) {
        Ok(left) if left <= room => Some(left),
        _ => Some(room - room % packet).filter(|&whole| whole > 0),
    }
}

impl Function for Storage {
    fn control_in(&mut self, setup: Setup, data: &mut [u8]) -> Result<usize, Stall> {
        if setup != GET_MAX_LUN {
            return Err(Stall);
        }
        let first = data.first_mut().ok_or(Stall)?;
        *first = 0;
        Ok(1)
    }

    fn control_out(&mut self, setup: Setup, _data: &[u8]) -> Result<(), Stall> {
        if setup != RESET {
            return Err(Stall);
        }
        self.abort();
        Ok(())
    }

    fn data_in(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        let packet = usize::from(transfer.max_packet_size);
        match self.phase {
            Phase::Telling(at, end) => self.tell(at, end, packet, data),
            Phase::Reading(offset, left) => self.read(offset, left, packet, data),
            Phase::Status => self.conclude(data),
            Phase::StallingIn => {
                self.phase = Phase::Status;
                Answer::nothing(Then::Stall)
            }
            Phase::Broken => Answer::nothing(Then::Stall),
            Phase::Command | Phase::StallingOut | Phase::Writing(..) => Answer::nothing(Then::Wait),
        }
    }

    fn data_out(&mut self, transfer: &Transfer, data: &[u8]) -> Answer {
        match self.phase {
            Phase::Command => match Wrapper::parse(data) {
                Some(wrapper) => {
                    self.begin(&wrapper);
                    Answer::all(data.len())
                }
                None => {
                    self.phase = Phase::Broken;
                    Answer::nothing(Then::Stall)
                }
            },
            Phase::Writing(offset, left) => {
                self.write(offset, left, usize::from(transfer.max_packet_size), data)
            }
            Phase::StallingOut => {
                self.phase = Phase::Status;
                Answer::nothing(Then::Stall)
            }
            Phase::Broken => Answer::nothing(Then::Stall),
            Phase::Telling(..) | Phase::Reading(..) | Phase::StallingIn | Phase::Status => {
                Answer::nothing(Then::Wait)
            }
        }
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Configuration(_) => self.abort(),
            Change::Reset => {
                self.abort();
                self.sense = Sense::default();
                self.attention = true;
                self.stopped = false;
                self.log_use();
            }
            Change::Interface { .. } | Change::Halted(_) | Change::HaltCleared(_) => {}
        }
    }

    fn opened(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        self.medium.opened(doorbell)
    }

    fn handle_doorbell(&mut self) -> Wake {
        if self.medium.handle_doorbell() { Wake::Again } else { Wake::Nothing }
    }
}

#[cfg(test)]
mod tests;
