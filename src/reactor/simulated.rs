//! A reactor without a kernel: sockets in memory, a clock that jumps, and everything that can go
//! differently does so by the numbers of a seed.
//!
//! A [`World`] is the network and its clock. Its sockets are [`Handle`]s like real ones and are
//! closed by dropping them. Transfers come out short, completions late and in another order than
//! submissions, connections get lost: as the [`Conditions`] say. The same seed and the same calls
//! give the same run.

mod network;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use usbip_fast_native::doorbell::Ring;
use usbip_fast_native::reactor::ReactorCounters;
use usbip_fast_native::socket::Direction;
use usbip_fast_native::{Completion, Doorbell, Handle, Op, Reactor, Token, Turn};

use crate::reactor::simulated::network::Network;

/// How rough the weather is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Least time from one socket to another.
    pub latency_least: Duration,
    /// Up to this much is added, each time anew; bytes of one connection stay in order.
    pub latency_spread: Duration,
    /// A completion arrives up to this much after its operation has ended.
    pub completion_delay: Duration,
    /// One in so many transfers moves fewer bytes than it could; 0 for none.
    pub short_one_in: u32,
    /// Bytes that a connection holds per direction before a send waits.
    pub window_bytes: usize,
    /// One in so many sends loses its connection; 0 for none.
    pub loss_one_in: u32,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency_least: Duration::from_micros(20),
            latency_spread: Duration::from_micros(200),
            completion_delay: Duration::from_micros(50),
            short_one_in: 3,
            window_bytes: 256 * 1024,
            loss_one_in: 0,
        }
    }
}

/// A simulated network with its clock. Cloning shares it.
#[derive(Clone)]
pub struct World(Rc<Shared>);

struct Shared {
    network: RefCell<Network>,
    reactors: RefCell<u32>,
}

/// What a turn takes, so that a loop that never sleeps moves the clock all the same.
const TURN: Duration = Duration::from_micros(1);

impl World {
    /// An empty network.
    #[must_use]
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        let network = RefCell::new(Network::new(seed, conditions));
        Self(Rc::new(Shared { network, reactors: RefCell::new(0) }))
    }

    /// A reactor in this world. There may be several; the clock moves when one that is asked to
    /// turn has nothing to do.
    #[must_use]
    pub fn reactor(&self) -> Box<dyn Reactor> {
        let mut reactors = self.0.reactors.borrow_mut();
        *reactors += 1;
        Box::new(Simulated {
            world: self.clone(),
            number: *reactors,
            bell: Arc::new(Bell::default()),
            counters: ReactorCounters::default(),
        })
    }

    /// The time of this world.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.network.borrow().now
    }

    /// A listening socket and its address.
    #[must_use]
    pub fn listen(&self, backlog: u16) -> (Handle, SocketAddr) {
        self.network(|network| network.add_listener(backlog))
    }

    /// A socket that can connect to a listener of this world.
    #[must_use]
    pub fn stream(&self) -> Handle {
        self.network(Network::add_fresh)
    }

    /// Two connected sockets.
    #[must_use]
    pub fn pair(&self) -> (Handle, Handle) {
        self.network(Network::add_pair)
    }

    /// As [`socket::shutdown`](usbip_fast_native::socket::shutdown).
    pub fn shutdown(&self, socket: &Handle, direction: Direction) {
        self.network(|network| network.shut_down(socket, direction));
    }

    /// As [`socket::reset_on_close`](usbip_fast_native::socket::reset_on_close).
    pub fn reset_on_close(&self, socket: &Handle) {
        self.network(|network| network.set_reset_on_close(socket));
    }

    fn network<T>(&self, work: impl FnOnce(&mut Network) -> T) -> T {
        let mut network = self.0.network.borrow_mut();
        network.bury();
        work(&mut network)
    }
}

struct Simulated {
    world: World,
    number: u32,
    bell: Arc<Bell>,
    counters: ReactorCounters,
}

impl Simulated {
    /// Takes what is done; true if there was anything.
    fn hand_over(&self, network: &mut Network, completions: &mut Vec<Completion>) -> bool {
        let Some(done) = network.done.get_mut(&self.number) else { return false };
        let some = !done.is_empty();
        completions.append(done);
        some
    }
}

impl Reactor for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn submit(&mut self, op: Op, token: Token) {
        self.counters.operations += 1;
        self.world.network(|network| network.submit((self.number, token), op));
    }

    fn cancel(&mut self, token: Token) {
        self.world.network(|network| network.cancel((self.number, token)));
    }

    fn shut_down_sending(&mut self, socket: &Handle) {
        self.world.shutdown(socket, Direction::Send);
    }

    fn turn(&mut self, deadline: Option<Duration>, completions: &mut Vec<Completion>) -> Turn {
        self.counters.turns += 1;
        let world = self.world.clone();
        world.network(|network| network.now += TURN);
        loop {
            let mut network = world.0.network.borrow_mut();
            network.run_due();
            let rung = self.bell.answer();
            let some = self.hand_over(&mut network, completions);
            if rung || some || deadline.is_some_and(|at| at <= network.now) {
                return Turn { rung };
            }
            match (network.next_event(), deadline) {
                (Some(event), Some(deadline)) => network.now = event.min(deadline),
                (Some(at), None) | (None, Some(at)) => network.now = at,
                // Only another thread can still do something.
                (None, None) => {
                    drop(network);
                    self.bell.wait();
                }
            }
        }
    }

    fn doorbell(&self) -> Doorbell {
        Doorbell::new(Arc::clone(&self.bell) as Arc<dyn Ring>)
    }

    fn counters(&self) -> ReactorCounters {
        self.counters
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let mut network = self.world.0.network.borrow_mut();
        network.remove_reactor(self.number);
        network.bury();
    }
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl Bell {
    fn answer(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().expect("nothing panics while it holds the lock"))
    }

    fn wait(&self) {
        let rung = self.rung.lock().expect("nothing panics while it holds the lock");
        let waited = self.woken.wait_while(rung, |rung| !*rung);
        drop(waited.expect("nothing panics while it holds the lock"));
    }
}

impl Ring for Bell {
    fn ring(&self) {
        *self.rung.lock().expect("nothing panics while it holds the lock") = true;
        self.woken.notify_one();
    }
}

/// Numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, count: u32) -> bool {
        count > 0 && self.next().is_multiple_of(count.into())
    }

    /// From zero to `most`.
    fn below(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).expect("delays are short");
        Duration::from_nanos(self.next() % (nanos + 1))
    }

    /// All of `most`, or now and then only a part.
    fn portion(&mut self, most: usize, short_one_in: u32) -> usize {
        if !self.one_in(short_one_in) {
            return most;
        }
        1 + (self.next() % most as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use usbip_fast_native::{Arena, Block, Piece};

    use super::*;

    /// What a run looks like from outside: when which bytes came, and how it ended.
    fn run(seed: u64, conditions: Conditions) -> Vec<(Duration, String)> {
        let world = World::new(seed, conditions);
        let mut reactor = world.reactor();
        let arena = Arena::new(1 << 20);
        let piece = |bytes| {
            Some(Piece { block: Block::from(arena.take(bytes).expect("room")), range: 0..bytes })
        };
        let (one, two) = world.pair();
        let (mut log, mut completions) = (Vec::new(), Vec::new());
        for round in 0..50 {
            let send = Op::Send { socket: one.clone(), pieces: [piece(164), None], quiet: false };
            reactor.submit(send, Token::new(1, 0, round));
            let receive = Op::Receive { socket: two.clone(), pieces: [piece(100), piece(64)] };
            reactor.submit(receive, Token::new(2, 0, round));
            let mut left = 2;
            while left > 0 {
                reactor.turn(None, &mut completions);
                for done in completions.drain(..) {
                    left -= 1;
                    log.push((world.now(), format!("{:?} {:?}", done.token, done.result)));
                }
            }
        }
        log
    }

    #[test]
    fn a_seed_is_a_run() {
        let conditions = Conditions { loss_one_in: 40, ..Conditions::default() };
        assert_eq!(run(7, conditions), run(7, conditions));
        assert_ne!(run(7, conditions), run(8, conditions));
    }

    #[test]
    fn nothing_arrives_after_a_reset_that_was_reported() {
        let arena = Arena::new(1 << 20);
        let piece = || {
            let block = Block::from(arena.take(64).expect("room"));
            [Some(Piece { block, range: 0..64 }), None]
        };
        let mut resets = 0;
        for seed in 0..50 {
            let weather = Conditions { loss_one_in: 3, ..Conditions::default() };
            let world = World::new(seed, weather);
            let mut reactor = world.reactor();
            let (one, two) = world.pair();
            let mut run = |op| {
                reactor.submit(op, Token::new(1, 0, 0));
                let mut completions = Vec::new();
                while completions.is_empty() {
                    reactor.turn(None, &mut completions);
                }
                completions.remove(0).moved()
            };
            let mut send = |socket: &Handle| {
                run(Op::Send { socket: socket.clone(), pieces: piece(), quiet: false })
            };
            // Until a send of one's own says that the connection is lost.
            let lost = (0..100).any(|_| {
                let _ = send(&two);
                send(&one).is_err()
            });
            resets += u32::from(lost);
            let mut receive = || run(Op::Receive { socket: one.clone(), pieces: piece() });
            while receive().expect("only the send reports it") > 0 {}
            // What the other end had sent before it knew is still on the way.
            for _ in 0..100 {
                assert_eq!(receive(), Ok(0), "seed {seed}");
            }
        }
        assert!(resets > 25, "{resets}");
    }

    #[test]
    fn weather_shows() {
        let calm = Conditions { short_one_in: 0, ..Conditions::default() };
        let calm: String = run(1, calm).into_iter().map(|(_, line)| line).collect();
        assert_eq!(calm.matches("Moved(164)").count(), 100);
        let rough = Conditions { loss_one_in: 20, ..Conditions::default() };
        let rough: String = run(1, rough).into_iter().map(|(_, line)| line).collect();
        assert!(rough.matches("Moved(164)").count() < 100);
        assert!(rough.contains("Err("), "a connection was lost");
    }
}
