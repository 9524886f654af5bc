//! `tools/test` itself: it must see every failure, count right, and go on after a bad step.

#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "writes steps for the script to run")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A run of the script over steps of the test's own.
struct Run {
    output: Output,
    folder: PathBuf,
}

impl Run {
    /// Writes `steps` to a file and runs them with more arguments and variables.
    fn new(name: &str, steps: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("runner-{name}"));
        std::fs::create_dir_all(&folder).expect("the folder of temporary files is writable");
        let file = folder.join("steps.sh");
        std::fs::write(&file, steps).expect("a file can be written there");
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/test"))
            .arg("--steps")
            .arg(&file)
            .args(arguments)
            .env("USBIP_FAST_TEST_LOGS", folder.join("logs"))
            .env_remove("FULL")
            .env_remove("USBIP_FAST_TEST_BUDGET")
            .envs(variables.iter().copied())
            .output()
            .expect("bash is there");
        Self { output, folder }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The closing line and the exit code.
    #[track_caller]
    fn assert_ends(&self, line: &str, code: i32) {
        let text = self.text();
        assert_eq!(text.lines().last(), Some(line), "{text}");
        assert_eq!(self.output.status.code(), Some(code), "{text}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn counts_of_cargo_of_jobs_and_of_mute_steps_add_up() {
    let steps = r#"
        plan() { step cargo 9; step job 9; step mute 9; step named-x 9; }
        run_cargo() {
            echo "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
            echo "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out"
        }
        run_job() { echo "row passed"; echo "3 passed, 0 failed"; }
        run_mute() { :; }
        run_named() { [ "$1" = x ]; }
    "#;
    Run::new("sum", steps, &[], &[]).assert_ends("12 passed, 0 failed", 0);
}

#[test]
fn a_failing_step_is_named_shown_and_does_not_stop_the_others() {
    let steps = r#"
        plan() { step bad 9; step counted 9; step after 9; }
        run_bad() { echo "the cause"; return 3; }
        run_counted() { echo "4 passed, 2 failed"; return 1; }
        run_after() { echo "1 passed, 0 failed"; }
    "#;
    let run = Run::new("bad", steps, &[], &[]);
    run.assert_ends("5 passed, 3 failed", 1);
    let text = run.text();
    for expected in ["| the cause", "failed: bad", "failed: counted", "after "] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn failures_reported_with_exit_code_zero_are_red() {
    let steps = "plan() { step liar 9; }\nrun_liar() { echo '1 passed, 1 failed'; }";
    Run::new("liar", steps, &[], &[]).assert_ends("1 passed, 1 failed", 1);
}

#[test]
fn a_step_that_hangs_is_ended_at_its_limit() {
    let steps =
        "plan() { step hang 1; step after 9; }\nrun_hang() { sleep 60; }\nrun_after() { :; }";
    let run = Run::new("hang", steps, &[], &[]);
    run.assert_ends("1 passed, 1 failed", 1);
    assert!(run.text().contains("ended after its limit of 1 s"), "{}", run.text());
}

#[test]
fn what_is_left_out_for_time_is_red() {
    let steps = "plan() { step slow 9; step late 9; }\nrun_slow() { sleep 60; }\nrun_late() { :; }";
    let run = Run::new("late", steps, &[], &[("USBIP_FAST_TEST_BUDGET", "1")]);
    run.assert_ends("0 passed, 2 failed", 1);
    assert!(run.text().contains("failed: late (left out for time)"), "{}", run.text());
}

#[test]
fn what_could_not_run_is_a_skip_and_red_when_full() {
    let steps = r#"
        plan() { step part 9; step none 9; }
        run_part() {
            not_run "iso on this host" "no controller"
            echo "2 passed, 0 failed, 1 skipped"
        }
        run_none() { echo "NOT RUN guest: no kernel"; }
    "#;
    let run = Run::new("skip", steps, &[], &[]);
    run.assert_ends("2 passed, 0 failed, 2 skipped", 0);
    assert!(run.text().contains("\nnot run: iso on this host: no controller\n"), "{}", run.text());
    let full = Run::new("full", steps, &["--full"], &[]);
    full.assert_ends("2 passed, 0 failed, 2 skipped", 1);
}

#[test]
fn ignored_tests_of_cargo_are_skips() {
    let steps = "plan() { step cargo 9; }\n\
        run_cargo() { echo 'test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured'; }";
    Run::new("ignored", steps, &["--full"], &[]).assert_ends("1 passed, 0 failed, 1 skipped", 1);
}

#[test]
fn programs_that_count_for_themselves_are_believed() {
    let steps = r#"
        plan() { step own 9; }
        run_own() {
            echo "epoll: accept: passed"
            echo "io-uring: not run: refused (EPERM)"
            echo "contract: 30 passed, 0 failed, 1 backends not run"
            echo "a line that says 5 passed, 5 failed"
        }
    "#;
    let run = Run::new("own", steps, &[], &[]);
    run.assert_ends("30 passed, 0 failed, 1 skipped", 0);
    assert!(run.text().contains("\nnot run: io-uring: refused (EPERM)\n"), "{}", run.text());
}

#[test]
fn a_run_without_any_test_is_red() {
    let steps = "plan() { step none 9; }\nrun_none() { not_run all 'nothing is there'; }";
    Run::new("none", steps, &[], &[]).assert_ends("0 passed, 0 failed, 1 skipped", 1);
}

#[test]
fn only_chooses_and_an_unknown_name_is_a_usage_error() {
    let steps =
        "plan() { step a-1 9; step a-2 9; step b 9; }\nrun_a() { :; }\nrun_b() { return 1; }";
    let run = Run::new("only", steps, &["--only", "a-*"], &[]);
    run.assert_ends("2 passed, 0 failed", 0);
    let unknown = Run::new("unknown", steps, &["--only", "c"], &[]);
    assert_eq!(unknown.output.status.code(), Some(2), "{}", unknown.text());
}

#[test]
fn list_runs_nothing() {
    let steps = "plan() { step a 7; }\nrun_a() { touch \"$MARK\"; }";
    let mark = concat!(env!("CARGO_TARGET_TMPDIR"), "/runner-mark");
    let run = Run::new("list", steps, &["--list"], &[("MARK", mark)]);
    assert_eq!(run.text().split_whitespace().collect::<Vec<_>>(), ["a", "7"]);
    assert!(!std::path::Path::new(mark).exists());
}
