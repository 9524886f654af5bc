//! Ten thousand worlds of faults, each repeatable by its seed, in four parts that run side by side.

use usbip_fast::simulation::{Options, run, torture};

const SEEDS_OF_A_PART: u64 = 2500;

fn part(number: u64) {
    let mut out = Vec::new();
    let first = 1 + number * SEEDS_OF_A_PART;
    let totals = match torture(first, SEEDS_OF_A_PART, Options::default(), &mut out) {
        Ok(totals) => totals,
        Err(error) => panic!("{error}"),
    };
    print!("{}", String::from_utf8_lossy(&out));
    // The worlds must be worth something: each of these happens often.
    for (what, count) in [
        ("answers", totals.answers),
        ("refusals", totals.refused),
        ("stopped URBs", totals.stopped),
        ("packets", totals.packets),
    ] {
        assert!(count > 5000, "only {count} {what}");
    }
    // Session alone or with reactor and network; device without manners or simulated with faults.
    assert_eq!(totals.kinds.len(), 4);
    assert!(totals.kinds.values().all(|&count| count > 150), "{:?}", totals.kinds);
    assert!(totals.ends.len() >= 8, "most ways to end have been seen: {:?}", totals.ends);
}

#[test]
fn ten_thousand_seeds_keep_every_rule_first_quarter() {
    part(0);
}

#[test]
fn ten_thousand_seeds_keep_every_rule_second_quarter() {
    part(1);
}

#[test]
fn ten_thousand_seeds_keep_every_rule_third_quarter() {
    part(2);
}

#[test]
fn ten_thousand_seeds_keep_every_rule_last_quarter() {
    part(3);
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in (1..20).chain([0xdead_beef, u64::MAX]) {
        let first = run(seed, Options::default()).expect("no rule is broken");
        let second = run(seed, Options::default()).expect("no rule is broken");
        assert_eq!(first, second);
    }
}
