//! The log: to stderr, as text for people or as JSON lines for programs.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;

/// Form of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The least important level that is written. Zero steps show what a user should know; each `-v`
/// adds a level, each `-q` takes one away.
#[must_use]
pub const fn level(verbose: u8, quiet: u8) -> LevelFilter {
    match verbose as i16 - quiet as i16 {
        2.. => LevelFilter::TRACE,
        1 => LevelFilter::DEBUG,
        0 => LevelFilter::INFO,
        -1 => LevelFilter::WARN,
        -2 => LevelFilter::ERROR,
        _ => LevelFilter::OFF,
    }
}

/// Starts the log of this process. Colour only on a terminal whose user did not decline it
/// (`NO_COLOR`). A second call changes nothing.
///
/// A line that cannot be written is lost and nothing else happens: told on stderr, as the library
/// would, the loss of stderr itself ends the process, and a server must outlive its terminal.
pub fn start(level: LevelFilter, format: LogFormat) {
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(stderr)
        .log_internal_errors(false);
    let result = match format {
        LogFormat::Text => builder.with_ansi(colour).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "the log runs already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_move_the_level() {
        assert_eq!(level(0, 0), LevelFilter::INFO);
        assert_eq!(level(1, 0), LevelFilter::DEBUG);
        assert_eq!(level(9, 0), LevelFilter::TRACE);
        assert_eq!(level(0, 1), LevelFilter::WARN);
        assert_eq!(level(1, 1), LevelFilter::INFO);
        assert_eq!(level(0, 9), LevelFilter::OFF);
    }
}
