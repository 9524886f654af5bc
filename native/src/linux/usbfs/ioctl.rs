//! The ioctls of a usbfs node and the half of an open node that may block.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::op::OsError;

/// Bits of [`Control::capabilities`].
pub mod capability {
    /// URBs can still be reaped after the device has gone.
    pub const REAP_AFTER_DISCONNECT: u32 = 0x10;
    /// DMA memory can be mapped.
    pub const MMAP: u32 = 0x20;
}

/// `struct usbdevfs_urb` up to its packets. Its layout is the kernel's on this architecture.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawUrb {
    pub kind: u8,
    pub endpoint: u8,
    pub status: c_int,
    pub flags: c_uint,
    pub buffer: *mut c_void,
    pub buffer_length: c_int,
    pub actual_length: c_int,
    pub start_frame: c_int,
    pub number_of_packets: c_int,
    pub error_count: c_int,
    pub signr: c_uint,
    pub usercontext: *mut c_void,
}

#[repr(C)]
struct RawSetInterface {
    interface: c_uint,
    alternate: c_uint,
}

const DRIVER_NAME_BYTES: usize = 256;

#[repr(C)]
struct RawGetDriver {
    interface: c_uint,
    driver: [u8; DRIVER_NAME_BYTES],
}

#[repr(C)]
struct RawDisconnectClaim {
    interface: c_uint,
    flags: c_uint,
    driver: [u8; DRIVER_NAME_BYTES],
}

#[repr(C)]
struct RawIoctl {
    interface: c_int,
    code: c_int,
    data: *mut c_void,
}

/// Request numbers; their size fields follow the architecture's pointers.
pub(super) mod number {
    use super::{
        RawDisconnectClaim, RawGetDriver, RawIoctl, RawSetInterface, RawUrb, c_int, c_uint, c_void,
    };

    const USB: u32 = b'U' as u32;

    pub const SET_INTERFACE: libc::Ioctl = libc::_IOR::<RawSetInterface>(USB, 4);
    pub const SET_CONFIGURATION: libc::Ioctl = libc::_IOR::<c_uint>(USB, 5);
    pub const GET_DRIVER: libc::Ioctl = libc::_IOW::<RawGetDriver>(USB, 8);
    pub const SUBMIT_URB: libc::Ioctl = libc::_IOR::<RawUrb>(USB, 10);
    pub const DISCARD_URB: libc::Ioctl = libc::_IO(USB, 11);
    pub const REAP_URB_NO_DELAY: libc::Ioctl = libc::_IOW::<*mut c_void>(USB, 13);
    pub const RELEASE_INTERFACE: libc::Ioctl = libc::_IOR::<c_uint>(USB, 16);
    pub const IOCTL: libc::Ioctl = libc::_IOWR::<RawIoctl>(USB, 18);
    pub const RESET: libc::Ioctl = libc::_IO(USB, 20);
    pub const CLEAR_HALT: libc::Ioctl = libc::_IOR::<c_uint>(USB, 21);
    pub const CONNECT: libc::Ioctl = libc::_IO(USB, 23);
    pub const CLAIM_PORT: libc::Ioctl = libc::_IOR::<c_uint>(USB, 24);
    pub const RELEASE_PORT: libc::Ioctl = libc::_IOR::<c_uint>(USB, 25);
    pub const GET_CAPABILITIES: libc::Ioctl = libc::_IOR::<c_int>(USB, 26);
    pub const DISCONNECT_CLAIM: libc::Ioctl = libc::_IOR::<RawDisconnectClaim>(USB, 27);
}

/// The name of a URB in flight, for a thread that only wants it killed.
///
/// It is the address of the record the kernel was given. Nobody dereferences it: the kernel
/// compares it with those of the URBs it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrbAddress(pub(super) usize);

impl UrbAddress {
    /// The address as a number.
    #[must_use]
    pub const fn to_bits(self) -> usize {
        self.0
    }

    /// The name behind a number made by [`UrbAddress::to_bits`].
    #[must_use]
    pub const fn from_bits(bits: usize) -> Self {
        Self(bits)
    }
}

/// The half of an open node whose calls wait for the device, for the hub thread or for drivers.
/// It can move to another thread. It cannot submit and it cannot reap.
#[derive(Debug)]
pub struct Control {
    node: OwnedFd,
}

/// The half of an open node that submits and reaps. There is one per open file, so that only one
/// [`Queue`](super::Queue) ever receives what the kernel has to say about its URBs.
#[derive(Debug)]
pub struct Lane {
    pub(super) node: OwnedFd,
}

impl Control {
    /// Opens the node of a device (`/dev/bus/usb/BBB/DDD`) to read and write. Opening wakes the
    /// device and may wait for it.
    ///
    /// # Errors
    ///
    /// What `open` says: `EACCES` without the right, `ENOENT` or `ENODEV` when it is gone.
    pub fn open(path: &Path) -> Result<Self, OsError> {
        let node = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| OsError(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
        Ok(Self { node: node.into() })
    }

    /// Opens a device's node and gives both halves.
    ///
    /// # Errors
    ///
    /// As [`Control::open`], and `EMFILE` without a second descriptor.
    pub fn open_with_lane(path: &Path) -> Result<(Self, Lane), OsError> {
        let control = Self::open(path)?;
        let node = control
            .node
            .try_clone()
            .map_err(|error| OsError(error.raw_os_error().unwrap_or(libc::EMFILE)))?;
        Ok((control, Lane { node }))
    }

    /// What the controller and this kernel can do: bits of [`capability`].
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is gone, `ENOTTY` before Linux 3.6.
    pub fn capabilities(&self) -> Result<u32, OsError> {
        let mut bits: u32 = 0;
        self.call(number::GET_CAPABILITIES, (&raw mut bits).cast())?;
        Ok(bits)
    }

    /// Name of the driver of an interface, `None` if it has none. Our own claims read `usbfs`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an interface that does not exist, `ENODEV` when the device is gone.
    pub fn driver(&self, interface: u8) -> Result<Option<String>, OsError> {
        let mut raw = RawGetDriver { interface: interface.into(), driver: [0; DRIVER_NAME_BYTES] };
        match self.call(number::GET_DRIVER, (&raw mut raw).cast()) {
            Ok(_) => {
                let name = CStr::from_bytes_until_nul(&raw.driver).unwrap_or_default();
                Ok(Some(name.to_string_lossy().into_owned()))
            }
            Err(OsError(libc::ENODATA)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes an interface, from whichever driver has it.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an interface that is not authorised or a device that is gone, `EINVAL` for one
    /// that does not exist.
    pub fn disconnect_and_claim(&self, interface: u8) -> Result<(), OsError> {
        let mut raw = RawDisconnectClaim {
            interface: interface.into(),
            flags: 0,
            driver: [0; DRIVER_NAME_BYTES],
        };
        self.call(number::DISCONNECT_CLAIM, (&raw mut raw).cast()).map(drop)
    }

    /// Gives an interface up. Its URBs are killed. No driver is bound again by this.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it was not ours.
    pub fn release_interface(&self, interface: u8) -> Result<(), OsError> {
        self.call_with_number(number::RELEASE_INTERFACE, interface.into())
    }

    /// Lets the kernel look for a driver for an interface that has none.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has one, `ENODEV` if none wants it.
    pub fn connect(&self, interface: u8) -> Result<(), OsError> {
        let mut raw = RawIoctl {
            interface: interface.into(),
            // The number of an ioctl without data fits 16 bits on every architecture but for the
            // direction bits, which the kernel compares as the 32 bits they are.
            code: number::CONNECT as u32 as c_int,
            data: std::ptr::null_mut(),
        };
        self.call(number::IOCTL, (&raw mut raw).cast()).map(drop)
    }

    /// Chooses an alternate setting; the interface's URBs are killed first and must be reaped.
    ///
    /// # Errors
    ///
    /// `EINVAL` for one that does not exist; the device's own refusal is `EPIPE`.
    pub fn set_interface(&self, interface: u8, alternate: u8) -> Result<(), OsError> {
        let mut raw = RawSetInterface { interface: interface.into(), alternate: alternate.into() };
        self.call(number::SET_INTERFACE, (&raw mut raw).cast()).map(drop)
    }

    /// Chooses a configuration; 0 leaves the device without one.
    ///
    /// # Errors
    ///
    /// `EBUSY` while anybody, we included, has an interface; `EINVAL` for one that does not exist.
    pub fn set_configuration(&self, value: u8) -> Result<(), OsError> {
        self.call_with_number(number::SET_CONFIGURATION, value.into())
    }

    /// Ends an endpoint's halt and resets its data toggle, at both ends.
    ///
    /// # Errors
    ///
    /// `ENOENT` for endpoint 0 or one that is not active; the device's own refusal is `EPIPE`.
    pub fn clear_halt(&self, endpoint: u8) -> Result<(), OsError> {
        self.call_with_number(number::CLEAR_HALT, endpoint.into())
    }

    /// Resets the device. Claims are lost, and without a claim on the port the kernel's drivers
    /// take their interfaces back.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it came back as another device.
    pub fn reset(&self) -> Result<(), OsError> {
        self.call(number::RESET, std::ptr::null_mut()).map(drop)
    }

    /// Kills a URB and waits until it is dead: when this returns, whatever it returns but for
    /// `ENODEV`, the device moves none of its data any more. It must still be reaped.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it had finished before, `ENODEV` when the device is gone and all its URBs are
    /// being killed.
    pub fn discard(&self, urb: UrbAddress) -> Result<(), OsError> {
        // The kernel looks the address up among the URBs of this open file and does not touch the
        // memory there, so any value is safe.
        let address = std::ptr::without_provenance_mut(urb.0);
        self.call(number::DISCARD_URB, address).map(drop)
    }

    /// On a hub's node: while this is open no driver is bound to a device on `port` by itself.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the port is claimed, `EINVAL` for a port the hub has not.
    pub fn claim_port(&self, port: u32) -> Result<(), OsError> {
        self.call_with_number(number::CLAIM_PORT, port)
    }

    /// Gives a claimed port up.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it was not ours.
    pub fn release_port(&self, port: u32) -> Result<(), OsError> {
        self.call_with_number(number::RELEASE_PORT, port)
    }

    fn call_with_number(&self, request: libc::Ioctl, value: u32) -> Result<(), OsError> {
        let mut value: c_uint = value;
        self.call(request, (&raw mut value).cast()).map(drop)
    }

    /// Makes a call whose argument is null, a bare number, or memory as large as the request says;
    /// private, so that the methods above are all its callers.
    fn call(&self, request: libc::Ioctl, argument: *mut c_void) -> Result<c_int, OsError> {
        // SAFETY: every caller above passes either no memory or a live, exclusively borrowed local
        // of exactly the type that the request number was made from. The kernel keeps no reference
        // to it after the call.
        let result = unsafe { libc::ioctl(self.node.as_raw_fd(), request, argument) };
        if result < 0 { Err(OsError::last()) } else { Ok(result) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn numbers_are_those_of_64_bit_linux() {
        let numbers = [
            (number::SET_INTERFACE, 0x8008_5504_u32),
            (number::SET_CONFIGURATION, 0x8004_5505),
            (number::GET_DRIVER, 0x4104_5508),
            (number::SUBMIT_URB, 0x8038_550a),
            (number::DISCARD_URB, 0x550b),
            (number::REAP_URB_NO_DELAY, 0x4008_550d),
            (number::RELEASE_INTERFACE, 0x8004_5510),
            (number::IOCTL, 0xc010_5512),
            (number::RESET, 0x5514),
            (number::CLEAR_HALT, 0x8004_5515),
            (number::CONNECT, 0x5517),
            (number::CLAIM_PORT, 0x8004_5518),
            (number::RELEASE_PORT, 0x8004_5519),
            (number::GET_CAPABILITIES, 0x8004_551a),
            (number::DISCONNECT_CLAIM, 0x8108_551b),
        ];
        for (ours, kernels) in numbers {
            assert_eq!(ours as u32, kernels);
        }
    }

    #[test]
    fn opening_nothing_says_so() {
        let error = Control::open("/dev/bus/usb/000/000".as_ref()).expect_err("no such node");
        assert_eq!(error, OsError(libc::ENOENT));
    }
}
