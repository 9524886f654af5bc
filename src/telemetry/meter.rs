//! What a session counts: plain numbers, owned by the session, written by its core alone.
//!
//! The session tells its meter of each URB three times: when the device gets it, when the device
//! has finished it, and when its answer is in a send. Nothing is allocated per URB once the tables
//! have the size that the client uses.

use std::time::Duration;

use crate::telemetry::histogram::Histogram;
use crate::telemetry::report::{EndpointReport, ErrorReport};
use crate::usb::errno::{ECONNRESET, ENOENT, EPIPE, EREMOTEIO, ESHUTDOWN, EXDEV};
use crate::usb::isochronous;
use crate::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferType,
};

/// A periodic endpoint without a URB for longer than this was stopped, not starved.
const STREAM_GAP: Duration = Duration::from_millis(100);

/// A send that the network takes at once is back sooner, however long it is.
const BLOCKED: Duration = Duration::from_millis(1);

/// The meter of a session.
#[derive(Debug, Default)]
pub struct Meter {
    /// URBs that are not answered, by slot.
    urbs: Vec<Option<Metered>>,
    /// Place in `endpoints` and one, by number and direction; 0 for none.
    places: [u8; 32],
    endpoints: Vec<EndpointMeter>,
    /// Answers in the send in flight.
    answers: Vec<Metered>,
    received_bytes: u64,
    sent_bytes: u64,
    send: Option<Send>,
    blocked: Duration,
}

/// The send operation in flight.
#[derive(Clone, Copy, Debug)]
struct Send {
    since: Duration,
    /// Where the network takes it at once, it is told of with the next thing that happens only.
    is_quiet: bool,
    /// That next thing has happened, and it was not told of.
    has_waited: bool,
}

impl Send {
    /// How long it has waited for the network.
    fn blocked(self, now: Duration) -> Duration {
        let elapsed = self.end(now).saturating_sub(self.since);
        if elapsed < BLOCKED { Duration::ZERO } else { elapsed }
    }

    /// When the network has taken it, as far as that can be told `now`.
    fn end(self, now: Duration) -> Duration {
        if self.is_quiet && !self.has_waited { self.since } else { now }
    }
}

/// What is remembered of a URB.
#[derive(Clone, Copy, Debug)]
struct Metered {
    /// Place in the list of endpoints.
    place: u8,
    direction: Direction,
    packets: u32,
    length: u32,
    since: Duration,
}

#[derive(Debug)]
struct EndpointMeter {
    address: u8,
    kind: TransferType,
    urbs: u64,
    packets: u64,
    bytes_in: u64,
    bytes_out: u64,
    errors: ErrorReport,
    late: u64,
    in_flight: u64,
    in_flight_max: u64,
    low_water: LowWater,
    device_latency: Histogram,
    answer_latency: Histogram,
}

/// How near to starving a stream came.
#[derive(Clone, Copy, Debug, Default)]
struct LowWater {
    mark: Option<u64>,
    /// How often nothing was left, and how long.
    dry: u64,
    dry_time: Duration,
    /// Fewest left by the ends since the last beginning. Counts when the stream goes on: that it
    /// runs dry at its end is no sign of anything.
    left: Option<(u64, Duration)>,
}

impl LowWater {
    fn begun(&mut self, now: Duration) {
        if let Some((left, last)) = self.left.take()
            && now.saturating_sub(last) <= STREAM_GAP
        {
            self.mark = Some(self.mark.map_or(left, |mark| mark.min(left)));
            if left == 0 {
                self.dry += 1;
                self.dry_time += now.saturating_sub(last);
            }
        }
    }

    fn ended(&mut self, left: u64, now: Duration) {
        let fewest = self.left.map_or(left, |(fewest, _)| fewest.min(left));
        self.left = Some((fewest, now));
    }
}

impl Meter {
    /// The device gets a URB.
    pub fn submitted(&mut self, submission: &Submission, now: Duration) {
        let place = self.place_of(submission);
        let &Submission { slot, direction, packets, length, .. } = submission;
        let slot = slot as usize;
        if self.urbs.len() <= slot {
            self.urbs.resize(slot + 1, None);
        }
        self.urbs[slot] = Some(Metered { place, direction, packets, length, since: now });
        let endpoint = &mut self.endpoints[usize::from(place)];
        endpoint.in_flight += 1;
        endpoint.in_flight_max = endpoint.in_flight_max.max(endpoint.in_flight);
        if endpoint.is_periodic() {
            endpoint.low_water.begun(now);
        }
    }

    /// The device has finished a URB; `block` is its memory.
    pub fn finished(&mut self, finished: &Finished, block: &[u8], now: Duration) {
        let urb = self.urbs.get(finished.slot as usize).copied().flatten();
        let urb = urb.expect("a device returns URBs that it was given");
        let endpoint = &mut self.endpoints[usize::from(urb.place)];
        endpoint.finished(finished, &urb);
        if finished.error_count > 0 && finished.status == 0 {
            endpoint.late += late_packets(&urb, block);
        }
        endpoint.device_latency.record(micros(now.saturating_sub(urb.since)));
        let was_stopped = matches!(-finished.status, ECONNRESET | ENOENT | ESHUTDOWN);
        if endpoint.is_periodic() && !was_stopped {
            endpoint.low_water.ended(endpoint.in_flight, now);
        }
    }

    /// A send begins, with the answers to the URBs in these slots, if any.
    pub fn answered(&mut self, slots: &[u32]) {
        for &slot in slots {
            // A URB that never reached the device has no entry.
            if let Some(urb) = self.urbs.get_mut(slot as usize).and_then(Option::take) {
                self.answers.push(urb);
            }
        }
    }

    /// A send operation begins. That a quiet one has completed may be told much later, so one that
    /// comes back with the next thing that happens counts as taken at once.
    pub fn send_begins(&mut self, is_quiet: bool, now: Duration) {
        self.send = Some(Send { since: now, is_quiet, has_waited: false });
    }

    /// A turn ends.
    pub fn turn_ended(&mut self, now: Duration) {
        if let Some(send) = &mut self.send {
            send.has_waited |= send.since < now;
        }
    }

    /// A send operation is back. `all`: nothing of what was to be sent is left.
    pub fn send_ended(&mut self, bytes: usize, all: bool, now: Duration) {
        self.sent_bytes += bytes as u64;
        let send = self.send.take().expect("only a send that has begun ends");
        self.blocked += send.blocked(now);
        let end = send.end(now);
        if all {
            for urb in self.answers.drain(..) {
                let endpoint = &mut self.endpoints[usize::from(urb.place)];
                endpoint.answer_latency.record(micros(end.saturating_sub(urb.since)));
            }
        }
    }

    /// Bytes have come.
    pub fn received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
    }

    /// Bytes that have come, headers included.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Bytes that have left, headers included.
    #[must_use]
    pub const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// How long sends have waited for the network.
    #[must_use]
    pub fn send_blocked(&self, now: Duration) -> Duration {
        self.blocked + self.send.map_or(Duration::ZERO, |send| send.blocked(now))
    }

    /// The endpoints by number and direction; what was missed is the device's to tell.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointReport> {
        let used = self.places.iter().filter_map(|place| place.checked_sub(1));
        used.map(|place| self.endpoints[usize::from(place)].report()).collect()
    }

    fn place_of(&mut self, submission: &Submission) -> u8 {
        let &Submission { endpoint, direction, kind, .. } = submission;
        let is_in = direction == Direction::In && endpoint != 0;
        let index = usize::from(endpoint & 0x0f) * 2 + usize::from(is_in);
        if let Some(place) = self.places[index].checked_sub(1) {
            // Another alternate setting may have given the number to another type.
            self.endpoints[usize::from(place)].kind = kind;
            return place;
        }
        let place = u8::try_from(self.endpoints.len()).expect("there are 32 endpoints");
        let address = endpoint | if is_in { 0x80 } else { 0 };
        self.endpoints.push(EndpointMeter::new(address, kind));
        self.places[index] = place + 1;
        place
    }
}

impl EndpointMeter {
    fn new(address: u8, kind: TransferType) -> Self {
        Self {
            address,
            kind,
            urbs: 0,
            packets: 0,
            bytes_in: 0,
            bytes_out: 0,
            errors: ErrorReport::default(),
            late: 0,
            in_flight: 0,
            in_flight_max: 0,
            low_water: LowWater::default(),
            device_latency: Histogram::default(),
            answer_latency: Histogram::default(),
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.kind, TransferType::Isochronous | TransferType::Interrupt)
    }

    fn finished(&mut self, finished: &Finished, urb: &Metered) {
        self.in_flight -= 1;
        self.urbs += 1;
        self.packets += u64::from(urb.packets);
        self.errors.packets += u64::from(finished.error_count);
        // A device that claims more than the buffer holds is answered as an overflow.
        let bytes = u64::from(finished.actual_length.min(urb.length));
        match urb.direction {
            Direction::In => self.bytes_in += bytes,
            Direction::Out => self.bytes_out += bytes,
        }
        match -finished.status {
            0 => {}
            EREMOTEIO => self.errors.short += 1,
            EPIPE => self.errors.stall += 1,
            ECONNRESET | ENOENT | ESHUTDOWN => self.errors.unlinked += 1,
            _ => self.errors.other += 1,
        }
    }

    fn report(&self) -> EndpointReport {
        let kind = match self.kind {
            TransferType::Control => "control",
            TransferType::Isochronous => "isochronous",
            TransferType::Bulk => "bulk",
            TransferType::Interrupt => "interrupt",
        };
        EndpointReport {
            address: self.address,
            kind: kind.to_owned(),
            urbs: self.urbs,
            packets: self.packets,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            errors: self.errors,
            late: self.late,
            missed: 0,
            ahead: None,
            dry: self.low_water.dry,
            dry_us: micros(self.low_water.dry_time),
            in_flight: self.in_flight,
            in_flight_max: self.in_flight_max,
            in_flight_low: self.low_water.mark,
            device_latency_us: (&self.device_latency).into(),
            answer_latency_us: (&self.answer_latency).into(),
        }
    }
}

/// Packets that missed their (micro)frame.
fn late_packets(urb: &Metered, block: &[u8]) -> u64 {
    let start = BUFFER_OFFSET + urb.length as usize;
    let end = start + urb.packets as usize * ISO_PACKET_BYTES;
    let packets = block.get(start..end).map_or(&[][..], isochronous::packets);
    packets.iter().filter(|packet| packet.status.get() == -EXDEV).count() as u64
}

/// Whole microseconds.
#[must_use]
pub const fn micros(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000 + duration.subsec_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::transfer::{TransferFlags, block_bytes};

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn iso(slot: u32) -> Submission {
        Submission {
            slot,
            kind: TransferType::Isochronous,
            direction: Direction::In,
            endpoint: 2,
            setup: [0; 8],
            length: 1024,
            packets: 8,
            flags: TransferFlags::default(),
            start_frame: 0,
        }
    }

    fn done(slot: u32, status: i32) -> Finished {
        Finished { slot, status, actual_length: 1000, error_count: 1 }
    }

    fn only(meter: &Meter) -> EndpointReport {
        let [endpoint] = <[_; 1]>::try_from(meter.endpoints()).expect("one endpoint");
        endpoint
    }

    #[test]
    fn the_low_water_mark_is_of_a_stream_that_goes_on() {
        let mut meter = Meter::default();
        for slot in 0..4 {
            meter.submitted(&iso(slot), at(0));
        }
        assert_eq!(only(&meter).in_flight_low, None, "nothing has ended");
        meter.finished(&done(0, 0), &[], at(1));
        assert_eq!(only(&meter).in_flight_low, None, "it may be the end");
        meter.submitted(&iso(0), at(2));
        assert_eq!(only(&meter).in_flight_low, Some(3));
        meter.finished(&done(1, 0), &[], at(3));
        meter.finished(&done(2, 0), &[], at(3));
        meter.submitted(&iso(1), at(3));
        assert_eq!(only(&meter).in_flight_low, Some(2));
        // The stream is stopped: what is left runs out, or is unlinked.
        meter.finished(&done(3, 0), &[], at(4));
        meter.finished(&done(0, 0), &[], at(5));
        meter.finished(&done(1, -ECONNRESET), &[], at(5));
        meter.submitted(&iso(0), at(500));
        let report = only(&meter);
        assert_eq!((report.in_flight_low, report.in_flight, report.in_flight_max), (Some(2), 1, 4));
        // A stream that ran dry and went on at once was starved.
        meter.finished(&done(0, 0), &[], at(501));
        meter.submitted(&iso(0), at(502));
        let report = only(&meter);
        assert_eq!((report.in_flight_low, report.dry, report.dry_us), (Some(0), 1, 1000));
    }

    #[test]
    fn late_packets_are_told_by_their_status() {
        let mut meter = Meter::default();
        let mut block = vec![0; block_bytes(1024, 8)];
        let descriptors = isochronous::packets_mut(&mut block[BUFFER_OFFSET + 1024..]);
        descriptors[1].status = (-EXDEV).into();
        descriptors[2].status = (-EXDEV).into();
        descriptors[3].status = (-71).into();
        for (status, late) in [(0, 2), (-ECONNRESET, 2), (0, 4)] {
            meter.submitted(&iso(0), at(0));
            meter.finished(&Finished { error_count: 3, ..done(0, status) }, &block, at(0));
            assert_eq!(only(&meter).late, late, "not those of a URB that was stopped");
        }
    }

    #[test]
    fn urbs_are_counted_by_their_end() {
        let mut meter = Meter::default();
        let ends = [0, -EPIPE, -EREMOTEIO, -ECONNRESET, -71];
        for (slot, &status) in (0..).zip(&ends) {
            meter.submitted(&iso(slot), at(0));
            meter.finished(&Finished { actual_length: 5000, ..done(slot, status) }, &[], at(2));
        }
        let report = only(&meter);
        assert_eq!((report.urbs, report.packets, report.bytes_in), (5, 40, 5 * 1024));
        let expected = ErrorReport { short: 1, stall: 1, unlinked: 1, other: 1, packets: 5 };
        assert_eq!(report.errors, expected);
        assert_eq!((report.address, report.kind.as_str()), (0x82, "isochronous"));
        assert_eq!(report.device_latency_us.max, 2000);
    }

    #[test]
    fn answers_count_when_the_last_byte_has_left() {
        let mut meter = Meter::default();
        meter.submitted(&iso(0), at(0));
        meter.finished(&done(0, 0), &[], at(1));
        // Slot 7 was refused: the meter has never heard of it.
        meter.answered(&[0, 7]);
        let soon = Duration::from_micros(1900);
        meter.send_begins(false, at(1));
        meter.send_ended(10, false, soon);
        assert_eq!(meter.send_blocked(at(2)), at(0), "that is no waiting");
        meter.send_begins(false, at(2));
        assert_eq!(meter.send_blocked(at(6)), at(4));
        assert_eq!(only(&meter).answer_latency_us.count, 0);
        meter.send_ended(38, true, at(9));
        assert_eq!((meter.sent_bytes(), meter.send_blocked(at(20))), (48, at(7)));
        let latency = only(&meter).answer_latency_us;
        assert_eq!((latency.count, latency.max), (1, 9000));
        // A quiet send is told of when the client, an hour later, asks for the next.
        meter.submitted(&iso(0), at(20));
        meter.finished(&done(0, 0), &[], at(21));
        meter.answered(&[0]);
        meter.send_begins(true, at(22));
        meter.turn_ended(at(22));
        meter.send_ended(48, true, at(3_600_000));
        let latency = only(&meter).answer_latency_us;
        assert_eq!((latency.count, latency.max), (2, 9000));
        assert_eq!(meter.send_blocked(at(3_600_000)), at(7));
        // One that is still on its way when something else has happened waits for the network.
        meter.send_begins(true, at(4_000_000));
        meter.turn_ended(at(4_000_005));
        meter.send_ended(48, true, at(4_000_010));
        assert_eq!(meter.send_blocked(at(4_000_010)), at(17));
    }

    #[test]
    fn the_control_endpoint_is_one_line() {
        let mut meter = Meter::default();
        for (slot, direction) in [(0, Direction::In), (1, Direction::Out)] {
            let kind = TransferType::Control;
            let submission = Submission { kind, direction, endpoint: 0, packets: 0, ..iso(slot) };
            meter.submitted(&submission, at(0));
            meter.finished(&Finished { error_count: 0, ..done(slot, 0) }, &[], at(0));
        }
        let report = only(&meter);
        assert_eq!((report.address, report.urbs), (0, 2));
        assert_eq!((report.bytes_in, report.bytes_out), (1000, 1000));
        assert_eq!(report.in_flight_low, None, "it is no periodic endpoint");
    }
}
