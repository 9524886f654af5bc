//! `stats`: what a running server does, by its admin socket.

mod text;

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::error::Error;
use crate::limits;
use crate::serve::admin::place;
use crate::telemetry::report::{Stats, VERSION};

/// How long a server may take for its first answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the picture of `--watch` changes, in milliseconds.
const WATCH_INTERVAL_MS: u64 = 1000;

/// Clears the terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show what a running server does: rates, errors, latencies, missed packets
#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Admin socket of the server, where more than one runs here
    #[arg(short, long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Show it again every second, with the rates of that second
    #[arg(short, long)]
    watch: bool,
    /// Print JSON, one line per answer
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatsArgs, out: &mut dyn Write) -> Result<(), Error> {
    let path = match &args.server {
        Some(path) => path.clone(),
        None => only(&place::running())?,
    };
    let mut server = Server::connect(&path)?;
    server.ask(args.watch)?;
    let mut last: Option<Stats> = None;
    while let Some(line) = server.line()? {
        if args.json {
            out.write_all(line.as_bytes())?;
            out.flush()?;
        } else {
            let stats: Stats = server.read(&line)?;
            if args.watch && io::stdout().is_terminal() {
                out.write_all(CLEAR.as_bytes())?;
            }
            text::print(&stats, last.as_ref(), out)?;
            out.flush()?;
            last = Some(stats);
        }
        if !args.watch {
            return Ok(());
        }
    }
    Err(Error::Failed("the server has ended".to_owned()))
}

/// The one server that runs here.
pub(super) fn only(running: &[PathBuf]) -> Result<PathBuf, Error> {
    match running {
        [path] => Ok(path.clone()),
        [] => Err(Error::Failed(
            "no server of this user runs here; start one: usbip-fast serve --simulate zero, ask \
             root's: sudo usbip-fast stats, or name a socket: usbip-fast stats -s PATH"
                .to_owned(),
        )),
        several => {
            let choices: Vec<_> = several
                .iter()
                .map(|path| format!("usbip-fast stats -s {}", path.display()))
                .collect();
            Err(Error::Failed(format!(
                "{} servers run here; choose one: {}",
                several.len(),
                choices.join(" or ")
            )))
        }
    }
}

/// A connection to an admin socket.
pub(super) struct Server<'a> {
    path: &'a Path,
    stream: BufReader<UnixStream>,
}

impl<'a> Server<'a> {
    pub fn connect(path: &'a Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "it is another user's; type: sudo usbip-fast stats"
                }
                _ => "no server listens there; to see those that run: usbip-fast stats",
            };
            Error::Failed(format!("cannot connect to {}: {error}; {advice}", path.display()))
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { path, stream: BufReader::new(stream) })
    }

    fn ask(&mut self, watch: bool) -> Result<(), Error> {
        let interval_ms = WATCH_INTERVAL_MS;
        let request = match watch {
            false => serde_json::json!({ "v": VERSION, "cmd": "stats" }),
            true => serde_json::json!({
                "v": VERSION, "cmd": "stats", "watch": true, "interval_ms": interval_ms
            }),
        };
        self.say(&request)
    }

    /// Sends a request.
    pub fn say(&mut self, request: &serde_json::Value) -> Result<(), Error> {
        let line = format!("{request}\n");
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|error| self.failed(&error))
    }

    /// The next line, its end included; `None` when the server has ended.
    pub fn line(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        let bound = limits::ADMIN_REPLY_BYTES as u64;
        let count = (&mut self.stream).take(bound).read_line(&mut line);
        match count.map_err(|error| self.failed(&error))? {
            0 => Ok(None),
            _ if line.ends_with('\n') => Ok(Some(line)),
            _ => Err(Error::Failed(format!("{} broke off its answer", self.path.display()))),
        }
    }

    /// Understands an answer.
    pub fn read<T: serde::de::DeserializeOwned>(&self, line: &str) -> Result<T, Error> {
        #[derive(serde::Deserialize)]
        struct Refusal {
            error: String,
        }
        serde_json::from_str(line).map_err(|error| {
            let cause = match serde_json::from_str::<Refusal>(line) {
                Ok(refusal) => refusal.error,
                Err(_) => format!("its answer is not understood: {error}"),
            };
            Error::Failed(format!("the server at {} says: {cause}", self.path.display()))
        })
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::Failed(format!("the server at {} does not answer: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_there_must_be_one_server() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(only(&paths(&["/a"])).expect("one"), Path::new("/a"));
        assert!(only(&[]).expect_err("none").to_string().contains("usbip-fast serve"));
        let several = only(&paths(&["/a", "/b"])).expect_err("two").to_string();
        assert!(several.ends_with("usbip-fast stats -s /a or usbip-fast stats -s /b"), "{several}");
    }
}
