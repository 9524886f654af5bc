//! A whole world in one thread, repeatable by its seed: a client that sends what it likes, the real
//! exporting session, a device without manners or a simulated one with faults, and a network that
//! cuts and delays.
//!
//! After every step the rules of the wire are checked from the outside: one answer per URB, in
//! exactly one of its two forms; the order per endpoint; isochronous layouts echoed; every byte the
//! one that the device gave; the session over if and only if the client misbehaved, the device is
//! gone or we wanted it; its table the sum of its parts; and in the end no block lost.
//!
//! What a seed does depends on nothing but the seed: no clock, no thread, no address.

pub mod bare;
pub mod chaos;
pub mod client;
pub mod descriptors;
pub mod noted;
pub mod oracle;
pub mod pattern;
pub mod plan;
pub mod random;
pub mod served;
pub mod side;
pub mod torture;
pub mod trace;
pub mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bare::Bare;
use chaos::{Chaos, Manners, Notes};
use client::{Character, Client};
use descriptors::Shape;
use noted::{Noted, Setting};
use oracle::{Broken, Oracle, Seen, Tallies};
use pattern::Pattern;
use plan::Pdu;
use random::Random;
use served::Served;
use side::Side;
use trace::Trace;

use crate::device::Device;
use crate::session::exporter::SessionEnd;
use crate::session::unlink::HOLD_TIMEOUT;

pub use torture::{Totals, torture};

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Turns of the world before it is wound down.
    pub turns: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { turns: 400 }
    }
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the session answered.
    pub tallies: Tallies,
    /// PDUs sent by the client.
    pub pdus: u64,
    /// Which parts the world was made of.
    pub kind: &'static str,
    /// How the session ended.
    pub end: SessionEnd,
    /// A number made of everything that happened: the same for the same seed.
    pub digest: u64,
}

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {what}\nreplay: usbip-fast torture --seed {seed}\nthe last events:\n{trace}")]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// Which rule, and how.
    pub what: String,
    /// What happened before, a line each.
    pub trace: String,
}

/// Runs the world of `seed`.
///
/// # Errors
///
/// The first rule that the session broke; a panic counts as one.
pub fn run(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let trace = Rc::new(RefCell::new(Trace::default()));
    let outcome =
        catch_unwind(AssertUnwindSafe(|| World::new(seed, options, Rc::clone(&trace)).run()));
    let result = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("of an unknown kind")))
    });
    result.map_err(|what| Box::new(Failure { seed, what, trace: trace.borrow().to_string() }))
}

/// Everything there is.
struct World {
    random: Random,
    kind: &'static str,
    turns: u32,
    trace: Rc<RefCell<Trace>>,
    notes: Rc<RefCell<Notes>>,
    pattern: Rc<Pattern>,
    client: Client,
    oracle: Oracle,
    server: Box<dyn Side>,
    /// Given by the session, not read by the client: (bytes left, answer).
    unread: VecDeque<(usize, Seen)>,
    fate: Fate,
    pdus: u64,
    /// The client has done its last act.
    silent: bool,
    /// That act was hostile, and the client has closed its side.
    struck: bool,
    /// Winding down: no part of the world is slow any more.
    hurry: bool,
}

/// What befalls a run, beside the client.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Percent of the turns in which the client reads.
    reads: u32,
    /// PDUs that the client sends in a turn at most.
    burst: u32,
    /// The turn in which the client strikes or falls silent.
    strike_at: u32,
    unplug_at: Option<u32>,
    stop_at: Option<u32>,
    /// The turn in which nothing happens for some seconds.
    pause_at: Option<u32>,
}

impl Fate {
    fn draw(random: &mut Random, turns: u32) -> Self {
        let moment = |random: &mut Random, percent| {
            let at = random.below(turns.max(1));
            random.chance(percent).then_some(at)
        };
        Self {
            reads: random.pick(&[90, 90, 50, 10, 0]),
            burst: random.pick(&[1, 2, 4, 12]),
            strike_at: random.below(turns.max(1)),
            unplug_at: moment(random, 20),
            stop_at: moment(random, 5),
            pause_at: moment(random, 20),
        }
    }
}

/// The device: a simulated one with faults, or one without manners.
fn draw_device(
    gadget: bool,
    oracle: &mut Oracle,
    trace: &Rc<RefCell<Trace>>,
    random: &mut Random,
) -> (Box<dyn Device>, Shape) {
    let (notes, pattern) = oracle.shared();
    if gadget {
        let setting = Setting::draw(random);
        trace.borrow_mut().note(|| format!("{setting:?}"));
        oracle.may_refuse_memory = setting.refuses_memory();
        let (device, shape) = Noted::new(&setting, notes, pattern);
        return (Box::new(device), shape);
    }
    let manners = Manners::draw(random);
    trace.borrow_mut().note(|| format!("{manners:?}"));
    oracle.may_refuse_memory = manners.no_memory > 0;
    (Box::new(Chaos::new(notes, pattern, manners, random.fork())), Shape::chaos())
}

/// Percent of the runs whose device is a Gadget Zero.
const GADGETS: u32 = 30;

impl World {
    fn new(seed: u64, options: Options, trace: Rc<RefCell<Trace>>) -> Self {
        let mut random = Random::new(seed);
        let notes = Rc::new(RefCell::new(Notes::default()));
        let pattern = Rc::new(Pattern::new());
        let character = Character::draw(&mut random);
        let mut fate = Fate::draw(&mut random, options.turns);
        if character.is_greedy() {
            fate.burst = 60;
        }
        let first = random.pick(&[1, 1, 0x7fff_ff80, u32::MAX - 40]);
        let mut oracle = Oracle::new(Rc::clone(&notes), Rc::clone(&pattern));
        oracle.may_overload = character.is_greedy();
        let gadget = random.chance(GADGETS);
        let (device, shape) = draw_device(gadget, &mut oracle, &trace, &mut random);
        let served = random.chance(30);
        let kind = match (served, gadget) {
            (false, false) => "session, device without manners",
            (false, true) => "session, simulated device with faults",
            (true, false) => "session with reactor and network, device without manners",
            (true, true) => "session with reactor and network, simulated device with faults",
        };
        let server: Box<dyn Side> = match served {
            true => Box::new(Served::new(device, &shape, Rc::clone(&notes), &mut random)),
            false => Box::new(Bare::new(device, &shape, &mut random)),
        };
        trace.borrow_mut().note(|| kind.into());
        trace.borrow_mut().note(|| format!("{character:?} {fate:?}"));
        Self {
            client: Client::new(character, first, shape, random.fork()),
            server,
            kind,
            turns: options.turns,
            random,
            trace,
            notes,
            pattern,
            oracle,
            unread: VecDeque::new(),
            fate,
            pdus: 0,
            silent: false,
            struck: false,
            hurry: false,
        }
    }

    fn run(mut self) -> Result<Report, Broken> {
        for turn in 0..self.turns {
            self.befall(turn);
            if !self.silent {
                self.client_acts(turn);
            }
            self.turn()?;
            if self.server.end().is_some() {
                return self.bury();
            }
        }
        self.wind_down()
    }

    /// Unplugs, stops, or lets time pass, when the turn has come.
    fn befall(&mut self, turn: u32) {
        if self.fate.pause_at == Some(turn) {
            let time = Duration::from_millis(self.random.pick(&[300, 800, 1100, 3000]));
            self.trace.borrow_mut().note(|| format!("a pause of {time:?}"));
            self.pause(time);
        }
        if self.fate.unplug_at == Some(turn) {
            self.trace.borrow_mut().note(|| "unplugged".into());
            self.notes.borrow_mut().unplug = true;
        }
        if self.fate.stop_at == Some(turn) {
            self.trace.borrow_mut().note(|| "stopped".into());
            let reason = if self.random.chance(50) {
                SessionEnd::Local("told to".into())
            } else {
                SessionEnd::Network("reset".into())
            };
            self.server.stop(reason);
        }
    }

    /// Nothing new happens for so long. Without it a run takes less than a fifth of a second until
    /// it is wound down.
    fn pause(&mut self, time: Duration) {
        self.oracle.may_give_up |= time >= HOLD_TIMEOUT;
        self.server.wait(time);
    }

    fn client_acts(&mut self, turn: u32) {
        if turn == self.fate.strike_at
            && let Some((pdu, bytes)) = self.client.strike()
        {
            self.send(pdu, bytes);
            self.silent = true;
            self.struck = true;
            self.server.client_closes();
            return;
        }
        for _ in 0..self.random.between(0, self.fate.burst) {
            if !self.server.client_has_room() {
                return;
            }
            let Some(pdu) = self.client.act() else { return };
            let bytes = pdu.wire_bytes();
            self.send(pdu, bytes);
        }
    }

    /// The first `bytes` bytes of a PDU go out.
    fn send(&mut self, pdu: Pdu, bytes: usize) {
        self.pdus += 1;
        self.trace.borrow_mut().note(|| format!("client: {}", pdu.brief()));
        self.server.client_sends(&pdu.bytes(&self.pattern)[..bytes]);
        let size = pdu.wire_bytes();
        self.oracle.sent(pdu, size);
    }

    /// One turn of everything but the client's wish to send.
    fn turn(&mut self) -> Result<(), Broken> {
        let mut given = Vec::new();
        self.server.turn(&mut self.oracle, &mut self.random, &mut given)?;
        for (bytes, seen) in given {
            self.trace.borrow_mut().note(|| format!("session: {seen:?}"));
            self.unread.push_back((bytes, seen));
        }
        if self.random.chance(self.fate.reads) {
            self.client_reads()?;
        }
        Ok(())
    }

    fn client_reads(&mut self) -> Result<(), Broken> {
        let some = self.random.pick(&[48, 1000, 100_000, usize::MAX]);
        let limit = if self.hurry { usize::MAX } else { some };
        let mut bytes = self.server.client_reads(limit)?;
        while let Some((left, seen)) = self.unread.front_mut() {
            let count = bytes.min(*left);
            *left -= count;
            bytes -= count;
            if *left > 0 {
                break;
            }
            self.client.read(*seen);
            self.unread.pop_front();
        }
        Ok(())
    }

    /// Lets everything come to its end: nothing new, no more delays, and the client reads.
    fn wind_down(mut self) -> Result<Report, Broken> {
        self.trace.borrow_mut().note(|| "winding down".into());
        self.notes.borrow_mut().hurry = true;
        // It may take as long as it likes now.
        self.oracle.may_give_up = true;
        self.server.hasten();
        self.fate.reads = 100;
        self.silent = true;
        self.hurry = true;
        let mut idle = 0;
        let mut closed = self.struck;
        let mut pauses = 0;
        for _ in 0..200_000 {
            self.turn()?;
            if self.server.end().is_some() {
                return self.bury();
            }
            let quiet = self.server.is_quiet();
            idle = if quiet && self.unread.is_empty() { idle + 1 } else { 0 };
            if idle >= 2000 && closed {
                return Err("the session does not see the end of the stream".into());
            }
            if idle >= 50 && pauses < 3 {
                // What is only held back for a time comes out now: an early unlink; a cancel that
                // was late, then what it has ended.
                self.pause(HOLD_TIMEOUT * 2);
                pauses += 1;
                idle = 0;
            }
            if idle >= 50 && !closed {
                self.oracle.check_all_answered()?;
                if !self.client.is_quiet() {
                    return Err("the client waits for an answer".into());
                }
                self.server.client_closes();
                closed = true;
                idle = 0;
            }
        }
        Err("it goes on for ever".into())
    }

    /// The session is over: nothing must be lost.
    fn bury(mut self) -> Result<Report, Broken> {
        let end = self.server.end().cloned().ok_or("the session is not over")?;
        self.oracle.judge(Some(&end), self.server.was_stopped())?;
        self.trace.borrow_mut().note(|| format!("the end: {end}"));
        self.server.dismantle(&mut self.random)?;
        if !self.notes.borrow().seen.is_empty() {
            self.oracle.look_at_device()?;
        }
        let digest = self.trace.borrow().digest();
        let (tallies, pdus, kind) = (self.oracle.tallies, self.pdus, self.kind);
        Ok(Report { tallies, pdus, kind, end, digest })
    }
}
