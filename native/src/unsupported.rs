//! Systems without a reactor of ours: everything compiles, and says so when it is used.

/// No reactors.
pub(crate) mod backends {
    use crate::backend::{Backend, Opened, Options, Refusal};

    pub(crate) const PREFERRED: &[Backend] = &[];

    pub(crate) fn open(_backend: Backend, _options: &Options) -> Result<Opened, Refusal> {
        Err(Refusal::Unsupported)
    }
}

/// No sockets.
pub(crate) mod sockets {
    use libc::c_int;

    use crate::handle::Handle;
    use crate::op::OsError;

    pub(crate) const CREATION_FLAGS: c_int = 0;
    pub(crate) const SEND_FLAGS: c_int = 0;
    pub(crate) const TCP_OPTIONS: &[(c_int, c_int)] = &[];

    pub(crate) fn finish_creation(_socket: &Handle) -> Result<(), OsError> {
        Err(OsError(libc::ENOSYS))
    }
}

/// No more than what every Unix has.
pub(crate) mod system {
    /// The handler of signals does without: nobody waits for them here.
    pub(crate) fn set_errno(_number: libc::c_int) {}

    /// Unknown.
    #[must_use]
    pub fn resident_bytes() -> Option<u64> {
        None
    }

    pub(crate) fn pin(_core: usize) -> bool {
        false
    }
}

/// No priorities.
pub(crate) mod realtime {
    use crate::op::OsError;

    pub(crate) fn run_first(_priority: u8) -> Result<(), OsError> {
        Err(OsError(libc::ENOSYS))
    }

    pub(crate) fn lock_memory(_bytes: usize) -> Result<(), OsError> {
        Err(OsError(libc::ENOSYS))
    }
}
