#![allow(clippy::disallowed_methods, reason = "a tree of files that looks like the driver")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::host::{Hub, contract};
use crate::usb::speed::Speed;

/// How a driver was built.
#[derive(Clone, Copy)]
enum Layout {
    /// Two hubs of `width` ports on each of `controllers` controllers.
    TwoHubs { controllers: u32, width: u32 },
    /// Linux before 4.13: one hub, no hub column, no controller number.
    OneHub { width: u32 },
}

/// A tree of files that looks like the driver, and the part of the driver that answers writes.
struct FakeDriver {
    root: PathBuf,
    layout: Layout,
    attached: Vec<(u32, u32, u32)>,
    vhci: Vhci,
}

impl FakeDriver {
    fn new(name: &str, layout: Layout) -> Self {
        let root = std::env::temp_dir().join(format!("host-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let folder = match layout {
            Layout::TwoHubs { .. } => "vhci_hcd.0",
            Layout::OneHub { .. } => "vhci_hcd",
        };
        let driver = root.join("sys/devices/platform").join(folder);
        fs::create_dir_all(&driver).expect("folder");
        let files = Files::at(root.join("sys"), root.join("run"));
        write_status(&driver, layout, &[]);
        let vhci = Vhci::open(files).expect("the fake is loaded");
        let fake = Self { root, layout, attached: Vec::new(), vhci };
        fs::write(fake.file("attach"), "").expect("file");
        fs::write(fake.file("detach"), "").expect("file");
        fake
    }

    fn folder(&self) -> PathBuf {
        let platform = self.root.join("sys/devices/platform");
        let numbered = platform.join("vhci_hcd.0");
        if numbered.exists() { numbered } else { platform.join("vhci_hcd") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The text written since the last look.
    fn take(&self, name: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.file(name)).expect("readable");
        fs::write(self.file(name), "").expect("writable");
        text.split_whitespace().map(|word| word.parse().expect("a decimal")).collect()
    }
}

impl contract::World for FakeDriver {
    fn controller(&mut self) -> &mut dyn HostController {
        &mut self.vhci
    }

    fn react(&mut self) {
        if let [port, _socket, device_id, speed] = self.take("attach")[..] {
            self.attached.push((port, device_id, speed));
        }
        if let [port] = self.take("detach")[..] {
            self.attached.retain(|(attached, ..)| *attached != port);
        }
        write_status(&self.folder(), self.layout, &self.attached);
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn write_status(folder: &Path, layout: Layout, attached: &[(u32, u32, u32)]) {
    let line = |hub: &str, number: u32| match attached.iter().find(|(port, ..)| *port == number) {
        Some((_, device_id, speed)) => {
            format!("{hub}{number:04} 006 {speed:03} {device_id:08x} 000005 {}-1\n", number + 1)
        }
        None => format!("{hub}{number:04} 004 000 00000000 000000 0-0\n"),
    };
    match layout {
        Layout::OneHub { width } => {
            let mut text = String::from("port sta spd dev      sockfd local_busid\n");
            (0..width).for_each(|number| text.push_str(&line("", number)));
            fs::write(folder.join("status"), text).expect("written");
        }
        Layout::TwoHubs { controllers, width } => {
            for controller in 0..controllers {
                let mut text = String::from("hub port sta spd dev      sockfd local_busid\n");
                for index in 0..2 * width {
                    let hub = if index < width { "hs  " } else { "ss  " };
                    write!(text, "{}", line(hub, controller * 2 * width + index)).expect("memory");
                }
                let name = match controller {
                    0 => "status".to_owned(),
                    number => format!("status.{number}"),
                };
                fs::write(folder.join(name), text).expect("written");
            }
        }
    }
}

#[test]
fn contract_on_fifteen_by_eight() {
    let layout = Layout::TwoHubs { controllers: 8, width: 15 };
    let mut fake = FakeDriver::new("15x8", layout);
    assert_eq!(fake.vhci.ports().expect("readable").len(), 240);
    contract::check(&mut fake);
}

#[test]
fn contract_on_eight_by_one() {
    let mut fake = FakeDriver::new("8x1", Layout::TwoHubs { controllers: 1, width: 8 });
    assert_eq!(fake.vhci.ports().expect("readable").len(), 16);
    contract::check(&mut fake);
}

#[test]
fn contract_on_one_hub() {
    let mut fake = FakeDriver::new("one", Layout::OneHub { width: 8 });
    let ports = fake.vhci.ports().expect("readable");
    assert!(ports.iter().all(|port| port.hub == Hub::Only));
    contract::check(&mut fake);
}

#[test]
fn a_super_speed_device_is_written_to_its_hub_with_its_speed() {
    let mut fake = FakeDriver::new("super", Layout::TwoHubs { controllers: 8, width: 15 });
    let device = contract::device(Speed::Super);
    let port = fake.vhci.attach(contract::connection(), &device, None).expect("free");
    assert_eq!(port, 15);
    let written = fake.take("attach");
    assert_eq!((written[0], written[2], written[3]), (15, 0x0001_0007, 5));
    let record = fs::read_to_string(fake.root.join("run/port15")).expect("noted");
    assert_eq!(record, "server 3240 1-1.4\n");
}

#[test]
fn a_refusal_of_the_driver_is_told_and_leaves_no_record() {
    let mut fake = FakeDriver::new("refused", Layout::TwoHubs { controllers: 1, width: 8 });
    fs::remove_file(fake.file("attach")).expect("there");
    // A real kernel file that refuses the text with EINVAL, as the driver would.
    std::os::unix::fs::symlink("/proc/self/oom_score_adj", fake.file("attach")).expect("link");
    let device = contract::device(Speed::SuperPlus);
    let error = fake.vhci.attach(contract::connection(), &device, None).expect_err("refused");
    assert!(matches!(error, HostError::Refused { port: 8, speed: Speed::Super, .. }), "{error}");
    assert!(!fake.root.join("run/port8").exists());
}

#[test]
fn a_detach_that_comes_too_late_is_an_empty_port() {
    let mut fake = FakeDriver::new("late", Layout::TwoHubs { controllers: 2, width: 15 });
    let device = contract::device(Speed::High);
    let port = fake.vhci.attach(contract::connection(), &device, Some(30)).expect("free");
    contract::World::react(&mut fake);
    assert!(fake.root.join("run/port30").exists());
    fs::remove_file(fake.file("detach")).expect("there");
    // A real kernel file that refuses the number 30 with EINVAL, as the driver does when free.
    std::os::unix::fs::symlink("/proc/self/oom_adj", fake.file("detach")).expect("link");
    let error = fake.vhci.detach(port);
    assert!(matches!(error, Err(HostError::PortEmpty(30))), "{error:?}");
    assert!(!fake.root.join("run/port30").exists(), "a record of nothing is removed");
}

#[test]
fn a_driver_that_is_not_there_is_named() {
    let nowhere = std::env::temp_dir().join("no-such-vhci");
    let vhci = Vhci { files: Files::at(&nowhere, &nowhere) };
    let error = vhci.ports().expect_err("nothing there");
    assert!(matches!(error, HostError::DriverMissing(_)));
    assert!(error.to_string().contains("modprobe vhci-hcd"));
}

#[test]
fn progress_follows_the_configuration() {
    let mut fake = FakeDriver::new("progress", Layout::TwoHubs { controllers: 1, width: 8 });
    let device = contract::device(Speed::High);
    let port = fake.vhci.attach(contract::connection(), &device, Some(2)).expect("free");
    contract::World::react(&mut fake);
    assert_eq!(fake.vhci.progress(port).expect("readable"), Progress::Starting);
    let local = fake.root.join("sys/bus/usb/devices/3-1");
    fs::create_dir_all(&local).expect("folder");
    fs::write(local.join("bConfigurationValue"), "\n").expect("file");
    assert_eq!(fake.vhci.progress(port).expect("readable"), Progress::Starting);
    fs::write(local.join("bConfigurationValue"), "1\n").expect("file");
    let Progress::Configured(seen) = fake.vhci.progress(port).expect("readable") else {
        panic!("configured");
    };
    assert_eq!(seen.bus_id, "3-1");
}

#[test]
fn records_of_other_shapes_are_ignored() {
    let origin = parse_record("fe80::1%eth0 3241 2-1\n").expect("three words");
    assert_eq!(origin.to_string(), "fe80::1%eth0:3241 2-1");
    assert_eq!(parse_record(""), None);
    assert_eq!(parse_record("host notaport 1-1"), None);
}
