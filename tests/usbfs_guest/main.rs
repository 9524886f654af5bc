//! `device::usbfs` against gadgets on dummy_hcd and QEMU's sound device. Runs in the test guest, as
//! root, from the repository's folder, with epoll unless told otherwise:
//!
//! ```text
//! cargo test --test usbfs_guest --no-run
//! tools/vm/run --qemu '-device qemu-xhci -audiodev none,id=n -device usb-audio,audiodev=n' \
//!     env USBIP_FAST_GUEST=1 [USBIP_FAST_REACTOR=io-uring] \
//!     target/debug/deps/usbfs_guest-… --nocapture
//! ```

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod bench;

use std::cell::RefCell;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use usbip_fast::device::contract::{NotRun, Subject, TESTS};
use usbip_fast::device::usbfs::{self, InUse, UsbfsExport};
use usbip_fast::device::{Device, DeviceState, Export};
use usbip_fast::usb::identity::DeviceDescription;
use usbip_fast::usb::isochronous::PacketDescriptor;
use usbip_fast::usb::transfer::{Direction, Submission, TransferFlags, TransferType};
use usbip_fast_native::clock;
use zerocopy::IntoBytes;

use bench::*;

fn shell(script: &str) -> String {
    let script = format!(". tools/vm/lib.sh; {script}");
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash starts");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said} {errors}");
    said
}

fn driver() -> String {
    shell(&format!("driver_of {BUS_ID}:$(cat /sys/bus/usb/devices/{BUS_ID}/bConfigurationValue).0"))
}

fn step(name: &str) {
    println!("usbfs: {name}");
}

/// The machine's devices are for one test at a time. Two gadgets' buses come first, 1 and 2.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    let guard = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    shell("gadget_ports 2 is_super_speed=0");
    guard
}

fn in_guest() -> bool {
    let yes = std::env::var_os("USBIP_FAST_GUEST").is_some();
    if !yes {
        println!("not run: device::usbfs needs the test guest (USBIP_FAST_GUEST=1)");
    }
    yes
}

#[test]
fn usbfs_drives_a_gadget() {
    if !in_guest() {
        return;
    }
    let _alone = alone();
    shell("load_modules usbtest; gadget_zero zero 0");
    shell(&format!("wait_for 10 has_driver {BUS_ID}:1.0 usbtest"));

    let listed = usbfs::enumerate().expect("there is a USB bus");
    let mut export = UsbfsExport::new(BUS_ID, false).expect("the gadget is there");
    assert_eq!(listed.iter().find(|device| device.bus_id == BUS_ID), Some(export.describe()));
    assert_eq!((export.describe().vendor, export.describe().product), (0x0525, 0xa4a0));
    assert_eq!(usbfs::check_idle(BUS_ID), Ok(()));

    let mut bench = Bench::open(&mut export);
    bench.until_open();
    assert!(export.reserve().is_err(), "lent once");
    assert_eq!(driver(), "usbfs");
    let mut second = UsbfsExport::new(BUS_ID, false).expect("the gadget is there");
    let refused = Bench::open(&mut second).until_refused();
    assert_eq!(refused, format!("{BUS_ID} is in use by another program"));
    control(&mut bench, export.describe().descriptors[..18].try_into().expect("18 bytes"));
    source_and_sink(&mut bench);
    halts(&mut bench);
    settings(&mut bench);
    loop_back(&mut bench);
    assert_eq!(driver(), "usbfs", "no driver got in between");
    bench.close();
    assert_eq!(shell("driver_of 1-1:1.0"), "usbtest", "the driver is back");

    contract(&mut export);
    ends(&mut export);
}

/// What every device promises. Being unplugged is tried by [`ends`], because a controller may see
/// it first, and says something else then.
fn contract(export: &mut UsbfsExport) {
    let description = export.describe().clone();
    let export = RefCell::new(export);
    let waiter = RefCell::new(Waiter::new());
    let mut open = || {
        *waiter.borrow_mut() = Waiter::new();
        let bell = waiter.borrow().reactor.doorbell();
        export.borrow_mut().restore(Box::new(()));
        export.borrow_mut().reserve().expect("it was given back")(&bell)
    };
    let mut turn = |device: &mut dyn Device, _: Duration| waiter.borrow_mut().turn(device);
    let mut dispose = |device: Box<dyn Device>| drop(device.into_remains());
    let mut subject = Subject {
        description: &description,
        open: &mut open,
        turn: &mut turn,
        dispose: &mut dispose,
        unplug: None,
        faulty: false,
    };
    for test in &TESTS {
        match (test.run)(&mut subject) {
            Ok(()) => step(&format!("contract: {}", test.name)),
            Err(NotRun(reason)) => println!("not run: {}: {reason}", test.name),
        }
    }
}

fn control(bench: &mut Bench, descriptor: [u8; 18]) {
    step("control");
    let (status, data) = bench.control([0x80, 6, 0, 1, 0, 0, 18, 0], &[]);
    assert_eq!((status, data.as_slice()), (0, descriptor.as_slice()));
    let pattern: Vec<u8> = (0..=255).collect();
    assert_eq!(bench.control([0x40, 0x5b, 0, 0, 0, 0, 0, 1], &pattern).0, 0);
    assert_eq!(bench.control([0xc0, 0x5c, 0, 0, 0, 0, 0, 1], &[]), (0, pattern));
    assert_eq!(bench.control([0xc0, 0x77, 0, 0, 0, 0, 1, 0], &[]).0, -32, "unknown request");
    assert_eq!(bench.control([0x81, 0, 0, 0, 9, 0, 2, 0], &[]).0, -32, "no such interface");
    assert_eq!(bench.control([0, 5, 9, 0, 0, 0, 0, 0], &[]).0, 0, "the address stays");
}

fn source_and_sink(bench: &mut Bench) {
    step("bulk");
    for length in [512, 4096, 65536, 1 << 20, 4 << 20] {
        let (finished, data) = bench.bulk(Direction::In, length, &[]);
        assert_eq!((finished.status, finished.actual_length), (0, length));
        assert!(data.iter().all(|&byte| byte == 0), "the source's pattern is 0");
        let (finished, _) = bench.bulk(Direction::Out, length, &vec![0; length as usize]);
        assert_eq!((finished.status, finished.actual_length), (0, length));
    }
    let slots: Vec<u32> = (0..200).map(|_| bench.start(bulk(Direction::In, 4096), &[])).collect();
    bench.until("a queue", |bench| bench.finished.len() == slots.len());
    let order: Vec<u32> = bench.finished.drain(..).map(|(finished, _)| finished.slot).collect();
    assert_eq!(order, slots, "an endpoint's URBs end in their order");
    let (finished, _) = bench.bulk(Direction::Out, 0, &[]);
    assert_eq!((finished.status, finished.actual_length), (0, 0));
    let no_endpoint = Submission { endpoint: 9, ..bulk(Direction::In, 64) };
    let slot = bench.start(no_endpoint, &[]);
    assert_eq!(bench.wait(slot).0.status, -108);
}

fn halts(bench: &mut Bench) {
    step("halt");
    let endpoint = bench.endpoints.0 | 0x80;
    assert_eq!(bench.control([2, 3, 0, 0, endpoint, 0, 0, 0], &[]).0, 0, "SET_FEATURE(HALT)");
    assert_eq!(bench.bulk(Direction::In, 512, &[]).0.status, -32);
    assert_eq!(bench.control([2, 1, 0, 0, endpoint, 0, 0, 0], &[]).0, 0, "CLEAR_FEATURE(HALT)");
    assert_eq!(bench.bulk(Direction::In, 512, &[]).0.status, 0);
    assert_eq!(bench.control([2, 1, 0, 0, 0x8e, 0, 0, 0], &[]).0, -32, "no such endpoint");
}

fn settings(bench: &mut Bench) {
    step("settings");
    assert_eq!(bench.control([1, 11, 0, 0, 0, 0, 0, 0], &[]).0, 0);
    assert_eq!(bench.control([1, 11, 9, 0, 0, 0, 0, 0], &[]).0, -32, "no such setting");
    assert_eq!(bench.control([0, 9, 7, 0, 0, 0, 0, 0], &[]).0, -32, "no such configuration");
    assert_eq!(bench.bulk(Direction::In, 512, &[]).0.status, 0, "the interface is still ours");
    assert_eq!(bench.control([0, 9, 1, 0, 0, 0, 0, 0], &[]).0, 0, "the same again");
    assert_eq!(bench.bulk(Direction::In, 512, &[]).0.status, 0);
    step("reset");
    assert_eq!(bench.control([0x23, 3, 4, 0, 1, 0, 0, 0], &[]).0, 0);
    assert_eq!(bench.bulk(Direction::In, 512, &[]).0.status, 0);
    assert_eq!(driver(), "usbfs", "no driver got in between");
}

fn loop_back(bench: &mut Bench) {
    step("loop back, cancel");
    bench.configure(2);
    assert_eq!(bench.control([0x80, 8, 0, 0, 0, 0, 1, 0], &[]), (0, vec![2]));
    let pattern: Vec<u8> = (0..4096_u32).map(|index| (index % 251) as u8).collect();
    let reader = bench.start(bulk(Direction::In, 8192), &[]);
    let others: Vec<u32> = (0..3).map(|_| bench.start(bulk(Direction::In, 512), &[])).collect();
    assert_eq!(bench.bulk(Direction::Out, 4096, &pattern).0.status, 0);
    for _ in 0..10 {
        bench.turn();
    }
    assert!(bench.finished.is_empty(), "a full packet does not end a transfer");
    for &slot in others.iter().chain([&reader]) {
        bench.device.cancel(slot, clock::now());
    }
    bench.device.cancel(reader, clock::now());
    bench.device.cancel(999, clock::now());
    let (finished, data) = bench.wait(reader);
    assert_eq!((finished.status, finished.actual_length), (-104, 4096));
    assert_eq!(data, pattern, "what had arrived is kept");
    for slot in others {
        let (finished, _) = bench.wait(slot);
        assert_eq!((finished.status, finished.actual_length), (-104, 0));
    }
    let (finished, _) = bench.bulk(Direction::Out, 100, &pattern[..100]);
    assert_eq!(finished.status, 0);
    assert_eq!(bench.bulk(Direction::In, 512, &[]).1, &pattern[..100], "the endpoint goes on");

    step("many cancels");
    for round in 0..50 {
        let slots: Vec<u32> = (0..8).map(|_| bench.start(bulk(Direction::In, 512), &[])).collect();
        if round % 2 == 0 {
            bench.turn();
        }
        for &slot in &slots {
            bench.device.cancel(slot, clock::now());
        }
        for slot in slots {
            assert_eq!(bench.wait(slot).0.status, -104);
        }
    }
}

/// The ways in which a session ends.
fn ends(export: &mut UsbfsExport) {
    step("close with URBs in flight");
    export.restore(Box::new(()));
    let mut bench = Bench::open(export);
    bench.until_open();
    bench.configure(2);
    let slots: Vec<u32> = (0..5).map(|_| bench.start(bulk(Direction::In, 512), &[])).collect();
    bench.device.close(clock::now());
    for slot in slots {
        assert_eq!(bench.wait(slot).0.status, -104);
    }
    bench.close();
    assert_eq!(shell("driver_of 1-1:1.0"), "usbtest", "the driver is back");

    step("dropped without close");
    export.restore(Box::new(()));
    let mut bench = Bench::open(export);
    bench.until_open();
    bench.configure(2);
    for _ in 0..5 {
        bench.start(bulk(Direction::In, 512), &[]);
    }
    drop(bench);
    shell("wait_for 10 has_driver 1-1:1.0 usbtest");

    step("closed while it opens");
    export.restore(Box::new(()));
    Bench::open(export).close();
    assert_eq!(shell("driver_of 1-1:1.0"), "usbtest", "the driver is back");

    step("unplug");
    export.restore(Box::new(()));
    let mut bench = Bench::open(export);
    bench.until_open();
    bench.configure(2);
    let slots: Vec<u32> = (0..8).map(|_| bench.start(bulk(Direction::In, 512), &[])).collect();
    shell("gadget_unplug zero");
    for slot in slots {
        // The controller may notice (-71) before the hub's driver does (-108).
        let status = bench.wait(slot).0.status;
        assert!(matches!(status, -108 | -71), "{status}");
    }
    bench.until("the unplug", |bench| bench.device.state() == DeviceState::Gone);
    let slot = bench.start(bulk(Direction::In, 512), &[]);
    assert_eq!(bench.wait(slot).0.status, -19);
    assert_eq!(bench.device.state(), DeviceState::Gone);
    bench.close();

    step("unplug while idle");
    shell("gadget_plug zero 0; wait_for 10 has_driver 1-1:1.0 usbtest");
    export.restore(Box::new(()));
    let mut bench = Bench::open(export);
    bench.until_open();
    shell("gadget_unplug zero");
    bench.until("the unplug", |bench| bench.device.state() == DeviceState::Gone);
    bench.close();

    step("open what is not there");
    export.restore(Box::new(()));
    let mut bench = Bench::open(export);
    assert!(bench.until_refused().contains("not there"));
}

#[test]
fn usbfs_refuses_what_is_in_use() {
    if !in_guest() {
        return;
    }
    let _alone = alone();
    step("a disk");
    shell("load_modules usb_storage sd_mod ext4; truncate -s 16M /run/disk.img");
    shell("gadget_storage disk 1 /run/disk.img; wait_for 20 test -b /dev/sda");
    let mut export = UsbfsExport::new("2-1", false).expect("the gadget is there");
    assert_eq!(usbfs::check_idle("2-1"), Ok(()));

    shell("mkfs.ext4 -q /dev/sda; mkdir -p /run/disk; mount /dev/sda /run/disk");
    let (disk, mount_point) = ("sda".to_owned(), "/run/disk".to_owned());
    assert_eq!(usbfs::check_idle("2-1"), Err(InUse::Mounted { disk, mount_point }));
    assert!(Bench::open(&mut export).until_refused().contains("/run/disk"));
    assert_eq!(shell("driver_of 2-1:1.0"), "usb-storage", "it was left alone");
    shell("umount /run/disk");

    shell("mkswap -q /dev/sda && swapon /dev/sda");
    assert_eq!(usbfs::check_idle("2-1"), Err(InUse::Swap { disk: "sda".to_owned() }));
    shell("swapoff /dev/sda");

    export.restore(Box::new(()));
    let mut bench = Bench::open(&mut export);
    bench.until_open();
    assert_eq!(shell("driver_of 2-1:1.0"), "usbfs");
    bench.close();
    assert_eq!(shell("driver_of 2-1:1.0"), "usb-storage", "the driver is back");
    shell("wait_for 20 test -b /dev/sda; gadget_unplug disk");
}

/// QEMU's sound device plays: isochronous packets to a real schedule, as many at once as a client
/// may ask for, with gaps.
#[test]
fn usbfs_plays_isochronous_packets() {
    const PACKET_BYTES: u32 = 192;
    if !in_guest() {
        return;
    }
    let _alone = alone();
    shell("load_modules xhci_pci; sleep 2");
    let devices = usbfs::enumerate().expect("there is a USB bus");
    let is_audio = |device: &&DeviceDescription| device.interfaces.iter().any(|i| i.class == 1);
    let Some(audio) = devices.iter().find(is_audio) else {
        println!("not run: isochronous packets need -device usb-audio");
        return;
    };
    step("isochronous");
    let mut export = UsbfsExport::new(&audio.bus_id, false).expect("it is there");
    let mut bench = Bench::open(&mut export);
    bench.until_open();
    assert_eq!(bench.control([1, 11, 1, 0, 1, 0, 0, 0], &[]).0, 0, "the streaming interface");
    let start = clock::now();
    let slots: Vec<u32> = [(1024, 200), (300, 192), (1, 192), (129, 193)]
        .into_iter()
        .map(|(packets, stride)| {
            let submission = Submission {
                kind: TransferType::Isochronous,
                endpoint: 1,
                packets,
                flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
                ..bulk(Direction::Out, packets * stride)
            };
            let mut data = vec![0; submission.length as usize];
            let descriptors: Vec<PacketDescriptor> = (0..packets)
                .map(|index| PacketDescriptor::new(index * stride, PACKET_BYTES))
                .collect();
            data.extend_from_slice(descriptors.as_bytes());
            bench.start(submission, &data)
        })
        .collect();
    for (slot, packets) in slots.into_iter().zip([1024, 300, 1, 129]) {
        let (finished, _) = bench.wait(slot);
        assert_eq!((finished.status, finished.error_count), (0, 0));
        assert_eq!(finished.actual_length, packets * PACKET_BYTES);
    }
    let taken = clock::now() - start;
    println!("usbfs: 1454 packets of a millisecond in {taken:?}");
    assert!(taken > Duration::from_millis(1000), "at the device's pace: {taken:?}");

    step("cancel isochronous packets");
    let submission = Submission {
        kind: TransferType::Isochronous,
        endpoint: 1,
        packets: 1000,
        flags: TransferFlags { iso_asap: true, ..TransferFlags::default() },
        ..bulk(Direction::Out, 1000 * PACKET_BYTES)
    };
    let mut data = vec![0; submission.length as usize];
    let descriptors: Vec<PacketDescriptor> =
        (0..1000).map(|index| PacketDescriptor::new(index * PACKET_BYTES, PACKET_BYTES)).collect();
    data.extend_from_slice(descriptors.as_bytes());
    let slot = bench.start(submission, &data);
    for _ in 0..10 {
        bench.turn();
    }
    bench.device.cancel(slot, clock::now());
    let (finished, _) = bench.wait(slot);
    assert_eq!(finished.status, -104);
    assert!(finished.actual_length < 1000 * PACKET_BYTES && finished.error_count > 0);
    assert_eq!(bench.control([1, 11, 0, 0, 1, 0, 0, 0], &[]).0, 0, "silence");
    bench.close();
}
