//! The reactor's contract on the simulated reactor, over several seeds and kinds of weather. The
//! same list runs on the real backends in `native/tests/contract.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use usbip_fast::reactor::simulated::{Conditions, World};
use usbip_fast_native::contract::{Ground, checks};
use usbip_fast_native::process;
use usbip_fast_native::socket::Direction;
use usbip_fast_native::{Handle, Reactor};

struct Simulation(World);

impl Ground for Simulation {
    fn open(&self) -> Box<dyn Reactor> {
        self.0.reactor()
    }

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn listen(&self, backlog: u16) -> (Handle, SocketAddr) {
        self.0.listen(backlog)
    }

    fn stream(&self, _address: &SocketAddr) -> Handle {
        self.0.stream()
    }

    fn pair(&self) -> (Handle, Handle) {
        self.0.pair()
    }

    fn shutdown(&self, socket: &Handle, direction: Direction) {
        self.0.shutdown(socket, direction);
    }

    fn reset_on_close(&self, socket: &Handle) {
        self.0.reset_on_close(socket);
    }
}

fn run(conditions: Conditions, seeds: std::ops::Range<u64>) {
    process::raise_descriptor_limit(4096).expect("limits are readable");
    for seed in seeds {
        for check in checks() {
            println!("seed {seed}: {}", check.name);
            (check.run)(&Simulation(World::new(seed, conditions)));
        }
    }
}

#[test]
fn in_usual_weather() {
    run(Conditions::default(), 0..5);
}

#[test]
fn in_no_weather() {
    let nothing = Duration::ZERO;
    let conditions = Conditions {
        latency_least: nothing,
        latency_spread: nothing,
        completion_delay: nothing,
        short_one_in: 0,
        ..Conditions::default()
    };
    run(conditions, 0..1);
}

#[test]
fn in_rough_weather() {
    let conditions = Conditions {
        latency_spread: Duration::from_millis(1),
        completion_delay: Duration::from_micros(900),
        short_one_in: 1,
        window_bytes: 16 * 1024,
        ..Conditions::default()
    };
    run(conditions, 0..2);
}
