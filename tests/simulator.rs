//! Ten thousand worlds of faults, each repeatable by its seed.

use usbip_fast::simulation::{Options, run, torture};

#[test]
fn ten_thousand_seeds_keep_every_rule() {
    let mut out = Vec::new();
    let totals = match torture(1, 10_000, Options::default(), &mut out) {
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
        assert!(count > 10_000, "only {count} {what}");
    }
    assert_eq!(totals.ends.len(), 9, "each way to end has been seen: {:?}", totals.ends);
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in [1, 77, 0xdead_beef, u64::MAX] {
        let first = run(seed, Options::default()).expect("no rule is broken");
        let second = run(seed, Options::default()).expect("no rule is broken");
        assert_eq!(first, second);
    }
}
