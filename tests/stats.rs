//! `serve` and `stats` as people run them: traffic of known size, and the very same numbers told.

#![allow(clippy::disallowed_methods, reason = "server and command are processes")]
#![allow(clippy::disallowed_types, reason = "as above")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use usbip_fast::attach::{self, Patience, Server};
use usbip_fast::device::gadget::zero::WRITE_BUFFER;
use usbip_fast::host::userspace::Client;
use usbip_fast::reactor::select::Choice;
use usbip_fast::serve::admin::place;
use usbip_fast::usb::setup::Setup;
use usbip_fast_native::client::Family;
use usbip_fast_native::local::{LocalError, LocalListener};

const PATIENCE: Duration = Duration::from_secs(10);

/// The program, with a folder of its own for its sockets.
struct Served {
    child: Child,
    address: SocketAddr,
    admin: Option<PathBuf>,
    log: JoinHandle<String>,
}

/// A directory of the test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stats-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn socket(&self) -> String {
        self.0.join("serve.sock").to_str().expect("text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made");
    }
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let (mut line, mut address, mut admin) = (String::new(), None, None);
        // Told after both.
        while !line.contains("reactor: ") {
            line.clear();
            assert!(lines.read_line(&mut line).expect("readable") > 0, "it has started");
            let text = line.trim();
            if let Some((_, told)) = text.rsplit_once("listening at ") {
                address = Some(told.parse().expect("an address"));
            } else if let Some((_, told)) = text.rsplit_once("admin socket: ") {
                admin = Some(PathBuf::from(told));
            }
        }
        let log = thread::spawn(move || {
            let mut text = String::new();
            let _ = lines.read_to_string(&mut text);
            text
        });
        Self { child, address: address.expect("it listens"), admin, log }
    }

    /// Ends it as an operator would.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success());
        let status = self.child.wait().expect("it ends");
        let log = self.log.join().expect("read to the end");
        assert!(status.success(), "it ends in order: {status}\n{log}");
        let admin = self.admin.expect("it had one");
        assert!(!admin.exists(), "its socket is gone");
    }

    fn import(&self, bus_id: &str) -> Client {
        let (host, tcp_port) = (self.address.ip().to_string(), self.address.port());
        let server = Server { host, tcp_port, family: Family::Any };
        attach::client(&server, bus_id, Choice::Auto, &Patience::default()).expect("it is free")
    }

    fn stats(&self) -> Value {
        let path = self.admin.as_ref().expect("it has one").to_str().expect("text");
        let output = command(&["stats", "--json", "-s", path]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn command(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usbip-fast"));
    command.args(arguments).output().expect("the program runs")
}

fn session<'a>(stats: &'a Value, bus_id: &str) -> &'a Value {
    let sessions = stats["sessions"].as_array().expect("a list");
    sessions.iter().find(|session| session["bus_id"] == bus_id).expect("the session")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// How much the numbers named have grown at an endpoint; from nothing if it was not there.
fn grown<const N: usize>(
    [before, after]: [&Value; 2],
    bus_id: &str,
    address: u8,
    names: [&str; N],
) -> [u64; N] {
    let value = |stats: &Value, name: &str| {
        let endpoints = session(stats, bus_id)["endpoints"].as_array().expect("a list").clone();
        let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == address).cloned();
        endpoint.map_or(0, |endpoint| number(endpoint.pointer(name).expect("a field")))
    };
    names.map(|name| value(after, name) - value(before, name))
}

/// Rounds of eight URBs in flight together, each of `packets` packets.
fn stream(client: &mut Client, address: u8, packets: &[u32], rounds: u32) {
    let urb = |client: &Client| client.isochronous_urb(address, packets).expect("an endpoint");
    let mut urbs: Vec<_> = (0..8).map(|_| urb(client)).collect();
    for _ in 0..rounds {
        for urb in urbs.drain(..) {
            client.submit(urb);
        }
        for _ in 0..8 {
            let done = client.poll(Some(PATIENCE)).expect("connected").expect("in time");
            assert_eq!((done.status, done.error_count), (0, 0));
            urbs.push(done.urb);
        }
    }
}

fn traffic(client: &mut Client) {
    let vendor = |request| Setup { request_type: 0x40, request, value: 0, index: 0, length: 0 };
    for _ in 0..7 {
        client.control_out(vendor(WRITE_BUFFER), &[1; 300], PATIENCE).expect("taken");
    }
    client.control_out(vendor(0x77), &[], PATIENCE).expect_err("a stall");
    let mut data = vec![0; 5000];
    for _ in 0..11 {
        client.bulk_in(0x81, &mut data, PATIENCE).expect("given");
    }
    for _ in 0..13 {
        client.bulk_out(0x01, &data[..3000], PATIENCE).expect("taken");
    }
    client.set_interface(0, 1, PATIENCE).expect("it has it");
    stream(client, 0x82, &[1024, 512, 0, 100], 25);
    stream(client, 0x02, &[64; 10], 5);
}

#[test]
fn the_numbers_are_those_of_the_traffic() {
    for cores in ["1", "2"] {
        let folder = Folder::new(&format!("exact-{cores}"));
        let served = Served::start(&[
            "--simulate",
            "zero:pace=demand,zero:pace=demand",
            "--admin",
            &folder.socket(),
            "--cores",
            cores,
        ]);
        let mut clients = [served.import("sim-1"), served.import("sim-2")];
        let before = served.stats();
        clients.iter_mut().for_each(traffic);
        let after = served.stats();
        for bus_id in ["sim-1", "sim-2"] {
            check_traffic([&before, &after], bus_id);
        }
        let total = |stats: &Value| -> u64 {
            stats["cores"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|core| number(&core["urbs"]))
                .sum()
        };
        assert_eq!(after["cores"].as_array().map(Vec::len), Some(cores.parse().expect("a count")));
        let urbs = 8 + 11 + 13 + 1 + 200 + 40;
        assert_eq!(total(&after) - total(&before), 2 * urbs);
        drop(clients);
        let ended = |stats: &Value| -> u64 {
            let cores = stats["cores"].as_array().expect("a list");
            cores.iter().map(|core| number(&core["sessions_ended"])).sum()
        };
        let stats = (0..500).map(|_| served.stats()).find(|stats| ended(stats) == 2);
        let stats = stats.expect("the sessions end");
        assert_eq!(total(&stats), total(&after), "what is over is not forgotten");
        assert_eq!(stats["sessions"], serde_json::json!([]));
        served.stop();
    }
}

fn check_traffic(stats: [&Value; 2], bus_id: &str) {
    let moved = ["/urbs", "/packets", "/bytes_in", "/bytes_out"];
    assert_eq!(grown(stats, bus_id, 0x00, moved), [9, 0, 0, 2100], "control");
    assert_eq!(grown(stats, bus_id, 0x81, moved), [11, 0, 55_000, 0], "bulk IN");
    assert_eq!(grown(stats, bus_id, 0x01, moved), [13, 0, 0, 39_000], "bulk OUT");
    assert_eq!(grown(stats, bus_id, 0x82, moved), [200, 800, 200 * 1636, 0], "isochronous IN");
    assert_eq!(grown(stats, bus_id, 0x02, moved), [40, 400, 0, 40 * 640], "isochronous OUT");
    assert_eq!(grown(stats, bus_id, 0x00, ["/errors/stall", "/errors/other"]), [1, 0]);
    let latencies = ["/device_latency_us/count", "/answer_latency_us/count", "/missed", "/late"];
    // The last answer's send may not be back when it has reached the client.
    let [device, answer, missed, late] = grown(stats, bus_id, 0x82, latencies);
    assert_eq!((device, missed, late), (200, 0, 0));
    assert!((192..=200).contains(&answer), "{answer}");
    let [before, after] = stats.map(|stats| session(stats, bus_id));
    let sent = |name: &str| number(&after[name]) - number(&before[name]);
    assert_eq!((sent("urbs"), sent("refused"), sent("unlinks")), (273, 0, 0));
    let headers = 273 * 48;
    let out = 2100 + 39_000 + 40 * 640 + 800 * 16 + 400 * 16;
    assert_eq!(sent("received_bytes"), headers + out, "all bytes of the requests");
    let endpoints = after["endpoints"].as_array().expect("a list");
    let of = |address: u8| {
        endpoints.iter().find(|endpoint| endpoint["address"] == address).expect("it was used")
    };
    assert!(number(&of(0x82)["in_flight_max"]) <= 8);
    assert_eq!(of(0x82)["in_flight"], 0);
    assert_eq!(of(0x81)["in_flight_low"], Value::Null, "bulk has no schedule to keep");
    assert_eq!(after["vendor_id"], "0525");
}

#[test]
fn a_starved_stream_is_seen_and_its_cure_is_named() {
    let folder = Folder::new("starved");
    let served = Served::start(&["--simulate", "zero:pace=real", "--admin", &folder.socket()]);
    let mut client = served.import("sim-1");
    client.set_interface(0, 1, PATIENCE).expect("it has it");
    // One URB at a time, with a pause: the device has nothing for eight milliseconds and more.
    for _ in 0..5 {
        let urb = client.isochronous_urb(0x82, &[1024; 8]).expect("an endpoint");
        client.submit(urb);
        client.poll(Some(PATIENCE)).expect("connected").expect("in time");
        thread::sleep(Duration::from_millis(8));
    }
    let stats = served.stats();
    let endpoints = session(&stats, "sim-1")["endpoints"].as_array().expect("a list");
    let iso = endpoints.iter().find(|endpoint| endpoint["address"] == 0x82).expect("it was used");
    assert_eq!(iso["in_flight_low"], 0);
    // On a busy machine a pause may be so long that it counts as the end of a stream.
    let dry = number(&iso["dry"]);
    assert!((1..=4).contains(&dry), "{iso}");
    assert!(number(&iso["missed"]) >= dry * 8, "{iso}");
    assert!(number(&iso["dry_us"]) >= dry * 8000, "{iso}");
    let output = command(&["stats", "-s", &folder.socket()]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("iso 2 IN") && text.contains("--iso-prefetch MS"), "{text}");
    drop(client);
    served.stop();
}

#[test]
fn working_ahead_is_reported_for_the_devices_it_is_for() {
    let folder = Folder::new("ahead");
    let served = Served::start(&[
        "--simulate",
        "zero:pace=real,zero:pace=real",
        "--admin",
        &folder.socket(),
        "--iso-prefetch",
        "20=sim-1",
        "--iso-jitter",
        "30",
    ]);
    let mut clients = ["sim-1", "sim-2"].map(|bus_id| served.import(bus_id));
    for client in &mut clients {
        client.set_interface(0, 1, PATIENCE).expect("it has it");
        stream(client, 0x82, &[1024; 8], 10);
        stream(client, 0x02, &[64; 8], 10);
    }
    let stats = served.stats();
    let ahead = |bus_id: &str, address: u8| {
        let endpoints = session(&stats, bus_id)["endpoints"].as_array().expect("a list");
        let found = endpoints.iter().find(|endpoint| endpoint["address"] == address);
        found.expect("it was used")["ahead"].clone()
    };
    assert_eq!(ahead("sim-1", 0x82)["limit_us"], 20_000);
    assert!(number(&ahead("sim-1", 0x82)["level_us"]) <= 20_000);
    assert_eq!(ahead("sim-2", 0x82), Value::Null);
    assert_eq!(ahead("sim-1", 0x02)["limit_us"], 30_000);
    assert_eq!(ahead("sim-2", 0x02)["limit_us"], 30_000);
    let output = command(&["stats", "-s", &folder.socket()]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("iso 2 IN is read up to 20.0 ms ahead: "), "{text}");
    assert!(text.contains("iso 2 OUT is played up to 30.0 ms late: "), "{text}");
    drop(clients);
    served.stop();
}

#[test]
fn a_watch_is_a_line_per_interval_and_does_not_keep_the_server_from_ending() {
    let folder = Folder::new("watch");
    let served = Served::start(&["--simulate", "zero", "--admin", &folder.socket()]);
    let mut stream = UnixStream::connect(folder.socket()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let request = b"{\"cmd\":\"stats\",\"watch\":true,\"interval_ms\":100}\n";
    stream.write_all(request).expect("sent");
    let mut lines = BufReader::new(stream).lines();
    for _ in 0..3 {
        let line = lines.next().expect("a line").expect("readable");
        let stats: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(stats["server"]["devices"], 1);
    }
    served.stop();
    assert!(lines.all(|line| line.is_ok()), "the end, in order");
}

#[test]
fn a_path_in_use_is_refused_and_none_means_none() {
    let folder = Folder::new("taken");
    let served = Served::start(&["--simulate", "zero", "--admin", &folder.socket()]);
    let second = ["serve", "--simulate", "zero", "--listen", "127.0.0.1:0", "--admin"];
    let output = command(&[&second[..], &[folder.socket().as_str()]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains("in use by another server") && text.contains("--admin PATH"), "{text}");
    assert_eq!(served.stats()["server"]["process_id"], served.child.id(), "not stolen");
    served.stop();
    let output = command(&["stats", "-s", &folder.socket()]);
    assert_eq!(output.status.code(), Some(1));
    let mut without = Served::start(&["--simulate", "zero", "--admin", "none"]);
    assert_eq!(without.admin, None);
    without.child.kill().expect("it runs");
    without.child.wait().expect("it ends");
}

#[test]
fn servers_of_one_user_have_names_of_their_own() {
    let folder = Folder::new("names");
    let listen = ["127.0.0.1:3241".parse().expect("an address")];
    let open = || place::open_in(&folder.0.join("sockets"), &listen);
    let name = |listener: &LocalListener| {
        listener.path().file_name().and_then(|name| name.to_str()).expect("text").to_owned()
    };
    let first = open().expect("free");
    let (second, third) = (open().expect("free"), open().expect("free"));
    let by_process = format!("serve-pid-{}.sock", std::process::id());
    assert_eq!([&first, &second, &third].map(name), ["serve.sock", "serve-3241.sock", &by_process]);
    assert!(matches!(open(), Err(LocalError::InUse)));
    drop(first);
    assert_eq!(name(&open().expect("free again")), "serve.sock");
}

#[test]
fn rules_and_holders_are_shown_changed_and_kept() {
    let folder = Folder::new("rules");
    let (config, kept) = (folder.0.join("c.toml"), folder.0.join("kept/policy.toml"));
    std::fs::write(&config, "[[export]]\nrule = \"serial=none-such\"\n").expect("written");
    let [config_path, kept_path] = [&config, &kept].map(|path| path.to_str().expect("text"));
    let socket = folder.socket();
    let options =
        ["--simulate", "zero", "--config", config_path, "--state", kept_path, "--admin", &socket];
    let ask = |words: &[&str]| {
        let output = command(&[words, &["--json", "-s", &socket]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")),
            false => Err(text),
        }
    };
    let rules = |reply: &Value| -> Vec<String> {
        let rules = reply["rules"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        rules.map(|it| format!("{} {}", text(&it["rule"]), text(&it["origin"]))).collect()
    };
    let served = Served::start(&options);
    let free = ask(&["state"]).expect("an answer");
    assert_eq!(
        (&free["reply"], &free["devices"][0]["state"]),
        (&"state".into(), &"available".into())
    );
    let client = served.import("sim-1");
    let held = ask(&["state"]).expect("an answer");
    assert_eq!(held["devices"][0]["state"], "busy");
    let peer = held["devices"][0]["holder"]["peer"].as_str().expect("an address");
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    drop(client);

    let list = ask(&["policy", "list"]).expect("an answer");
    assert_eq!((rules(&list), &list["kept"]), (vec!["serial=none-such file".into()], &true.into()));
    ask(&["bind", "serial=other"]).expect("new");
    let refused = ask(&["policy", "remove", "serial=none-such"]).expect_err("the file's");
    assert!(refused.contains("is a rule of the file"), "{refused}");
    assert!(ask(&["unbind", "1-9"]).expect_err("unknown").contains("there is no rule 1-9"));
    // SIGHUP with a slip changes nothing, without it the file's rules are others.
    let hang_up = |text: &str| {
        std::fs::write(&config, text).expect("written");
        let id = served.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().expect("it runs").success());
    };
    hang_up("[[export]]\nrule = \"\"\n");
    thread::sleep(Duration::from_millis(300));
    let both = ["serial=other runtime".to_owned(), "serial=none-such file".to_owned()];
    assert_eq!(rules(&ask(&["policy", "list"]).expect("an answer")), both);
    hang_up("[[export]]\nrule = \"serial=new\"\n");
    let is_new = |_: &u32| {
        thread::sleep(Duration::from_millis(20));
        rules(&ask(&["policy", "list"]).expect("an answer")).contains(&"serial=new file".into())
    };
    assert!((0..200).any(|round| is_new(&round)), "the file is read again");
    served.stop();
    let served = Served::start(&options);
    let list = ask(&["policy", "list"]).expect("an answer");
    assert_eq!(rules(&list), ["serial=other runtime", "serial=new file"]);
    served.stop();
}
