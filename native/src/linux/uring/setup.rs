//! Opening a ring: probing the kernel, stepping the flags down, saying why not.

use io_uring::{Builder, IoUring, Probe, cqueue, opcode, squeue};

use crate::backend::{Options, RingMode};
use crate::op::OsError;

const MODES: [RingMode; 3] = [RingMode::Deferred, RingMode::Cooperative, RingMode::Interrupting];

impl RingMode {
    fn apply(self, builder: &mut Builder<squeue::Entry, cqueue::Entry>, spins: bool) {
        match self {
            Self::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
            }
            Self::Cooperative => {
                builder.setup_coop_taskrun().setup_submit_all();
            }
            Self::Interrupting => return,
        }
        // Whoever spins must see without a kernel entry that one would bring completions.
        if spins {
            builder.setup_taskrun_flag();
        }
    }

    /// The mode for people, who learn why it is not `best`.
    #[must_use]
    pub fn describe(self, best: Self) -> String {
        let (name, cause) = match self {
            Self::Deferred => ("DEFER_TASKRUN", ""),
            Self::Cooperative => ("COOP_TASKRUN", ", the kernel is older than 6.1"),
            Self::Interrupting => ("no task-run flags", ", the kernel is older than 5.19"),
        };
        if self == best { name.to_owned() } else { format!("{name}{cause}") }
    }
}

/// Why there is no io_uring here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The kernel has none (`ENOSYS`), or a filter says so.
    #[error("this kernel has no io_uring")]
    Absent,
    /// `EPERM` because of the sysctl `kernel.io_uring_disabled`, whose value this is.
    #[error("the sysctl kernel.io_uring_disabled is {0}")]
    Disabled(u8),
    /// `EPERM` or `EACCES` for another reason: a seccomp filter or a security module.
    #[error("a seccomp filter or security policy denies it ({0})")]
    Filtered(OsError),
    /// It works, but lacks something this program needs.
    #[error("the kernel's io_uring is too old: it lacks {0}")]
    TooOld(&'static str),
    /// Something else.
    #[error("{0}")]
    System(OsError),
}

impl Refused {
    /// What to type to get io_uring, if there is anything.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Disabled(_) => Some("sysctl -w kernel.io_uring_disabled=0"),
            Self::Filtered(_) => Some(
                "docker run --security-opt seccomp=PROFILE.json (a profile that allows \
                 io_uring_setup, io_uring_enter and io_uring_register)",
            ),
            Self::System(OsError(libc::ENOMEM)) => Some("ulimit -l unlimited"),
            Self::Absent | Self::TooOld(_) | Self::System(_) => None,
        }
    }
}

/// Opens a ring with the best flags the kernel takes.
pub(super) fn open(options: &Options) -> Result<(IoUring, RingMode), Refused> {
    let entries = options.queue_entries;
    let mut refusal = Refused::Absent;
    for mode in MODES.into_iter().filter(|&mode| mode >= options.ring_mode) {
        let mut builder = IoUring::builder();
        // More room than for submissions, because operations stay in flight for long.
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(4)).dontfork();
        mode.apply(&mut builder, !options.spin.is_zero());
        match builder.build(entries) {
            Ok(mut ring) => {
                examine(&mut ring)?;
                return Ok((ring, mode));
            }
            Err(error) => {
                let error = OsError(error.raw_os_error().unwrap_or(libc::EIO));
                refusal = explain(error);
                // Only "unknown flag" is a reason to ask for less.
                if error.0 != libc::EINVAL {
                    break;
                }
            }
        }
    }
    Err(refusal)
}

fn explain(error: OsError) -> Refused {
    match error.0 {
        libc::ENOSYS => Refused::Absent,
        libc::EPERM | libc::EACCES => match disabled_by_sysctl() {
            Some(value @ 1..) => Refused::Disabled(value),
            _ => Refused::Filtered(error),
        },
        _ => Refused::System(error),
    }
}

fn disabled_by_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Checks that everything the reactor uses is there and that the ring turns.
fn examine(ring: &mut IoUring) -> Result<(), Refused> {
    let parameters = ring.params();
    if !parameters.is_feature_nodrop() {
        return Err(Refused::TooOld("NODROP (5.5)"));
    }
    if !parameters.is_feature_ext_arg() {
        return Err(Refused::TooOld("EXT_ARG (5.11)"));
    }
    // The feature bit of the version that brought multishot polling, which has none of its own.
    if !parameters.is_feature_resource_tagging() {
        return Err(Refused::TooOld("multishot POLL_ADD (5.13)"));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| system(&error))?;
    if let Some((_, name)) = NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(Refused::TooOld(name));
    }
    // A filter may let a ring be made and then refuse to turn it.
    // SAFETY: a no-op refers to no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }
        .expect("a new submission queue has room");
    ring.submit_and_wait(1).map_err(|error| explain(raw(&error)))?;
    let completed = ring.completion().next().expect("one completion was waited for");
    if completed.result() < 0 {
        return Err(Refused::System(OsError(-completed.result())));
    }
    Ok(())
}

fn system(error: &std::io::Error) -> Refused {
    explain(raw(error))
}

fn raw(error: &std::io::Error) -> OsError {
    OsError(error.raw_os_error().unwrap_or(libc::EIO))
}

const NEEDED: [(u8, &str); 9] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::RecvMsg::CODE, "RECVMSG"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
];
