//! What a URB costs in `wire` and `session` alone, without a kernel: `cargo bench`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use usbip_fast::limits;
use usbip_fast::session::exporter::Exporter;
use usbip_fast::session::importer::{Importer, client_block_bytes};
use usbip_fast::usb::endpoint::EndpointMap;
use usbip_fast::usb::transfer::{Direction, Finished, Submission, TransferFlags, TransferType};
use usbip_fast::wire::urb::{CmdSubmit, HEADER_BYTES, NOT_ISOCHRONOUS, parse_request};
use usbip_fast_native::{Arena, Block};

/// URBs in flight together.
const DEPTH: u32 = 32;

const DEVICE_ID: u32 = 0x0001_0002;

/// Device descriptor, and a configuration with bulk endpoints 0x81 and 0x01.
const DESCRIPTORS: [u8; 18 + 32] = [
    18, 1, 0, 2, 0, 0, 0, 64, 0x25, 0x05, 0xa0, 0xa4, 0, 1, 0, 0, 0, 1, //
    9, 2, 32, 0, 1, 1, 0, 0x80, 50, //
    9, 4, 0, 0, 2, 0xff, 0, 0, 0, //
    7, 5, 0x81, 2, 0, 2, 0, //
    7, 5, 0x01, 2, 0, 2, 0,
];

fn headers(criterion: &mut Criterion) {
    let command = CmdSubmit {
        seqnum: 1,
        device_id: DEVICE_ID,
        direction: Direction::In,
        endpoint: 1,
        transfer_flags: 0,
        buffer_length: 512,
        start_frame: 0,
        number_of_packets: NOT_ISOCHRONOUS,
        interval: 0,
        setup: [0; 8],
    };
    let mut header = [0; HEADER_BYTES];
    criterion.bench_function("wire: write a CMD_SUBMIT and read it", |bencher| {
        bencher.iter(|| {
            black_box(&command).emit(&mut header);
            parse_request(black_box(&header))
        });
    });
}

/// Client, server and a device that answers at once, in turns, with no kernel between them.
struct Loop {
    importer: Importer<Block>,
    exporter: Exporter<Block>,
    arena: Arena,
    buffer: Vec<u8>,
    submission: Submission,
    idle: Vec<Block>,
}

impl Loop {
    fn new(submission: Submission) -> Self {
        let arena = Arena::new(limits::ARENA_BYTES);
        let bytes = client_block_bytes(submission.length, 0);
        let block = |_| Block::from(arena.take(bytes).expect("below the arena's limit"));
        Self {
            importer: Importer::new(DEVICE_ID),
            exporter: Exporter::new(DEVICE_ID, EndpointMap::new(&DESCRIPTORS, 1)),
            idle: (0..DEPTH).map(block).collect(),
            arena,
            buffer: vec![0; limits::SEND_BUFFER_BYTES],
            submission,
        }
    }

    /// All URBs there and back.
    fn turn(&mut self) {
        for (slot, block) in (0..).zip(self.idle.drain(..)) {
            self.importer.submit(Submission { slot, ..self.submission }, block);
        }
        while self.importer.outstanding() > 0 {
            let Self { importer, exporter, arena, buffer, idle, .. } = self;
            let asked = importer.poll_transmit(buffer);
            assert!(asked.block.is_none(), "small URBs only");
            let mut memory = |bytes| arena.take(bytes).map(Block::from);
            exporter.handle_received(None, &buffer[..asked.buffered], &mut memory, Duration::ZERO);
            while let Some((submission, block)) = exporter.poll_submission() {
                let Submission { slot, length, .. } = submission;
                let finished = Finished { slot, status: 0, actual_length: length, error_count: 0 };
                exporter.handle_finished(finished, block);
            }
            let answered = exporter.poll_transmit(buffer);
            assert!(answered.block.is_none(), "small URBs only");
            let taken = importer.handle_received(None, &buffer[..answered.buffered]);
            assert_eq!(taken, answered.buffered);
            idle.extend(std::iter::from_fn(|| importer.poll_finished()).map(|(_, block)| block));
        }
    }
}

fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session: 32 URBs there and back");
    group.throughput(Throughput::Elements(DEPTH.into()));
    for (name, kind, endpoint, direction, length) in [
        ("control IN 18 B", TransferType::Control, 0, Direction::In, 18),
        ("bulk IN 512 B", TransferType::Bulk, 1, Direction::In, 512),
        ("bulk OUT 512 B", TransferType::Bulk, 1, Direction::Out, 512),
    ] {
        let setup = if endpoint == 0 { [0x80, 6, 0, 1, 0, 0, 18, 0] } else { [0; 8] };
        let flags = TransferFlags::default();
        let mut both = Loop::new(Submission {
            slot: 0,
            kind,
            direction,
            endpoint,
            setup,
            length,
            packets: 0,
            flags,
            start_frame: 0,
        });
        group.bench_function(name, |bencher| bencher.iter(|| both.turn()));
    }
    group.finish();
}

criterion_group!(benches, headers, sessions);
criterion_main!(benches);
