//! Clients of the LEASE dialect.

use std::time::{Duration, Instant};

use usbip_fast::wire::op::{ImportExt, RemoteDevice, parse_device_record};

use crate::client::{ACK, CHANGED, Leasing};
use crate::served::Served;
use crate::{import, listed, plain_import, two_devices};

const BOTH: [&str; 2] = ["sim-1", "sim-2"];

fn with_lease(bus_id: &str, lease_id: u64, nonce: u64) -> [u8; 64] {
    let asked = ImportExt { bus_id: bus_id.into(), lease_id, nonce, flags: 0 };
    asked.to_request().expect("short")
}

/// From each step to the next: the frame that says so, and what a plain list shows.
#[test]
fn a17_a_lease_client_sees_each_step_and_a_plain_list_just_what_is_free() {
    let served = two_devices();
    let (mut client, devices) = Leasing::subscribe(&served);
    let devices = devices.as_array().expect("a list");
    let names: Vec<_> = devices.iter().map(|device| &device["busid"]).collect();
    assert_eq!(names, BOTH);
    assert!(devices.iter().all(|device| device["state"] == "available"), "{devices:?}");
    assert_eq!(devices[0]["stable_id"], "dynamic:sim-1");
    assert!(devices[0].get("busnum").is_none(), "not in this dialect");
    assert_eq!(listed(&served), BOTH);

    let (reply, holder) = plain_import(&served, "sim-1");
    assert_eq!(reply.len(), 320);
    client.expect("sim-1", "busy", 2, "used");
    assert_eq!(listed(&served), ["sim-2"]);
    drop(holder);
    client.expect("sim-1", "available", 1, "available");
    assert_eq!(listed(&served), BOTH);

    let before = client.sequence;
    let lease = client.lease("sim-1", 77);
    assert_eq!((&lease["busid"], &lease["client_nonce"]), (&"sim-1".into(), &77.into()));
    assert_eq!((&lease["ttl_millis"], &lease["generation"]), (&10_000.into(), &before.into()));
    let id = lease["lease_id"].as_u64().expect("a number");
    client.expect("sim-1", "busy", 2, "used");
    assert_eq!(listed(&served), ["sim-2"]);
    assert_eq!(plain_import(&served, "sim-1").0, [1, 0x11, 0, 3, 0, 0, 0, 2], "promised");

    let refused = [1, 0x11, 0x0f, 3, 0, 0, 0, 1];
    assert_eq!(import(&served, &with_lease("sim-1", id, 78)).0, refused, "another nonce");
    assert_eq!(import(&served, &with_lease("sim-1", id + 1, 77)).0, refused, "another lease");
    assert_eq!(import(&served, &with_lease("sim-2", id, 77)).0, refused, "another device");
    let (reply, holder) = import(&served, &with_lease("sim-1", id, 77));
    assert_eq!(reply[..8], [1, 0x11, 0x0f, 3, 0, 0, 0, 0]);
    let record = parse_device_record(reply[8..].try_into().expect("a record"));
    let RemoteDevice { bus_id, serial, .. } = record.expect("a device");
    assert_eq!(bus_id, "sim-1");
    assert_eq!(devices[0]["serial"], serial, "behind the path");
    assert_eq!(import(&served, &with_lease("sim-1", id, 77)).0, refused, "used up");
    assert_eq!(listed(&served), ["sim-2"]);
    // That another connection has it now is no other state.
    drop(holder);
    client.expect("sim-1", "available", 1, "available");
    assert_eq!(listed(&served), BOTH);
    served.stop();
}

#[test]
fn w13_a_lease_that_is_not_used_is_over_after_ten_seconds_and_everybody_is_told() {
    let served = two_devices();
    let (mut client, _) = Leasing::subscribe(&served);
    client.stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time limit");
    let begun = Instant::now();
    let id = client.lease("sim-2", 1)["lease_id"].as_u64().expect("a number");
    client.expect("sim-2", "busy", 2, "used");
    client.expect("sim-2", "available", 1, "available");
    let lasted = begun.elapsed();
    assert!((9_900..12_000).contains(&lasted.as_millis()), "{lasted:?}");
    let (reply, _) = import(&served, &with_lease("sim-2", id, 1));
    assert_eq!(reply, [1, 0x11, 0x0f, 3, 0, 0, 0, 1], "its time is over");
    assert_eq!(listed(&served), BOTH);
    served.stop();
}

#[test]
fn leases_end_with_their_subscriber() {
    let served = two_devices();
    let (mut watching, _) = Leasing::subscribe(&served);
    let (mut leaving, _) = Leasing::subscribe(&served);
    assert!(leaving.lease("sim-1", 5)["lease_id"].as_u64().is_some());
    for client in [&mut watching, &mut leaving] {
        client.expect("sim-1", "busy", 2, "used");
    }
    assert!(leaving.lease("sim-2", 6)["lease_id"].as_u64().is_some());
    watching.expect("sim-2", "busy", 2, "used");
    assert_eq!(listed(&served), [""; 0]);
    drop(leaving);
    let both = watching.delta();
    let states: Vec<_> = both["updated"].as_array().expect("a list").iter().collect();
    assert_eq!(states.len(), 2, "in one step: {both}");
    assert!(states.iter().all(|device| device["state"] == "available"), "{both}");
    assert_eq!(listed(&served), BOTH);
    served.stop();
}

#[test]
fn refused_leases_say_why() {
    let served = two_devices();
    let (mut client, _) = Leasing::subscribe(&served);
    let (mut other, _) = Leasing::subscribe(&served);
    let error = |answer: &serde_json::Value| {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        assert!(answer.get("lease_id").is_none(), "{answer}");
        (text("busid"), answer["client_nonce"].clone(), text("error_code"), text("error_message"))
    };
    let said = |busid: &str, nonce: u64, code: &str, message: &str| {
        (busid.to_owned(), nonce.into(), code.to_owned(), message.to_owned())
    };
    let answer = client.lease("", 3);
    assert_eq!(error(&answer), said("", 3, "bad_request", "missing busid"));
    let answer = client.ask(b"{");
    let (busid, nonce, code, _) = error(&answer);
    assert_eq!((&busid[..], nonce, &code[..]), ("", 0.into(), "bad_request"));
    let answer = client.lease("9-9", 4);
    assert_eq!(error(&answer), said("9-9", 4, "unavailable", "unknown busid"));
    assert!(other.lease("sim-1", 1)["lease_id"].as_u64().is_some());
    client.expect("sim-1", "busy", 2, "used");
    let answer = client.lease("sim-1", 5);
    assert_eq!(error(&answer), said("sim-1", 5, "busy", "lease already active"));
    let (_, _holder) = plain_import(&served, "sim-2");
    client.expect("sim-2", "busy", 2, "used");
    let answer = client.lease("sim-2", 6);
    assert_eq!(error(&answer), said("sim-2", 6, "unavailable", "busy"));
    client.expect_pong();
    served.stop();
}

#[test]
fn a_client_without_extensions_gets_word_of_changes_only() {
    let served = two_devices();
    let mut client = Leasing::hello(&served, 3);
    let ack = client.frame();
    assert_eq!((ack.kind, ack.capabilities), (ACK, 3));
    client.expect_pong();
    let (_, holder) = plain_import(&served, "sim-1");
    let changed = client.frame();
    assert_eq!((changed.kind, changed.sequence), (CHANGED, ack.sequence + 1));
    drop(holder);
    assert_eq!(client.frame().sequence, ack.sequence + 2);
    served.stop();
}

#[test]
fn a_lease_opens_its_device_on_any_core() {
    let served = Served::start_with(&["--simulate", "zero,zero", "--cores", "2"]);
    let (mut client, _) = Leasing::subscribe(&served);
    let mut holders = Vec::new();
    for bus_id in BOTH {
        let id = client.lease(bus_id, 4)["lease_id"].as_u64().expect("a number");
        client.expect(bus_id, "busy", 2, "used");
        let (reply, holder) = import(&served, &with_lease(bus_id, id, 4));
        assert_eq!((reply.len(), &reply[..8]), (320, &[1, 0x11, 0x0f, 3, 0, 0, 0, 0][..]));
        holders.push(holder);
    }
    let log = served.stop();
    assert!(log.contains("core=0") && log.contains("core=1"), "one on each:\n{log}");
}
