//! The part of the list that is about interrupt and isochronous endpoints.

use super::driver::{Answer, Driver, Request};
use super::{NotRun, Subject, find, set_interface};
use crate::limits;
use crate::usb::endpoint::EndpointInfo;
use crate::usb::transfer::{Direction, TransferType};

/// Interrupt endpoints move whole URBs both ways, in order.
///
/// # Errors
///
/// [`NotRun`] without an interrupt pair.
pub fn interrupt_both_ways(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    for direction in [Direction::In, Direction::Out] {
        let endpoint = find(subject, TransferType::Interrupt, direction)?;
        let mut driver = Driver::open(subject);
        set_interface(&mut driver, endpoint.alternate);
        let length = usize::from(endpoint.max_packet_size);
        let data = vec![0; length];
        let request = Request::new(TransferType::Interrupt, endpoint.address, length);
        let data = if direction == Direction::Out { &data[..] } else { &[] };
        for _ in 0..5 {
            driver.submit(&Request { data, ..request.clone() }).expect("memory");
        }
        let answers = driver.settle();
        assert!(answers.iter().all(|answer| (answer.status, answer.actual) == (0, length)));
        driver.finish();
    }
    Ok(())
}

/// A queue of isochronous URBs: every packet has its result.
///
/// # Errors
///
/// [`NotRun`] without an isochronous pair.
pub fn isochronous_both_ways(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    for direction in [Direction::In, Direction::Out] {
        let endpoint = find(subject, TransferType::Isochronous, direction)?;
        let mut driver = Driver::open(subject);
        set_interface(&mut driver, endpoint.alternate);
        let request = iso_request(&endpoint, 8);
        for _ in 0..4 {
            driver.submit(&request).expect("memory");
        }
        let answers = driver.settle();
        assert_eq!(answers.len(), 4);
        let length = endpoint.packet_bytes() as usize;
        assert!(answers.iter().all(|answer| is_whole(answer, 8, length)), "{answers:?}");
        driver.finish();
    }
    Ok(())
}

/// Packets with gaps between them: data stays at its offsets, the gaps belong to nobody.
///
/// # Errors
///
/// [`NotRun`] without isochronous IN.
pub fn isochronous_gaps(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    let endpoint = find(subject, TransferType::Isochronous, Direction::In)?;
    let mut driver = Driver::open(subject);
    set_interface(&mut driver, endpoint.alternate);
    let length = endpoint.packet_bytes() as usize / 2;
    let answer = driver.transfer(&Request::isochronous(endpoint.address, 6, length, length * 2));
    assert!(answer.status == 0 && answer.errors == 0, "{answer:?}");
    for (index, packet) in answer.packets.iter().enumerate() {
        let start = index * length * 2;
        let data = &answer.buffer[start..start + packet.actual_length.get() as usize];
        assert!(data.iter().all(|byte| *byte < 63), "packet {index} is the source's pattern");
    }
    driver.finish();
    Ok(())
}

/// 1024 packets in one URB, both ways.
///
/// # Errors
///
/// [`NotRun`] without an isochronous pair.
pub fn isochronous_longest(subject: &mut Subject<'_>) -> Result<(), NotRun> {
    for direction in [Direction::In, Direction::Out] {
        let endpoint = find(subject, TransferType::Isochronous, direction)?;
        let mut driver = Driver::open(subject);
        set_interface(&mut driver, endpoint.alternate);
        let count = limits::ISO_PACKETS as usize;
        let answer = driver.transfer(&Request::isochronous(endpoint.address, count, 32, 32));
        assert!(is_whole(&answer, count, 32), "{:?}", &answer.packets[..8]);
        driver.finish();
    }
    Ok(())
}

/// One URB of full packets.
pub(super) fn iso_request(endpoint: &EndpointInfo, count: usize) -> Request<'static> {
    let length = endpoint.packet_bytes() as usize;
    Request::isochronous(endpoint.address, count, length, length)
}

/// Whether all packets were moved in full.
fn is_whole(answer: &Answer, count: usize, length: usize) -> bool {
    answer.status == 0
        && answer.errors == 0
        && answer.packets.len() == count
        && answer.packets.iter().all(|packet| packet.actual_length.get() as usize == length)
}
