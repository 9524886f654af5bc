//! Service without a clock: the paces `none` and `demand`.

use super::descriptors::ActiveEndpoint;
use super::function::Function;
use super::queue::Urb;
use super::transact::{self, Step};
use super::{Gadget, bits};
use crate::usb::errno;
use crate::usb::transfer::TransferType;

impl<F: Function> Gadget<F> {
    /// The short way of `pace=none`: the URB never sees the queue unless the function makes it.
    pub(super) fn run_or_queue(&mut self, index: usize, info: &ActiveEndpoint, mut urb: Urb) {
        match self.run_to_end(index, info, &mut urb) {
            Some(status) => {
                self.finished.push_back(urb.complete(status));
                if status == -errno::EPIPE {
                    self.flush(index, status);
                }
            }
            None => self.enqueue(index, urb),
        }
        if self.busy != 0 {
            self.run_all();
        }
    }

    /// Serves a URB, on the endpoint's own clock, until it ends or must wait.
    fn run_to_end(&mut self, index: usize, info: &ActiveEndpoint, urb: &mut Urb) -> Option<i32> {
        if info.kind == TransferType::Isochronous {
            let next_ns = &mut self.endpoints[index].next_ns;
            let packets = transact::packets(&mut self.function, info, urb, next_ns, u64::MAX);
            self.counters.count(packets);
            return Some(0);
        }
        let is_bulk = info.kind == TransferType::Bulk;
        let limit = if is_bulk { usize::MAX } else { info.payload_bytes };
        loop {
            let next_ns = self.endpoints[index].next_ns;
            let step = transact::transfer(&mut self.function, info, urb, limit, next_ns);
            if step != Step::Wait && !is_bulk {
                self.endpoints[index].next_ns += info.interval_ns;
            }
            match step {
                Step::Moved(_) => {}
                Step::Finished(status) => return Some(status),
                Step::Stalled => {
                    self.chapter9.set_halted(index, true);
                    return Some(-errno::EPIPE);
                }
                Step::Wait => return None,
            }
        }
    }

    /// Serves all queues without a clock until none gets any further.
    pub(super) fn run_all(&mut self) {
        let mut progress = true;
        while progress {
            progress = false;
            for index in bits(self.busy) {
                while let Some(mut urb) = self.pool.pop(&mut self.endpoints[index].queue) {
                    let info = self.endpoints[index].info.expect("a queue belongs to an endpoint");
                    let before = urb.actual;
                    let ended = self.run_to_end(index, &info, &mut urb);
                    progress |= ended.is_some() || urb.actual != before;
                    let Some(status) = ended else {
                        self.pool.push_front(&mut self.endpoints[index].queue, urb);
                        break;
                    };
                    self.finished.push_back(urb.complete(status));
                    if status == -errno::EPIPE {
                        self.flush(index, status);
                    }
                }
                self.note_busy(index);
            }
        }
    }
}
