//! The loop of one core.

use std::time::Duration;

use usbip_fast_native::{Completion, Reactor};

/// What runs on a core: gets completions one by one, then settles once per turn.
pub trait Core {
    /// The earliest time at which [`settle`](Core::settle) must run though nothing happened.
    fn deadline(&self) -> Option<Duration>;

    /// One completion. Work that can wait for its neighbours (sending, above all) is only noted
    /// and done in [`settle`](Core::settle), so that a turn's answers leave together.
    fn handle(&mut self, completion: Completion, reactor: &mut dyn Reactor, now: Duration);

    /// After the completions of a turn. `rung` says that the doorbell was rung: mailboxes and
    /// devices with helper threads have something.
    fn settle(&mut self, rung: bool, reactor: &mut dyn Reactor, now: Duration) -> Next;
}

/// What the loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Sleep until something happens.
    Sleep,
    /// Work is left over a budget: look at the kernel without sleeping, then settle again.
    Again,
    /// The core is done.
    Stop,
}

/// Runs `core` until it stops. `clock` is read once per turn.
pub fn run(reactor: &mut dyn Reactor, core: &mut impl Core, clock: impl Fn() -> Duration) {
    let mut completions = Vec::new();
    let mut next = core.settle(true, reactor, clock());
    while next != Next::Stop {
        let deadline = match next {
            Next::Again => Some(Duration::ZERO),
            Next::Sleep | Next::Stop => core.deadline(),
        };
        let turn = reactor.turn(deadline, &mut completions);
        let now = clock();
        for completion in completions.drain(..) {
            core.handle(completion, reactor, now);
        }
        next = core.settle(turn.rung, reactor, now);
    }
}
