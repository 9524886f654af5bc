//! What a command ends with: one line that names the cause and what to type next.

use crate::attach::AttachError;
use crate::host::HostError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device could not be imported, or a server not be asked.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Something else; the text is one whole line with its advice.
    #[error("{0}")]
    Failed(String),
    /// A host controller could not do what was asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The answer could not be written where it should go.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// What the command found is told already; only the exit code is left to say.
    #[error("problems were found")]
    Reported,
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
            Self::Usage(_) => 2,
            Self::Attach(_)
            | Self::Failed(_)
            | Self::Host(_)
            | Self::Output(_)
            | Self::Reported => 1,
        }
    }
}
