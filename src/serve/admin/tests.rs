//! The admin socket on a reactor, with clients of every kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use usbip_fast_native::backend::Options;
use usbip_fast_native::{Arena, Reactor, clock};

use super::*;
use crate::reactor::select::{self, Choice};

/// An admin socket with its turn-by-turn owner, as core 0 is.
struct Bench {
    admin: Admin,
    reactor: Box<dyn Reactor>,
    arena: Arena,
    path: PathBuf,
    /// Added to the clock.
    ahead: Duration,
    rounds: u64,
}

impl Bench {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("admin-{name}-{}", std::process::id()));
        let listener = LocalListener::open(&path).expect("free");
        let (reactor, _) = select::open(Choice::Auto, &Options::default()).expect("a reactor");
        let arena = Arena::new(limits::ARENA_BYTES);
        let admin = Admin::new(listener);
        Self { admin, reactor, arena, path, ahead: Duration::ZERO, rounds: 0 }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a time limit");
        BufReader::new(stream)
    }

    /// A turn; rounds are answered at once.
    fn turn(&mut self) {
        let mut completions = Vec::new();
        let now = clock::now();
        self.reactor.turn(Some(now + Duration::from_millis(2)), &mut completions);
        let now = clock::now() + self.ahead;
        let mut io = Io { reactor: &mut *self.reactor, arena: &self.arena, now };
        for completion in completions {
            self.admin.handle(completion, &mut io);
        }
        self.admin.settle(&mut io);
        while let Some((key, question)) = self.admin.take_question() {
            self.admin.answer(key, format!("\"{question:?}\"\n").into_bytes(), &mut io);
        }
        if let Some(number) = self.admin.begin_round(1, now) {
            self.rounds += 1;
            let urbs = self.rounds;
            self.admin.handle_report(number, CoreReport { urbs, ..CoreReport::default() }, vec![]);
        }
        if self.admin.is_round_over(now) {
            self.admin.finish_round(ServerReport::default(), &mut io);
        }
    }

    /// Turns until a client has a line; an empty one is the end.
    fn answer(&mut self, client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        for _ in 0..2000 {
            self.turn();
            match client.read_line(&mut line) {
                Ok(_) => return line,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        panic!("no answer");
    }

    fn ask(&mut self, client: &mut BufReader<UnixStream>, line: &str) -> serde_json::Value {
        client.get_mut().write_all(line.as_bytes()).expect("it is read");
        serde_json::from_str(&self.answer(client)).expect("JSON")
    }
}

#[test]
fn questions_are_answered_in_order_and_mistakes_end_nothing() {
    let mut bench = Bench::new("order");
    let mut client = bench.connect();
    let reply = bench.ask(&mut client, "{\"v\":1,\"cmd\":\"stats\"}\n");
    assert_eq!((&reply["v"], &reply["reply"]), (&1.into(), &"stats".into()));
    assert_eq!(reply["cores"][0]["urbs"], 1);
    // Three in one write, the one in the middle garbage, the last one cut in two.
    let text = "{\"cmd\":\"stats\"}\n\u{1}\u{2}garbage\n{\"cmd\":\"sta";
    assert_eq!(bench.ask(&mut client, text)["cores"][0]["urbs"], 2);
    let refusal: serde_json::Value =
        serde_json::from_str(&bench.answer(&mut client)).expect("JSON");
    assert_eq!(refusal["reply"], "error");
    assert_eq!(bench.ask(&mut client, "ts\"}\n")["cores"][0]["urbs"], 3);
    let unknown = bench.ask(&mut client, "{\"cmd\":\"format\"}\n");
    assert!(unknown["commands"].as_array().expect("a list").contains(&"stats".into()));
    let long = "x".repeat(3 * limits::ADMIN_LINE_BYTES);
    let refusal = bench.ask(&mut client, &format!("{long}\n"));
    assert!(refusal["error"].as_str().expect("text").contains("longer than 4096"));
    assert_eq!(bench.ask(&mut client, "{\"cmd\":\"stats\"}\n")["cores"][0]["urbs"], 4);
}

#[test]
fn questions_for_core_0_are_answered_each_to_who_asked() {
    let mut bench = Bench::new("questions");
    let (mut one, mut two) = (bench.connect(), bench.connect());
    one.get_mut().write_all(b"{\"cmd\":\"state\"}\n{\"cmd\":\"stats\"}\n").expect("read");
    assert_eq!(bench.ask(&mut two, "{\"cmd\":\"policy-list\"}\n"), "PolicyList");
    assert_eq!(bench.answer(&mut one), "\"State\"\n");
    let stats: serde_json::Value = serde_json::from_str(&bench.answer(&mut one)).expect("JSON");
    assert_eq!(stats["reply"], "stats");
}

#[test]
fn a_watch_goes_on_until_something_else_is_asked() {
    let mut bench = Bench::new("watch");
    let mut client = bench.connect();
    let line = "{\"cmd\":\"stats\",\"watch\":true,\"interval_ms\":100}\n";
    assert_eq!(bench.ask(&mut client, line)["cores"][0]["urbs"], 1);
    let begun = clock::now();
    for round in 2..5 {
        let line: serde_json::Value =
            serde_json::from_str(&bench.answer(&mut client)).expect("JSON");
        assert_eq!(line["cores"][0]["urbs"], round);
    }
    assert!(clock::now() - begun >= Duration::from_millis(290), "an interval between lines");
    assert_eq!(bench.ask(&mut client, "no\n")["reply"], "error");
    let rounds = bench.rounds;
    bench.ahead = Duration::from_secs(10);
    (0..10).for_each(|_| bench.turn());
    assert_eq!(bench.rounds, rounds, "the watch is over");
    bench.ask(&mut client, line);
    drop(client);
    (0..10).for_each(|_| bench.turn());
    assert!(bench.admin.peers.is_empty(), "a client that left is forgotten");
}

#[test]
fn who_asks_during_a_round_waits_for_the_next() {
    let mut bench = Bench::new("rounds");
    let mut one = bench.connect();
    one.get_mut().write_all(b"{\"cmd\":\"stats\"}\n").expect("it is read");
    // A round begins when the request is there; a core that never answers ends it by time.
    let io_turn = |bench: &mut Bench| {
        let mut completions = Vec::new();
        bench.reactor.turn(Some(clock::now() + Duration::from_millis(2)), &mut completions);
        let now = clock::now() + bench.ahead;
        let mut io = Io { reactor: &mut *bench.reactor, arena: &bench.arena, now };
        for completion in completions {
            bench.admin.handle(completion, &mut io);
        }
        bench.admin.settle(&mut io);
        bench.admin.begin_round(2, now)
    };
    let number = std::iter::repeat_with(|| io_turn(&mut bench)).take(100).flatten().next();
    let number = number.expect("a round");
    let mut two = bench.connect();
    two.get_mut().write_all(b"{\"cmd\":\"stats\"}\n").expect("it is read");
    (0..20).for_each(|_| assert_eq!(io_turn(&mut bench), None, "one round at a time"));
    bench.admin.handle_report(number, CoreReport::default(), vec![]);
    assert!(!bench.admin.is_round_over(clock::now()), "core 1 has not answered");
    let deadline = bench.admin.deadline().expect("the round ends by time");
    assert!(deadline > clock::now(), "no deadline in the past keeps the core awake");
    bench.ahead = ROUND_TIMEOUT;
    let reply: serde_json::Value = serde_json::from_str(&bench.answer(&mut one)).expect("JSON");
    assert_eq!(reply["cores"].as_array().expect("a list").len(), 1, "the silent one is missing");
    let reply: serde_json::Value = serde_json::from_str(&bench.answer(&mut two)).expect("JSON");
    assert_eq!(reply["cores"][0]["urbs"], 1, "of the next round");
}

#[test]
fn slow_and_idle_clients_are_closed_and_many_are_not_let_in() {
    let mut bench = Bench::new("slow");
    let mut slow = bench.connect();
    let line = b"{\"cmd\":\"stats\",\"watch\":true,\"interval_ms\":100}\n";
    slow.get_mut().write_all(line).expect("it is read");
    // It never reads: its socket fills up, and then it has taken nothing for too long.
    for _ in 0..5000 {
        bench.ahead += Duration::from_millis(200);
        bench.turn();
        if bench.admin.peers.is_empty() && bench.rounds > 0 {
            break;
        }
    }
    assert!(bench.admin.peers.is_empty(), "closed");
    let held = bench.rounds;
    assert!(held > 10, "as long as its socket took it, it was served");

    let mut clients: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| bench.connect()).collect();
    while bench.admin.peers.len() < clients.len() {
        bench.turn();
    }
    let mut late = bench.connect();
    assert_eq!(bench.answer(&mut late), "", "one too many");
    assert_eq!(bench.ask(&mut clients[3], "no\n")["reply"], "error", "the others stay");
    bench.ahead += Duration::from_secs(61);
    (0..20).for_each(|_| bench.turn());
    assert!(bench.admin.peers.is_empty(), "who asks nothing for a minute goes");
    assert!(matches!(clients[0].read(&mut [0; 1]), Ok(0)));
}

#[test]
fn it_ends_in_order_and_leaves_no_file() {
    let mut bench = Bench::new("end");
    let mut client = bench.connect();
    bench.ask(&mut client, "no\n");
    let now = clock::now();
    let mut io = Io { reactor: &mut *bench.reactor, arena: &bench.arena, now };
    bench.admin.close(&mut io);
    for _ in 0..100 {
        if bench.admin.is_empty() {
            break;
        }
        bench.turn();
    }
    assert!(bench.admin.is_empty());
    assert_eq!(bench.answer(&mut client), "", "the end");
    let path = bench.path.clone();
    drop(bench);
    assert!(!path.exists());
}
