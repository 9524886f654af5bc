//! The files of `vhci_hcd`, the virtual host controller (kernel.md §2.1), and the records beside
//! them that the stock tool reads.
//!
//! Everything stands below two folders given by the caller, so that a fake tree can be tested.
//! Nothing here decides anything: choice of port and retries belong to the caller.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::socket::{
    KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, USER_TIMEOUT_MS,
};

/// Where the driver's files and the stock tool's records are.
#[derive(Clone, Debug)]
pub struct Files {
    sysfs: PathBuf,
    records: PathBuf,
}

/// The text of one `status` file: the ports of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusText {
    /// Number of the controller: 0 for `status`, N for `status.N`.
    pub controller: u32,
    /// Content of the file, header line included.
    pub text: String,
}

impl Files {
    /// The files of the running system.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/sys", "/var/run/vhci_hcd")
    }

    /// Files below `sysfs` in place of `/sys`, records below `records`.
    #[must_use]
    pub fn at(sysfs: impl Into<PathBuf>, records: impl Into<PathBuf>) -> Self {
        Self { sysfs: sysfs.into(), records: records.into() }
    }

    /// Whether the driver is loaded.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.driver().join("status").exists()
    }

    /// Asks `modprobe` for the driver. Waits for it; needs root.
    ///
    /// # Errors
    ///
    /// What modprobe printed, or why it could not be run.
    pub fn load_driver(&self) -> io::Result<()> {
        let output = Command::new("modprobe").arg("vhci-hcd").stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(text.lines().next().unwrap_or("modprobe failed").to_owned()))
    }

    /// All status files, in the order of their controllers. Takes a spin lock of the driver only.
    ///
    /// # Errors
    ///
    /// When the driver is not loaded or a file cannot be read.
    pub fn status(&self) -> io::Result<Vec<StatusText>> {
        let driver = self.driver();
        let mut found = Vec::new();
        for entry in fs::read_dir(&driver)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(controller) = name.to_str().and_then(controller_of) else { continue };
            found.push(StatusText { controller, text: fs::read_to_string(entry.path())? });
        }
        found.sort_by_key(|status| status.controller);
        Ok(found)
    }

    /// Tries whether this process may attach and detach.
    ///
    /// # Errors
    ///
    /// EACCES: needs root.
    pub fn check_rights(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.driver().join("attach")).map(drop)
    }

    /// Gives a connected stream socket to the driver. The kernel looks the number up in the
    /// writing process and takes a reference of its own: the caller may close its descriptor
    /// afterwards and must never read or write it again.
    ///
    /// # Errors
    ///
    /// EBUSY: the port is taken, try another. EAGAIN: the controller is not ready, try again.
    /// EINVAL: port, speed or socket refused. EACCES: needs root.
    pub fn attach(
        &self,
        port: u32,
        connection: BorrowedFd<'_>,
        device_id: u32,
        speed: u32,
    ) -> io::Result<()> {
        let number = connection.as_raw_fd();
        self.write("attach", &format!("{port} {number} {device_id} {speed}"))
    }

    /// Takes the device off a port.
    ///
    /// # Errors
    ///
    /// EINVAL: nothing is attached there, or there is no such port. EACCES: needs root.
    pub fn detach(&self, port: u32) -> io::Result<()> {
        self.write("detach", &port.to_string())
    }

    /// The record of a port, as written by [`Files::write_record`] or the stock tool.
    #[must_use]
    pub fn record(&self, port: u32) -> Option<String> {
        fs::read_to_string(self.record_path(port)).ok()
    }

    /// Notes where the device of a port comes from, for the stock tool and for us.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made or the file not written.
    pub fn write_record(&self, port: u32, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.records)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.record_path(port))?;
        file.write_all(text.as_bytes())
    }

    /// Removes the record of a port; one that does not exist is fine.
    ///
    /// # Errors
    ///
    /// When a file exists and cannot be removed.
    pub fn remove_record(&self, port: u32) -> io::Result<()> {
        match fs::remove_file(self.record_path(port)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// An attribute of the local USB device `bus_id`, without white space at its ends. `None` when
    /// it does not exist (yet) or is empty.
    #[must_use]
    pub fn attribute(&self, bus_id: &str, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.device(bus_id).join(name)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Everything below the local USB device `bus_id`, at any depth, that the kernel has an entry
    /// for. Empty when the device does not exist.
    #[must_use]
    pub fn descendants(&self, bus_id: &str) -> Vec<Descendant> {
        let mut found = Vec::new();
        if let Ok(root) = fs::canonicalize(self.device(bus_id)) {
            walk(&root, 0, &mut found);
        }
        found
    }

    fn device(&self, bus_id: &str) -> PathBuf {
        self.sysfs.join("bus/usb/devices").join(bus_id)
    }

    fn driver(&self) -> PathBuf {
        let platform = self.sysfs.join("devices/platform");
        let numbered = platform.join("vhci_hcd.0");
        // Kernels before 4.9 know one controller, without a number.
        if numbered.exists() { numbered } else { platform.join("vhci_hcd") }
    }

    fn record_path(&self, port: u32) -> PathBuf {
        self.records.join(format!("port{port}"))
    }

    /// One write call with the whole text, without a newline, as sysfs wants it.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.driver().join(name))?;
        let written = file.write(text.as_bytes())?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// A folder of sysfs below a USB device that stands for something of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descendant {
    /// Last part of its path: `1-1:1.0`, `ttyACM0`, `card1`.
    pub name: String,
    /// Kernel subsystem: `usb`, `tty`, `block`, `net`, `sound`.
    pub subsystem: String,
    /// Bound driver, if it is a thing that has one.
    pub driver: Option<String>,
    /// Name of its node below `/dev`, if it has one.
    pub node: Option<String>,
}

/// Deep enough for a disk's partition behind a hub-free device, shallow enough to end at loops.
const WALK_DEPTH: usize = 12;

fn walk(folder: &Path, depth: usize, found: &mut Vec<Descendant>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Links lead out of the subtree (`driver`, `subsystem`, `port`).
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if let Some(subsystem) = link_name(&path.join("subsystem")) {
            let uevent = fs::read_to_string(path.join("uevent")).unwrap_or_default();
            found.push(Descendant {
                name: entry.file_name().to_string_lossy().into_owned(),
                subsystem,
                driver: link_name(&path.join("driver")),
                node: uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(Into::into),
            });
        }
        if depth < WALK_DEPTH {
            walk(&path, depth + 1, found);
        }
    }
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn controller_of(file_name: &str) -> Option<u32> {
    match file_name.strip_prefix("status")? {
        "" => Some(0),
        rest => rest.strip_prefix('.')?.parse().ok(),
    }
}

/// Sets what the driver leaves alone on a TCP connection that it is about to get: no delay of
/// small packets, and a dead peer is noticed within 11 seconds. No limit of unsent bytes: the
/// kernel's sender waits for room and needs no readiness. A socket of another family (a
/// local pair) has no such options and stays as it is.
///
/// # Errors
///
/// When an option that the socket has is refused.
pub fn prepare_connection(connection: BorrowedFd<'_>) -> io::Result<()> {
    if family(connection)? == libc::AF_UNIX {
        return Ok(());
    }
    set_option(connection, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(connection, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(connection, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)?;
    set_option(connection, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)?;
    set_option(connection, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
    set_option(connection, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
}

fn family(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)
}

fn option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).expect("four bytes");
    // SAFETY: value and length are valid for writes of the size that length states, for the
    // duration of the call; the descriptor is open while it is borrowed.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("four bytes");
    // SAFETY: value is valid for reads of length bytes for the duration of the call; the
    // descriptor is open while it is borrowed.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("vhci-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).expect("temporary folder");
            Self(root)
        }

        fn files(&self) -> Files {
            Files::at(self.0.join("sys"), self.0.join("run/vhci_hcd"))
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("inside the tree")).expect("folder");
            fs::write(path, text).expect("file");
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn status_files_come_in_the_order_of_their_numbers() {
        let tree = Tree::new("order");
        assert!(!tree.files().is_loaded());
        for index in [10, 2, 1] {
            tree.put(&format!("sys/devices/platform/vhci_hcd.0/status.{index}"), "x");
        }
        tree.put("sys/devices/platform/vhci_hcd.0/status", "first");
        tree.put("sys/devices/platform/vhci_hcd.0/status_other", "no");
        assert!(tree.files().is_loaded());
        let status = tree.files().status().expect("readable");
        let controllers: Vec<_> = status.iter().map(|status| status.controller).collect();
        assert_eq!(controllers, [0, 1, 2, 10]);
        assert_eq!(status[0].text, "first");
    }

    #[test]
    fn a_folder_without_number_is_found() {
        let tree = Tree::new("old");
        tree.put("sys/devices/platform/vhci_hcd/status", "old");
        assert_eq!(tree.files().status().expect("readable")[0].text, "old");
    }

    #[test]
    fn attach_writes_four_decimals() {
        let tree = Tree::new("attach");
        tree.put("sys/devices/platform/vhci_hcd.0/attach", "");
        tree.put("sys/devices/platform/vhci_hcd.0/detach", "");
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        tree.files().attach(18, ours.as_fd(), 0x0001_0002, 5).expect("writable");
        let text = fs::read_to_string(tree.0.join("sys/devices/platform/vhci_hcd.0/attach"));
        assert_eq!(text.expect("readable"), format!("18 {} 65538 5", ours.as_raw_fd()));
        tree.files().detach(7).expect("writable");
        let text = fs::read_to_string(tree.0.join("sys/devices/platform/vhci_hcd.0/detach"));
        assert_eq!(text.expect("readable"), "7");
    }

    #[test]
    fn the_error_of_the_write_is_passed_on() {
        let tree = Tree::new("refused");
        tree.put("sys/devices/platform/vhci_hcd.0/status", "");
        // A real kernel file that refuses this text with the same error number as the driver.
        let attach = tree.0.join("sys/devices/platform/vhci_hcd.0/attach");
        std::os::unix::fs::symlink("/proc/self/oom_score_adj", attach).expect("link");
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let error = tree.files().attach(0, ours.as_fd(), 1, 3).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn records_are_private_and_go_away() {
        let tree = Tree::new("records");
        let files = tree.files();
        assert_eq!(files.record(3), None);
        files.write_record(3, "host 3240 1-1\n").expect("written");
        assert_eq!(files.record(3).as_deref(), Some("host 3240 1-1\n"));
        let mode = fs::metadata(tree.0.join("run/vhci_hcd")).expect("exists").mode();
        assert_eq!(mode & 0o777, 0o700);
        files.remove_record(3).expect("removed");
        files.remove_record(3).expect("nothing there is fine");
        assert_eq!(files.record(3), None);
    }

    #[test]
    fn descendants_have_subsystem_driver_and_node() {
        let tree = Tree::new("walk");
        let base = "sys/devices/platform/vhci_hcd.0/usb1/1-1";
        tree.put(&format!("{base}/1-1:1.0/tty/ttyACM0/uevent"), "MAJOR=166\nDEVNAME=ttyACM0\n");
        tree.put(&format!("{base}/1-1:1.0/uevent"), "DRIVER=cdc_acm\n");
        tree.put(&format!("{base}/product"), "Serial\n");
        let link = |target: &str, at: &str| {
            std::os::unix::fs::symlink(target, tree.0.join(base).join(at)).expect("link");
        };
        link("/sys/class/tty", "1-1:1.0/tty/ttyACM0/subsystem");
        link("/sys/bus/usb", "1-1:1.0/subsystem");
        link("/sys/bus/usb/drivers/cdc_acm", "1-1:1.0/driver");
        fs::create_dir_all(tree.0.join("sys/bus/usb/devices")).expect("folder");
        std::os::unix::fs::symlink(tree.0.join(base), tree.0.join("sys/bus/usb/devices/1-1"))
            .expect("link");
        let found = tree.files().descendants("1-1");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].driver.as_deref(), Some("cdc_acm"));
        assert_eq!(found[0].node, None);
        assert_eq!(found[1].subsystem, "tty");
        assert_eq!(found[1].node.as_deref(), Some("ttyACM0"));
        assert_eq!(tree.files().attribute("1-1", "product").as_deref(), Some("Serial"));
        assert_eq!(tree.files().attribute("1-1", "serial"), None);
    }

    #[test]
    fn a_connection_is_prepared() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).expect("connected");
        prepare_connection(stream.as_fd()).expect("options exist");
        let read = |level, name| option(stream.as_fd(), level, name).expect("readable");
        assert_eq!(read(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
        assert_eq!(read(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(read(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 5);
        assert_eq!(read(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), 10_000);
        let (pair, _other) = UnixStream::pair().expect("pair");
        prepare_connection(pair.as_fd()).expect("a local pair is left alone");
    }
}
