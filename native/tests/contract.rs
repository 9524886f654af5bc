//! The reactor's contract on the backends of this system.
//!
//! Runs without the test harness, so that the compiled program can be carried elsewhere (a guest
//! with an older kernel) and says there what it did. Arguments: names of backends, parts of the
//! names of checks.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of native")]

use std::alloc::{GlobalAlloc, Layout, System as Heap};
use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use usbip_fast_native::backend::{self, Backend, Options, Refusal, RingMode};
use usbip_fast_native::contract::{System, checks};
use usbip_fast_native::process;
use usbip_fast_native::reactor::Reactor;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { Heap.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { Heap.dealloc(pointer, layout) }
    }
}

fn allocations() -> Option<u64> {
    Some(ALLOCATIONS.with(Cell::get))
}

/// Backends under the names that the arguments know them by.
/// Name, backend, and how to open one.
type Subject = (&'static str, Backend, fn() -> Box<dyn Reactor>);

const SUBJECTS: [Subject; 11] = [
    ("io-uring", Backend::IoUring, || open(Backend::IoUring, Options::default())),
    ("io-uring-registered", Backend::IoUring, || {
        open(Backend::IoUring, Options { registered: true, ..Options::default() })
    }),
    // So short a queue that nearly everything goes by the backlog.
    ("io-uring-short", Backend::IoUring, || {
        open(Backend::IoUring, Options { queue_entries: 4, ..Options::default() })
    }),
    // As kernels before 6.1 and before 5.19 have it.
    ("io-uring-cooperative", Backend::IoUring, || open_mode(RingMode::Cooperative, Duration::ZERO)),
    ("io-uring-plain", Backend::IoUring, || open_mode(RingMode::Interrupting, Duration::ZERO)),
    ("io-uring-busy", Backend::IoUring, || open_mode(RingMode::Deferred, SPIN)),
    ("io-uring-cooperative-busy", Backend::IoUring, || open_mode(RingMode::Cooperative, SPIN)),
    ("io-uring-plain-busy", Backend::IoUring, || open_mode(RingMode::Interrupting, SPIN)),
    ("epoll", Backend::Epoll, || open(Backend::Epoll, Options::default())),
    ("epoll-busy", Backend::Epoll, || {
        open(Backend::Epoll, Options { spin: SPIN, ..Options::default() })
    }),
    ("kqueue", Backend::Kqueue, || open(Backend::Kqueue, Options::default())),
];

/// Long enough that most completions are found by looking, short enough to sleep at times.
const SPIN: Duration = Duration::from_micros(50);

fn open_mode(ring_mode: RingMode, spin: Duration) -> Box<dyn Reactor> {
    open(Backend::IoUring, Options { ring_mode, spin, ..Options::default() })
}

fn open(backend: Backend, options: Options) -> Box<dyn Reactor> {
    backend::open(backend, &options).expect("it was there a moment ago").reactor
}

fn main() -> ExitCode {
    process::raise_descriptor_limit(4096).expect("limits are readable");
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_subject = |word: &str| SUBJECTS.iter().any(|(name, ..)| *name == word);
    let (names, parts): (Vec<_>, Vec<_>) = words.iter().partition(|word| is_subject(word));
    let (mut failed, mut passed) = (0, 0);
    for (name, backend, open) in SUBJECTS {
        if !names.is_empty() && !names.iter().any(|word| *word == name) {
            continue;
        }
        match backend::open(backend, &Options::default()) {
            Ok(opened) => println!("{name}: {}", opened.detail),
            Err(Refusal::NotHere(_)) => continue,
            Err(refusal) => {
                println!("{name}: not run: {refusal}");
                continue;
            }
        }
        for check in checks() {
            if !parts.is_empty() && !parts.iter().any(|part| check.name.contains(part.as_str())) {
                continue;
            }
            let ground = System { open, allocations };
            let result = std::panic::catch_unwind(|| (check.run)(&ground));
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{name}: {}: {word}", check.name);
            if result.is_ok() { passed += 1 } else { failed += 1 }
        }
    }
    println!("contract: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
