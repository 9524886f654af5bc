//! A server's session in the process of the test, on a thread of its own, over a socket pair.

#![allow(clippy::disallowed_types, reason = "a test holds both ends of its sockets")]
#![allow(clippy::disallowed_methods, reason = "the server has a thread of its own here")]
#![allow(dead_code, reason = "no test uses all of it")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use usbip_fast::device::ahead::{Ahead, Lead};
use usbip_fast::device::gadget::simulate;
use usbip_fast::device::gadget::zero::SOURCE_SINK;
use usbip_fast::host::userspace::Client;
use usbip_fast::limits;
use usbip_fast::reactor::select::{self, Choice};
use usbip_fast::serve::session::{Io, Session};
use usbip_fast::serve::table::Key;
use usbip_fast::usb::speed::Speed;
use usbip_fast::wire::op::IMPORT_REPLY_BYTES;
use usbip_fast_native::backend::Options;
use usbip_fast_native::{Arena, Handle, clock, socket};

/// The session's thread.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Waits for the end of the session, which the client's brings.
    pub fn join(self) {
        self.thread.join().expect("the server did not panic");
    }

    /// The server ends the session.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// A server's session on a thread of its own, and a client of it.
pub fn open(choice: Choice) -> (Client, Server) {
    open_ahead(choice, Lead::default())
}

/// The same, and the server works ahead of the client.
pub fn open_ahead(choice: Choice, lead: Lead) -> (Client, Server) {
    let (here, there) = socket::pair().expect("a pair");
    let there = there.into_owned().expect("the only reference");
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let thread = thread::spawn(move || serve(choice, there, lead, &seen));
    let server = Server { stop, thread };
    let mut stream = UnixStream::from(here.into_owned().expect("the only reference"));
    stream.set_nonblocking(false).expect("a socket");
    stream.read_exact(&mut [0; IMPORT_REPLY_BYTES]).expect("the import");
    stream.set_nonblocking(true).expect("a socket");
    let socket = Handle::new(OwnedFd::from(stream));
    let (reactor, _) = select::open(choice, &Options::default()).expect("a reactor");
    let client =
        Client::new(reactor, socket, 0x00ff_0001, Speed::High, SOURCE_SINK).expect("a device");
    (client, server)
}

fn serve(choice: Choice, socket: OwnedFd, lead: Lead, stop: &AtomicBool) {
    let (mut reactor, _) = select::open(choice, &Options::default()).expect("a reactor");
    let spec = simulate::parse("zero:pace=none").expect("a device").remove(0);
    let mut export = spec.export(1);
    let description = export.describe().clone();
    let mut device = export.reserve().expect("free")(&reactor.doorbell());
    if !lead.is_none() {
        device = Box::new(Ahead::new(device, &description, lead));
    }
    let peer = "127.0.0.1:1".parse().expect("an address");
    let key = Key { index: 0, generation: 0 };
    let arena = Arena::new(limits::ARENA_BYTES);
    let now = clock::now();
    let mut session = Session::new(key, peer, Handle::new(socket), device, &description, now);
    let mut completions = Vec::new();
    loop {
        let now = clock::now();
        let more = {
            let mut io = Io { reactor: &mut *reactor, arena: &arena, now };
            for completion in completions.drain(..) {
                session.handle(completion, &mut io);
            }
            if stop.load(Ordering::Relaxed) {
                session.stop("the test says so");
            }
            session.settle(false, &mut io)
        };
        if session.is_closed() {
            return;
        }
        // Long enough to cost nothing, short enough to see the wish to stop.
        let look = now + Duration::from_millis(100);
        let deadline = session.deadline().map_or(look, |deadline| deadline.min(look));
        let deadline = Some(if more { Duration::ZERO } else { deadline });
        reactor.turn(deadline, &mut completions);
    }
}
