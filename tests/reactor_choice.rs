//! `auto` where io_uring is refused, under a real seccomp filter: epoll is taken, and the line for
//! the log says why and what to type.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "starts itself again, since a filter stays")]

use std::process::Command;

use usbip_fast::reactor::select::{self, Choice};
use usbip_fast_native::backend::Options;
use usbip_fast_native::linux::refuse::refuse_io_uring;

/// Set in the process that lives under the filter.
const FILTERED: &str = "USBIP_FAST_TEST_FILTERED";

/// EPERM, as Docker's default profile answers.
const NOT_PERMITTED: i32 = 1;

#[test]
fn auto_falls_back_to_epoll_and_says_why() {
    if std::env::var_os(FILTERED).is_none() {
        let program = std::env::current_exe().expect("a program has a path");
        let output = Command::new(program)
            .args(["--nocapture", "--test-threads=1"])
            .env(FILTERED, "yes")
            .output()
            .expect("it can be started again");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    refuse_io_uring(NOT_PERMITTED);
    let options = Options::default();
    let (reactor, selection) = select::open(Choice::Auto, &options).expect("epoll is left");
    assert_eq!((reactor.name(), selection.name), ("epoll", "epoll"));
    let line = selection.to_string();
    assert!(line.contains("io-uring is refused") && line.contains("to allow it: "), "{line}");
    let error = select::open(Choice::IoUring, &options).err().expect("it was asked for by name");
    assert!(error.to_string().contains("to allow it: "), "{error}");
}
