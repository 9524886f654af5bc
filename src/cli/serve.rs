//! `serve`: export devices. Also the stock daemon's command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use usbip_fast_native::client::Family;
use usbip_fast_native::process;

use super::{ServerArgs, split_port};
use crate::config::file::ConfigFile;
use crate::config::{
    AdminChoice, AheadRule, Cidr, ControlChoice, MOST_CORES, ReactorChoice, ServeConfig,
};
use crate::error::Error;
use crate::ledger::policy::{Entry, Rule};

/// Export USB devices of this machine, or simulated ones
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Export a simulated device: NAME[:key=value]…, such as zero:pace=none; repeatable
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    simulate: Vec<String>,
    /// Export the device with this bus id, as `list -l` shows it; repeatable
    #[arg(short, long = "busid", value_name = "BUSID")]
    bus_ids: Vec<String>,
    /// Export devices that this rule means, as they come and go: VID:PID, class=, serial=, path=,
    /// name~REGEX, busid=, commas for and, ! for not; repeatable
    #[arg(long = "export", value_name = "RULE")]
    exports: Vec<Rule>,
    /// Never export devices that this rule means, whatever other rules say; repeatable
    #[arg(long = "deny", value_name = "RULE")]
    denials: Vec<Rule>,
    /// Read options and rules from FILE; what is typed comes before it [default, if nothing to
    /// export is typed: /etc/usbip-fast/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep rules made by `bind` and `policy` in FILE, or none [default with a configuration file:
    /// /var/lib/usbip-fast/policy.toml]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Listen at this address or name, HOST:PORT allowed; repeatable [default: 127.0.0.1;
    /// called as usbipd: every address]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Let these addresses connect, such as 192.168.0.0/16; repeatable
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Cidr>,
    /// Cores to use, one thread each [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cores)]
    cores: Option<usize>,
    /// Kernel interface to run on: auto, io-uring, epoll or kqueue [default: auto]
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
    reactor: Option<ReactorChoice>,
    /// Run before other programs, from memory that is never swapped out
    #[arg(long)]
    realtime: bool,
    /// Look for work for US microseconds before sleeping: lower latency for a busy core
    #[arg(long, value_name = "US", num_args = 0..=1, default_missing_value = "100",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    busy_poll: Option<u64>,
    /// Read isochronous and interrupt IN up to MS milliseconds ahead of the client, for devices
    /// whose network delays it: adds that latency; MS=RULE for some devices only; repeatable
    #[arg(long, value_name = "MS[=RULE]")]
    iso_prefetch: Vec<AheadRule>,
    /// Hold MS milliseconds of isochronous OUT before the device gets it, so that a network's
    /// jitter is no gap: adds that latency; MS=RULE for some devices only; repeatable
    #[arg(long, value_name = "MS[=RULE]")]
    iso_jitter: Vec<AheadRule>,
    /// Take devices even if this machine visibly needs them
    #[arg(long)]
    force: bool,
    /// Where `stats` reaches this server: a path, or none [default: /run/usbip-fast/serve.sock for
    /// root, else $XDG_RUNTIME_DIR/usbip-fast/serve.sock]
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Tell clients of changes: plain, plain-text (for sing-usbip before June 2026) or off
    #[arg(long, value_enum, default_value_t, value_name = "KIND", hide_possible_values = true)]
    control: ControlChoice,
    /// Go on in the background
    #[arg(short = 'D', long)]
    daemon: bool,
    /// Log more
    #[arg(short, long)]
    pub(super) debug: bool,
    /// Write the process id to FILE
    #[arg(short = 'P', long, value_name = "FILE", num_args = 0..=1, require_equals = false,
        default_missing_value = "/var/run/usbipd.pid")]
    pid: Option<PathBuf>,
    #[command(flatten)]
    at: ServerArgs,
}

fn parse_cores(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|cores| (1..=MOST_CORES).contains(cores))
        .ok_or_else(|| format!("write 1 to {MOST_CORES}"))
}

/// The configuration of the service.
const CONFIG_FILE: &str = "/etc/usbip-fast/config.toml";

/// Where the service keeps the rules that were made while it ran.
const STATE_FILE: &str = "/var/lib/usbip-fast/policy.toml";

pub(super) fn run(args: &ServeArgs) -> Result<(), Error> {
    start(args, args.config()?)
}

/// As the stock daemon: everybody may connect unless `--allow` or `--listen` says otherwise.
pub(super) fn run_stock(args: &ServeArgs) -> Result<(), Error> {
    let config = args.stock_config()?;
    if config.allow == EVERYBODY {
        tracing::warn!("every address may connect; name those who may with --allow CIDR");
    }
    start(args, config)
}

const EVERYBODY: [Cidr; 2] = [Cidr::ALL_V4, Cidr::ALL_V6];

fn start(args: &ServeArgs, config: ServeConfig) -> Result<(), Error> {
    config.check()?;
    // The background changes nothing about what a relative path means, but say it fully anyway:
    // the file is removed at the end by the same path.
    let pid_file = args.pid.as_deref().map(std::path::absolute).transpose()?;
    if let Some(path) = &pid_file {
        PidFile::check(path)?;
    }
    // In the background nobody would see that an address is taken, and the pid file of the server
    // that has it must stay.
    if args.daemon || pid_file.is_some() {
        try_to_listen(&config)?;
    }
    if args.daemon {
        process::go_to_background()
            .map_err(|error| Error::Failed(format!("cannot go to the background: {error}")))?;
    }
    let _pid_file = pid_file.map(PidFile::write).transpose()?;
    crate::serve::run(&config)
}

fn try_to_listen(config: &ServeConfig) -> Result<(), Error> {
    for &address in &config.listen {
        TcpListener::bind(address).map_err(|error| crate::serve::cannot_listen(address, &error))?;
    }
    Ok(())
}

impl ServeArgs {
    fn config(&self) -> Result<ServeConfig, Error> {
        let default = match self.at.family.family() {
            Family::V6 => vec![IpAddr::from(Ipv6Addr::LOCALHOST)],
            Family::V4 => vec![Ipv4Addr::LOCALHOST.into()],
            Family::Any if self.at.family.ipv6 => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Family::Any => vec![Ipv4Addr::LOCALHOST.into()],
        };
        self.build(&default, None)
    }

    fn stock_config(&self) -> Result<ServeConfig, Error> {
        let default = match self.at.family.family() {
            Family::V4 => vec![IpAddr::from(Ipv4Addr::UNSPECIFIED)],
            Family::V6 => vec![Ipv6Addr::UNSPECIFIED.into()],
            Family::Any => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let nobody_is_named = self.allow.is_empty() && self.listen.is_empty();
        self.build(&default, nobody_is_named.then(|| EVERYBODY.to_vec()))
    }

    /// `everybody`: who may connect where neither the command line nor the file says so.
    fn build(
        &self,
        default: &[IpAddr],
        everybody: Option<Vec<Cidr>>,
    ) -> Result<ServeConfig, Error> {
        let path = self.config_file();
        let file = path.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let mut listen = Vec::new();
        let listed = if self.listen.is_empty() { file.listen.as_ref() } else { Some(&self.listen) };
        match listed {
            None => listen.extend(default.iter().map(|ip| SocketAddr::new(*ip, self.at.tcp_port))),
            Some(texts) => {
                for address in self.resolve_all(texts)? {
                    if !listen.contains(&address) {
                        listen.push(address);
                    }
                }
            }
        }
        let everybody = everybody.filter(|_| file.listen.is_none());
        let allow = match self.allow.is_empty() {
            false => self.allow.clone(),
            true => file.allow.clone().or(everybody).unwrap_or_default(),
        };
        let simulate = match self.simulate.is_empty() {
            false => self.simulate.clone(),
            true => file.simulate.clone().unwrap_or_default(),
        };
        let busy_poll = self.busy_poll.or(file.busy_poll_us).unwrap_or(0);
        Ok(ServeConfig {
            simulate,
            bus_ids: self.bus_ids.clone(),
            rules: self.rules(),
            listen,
            allow,
            cores: self.cores.or(file.cores).unwrap_or(1),
            reactor: self.reactor.or(file.reactor).unwrap_or_default(),
            realtime: self.realtime || file.realtime.unwrap_or(false),
            busy_poll: Duration::from_micros(busy_poll),
            iso_prefetch: self.iso_prefetch.clone(),
            iso_jitter: self.iso_jitter.clone(),
            force: self.force || file.force.unwrap_or(false),
            admin: self.admin_choice(file.admin.as_deref())?,
            control: self.control,
            state: self.state_file(file.state.as_deref(), path.is_some())?,
            file: path,
            file_rules: file.export,
        })
    }

    /// What is denied comes first: no later rule exports it.
    fn rules(&self) -> Vec<Entry> {
        let deny = |rule: &Rule| Entry { allow: false, ..Entry::export(rule.clone()) };
        let export = |rule: &Rule| Entry::export(rule.clone());
        self.denials.iter().map(deny).chain(self.exports.iter().map(export)).collect()
    }

    /// The file that is named, or that of the service where nothing to export is.
    fn config_file(&self) -> Option<PathBuf> {
        let usual = || Path::new(CONFIG_FILE);
        let is_silent = self.simulate.is_empty()
            && self.bus_ids.is_empty()
            && self.exports.is_empty()
            && self.denials.is_empty();
        let usual = || Some(usual()).filter(|path| is_silent && path.exists());
        self.config.as_deref().or_else(usual).map(|path| {
            // SIGHUP finds it again from the background, too.
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
        })
    }

    fn state_file(&self, said: Option<&str>, is_service: bool) -> Result<Option<PathBuf>, Error> {
        let usual = || is_service.then(|| Path::new(STATE_FILE));
        let path = self.state.as_deref().or(said.map(Path::new)).or_else(usual);
        let path = path.filter(|path| path.as_os_str() != "none");
        Ok(path.map(std::path::absolute).transpose()?)
    }

    fn admin_choice(&self, said: Option<&str>) -> Result<AdminChoice, Error> {
        Ok(match self.admin.as_deref().or(said.map(Path::new)) {
            None => AdminChoice::Usual,
            Some(path) if path.as_os_str() == "none" => AdminChoice::Off,
            // In the background a relative path would still mean this folder, but the log should
            // name a path that can be typed anywhere.
            Some(path) => AdminChoice::At(std::path::absolute(path)?),
        })
    }

    fn resolve_all(&self, texts: &[String]) -> Result<Vec<SocketAddr>, Error> {
        let mut all = Vec::new();
        for text in texts {
            all.extend(self.resolve(text)?);
        }
        Ok(all)
    }

    fn resolve(&self, text: &str) -> Result<Vec<SocketAddr>, Error> {
        let advice = "write ADDR:PORT, such as --listen 127.0.0.1:3240";
        let (host, port) = split_port(text)
            .map_err(|cause| Error::Usage(format!("--listen {text}: {cause}; {advice}")))?;
        let port = port.unwrap_or(self.at.tcp_port);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let found = (host, port)
            .to_socket_addrs()
            .map_err(|error| Error::Usage(format!("--listen {text}: {error}; {advice}")))?;
        let family = self.at.family.family();
        let usable: Vec<_> = found.filter(|address| family.includes(*address)).collect();
        if usable.is_empty() {
            return Err(Error::Usage(format!(
                "--listen {text} has no address of this family; {advice}"
            )));
        }
        Ok(usable)
    }
}

fn read_file(path: &Path) -> Result<ConfigFile, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Failed(format!("cannot read {name}: {error}")))?;
    ConfigFile::parse(&name, &text).map_err(|error| Error::File(error.to_string()))
}

/// A file with our process id that goes when the server does.
struct PidFile(PathBuf);

impl PidFile {
    /// What is there already may be replaced only if it looks like a pid file whose process is
    /// over: a slip must cost nobody a file.
    fn check(path: &Path) -> Result<(), Error> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::Failed(cannot_write(path, &error))),
        };
        let words = String::from_utf8_lossy(&text);
        let words = words.trim();
        if words.is_empty() {
            return Ok(());
        }
        let shown = path.display();
        let Ok(pid) = words.parse::<u32>() else {
            return Err(Error::Failed(format!(
                "{shown} is there and holds no process id; name another file with -PFILE"
            )));
        };
        // Without /proc nobody can tell, and a stale file must not stop a server.
        if Path::new("/proc").join(pid.to_string()).exists() && pid != std::process::id() {
            return Err(Error::Failed(format!(
                "{shown} belongs to process {pid}, which runs; type: kill {pid}, or name another \
                 file with -PFILE"
            )));
        }
        Ok(())
    }

    fn write(path: PathBuf) -> Result<Self, Error> {
        std::fs::write(&path, format!("{}\n", std::process::id()))
            .map_err(|error| Error::Failed(cannot_write(&path, &error)))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        if std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() != own) {
            // Somebody else's by now.
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the pid file could not be removed");
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}; name another file with -PFILE", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn args(line: &str) -> ServeArgs {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        Line::try_parse_from(words).expect("a command line").args
    }

    fn listens(config: &ServeConfig) -> Vec<String> {
        config.listen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_is_the_default() {
        let config = |line| args(line).config().expect("good");
        assert_eq!(listens(&config("-b 1-1")), ["127.0.0.1:3240"]);
        assert_eq!(listens(&config("-b 1-1 -6 -t 99")), ["[::1]:99"]);
        assert_eq!(listens(&config("-b 1-1 -4 -6")), ["127.0.0.1:3240", "[::1]:3240"]);
    }

    #[test]
    fn addresses_are_taken_in_every_form() {
        let line = "--listen 192.0.2.1 --listen 192.0.2.1:99 --listen [2001:db8::1]:98 \
                    --listen 2001:db8::2 --listen 192.0.2.1";
        let expected = ["192.0.2.1:3240", "192.0.2.1:99", "[2001:db8::1]:98", "[2001:db8::2]:3240"];
        assert_eq!(listens(&args(line).config().expect("good")), expected);
        let error = args("-6 --listen 192.0.2.1").config().expect_err("no IPv6 address");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn lists_of_devices_and_ranges() {
        let line = "--simulate zero:pace=none,zero:speed=full --simulate zero -b 1-1 -b 2-1.4 \
                    --allow 10.0.0.0/8 --allow ::1 --cores 3 --reactor io-uring --force";
        let config = args(line).config().expect("good");
        assert_eq!(config.simulate, ["zero:pace=none", "zero:speed=full", "zero"]);
        assert_eq!(config.bus_ids, ["1-1", "2-1.4"]);
        assert_eq!(config.allow.len(), 2);
        assert_eq!((config.cores, config.reactor), (3, ReactorChoice::IoUring));
        assert!(config.force);
    }

    #[test]
    fn what_is_typed_comes_before_the_file() {
        let path = std::env::temp_dir().join(format!("config-{}.toml", std::process::id()));
        let text = "listen = [\"192.0.2.9\"]\nallow = [\"10.0.0.0/8\"]\ncores = 4\n\
                    [[export]]\nrule = \"*:*\"\n";
        std::fs::write(&path, text).expect("written");
        let config = |line: &str| args(&format!("--config {} {line}", path.display())).config();
        let from_file = config("").expect("good");
        assert!(from_file.check().is_ok());
        assert_eq!(listens(&from_file), ["192.0.2.9:3240"]);
        assert_eq!((from_file.cores, from_file.file_rules.len()), (4, 1));
        assert_eq!(from_file.state.as_deref(), Some(Path::new(STATE_FILE)));
        let line = "--listen 127.0.0.1 --cores 2 --export class=hid --deny 1-1 --state none";
        let typed = config(line).expect("good");
        assert_eq!((listens(&typed), typed.cores), (vec!["127.0.0.1:3240".to_owned()], 2));
        assert_eq!((typed.allow.len(), typed.state.as_deref()), (1, None));
        let rules: Vec<_> = typed.rules.iter().map(|it| (it.rule.to_string(), it.allow)).collect();
        assert_eq!(rules, [("1-1".to_owned(), false), ("class=hid".to_owned(), true)]);
        std::fs::write(&path, "cores = 4\nkores = 5\n").expect("written");
        let error = config("").expect_err("a slip");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(":2:1: unknown field `kores`"), "{error}");
        std::fs::remove_file(&path).expect("there");
        assert!(config("").expect_err("gone").to_string().starts_with("cannot read"));
        assert!(Line::try_parse_from(["serve", "--export", ""]).is_err(), "an empty rule");
    }

    #[test]
    fn the_open_network_needs_a_word() {
        let config = args("-b 1-1 --listen 0.0.0.0").config().expect("parsed");
        assert!(config.check().expect_err("open").to_string().contains("--allow"));
    }

    #[test]
    fn the_stock_daemon_is_open_unless_told() {
        let config = args("-b 1-1").stock_config().expect("good");
        assert_eq!(listens(&config), ["0.0.0.0:3240", "[::]:3240"]);
        assert!(config.check().is_ok());
        assert!(config.admits("203.0.113.1".parse().expect("an address")));
        let config = args("-4 -b 1-1 --allow 10.0.0.0/8").stock_config().expect("good");
        assert_eq!(listens(&config), ["0.0.0.0:3240"]);
        assert!(!config.admits("203.0.113.1".parse().expect("an address")));
        let config = args("-b 1-1 --listen 0.0.0.0").stock_config().expect("good");
        assert!(config.check().is_err(), "who names an address names who may connect");
    }

    #[test]
    fn the_stock_letters() {
        let args = args("-4 -D -d -P/tmp/x.pid -t 7");
        assert!(args.daemon && args.debug);
        assert_eq!(args.pid.as_deref(), Some(Path::new("/tmp/x.pid")));
        assert_eq!(args.at.tcp_port, 7);
        let args = self::args("-P");
        assert_eq!(args.pid.as_deref(), Some(Path::new("/var/run/usbipd.pid")));
    }

    #[test]
    fn the_admin_socket_can_be_placed_or_declined() {
        let choice = |line| args(line).config().expect("good").admin;
        assert_eq!(choice("-b 1-1"), AdminChoice::Usual);
        assert_eq!(choice("-b 1-1 --admin none"), AdminChoice::Off);
        assert_eq!(choice("-b 1-1 --admin /x/y.sock"), AdminChoice::At("/x/y.sock".into()));
    }

    #[test]
    fn cores_have_bounds() {
        for cores in ["0", "1025", "x"] {
            assert!(Line::try_parse_from(["serve", "--cores", cores]).is_err());
        }
    }

    #[test]
    fn busy_polling_has_a_time_of_its_own() {
        let busy_poll = |line| args(line).config().expect("good").busy_poll.as_micros();
        assert_eq!(busy_poll("-b 1-1"), 0);
        assert_eq!(busy_poll("-b 1-1 --busy-poll"), 100);
        assert_eq!(busy_poll("-b 1-1 --busy-poll 30 --realtime"), 30);
        assert!(Line::try_parse_from(["serve", "--busy-poll", "0"]).is_err());
    }

    #[test]
    fn working_ahead_is_off_unless_asked_for() {
        let config = |line| args(line).config().expect("good");
        assert!(config("-b 1-1").iso_prefetch.is_empty() && config("-b 1-1").iso_jitter.is_empty());
        let asked = config("-b 1-1 --iso-prefetch 20 --iso-prefetch 40=0525:* --iso-jitter 30");
        let times = |rules: &[AheadRule]| -> Vec<_> {
            rules.iter().map(|rule| (rule.time.as_millis(), rule.rule.is_some())).collect()
        };
        assert_eq!(times(&asked.iso_prefetch), [(20, false), (40, true)]);
        assert_eq!(times(&asked.iso_jitter), [(30, false)]);
        assert!(Line::try_parse_from(["serve", "--iso-jitter", "0"]).is_err());
    }

    #[test]
    fn a_pid_file_lives_as_long_as_the_server() {
        let path = std::env::temp_dir().join(format!("pid-file-{}", std::process::id()));
        let file = PidFile::write(path.clone()).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_pid_file_costs_nobody_a_file() {
        let path = std::env::temp_dir().join(format!("pid-check-{}", std::process::id()));
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let error = PidFile::check(&path).err().map(|error| error.to_string());
            assert_eq!(std::fs::read_to_string(&path).expect("still there"), text);
            error
        };
        assert!(refused("a letter").is_some_and(|text| text.contains("holds no process id")));
        let parent = format!("{}\n", std::os::unix::process::parent_id());
        assert!(refused(&parent).is_some_and(|text| text.contains("which runs")));
        assert_eq!(refused("4294967295\n"), None, "the process is over");
        assert_eq!(refused(""), None);
        let file = PidFile::write(path.clone()).expect("written");
        std::fs::write(&path, parent).expect("another server took it");
        drop(file);
        assert!(path.exists(), "it belongs to another server");
        std::fs::remove_file(&path).expect("there");
        assert!(PidFile::check(&path).is_ok());
    }
}
