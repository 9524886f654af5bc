//! What every [`Device`] promises, as one list of tests that runs on each backend.
//!
//! The device under test must have the shape of Gadget Zero: sources and sinks in its first
//! configuration, and, for what needs URBs that stay pending, a loopback in its second. A test
//! that needs an endpoint which the device does not have answers [`NotRun`]. Tests panic with what
//! was broken; on every answer of every test the account of its driver is checked too: each URB
//! once, its own block, order per endpoint, lengths in bounds, packets that add up.

mod driver;
mod periodic;

use std::time::Duration;

use self::driver::{Driver, Request};
use self::periodic::iso_request;
pub use self::periodic::{
    interrupt_both_ways, isochronous_both_ways, isochronous_gaps, isochronous_longest,
};
use super::faulty::Dice;
use super::{Device, DeviceState};
use crate::limits;
use crate::usb::descriptor::Configurations;
use crate::usb::endpoint::{EndpointInfo, EndpointMap};
use crate::usb::errno;
use crate::usb::identity::DeviceDescription;
use crate::usb::setup::{Setup, request};
use crate::usb::transfer::{Direction, TransferFlags, TransferType};

/// A device under test and what drives it.
pub struct Subject<'a> {
    /// What is known of it from outside.
    pub description: &'a DeviceDescription,
    /// Opens it. Called once per test, after the one before was disposed of.
    pub open: &'a mut dyn FnMut() -> Box<dyn Device>,
    /// Waits, a short while at most, until the device has a deadline due, readiness or a ring of
    /// its doorbell, passes that on to it, and returns the time it is then. Gets the time of the
    /// last call, zero at first. A simulated device is not waited for: its time jumps.
    pub turn: &'a mut dyn FnMut(&mut dyn Device, Duration) -> Duration,
    /// Takes the closed device back.
    pub dispose: &'a mut dyn FnMut(Box<dyn Device>),
    /// Unplugs the open device, where that can be done.
    pub unplug: Option<Box<dyn FnMut() + 'a>>,
    /// The device makes faults: only the tests that say nothing about results are run.
    pub faulty: bool,
}

/// Why a test was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRun(pub &'static str);

/// One test.
pub struct Test {
    /// Its name, for reports.
    pub name: &'static str,
    /// Whether it also holds for a device that makes faults.
    pub tolerates_faults: bool,
    /// The test itself. Panics if the promise is broken.
    pub run: fn(&mut Subject<'_>) -> Result<(), NotRun>,
}

/// The whole list.
pub const TESTS: [Test; 16] = [
    exact("alternate_settings", alternate_settings),
    exact("cancel_of_a_pending_urb", cancel_of_a_pending_urb),
    exact("cancel_of_what_is_not_there", cancel_of_what_is_not_there),
    any("close_with_urbs_pending", close_with_urbs_pending),
    exact("control_lengths", control_lengths),
    exact("endpoints_are_independent", endpoints_are_independent),
    any("full_house", full_house),
    exact("gone", gone),
    exact("halt_and_clear", halt_and_clear),
    exact("interrupt_both_ways", interrupt_both_ways),
    exact("isochronous_both_ways", isochronous_both_ways),
    exact("isochronous_gaps", isochronous_gaps),
    exact("isochronous_longest", isochronous_longest),
    exact("large_transfers", large_transfers),
    any("storm", storm),
    exact("zero_length", zero_length),
];

const fn exact(name: &'static str, run: fn(&mut Subject<'_>) -> Result<(), NotRun>) -> Test {
    Test { name, tolerates_faults: false, run }
}

const fn any(name: &'static str, run: fn(&mut Subject<'_>) -> Result<(), NotRun>) -> Test {
    Test { name, tolerates_faults: true, run }
}

/// Runs every test that applies. Returns those that were not run, with the reason.
///
/// # Panics
///
/// If the device breaks a promise.
pub fn run_all(subject: &mut Subject<'_>) -> Vec<(&'static str, NotRun)> {
    let mut not_run = Vec::new();
    for test in &TESTS {
        let result = if subject.faulty && !test.tolerates_faults {
            Err(NotRun("results of a faulty device mean nothing"))
        } else {
            (test.run)(subject)
        };
        not_run.extend(result.err().map(|reason| (test.name, reason)));
    }
    not_run
}

/// SET_INTERFACE changes which endpoints there are, and ends what waits at those that go.
///
/// # Errors
///
/// [`NotRun`] without an isochronous alternate setting.
pub fn alternate_settings(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let iso = find(subject, TransferType::Isochronous, Direction::In)?;
    let mut driver = Driver::open(subject);
    let request = iso_request(&iso, 4);
    let outside = driver.transfer(&request);
    assert!(outside.status < 0, "the endpoint is not part of setting 0: {}", outside.status);
    set_interface(&mut driver, iso.alternate);
    assert_eq!(driver.transfer(&request).status, 0);
    let get = Setup { request_type: 0x81, ..setup_in(request::GET_INTERFACE, 0, 1) };
    assert_eq!(driver.control(get, &[]).buffer, [iso.alternate]);
    let waiting = driver.submit(&request).expect("memory");
    set_interface(&mut driver, 0);
    driver.answer(waiting);
    assert!(driver.transfer(&request).status < 0, "the endpoint is gone again");
    let wrong = Setup { request_type: 1, value: 77, ..setup_in(request::SET_INTERFACE, 0, 0) };
    assert_eq!(driver.control(wrong, &[]).status, -errno::EPIPE);
    driver.finish();
    Ok(())
}

/// A pending URB that is cancelled comes back with -104; the others of its endpoint stay.
///
/// # Errors
///
/// [`NotRun`] without a loopback.
pub fn cancel_of_a_pending_urb(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let loopback = Loopback::of(subject)?;
    let mut driver = loopback.open(subject);
    let slots: Vec<_> =
        (0..5).map(|_| driver.submit(&loopback.read(2048)).expect("memory")).collect();
    driver.linger(3);
    assert_eq!(driver.in_flight(), 5, "there is nothing to read yet");
    for index in [2, 0, 4] {
        driver.cancel(slots[index]);
        driver.cancel(slots[index]);
        let cancelled = driver.answer(slots[index]);
        assert_eq!((cancelled.status, cancelled.actual), (-errno::ECONNRESET, 0));
    }
    for (slot, byte) in [(slots[1], 1), (slots[3], 2)] {
        let data = [byte; 30];
        assert_eq!(driver.transfer(&loopback.write(&data)).status, 0);
        let read = driver.answer(slot);
        assert_eq!((read.status, &read.buffer[..read.actual]), (0, &data[..]));
    }
    driver.finish();
    Ok(())
}

/// A cancel that comes too late, or names nothing, does nothing.
///
/// # Errors
///
/// [`NotRun`] without bulk IN.
pub fn cancel_of_what_is_not_there(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let bulk = find(subject, TransferType::Bulk, Direction::In)?;
    let mut driver = Driver::open(subject);
    // A whole packet at every speed, here and below: a source that has more babbles into less.
    let request = Request::new(TransferType::Bulk, bulk.address, 1024);
    let done = driver.transfer(&request);
    assert_eq!(done.status, 0);
    driver.cancel(done.slot);
    driver.cancel(u32::MAX);
    driver.linger(3);
    assert_eq!(driver.settle().len(), 0, "nothing comes back a second time");
    assert_eq!(driver.transfer(&request).status, 0);
    let raced = driver.submit(&request).expect("memory");
    driver.cancel(raced);
    let raced = driver.answer(raced);
    assert!([0, -errno::ECONNRESET].contains(&raced.status), "either side wins the race");
    assert!(raced.status != 0 || raced.actual == 1024, "the winner has all its bytes");
    driver.finish();
    Ok(())
}

/// Closing ends all URBs and then the device, twice does no harm, and it opens again.
///
/// # Errors
///
/// [`NotRun`] without bulk IN.
pub fn close_with_urbs_pending(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let bulk = find(subject, TransferType::Bulk, Direction::In)?;
    let loopback = Loopback::of(subject).ok();
    for _ in 0..2 {
        let mut driver = Driver::open(subject);
        let choice = loopback.as_ref().map(|loopback| Request::control(loopback.choose(), &[]));
        if let Some(slot) = choice.and_then(|choice| driver.submit(&choice)) {
            driver.answer(slot);
        }
        let mut submitted = 0;
        for _ in 0..40 {
            let request = Request::new(TransferType::Bulk, bulk.address, 1024);
            submitted += usize::from(driver.submit(&request).is_some());
        }
        driver.close();
        driver.close();
        assert_eq!(driver.settle().len(), submitted);
        driver.finish();
    }
    Ok(())
}

/// wLength bounds the data stage, a short one is no error unless the client says so, and what a
/// device does not know it stalls.
///
/// # Errors
///
/// None: every device has endpoint 0.
pub fn control_lengths(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let listed = subject.description.descriptors[..18].to_vec();
    let mut driver = Driver::open(subject);
    for length in [0, 1, 8, 17, 18, 19, 64, 255, 4096] {
        let setup = setup_in(request::GET_DESCRIPTOR, 0x0100, length);
        let answer = driver.control(setup, &[]);
        let expected = usize::from(length).min(18);
        assert_eq!((answer.status, answer.actual), (0, expected), "wLength {length}");
        assert_eq!(answer.buffer[..expected], listed[..expected]);
        let strict = TransferFlags { short_not_ok: true, ..TransferFlags::default() };
        let answer = driver.transfer(&Request { flags: strict, ..Request::control(setup, &[]) });
        let status = if expected < usize::from(length) { -errno::EREMOTEIO } else { 0 };
        assert_eq!((answer.status, answer.actual), (status, expected), "wLength {length}");
    }
    let unknown = setup_in(request::GET_DESCRIPTOR, 0x7700, 64);
    assert_eq!(driver.control(unknown, &[]).status, -errno::EPIPE);
    for length in [1, 63, 64, 65, 512, 1023] {
        let data: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
        let write = Setup { request_type: 0x40, ..setup_in(0x5b, 0, length) };
        let answer = driver.control(write, &data);
        assert_eq!((answer.status, answer.actual), (0, usize::from(length)));
        let read = Setup { request_type: 0xc0, ..setup_in(0x5c, 0, length) };
        let answer = driver.control(read, &[]);
        assert_eq!((answer.status, answer.buffer), (0, data), "what was written comes back");
    }
    driver.finish();
    Ok(())
}

/// An endpoint that waits delays no other.
///
/// # Errors
///
/// [`NotRun`] without a loopback.
pub fn endpoints_are_independent(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let loopback = Loopback::of(subject)?;
    let mut driver = loopback.open(subject);
    let waiting = driver.submit(&loopback.read(512)).expect("memory");
    for _ in 0..10 {
        let setup = setup_in(request::GET_DESCRIPTOR, 0x0100, 18);
        assert_eq!(driver.control(setup, &[]).status, 0);
    }
    assert_eq!(driver.in_flight(), 1, "the reader still waits");
    let data = [3; 100];
    assert_eq!(driver.transfer(&loopback.write(&data)).status, 0);
    let read = driver.answer(waiting);
    assert_eq!((read.status, &read.buffer[..read.actual]), (0, &data[..]));
    driver.finish();
    Ok(())
}

/// As many URBs as a session may have, on several endpoints at once.
///
/// # Errors
///
/// [`NotRun`] without a bulk pair.
pub fn full_house(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let source = find(subject, TransferType::Bulk, Direction::In)?.address;
    let sink = find(subject, TransferType::Bulk, Direction::Out)?.address;
    let mut driver = Driver::open(subject);
    let data = [0; 64];
    let mut submitted = 0;
    for index in 0..limits::SESSION_URBS {
        let setup = setup_in(request::GET_DESCRIPTOR, 0x0100, 18);
        let request = match index % 3 {
            0 => Request::new(TransferType::Bulk, source, 1024),
            1 => Request { data: &data, ..Request::new(TransferType::Bulk, sink, data.len()) },
            _ => Request::control(setup, &[]),
        };
        submitted += usize::from(driver.submit(&request).is_some());
    }
    assert_eq!(driver.settle().len(), submitted);
    driver.finish();
    Ok(())
}

/// When the hardware goes, pending URBs end with -108 and later ones with -19.
///
/// # Errors
///
/// [`NotRun`] where the device cannot be unplugged, or without a loopback.
pub fn gone(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let loopback = Loopback::of(subject)?;
    let Some(mut unplug) = subject.unplug.take() else {
        return Err(NotRun("nobody can unplug this device"));
    };
    let mut driver = loopback.open(subject);
    for _ in 0..3 {
        driver.submit(&loopback.read(512)).expect("memory");
    }
    driver.linger(2);
    unplug();
    driver.wait("the device goes", |driver| driver.state() == DeviceState::Gone);
    let ended = driver.settle();
    assert!(ended.iter().all(|answer| answer.status == -errno::ESHUTDOWN), "{ended:?}");
    assert_eq!(ended.len(), 3);
    for request in [
        loopback.read(512),
        loopback.write(&[0; 8]),
        Request::control(setup_in(request::GET_DESCRIPTOR, 0x0100, 18), &[]),
    ] {
        assert_eq!(driver.transfer(&request).status, -errno::ENODEV);
    }
    driver.finish();
    subject.unplug = Some(unplug);
    Ok(())
}

/// A halted endpoint stalls every URB until the halt is cleared; it alone is halted.
///
/// # Errors
///
/// [`NotRun`] without a bulk pair.
pub fn halt_and_clear(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let endpoints = [
        find(subject, TransferType::Bulk, Direction::In)?.address,
        find(subject, TransferType::Bulk, Direction::Out)?.address,
    ];
    let mut driver = Driver::open(subject);
    let data = [0; 1024];
    for (halted, other) in [(endpoints[0], endpoints[1]), (endpoints[1], endpoints[0])] {
        let request = |address| {
            let request = Request::new(TransferType::Bulk, address, data.len());
            if address & 0x80 == 0 { Request { data: &data, ..request } } else { request }
        };
        let feature = |request| Setup {
            request_type: 2,
            index: u16::from(halted),
            ..setup_in(request, 0, 0)
        };
        assert_eq!(driver.control(feature(request::SET_FEATURE), &[]).status, 0);
        for _ in 0..2 {
            assert_eq!(driver.transfer(&request(halted)).status, -errno::EPIPE);
        }
        assert_eq!(driver.transfer(&request(other)).status, 0);
        let status = setup_in(request::GET_STATUS, 0, 2);
        let status = Setup { request_type: 0x82, index: u16::from(halted), ..status };
        assert_eq!(driver.control(status, &[]).buffer, [1, 0]);
        assert_eq!(driver.control(feature(request::CLEAR_FEATURE), &[]).status, 0);
        assert_eq!(driver.control(status, &[]).buffer, [0, 0]);
        assert_eq!(driver.transfer(&request(halted)).status, 0);
    }
    driver.finish();
    Ok(())
}

/// Bulk URBs far above a packet, with odd lengths, both ways.
///
/// # Errors
///
/// [`NotRun`] without a bulk pair.
pub fn large_transfers(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let source = find(subject, TransferType::Bulk, Direction::In)?.address;
    let sink = find(subject, TransferType::Bulk, Direction::Out)?.address;
    let mut driver = Driver::open(subject);
    let data = vec![0; 1 << 20];
    for length in [1_usize << 20, 300_000, 65_536, 4096, 512] {
        let request = Request::new(TransferType::Bulk, source, length.next_multiple_of(1024));
        let answer = driver.transfer(&request);
        assert_eq!((answer.status, answer.actual), (0, request.length));
        assert!(answer.buffer.iter().all(|byte| *byte < 63), "the source's pattern");
        let request = Request::new(TransferType::Bulk, sink, length);
        let answer = driver.transfer(&Request { data: &data[..length], ..request });
        assert_eq!((answer.status, answer.actual), (0, length));
    }
    driver.finish();
    Ok(())
}

/// A few hundred URBs and cancels in random order on all endpoints of the first setting.
///
/// # Errors
///
/// [`NotRun`] without a bulk pair.
pub fn storm(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let source = find(subject, TransferType::Bulk, Direction::In)?.address;
    let sink = find(subject, TransferType::Bulk, Direction::Out)?.address;
    let data = [0; 2048];
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let mut driver = Driver::open(subject);
        let mut slots = Vec::new();
        for _ in 0..300 {
            let length = 512 * (1 + dice.below(4) as usize);
            let setup = setup_in(request::GET_DESCRIPTOR, 0x0200, 255);
            let request = match dice.below(4) {
                0 => Request::new(TransferType::Bulk, source, length),
                1 => Request {
                    data: &data[..length],
                    ..Request::new(TransferType::Bulk, sink, length)
                },
                2 => Request::control(setup, &[]),
                _ => {
                    let index = dice.below(slots.len() as u32) as usize;
                    if let Some(slot) = slots.get(index) {
                        driver.cancel(*slot);
                    }
                    driver.linger(1);
                    continue;
                }
            };
            slots.extend(driver.submit(&request));
        }
        assert_eq!(driver.settle().len(), slots.len());
        driver.finish();
    }
    Ok(())
}

/// Transfers without a byte.
///
/// # Errors
///
/// [`NotRun`] without bulk OUT.
pub fn zero_length(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let sink = find(subject, TransferType::Bulk, Direction::Out)?.address;
    let configuration = u16::from(subject.description.configuration);
    let mut driver = Driver::open(subject);
    let answer = driver.transfer(&Request::new(TransferType::Bulk, sink, 0));
    assert_eq!((answer.status, answer.actual), (0, 0));
    let same = Setup { request_type: 0, ..setup_in(request::SET_CONFIGURATION, configuration, 0) };
    let answer = driver.control(same, &[]);
    assert_eq!((answer.status, answer.actual), (0, 0));
    driver.finish();
    Ok(())
}

/// The bulk pair of the second configuration, where reads wait for writes.
struct Loopback {
    configuration: u8,
    source: u8,
    sink: u8,
}

impl Loopback {
    fn of(subject: &Subject<'_>) -> Result<Self, NotRun> {
        let descriptors = &subject.description.descriptors;
        let second = Configurations::new(descriptors).nth(1);
        let configuration = second.ok_or(NotRun("it has no loopback configuration"))?.value;
        let map = EndpointMap::new(descriptors, configuration);
        let bulk = |direction| {
            let mut endpoints = map.active().filter(|info| info.kind == TransferType::Bulk);
            let found = endpoints.find(|info| info.direction() == direction);
            found.map(|info| info.address).ok_or(NotRun("its loopback has no bulk pair"))
        };
        let (source, sink) = (bulk(Direction::In)?, bulk(Direction::Out)?);
        Ok(Self { configuration, source, sink })
    }

    fn choose(&self) -> Setup {
        let value = u16::from(self.configuration);
        Setup { request_type: 0, ..setup_in(request::SET_CONFIGURATION, value, 0) }
    }

    fn open<'a, 'b>(&self, subject: &'a mut Subject<'b>) -> Driver<'a, 'b> {
        let mut driver = Driver::open(subject);
        assert_eq!(driver.control(self.choose(), &[]).status, 0);
        driver
    }

    fn read(&self, length: usize) -> Request<'static> {
        Request::new(TransferType::Bulk, self.source, length)
    }

    fn write<'d>(&self, data: &'d [u8]) -> Request<'d> {
        Request { data, ..Request::new(TransferType::Bulk, self.sink, data.len()) }
    }
}

/// The endpoint of this kind in the first configuration, whichever alternate setting has it.
fn find(
    subject: &Subject<'_>,
    kind: TransferType,
    direction: Direction,
) -> Result<EndpointInfo, NotRun> {
    let DeviceDescription { descriptors, configuration, .. } = subject.description;
    let map = EndpointMap::new(descriptors, *configuration);
    let mut endpoints = (1..16).filter_map(|number| map.info(number, direction));
    let found = endpoints.find(|info| info.kind == kind);
    found.copied().ok_or(NotRun("it has no endpoint of this kind"))
}

fn set_interface(driver: &mut Driver<'_, '_>, alternate: u8) {
    let setup = setup_in(request::SET_INTERFACE, u16::from(alternate), 0);
    let answer = driver.control(Setup { request_type: 1, ..setup }, &[]);
    assert_eq!(answer.status, 0, "alternate setting {alternate}");
}

/// A standard request to the device; callers change what differs.
fn setup_in(request: u8, value: u16, length: u16) -> Setup {
    Setup { request_type: 0x80, request, value, index: 0, length }
}

#[cfg(test)]
mod tests;
