//! Looks at devices that a script brings and takes.

use std::cell::{Cell, RefCell};

use super::*;
use crate::device::gadget::simulate;

/// Devices by bus id, and how often one was described.
#[derive(Default)]
struct Script {
    devices: RefCell<BTreeMap<String, (String, Option<String>)>>,
    described: Cell<u32>,
}

impl Script {
    fn set(&self, bus_id: &str, presence: &str, in_use: Option<&str>) {
        let device = (presence.to_owned(), in_use.map(str::to_owned));
        self.devices.borrow_mut().insert(bus_id.to_owned(), device);
    }
}

impl Bus for &Script {
    fn bus_ids(&self) -> Vec<String> {
        self.devices.borrow().keys().cloned().collect()
    }

    fn presence(&self, bus_id: &str) -> Option<String> {
        self.devices.borrow().get(bus_id).map(|(presence, _)| presence.clone())
    }

    fn describe(&self, bus_id: &str) -> Option<DeviceDescription> {
        self.described.set(self.described.get() + 1);
        let export = simulate::parse("zero").expect("a device").remove(0).export(1);
        Some(DeviceDescription { bus_id: bus_id.to_owned(), ..export.describe().clone() })
    }

    fn in_use(&self, bus_id: &str) -> Option<String> {
        self.devices.borrow().get(bus_id)?.1.clone()
    }
}

#[test]
fn a_device_is_described_once_for_each_plugging_in() {
    let script = Script::default();
    let mut scanner = Scanner::default();
    assert!(!scanner.scan(&&script), "nothing is there");
    script.set("1-1", "one", None);
    assert!(scanner.scan(&&script));
    assert!(!scanner.scan(&&script), "nothing has changed");
    assert_eq!(script.described.get(), 1);
    script.set("1-1", "two", None);
    assert!(scanner.scan(&&script), "another device at the same port");
    assert_eq!((script.described.get(), scanner.all().len()), (2, 1));
    script.devices.borrow_mut().clear();
    assert!(scanner.scan(&&script));
    assert!(scanner.all().is_empty());
}

#[test]
fn a_device_in_use_is_looked_at_more_often_and_not_described_again() {
    let script = Script::default();
    let mut scanner = Scanner::default();
    script.set("1-1", "one", Some("holds sda"));
    assert!(scanner.scan(&&script));
    assert_eq!(scanner.patience(), IN_USE_INTERVAL);
    assert_eq!(scanner.all()[0].in_use.as_deref(), Some("holds sda"));
    script.set("1-1", "one", None);
    assert!(scanner.scan(&&script), "it is free");
    assert_eq!((script.described.get(), scanner.patience()), (1, SAFETY_INTERVAL));
}

/// Ends after these wakings.
struct Wakings(Vec<Woken>, Option<mpsc::Sender<Command>>);

impl Source for Wakings {
    fn wait(&mut self, patience: Duration) -> Woken {
        if patience.is_zero() {
            return Woken::TimeOver;
        }
        if self.0.len() == 1 {
            self.1 = None;
        }
        self.0.remove(0)
    }
}

#[test]
fn what_was_lost_in_a_full_mailbox_is_sent_at_the_next_look() {
    let reactor = crate::reactor::select::open(
        crate::reactor::select::Choice::Auto,
        &usbip_fast_native::backend::Options::default(),
    );
    let (reactor, _) = reactor.expect("a reactor");
    let (mail, mut received) = crate::reactor::mailbox::channel(1, reactor.doorbell());
    assert!(mail.try_send(Message::Stop).is_ok(), "room for one");
    let script = Script::default();
    script.set("1-1", "one", None);
    let (commands, told) = mpsc::channel();
    let scanner = Scanner::default();
    let mut watcher = Watcher { scanner, bus: &script, told, mail, unsent: false };
    watcher.look();
    assert!(watcher.unsent && matches!(received.try_receive(), Some(Message::Stop)));
    watcher.listen(&mut Wakings(vec![Woken::TimeOver, Woken::Told], Some(commands)));
    let Some(Message::Present(found)) = received.try_receive() else { panic!("nothing came") };
    assert_eq!(found[0].description.bus_id, "1-1");
    assert!(received.try_receive().is_none(), "what has not changed is not said again");
}

#[test]
fn rules_are_read_and_written() {
    let folder = std::env::temp_dir().join(format!("rules-{}", std::process::id()));
    let path = folder.join("policy.toml");
    let entries = vec![Entry::export("class=hid".parse().expect("a rule"))];
    let text = format!("{HEAD}{}", policy_text(&entries));
    spool::replace(&path, text.as_bytes()).expect("written");
    assert_eq!(read_rules(&path).expect("read"), entries);
    spool::replace(&path, b"[[export]]\nrule = \"\"\n").expect("written");
    assert!(read_rules(&path).expect_err("empty").contains("policy.toml:2:8: export 1:"));
    assert!(read_rules(&folder.join("none")).expect_err("gone").contains("cannot be read"));
}
