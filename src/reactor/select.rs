//! Which kernel interface a core runs on, and why.

use std::fmt;

use usbip_fast_native::Reactor;
use usbip_fast_native::backend::{self, Backend, Opened, Options, Refusal};

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that this system allows.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll or nothing.
    Epoll,
    /// kqueue or nothing.
    Kqueue,
}

/// What it came to; its text is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The reactor's [`name`](Reactor::name).
    pub name: &'static str,
    /// How it runs, and what was passed over and why.
    pub reason: String,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// No reactor of those asked for can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Every candidate was refused; the text names each with its cause and the command to type.
    #[error("{0}")]
    Refused(String),
    /// This system has none at all.
    #[error("only supported on Linux and macOS")]
    Unsupported,
}

/// Opens a reactor for the calling thread.
///
/// # Errors
///
/// See [`SelectError`].
pub fn open(
    choice: Choice,
    options: &Options,
) -> Result<(Box<dyn Reactor>, Selection), SelectError> {
    let candidates = candidates(choice, backend::preferred());
    let (backend, opened, passed_over) =
        first(&candidates, |backend| backend::open(backend, options))?;
    let Opened { reactor, detail } = opened;
    let reason = [detail].into_iter().chain(passed_over).filter(|text| !text.is_empty());
    let reason = reason.collect::<Vec<_>>().join("; ");
    Ok((reactor, Selection { name: backend.name(), reason }))
}

/// The first candidate that opens, and why those before it did not.
fn first<T>(
    candidates: &[Backend],
    mut open: impl FnMut(Backend) -> Result<T, Refusal>,
) -> Result<(Backend, T, Vec<String>), SelectError> {
    let mut passed_over = Vec::new();
    for &backend in candidates {
        match open(backend) {
            Ok(opened) => return Ok((backend, opened, passed_over)),
            Err(Refusal::Unsupported) => return Err(SelectError::Unsupported),
            Err(refusal) => passed_over.push(explain(&refusal)),
        }
    }
    if passed_over.is_empty() {
        return Err(SelectError::Unsupported);
    }
    Err(SelectError::Refused(passed_over.join("; ")))
}

fn explain(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Kernel { remedy: Some(remedy), .. } => format!("{refusal}; to allow it: {remedy}"),
        _ => refusal.to_string(),
    }
}

fn candidates(choice: Choice, preferred: &[Backend]) -> Vec<Backend> {
    match choice {
        Choice::Auto => preferred.to_vec(),
        Choice::IoUring => vec![Backend::IoUring],
        Choice::Epoll => vec![Backend::Epoll],
        Choice::Kqueue => vec![Backend::Kqueue],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: [Backend; 2] = [Backend::IoUring, Backend::Epoll];

    fn refused(backend: Backend) -> Refusal {
        let (reason, remedy) = ("a filter denies it".to_owned(), Some("allow --it"));
        Refusal::Kernel { backend, reason, remedy }
    }

    #[test]
    fn auto_takes_the_first_that_opens_and_says_what_it_passed_over() {
        let candidates = candidates(Choice::Auto, &LINUX);
        let (backend, (), passed_over) = first(&candidates, |backend| match backend {
            Backend::Epoll => Ok(()),
            _ => Err(refused(backend)),
        })
        .expect("epoll opens");
        assert_eq!(backend, Backend::Epoll);
        let text = "io-uring is refused: a filter denies it; to allow it: allow --it";
        assert_eq!(passed_over, [text]);
    }

    #[test]
    fn a_named_reactor_is_that_one_or_none() {
        let candidates = candidates(Choice::IoUring, &LINUX);
        let error = first::<()>(&candidates, |backend| Err(refused(backend))).expect_err("refused");
        assert!(error.to_string().contains("allow --it"), "{error}");
        let (_, selection) = open(Choice::Auto, &Options::default()).expect("a reactor");
        assert!(selection.to_string().starts_with(selection.name));
    }

    #[test]
    fn a_system_without_reactors_says_so() {
        let error = first::<()>(&candidates(Choice::Auto, &[]), |_| unreachable!("none to try"));
        assert_eq!(error.expect_err("none").to_string(), "only supported on Linux and macOS");
        let error = first::<()>(&[Backend::Kqueue], |_| Err(Refusal::Unsupported));
        assert_eq!(error, Err(SelectError::Unsupported));
    }
}
