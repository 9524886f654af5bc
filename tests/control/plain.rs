//! Clients of the PLAIN and PLAIN-TEXT dialects, and a server without the channel.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Plain;
use crate::plain_import;
use crate::served::Served;
use crate::two_devices;

fn states(first: Value, second: Value) -> Vec<(String, Value)> {
    vec![("sim-1".to_owned(), first), ("sim-2".to_owned(), second)]
}

#[test]
fn a_plain_client_gets_complete_states_in_order() {
    let served = two_devices();
    let begun = Instant::now();
    let mut client = Plain::subscribe(&served);
    // Known by its silence, long before its own deadline of five seconds.
    let lasted = begun.elapsed();
    assert!((240..3_000).contains(&lasted.as_millis()), "{lasted:?}");
    let (kind, first) = client.frame();
    assert_eq!(kind, 5, "DEVICE_SNAPSHOT");
    let device = &first["devices"][0];
    assert_eq!((&device["state"], &device["backend"]), (&json!(0), &json!(2)), "{device}");
    assert_eq!((&device["busnum"], &device["devnum"]), (&json!(255), &json!(1)));
    assert!(device["product"].is_string(), "{device}");

    let (_, one) = plain_import(&served, "sim-1");
    assert_eq!(client.states(), states(json!(1), json!(0)));
    let (_, two) = plain_import(&served, "sim-2");
    assert_eq!(client.states(), states(json!(1), json!(1)));
    drop(one);
    assert_eq!(client.states(), states(json!(0), json!(1)));
    client.0.write_all(&[3, 1, 0, 0]).expect("sent");
    assert_eq!(client.frame(), (4, Value::Null), "PONG");
    drop(two);
    assert_eq!(client.states(), states(json!(0), json!(0)));
    // The end of the server is an end, not a reset.
    served.stop();
    assert_eq!(client.0.read(&mut [0; 1]).expect("an end"), 0);
}

#[test]
fn a_plain_client_that_pings_at_once_need_not_wait() {
    let served = two_devices();
    let begun = Instant::now();
    let mut client = Plain::hello(&served);
    client.0.write_all(&[3, 1, 0, 0]).expect("sent");
    assert_eq!(client.frame().0, 2, "ACK");
    let rest = [client.frame().0, client.frame().0];
    assert!(rest == [4, 5] || rest == [5, 4], "{rest:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    served.stop();
}

#[test]
fn an_older_client_gets_words() {
    let served = Served::start_with(&["--simulate", "zero", "--control", "plain-text"]);
    let mut client = Plain::subscribe(&served);
    assert_eq!(client.states(), [("sim-1".to_owned(), json!("available"))]);
    let (_, _holder) = plain_import(&served, "sim-1");
    assert_eq!(client.states(), [("sim-1".to_owned(), json!("busy"))]);
    served.stop();
}

#[test]
fn without_the_channel_its_clients_are_closed_and_others_served() {
    let served = Served::start_with(&["--simulate", "zero", "--control", "off"]);
    let mut client = Plain::hello(&served);
    let mut rest = Vec::new();
    // HELLO was not read, so this may be a reset.
    let _ = client.0.read_to_end(&mut rest);
    assert_eq!(rest, [0; 0]);
    assert_eq!(crate::listed(&served), ["sim-1"]);
    let log = served.stop();
    assert!(log.contains("control connection refused: the control channel is off"), "{log}");
}
