//! The machine against a scripted kernel and a helper that the test plays.

use std::sync::mpsc;

use usbip_fast_native::Arena;
use usbip_fast_native::linux::usbfs::{Control, IsoPacket};

use super::super::isochronous::tests::transfer;
use super::super::translate::Request;
use super::*;
use crate::usb::transfer::{TransferFlags, block_bytes};

const NOW: Duration = Duration::from_secs(100);

/// A piece as the machine submitted it, and how it ended.
#[derive(Debug)]
struct FakePiece {
    kind: UrbKind,
    endpoint: u8,
    buffer: std::ops::Range<usize>,
    packets: Vec<IsoPacket>,
    ended: Option<(i32, u32)>,
    is_reaped: bool,
}

#[derive(Debug, Default)]
struct FakeUrbs {
    transfers: Vec<Option<(Block, Vec<FakePiece>)>>,
    /// Pieces still taken before the next is refused with this error.
    refusal: Option<(usize, i32)>,
    /// What a reap says when nothing is there.
    gone: bool,
    capacity: usize,
    calls: usize,
}

impl FakeUrbs {
    /// Ends the oldest piece in flight of a transfer.
    fn end(&mut self, transfer: usize, status: i32, actual_length: u32) {
        let (_, pieces) = self.transfers[transfer].as_mut().expect("in flight");
        let piece = pieces.iter_mut().find(|piece| piece.ended.is_none()).expect("in flight");
        for packet in &mut piece.packets {
            packet.actual_length = if status == 0 { packet.length } else { 0 };
            packet.status = status.cast_unsigned();
        }
        piece.ended = Some((status, actual_length));
    }

    fn pieces(&self, transfer: usize) -> &[FakePiece] {
        &self.transfers[transfer].as_ref().expect("in flight").1
    }
}

impl Urbs for FakeUrbs {
    fn has_room(&self, _: usize) -> bool {
        self.transfers.iter().flatten().count() < self.capacity
    }

    fn begin(&mut self, block: Block) -> TransferId {
        let vacant = self.transfers.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.transfers.len());
        self.transfers.resize_with(self.transfers.len().max(index + 1), || None);
        self.transfers[index] = Some((block, Vec::new()));
        TransferId::from_index(index)
    }

    fn submit(&mut self, id: TransferId, piece: &Piece<'_>) -> Result<(), OsError> {
        self.calls += 1;
        match &mut self.refusal {
            Some((0, error)) => return Err(OsError(*error)),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let (_, pieces) = self.transfers[id.index()].as_mut().expect("begun");
        let packet = |&length| IsoPacket { length, ..IsoPacket::default() };
        pieces.push(FakePiece {
            kind: piece.kind,
            endpoint: piece.endpoint,
            buffer: piece.buffer.clone(),
            packets: piece.packets.iter().map(packet).collect(),
            ended: None,
            is_reaped: false,
        });
        Ok(())
    }

    fn reap(&mut self) -> Result<Option<(TransferId, bool)>, OsError> {
        self.calls += 1;
        for (index, transfer) in self.transfers.iter_mut().enumerate() {
            let Some((_, pieces)) = transfer else { continue };
            let ended = |piece: &&mut FakePiece| piece.ended.is_some() && !piece.is_reaped;
            if let Some(piece) = pieces.iter_mut().find(ended) {
                piece.is_reaped = true;
                let is_last = pieces.iter().all(|piece| piece.is_reaped);
                return Ok(Some((TransferId::from_index(index), is_last)));
            }
        }
        if self.gone { Err(OsError(errno::ENODEV)) } else { Ok(None) }
    }

    fn finish(&mut self, id: TransferId, show: &mut dyn FnMut(&mut Block, Reaped<'_>)) -> Block {
        let (mut block, pieces) = self.transfers[id.index()].take().expect("begun");
        for piece in pieces {
            assert!(piece.is_reaped, "a block comes back when all is reaped");
            let (status, actual_length) = piece.ended.expect("reaped");
            let packets = &piece.packets;
            show(&mut block, Reaped { status, actual_length, error_count: 0, packets });
        }
        block
    }

    fn addresses(&self, id: TransferId, list: &mut Vec<UrbAddress>) {
        let Some((_, pieces)) = &self.transfers[id.index()] else { return };
        let flying = pieces.iter().filter(|piece| !piece.is_reaped);
        list.extend(
            flying.enumerate().map(|(piece, _)| UrbAddress::from_bits(id.index() * 8 + piece)),
        );
    }

    fn in_flight(&self) -> usize {
        let pieces = self.transfers.iter().flatten().flat_map(|(_, pieces)| pieces);
        pieces.filter(|piece| !piece.is_reaped).count()
    }
}

/// A machine and the helper's ends of its channels.
struct Bench {
    machine: Machine<FakeUrbs>,
    jobs: mpsc::Receiver<Job>,
    reports: mpsc::Sender<Report>,
    arena: Arena,
}

impl Bench {
    fn opening() -> Self {
        let (job_sender, jobs) = mpsc::channel();
        let (reports, report_receiver) = mpsc::channel();
        let machine = Machine::new(job_sender, report_receiver);
        Self { machine, jobs, reports, arena: Arena::new(1 << 24) }
    }

    fn open() -> Self {
        let mut bench = Self::opening();
        bench.report(Report::Opened(opened()));
        assert_eq!(bench.machine.state(), DeviceState::Ready);
        assert_eq!(bench.poll(), None);
        bench
    }

    fn report(&mut self, report: Report) {
        self.reports.send(report).expect("the machine listens");
        let make = |_| FakeUrbs { capacity: 16, ..FakeUrbs::default() };
        self.machine.handle_doorbell(NOW + Duration::from_millis(7), make);
    }

    fn urbs(&mut self) -> &mut FakeUrbs {
        self.machine.urbs.as_mut().expect("open")
    }

    fn block(&self, content: &[u8]) -> Block {
        let mut block = Block::from(self.arena.take(content.len()).expect("fits"));
        block.as_mut()[..content.len()].copy_from_slice(content);
        block
    }

    fn submit(&mut self, submission: Submission) {
        let bytes = block_bytes(submission.length, submission.packets);
        let block = self.block(&vec![0; bytes]);
        self.machine.submit(submission, block, NOW);
    }

    fn submit_iso(&mut self, direction: Direction, packets: &[(u32, u32)]) {
        let length = packets.last().map_or(0, |(offset, length)| offset + length);
        let (submission, content) = transfer(direction, length, packets);
        let block = self.block(&content);
        self.machine.submit(Submission { slot: 9, ..submission }, block, NOW);
    }

    fn poll(&mut self) -> Option<(u32, i32, u32)> {
        self.machine.handle_ready(false, NOW);
        let finished = self.machine.poll(NOW)?.finished;
        Some((finished.slot, finished.status, finished.actual_length))
    }

    fn job(&mut self) -> Job {
        self.jobs.try_recv().expect("there is a job")
    }

    fn no_job(&mut self) {
        assert!(self.jobs.try_recv().is_err(), "there is no job");
    }

    /// The helper kills what it is told to; the kernel says -2.
    fn discard(&mut self) -> usize {
        let Job::Discard(list) = self.job() else { panic!("a job to discard") };
        for address in &list {
            let transfer = address.to_bits() / 8;
            if self.urbs().pieces(transfer).iter().any(|piece| piece.ended.is_none()) {
                self.urbs().end(transfer, -errno::ENOENT, 5);
            }
        }
        let count = list.len();
        self.report(Report::Discarded(list));
        count
    }
}

/// What a helper would report; the fake has no use for the node.
fn opened() -> Opened {
    let (_, lane) = Control::open_with_lane("/dev/null".as_ref()).expect("every system has it");
    Opened { lane, capabilities: 0, memory_limit_bytes: 0 }
}

fn bulk(slot: u32) -> Submission {
    Submission {
        slot,
        kind: TransferType::Bulk,
        direction: Direction::In,
        endpoint: 2,
        setup: [0; 8],
        length: 100,
        packets: 0,
        flags: TransferFlags::default(),
        start_frame: 0,
    }
}

fn control(slot: u32, setup: [u8; 8]) -> Submission {
    let kind = TransferType::Control;
    Submission { kind, endpoint: 0, setup, length: u32::from(setup[6]), ..bulk(slot) }
}

const CLEAR_HALT: [u8; 8] = [2, 1, 0, 0, 0x81, 0, 0, 0];

#[test]
fn urbs_go_to_the_kernel_and_come_back_once() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, [0x80, 6, 0, 1, 0, 0, 18, 0]));
    let piece = &bench.urbs().pieces(0)[0];
    assert_eq!((piece.kind, piece.endpoint, piece.buffer.clone()), (UrbKind::Bulk, 0x82, 64..164));
    let piece = &bench.urbs().pieces(1)[0];
    assert_eq!((piece.kind, piece.endpoint, piece.buffer.clone()), (UrbKind::Control, 0, 56..82));
    assert_eq!(bench.poll(), None);
    bench.urbs().end(1, 0, 18);
    bench.urbs().end(0, -errno::EOVERFLOW, 500);
    assert_eq!(bench.poll(), Some((1, -75, 100)), "never above the length");
    assert_eq!(bench.poll(), Some((2, 0, 18)));
    assert_eq!(bench.poll(), None);
    assert!(bench.machine.is_idle());
}

#[test]
fn no_call_is_made_while_the_helper_has_the_node() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, CLEAR_HALT));
    assert!(matches!(bench.job(), Job::Request(Request::ClearHalt(0x81))));
    let calls = bench.urbs().calls;
    bench.submit(bulk(3));
    bench.urbs().end(0, 0, 64);
    assert!(bench.machine.wants_readiness(), "it is not known yet");
    assert_eq!(bench.poll(), None);
    assert!(!bench.machine.wants_readiness(), "readiness is remembered");
    bench.machine.cancel(2, NOW);
    assert_eq!(bench.urbs().calls, calls, "neither submit nor reap");
    bench.report(Report::Done(Ok(())));
    assert_eq!(bench.urbs().pieces(1).len(), 1, "what waited has started");
    assert_eq!(bench.machine.busy_time(Duration::ZERO), Duration::from_millis(7));
    assert_eq!(bench.poll(), Some((2, 0, 0)));
    assert_eq!(bench.poll(), Some((1, 0, 64)));
    assert_eq!(bench.poll(), None);
}

#[test]
fn what_waits_keeps_its_order() {
    let mut bench = Bench::open();
    bench.urbs().capacity = 1;
    bench.submit(bulk(1));
    bench.submit(bulk(2));
    bench.submit(control(3, CLEAR_HALT));
    bench.submit(bulk(4));
    bench.no_job();
    bench.urbs().end(0, 0, 1);
    assert_eq!(bench.poll(), Some((1, 0, 1)));
    assert!(matches!(bench.job(), Job::Request(_)), "the second has started, then the request");
    bench.report(Report::Done(Err(OsError(errno::EPIPE))));
    bench.urbs().end(0, 0, 2);
    assert_eq!(bench.poll(), Some((3, -32, 0)));
    assert_eq!(bench.poll(), Some((2, 0, 2)));
    bench.urbs().end(0, 0, 4);
    assert_eq!(bench.poll(), Some((4, 0, 4)));
}

#[test]
fn cancels_are_batched_and_keep_what_has_arrived() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(bulk(2));
    bench.submit(bulk(3));
    bench.machine.cancel(1, NOW);
    bench.machine.cancel(2, NOW);
    bench.machine.cancel(2, NOW);
    bench.machine.cancel(3, NOW);
    bench.submit(bulk(4));
    bench.machine.cancel(4, NOW);
    assert_eq!(bench.poll(), Some((4, -104, 0)), "it never started");
    assert_eq!(bench.discard(), 1);
    bench.urbs().end(1, 0, 100);
    assert_eq!(bench.discard(), 2, "the others in one go, asked for once each");
    assert_eq!(bench.poll(), Some((1, -104, 5)));
    assert_eq!(bench.poll(), Some((2, 0, 100)), "it won the race");
    assert_eq!(bench.poll(), Some((3, -104, 5)));
    bench.machine.cancel(3, NOW);
    bench.no_job();
}

#[test]
fn a_urb_that_ended_before_its_cancel_was_sent_is_not_killed() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, CLEAR_HALT));
    bench.machine.cancel(1, NOW);
    bench.urbs().end(0, 0, 100);
    let Job::Request(_) = bench.job() else { panic!("the request comes first") };
    bench.report(Report::Done(Ok(())));
    assert_eq!(bench.discard(), 1, "it has not been reaped yet");
    assert_eq!(bench.poll(), Some((2, 0, 0)));
    assert_eq!(bench.poll(), Some((1, 0, 100)));
    bench.no_job();
}

#[test]
fn urbs_killed_by_a_request_say_that_their_endpoint_went() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, [1, 11, 1, 0, 0, 0, 0, 0]));
    bench.urbs().end(0, -errno::ENOENT, 0);
    bench.report(Report::Done(Ok(())));
    assert_eq!(bench.poll(), Some((2, 0, 0)));
    assert_eq!(bench.poll(), Some((1, -108, 0)));
}

#[test]
fn long_isochronous_urbs_are_split_and_answered_once() {
    let mut bench = Bench::open();
    let packets: Vec<_> = (0..300).map(|index| (index * 16, 10)).collect();
    bench.submit_iso(Direction::In, &packets);
    let buffers: Vec<_> = bench.urbs().pieces(0).iter().map(|piece| piece.buffer.clone()).collect();
    assert_eq!(buffers, [64..1344, 1344..2624, 2624..3064], "without gaps");
    bench.urbs().end(0, 0, 1280);
    bench.urbs().end(0, -errno::EXDEV, 0);
    assert_eq!(bench.poll(), None, "the last piece is missing");
    bench.urbs().end(0, 0, 440);
    bench.machine.handle_ready(false, NOW);
    let finished = bench.machine.poll(NOW).expect("all pieces are back").finished;
    assert_eq!((finished.status, finished.actual_length), (-18, 1720));
    assert_eq!(finished.error_count, 128);
}

#[test]
fn pieces_before_a_refused_one_are_killed() {
    let mut bench = Bench::open();
    bench.urbs().refusal = Some((2, errno::ENOMEM));
    let packets: Vec<_> = (0..300).map(|index| (index * 10, 10)).collect();
    bench.submit_iso(Direction::Out, &packets);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.discard(), 2);
    bench.machine.handle_ready(false, NOW);
    let finished = bench.machine.poll(NOW).expect("answered").finished;
    assert_eq!((finished.slot, finished.status), (9, -12));
    assert_eq!((finished.actual_length, finished.error_count), (0, 300));
    assert_eq!(bench.poll(), None, "once");
}

#[test]
fn a_urb_without_packets_or_that_is_refused_is_answered_at_once() {
    let mut bench = Bench::open();
    bench.submit_iso(Direction::In, &[]);
    assert_eq!(bench.poll(), Some((9, 0, 0)));
    bench.urbs().refusal = Some((0, errno::EMSGSIZE));
    bench.submit_iso(Direction::In, &[(0, 100)]);
    assert_eq!(bench.poll(), Some((9, -90, 0)));
    bench.urbs().refusal = Some((0, errno::ENOENT));
    bench.submit(control(1, [0x81, 0, 0, 0, 9, 0, 2, 0]));
    assert_eq!(bench.poll(), Some((1, -32, 0)));
    assert_eq!(bench.machine.state(), DeviceState::Ready, "an error ends nothing");
}

#[test]
fn everything_is_answered_when_the_device_goes() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, CLEAR_HALT));
    bench.submit(bulk(3));
    assert!(matches!(bench.job(), Job::Request(_)));
    bench.report(Report::Done(Err(OsError(errno::ENODEV))));
    assert_eq!(bench.machine.state(), DeviceState::Gone);
    assert_eq!(bench.poll(), Some((2, -108, 0)));
    assert_eq!(bench.poll(), Some((3, -108, 0)));
    bench.urbs().gone = true;
    assert_eq!(bench.poll(), None, "the kernel still has the first");
    assert_eq!(bench.machine.deadline(), Some(NOW + GONE_RETRY));
    bench.urbs().end(0, -errno::ESHUTDOWN, 0);
    bench.machine.handle_deadline(NOW + GONE_RETRY);
    assert_eq!(bench.machine.poll(NOW).map(|urb| urb.finished.status), Some(-108));
    bench.machine.handle_deadline(NOW + 2 * GONE_RETRY);
    assert_eq!(bench.machine.deadline(), None, "nothing is left to wait for");
    bench.submit(bulk(4));
    assert_eq!(bench.poll(), Some((4, -19, 0)));
    bench.machine.close(NOW);
    assert!(matches!(bench.job(), Job::Restore));
}

#[test]
fn a_close_kills_all_then_restores() {
    let mut bench = Bench::open();
    bench.submit(bulk(1));
    bench.submit(control(2, CLEAR_HALT));
    bench.submit(bulk(3));
    bench.machine.close(NOW);
    bench.machine.close(NOW);
    assert_eq!(bench.machine.state(), DeviceState::Closing);
    assert_eq!(bench.poll(), Some((3, -104, 0)));
    let Job::Request(_) = bench.job() else { panic!("the request was under way") };
    bench.report(Report::Done(Ok(())));
    assert_eq!(bench.poll(), Some((2, 0, 0)));
    assert_eq!(bench.discard(), 1);
    bench.no_job();
    assert_eq!(bench.poll(), Some((1, -104, 5)));
    assert!(matches!(bench.job(), Job::Restore), "when nothing is with the kernel");
    assert!(bench.machine.take_urbs().is_none(), "not closed yet");
    bench.report(Report::Restored);
    assert_eq!(bench.machine.state(), DeviceState::Closed);
    assert!(bench.machine.take_urbs().is_some());
}

#[test]
fn a_close_during_opening_waits_for_it() {
    let mut bench = Bench::opening();
    bench.machine.close(NOW);
    bench.no_job();
    bench.report(Report::Opened(opened()));
    assert!(matches!(bench.job(), Job::Restore));
    bench.report(Report::Restored);
    assert_eq!(bench.machine.state(), DeviceState::Closed);

    let mut bench = Bench::opening();
    bench.machine.close(NOW);
    bench.report(Report::Refused("no".to_owned()));
    assert_eq!(bench.machine.state(), DeviceState::Closed);

    let mut bench = Bench::opening();
    bench.report(Report::Refused("no".to_owned()));
    assert_eq!(bench.machine.state(), DeviceState::Failed("no".to_owned()));
}

#[test]
fn a_helper_that_hangs_or_died_does_not_hold_the_session() {
    let mut bench = Bench::open();
    bench.machine.close(NOW);
    let limit = bench.machine.deadline().expect("closing has a limit");
    assert_eq!(limit, NOW + CLOSE_LIMIT);
    bench.machine.handle_deadline(limit);
    assert_eq!(bench.machine.state(), DeviceState::Closed);

    let Bench { mut machine, jobs, arena, .. } = Bench::open();
    drop(jobs);
    let block = arena.take(200).expect("fits").into();
    machine.submit(control(1, CLEAR_HALT), block, NOW);
    assert_eq!(machine.poll(NOW).map(|urb| urb.finished.status), Some(-108));
    assert_eq!(machine.state(), DeviceState::Gone);
    machine.close(NOW);
    assert_eq!(machine.state(), DeviceState::Closed);
}
