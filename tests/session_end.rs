//! How a server's session ends when its peer does not do its part, with a clock that only the
//! simulated world moves.

use std::time::Duration;

use usbip_fast::device::faulty::{Faults, Faulty, Plug};
use usbip_fast::device::gadget::simulate;
use usbip_fast::limits;
use usbip_fast::reactor::simulated::{Conditions, World};
use usbip_fast::serve::session::{Epitaph, Io, Session};
use usbip_fast::serve::table::Key;
use usbip_fast::session::exporter::{GONE_TIMEOUT, SessionEnd};
use usbip_fast::usb::transfer::Direction;
use usbip_fast::wire::op::IMPORT_REPLY_BYTES;
use usbip_fast::wire::urb::{CmdSubmit, HEADER_BYTES};
use usbip_fast_native::{Arena, Block, Completion, Handle, Op, Outcome, Piece, Reactor, Token};

/// A session of a simulated device, and its client's socket, which does only what the test says.
struct Scene {
    world: World,
    reactor: Box<dyn Reactor>,
    arena: Arena,
    session: Option<Session>,
    plug: Plug,
    device_id: u32,
    client: Handle,
    client_reactor: Box<dyn Reactor>,
}

const CLIENT: Token = Token::new(1, 0, 0);

impl Scene {
    /// The import has been asked for.
    fn new() -> Self {
        let calm = Conditions { short_one_in: 0, window_bytes: 4000, ..Conditions::default() };
        let world = World::new(1, calm);
        let (near, client) = world.pair();
        let reactor = world.reactor();
        let mut export = simulate::parse("zero:pace=none").expect("a device").remove(0).export(1);
        let description = export.describe().clone();
        let device = export.reserve().expect("free")(&reactor.doorbell());
        let device = Faulty::new(device, Faults::default(), 1);
        let plug = device.plug();
        let peer = ([127, 0, 0, 1], 1).into();
        let key = Key { index: 0, generation: 0 };
        let device = Box::new(device);
        let session = Session::new(key, peer, near, device, &description, world.now());
        Self {
            client_reactor: world.reactor(),
            world,
            reactor,
            arena: Arena::new(limits::ARENA_BYTES),
            session: Some(session),
            plug,
            device_id: description.device_id(),
            client,
        }
    }

    /// Lets time pass; the epitaph once the session is over, and when that was.
    fn run(&mut self, time: Duration) -> Option<(Epitaph, Duration)> {
        let until = self.world.now() + time;
        let mut completions = Vec::new();
        loop {
            let now = self.world.now();
            let session = self.session.as_mut().expect("it was not over");
            let mut io = Io { reactor: &mut *self.reactor, arena: &self.arena, now };
            for completion in completions.drain(..) {
                session.handle(completion, &mut io);
            }
            let more = session.settle(false, &mut io);
            if session.is_closed() {
                let session = self.session.take().expect("looked at just now");
                return Some((session.into_epitaph(now), now));
            }
            if now >= until {
                return None;
            }
            let deadline = session.deadline().map_or(until, |deadline| deadline.min(until));
            let deadline = if more { Duration::ZERO } else { deadline };
            self.reactor.turn(Some(deadline), &mut completions);
        }
    }

    /// The client sends.
    fn send(&mut self, bytes: &[u8]) {
        let mut block = Block::from(self.arena.take(bytes.len()).expect("memory"));
        block.as_mut()[..bytes.len()].copy_from_slice(bytes);
        let moved = self.transfer(|socket| Op::Send {
            socket,
            pieces: [Some(Piece { block, range: 0..bytes.len() }), None],
            quiet: false,
        });
        assert_eq!(moved.result.map(|outcome| matches!(outcome, Outcome::Moved(_))), Ok(true));
    }

    /// The client reads what is there; nothing at the end of the stream.
    fn read(&mut self) -> usize {
        let block = Block::from(self.arena.take(8000).expect("memory"));
        let pieces = [Some(Piece { block, range: 0..8000 }), None];
        self.transfer(|socket| Op::Receive { socket, pieces }).moved().expect("no reset")
    }

    fn transfer(&mut self, op: impl FnOnce(Handle) -> Op) -> Completion {
        self.client_reactor.submit(op(self.client.clone()), CLIENT);
        let mut completions = Vec::new();
        self.client_reactor.turn(Some(self.world.now() + A_MOMENT), &mut completions);
        completions.pop().expect("at once")
    }

    /// A CMD_SUBMIT for so many bytes of bulk IN.
    fn ask(&mut self, seqnum: u32, buffer_length: u32) {
        let mut bytes = [0; HEADER_BYTES];
        CmdSubmit {
            seqnum,
            device_id: self.device_id,
            direction: Direction::In,
            endpoint: 1,
            transfer_flags: 0,
            buffer_length,
            start_frame: 0,
            number_of_packets: 0,
            interval: 0,
            setup: [0; 8],
        }
        .emit(&mut bytes);
        self.send(&bytes);
    }
}

const A_MOMENT: Duration = Duration::from_millis(10);

#[test]
fn a_gone_device_waits_two_seconds_for_a_client_that_has_stopped_reading() {
    let mut scene = Scene::new();
    assert!(scene.run(A_MOMENT).is_none());
    assert_eq!(scene.read(), IMPORT_REPLY_BYTES);
    // More than the network holds: the answer is stuck.
    scene.ask(1, 100_000);
    assert!(scene.run(A_MOMENT).is_none());
    scene.plug.pull();
    scene.ask(2, 512);
    let pulled = scene.world.now();
    let (epitaph, over) = scene.run(GONE_TIMEOUT * 2).expect("it ends");
    assert_eq!(epitaph.end, SessionEnd::GoneUnread);
    let held = over - pulled;
    assert!(held >= GONE_TIMEOUT && held < GONE_TIMEOUT + A_MOMENT, "{held:?}");
    assert_eq!(scene.arena.lent_blocks(), 0);
}

#[test]
fn a_client_that_reads_gets_all_answers_of_a_gone_device_and_an_end() {
    let mut scene = Scene::new();
    assert!(scene.run(A_MOMENT).is_none());
    assert_eq!(scene.read(), IMPORT_REPLY_BYTES);
    scene.ask(1, 20_000);
    assert!(scene.run(A_MOMENT).is_none());
    scene.plug.pull();
    scene.ask(2, 512);
    let mut read = 0;
    let end = loop {
        if let Some((epitaph, _)) = scene.run(A_MOMENT) {
            break epitaph.end;
        }
        // It goes on sending, for it cannot know; and it never closes.
        if read < 2 * HEADER_BYTES + 20_000 {
            read += scene.read();
            scene.send(&[0]);
        }
    };
    assert_eq!(end, SessionEnd::DeviceGone);
    assert_eq!(read, 2 * HEADER_BYTES + 20_000);
    assert_eq!(scene.read(), 0, "an end, not a reset");
}
