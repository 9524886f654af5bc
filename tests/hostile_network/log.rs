//! Whoever reads the server's log may go away.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use usbip_fast::attach::{self, Patience, Server};
use usbip_fast_native::client::Family;

#[test]
fn a_server_outlives_what_reads_its_log() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usbip-fast"))
        .args(["serve", "--simulate", "zero", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped"));
    let address: SocketAddr = loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("readable") > 0, "it ended");
        if let Some((_, address)) = line.trim().rsplit_once("listening at ") {
            break address.parse().expect("an address");
        }
    };
    drop(lines);
    let (host, tcp_port) = (address.ip().to_string(), address.port());
    let server = Server { host, tcp_port, family: Family::Any };
    for _ in 0..3 {
        // Each refused import is a line that nobody reads.
        attach::import(&server, "nothing", &Patience::default()).expect_err("no such device");
    }
    assert_eq!(attach::list(&server, &Patience::default()).expect("it lives").len(), 1);
    assert!(child.try_wait().expect("its state").is_none());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
