//! What happens where io_uring is refused: a seccomp filter as containers have it, in a process of
//! its own, because a filter cannot be taken off again.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of native")]

use std::process::Command;

use usbip_fast_native::backend::{self, Backend, Options, Refusal};
use usbip_fast_native::linux::refuse::refuse_io_uring;

/// Set in the process that lives under the filter.
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
