//! Tests of the serial line, on a virtual clock.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::device::Device;
use crate::device::gadget::Pace;
use crate::device::gadget::bench::{Bench, PACES, STALLED, setup};

const IN: u8 = 0x81;
const OUT: u8 = 0x01;

fn echo(pace: Pace) -> Bench<Serial> {
    Bench::new(Serial::new(None), descriptors(Speed::High, "1"), pace)
}

#[test]
fn line_coding_is_kept_until_a_reset() {
    let mut bench = echo(Pace::None);
    assert_eq!(bench.ask(setup(0xa1, GET_LINE_CODING, 0, 0, 7)), Ok(LINE_CODING.to_vec()));
    let fast = [0, 0xc2, 1, 0, 2, 1, 7];
    assert_eq!(bench.tell(setup(0x21, SET_LINE_CODING, 0, 0, 0), &fast), 0);
    assert_eq!(bench.ask(setup(0xa1, GET_LINE_CODING, 0, 0, 7)), Ok(fast.to_vec()));
    assert_eq!(bench.tell(setup(0x21, SET_LINE_CODING, 0, 0, 0), &fast[..6]), STALLED);
    assert_eq!(bench.tell(setup(0x21, SET_CONTROL_LINE_STATE, 3, 0, 0), &[]), 0);
    assert_eq!(bench.tell(setup(0x21, 0x55, 0, 0, 0), &[]), STALLED);
    assert_eq!(bench.ask(setup(0xa1, GET_LINE_CODING, 0, 1, 7)), Err(STALLED));
    assert_eq!(bench.tell(setup(0x00, 9, 1, 0, 0), &[]), 0, "SET_CONFIGURATION");
    assert_eq!(bench.ask(setup(0xa1, GET_LINE_CODING, 0, 0, 7)), Ok(LINE_CODING.to_vec()));
}

#[test]
fn state_is_told_once_and_breaks_come_back() {
    for pace in PACES {
        let mut bench = echo(pace);
        let state = |bits: u8| vec![0xa1, 0x20, 0, 0, 0, 0, 2, 0, bits, 0];
        bench.submit_in(NOTIFICATIONS, 16);
        assert_eq!(bench.wait().expect("at once").data, state(3));
        bench.submit_in(NOTIFICATIONS, 10);
        assert!(bench.poll().is_none());
        assert_eq!(bench.tell(setup(0x21, SEND_BREAK, 0xffff, 0, 0), &[]), 0);
        assert_eq!(bench.wait().expect("the break").data, state(7));
        bench.submit_in(NOTIFICATIONS, 16);
        assert_eq!(bench.wait().expect("its end").data, state(3));
    }
}

#[test]
fn a_full_echo_makes_the_host_wait() {
    for pace in PACES {
        let mut bench = echo(pace);
        let data: Vec<u8> = (0..limits::SERIAL_BYTES + 1000).map(|i| (i % 251) as u8).collect();
        let out = bench.submit_out(OUT, &data);
        assert_eq!(bench.wait(), None);
        let mut back = Vec::new();
        let mut sent = false;
        while back.len() < data.len() {
            let slot = bench.submit_in(IN, 3000);
            loop {
                let answer = bench.wait().expect("data or the end of what was sent");
                assert_eq!(answer.status, 0);
                if answer.slot == slot {
                    back.extend(answer.data);
                    break;
                }
                sent = answer.slot == out;
            }
        }
        assert!(back == data && (sent || bench.wait().is_some()));
    }
}

#[test]
fn whole_packets_end_with_an_empty_one_where_there_is_room() {
    let mut bench = echo(Pace::REAL);
    bench.submit_out(OUT, &[1; 8192]);
    assert_eq!(bench.wait().expect("room").status, 0);
    bench.submit_in(IN, 65536);
    assert_eq!(bench.wait().expect("the transfer ends").data, vec![1; 8192]);
    let slot = bench.submit_in(IN, 512);
    assert_eq!(bench.wait(), None);
    bench.device.cancel(slot, bench.now);
    assert!(bench.poll().expect("back").data.is_empty());
}

/// The last transfer of a frame makes room and spends the frame's bytes: who waited for the room is
/// asked in the next frame.
#[test]
fn who_waits_is_not_forgotten_at_the_end_of_a_frame() {
    let mut bench = echo(Pace::REAL);
    let full = vec![5; limits::SERIAL_BYTES + 512];
    let out = bench.submit_out(OUT, &full);
    assert_eq!(bench.wait(), None, "full");
    // One frame moves 13 packets, and so many are asked for.
    bench.now += Duration::from_micros(125);
    bench.submit_in(IN, 13 * 512);
    let mut slots = Vec::new();
    while let Some(answer) = bench.wait() {
        slots.push(answer.slot);
    }
    assert!(slots.contains(&out), "{slots:?}");
}

#[test]
fn a_pseudo_terminal_is_the_other_end() {
    let (outgoing, incoming) = (ByteQueue::new(4096), ByteQueue::new(4096));
    let mut line = Serial::new(None);
    (line.outgoing, line.incoming) = (outgoing.clone(), incoming.clone());
    let mut bench = Bench::new(line, descriptors(Speed::High, "1"), Pace::None);
    bench.submit_out(OUT, &[7; 600]);
    assert_eq!(bench.poll().expect("room").status, 0);
    assert_eq!(outgoing.read(&mut [0; 1000]), 600);
    assert_eq!(incoming.write(b"hello"), 5);
    bench.submit_in(IN, 512);
    assert_eq!(bench.poll().expect("data").data, b"hello");
}

#[test]
fn options_are_read_and_refused() {
    let error = |text: &str| SerialOptions::parse(text).expect_err(text).to_string();
    assert!(error("colour=red").contains("mode=echo|pty"), "the keys are listed");
    assert_eq!(error("mode=loop"), "mode=loop: must be echo or pty");
    assert_eq!(error("link=/tmp/x"), "link=/tmp/x: needs mode=pty");
    assert_eq!(error("speed=low"), "speed=low: must be full, high or super");
    assert!(error("mode=pty:link=/nowhere/x").starts_with("link=/nowhere/x: cannot be made"));
    let options = SerialOptions::parse("mode=pty:pace=none:speed=super").expect("fine");
    assert_eq!((options.mode, options.speed), (Mode::Pty, Speed::Super));
    assert!(options.take_pty().is_some() && options.take_pty().is_none());
}

#[test]
fn descriptors_are_as_they_were() {
    let listed = descriptors(Speed::High, "1").listed().to_vec();
    let text = listed.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    assert_eq!(
        text,
        "12010002020000402505a7a400010102030109024300020100c000\
         0904000001020201000524002001052401000104240206052406000107058203100009\
         09040100020a000000070581020002000705010200 0200"
            .replace(' ', "")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Chunks of any size, in transfers of any size, come back as they went.
    #[test]
    fn the_echo_is_exact(
        steps in proptest::collection::vec((any::<bool>(), 1..5000_usize), 1..60),
        pace in 0..3_usize,
    ) {
        let mut bench = echo(PACES[pace]);
        let (mut sent, mut back) = (Vec::new(), Vec::new());
        let mut pending = Vec::new();
        for (is_out, length) in steps {
            if is_out {
                let start = sent.len();
                sent.extend((start..start + length).map(|i| (i * 7 + i / 256) as u8));
                bench.submit_out(OUT, &sent[start..]);
            } else {
                pending.push(bench.submit_in(IN, length.next_multiple_of(512)));
            }
            while let Some(answer) = bench.poll() {
                if pending.contains(&answer.slot) {
                    back.extend(answer.data);
                }
            }
        }
        while back.len() < sent.len() {
            let slot = bench.submit_in(IN, 4096);
            pending.push(slot);
            while let Some(answer) = bench.wait() {
                if pending.contains(&answer.slot) {
                    back.extend(answer.data);
                }
                if answer.slot == slot {
                    break;
                }
            }
        }
        prop_assert!(back == sent);
    }
}
