//! TEMPORARY stand-in.

use usbip_fast_native::Reactor;

/// Which.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Best.
    Auto,
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
    /// kqueue.
    Kqueue,
}

/// Opens.
pub fn open(choice: Choice) -> Result<(Box<dyn Reactor>, String), String> {
    match choice {
        Choice::Epoll => usbip_fast_native::linux::epoll::open()
            .map(|reactor| (reactor, "epoll".to_owned()))
            .map_err(|error| error.to_string()),
        _ => usbip_fast_native::linux::uring::open(Default::default())
            .map(|(reactor, mode)| (reactor, format!("io-uring {mode:?}")))
            .map_err(|error| error.to_string()),
    }
}
