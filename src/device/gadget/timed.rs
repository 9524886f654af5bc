//! Service by the clock of the bus: the paces `real` and `F`.

use std::time::Duration;

use super::descriptors::ActiveEndpoint;
use super::function::Function;
use super::pace::{bulk_bytes_per_frame, frame_ns};
use super::queue::Urb;
use super::transact::{self, Step};
use super::{Gadget, bits};
use crate::usb::errno;
use crate::usb::speed::Speed;
use crate::usb::transfer::TransferType;

/// A stream whose queue was empty for longer than this was stopped, not starved: what follows is
/// a new stream and nothing is counted as missed. In bus time.
const STREAM_GAP_NS: u64 = 100_000_000;

/// Packets of a bulk URB that are moved before another bulk endpoint has its turn.
const BULK_QUANTUM_PACKETS: usize = 16;

/// What a zero-length bulk transfer costs of the bulk budget, in bytes.
const EMPTY_TRANSFER_BYTES: usize = 64;

impl<F: Function> Gadget<F> {
    /// Finds the first service of a URB that meets an empty queue, on a device with a clock.
    pub(super) fn schedule(
        &mut self,
        index: usize,
        info: &ActiveEndpoint,
        urb: &mut Urb,
        bus_ns: u64,
    ) {
        let endpoint = &mut self.endpoints[index];
        let boundary = (bus_ns / info.interval_ns + 1) * info.interval_ns;
        let in_time = endpoint.next_ns > bus_ns;
        if info.kind != TransferType::Isochronous {
            endpoint.next_ns = if in_time { endpoint.next_ns } else { boundary };
            return;
        }
        let stopped = bus_ns.saturating_sub(endpoint.next_ns) > STREAM_GAP_NS;
        if !endpoint.streaming || stopped {
            endpoint.streaming = true;
            endpoint.next_ns = boundary;
        } else if !in_time {
            let missed = (bus_ns - endpoint.next_ns) / info.interval_ns + 1;
            if urb.submission.flags.iso_asap {
                self.counters.miss(missed);
                self.missed[index] += missed;
                endpoint.next_ns += missed * info.interval_ns;
            } else {
                // The schedule goes on where it stopped: these packets come too late.
                urb.late = missed.min(u64::from(urb.submission.packets)) as usize;
            }
        }
    }

    /// Serves everything that is due at `bus_ns`, on a device with a clock.
    pub(super) fn advance(&mut self, bus_ns: u64) {
        self.bulk.refill(self.descriptors.speed(), bus_ns);
        let mut progress = true;
        while progress {
            progress = false;
            for index in bits(self.busy) {
                let Some(info) = self.endpoints[index].info else { continue };
                progress |= match info.kind {
                    TransferType::Isochronous => self.serve_isochronous(index, &info, bus_ns),
                    TransferType::Interrupt => self.serve_interrupt(index, &info, bus_ns),
                    TransferType::Bulk => self.serve_bulk(index, &info, bus_ns),
                    TransferType::Control => false,
                };
                self.note_busy(index);
            }
        }
        self.bulk.backlog = bits(self.busy).any(|index| self.wants_bulk(index));
    }

    fn serve_isochronous(&mut self, index: usize, info: &ActiveEndpoint, bus_ns: u64) -> bool {
        let mut progress = false;
        loop {
            let endpoint = &mut self.endpoints[index];
            let Some(urb) = self.pool.front_mut(endpoint.queue) else { return progress };
            let next_ns = &mut endpoint.next_ns;
            let packets = transact::packets(&mut self.function, info, urb, next_ns, bus_ns);
            self.counters.count(packets);
            if !packets.finished {
                return progress;
            }
            progress = true;
            self.settle(index, Step::Finished(0));
        }
    }

    fn serve_interrupt(&mut self, index: usize, info: &ActiveEndpoint, bus_ns: u64) -> bool {
        let mut progress = false;
        loop {
            let endpoint = &mut self.endpoints[index];
            let Some(urb) = self.pool.front_mut(endpoint.queue) else { return progress };
            if endpoint.next_ns > bus_ns {
                return progress;
            }
            let limit = info.payload_bytes;
            let time_ns = endpoint.next_ns;
            let step = transact::transfer(&mut self.function, info, urb, limit, time_ns);
            if step == Step::Wait {
                // Polled again at the next interval from now.
                endpoint.next_ns = (bus_ns / info.interval_ns + 1) * info.interval_ns;
                return progress;
            }
            endpoint.next_ns += info.interval_ns;
            progress = true;
            self.settle(index, step);
        }
    }

    /// Serves one quantum of a bulk endpoint, as far as the budget reaches.
    fn serve_bulk(&mut self, index: usize, info: &ActiveEndpoint, bus_ns: u64) -> bool {
        let packet = usize::from(info.max_packet_size);
        let limit = self.bulk.left.min(BULK_QUANTUM_PACKETS * packet) / packet * packet;
        let endpoint = &mut self.endpoints[index];
        let Some(urb) = self.pool.front_mut(endpoint.queue) else { return false };
        let remaining = urb.submission.length as usize - urb.actual;
        if limit == 0 && remaining.max(EMPTY_TRANSFER_BYTES) > self.bulk.left {
            // What spent the budget may have been what this one waits for: it is asked again in
            // the next frame, though nothing else may happen by then.
            endpoint.waiting = false;
            return false;
        }
        let before = urb.actual;
        let limit = if limit == 0 { remaining } else { limit };
        let step = transact::transfer(&mut self.function, info, urb, limit, bus_ns);
        let cost = (urb.actual - before).max(EMPTY_TRANSFER_BYTES);
        endpoint.waiting = step == Step::Wait;
        if step == Step::Wait {
            return false;
        }
        self.bulk.left = self.bulk.left.saturating_sub(cost);
        self.settle(index, step);
        true
    }

    /// Takes the URB in front off the queue if its last service ended it.
    fn settle(&mut self, index: usize, step: Step) {
        let status = match step {
            Step::Moved(_) | Step::Wait => return,
            Step::Finished(status) => status,
            Step::Stalled => {
                self.chapter9.set_halted(index, true);
                -errno::EPIPE
            }
        };
        let urb = self.pool.pop(&mut self.endpoints[index].queue);
        self.finished.push_back(urb.expect("the URB just served").complete(status));
        if step == Step::Stalled {
            self.flush(index, status);
        }
    }

    fn wants_bulk(&self, index: usize) -> bool {
        let endpoint = &self.endpoints[index];
        let is_bulk = endpoint.info.is_some_and(|info| info.kind == TransferType::Bulk);
        is_bulk && !endpoint.waiting && !endpoint.queue.is_empty()
    }

    /// When the next endpoint that has something to do is due, in process time.
    pub(super) fn next_service(&self) -> Option<Duration> {
        let frame = frame_ns(self.descriptors.speed());
        let due = bits(self.busy).filter_map(|index| {
            let endpoint = &self.endpoints[index];
            match endpoint.info?.kind {
                // The packets before the last are caught up on then, each with its own time.
                TransferType::Isochronous => {
                    let urb = self.pool.front(endpoint.queue)?;
                    let rest = (urb.submission.packets as usize).saturating_sub(urb.packets + 1);
                    Some(endpoint.next_ns + rest as u64 * endpoint.info?.interval_ns)
                }
                TransferType::Interrupt => Some(endpoint.next_ns),
                TransferType::Bulk if endpoint.waiting => {
                    let ready = self.function.ready_at(endpoint.info?.address)?;
                    Some(u64::try_from(ready.as_nanos()).unwrap_or(u64::MAX))
                }
                TransferType::Bulk | TransferType::Control => Some((self.bulk.frame + 1) * frame),
            }
        });
        due.min().map(|bus_ns| self.clock.process_time(bus_ns))
    }
}

/// Bytes that bulk transfers may still move in a (micro)frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct BulkBudget {
    frame: u64,
    left: usize,
    /// Bulk URBs were left over at the end of the last service.
    backlog: bool,
}

impl BulkBudget {
    pub(super) fn new(speed: Speed) -> Self {
        Self { frame: 0, left: bulk_bytes_per_frame(speed), backlog: false }
    }

    /// Adds the bytes of the (micro)frames that have passed: of all of them if URBs were waiting,
    /// else only of the running one.
    fn refill(&mut self, speed: Speed, bus_ns: u64) {
        let frame = bus_ns / frame_ns(speed);
        let passed = frame.saturating_sub(self.frame);
        if passed == 0 {
            return;
        }
        let budget = bulk_bytes_per_frame(speed);
        let frames = if self.backlog { passed } else { 1 };
        let carried = if self.backlog { self.left } else { 0 };
        let earned = budget.saturating_mul(usize::try_from(frames).unwrap_or(usize::MAX));
        self.left = carried.saturating_add(earned);
        self.frame = frame;
    }
}
