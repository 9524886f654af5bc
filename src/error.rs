//! What a command ends with: one line that names the cause and what to type next.

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be done; the text is one whole line with its advice.
    #[error("{0}")]
    Failed(String),
    /// The answer could not be written where it should go.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// What the command found is told already; only the exit code is left to say.
    #[error("problems were found")]
    Reported,
    /// A slip in a configuration file, with its place and its line: the only text of several lines.
    #[error("{0}")]
    File(String),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// A failure with its cause and the next command to type.
    #[must_use]
    pub fn with_advice(cause: impl std::fmt::Display, advice: &str) -> Self {
        Self::Failed(format!("{cause}; type: {advice}"))
    }

    /// What the process tells its caller: 1 for a failure, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::File(_) | Self::Usage(_) => 2,
            Self::Failed(_) | Self::Output(_) | Self::Reported => 1,
        }
    }
}
