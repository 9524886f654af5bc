//! However the stream is cut, the session does the same; where it ends within a PDU, it says so.

use usbip_fast::session::exporter::SessionEnd;
use usbip_fast::usb::transfer::{BUFFER_OFFSET, Direction};

use crate::pair::*;

/// A stream with every kind of body, good and refused.
fn stream() -> Vec<Submit> {
    let mut wrong_control = Submit::output(5, 0, 30);
    wrong_control.command.setup = [0, 7, 0, 1, 0, 0, 29, 0];
    let mut control_out = Submit::output(4, 0, 30);
    control_out.command.setup = [0x40, 0x5b, 0, 0, 0, 0, 30, 0];
    vec![
        Submit::control_in(1, 18),
        Submit::output(2, BULK, 200),
        Submit::input(3, BULK, 64),
        control_out,
        wrong_control,
        Submit::iso(6, Direction::Out, 40, &[(0, 10), (20, 10)]),
        Submit::iso(7, Direction::In, 40, &[(0, 10), (20, 10)]),
        Submit::iso(8, Direction::Out, 40, &[(0, 10), (5, 10)]),
        Submit::iso(9, Direction::In, 40, &[(8, 10), (20, 10)]),
        Submit::output(10, UNKNOWN, 77),
        Submit::output(11, INTERRUPT, 0),
        Submit::output(12, BULK, 1),
    ]
}

/// The bytes of the stream with two unlinks between, and where its PDUs end.
fn bytes_of(pair: &mut Pair, submits: &[Submit]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for submit in submits {
        bytes.extend(pair.note(submit));
        ends.push(bytes.len());
        if [2, 9].contains(&submit.command.seqnum) {
            bytes.extend(unlink_bytes(100 + submit.command.seqnum, submit.command.seqnum));
            ends.push(bytes.len());
        }
    }
    (bytes, ends)
}

/// Everything that is to be the same: what the device got, and what the client got.
type Seen = (Vec<(u32, Vec<u8>)>, Vec<Answer>);

fn finish_all(pair: &mut Pair) -> Seen {
    let mut device = Vec::new();
    let names: Vec<u32> = pair.device.held.iter().map(|held| held.0.start_frame).collect();
    for seqnum in names {
        pair.finish_with(seqnum, |submission, block| {
            let length = submission.length as usize;
            let out = match submission.direction {
                Direction::Out => block[BUFFER_OFFSET..BUFFER_OFFSET + length].to_vec(),
                Direction::In => {
                    block[BUFFER_OFFSET..BUFFER_OFFSET + length].fill(seqnum as u8);
                    Vec::new()
                }
            };
            device.push((seqnum, out));
            if submission.packets > 0 { (0, 0) } else { (0, submission.length) }
        });
    }
    (device, pair.answers())
}

fn run(delivery: Delivery, cut: Option<usize>) -> (Seen, Pair) {
    let mut pair = Pair::with_delivery(delivery);
    let (bytes, _) = bytes_of(&mut pair, &stream());
    let (head, tail) = bytes.split_at(cut.unwrap_or(0));
    pair.send(head);
    pair.send(tail);
    (finish_all(&mut pair), pair)
}

#[test]
fn any_cutting_of_the_stream_gives_the_same_result() {
    // The reference hands over piecewise too, so that URB 2 is with the device when unlinked.
    let whole = run(Delivery { piece: 48, direct: false }, None).0;
    assert_eq!(whole.0.len(), 8, "eight of the twelve reach the device");
    assert_eq!(whole.1.len(), 14, "twelve URBs and two unlinks");
    let payload: Vec<u8> = stream()[1].payload.clone();
    assert_eq!(whole.0[1], (2, payload));
    for piece in (1..=130).chain([199, 200, 248, 500, 1000]) {
        for direct in [false, true] {
            let (seen, pair) = run(Delivery { piece, direct }, None);
            assert_eq!(pair.end(), None);
            // In one piece with its CMD_UNLINK URB 2 never reaches the device.
            if seen.0.len() == 8 {
                assert_eq!(seen, whole, "pieces of {piece}, direct {direct}");
            } else {
                assert!(piece > 48, "the device was asked between the two");
                assert_eq!(seen.0.len(), 7);
            }
        }
    }
}

#[test]
fn one_cut_anywhere_gives_the_same_result() {
    let mut pair = Pair::new();
    let (bytes, _) = bytes_of(&mut pair, &stream());
    let whole = run(Delivery { piece: usize::MAX, direct: true }, None).0;
    for cut in 0..bytes.len() {
        for direct in [false, true] {
            let (seen, _pair) = run(Delivery { piece: usize::MAX, direct }, Some(cut));
            if seen.0.len() == whole.0.len() {
                assert_eq!(seen, whole, "cut at {cut}");
            } else {
                // The cut lies between URB 2 and its CMD_UNLINK.
                assert!(seen.0.iter().any(|(seqnum, _)| *seqnum == 2));
            }
        }
    }
}

#[test]
fn an_end_of_stream_at_every_byte_is_clean_only_between_pdus() {
    let mut reference = Pair::new();
    let (bytes, ends) = bytes_of(&mut reference, &stream());
    for length in 0..=bytes.len() {
        for (piece, direct) in [(usize::MAX, true), (usize::MAX, false), (1, true), (33, true)] {
            let mut pair = Pair::with_delivery(Delivery { piece, direct });
            bytes_of(&mut pair, &stream());
            pair.send(&bytes[..length]);
            assert_eq!(pair.end(), None);
            pair.close();
            let expected = match ends.contains(&length) {
                true => SessionEnd::PeerClosed,
                false => SessionEnd::Truncated,
            };
            assert_eq!(pair.end(), Some(&expected), "after {length} bytes");
        }
    }
}
