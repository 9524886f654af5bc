//! The ledger's rules, each by the number of the defect that it prevents.

use super::policy::Backend;
use super::*;
use crate::usb::identity::{Class, DeviceDescription};
use crate::usb::speed::Speed;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn device(bus_id: &str, number: u32) -> Arc<Listed> {
    Arc::new(Listed {
        description: DeviceDescription {
            path: format!("/sys/bus/usb/devices/{bus_id}"),
            bus_id: bus_id.into(),
            location: format!("platform-dummy_hcd.0-usb-0:{bus_id}"),
            bus_number: 1,
            device_number: number,
            speed: Speed::High,
            vendor: 0x0525,
            product: 0xa4a0,
            release: 0x0100,
            class: Class::default(),
            configuration: 1,
            configurations: 1,
            interfaces: vec![Class { class: 0xff, subclass: 0, protocol: 0 }],
            manufacturer_name: "m".into(),
            product_name: "p".into(),
            serial: String::new(),
            descriptors: vec![18, 1],
        },
        networks: Vec::new(),
        backend: Backend::Usbfs,
        is_simulated: false,
    })
}

fn peer(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 1000))
}

fn holder(last: u8, now: Duration) -> Holder {
    Holder { peer: peer(last), since: now }
}

fn with(bus_ids: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    for (bus_id, number) in bus_ids.iter().zip(2..) {
        assert_eq!(ledger.plug(device(bus_id, number)), Plugged::Listed);
    }
    told(&mut ledger);
    ledger
}

/// What was published since the last look: added, updated with state, removed.
fn told(ledger: &mut Ledger) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(publication) = ledger.poll_publication() {
        let name = |it: &Arc<Published>| it.listed.description.bus_id.clone();
        said.extend(publication.added.iter().map(|it| format!("+{}", name(it))));
        let updated = publication.updated.iter();
        said.extend(updated.map(|it| {
            let reason = it.reason.as_ref().map(|reason| format!(" {reason}"));
            format!("{} {:?}{}", name(it), it.state, reason.unwrap_or_default())
        }));
        said.extend(publication.removed.iter().map(|it| format!("-{it}")));
    }
    said
}

fn lease(ledger: &mut Ledger, bus_id: &str, nonce: u64, now: Duration) -> Lease {
    ledger.issue_lease(Listener(1), peer(1), bus_id, nonce, now).expect("a lease")
}

#[test]
fn a8_every_change_of_a_reservation_is_published() {
    let mut ledger = with(&["1-1"]);
    let given = lease(&mut ledger, "1-1", 7, SECOND);
    assert_eq!(told(&mut ledger), ["1-1 Busy"]);
    ledger.consume_lease("1-1", given.id, 7, holder(1, SECOND)).expect("the right numbers");
    assert_eq!(told(&mut ledger), [""; 0], "busy it was, and busy it is, for the same client");
    assert_eq!(ledger.release("1-1"), Released::Kept);
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
    ledger.reserve("1-1", holder(2, SECOND)).expect("free");
    assert_eq!(told(&mut ledger), ["1-1 Busy"]);
}

#[test]
fn a9_leases_that_ran_out_are_published_on_every_path() {
    let mut ledger = with(&["1-1", "1-2"]);
    lease(&mut ledger, "1-1", 1, SECOND);
    told(&mut ledger);
    let late = SECOND + LEASE_TTL;
    let refused = ledger.issue_lease(Listener(2), peer(2), "9-9", 1, late);
    assert_eq!(refused, Err(LeaseRefusal::Unavailable("unknown busid".into())));
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
    lease(&mut ledger, "1-1", 1, late);
    told(&mut ledger);
    ledger.reserve("9-9", holder(2, late + LEASE_TTL)).expect_err("unknown");
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
    lease(&mut ledger, "1-2", 1, late + LEASE_TTL);
    let wrong = ledger.consume_lease("1-2", 999, 1, holder(2, late + 2 * LEASE_TTL));
    assert_eq!(wrong, Err(LeaseError::Mismatch));
    assert_eq!(told(&mut ledger), ["1-2 Busy", "1-2 Available"]);
}

#[test]
fn a10_what_was_published_never_changes() {
    let mut ledger = with(&["1-1"]);
    let before = Arc::clone(ledger.published().next().expect("one device"));
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    ledger.plug(device("1-1", 77));
    assert_eq!(before.state, State::Available);
    assert_eq!(before.listed.description.device_number, 2);
}

#[test]
fn a13_the_leases_of_a_listener_end_with_it_and_the_others_hear_of_it() {
    let mut ledger = with(&["1-1", "1-2", "1-3"]);
    lease(&mut ledger, "1-1", 1, SECOND);
    lease(&mut ledger, "1-3", 2, SECOND);
    ledger.issue_lease(Listener(2), peer(2), "1-2", 1, SECOND).expect("free");
    told(&mut ledger);
    ledger.drop_listener(Listener(1));
    assert_eq!(told(&mut ledger), ["1-1 Available", "1-3 Available"]);
    assert_eq!(ledger.leases().count(), 1);
}

#[test]
fn a17_one_predicate_says_what_is_reserved() {
    let mut ledger = with(&["1-1", "1-2"]);
    lease(&mut ledger, "1-1", 1, SECOND);
    let available: Vec<_> = ledger.available().map(|it| it.description.bus_id.clone()).collect();
    assert_eq!(available, ["1-2"], "neither listed for a plain client");
    let stolen = ledger.reserve("1-1", holder(2, SECOND));
    assert!(matches!(stolen, Err(Refusal::Leased { .. })), "nor to be had: {stolen:?}");
    assert!(ledger.reserve("1-1", holder(2, SECOND + LEASE_TTL)).is_ok(), "its time is over");
}

#[test]
fn a20_a_device_that_vanishes_while_it_is_held_stays_listed() {
    let mut ledger = with(&["1-1"]);
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    told(&mut ledger);
    assert!(!ledger.unplug("1-1"));
    assert_eq!(told(&mut ledger), ["1-1 Unavailable device removed"]);
    assert_eq!(ledger.release("1-1"), Released::Dropped);
    assert_eq!(told(&mut ledger), ["-1-1"]);
}

#[test]
fn a34_what_replaces_a_held_device_is_listed_when_it_is_released() {
    let mut ledger = with(&["1-1"]);
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    told(&mut ledger);
    assert_eq!(ledger.plug(device("1-1", 9)), Plugged::Pending);
    assert_eq!(told(&mut ledger), ["1-1 Unavailable device replaced"]);
    assert_eq!(ledger.release("1-1"), Released::Replaced(device("1-1", 9)));
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
    assert_eq!(ledger.get("1-1"), Some(&device("1-1", 9)));
}

#[test]
fn a34_a_device_that_comes_and_goes_while_held_leaves_nothing() {
    let mut ledger = with(&["1-1"]);
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    ledger.plug(device("1-1", 9));
    ledger.unplug("1-1");
    assert_eq!(ledger.release("1-1"), Released::Dropped);
    assert_eq!(ledger.published().count(), 0);
}

#[test]
fn a39_of_64_imports_exactly_one_gets_the_device() {
    let mut ledger = with(&["1-1"]);
    let got = (0..64).filter(|&n| ledger.reserve("1-1", holder(n, SECOND)).is_ok()).count();
    assert_eq!(got, 1);
    let Err(Refusal::Busy { holder, .. }) = ledger.reserve("1-1", holder(9, SECOND)) else {
        panic!("busy")
    };
    assert_eq!(holder, peer(0), "a refusal names who has it");
}

#[test]
fn a40_of_64_requests_exactly_one_gets_the_lease() {
    let mut ledger = with(&["1-1"]);
    let answers: Vec<_> = (0..64)
        .map(|n| ledger.issue_lease(Listener(n), peer(1), "1-1", n, SECOND))
        .filter(|answer| *answer != Err(LeaseRefusal::Leased))
        .collect();
    assert!(matches!(&answers[..], [Ok(_)]), "{answers:?}");
}

#[test]
fn a41_nothing_is_published_where_nothing_changed() {
    let mut ledger = with(&["1-1"]);
    let before = ledger.sequence();
    assert_eq!(ledger.plug(device("1-1", 2)), Plugged::Known);
    assert!(!ledger.unplug("1-9"));
    ledger.mark("1-1", None);
    ledger.expire(SECOND * 100);
    ledger.drop_listener(Listener(5));
    ledger.reserve("1-9", holder(1, SECOND)).expect_err("unknown");
    assert_eq!(told(&mut ledger), [""; 0]);
    assert_eq!(ledger.sequence(), before);
}

#[test]
fn a42_busy_belongs_to_the_ledger_not_to_the_device() {
    let mut ledger = with(&["1-1"]);
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    let mut changed = Listed::clone(&device("1-1", 2));
    changed.description.configuration = 2;
    changed.description.interfaces.clear();
    ledger.plug(Arc::new(changed));
    assert!(matches!(ledger.reserve("1-1", holder(2, SECOND)), Err(Refusal::Busy { .. })));
}

#[test]
fn w5_capture_and_configuration_do_not_change_the_identity() {
    let mut ledger = with(&["1-1"]);
    ledger.reserve("1-1", holder(1, SECOND)).expect("free");
    told(&mut ledger);
    let mut captured = Listed::clone(&device("1-1", 2));
    captured.description.configuration = 0;
    captured.description.interfaces.clear();
    assert_eq!(ledger.plug(Arc::new(captured)), Plugged::Known);
    assert_eq!(told(&mut ledger), [""; 0]);
    assert_eq!(ledger.get("1-1"), Some(&device("1-1", 2)), "described as before it was captured");
}

#[test]
fn a26_a_refused_lease_is_never_seen_as_busy() {
    let mut ledger = with(&["1-1"]);
    let given = lease(&mut ledger, "1-1", 7, SECOND);
    ledger.unplug("1-1");
    told(&mut ledger);
    let refused = ledger.consume_lease("1-1", given.id, 7, holder(1, SECOND));
    assert!(matches!(refused, Err(LeaseError::Refused(Refusal::Unavailable { .. }))));
    assert_eq!(told(&mut ledger), ["-1-1"]);
}

#[test]
fn a_lease_of_a_replaced_device_is_stale() {
    let mut ledger = with(&["1-1"]);
    let given = lease(&mut ledger, "1-1", 7, SECOND);
    ledger.plug(device("1-1", 8));
    told(&mut ledger);
    let consume = |ledger: &mut Ledger| ledger.consume_lease("1-1", given.id, 7, holder(1, SECOND));
    assert_eq!(consume(&mut ledger), Err(LeaseError::Stale));
    assert_eq!(told(&mut ledger), ["1-1 Available"], "the new one is there for everybody");
    assert_eq!(consume(&mut ledger), Err(LeaseError::NotFound), "it has ended");
}

#[test]
fn wrong_numbers_leave_the_lease() {
    let mut ledger = with(&["1-1"]);
    let given = lease(&mut ledger, "1-1", 7, SECOND);
    for (id, nonce) in [(given.id, 8), (given.id + 1, 7)] {
        let wrong = ledger.consume_lease("1-1", id, nonce, holder(1, SECOND));
        assert_eq!(wrong, Err(LeaseError::Mismatch));
    }
    let got = ledger.consume_lease("1-1", given.id, 7, holder(1, SECOND));
    assert_eq!(got, Ok(device("1-1", 2)));
    let again = ledger.consume_lease("1-1", given.id, 7, holder(1, SECOND));
    assert_eq!(again, Err(LeaseError::NotFound), "a lease opens its device once");
}

#[test]
fn w13_leases_have_a_timer() {
    let mut ledger = with(&["1-1", "1-2"]);
    assert_eq!(ledger.deadline(), None);
    lease(&mut ledger, "1-2", 1, SECOND * 3);
    lease(&mut ledger, "1-1", 2, SECOND);
    told(&mut ledger);
    assert_eq!(ledger.deadline(), Some(SECOND + LEASE_TTL));
    ledger.expire(SECOND + LEASE_TTL);
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
    assert_eq!(ledger.deadline(), Some(SECOND * 3 + LEASE_TTL));
    let late = ledger.consume_lease("1-2", 1, 1, holder(1, SECOND * 3 + LEASE_TTL));
    assert_eq!(late, Err(LeaseError::Expired));
}

#[test]
fn a37_a_device_in_trouble_says_what_the_trouble_is() {
    let mut ledger = with(&["1-1"]);
    ledger.mark("1-1", Some(UnavailableReason::Device("no rights on its node".into())));
    assert_eq!(told(&mut ledger), ["1-1 Unavailable no rights on its node"]);
    let refused = ledger.reserve("1-1", holder(1, SECOND)).expect_err("in trouble");
    assert_eq!(refused.to_string(), "1-1 is unavailable: no rights on its node");
    let leased = ledger.issue_lease(Listener(1), peer(1), "1-1", 1, SECOND);
    assert_eq!(leased, Err(LeaseRefusal::Unavailable("no rights on its node".into())));
    let leased = ledger.issue_lease(Listener(1), peer(1), "", 1, SECOND);
    assert_eq!(leased, Err(LeaseRefusal::MissingBusId));
    ledger.mark("1-1", None);
    assert_eq!(told(&mut ledger), ["1-1 Available"]);
}

#[test]
fn stable_names_follow_the_serial_number_or_the_place() {
    let mut listed = Listed::clone(&device("1-1", 2));
    assert_eq!(listed.stable_id(), "linux-busid:1-1");
    listed.description.serial = "0123456789".into();
    assert_eq!(listed.stable_id(), "usb:0525:a4a0:0123456789");
    listed.is_simulated = true;
    assert_eq!(listed.stable_id(), "dynamic:1-1");
}

#[test]
fn a_device_may_be_for_some_networks_only() {
    let mut listed = Listed::clone(&device("1-1", 2));
    assert!(listed.is_for(peer(1)));
    listed.networks = vec!["10.0.0.0/8".parse().expect("a range")];
    assert!(!listed.is_for(peer(1)));
    assert!(listed.is_for(SocketAddr::from(([10, 1, 1, 1], 5))));
    assert!(listed.is_for(SocketAddr::from(([127, 0, 0, 1], 5))), "this machine itself");
}
