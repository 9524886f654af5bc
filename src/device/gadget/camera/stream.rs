//! Frames on their way to the host, cut into payloads (USB Video Class 1.1 §2.4.3).
//!
//! Frame N is due N intervals after the stream's first service. A frame that is due while another
//! is being sent waits for its end. If the next one becomes due as well before it has begun, it is
//! dropped, as a sensor overwrites a picture that nobody took: the host then sees a gap in the
//! numbers. While the endpoint is served as negotiated this never happens.

use std::time::Duration;

use super::super::function::{Answer, Then, Transfer};
use super::CLOCK_HZ;
use super::jpeg;
use super::modes::Format;
use super::picture::{Picture, Size};

/// Bytes of a payload header: length, flags, presentation time, source clock (§2.4.3.3).
pub(super) const HEADER_BYTES: usize = 12;

/// Flags of a payload header. The identifier of the frame is bit 0.
const END_OF_FRAME: u8 = 1 << 1;
const PRESENTATION_TIME: u8 = 1 << 2;
const SOURCE_CLOCK: u8 = 1 << 3;
const END_OF_HEADER: u8 = 1 << 7;

/// What host and camera have agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    pub(super) format: Format,
    pub(super) size: Size,
    pub(super) interval: Duration,
    /// Most bytes of a payload, its header included.
    pub(super) payload_bytes: usize,
    /// Frames wait until they are due. Not so for a bulk endpoint without a clock: there is no time
    /// between two of its transfers.
    pub(super) clocked: bool,
}

/// A stream of frames with the numbers 0, 1, 2 and so on.
#[derive(Debug)]
pub(super) struct Stream {
    agreement: Agreement,
    picture: Picture,
    /// Bus time of the first service.
    origin: Option<Duration>,
    /// Number of the frame that is being sent or comes next. Its lower 32 bits are in the picture.
    number: u64,
    /// Bit 0 of the headers, another one for each frame.
    identifier: u8,
    progress: Progress,
    /// The frame being sent; room for the largest.
    frame: Vec<u8>,
    /// The bulk payload that is under way.
    payload: Option<Payload>,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    /// The frame has not begun.
    Waiting,
    /// So many bytes of the frame are in payloads.
    Sending(usize),
}

/// A header and a piece of the frame.
#[derive(Clone, Copy, Debug)]
struct Payload {
    header: [u8; HEADER_BYTES],
    /// Where the piece begins in the frame.
    start: usize,
    /// Bytes with the header.
    length: usize,
    /// Bytes that have gone.
    sent: usize,
}

impl Stream {
    /// Allocates all that the stream will need.
    pub(super) fn new(agreement: Agreement) -> Self {
        let Agreement { format, size, .. } = agreement;
        Self {
            agreement,
            picture: Picture::new(size),
            origin: None,
            number: 0,
            identifier: 1,
            progress: Progress::Waiting,
            frame: Vec::with_capacity(format.frame_bytes(size)),
            payload: None,
        }
    }

    /// One isochronous packet, which is one payload; without data between two frames.
    pub(super) fn isochronous(&mut self, time: Duration, data: &mut [u8]) -> Answer {
        let room = data.len().min(self.agreement.payload_bytes);
        match self.next_payload(time, room) {
            Some(mut payload) => {
                let bytes = payload.length;
                payload.copy(&self.frame, &mut data[..bytes]);
                Answer { bytes, then: Then::Short }
            }
            None => Answer::nothing(Then::Wait),
        }
    }

    /// Packets of a bulk transfer. A payload that is shorter than the negotiated size ends with a
    /// short packet (§2.4.3.2.2), and so ends the transfer too.
    pub(super) fn bulk(&mut self, transfer: &Transfer, data: &mut [u8]) -> Answer {
        let packet_bytes = usize::from(transfer.max_packet_size);
        let full = self.agreement.payload_bytes;
        let mut given = 0;
        while given < data.len() || given == 0 {
            let payload = self.payload.take().or_else(|| self.next_payload(transfer.time, full));
            let Some(mut payload) = payload else {
                return Answer { bytes: given, then: Then::Wait };
            };
            let room = data.len() - given;
            let left = payload.length - payload.sent;
            let fits = if left <= room { left } else { room / packet_bytes * packet_bytes };
            if fits == 0 && left > 0 {
                // The packet is lost to the host, as on a bus.
                payload.sent += left.min(packet_bytes);
                self.payload = Some(payload);
                return Answer { bytes: given, then: Then::Overflow };
            }
            payload.copy(&self.frame, &mut data[given..given + fits]);
            given += fits;
            let ended = payload.sent == payload.length;
            let whole_packets = payload.length.is_multiple_of(packet_bytes);
            let owes_empty_packet = ended && payload.length < full && whole_packets;
            if ended && !whole_packets || owes_empty_packet && (given < data.len() || given == 0) {
                return Answer { bytes: given, then: Then::Short };
            }
            self.payload = (!ended || owes_empty_packet).then_some(payload);
        }
        Answer::all(given)
    }

    /// Bus time at which the next frame is due, if that is all that the stream waits for.
    pub(super) fn next_due(&self) -> Option<Duration> {
        match self.progress {
            Progress::Waiting => Some(self.origin? + self.since_origin()),
            Progress::Sending(_) => None,
        }
    }

    /// Cuts the next payload of at most `room` bytes; `None` if no frame is due.
    fn next_payload(&mut self, time: Duration, room: usize) -> Option<Payload> {
        let data = room.checked_sub(HEADER_BYTES).filter(|data| *data > 0)?;
        let start = match self.progress {
            Progress::Sending(position) => position,
            Progress::Waiting => self.begin(time).then_some(0)?,
        };
        let end = self.frame.len().min(start + data);
        let last = end == self.frame.len();
        let header = self.header(time, last);
        if last {
            self.progress = Progress::Waiting;
            self.number += 1;
        } else {
            self.progress = Progress::Sending(end);
        }
        Some(Payload { header, start, length: HEADER_BYTES + end - start, sent: 0 })
    }

    /// Makes the frame that is to be sent now, if there is one.
    fn begin(&mut self, time: Duration) -> bool {
        let origin = *self.origin.get_or_insert(time);
        if self.agreement.clocked {
            let elapsed = time.saturating_sub(origin).as_nanos();
            let newest = elapsed / self.agreement.interval.as_nanos();
            let newest = u64::try_from(newest).expect("centuries of microframes");
            if newest < self.number {
                return false;
            }
            self.number = newest;
        }
        self.picture.draw(self.number as u32);
        match self.agreement.format {
            Format::Yuy2 => self.picture.yuy2(&mut self.frame),
            Format::Mjpeg => jpeg::encode(&self.picture, &mut self.frame),
        }
        self.identifier ^= 1;
        true
    }

    /// Time between the first frame and the one that is next.
    fn since_origin(&self) -> Duration {
        let nanoseconds = self.agreement.interval.as_nanos() as u64 * self.number;
        Duration::from_nanos(nanoseconds)
    }

    /// The presentation time is when the frame was taken, the source clock when the payload leaves.
    fn header(&self, time: Duration, last: bool) -> [u8; HEADER_BYTES] {
        let taken = self.origin.unwrap_or_default() + self.since_origin();
        // Where no time passes, pictures come as fast as they are fetched, and time with them.
        let now = time.max(taken);
        let mut flags = self.identifier | PRESENTATION_TIME | SOURCE_CLOCK | END_OF_HEADER;
        if last {
            flags |= END_OF_FRAME;
        }
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[HEADER_BYTES as u8, flags]);
        header[2..6].copy_from_slice(&ticks(taken).to_le_bytes());
        header[6..10].copy_from_slice(&ticks(now).to_le_bytes());
        // The token of the start of frame has 11 bits and counts milliseconds.
        header[10..].copy_from_slice(&((now.as_millis() & 0x7ff) as u16).to_le_bytes());
        header
    }
}

impl Payload {
    /// Moves the next bytes, as many as there is room for.
    fn copy(&mut self, frame: &[u8], mut data: &mut [u8]) {
        let end = self.sent + data.len();
        if self.sent < HEADER_BYTES {
            let header = &self.header[self.sent..HEADER_BYTES.min(end)];
            data[..header.len()].copy_from_slice(header);
            data = &mut data[header.len()..];
            self.sent += header.len();
        }
        let at = self.start + self.sent - HEADER_BYTES.min(self.sent);
        data.copy_from_slice(&frame[at..at + data.len()]);
        self.sent = end;
    }
}

/// Time in ticks of the camera's clock, as far as they fit the field.
fn ticks(time: Duration) -> u32 {
    (time.as_nanos() * u128::from(CLOCK_HZ) / 1_000_000_000) as u32
}
