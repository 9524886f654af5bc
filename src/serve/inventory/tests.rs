//! What is exported of what is there.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::device::Opener;
use crate::device::gadget::simulate;
use crate::serve::exports::Claim;
use crate::usb::identity::DeviceDescription;

const NOW: Duration = Duration::from_secs(9);

fn device(bus_id: &str) -> DeviceDescription {
    let export = simulate::parse("zero").expect("a device").remove(0).export(1);
    DeviceDescription {
        bus_id: bus_id.to_owned(),
        location: format!("pci-0000:00:14.0-usb-0:{}", &bus_id[2..]),
        ..export.describe().clone()
    }
}

fn found(description: DeviceDescription, in_use: Option<&str>) -> Arc<Found> {
    Arc::new(Found { description, in_use: in_use.map(str::to_owned) })
}

fn free(bus_id: &str) -> Arc<Found> {
    found(device(bus_id), None)
}

fn rule(text: &str) -> Rule {
    text.parse().expect(text)
}

fn entries(texts: &[&str]) -> Vec<Entry> {
    let entry = |text: &&str| match text.strip_prefix('-') {
        Some(text) => Entry { allow: false, ..Entry::export(rule(text)) },
        None => Entry::export(rule(text)),
    };
    texts.iter().map(entry).collect()
}

struct World {
    inventory: Inventory,
    exports: Exports,
}

impl World {
    fn new(named: &[&str], typed: &[&str], file: &[&str]) -> Self {
        let named: Vec<String> = named.iter().map(ToString::to_string).collect();
        let rules = Rules { edits: Vec::new(), typed: entries(typed), file: entries(file) };
        Self { inventory: Inventory::new(&named, rules, false), exports: Exports::default() }
    }

    fn present(&mut self, present: &[Arc<Found>]) -> Vec<String> {
        self.inventory.set_present(present.to_vec(), &mut self.exports);
        self.listed()
    }

    fn listed(&self) -> Vec<String> {
        self.exports.all().map(|device| device.bus_id.clone()).collect()
    }

    fn lend(&mut self, bus_id: &str) -> Opener {
        let peer = SocketAddr::from(([127, 0, 0, 1], 7));
        self.exports.lend(bus_id, Claim::Plain, peer, NOW).expect("free").0
    }
}

#[test]
fn devices_come_and_go_by_rule() {
    let mut world = World::new(&[], &["-serial=secret"], &["0525:*"]);
    let secret = DeviceDescription { serial: "secret".into(), ..device("1-2") };
    let other = DeviceDescription { vendor: 1, ..device("1-3") };
    let all = [free("1-1"), found(secret, None), found(other, None)];
    assert_eq!(world.present(&all), ["1-1"]);
    let sequence = world.exports.ledger().sequence();
    assert_eq!(world.present(&all), ["1-1"]);
    assert_eq!(world.exports.ledger().sequence(), sequence, "nothing has changed");
    assert!(world.present(&all[1..]).is_empty());
}

#[test]
fn hubs_and_imported_devices_need_a_name() {
    let hub = DeviceDescription {
        class: crate::usb::identity::Class { class: 9, subclass: 0, protocol: 1 },
        ..device("1-1")
    };
    let imported =
        DeviceDescription { location: "platform-vhci_hcd.0-usb-0:1".into(), ..device("3-1") };
    let all = [found(hub, Some("is a hub")), found(imported, None)];
    assert!(World::new(&[], &["*:*"], &[]).present(&all).is_empty());
    assert_eq!(World::new(&["3-1", "1-1"], &[], &[]).present(&all), ["3-1"]);
}

#[test]
fn what_is_in_use_here_is_exported_when_it_is_free() {
    let mut world = World::new(&["1-2"], &["*:*"], &[]);
    let in_use = |bus_id| found(device(bus_id), Some("holds sda, mounted on /mnt"));
    assert!(world.present(&[in_use("1-1"), in_use("1-2")]).is_empty());
    assert_eq!(world.inventory.told.len(), 2);
    assert_eq!(world.present(&[free("1-1"), free("1-2")]), ["1-1", "1-2"]);
    assert!(world.inventory.told.is_empty());
    assert_eq!(world.present(&[in_use("1-1"), in_use("1-2")]), ["1-2"], "named, it stays");
}

#[test]
fn a_boot_loader_is_followed_by_its_place() {
    let mut world = World::new(&[], &["path=pci-0000:00:14.0-usb-0:1"], &[]);
    let boot = DeviceDescription { product: 0xb007, device_number: 9, ..device("1-1") };
    assert_eq!(world.present(&[free("1-1"), free("1-2")]), ["1-1"]);
    assert_eq!(world.present(&[found(boot, None), free("1-2")]), ["1-1"]);
    assert_eq!(world.exports.all().next().expect("listed").product, 0xb007);
}

#[test]
fn a_session_keeps_its_device_whatever_the_rules_and_its_configuration_become() {
    let mut world = World::new(&[], &["class=vendor"], &["0525:*"]);
    assert_eq!(world.present(&[free("1-1")]), ["1-1"]);
    drop(world.lend("1-1"));
    let bare = DeviceDescription { interfaces: Vec::new(), configuration: 0, ..device("1-1") };
    let sequence = world.exports.ledger().sequence();
    assert_eq!(world.present(&[found(bare, Some("is busy"))]), ["1-1"]);
    assert_eq!(world.exports.ledger().sequence(), sequence, "it is what it was");
    world.inventory.set_file_rules(Ok(Vec::new()), &mut world.exports);
    assert_eq!(world.exports.ledger().sequence(), sequence, "its class is remembered");
    world.inventory.unbind(rule("class=vendor"), &mut world.exports).expect("known");
    assert_eq!(world.exports.held(), 1, "the session goes on");
    world.exports.release("1-1", Box::new(()));
    assert!(world.listed().is_empty(), "and then it is exported no more");
}

#[test]
fn a_reload_with_a_slip_changes_nothing() {
    let mut world = World::new(&[], &[], &["0525:*"]);
    world.present(&[free("1-1")]);
    world.inventory.set_file_rules(Err("c.toml:1:1: no".into()), &mut world.exports);
    assert_eq!(world.listed(), ["1-1"]);
    world.inventory.set_file_rules(Ok(entries(&["1-9"])), &mut world.exports);
    assert!(world.listed().is_empty());
    world.inventory.set_file_rules(Ok(entries(&["1-1"])), &mut world.exports);
    assert_eq!(world.listed(), ["1-1"]);
}

#[test]
fn rules_are_made_and_taken_back_while_it_runs() {
    let mut world = World::new(&[], &["1-1"], &[]);
    world.present(&[free("1-1"), free("1-2")]);
    let World { inventory, exports } = &mut world;
    let unknown = Err(EditError::Unknown(rule("1-2")));
    assert_eq!(inventory.remove(&rule("1-2"), exports), unknown);
    assert_eq!(inventory.unbind(rule("1-2"), exports), unknown);
    let origin = "command line";
    assert_eq!(
        inventory.remove(&rule("1-1"), exports),
        Err(EditError::NotOurs { rule: rule("1-1"), origin })
    );
    inventory.bind(rule("1-2"), exports).expect("new");
    inventory.bind(rule("1-2"), exports).expect("again");
    assert_eq!(inventory.rules().edits, entries(&["1-2"]));
    inventory.unbind(rule("1-1"), exports).expect("denied");
    assert_eq!(inventory.rules().edits, entries(&["-1-1", "1-2"]));
    inventory.unbind(rule("1-2"), exports).expect("taken back");
    assert_eq!(inventory.rules().edits, entries(&["-1-1"]));
    assert_eq!(exports.all().count(), 0);
    inventory.bind(rule("1-1"), exports).expect("no longer denied");
    assert!(inventory.rules().edits.is_empty());
    assert_eq!(exports.all().count(), 1);
    let deny = entries(&["-*:*"]).remove(0);
    inventory.add(deny.clone(), exports).expect("new");
    assert_eq!(inventory.add(deny.clone(), exports), Err(EditError::Known(deny.rule)));
    assert_eq!(exports.all().count(), 0);
}

#[test]
fn changed_networks_are_told_to_the_ledger() {
    let mut world = World::new(&[], &[], &["1-1"]);
    world.present(&[free("1-1")]);
    let networks = vec!["10.0.0.0/8".parse().expect("a range")];
    let entry = Entry { networks: networks.clone(), ..Entry::export(rule("1-1")) };
    world.inventory.set_file_rules(Ok(vec![entry]), &mut world.exports);
    assert_eq!(world.exports.ledger().get("1-1").expect("listed").networks, networks);
}
