//! What happens where the kernel refuses: io_uring by a seccomp filter as containers have it,
//! locked memory and priorities by limits. Each in a process of its own, because neither can be
//! taken off again.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of native")]

use std::process::Command;
use std::time::Duration;

use usbip_fast_native::backend::{self, Backend, Options, Refusal};
use usbip_fast_native::linux::refuse::refuse_io_uring;
use usbip_fast_native::reactor::Notice;
use usbip_fast_native::{Arena, Block, Op, OsError, Piece, Token, clock, realtime, socket};

/// Set in the process that lives under the filter, or the limits.
const FILTERED: &str = "USBIP_FAST_TEST_FILTERED";

/// Runs the test `name` of this program again, as the filtered process, and returns what it says.
fn under_filter(name: &str) {
    let program = std::env::current_exe().expect("a program has a path");
    let output = Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(FILTERED, "yes")
        .output()
        .expect("it can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

fn is_filtered() -> bool {
    std::env::var_os(FILTERED).is_some()
}

#[test]
fn a_filter_is_named_and_epoll_still_opens() {
    if !is_filtered() {
        return under_filter("a_filter_is_named_and_epoll_still_opens");
    }
    refuse_io_uring(libc::EPERM);
    let refusal = backend::open(Backend::IoUring, &Options::default()).err().expect("filtered");
    let Refusal::Kernel { reason, remedy, .. } = &refusal else { panic!("{refusal}") };
    // A kernel may be hardened by its sysctl besides; that is then the nearer cause.
    assert!(reason.contains("seccomp") || reason.contains("io_uring_disabled"), "{reason}");
    assert!(remedy.is_some());
    let opened = backend::open(Backend::Epoll, &Options::default()).expect("epoll opens");
    assert_eq!(opened.reactor.name(), "epoll");
}

#[test]
fn a_kernel_without_io_uring_has_no_remedy() {
    if !is_filtered() {
        return under_filter("a_kernel_without_io_uring_has_no_remedy");
    }
    refuse_io_uring(libc::ENOSYS);
    let refusal = backend::open(Backend::IoUring, &Options::default()).err().expect("filtered");
    let text = refusal.to_string();
    assert_eq!(text, "io-uring is refused: this kernel has no io_uring");
    assert!(matches!(refusal, Refusal::Kernel { remedy: None, .. }));
}

/// Takes all capabilities from the thread, and nearly all memory that it may lock.
fn forbid_locked_memory() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: the version says that three words for each of two sets are read; 0 is this thread.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0);
    let little = libc::rlimit { rlim_cur: 64 * 1024, rlim_max: 64 * 1024 };
    // SAFETY: the limit is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const little) }, 0);
}

#[test]
fn memory_that_may_not_be_locked_is_used_unregistered() {
    if !is_filtered() {
        return under_filter("memory_that_may_not_be_locked_is_used_unregistered");
    }
    forbid_locked_memory();
    let options = Options { registered: true, ..Options::default() };
    let mut reactor = match backend::open(Backend::IoUring, &options) {
        Ok(opened) => opened.reactor,
        Err(refusal) => return println!("not run: {refusal}"),
    };
    let (one, two) = socket::pair().expect("a pair");
    let arena = Arena::new(64 * 1024 * 1024);
    for round in 0..3u8 {
        let piece = |byte: u8| {
            let mut block = Block::from(arena.take(4096).expect("room"));
            block.as_mut()[..4096].fill(byte);
            [Some(Piece { block, range: 0..4096 }), None]
        };
        let (sending, receiving) = (Token::new(1, 0, 1), Token::new(1, 0, 2));
        let send = Op::Send { socket: one.clone(), pieces: piece(round), quiet: false };
        reactor.submit(send, sending);
        reactor.submit(Op::Receive { socket: two.clone(), pieces: piece(0xee) }, receiving);
        let mut completions = Vec::new();
        while completions.len() < 2 {
            reactor.turn(Some(clock::now() + Duration::from_secs(5)), &mut completions);
        }
        for completion in completions {
            let token = completion.token;
            assert!(completion.moved().expect("it works all the same") > 0, "{token:?}");
            let piece = completion.pieces.into_iter().flatten().next().expect("the memory");
            assert_eq!(piece.block.as_ref()[0], round);
        }
    }
    let notice = reactor.take_notice().expect("something to tell");
    assert_eq!(notice, Notice::RegistrationRefused(OsError(libc::ENOMEM)));
    assert_eq!(reactor.take_notice(), None, "told once");
}

#[test]
fn without_rights_nothing_is_locked_and_nothing_runs_first() {
    if !is_filtered() {
        return under_filter("without_rights_nothing_is_locked_and_nothing_runs_first");
    }
    forbid_locked_memory();
    let no_priority = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_RTPRIO, &raw const no_priority) }, 0);
    assert_eq!(realtime::run_first(20), Err(OsError(libc::EPERM)));
    assert_eq!(realtime::lock_memory(1 << 20), Err(OsError(libc::ENOMEM)));
    // What is not locked is not limited either.
    assert_eq!(vec![1u8; 4 << 20].iter().map(|&byte| u32::from(byte)).sum::<u32>(), 4 << 20);
}
