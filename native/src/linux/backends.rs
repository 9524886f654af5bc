//! The reactors of Linux.

use crate::backend::{Backend, Opened, Options, Refusal};
use crate::linux::{epoll, uring};

pub(crate) const PREFERRED: &[Backend] = &[Backend::IoUring, Backend::Epoll];

pub(crate) fn open(backend: Backend, options: &Options) -> Result<Opened, Refusal> {
    match backend {
        Backend::IoUring => uring::open(options)
            .map(|(reactor, mode)| Opened { reactor, detail: mode.describe(options.ring_mode) })
            .map_err(|refused| {
                let (reason, remedy) = (refused.to_string(), refused.remedy());
                Refusal::Kernel { backend, reason, remedy }
            }),
        Backend::Epoll => epoll::open(options.spin)
            .map(|reactor| Opened { reactor, detail: String::new() })
            .map_err(|error| Refusal::Kernel { backend, reason: error.to_string(), remedy: None }),
        Backend::Kqueue => Err(Refusal::NotHere(backend)),
    }
}
