//! A simulated Gadget Zero with seeded faults, as a server exports it, and the notes that the
//! checker needs of it.
//!
//! What the device itself reads and writes is tested with the device. Here the bytes must be known
//! by their URB, so that any that moved are recognised: OUT data is compared with the pattern and
//! becomes what a Gadget Zero expects; IN data becomes the pattern once the device has given it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use usbip_fast_native::{Arena, Block, Handle, Interest};

use crate::device::faulty::{Faults, Faulty, Plug};
use crate::device::gadget::Gadget;
use crate::device::gadget::zero::{Zero, ZeroOptions};
use crate::device::{Completed, Device, DeviceState, Remains};
use crate::simulation::chaos::{DeviceResult, Notes, look_at_arrival};
use crate::simulation::descriptors::Shape;
use crate::simulation::pattern::Pattern;
use crate::simulation::random::Random;
use crate::usb::errno::{ECONNRESET, ENOENT};
use crate::usb::isochronous::packets_mut;
use crate::usb::transfer::{BUFFER_OFFSET, Direction, ISO_PACKET_BYTES, Submission, TransferType};

/// The device with its witness.
pub struct Noted {
    device: Faulty,
    plug: Plug,
    notes: Rc<RefCell<Notes>>,
    pattern: Rc<Pattern>,
    held: Vec<Held>,
}

struct Held {
    submission: Submission,
    /// The session wants it ended.
    cancelled: bool,
    /// Ended because the run is: what waits in a loopback would wait for ever.
    hurried: bool,
}

/// How the device is, as the dice fall.
#[derive(Clone, Debug)]
pub struct Setting {
    options: ZeroOptions,
    faults: Faults,
    seed: u64,
}

impl Setting {
    /// A device of any speed but low, which lacks half of the endpoints.
    pub fn draw(random: &mut Random) -> Self {
        let speed = random.pick(&["full", "high", "super"]);
        let pace = random.pick(&["real", "0.1", "demand", "none"]);
        let options = ZeroOptions::parse(&format!("speed={speed}:pace={pace}"));
        let frequent = Faults::FREQUENT;
        let faults = random.pick(&[
            Faults::default(),
            frequent,
            Faults { longest_delay: Duration::from_micros(300), ..frequent },
            Faults { unplug: 3000, ..frequent },
        ]);
        let options = options.expect("options of a Gadget Zero");
        Self { options, faults, seed: random.draw() }
    }

    /// Whether it may refuse memory.
    #[must_use]
    pub fn refuses_memory(&self) -> bool {
        self.faults.no_memory > 0
    }
}

impl Noted {
    /// The device and what its client may know of it.
    #[must_use]
    pub fn new(
        setting: &Setting,
        notes: Rc<RefCell<Notes>>,
        pattern: Rc<Pattern>,
    ) -> (Self, Shape) {
        let Setting { options, faults, seed } = setting;
        let descriptors = Arc::new(options.descriptors());
        let shape = Shape::zero(descriptors.listed().to_vec());
        let gadget = Gadget::new(Zero::new(options.pattern), descriptors, options.pace);
        let device = Faulty::new(Box::new(gadget), *faults, *seed);
        let plug = device.plug();
        (Self { device, plug, notes, pattern, held: Vec::new() }, shape)
    }

    /// Does what the run wants to befall the device.
    fn befall(&mut self, now: Duration) {
        let (unplug, hurry) = {
            let notes = self.notes.borrow();
            (notes.unplug, notes.hurry)
        };
        if unplug {
            self.plug.pull();
        }
        if hurry {
            for held in self.held.iter_mut().filter(|held| !held.hurried) {
                held.hurried = true;
                self.device.cancel(held.submission.slot, now);
            }
        }
    }

    fn complain(&self, text: String) {
        self.notes.borrow_mut().complaint.get_or_insert(text);
    }

    /// Writes down what the answer must be, and makes the data known.
    fn note(&self, held: &Held, completed: &mut Completed) {
        let Held { submission, cancelled, .. } = held;
        let Submission { start_frame: name, length, packets, direction, .. } = *submission;
        let Completed { finished, block } = completed;
        let (buffer, behind) = block.as_mut()[BUFFER_OFFSET..].split_at_mut(length as usize);
        let inward = direction == Direction::In;
        let mut stamp = |offset: u32, moved: u32| {
            if inward {
                let (start, size) = (offset as usize, moved as usize);
                buffer[start..start + size].copy_from_slice(self.pattern.slice(name, start, size));
            }
        };
        let mut results = Vec::new();
        if submission.kind == TransferType::Isochronous {
            for packet in packets_mut(&mut behind[..packets as usize * ISO_PACKET_BYTES]) {
                let (moved, asked) = (packet.actual_length.get(), packet.length.get());
                if moved > asked {
                    self.complain(format!("the device moved {moved} bytes of {asked} in {name}"));
                }
                stamp(packet.offset.get(), moved.min(asked));
                results.push((moved, packet.status.get()));
            }
        } else {
            stamp(0, finished.actual_length.min(length));
        }
        let actual_length = match submission.kind {
            TransferType::Isochronous => results.iter().map(|&(moved, _)| moved).sum(),
            _ => finished.actual_length,
        };
        if actual_length != finished.actual_length || actual_length > length {
            self.complain(format!("{finished:?} of {name}: {actual_length} of {length} bytes"));
        }
        let status = finished.status;
        let stopped = [-ECONNRESET, -ENOENT].contains(&status) && actual_length == 0;
        let result = DeviceResult {
            status,
            actual_length,
            packets: results,
            stopped,
            cancelled: *cancelled,
        };
        self.notes.borrow_mut().results.insert(name, result);
    }
}

impl Device for Noted {
    fn state(&self) -> DeviceState {
        let state = self.device.state();
        if state == DeviceState::Gone {
            self.notes.borrow_mut().gone = true;
        }
        state
    }

    fn allocate(&mut self, arena: &Arena, bytes: usize) -> Option<Block> {
        self.device.allocate(arena, bytes)
    }

    fn submit(&mut self, submission: Submission, mut block: Block, now: Duration) {
        self.befall(now);
        if self.held.iter().any(|held| held.submission.slot == submission.slot) {
            self.complain(format!("slot {} was submitted twice", submission.slot));
        }
        if let Err(text) = look_at_arrival(&submission, block.as_ref(), &self.pattern) {
            self.complain(text);
        }
        if submission.direction == Direction::Out {
            let end = BUFFER_OFFSET + submission.length as usize;
            block.as_mut()[BUFFER_OFFSET..end].fill(0);
        }
        self.notes.borrow_mut().seen.push_back(submission.start_frame);
        self.held.push(Held { submission, cancelled: false, hurried: false });
        self.device.submit(submission, block, now);
    }

    fn cancel(&mut self, slot: u32, now: Duration) {
        self.befall(now);
        let held = self.held.iter_mut().find(|held| held.submission.slot == slot);
        if let Some(held) = held {
            held.cancelled = true;
        }
        self.device.cancel(slot, now);
    }

    fn poll(&mut self, now: Duration) -> Option<Completed> {
        self.befall(now);
        let mut completed = self.device.poll(now)?;
        let slot = completed.finished.slot;
        let at = self.held.iter().position(|held| held.submission.slot == slot);
        let held = self.held.remove(at.expect("a device gives back what it was given, once"));
        self.note(&held, &mut completed);
        Some(completed)
    }

    fn deadline(&self) -> Option<Duration> {
        self.device.deadline()
    }

    fn handle_deadline(&mut self, now: Duration) {
        self.device.handle_deadline(now);
    }

    fn readiness(&self) -> Option<(Handle, Interest)> {
        self.device.readiness()
    }

    fn handle_ready(&mut self, events: u32, now: Duration) {
        self.device.handle_ready(events, now);
    }

    fn handle_doorbell(&mut self, now: Duration) {
        self.device.handle_doorbell(now);
    }

    fn close(&mut self, now: Duration) {
        self.device.close(now);
    }

    fn into_remains(self: Box<Self>) -> Remains {
        Box::new(self.device).into_remains()
    }
}
