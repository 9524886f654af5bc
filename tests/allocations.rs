//! No URB costs a heap allocation once both ends are warm: server session, simulated device, user
//! space client and both reactors, over a real socket, on every path a URB can take.

mod server;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use usbip_fast::device::ahead::Lead;
use usbip_fast::device::gadget::zero::{LOOPBACK, READ_BUFFER, SOURCE_SINK, WRITE_BUFFER};
use usbip_fast::host::userspace::{Client, Urb};
use usbip_fast::reactor::select::Choice;
use usbip_fast::usb::setup::Setup;

/// The system's allocator with a count of what it gives out.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// URBs in flight together.
const DEPTH: usize = 32;

/// Rounds of that many URBs before and while allocations are counted.
const WARM_ROUNDS: usize = 16;
const ROUNDS: usize = 32;

const PATIENCE: Duration = Duration::from_secs(10);

// One test, because the count is that of the whole process.
#[test]
fn no_urb_costs_an_allocation() {
    for choice in [Choice::Auto, Choice::Epoll] {
        let (client, server) = server::open(choice);
        walk(client);
        server.join();
        let time = Some(Duration::from_millis(10));
        let (client, server) = server::open_ahead(choice, Lead { prefetch: time, jitter: time });
        walk_ahead(client);
        server.join();
    }
}

/// What a server that works ahead does itself.
fn walk_ahead(mut client: Client) {
    let packets = [1024; 16];
    client.set_interface(0, 1, PATIENCE).expect("isochronous endpoints");
    steady(&mut client, "isochronous IN, ahead", |client| client.isochronous_urb(0x82, &packets));
    steady(&mut client, "isochronous OUT, held", |client| client.isochronous_urb(0x02, &packets));
    client.set_interface(0, 2, PATIENCE).expect("interrupt endpoints");
    steady(&mut client, "interrupt IN, ahead", |client| client.urb(0x83, 64));
}

fn walk(mut client: Client) {
    let vendor =
        |request_type, request, length| Setup { request_type, request, value: 0, index: 0, length };
    steady(&mut client, "control IN", |client| client.control_urb(device_descriptor()));
    steady(&mut client, "control OUT", |client| {
        client.control_urb(vendor(0x40, WRITE_BUFFER, 512))
    });
    steady(&mut client, "control IN of a buffer", |client| {
        client.control_urb(vendor(0xc0, READ_BUFFER, 512))
    });
    for length in [64, 4000, 64 * 1024] {
        steady(&mut client, "bulk IN", |client| client.urb(0x81, length));
        steady(&mut client, "bulk OUT", |client| client.urb(0x01, length));
    }
    let packets = [1024; 16];
    client.set_interface(0, 1, PATIENCE).expect("isochronous endpoints");
    steady(&mut client, "isochronous IN", |client| client.isochronous_urb(0x82, &packets));
    steady(&mut client, "isochronous OUT", |client| client.isochronous_urb(0x02, &packets));
    client.set_interface(0, 2, PATIENCE).expect("interrupt endpoints");
    steady(&mut client, "interrupt IN", |client| client.urb(0x83, 64));
    steady(&mut client, "interrupt OUT", |client| client.urb(0x03, 64));
    client.set_configuration(LOOPBACK, PATIENCE).expect("the loopback");
    unlinked(&mut client);
    client.set_configuration(SOURCE_SINK, PATIENCE).expect("source and sink");
}

fn device_descriptor() -> Setup {
    Setup { request_type: 0x80, request: 6, value: 0x0100, index: 0, length: 18 }
}

/// Many rounds of URBs that all succeed.
fn steady<E: std::fmt::Debug>(
    client: &mut Client,
    what: &str,
    make: impl Fn(&Client) -> Result<Urb, E>,
) {
    let mut urbs: Vec<Urb> = (0..DEPTH).map(|_| make(client).expect("a URB")).collect();
    counted(what, |_| {
        for urb in urbs.drain(..) {
            client.submit(urb);
        }
        for _ in 0..DEPTH {
            let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
            assert_eq!(done.status, 0, "{what}");
            urbs.push(done.urb);
        }
    });
}

/// Many rounds of URBs that wait at the device until they are unlinked.
fn unlinked(client: &mut Client) {
    let mut urbs: Vec<Urb> = (0..DEPTH).map(|_| client.urb(0x81, 512).expect("a URB")).collect();
    let mut ids = Vec::with_capacity(DEPTH);
    let mut probe = Some(client.control_urb(device_descriptor()).expect("a URB"));
    counted("unlink", |_| {
        for urb in urbs.drain(..) {
            ids.push(client.submit(urb));
        }
        // What is answered behind them says that the device has them.
        client.submit(probe.take().expect("it came back"));
        let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
        assert_eq!(done.status, 0, "an answer of endpoint 0");
        probe = Some(done.urb);
        for id in ids.drain(..) {
            client.unlink(id);
        }
        for _ in 0..DEPTH {
            let done = client.poll(Some(PATIENCE)).expect("a session").expect("in time");
            assert_eq!(done.status, -104, "unlinked");
            urbs.push(done.urb);
        }
    });
}

fn counted(what: &str, mut round: impl FnMut(usize)) {
    (0..WARM_ROUNDS).for_each(&mut round);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..ROUNDS).for_each(&mut round);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "{what}: {allocations} allocations in {} URBs", ROUNDS * DEPTH);
}
