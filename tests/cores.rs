//! A server on two cores: where sessions live, and that their URBs stay there.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "the server is a process of its own")]
#![allow(clippy::disallowed_types, reason = "as above")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use usbip_fast::attach::{self, Patience, Server};
use usbip_fast::host::userspace::Client;
use usbip_fast::reactor::select::Choice;
use usbip_fast_native::affinity;
use usbip_fast_native::client::Family;

const PATIENCE: Duration = Duration::from_secs(10);

struct Served {
    child: Child,
    lines: BufReader<ChildStderr>,
    server: Server,
    /// What it logged until it listened.
    start: String,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
            .args(["serve", "--listen", "127.0.0.1:0", "--simulate"])
            .arg(["zero:pace=none"; 4].join(","))
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut start = String::new();
        let tcp_port = loop {
            let from = start.len();
            assert!(lines.read_line(&mut start).expect("readable") > 0, "it ended: {start}");
            if let Some((_, port)) = start[from..].trim().rsplit_once("listening at 127.0.0.1:") {
                break port.parse().expect("a port");
            }
        };
        let server = Server { host: "127.0.0.1".to_owned(), tcp_port, family: Family::Any };
        Self { child, lines, server, start }
    }

    fn client(&self, bus_id: &str) -> Client {
        attach::client(&self.server, bus_id, Choice::Auto, &Patience::default()).expect("exported")
    }

    /// As [`client`](Self::client), of a device that another client may still be letting go of.
    fn client_when_free(&self, bus_id: &str) -> Client {
        let end = Instant::now() + PATIENCE;
        loop {
            let patience = Patience::default();
            match attach::client(&self.server, bus_id, Choice::Auto, &patience) {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args([signal, &id]).status().expect("kill runs");
        assert!(told.success());
    }

    /// Ends it as an operator would; returns its log.
    fn stop(mut self) -> String {
        self.signal("-TERM");
        let mut log = std::mem::take(&mut self.start);
        self.lines.read_to_string(&mut log).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ends in order: {status}\n{log}");
        log
    }

    /// The cores that the thread of a name may run on, as the kernel lists them.
    fn cores_of(&self, name: &str) -> Option<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let of = |file: &str, task: &std::path::Path| std::fs::read_to_string(task.join(file));
        for task in std::fs::read_dir(tasks).ok()? {
            let task = task.ok()?.path();
            if of("comm", &task).ok()?.trim() == name {
                let status = of("status", &task).ok()?;
                let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                return Some(line?.trim().to_owned());
            }
        }
        None
    }
}

/// A test that fails leaves no server behind.
impl Drop for Served {
    fn drop(&mut self) {
        // Harmless if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind `name=` in the lines that contain `what`.
fn numbers(log: &str, what: &str, name: &str) -> Vec<u64> {
    let number = |line: &str| {
        let (_, text) = line.split_once(&format!(" {name}="))?;
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    log.lines().filter(|line| line.contains(what)).filter_map(number).collect()
}

fn plain(log: &str) -> String {
    // Without the colours of a terminal.
    let mut text = String::new();
    let mut rest = log;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        text.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    text + rest
}

#[test]
fn sessions_spread_over_the_cores_and_their_urbs_stay_there() {
    const TRANSFERS: u64 = 500;
    let served = Served::start(&["--cores", "2"]);
    let mut clients: Vec<_> = (1..=4).map(|n| served.client(&format!("sim-{n}"))).collect();
    for _ in 0..TRANSFERS {
        for client in &mut clients {
            assert_eq!(client.bulk_in(0x81, &mut [0; 512], PATIENCE).expect("a source"), 512);
        }
    }
    if affinity::cores() >= 2 {
        let first = served.cores_of("usbip-fast").expect("core 0 is the main thread");
        let second = served.cores_of("usbip-core-1").expect("core 1 has a thread");
        assert!(!first.contains([',', '-']) && !second.contains([',', '-']), "{first} {second}");
        assert_ne!(first, second, "each has a core to itself");
    }
    drop(clients);
    let log = plain(&served.stop());
    assert_eq!(numbers(&log, " import", "core"), [0, 1, 0, 1], "{log}");
    let urbs: u64 = numbers(&log, "session ended", "urbs").iter().sum();
    assert!(urbs >= 4 * TRANSFERS, "{log}");
    let operations = numbers(&log, "core stopped", "operations");
    assert!(operations.iter().all(|&count| count >= TRANSFERS), "both cores worked: {log}");
    let messages: u64 = numbers(&log, "core stopped", "messages").iter().sum();
    // Two sessions handed over and ended, the word to stop and its answer.
    assert!((4..=6).contains(&messages), "{messages} messages for {urbs} URBs: {log}");
}

#[test]
fn more_cores_than_there_are_cost_a_line_not_two_each() {
    let served = Served::start(&["--cores", "40"]);
    drop(served.client("sim-1"));
    let log = plain(&served.stop());
    let lines = |what| log.lines().filter(|line| line.contains(what)).count();
    let here = affinity::cores();
    if here < 40 {
        assert_eq!(lines("40 cores are asked for"), 1, "{log}");
        assert_eq!(lines("pinned"), 0, "{log}");
    }
    assert_eq!(lines("reactor: "), 1, "{log}");
    assert_eq!(lines("core stopped"), here.clamp(8, 40), "{log}");
    let seconds = log.lines().find_map(|line| line.split_once(" seconds=")).expect("a session").1;
    let seconds = seconds.split(' ').next().expect("a number");
    let digits = seconds.split_once('.').map_or(0, |(_, digits)| digits.len());
    assert!((1..=3).contains(&digits), "milliseconds: {seconds}");
}

#[test]
fn only_signals_that_say_so_stop_it() {
    let served = Served::start(&[]);
    served.signal("-USR1");
    served.signal("-HUP");
    drop(served.client("sim-1"));
    let log = plain(&served.stop());
    assert_eq!(log.matches("the server stops").count(), 1, "{log}");
}

#[test]
fn a_session_goes_where_the_fewest_are() {
    let served = Served::start(&["--cores", "2"]);
    let first = served.client("sim-1");
    let second = served.client("sim-2");
    drop(second);
    // Core 1 is free again as soon as its device is, which takes the server a moment to see.
    let third = served.client_when_free("sim-2");
    drop((first, third));
    let log = plain(&served.stop());
    assert_eq!(numbers(&log, " import", "core"), [0, 1, 1], "{log}");
}

#[test]
fn a_busy_core_serves_as_any_other() {
    for reactor in ["auto", "epoll"] {
        let served = Served::start(&["--busy-poll", "200", "--reactor", reactor]);
        let mut client = served.client("sim-1");
        for _ in 0..200 {
            client.bulk_in(0x81, &mut [0; 512], PATIENCE).expect("a source");
        }
        drop(client);
        served.stop();
    }
}

#[test]
fn realtime_without_the_right_says_what_to_type() {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--", env!("CARGO_BIN_EXE_usbip-fast")])
        .args(["serve", "--simulate", "zero", "--listen", "127.0.0.1:0", "--realtime"])
        .output()
        .expect("setpriv is a part of every Linux system");
    assert_eq!(output.status.code(), Some(1));
    let text = plain(&String::from_utf8_lossy(&output.stderr));
    let line = text.lines().last().expect("a line");
    assert!(line.contains("--realtime is refused: SCHED_FIFO takes CAP_SYS_NICE"), "{text}");
    assert!(line.contains("type: sudo setcap cap_sys_nice"), "{text}");
}
