use std::sync::Arc;

use super::*;
use crate::device::gadget::zero::{Pattern, Zero, ZeroOptions};
use crate::device::gadget::{Gadget, Pace};
use crate::usb::transfer::{TransferFlags, block_bytes};

fn device(faults: Faults, seed: u64) -> Faulty {
    let descriptors = Arc::new(ZeroOptions::default().descriptors());
    let gadget = Gadget::new(Zero::new(Pattern::Zeros), descriptors, Pace::None);
    Faulty::new(Box::new(gadget), faults, seed)
}

fn submission(slot: u32, kind: TransferType, direction: Direction) -> Submission {
    let control = kind == TransferType::Control;
    Submission {
        slot,
        kind,
        direction,
        endpoint: u8::from(!control),
        setup: if control { [0x80, 6, 0, 1, 0, 0, 18, 0] } else { [0; 8] },
        length: if control { 18 } else { 512 },
        packets: 0,
        flags: TransferFlags::default(),
        start_frame: 0,
    }
}

/// Answers to 600 URBs, three in flight at a time, on three endpoints.
fn answers(faults: Faults, seed: u64) -> Vec<Finished> {
    let mut device = device(faults, seed);
    let arena = Arena::new(8 << 20);
    let mut now = Duration::from_secs(5);
    let mut answers = Vec::new();
    for round in 0..200 {
        for (index, (kind, direction)) in [
            (TransferType::Bulk, Direction::In),
            (TransferType::Bulk, Direction::Out),
            (TransferType::Control, Direction::In),
        ]
        .into_iter()
        .enumerate()
        {
            let submission = submission(round * 3 + index as u32, kind, direction);
            let bytes = block_bytes(submission.length, 0);
            let Some(mut block) = device.allocate(&arena, bytes) else { continue };
            block.as_mut()[BUFFER_OFFSET..].fill(0);
            device.submit(submission, block, now);
        }
        while let Some(due) = device.deadline() {
            now = now.max(due);
            device.handle_deadline(now);
            answers.extend(std::iter::from_fn(|| device.poll(now)).map(|c| c.finished));
        }
        answers.extend(std::iter::from_fn(|| device.poll(now)).map(|c| c.finished));
    }
    answers
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let first = answers(Faults::FREQUENT, 7);
    assert_eq!(first, answers(Faults::FREQUENT, 7));
    assert_ne!(first, answers(Faults::FREQUENT, 8));
}

#[test]
fn without_faults_nothing_changes() {
    let all = answers(Faults::default(), 7);
    assert_eq!(all.len(), 600);
    let length = |index| if index % 3 == 2 { 18 } else { 512 };
    let expected = (0..600).map(|slot| (slot, 0, length(slot)));
    assert!(all.iter().map(|f| (f.slot, f.status, f.actual_length)).eq(expected));
}

#[test]
fn every_kind_of_fault_happens() {
    let all = answers(Faults::FREQUENT, 7);
    for status in [errno::EPIPE, errno::EPROTO, errno::EOVERFLOW, errno::EILSEQ] {
        assert!(all.iter().any(|finished| finished.status == -status), "-{status}");
    }
    let short = |f: &Finished| f.status == 0 && f.slot.is_multiple_of(3) && f.actual_length < 512;
    assert!(all.iter().any(short));
    assert!(all.windows(2).any(|pair| pair[0].slot > pair[1].slot), "endpoints overtake");
    assert!(all.len() < 600, "memory was refused");
    let gone = answers(Faults { unplug: 20_000, ..Faults::FREQUENT }, 7);
    assert!(gone.iter().any(|finished| finished.status == -errno::ENODEV), "unplugged");
}

#[test]
fn a_halt_by_fault_lasts_until_it_is_cleared() {
    let mut device = device(Faults { stall: 1_000_000, ..Faults::default() }, 1);
    let arena = Arena::new(8 << 20);
    let submit = |device: &mut Faulty, submission: Submission| {
        let bytes = block_bytes(submission.length, 0);
        let block = device.allocate(&arena, bytes).expect("memory");
        device.submit(submission, block, Duration::ZERO);
        device.poll(Duration::ZERO).expect("at once").finished.status
    };
    let bulk = submission(1, TransferType::Bulk, Direction::In);
    assert_eq!(submit(&mut device, bulk), -errno::EPIPE);
    device.faults.stall = 0;
    assert_eq!(submit(&mut device, bulk), -errno::EPIPE);
    let mut clear = submission(1, TransferType::Control, Direction::Out);
    (clear.setup, clear.length) = ([2, 1, 0, 0, 0x81, 0, 0, 0], 0);
    assert_eq!(submit(&mut device, clear), 0);
    assert_eq!(submit(&mut device, bulk), 0);
}

#[test]
fn a_cancel_may_lose_the_race_or_win_it_late() {
    let faults = Faults {
        late: 1_000_000,
        cancel_race: 500_000,
        longest_delay: Duration::from_millis(10),
        ..Faults::default()
    };
    let mut device = device(faults, 3);
    let arena = Arena::new(8 << 20);
    let statuses: Vec<i32> = (0..50)
        .map(|slot| {
            let submission = submission(slot, TransferType::Bulk, Direction::In);
            let block = device.allocate(&arena, block_bytes(512, 0)).expect("memory");
            device.submit(submission, block, Duration::ZERO);
            device.cancel(slot, Duration::ZERO);
            let end = Duration::from_millis(10);
            device.poll(end).expect("within the longest delay").finished.status
        })
        .collect();
    assert!(statuses.contains(&0) && statuses.contains(&-errno::ECONNRESET));
    assert!(statuses.iter().all(|status| [0, -errno::ECONNRESET].contains(status)));
}
