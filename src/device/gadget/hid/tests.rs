//! Tests of keyboard and mouse, on a virtual clock.

use super::*;
use crate::device::Device;
use crate::device::gadget::Pace;
use crate::device::gadget::bench::{Bench, PACES, STALLED, setup};
use crate::usb::speed::Speed;

const IN: u8 = descriptors::REPORTS;

fn keyboard(text: &str, pace: Pace) -> Bench<Hid<Keyboard>> {
    let options = KeyboardOptions::parse(text).expect("options of a test");
    Bench::new(Hid::new(&options), descriptors::<Keyboard>(options.speed, "1"), pace)
}

fn mouse(text: &str, pace: Pace) -> Bench<Hid<Mouse>> {
    let options = MouseOptions::parse(text).expect("options of a test");
    Bench::new(Hid::new(&options), descriptors::<Mouse>(options.speed, "1"), pace)
}

/// All reports there are, with `depth` transfers in flight.
fn reports<K: Kind + Send + 'static>(bench: &mut Bench<Hid<K>>, depth: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for _ in 0..depth {
        bench.submit_in(IN, 8);
    }
    while let Some(answer) = bench.wait() {
        assert_eq!(answer.status, 0);
        found.push(answer.data);
        bench.submit_in(IN, 8);
    }
    found
}

/// Modifiers and first key of what a keyboard reports.
fn typed(text: &str) -> Vec<(u8, u8)> {
    let mut bench = keyboard(text, Pace::None);
    reports(&mut bench, 1).iter().map(|report| (report[0], report[2])).collect()
}

#[test]
fn ten_thousand_reports_come_once_and_in_order() {
    for pace in PACES {
        for (speed, depth) in [("full", 1), ("high", 4)] {
            let mut bench = keyboard(&format!("count=10000:speed={speed}"), pace);
            let start = bench.now;
            let found = reports(&mut bench, depth);
            assert_eq!(found.len(), 10_000);
            for (index, report) in found.iter().enumerate() {
                let key = if index % 2 == 0 { 4 + (index / 2 % 26) as u8 } else { 0 };
                assert_eq!(report[..], [0, 0, key, 0, 0, 0, 0, 0], "report {index}");
            }
            if pace == Pace::REAL {
                let seconds = (bench.now - start).as_secs_f64();
                assert!((9.9..12.1).contains(&seconds), "one a millisecond: {seconds}");
            }
        }
    }
}

#[test]
fn a_cancelled_transfer_takes_no_report_with_it() {
    let mut bench = keyboard("count=4", Pace::REAL);
    let slot = bench.submit_in(IN, 8);
    bench.device.cancel(slot, bench.now);
    assert!(bench.poll().expect("back").data.is_empty());
    assert_eq!(reports(&mut bench, 2).len(), 4);
}

#[test]
fn nothing_is_typed_unless_asked_for() {
    assert!(typed("").is_empty());
    assert_eq!(typed("type=aB!"), [(0, 4), (0, 0), (2, 5), (0, 0), (2, 0x1e), (0, 0)]);
}

#[test]
fn a_program_can_wait_for_the_light() {
    let mut bench = keyboard("count=2:start=scroll", Pace::None);
    let slot = bench.submit_in(IN, 8);
    assert_eq!(bench.tell(setup(0x21, SET_REPORT, 0x0200, 0, 0), &[0x03]), 0);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.tell(setup(0x21, SET_REPORT, 0x0200, 0, 0), &[0x04]), 0);
    assert_eq!(bench.poll().expect("it begins").slot, slot);
}

#[test]
fn a_session_begins_the_program_anew() {
    let mut bench = keyboard("type=ab", Pace::None);
    assert_eq!(reports(&mut bench, 1).len(), 4);
    let bell = Doorbell::new(std::sync::Arc::new(Silent));
    bench.device.function.opened(&bell).expect("nothing to open");
    // The transfer that was left is asked for again after any other.
    bench.ask(setup(0xa1, GET_IDLE, 0, 0, 1)).expect("known");
    assert_eq!(reports(&mut bench, 0).len(), 4);
}

struct Silent;

impl usbip_fast_native::doorbell::Ring for Silent {
    fn ring(&self) {}
}

#[test]
fn scripts_hold_and_release_keys() {
    let mut state = Keyboard::default();
    let mut steps = VecDeque::new();
    let lines =
        ["# a comment", "", "press ctrl c", "wait 20", "release c", "tap f5", "release", "type x"];
    for line in lines {
        state.read_line(line, &mut steps).expect("a good line");
    }
    let found: Vec<_> = steps.iter().map(|s| (s.report[0], s.report[2], s.times)).collect();
    let ctrl_c = [(1, 6, 1), (1, 6, 20), (1, 0, 1)];
    let rest = [(1, 0x3e, 1), (1, 0, 1), (0, 0, 1), (0, 0x1b, 1), (0, 0, 1)];
    assert_eq!(found, [&ctrl_c[..], &rest].concat());
    for line in ["jump", "press", "press any", "wait", "wait 0", "type é", "press a b c d e f g"] {
        Keyboard::default().read_line(line, &mut steps).expect_err(line);
    }
}

#[test]
fn a_mouse_moves_clicks_and_turns() {
    let mut state = Mouse::default();
    let mut steps = VecDeque::new();
    for line in ["move 5 -5", "press left", "move -127 127", "release left", "wheel -1", "wait 3"] {
        state.read_line(line, &mut steps).expect("a good line");
    }
    let found: Vec<_> = steps.iter().map(|step| (step.report[..4].to_vec(), step.times)).collect();
    let expected: [([u8; 4], u32); 6] = [
        ([0, 5, 251, 0], 1),
        ([1, 0, 0, 0], 1),
        ([1, 129, 127, 0], 1),
        ([0, 0, 0, 0], 1),
        ([0, 0, 0, 255], 1),
        ([0, 0, 0, 0], 3),
    ];
    assert_eq!(found, expected.map(|(report, times)| (report.to_vec(), times)));
    for line in ["move 5", "move 128 0", "move -128 0", "wheel", "click top", "jump", "wait x"] {
        Mouse::default().read_line(line, &mut steps).expect_err(line);
    }
}

#[test]
fn the_circle_closes() {
    let mut bench = mouse("count=1024", Pace::None);
    let mut place = [0_i32; 2];
    let mut widest = 0;
    for report in reports(&mut bench, 1) {
        assert_eq!((report.len(), report[0], report[3]), (4, 0, 0));
        for axis in 0..2 {
            let step = report[1 + axis] as i8;
            assert!((-1..=1).contains(&step));
            place[axis] += i32::from(step);
        }
        widest = widest.max(-place[0]);
    }
    assert_eq!((place, widest), ([0, 0], 120));
    assert!(reports(&mut mouse("move=none", Pace::None), 1).is_empty());
}

#[test]
fn class_requests_keep_what_the_host_sets() {
    let mut bench = mouse("count=1", Pace::None);
    let get = |request, value, length| setup(0xa1, request, value, 0, length);
    assert_eq!(bench.ask(get(GET_PROTOCOL, 0, 1)), Ok(vec![1]));
    assert_eq!(bench.tell(setup(0x21, SET_PROTOCOL, 0, 0, 0), &[]), 0);
    assert_eq!(bench.ask(get(GET_PROTOCOL, 0, 1)), Ok(vec![0]));
    assert_eq!(bench.tell(setup(0x21, SET_PROTOCOL, 2, 0, 0), &[]), STALLED);
    bench.submit_in(IN, 8);
    assert_eq!(bench.poll().expect("a report").data.len(), 3, "of the boot protocol");
    assert_eq!(bench.ask(get(GET_REPORT, 0x0100, 8)).expect("the last one").len(), 3);
    assert_eq!(bench.ask(get(GET_REPORT, 0x0200, 8)), Err(STALLED), "a mouse has no lights");
    assert_eq!(bench.ask(get(GET_IDLE, 0, 1)), Ok(vec![0]));
    assert_eq!(bench.tell(setup(0x21, SET_IDLE, 0x7d00, 0, 0), &[]), 0);
    assert_eq!(bench.ask(get(GET_IDLE, 0, 1)), Ok(vec![0x7d]));
    assert_eq!(bench.tell(setup(0x21, SET_REPORT, 0x0200, 0, 0), &[1]), STALLED);
    let report = setup(0x81, request::GET_DESCRIPTOR, 0x2200, 0, 255);
    assert_eq!(bench.ask(report), Ok(Mouse::REPORT_DESCRIPTOR.to_vec()));
    assert_eq!(bench.ask(Setup { index: 1, ..report }), Err(STALLED));
    let mut bench = keyboard("", Pace::None);
    assert_eq!(bench.tell(setup(0x21, SET_REPORT, 0x0200, 0, 0), &[5]), 0);
    assert_eq!(bench.ask(get(GET_REPORT, 0x0200, 8)), Ok(vec![5]));
}

#[test]
fn an_idle_rate_repeats_the_last_report() {
    let mut bench = keyboard("count=1", Pace::REAL);
    assert_eq!(bench.tell(setup(0x21, SET_IDLE, 0x0500, 0, 0), &[]), 0);
    let mut times = Vec::new();
    for _ in 0..4 {
        bench.submit_in(IN, 8);
        assert_eq!(bench.wait().expect("a report").data[2], 4);
        times.push(bench.now);
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(gaps, [20, 20, 20]);
}

#[test]
fn a_host_with_too_little_room_loses_nothing() {
    let mut bench = keyboard("count=1", Pace::None);
    bench.submit_in(IN, 4);
    assert_eq!(bench.poll().expect("babble").status, -crate::usb::errno::EOVERFLOW);
    bench.submit_in(IN, 8);
    assert_eq!(bench.poll().expect("a report").data.len(), 8);
}

#[test]
fn options_are_refused_with_the_rule() {
    let error = |text: &str| KeyboardOptions::parse(text).expect_err(text).to_string();
    assert!(error("colour=red").contains("type=TEXT"), "the keys are listed");
    assert_eq!(error("speed=super"), "speed=super: must be full or high");
    assert_eq!(error("start=now"), "start=now: must be poll or scroll");
    assert_eq!(error("input=tty"), "input=tty: must be stdin");
    assert!(error("count=0").contains("from 1"));
    assert!(error("type=é").contains("US keyboard"));
    assert!(error("script=/nowhere").contains("cannot be read"));
    assert!(error("script=/dev/null/x").contains("cannot be read"));
    let error = |text: &str| MouseOptions::parse(text).expect_err(text).to_string();
    assert_eq!(error("move=square"), "move=square: must be circle or none");
    assert!(error("type=a").contains("move=circle|none"));
    let path = std::env::temp_dir().join(format!("usbip-fast-script-{}", std::process::id()));
    #[expect(clippy::disallowed_methods, reason = "a script for a test")]
    std::fs::write(&path, "move 1 1\njump\n").expect("room");
    assert!(error(&format!("script={}", path.display())).contains("line 2: \"jump\" is not move"));
    #[expect(clippy::disallowed_methods, reason = "tidies up behind a test")]
    std::fs::remove_file(&path).expect("it was made");
}

#[test]
fn descriptors_are_as_they_were() {
    let text = |descriptors: super::super::Descriptors| {
        let listed = descriptors.listed();
        listed.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    };
    assert_eq!(
        text(descriptors::<Keyboard>(Speed::Full, "1")),
        "12010002000000402505aca400010102030109022200010100c000\
         0904000001030101000921110100 01223f000705810308000 1"
            .replace(' ', "")
    );
    assert_eq!(
        text(descriptors::<Mouse>(Speed::High, "1")),
        "12010002000000402505aca401010102030109022200010100c000\
         0904000001030102000921110100012234000705810308000 4"
            .replace(' ', "")
    );
}
