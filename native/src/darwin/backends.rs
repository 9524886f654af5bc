//! The reactor of macOS.

use crate::backend::{Backend, Opened, Options, Refusal};
use crate::darwin::kqueue;

pub(crate) const PREFERRED: &[Backend] = &[Backend::Kqueue];

pub(crate) fn open(backend: Backend, options: &Options) -> Result<Opened, Refusal> {
    match backend {
        Backend::Kqueue => kqueue::open(options.spin)
            .map(|reactor| Opened { reactor, detail: String::new() })
            .map_err(|error| Refusal::Kernel { backend, reason: error.to_string(), remedy: None }),
        Backend::IoUring | Backend::Epoll => Err(Refusal::NotHere(backend)),
    }
}
