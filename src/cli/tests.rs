use super::*;

/// Exit code, stdout, stderr.
fn call(line: &str) -> (u8, String, String) {
    let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(&arguments, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(out), text(err))
}

#[test]
fn the_command_line_holds_together() {
    CommandLine::command().debug_assert();
}

#[test]
fn wrong_usage_is_two_and_one_line() {
    for line in [
        "usbip-fast",
        "usbip-fast frobnicate",
        "usbip-fast list",
        "usbip-fast list -l -r host",
        "usbip-fast list -l --json -p",
        "usbip-fast attach -r host",
        "usbip-fast attach -b 1-1",
        "usbip-fast attach -r host -b 1-1 --port x",
        "usbip-fast detach",
        "usbip-fast detach -p 1 --all",
        "usbip-fast serve",
        "usbip-fast serve --allow 10.0.0.1/8",
        "usbip-fast serve --simulate zero --listen 0.0.0.0:3240",
        "usbip-fast serve --simulate zero --cores 0",
        "usbip-fast serve --reactor fast",
        "usbip-fast bench -r host -b 1-1 --depth 0",
        "usbip-fast torture",
        "usbip-fast list -l --log-format xml",
        "usbip-fast man nothing",
        "usbip-fast serve -b ../../etc",
        "usbip-fast serve --simulate zero --listen 3240",
        "usbip-fast serve --simulate zero --listen 127.0.0.1:99999",
        "usbip-fast list -r 127.0.0.1:99999",
        "usbip-fast list -r 127.0.0.1 -t 0",
        "usbip-fast list -r usbip://127.0.0.1",
        "usbip-fast bench -r :3240 -b 1-1",
        "usbip-fast attach -r 127.0.0.1: -b 1-1",
    ] {
        let (code, out, err) = call(line);
        assert_eq!(code, 2, "{line}: {err}");
        assert!(out.is_empty(), "{line}: {out}");
        assert_eq!(err.lines().count(), 1, "{line}: {err}");
        assert!(err.starts_with("usbip-fast: "), "{line}: {err}");
    }
}

#[test]
fn missing_arguments_are_named() {
    let (_, _, err) = call("usbip-fast attach -r host");
    assert!(err.contains("--busid <BUSID>"), "{err}");
    assert!(err.contains("type: usbip-fast attach --help"), "{err}");
    let (_, _, err) = call("usbip-fast -v list");
    assert!(err.contains("type: usbip-fast list --help"), "{err}");
    let (_, _, err) = call("usbip-fast nothing");
    assert!(err.contains("type: usbip-fast --help"), "{err}");
    let (_, _, err) = call("usbip-fast serve --simulate zero --listen 0.0.0.0:3240");
    assert!(err.contains("add --allow CIDR"), "{err}");
}

#[test]
fn failures_are_one_and_one_line() {
    // Port 1 of this machine: nobody listens there.
    for line in ["usbip-fast list -r 127.0.0.1:1", "usbip-fast list -r 127.0.0.1 -t 1"] {
        let (code, out, err) = call(line);
        assert_eq!(code, 1, "{line}: {err}");
        assert!(out.is_empty(), "{line}");
        assert_eq!(err.lines().count(), 1, "{line}: {err}");
        assert!(err.contains("127.0.0.1:1"), "{line}: {err}");
        assert!(err.contains("; type"), "{line}: {err}");
    }
}

#[test]
fn help_and_version_are_no_failure() {
    let (code, out, err) = call("usbip-fast --help");
    assert_eq!((code, err.as_str()), (0, ""));
    for command in ["attach", "bench", "detach", "doctor", "list", "port", "serve", "torture"] {
        assert!(out.contains(&format!("\n  {command}")), "{command}");
        let (code, help, _) = call(&format!("usbip-fast {command} --help"));
        assert_eq!(code, 0);
        assert!(help.contains("Usage: usbip-fast"), "{help}");
    }
    assert!(!out.contains("completions"), "hidden");
    let (code, out, _) = call("usbip-fast --version");
    assert_eq!((code, out), (0, format!("usbip-fast {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn documents_come_from_the_command_line() {
    let (code, out, _) = call("usbip-fast completions bash");
    assert_eq!(code, 0);
    assert!(out.contains("usbip-fast"));
    let (code, out, _) = call("usbip-fast man");
    assert_eq!(code, 0);
    assert!(out.contains(".TH usbip-fast 1"), "{out}");
    let (code, out, _) = call("/usr/bin/usbip-fast man attach");
    assert_eq!(code, 0);
    assert!(out.contains("busid"), "{out}");
}

#[test]
fn the_stock_names_have_the_stock_codes() {
    for line in [
        "usbip",
        "/usr/sbin/usbip nothing",
        "usbip list",
        "usbip attach -r host",
        "usbip attach -r host -b 1-1 -d usbip-vudc.0",
        "usbip --tcp-port 1 list -r 127.0.0.1",
        "usbip bind -b 1-1",
        "usbip unbind -b 1-1",
        "usbipd",
        "usbipd --nothing",
    ] {
        let (code, out, err) = call(line);
        assert_eq!(code, 1, "{line}: {err}");
        assert!(out.is_empty(), "{line}: {out}");
        assert_eq!(err.lines().count(), 1, "{line}: {err}");
    }
    for line in ["usbip version", "usbip --version", "usbipd -v", "usbipd --version"] {
        let (code, out, err) = call(line);
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(env!("CARGO_PKG_VERSION")), "{line}: {out}");
    }
    for line in ["usbip help", "usbip help attach", "usbip list --help", "usbipd -h"] {
        let (code, out, _) = call(line);
        assert_eq!(code, 0, "{line}");
        assert!(out.contains("Usage: usbip"), "{line}: {out}");
    }
}

#[test]
fn stock_options_before_the_command_are_taken() {
    let (code, _, err) = call("usbip --debug --log --tcp-port 2 list -p -r 127.0.0.1");
    assert_eq!(code, 1);
    assert!(err.contains("127.0.0.1:2"), "{err}");
}

#[test]
fn local_lists_are_never_an_error() {
    for line in [
        "usbip-fast list -l",
        "usbip-fast list -l --json",
        "usbip-fast list -lp",
        "usbip list -l -p",
    ] {
        let (code, _, err) = call(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
    }
}

#[test]
fn ports_are_split_off_names_and_addresses() {
    assert_eq!(split_port("pi:99"), Ok(("pi", Some(99))));
    assert_eq!(split_port("[::1]:99"), Ok(("[::1]", Some(99))));
    for alone in ["pi", "::1", "[::1]", "fe80::1%eth0", "10.0.0.1"] {
        assert_eq!(split_port(alone), Ok((alone, None)));
    }
    for bad in ["", ":99", "pi:http", "pi:", "pi:65536", "3240", "a b", "a\nb", "usbip://pi/1-1"] {
        assert!(split_port(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_failure_is_one_line_whatever_was_typed() {
    for words in [
        ["usbip-fast", "attach", "-r", "a\nb", "-b", "1-1"],
        ["usbip-fast", "bench", "-r", "127.0.0.1", "-b", "\x1b[2J\n"],
        ["usbip-fast", "bench", "-r", "127.0.0.1", "-b", ""],
        ["usbip-fast", "serve", "--simulate", "zero\n", "-b", "1-1"],
        ["usbip-fast", "list", "-l", "x\ny\x1b[2J", "--json", "-v"],
    ] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&words.map(OsString::from), &mut out, &mut err), 2, "{words:?}");
        let err = String::from_utf8(err).expect("text");
        assert_eq!(err.lines().count(), 1, "{err:?}");
        assert!(!err.trim_end().contains(char::is_control), "{err:?}");
    }
}

/// A disk that is full.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    for line in ["usbip-fast --help", "usbip-fast --version", "usbip --help", "usbipd -v"] {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        let mut err = Vec::new();
        assert_eq!(run(&words, &mut Full, &mut err), 1, "{line}");
        assert!(!err.is_empty(), "{line}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let broken = || Err(Error::Output(io::ErrorKind::BrokenPipe.into()));
    let mut err = Vec::new();
    assert_eq!(conclude("x", broken(), &mut io::sink(), &mut err), 0);
    assert!(err.is_empty());
    let full = Err(Error::Output(io::ErrorKind::StorageFull.into()));
    assert_eq!(conclude("x", full, &mut io::sink(), &mut err), 1);
    assert!(!err.is_empty());
}
