//! When what was read is dropped, what becomes of each URB, and what errors do.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::device::contract::{Subject, TESTS, run_all};
use crate::device::faulty::{Dice, Faults, Faulty, Plug};
use crate::usb::errno;

/// A recording under way, with `depth` URBs of the client's waiting.
fn recording(lead: Lead, depth: usize) -> (Client, Vec<u32>) {
    let mut client = far("microphone", Delay::NONE, Where::AtTheDevice, lead);
    record(&mut client, 4, 50);
    let slots = (0..depth).map(|_| client.iso(DATA_IN, &[28; 8], &[])).collect();
    (client, slots)
}

/// The number that stands in the first frame.
fn number(data: &[u8]) -> i64 {
    let mut reader = CounterReader::new(16);
    for frame in data.chunks_exact(4) {
        let sample = |at: usize| i16::from_le_bytes([frame[at], frame[at + 1]]).into();
        reader.read(&[sample(0), sample(2)]);
    }
    assert_eq!(reader.gaps(), 0);
    reader.first().expect("a whole URB") as i64
}

#[test]
fn what_was_read_is_never_more_than_the_limit_and_comes_in_order() {
    let (mut client, _) = recording(prefetch(10), 0);
    client.pass(MS * 50);
    let level = client.device.ahead(DATA_IN).expect("read ahead");
    assert_eq!(level.level, MS * 10);
    let before = client.device.missed(DATA_IN);
    let slots: Vec<_> = (0..10).map(|_| client.iso(DATA_IN, &[28; 8], &[])).collect();
    let data: Vec<_> = slots.iter().map(|&slot| client.answer(slot)).collect();
    assert!(data.iter().all(|answer| answer.at == client.now), "answered at once");
    let numbers: Vec<_> = data.iter().map(|answer| number(&answer.data)).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] == 48), "{numbers:?}");
    // The pause was too long for what was read, and the device has had nothing to do.
    client.pass(MS);
    assert!(client.device.missed(DATA_IN) > before);
    let level = client.device.ahead(DATA_IN).expect("read ahead");
    assert!(level.dry > 0 && level.low == Some(Duration::ZERO), "{level:?}");
    client.finish();
}

#[test]
fn a_stream_taken_up_again_later_does_not_begin_with_old_sound() {
    let (mut client, _) = recording(prefetch(10), 0);
    client.pass(MS * 500);
    let slot = client.iso(DATA_IN, &[28; 8], &[]);
    let answer = client.answer(slot);
    // 50 ms before the pause, 500 of it; the counter runs with the bus.
    assert!(number(&answer.data) > 540 * 48, "{}", number(&answer.data));
    client.finish();
}

#[test]
fn an_unlinked_urb_ends_the_reading_and_the_others_go_on() {
    let (mut client, slots) = recording(prefetch(10), 6);
    client.cancel(slots[2]);
    client.cancel(slots[2]);
    let unlinked = client.answer(slots[2]);
    assert_eq!((unlinked.status, unlinked.errors, unlinked.data.len()), (-errno::ECONNRESET, 8, 0));
    for at in [0, 1, 3, 4, 5] {
        let answer = client.answer(slots[at]);
        assert_eq!((answer.status, answer.errors), (0, 0), "URB {at}");
    }
    assert!(!client.step(), "nothing is read any more");
    client.finish();
}

#[test]
fn the_stop_of_a_stream_drops_all_that_was_read() {
    let (mut client, slots) = recording(prefetch(10), 8);
    for &slot in &slots {
        client.cancel(slot);
        assert_eq!(client.answer(slot).status, -errno::ECONNRESET);
    }
    client.setting(1, 0);
    client.setting(1, 1);
    let slot = client.iso(DATA_IN, &[28; 8], &[]);
    assert_eq!(number(&client.answer(slot).data), 0, "every stream counts from 0");
    client.finish();
}

#[test]
fn another_layout_goes_to_the_device_itself() {
    let (mut client, slots) = recording(prefetch(10), 3);
    let other = client.iso(DATA_IN, &[28; 16], &[]);
    let last = client.iso(DATA_IN, &[28; 8], &[]);
    let mut at = Vec::new();
    for slot in slots.into_iter().chain([other, last]) {
        let answer = client.answer(slot);
        assert_eq!((answer.status, answer.errors), (0, 0));
        at.push((answer.at, answer.data.len()));
    }
    assert!(at.windows(2).all(|pair| pair[0].0 <= pair[1].0), "in order: {at:?}");
    assert_eq!(at[3].1, 16 * 24);
    // With 50 ms of data in the buffer and nobody waiting, that is dropped too.
    record(&mut client, 4, 20);
    client.pass(MS * 50);
    let other = client.iso(DATA_IN, &[28; 4], &[]);
    let before = client.now;
    assert!(client.answer(other).at > before, "read after it was asked for");
    client.finish();
}

#[test]
fn set_interface_ends_what_waits_and_a_reset_too() {
    let requests = [
        Setup { request_type: 1, request: 11, value: 1, index: 1, length: 0 },
        Setup { request_type: 0, request: 9, value: 1, index: 0, length: 0 },
        Setup { request_type: 0x23, request: 3, value: 4, index: 1, length: 0 },
    ];
    for setup in requests {
        let (mut client, slots) = recording(prefetch(10), 3);
        let request = client.request(setup);
        for slot in slots {
            assert_eq!(client.answer(slot).status, -errno::ESHUTDOWN, "{setup:?}");
        }
        client.answer(request);
        assert!(!client.step(), "nothing is read any more: {setup:?}");
        client.finish();
    }
}

#[test]
fn clear_halt_drops_what_was_read() {
    let (mut client, _) = recording(prefetch(10), 0);
    client.pass(MS * 50);
    let setup = Setup { request_type: 2, request: 1, value: 0, index: DATA_IN.into(), length: 0 };
    let request = client.request(setup);
    assert_eq!(client.answer(request).status, 0);
    let before = client.now;
    let slot = client.iso(DATA_IN, &[28; 8], &[]);
    assert!(client.answer(slot).at > before, "read after it was asked for");
    client.finish();
}

#[test]
fn sound_that_was_accepted_is_played_before_the_setting_changes() {
    let (mut client, heard, _) = open_speaker(Delay::NONE, Where::AtTheDevice, jitter(40));
    let begin = client.now;
    let slots: Vec<_> = (0..5).map(|_| client.iso(DATA_OUT, &[PACKET; 8], &[1; 192])).collect();
    for &slot in &slots[..4] {
        assert_eq!(client.answer(slot).status, 0);
    }
    // The last is not accepted yet. Its unlink says that no more will come.
    client.cancel(slots[4]);
    assert_eq!(client.answer(slots[4]).status, -errno::ECONNRESET);
    client.setting(1, 0);
    assert_eq!(heard.borrow().len(), 4 * 192);
    let took = client.now - begin;
    assert!(took >= MS * 7 && took < MS * 12, "{took:?}");
    client.finish();
}

#[test]
fn a_slow_device_is_waited_for_as_long_as_it_plays() {
    let (mut client, heard, counters) =
        open_speaker_as("pace=0.02", Delay::NONE, Where::AtTheDevice, jitter(20));
    for _ in 0..20 {
        client.iso(DATA_OUT, &[PACKET; 8], &[1; 192]);
    }
    client.pass(MS * 30);
    let begin = client.now;
    client.setting(1, 0);
    assert!(client.now - begin > MS * 900, "20 ms at a fiftieth of their pace");
    assert_eq!((heard.borrow().len(), counters.read().frames), (20 * 192, 20 * 48));
    client.finish();
}

#[test]
fn a_sound_shorter_than_the_buffer_is_played_without_a_word() {
    let (mut client, heard, _) = open_speaker(Delay::NONE, Where::AtTheDevice, jitter(40));
    for _ in 0..5 {
        client.iso(DATA_OUT, &[PACKET; 8], &[1; 192]);
    }
    client.pass(MS * 300);
    assert_eq!((client.in_flight(), heard.borrow().len()), (0, 5 * 192));
    client.finish();
}

#[test]
fn an_underrun_fills_the_buffer_anew_and_is_told() {
    let (mut client, heard, counters) = open_speaker(Delay::NONE, Where::AtTheDevice, jitter(10));
    // A sound driver would not have its packets wait. These have.
    client.is_asap = false;
    let send = |client: &mut Client, count: usize| {
        for _ in 0..count {
            client.iso(DATA_OUT, &[PACKET; 8], &[1; 192]);
        }
        client.pass(MS * 60);
        assert_eq!(client.in_flight(), 0);
    };
    send(&mut client, 30);
    assert_eq!(client.device.ahead(DATA_OUT).expect("a buffer").dry, 0, "it may be the end");
    send(&mut client, 30);
    client.pass(MS * 500);
    send(&mut client, 30);
    let level = client.device.ahead(DATA_OUT).expect("a buffer");
    assert_eq!((level.dry, level.low, level.level), (1, Some(Duration::ZERO), Duration::ZERO));
    assert_eq!(heard.borrow().len(), 90 * 192);
    assert_eq!((counters.read().frames, counters.read().torn_packets), (90 * 48, 0));
    client.finish();
}

#[test]
fn errors_of_packets_reach_the_client() {
    // IN: in their place. OUT: on later packets, as many as there were.
    let faults = Faults { error: 100_000, ..Faults::default() };
    let spec = &simulate::parse("microphone").expect("a device")[0];
    let mut export = spec.export(1);
    let description = export.describe().clone();
    let device = export.reserve().expect("free")(&Doorbell::new(Arc::new(Silent)));
    let faulty = Box::new(Faulty::new(device, faults, 3));
    let mut client = far_device(faulty, &description, Delay::NONE, Where::Nowhere, prefetch(10));
    let plain = errors_of(&mut client, DATA_IN, 28);
    client.finish();
    let device = spec.export(1).reserve().expect("free")(&Doorbell::new(Arc::new(Silent)));
    let faulty = Box::new(Faulty::new(device, faults, 3));
    let mut client =
        far_device(faulty, &description, Delay::NONE, Where::AtTheDevice, prefetch(10));
    let ahead = errors_of(&mut client, DATA_IN, 28);
    client.finish();
    assert!(plain > 20 && ahead > 20, "{plain} and {ahead} of 500");

    let options = SpeakerOptions::parse("").expect("no options");
    let description = SpeakerExport::speaker(&options, 1).describe().clone();
    let gadget =
        Gadget::new(Speaker::new(&options), Arc::new(options.descriptors()), options.audio.pace);
    let faulty = Box::new(Faulty::new(Box::new(gadget), faults, 3));
    let mut client = far_device(faulty, &description, Delay::NONE, Where::AtTheDevice, jitter(10));
    let out = errors_of(&mut client, DATA_OUT, PACKET);
    client.finish();
    assert!(out > 20, "{out} of 500");
}

/// Failed packets of 500 URBs, four at a time.
fn errors_of(client: &mut Client, address: u8, size: u32) -> u32 {
    let data = vec![1; if address == DATA_OUT { size as usize * 8 } else { 0 }];
    let (mut errors, mut asked) = (0, 0);
    while asked < 500 || client.in_flight() > 0 {
        while asked < 500 && client.in_flight() < 4 {
            client.iso(address, &[size; 8], &data);
            asked += 1;
        }
        errors += client.answers.drain(..).map(|answer| answer.errors).sum::<u32>();
        if client.in_flight() > 0 {
            client.step();
        }
    }
    errors + client.answers.drain(..).map(|answer| answer.errors).sum::<u32>()
}

#[test]
fn an_unplugged_device_gives_everything_back() {
    for (text, address, lead) in
        [("microphone", DATA_IN, prefetch(20)), ("speaker", DATA_OUT, jitter(20))]
    {
        let spec = &simulate::parse(text).expect("a device")[0];
        let mut export = spec.export(1);
        let description = export.describe().clone();
        let device = export.reserve().expect("free")(&Doorbell::new(Arc::new(Silent)));
        let faulty = Faulty::new(device, Faults::default(), 1);
        let plug = faulty.plug();
        let place = Where::AtTheDevice;
        let mut client = far_device(Box::new(faulty), &description, Delay::NONE, place, lead);
        for _ in 0..40 {
            client.iso(address, &[PACKET; 8], &[0; 192][..if address < 0x80 { 192 } else { 0 }]);
        }
        client.pass(MS * 5);
        plug.pull();
        client.pass(MS);
        assert_eq!((client.in_flight(), client.device.state()), (0, DeviceState::Gone), "{text}");
        assert!(client.answers.iter().any(|answer| answer.status == -errno::ESHUTDOWN));
        let late =
            client.iso(address, &[PACKET; 8], &[0; 192][..if address < 0x80 { 192 } else { 0 }]);
        assert_eq!(client.answer(late).status, -errno::ENODEV, "{text}");
        client.finish();
    }
}

/// The whole contract of devices.
fn contract(text: &str, lead: Lead, faults: Option<Faults>) -> usize {
    let specs = simulate::parse(text).expect("a device");
    let export = RefCell::new(specs[0].export(1));
    let description = export.borrow().describe().clone();
    let bell = Doorbell::new(Arc::new(Silent));
    let plug = RefCell::new(Plug::default());
    let mut seed = 0;
    let mut subject = Subject {
        description: &description,
        open: &mut || {
            seed += 1;
            let device = export.borrow_mut().reserve().expect("free")(&bell);
            let faulty = Faulty::new(device, faults.unwrap_or_default(), seed);
            *plug.borrow_mut() = faulty.plug();
            Box::new(Ahead::new(Box::new(faulty), &description, lead))
        },
        turn: &mut |device, now| {
            let Some(due) = device.deadline() else {
                device.handle_doorbell(now);
                return now + MS;
            };
            let now = now.max(due);
            device.handle_deadline(now);
            now
        },
        dispose: &mut |device| export.borrow_mut().restore(device.into_remains()),
        unplug: Some(Box::new(|| plug.borrow().pull())),
        faulty: faults.is_some(),
    };
    TESTS.len() - run_all(&mut subject).len()
}

#[test]
fn the_contract_of_devices_is_kept() {
    let both = Lead { prefetch: Some(MS * 20), jitter: Some(MS * 20) };
    for pace in ["none", "demand", "real", "0.1"] {
        let text = format!("zero:pace={pace}:pattern=0");
        assert_eq!(contract(&text, Lead::default(), None), TESTS.len(), "{text}");
        assert_eq!(contract(&text, both, None), TESTS.len(), "{text}");
    }
    for pace in ["none", "demand", "real"] {
        for faults in [Faults::FREQUENT, Faults { unplug: 3000, ..Faults::FREQUENT }] {
            assert_eq!(contract(&format!("zero:pace={pace}"), both, Some(faults)), 3, "{pace}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_urb_is_answered_once(seed: u64, frequent: bool, pace in 0..3usize, lead in 1..60u32) {
        let text = format!("zero:pace={}", ["none", "demand", "real"][pace]);
        let spec = &simulate::parse(&text).expect("a device")[0];
        let mut export = spec.export(1);
        let description = export.describe().clone();
        let device = export.reserve().expect("free")(&Doorbell::new(Arc::new(Silent)));
        let faults = if frequent { Faults::FREQUENT } else { Faults::default() };
        let faults = Faults { no_memory: 0, ..faults };
        let faulty = Box::new(Faulty::new(device, faults, seed));
        let lead = Lead { prefetch: Some(MS * lead), jitter: Some(MS * lead) };
        let mut client = Client::new(Box::new(Ahead::new(faulty, &description, lead)));
        let mut dice = Dice::new(seed ^ 1);
        let mut slots = Vec::new();
        let mut answers: HashMap<u32, usize> = HashMap::new();
        let map = EndpointMap::new(&description.descriptors, 1);
        let all: Vec<_> = (0..32u8).filter_map(|at| {
            let direction = if at < 16 { Direction::Out } else { Direction::In };
            map.info(at % 16, direction).copied()
        }).filter(|info| matches!(info.kind, TransferType::Isochronous | TransferType::Interrupt))
        .collect();
        prop_assert!(all.len() >= 3);
        for _ in 0..400 {
            let info = all[dice.below(all.len() as u32) as usize];
            match dice.below(20) {
                0 => {
                    let (value, index) = (info.alternate.into(), info.interface.into());
                    let value = if dice.below(3) == 0 { 0 } else { value };
                    let (request_type, request) = (1, 11);
                    let setup = Setup { request_type, request, value, index, length: 0 };
                    slots.push(client.request(setup));
                }
                1..=3 if !slots.is_empty() => {
                    let at = dice.below(slots.len() as u32) as usize;
                    client.cancel(slots[at]);
                }
                4..=6 => client.pass(dice.duration(MS * 10)),
                _ if info.kind == TransferType::Interrupt && info.address & 0x80 != 0 => {
                    for _ in 0..dice.below(6) {
                        slots.push(client.interrupt(info.address, info.max_packet_size.into()));
                    }
                }
                _ if info.kind == TransferType::Isochronous => {
                    let sizes = vec![info.packet_bytes().min(64); 1 + dice.below(3) as usize * 4];
                    let length = sizes.iter().sum::<u32>() as usize;
                    let data = vec![0; if info.address & 0x80 == 0 { length } else { 0 }];
                    for _ in 0..dice.below(8) {
                        slots.push(client.iso(info.address, &sizes, &data));
                    }
                }
                _ => {}
            }
            for answer in client.answers.drain(..) {
                *answers.entry(answer.slot).or_default() += 1;
            }
        }
        client.device.close(client.now);
        client.collect();
        client.answers.drain(..).for_each(|answer| *answers.entry(answer.slot).or_default() += 1);
        prop_assert!(slots.iter().all(|slot| answers.get(slot) == Some(&1)));
        client.finish();
    }
}
