//! The importing session against the exporting one, over a stream that is cut anywhere, and against
//! a server that breaks the rules.

use std::collections::VecDeque;
use std::time::Duration;

use usbip_fast::limits;
use usbip_fast::session::exporter::Exporter;
use usbip_fast::session::importer::{Importer, ImporterEnd, Transmit, client_block_bytes};
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::isochronous::{self, PacketDescriptor};
use usbip_fast::usb::transfer::{
    BUFFER_OFFSET, Direction, Finished, ISO_PACKET_BYTES, Submission, TransferFlags, TransferType,
    block_bytes,
};
use usbip_fast::wire::urb::{
    CmdSubmit, HEADER_BYTES, Malformed, ReplyError, Request, RetSubmit, RetUnlink, parse_request,
};
use zerocopy::IntoBytes;

use crate::pair::{self, BULK, DEVICE_ID, ISOCHRONOUS};

/// Both ends and the stream between them.
struct Ends {
    importer: Importer<Vec<u8>>,
    exporter: Exporter<Vec<u8>>,
    /// Bytes that one receive brings.
    piece: usize,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// A block that leaves, in the hands of the network until `hold_blocks` is false.
    leaving: Option<Vec<u8>>,
    hold_blocks: bool,
    /// Bytes the client could not take yet.
    held: Vec<u8>,
    /// URBs of endpoints that do not answer by themselves.
    waiting: Vec<(Submission, Vec<u8>)>,
    finished: Vec<(Finished, Vec<u8>)>,
}

impl Ends {
    fn new(piece: usize) -> Self {
        Self {
            importer: Importer::new(DEVICE_ID),
            exporter: Exporter::new(DEVICE_ID, EndpointMap::new(&pair::descriptors(), 1)),
            piece,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            leaving: None,
            hold_blocks: false,
            held: Vec::new(),
            waiting: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// Everything that can happen happens.
    fn run(&mut self) {
        loop {
            let client = self.client_sends();
            let server = self.server_works();
            let received = self.client_receives();
            self.finished.extend(std::iter::from_fn(|| self.importer.poll_finished()));
            if !(client || server || received) {
                return;
            }
        }
    }

    fn client_sends(&mut self) -> bool {
        if self.leaving.is_some() && !self.hold_blocks {
            self.importer.handle_sent(self.leaving.take().expect("looked at just now"));
        }
        if self.leaving.is_some() || !self.importer.has_transmit() {
            return false;
        }
        let mut buffer = vec![0; limits::SEND_BUFFER_BYTES];
        let Transmit { buffered, block } = self.importer.poll_transmit(&mut buffer);
        self.to_server.extend(&buffer[..buffered]);
        if let Some((block, range)) = block {
            self.to_server.extend(&block[range]);
            self.leaving = Some(block);
        }
        true
    }

    fn server_works(&mut self) -> bool {
        let count = self.piece.min(self.to_server.len());
        let bytes: Vec<u8> = self.to_server.drain(..count).collect();
        if count > 0 {
            let mut memory = |bytes| Some(vec![0xa5; bytes]);
            self.exporter.handle_received(None, &bytes, &mut memory, Duration::ZERO);
        }
        while let Some((submission, block)) = self.exporter.poll_submission() {
            match (submission.kind, submission.endpoint) {
                // Interrupt URBs wait until they are unlinked.
                (TransferType::Interrupt, _) => self.waiting.push((submission, block)),
                _ => self.execute(submission, block),
            }
        }
        while let Some(slot) = self.exporter.poll_cancel() {
            let at = self.waiting.iter().position(|(waiting, _)| waiting.slot == slot);
            let (_, block) = self.waiting.remove(at.expect("only what waits is cancelled"));
            let finished = Finished { slot, status: -104, actual_length: 0, error_count: 0 };
            self.exporter.handle_finished(finished, block);
        }
        let mut buffer = vec![0; limits::SEND_BUFFER_BYTES];
        let transmit = self.exporter.poll_transmit(&mut buffer);
        let sent = !transmit.is_empty();
        self.to_client.extend(&buffer[..transmit.buffered]);
        if let Some((block, range)) = transmit.block {
            self.to_client.extend(&block[range]);
        }
        count > 0 || sent
    }

    /// IN data is a pattern that depends on the length; OUT data must be the same pattern. Of
    /// isochronous packets every third is short, every fifth failed.
    fn execute(&mut self, submission: Submission, mut block: Vec<u8>) {
        let Submission { slot, direction, length, packets, .. } = submission;
        let buffer = &mut block[BUFFER_OFFSET..block_bytes(length, packets)];
        let (data, descriptors) = buffer.split_at_mut(length as usize);
        match direction {
            Direction::In => data.copy_from_slice(&pattern(length)),
            Direction::Out => assert_eq!(data, pattern(length)),
        }
        let mut actual_length = length;
        if packets > 0 {
            actual_length = 0;
            for (number, packet) in isochronous::packets_mut(descriptors).iter_mut().enumerate() {
                let (actual, status) = iso_result(number, packet.length.get());
                packet.actual_length = actual.into();
                packet.status = status.into();
                actual_length += actual;
            }
        }
        let finished = Finished { slot, status: 0, actual_length, error_count: 0 };
        self.exporter.handle_finished(finished, block);
    }

    fn client_receives(&mut self) -> bool {
        let mut bytes = std::mem::take(&mut self.held);
        let had = bytes.len();
        if had > 0 {
            let taken = self.importer.handle_received(None, &bytes);
            self.held = bytes.split_off(taken);
            return taken > 0;
        }
        if self.to_client.is_empty() {
            return false;
        }
        let mut room = self.piece;
        let lent = self.importer.poll_receive().map(|(mut block, range)| {
            let direct = room.min(range.len()).min(self.to_client.len());
            for (place, byte) in block[range].iter_mut().zip(self.to_client.drain(..direct)) {
                *place = byte;
            }
            room -= direct;
            (block, direct)
        });
        bytes.extend(self.to_client.drain(..room.min(self.to_client.len())));
        let taken = self.importer.handle_received(lent, &bytes);
        self.held = bytes.split_off(taken);
        true
    }

    fn submit(&mut self, slot: u32, urb: &Urb) {
        let Urb { kind, direction, endpoint, length, packets } = urb;
        let count = packets.len() as u32;
        let mut block = vec![0x5a; client_block_bytes(*length, count)];
        if *direction == Direction::Out {
            block[BUFFER_OFFSET..][..*length as usize].copy_from_slice(&pattern(*length));
        }
        for (at, &(offset, bytes)) in packets.iter().enumerate() {
            let descriptor = PacketDescriptor::new(offset, bytes);
            let place = block_bytes(*length, at as u32);
            block[place..][..ISO_PACKET_BYTES].copy_from_slice(descriptor.as_bytes());
        }
        let [low, high] = (*length as u16).to_le_bytes();
        let control = *kind == TransferType::Control;
        let request_type = if *direction == Direction::In { 0xc0 } else { 0x40 };
        self.importer.submit(
            Submission {
                slot,
                kind: *kind,
                direction: *direction,
                endpoint: *endpoint,
                setup: if control { [request_type, 1, 0, 0, 0, 0, low, high] } else { [0; 8] },
                length: *length,
                packets: count,
                flags: TransferFlags::default(),
                start_frame: 0,
            },
            block,
        );
    }

    fn take_finished(&mut self) -> Vec<(u32, i32, u32)> {
        self.finished
            .drain(..)
            .map(|(finished, _)| (finished.slot, finished.status, finished.actual_length))
            .collect()
    }
}

struct Urb {
    kind: TransferType,
    direction: Direction,
    endpoint: u8,
    length: u32,
    packets: Vec<(u32, u32)>,
}

fn urb(kind: TransferType, direction: Direction, length: u32) -> Urb {
    let endpoint = match kind {
        TransferType::Control => 0,
        TransferType::Bulk => BULK,
        TransferType::Interrupt => pair::INTERRUPT,
        TransferType::Isochronous => ISOCHRONOUS,
    };
    Urb { kind, direction, endpoint, length, packets: Vec::new() }
}

/// Packets of 100 bytes, 20 bytes apart.
fn iso(direction: Direction, packets: u32) -> Urb {
    Urb {
        packets: (0..packets).map(|number| (number * 120, 100)).collect(),
        ..urb(TransferType::Isochronous, direction, packets * 120)
    }
}

fn pattern(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + length) as u8).collect()
}

fn iso_result(number: usize, length: u32) -> (u32, i32) {
    match number {
        number if number % 5 == 4 => (0, -18),
        number if number % 3 == 2 => (length / 2, 0),
        _ => (length, 0),
    }
}

#[test]
fn every_kind_goes_there_and_back_however_the_stream_is_cut() {
    for piece in [1, 7, 48, 49, 1000, 70_000, usize::MAX] {
        let mut ends = Ends::new(piece);
        let (bulk, control) = (TransferType::Bulk, TransferType::Control);
        let urbs = [
            urb(control, Direction::In, 18),
            urb(control, Direction::Out, 300),
            urb(bulk, Direction::In, 30_000),
            urb(bulk, Direction::Out, 20_000),
            urb(bulk, Direction::In, 100),
            urb(bulk, Direction::Out, 64),
            urb(bulk, Direction::In, 0),
            urb(bulk, Direction::Out, 0),
            iso(Direction::In, 9),
            iso(Direction::Out, 9),
            iso(Direction::Out, 200),
            iso(Direction::In, 200),
        ];
        for (slot, urb) in (0..).zip(&urbs) {
            ends.submit(slot, urb);
        }
        ends.run();
        assert_eq!(ends.importer.end(), None);
        assert_eq!(ends.importer.outstanding(), 0);
        assert_eq!(ends.finished.len(), urbs.len());
        for (finished, block) in &ends.finished {
            check(&urbs[finished.slot as usize], finished, block);
        }
    }
}

fn check(urb: &Urb, finished: &Finished, block: &[u8]) {
    assert_eq!(finished.status, 0);
    let length = urb.length;
    let data = &block[BUFFER_OFFSET..BUFFER_OFFSET + length as usize];
    if urb.packets.is_empty() {
        assert_eq!(finished.actual_length, length);
        assert_eq!(data, pattern(length), "both ways it is the pattern");
        return;
    }
    let count = urb.packets.len() as u32;
    let packets = isochronous::packets(&block[block_bytes(length, 0)..block_bytes(length, count)]);
    let (mut sum, mut errors) = (0, 0);
    for (number, (packet, &(offset, bytes))) in packets.iter().zip(&urb.packets).enumerate() {
        let (actual, status) = iso_result(number, bytes);
        assert_eq!((packet.offset.get(), packet.length.get()), (offset, bytes));
        assert_eq!((packet.actual_length.get(), packet.status.get()), (actual, status));
        if urb.direction == Direction::In {
            let place = offset as usize..(offset + actual) as usize;
            assert_eq!(data[place.clone()], pattern(length)[place], "packet {number}");
        }
        sum += actual;
        errors += u32::from(status != 0);
    }
    assert_eq!((finished.actual_length, finished.error_count), (sum, errors));
}

#[test]
fn an_unlinked_urb_comes_back_once() {
    let mut ends = Ends::new(usize::MAX);
    for slot in 0..3 {
        ends.submit(slot, &urb(TransferType::Interrupt, Direction::In, 8));
    }
    ends.run();
    assert_eq!(ends.take_finished(), []);
    ends.importer.unlink(1);
    ends.importer.unlink(1);
    ends.importer.unlink(77);
    ends.run();
    assert_eq!(ends.take_finished(), [(1, -104, 0)]);
    // Its slot is free again, and the next of that name is another URB.
    ends.submit(1, &urb(TransferType::Bulk, Direction::In, 5));
    ends.run();
    assert_eq!(ends.take_finished(), [(1, 0, 5)]);
    ends.importer.unlink(0);
    ends.importer.unlink(2);
    ends.run();
    assert_eq!(ends.take_finished(), [(0, -104, 0), (2, -104, 0)]);
    assert_eq!(ends.importer.outstanding(), 0);
}

#[test]
fn a_urb_that_wins_against_its_unlink_keeps_its_data() {
    let mut ends = Ends::new(usize::MAX);
    ends.submit(0, &urb(TransferType::Bulk, Direction::In, 30));
    ends.importer.unlink(0);
    ends.run();
    let (finished, block) = ends.finished.pop().expect("it comes back");
    assert_eq!(finished.status, -104);
    assert_eq!(
        block[BUFFER_OFFSET..][..30][..finished.actual_length as usize],
        pattern(30)[..finished.actual_length as usize]
    );
    assert_eq!(ends.importer.outstanding(), 0);
}

#[test]
fn an_answer_may_overtake_the_block_it_is_for() {
    for piece in [1, 48, 60, usize::MAX] {
        let mut ends = Ends::new(piece);
        ends.hold_blocks = true;
        // Larger than what is copied, so the block itself leaves, and with packet descriptors in
        // the answer, which have no place before the block is back.
        ends.submit(0, &iso(Direction::Out, 200));
        ends.submit(1, &urb(TransferType::Bulk, Direction::Out, 20));
        ends.run();
        assert_eq!(ends.take_finished(), [], "the block is still with the network");
        ends.hold_blocks = false;
        ends.run();
        let slots: Vec<u32> = ends.take_finished().iter().map(|&(slot, ..)| slot).collect();
        assert_eq!(slots, [0, 1]);
    }
}

#[test]
fn the_end_brings_everything_back() {
    let mut ends = Ends::new(usize::MAX);
    ends.submit(0, &urb(TransferType::Interrupt, Direction::In, 8));
    ends.hold_blocks = true;
    ends.submit(1, &urb(TransferType::Bulk, Direction::Out, 20_000));
    assert!(ends.client_sends());
    assert_eq!(ends.importer.handle_received(None, &[]), 0);
    assert_eq!(ends.importer.end(), Some(&ImporterEnd::PeerClosed));
    ends.finished.extend(std::iter::from_fn(|| ends.importer.poll_finished()));
    assert_eq!(ends.take_finished(), [(0, -108, 0)]);
    let block = ends.leaving.take().expect("with the network");
    ends.importer.handle_sent(block);
    ends.submit(0, &urb(TransferType::Bulk, Direction::In, 1));
    ends.finished.extend(std::iter::from_fn(|| ends.importer.poll_finished()));
    assert_eq!(ends.take_finished(), [(1, -108, 0), (0, -108, 0)]);
    assert_eq!(ends.importer.outstanding(), 0);
}

/// A client whose only URB has left; returns its seqnum.
fn asked(urb: &Urb) -> (Ends, u32) {
    let mut ends = Ends::new(usize::MAX);
    ends.submit(0, urb);
    assert!(ends.client_sends());
    let bytes: Vec<u8> = ends.to_server.drain(..).collect();
    let header = bytes.first_chunk::<HEADER_BYTES>().expect("a header");
    let Ok(Request::Submit(CmdSubmit { seqnum, .. })) = parse_request(header) else {
        panic!("a CMD_SUBMIT")
    };
    (ends, seqnum)
}

fn reply(seqnum: u32, status: i32, actual_length: u32, number_of_packets: i32) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES];
    let ret = RetSubmit {
        seqnum,
        status,
        actual_length,
        start_frame: 0,
        number_of_packets,
        error_count: 0,
    };
    ret.emit(&mut header);
    header.to_vec()
}

/// What a client makes of these bytes: how its session ended, and its URB.
fn judged(
    urb: &Urb,
    bytes: impl FnOnce(u32) -> Vec<u8>,
) -> (Option<ImporterEnd>, Vec<(u32, i32, u32)>) {
    let (mut ends, seqnum) = asked(urb);
    let bytes = bytes(seqnum);
    assert_eq!(ends.importer.handle_received(None, &bytes), bytes.len());
    ends.finished.extend(std::iter::from_fn(|| ends.importer.poll_finished()));
    (ends.importer.end().cloned(), ends.take_finished())
}

#[test]
fn lengths_beyond_the_buffer_are_not_believed() {
    let (bulk_in, bulk_out) =
        (urb(TransferType::Bulk, Direction::In, 10), urb(TransferType::Bulk, Direction::Out, 10));
    let (end, finished) = judged(&bulk_in, |seqnum| reply(seqnum, 0, 11, 0));
    let beyond = ReplyError::LengthBeyondBuffer { actual: 11, buffer: 10 };
    assert_eq!(end, Some(ImporterEnd::Reply(beyond)), "the payload cannot be followed");
    assert_eq!(finished, [(0, -108, 0)]);
    // Nothing follows the answer to an OUT URB, so the session goes on.
    let (end, finished) = judged(&bulk_out, |seqnum| reply(seqnum, 0, 11, 0));
    assert_eq!((end, finished), (None, vec![(0, -75, 0)]));
    let (end, finished) = judged(&bulk_out, |seqnum| reply(seqnum, 0, u32::MAX, 0));
    assert_eq!((end, finished), (None, vec![(0, -71, 0)]));
    let (end, _) = judged(&bulk_in, |seqnum| reply(seqnum, 5, 1, 0));
    assert_eq!(end, Some(ImporterEnd::Reply(ReplyError::PositiveStatus(5))));
}

#[test]
fn answers_to_nothing_end_the_session() {
    let bulk_in = urb(TransferType::Bulk, Direction::In, 10);
    let (end, finished) = judged(&bulk_in, |seqnum| reply(seqnum + 1, 0, 0, 0));
    assert!(matches!(end, Some(ImporterEnd::UnknownSeqnum(_))), "{end:?}");
    assert_eq!(finished, [(0, -108, 0)]);
    let (end, _) = judged(&bulk_in, |seqnum| reply(seqnum, 0, 0, 0).repeat(2));
    assert!(matches!(end, Some(ImporterEnd::UnknownSeqnum(_))), "a second answer: {end:?}");
    let (end, _) = judged(&bulk_in, |_| vec![0xff; HEADER_BYTES]);
    assert_eq!(end, Some(ImporterEnd::Malformed(Malformed::Command(u32::MAX))));
    // An answer to an unlink that was never sent harms nothing.
    let (end, finished) = judged(&bulk_in, |seqnum| {
        let mut header = [0; HEADER_BYTES];
        RetUnlink { seqnum, status: -104 }.emit(&mut header);
        header.to_vec()
    });
    assert_eq!((end, finished), (None, vec![]));
}

#[test]
fn an_answer_to_what_was_not_asked_yet_ends_the_session() {
    let bulk_in = urb(TransferType::Bulk, Direction::In, 10);
    let (mut ends, seqnum) = asked(&bulk_in);
    // The next command waits, as behind a send that is in flight; its number can be guessed.
    ends.submit(1, &bulk_in);
    ends.importer.unlink(1);
    let mut unlinked = [0; HEADER_BYTES];
    RetUnlink { seqnum: seqnum + 2, status: -104 }.emit(&mut unlinked);
    assert_eq!(ends.importer.handle_received(None, &unlinked), HEADER_BYTES);
    assert_eq!((ends.importer.end(), ends.importer.outstanding()), (None, 2), "it means nothing");
    let early = reply(seqnum + 1, 0, 0, 0);
    assert_eq!(ends.importer.handle_received(None, &early), early.len());
    assert_eq!(ends.importer.end(), Some(&ImporterEnd::UnknownSeqnum(seqnum + 1)));
    assert!(!ends.client_sends(), "nothing is left to be sent");
    ends.finished.extend(std::iter::from_fn(|| ends.importer.poll_finished()));
    assert_eq!(ends.take_finished(), [(0, -108, 0), (1, -108, 0)]);
}

#[test]
fn a_stream_that_ends_inside_a_pdu_is_truncated() {
    let bulk_in = urb(TransferType::Bulk, Direction::In, 10);
    for cut in [1, 47, 48, 57] {
        let (mut ends, seqnum) = asked(&bulk_in);
        let mut bytes = reply(seqnum, 0, 10, 0);
        bytes.extend([1; 10]);
        assert_eq!(ends.importer.handle_received(None, &bytes[..cut]), cut);
        let lent = ends.importer.poll_receive().map(|(block, _)| (block, 0));
        assert_eq!(ends.importer.handle_received(lent, &[]), 0);
        assert_eq!(ends.importer.end(), Some(&ImporterEnd::Truncated), "after {cut} bytes");
        ends.finished.extend(std::iter::from_fn(|| ends.importer.poll_finished()));
        assert_eq!(ends.take_finished(), [(0, -108, 0)]);
    }
}

#[test]
fn an_isochronous_urb_that_failed_as_a_whole_needs_no_packets() {
    for direction in [Direction::In, Direction::Out] {
        let request = iso(direction, 2);
        for count in [0, -1] {
            let (end, finished) = judged(&request, |seqnum| reply(seqnum, -2, 0, count));
            assert_eq!((end, finished), (None, vec![(0, -2, 0)]));
        }
        // Success without packets is none.
        let (end, finished) = judged(&request, |seqnum| reply(seqnum, 0, 0, 0));
        assert_eq!((end, finished), (None, vec![(0, -71, 0)]));
    }
}

#[test]
fn packets_that_do_not_answer_the_request_fail_the_urb() {
    let request = iso(Direction::In, 2);
    let answer = |seqnum, header: u32, packets: &[(u32, u32, u32, i32)]| {
        let mut bytes = reply(seqnum, 0, header, packets.len() as i32);
        bytes.extend(vec![9; header as usize]);
        for &(offset, length, actual_length, status) in packets {
            let packet = PacketDescriptor {
                offset: offset.into(),
                length: length.into(),
                actual_length: actual_length.into(),
                status: status.into(),
            };
            bytes.extend_from_slice(packet.as_bytes());
        }
        bytes
    };
    let good = [(0, 100, 50, 0), (120, 100, 50, 0)];
    let (end, finished) = judged(&request, |seqnum| answer(seqnum, 100, &good));
    assert_eq!((end, finished), (None, vec![(0, 0, 100)]));
    let bad: [&[(u32, u32, u32, i32)]; 5] = [
        &[(0, 100, 50, 0), (119, 100, 50, 0)],
        &[(0, 100, 50, 0), (120, 101, 50, 0)],
        &[(0, 100, 60, 0), (120, 100, 50, 0)],
        &[(0, 100, 50, 3), (120, 100, 50, 0)],
        &[(0, 100, 100, 0)],
    ];
    for packets in bad {
        let (end, finished) = judged(&request, |seqnum| answer(seqnum, 100, packets));
        assert_eq!((end, finished), (None, vec![(0, -71, 0)]), "{packets:?}");
    }
    let three = [(0, 100, 50, 0), (120, 100, 50, 0), (240, 0, 0, 0)];
    let (end, _) = judged(&request, |seqnum| answer(seqnum, 100, &three));
    assert_eq!(end, Some(ImporterEnd::Malformed(Malformed::PacketCount(3))));
}
