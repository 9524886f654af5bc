//! The reactor's contract on the backends of this system.
//!
//! Runs without the test harness, so that the compiled program can be carried elsewhere (a guest
//! with an older kernel) and says there what it did. Arguments: names of backends, parts of names of
//! checks.

use std::alloc::{GlobalAlloc, Layout, System as Heap};
use std::cell::Cell;
use std::process::ExitCode;

use usbip_fast_native::contract::{System, checks};
use usbip_fast_native::reactor::Reactor;
use usbip_fast_native::{linux, process};

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

type Backend = (&'static str, fn() -> Box<dyn Reactor>);

const BACKENDS: [Backend; 4] = [
    ("io-uring", || uring(linux::uring::Options::default())),
    ("io-uring-registered", || {
        uring(linux::uring::Options { registered: true, ..linux::uring::Options::default() })
    }),
    // So short a queue that nearly everything goes by the backlog.
    ("io-uring-short", || {
        uring(linux::uring::Options { queue_entries: 4, ..linux::uring::Options::default() })
    }),
    ("epoll", || linux::epoll::open().expect("epoll works everywhere")),
];

fn uring(options: linux::uring::Options) -> Box<dyn Reactor> {
    linux::uring::open(options).expect("io_uring was there a moment ago").0
}

fn main() -> ExitCode {
    process::raise_descriptor_limit(4096).expect("limits are readable");
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let named = |name: &str| words.iter().any(|word| word == name);
    let any_named = BACKENDS.iter().any(|(name, _)| named(name));
    let parts: Vec<&String> =
        words.iter().filter(|word| BACKENDS.iter().all(|(name, _)| name != word)).collect();
    let (mut failed, mut passed, mut skipped) = (0, 0, 0);
    for (name, open) in BACKENDS.into_iter().filter(|(name, _)| !any_named || named(name)) {
        if name.starts_with("io-uring") {
            match linux::uring::open(linux::uring::Options::default()) {
                Ok((_, mode)) => println!("{name}: {mode}"),
                Err(refused) => {
                    println!("{name}: not run: {refused}");
                    skipped += 1;
                    continue;
                }
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
    println!("contract: {passed} passed, {failed} failed, {skipped} backends not run");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
