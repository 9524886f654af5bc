//! The findings on Linux.

use std::fs;
use std::path::{Path, PathBuf};

use usbip_fast_native::backend::{Options, RingMode};
use usbip_fast_native::linux::uring::{self, Refused};
use usbip_fast_native::linux::vhci::Files;
use usbip_fast_native::process::is_superuser;

use super::Finding;
use crate::device::usbfs::{self, Recovered};
use crate::host::vhci::Vhci;
use crate::host::{HostController, Hub, Port, PortState};

/// Less than this for all devices together is soon used up by one camera, in MiB.
const USBFS_MEMORY_MIB: u64 = 256;

/// Enough for the registered memory of a busy server, in bytes.
const LOCKED_BYTES: u64 = 64 * 1024 * 1024;

/// Enough for a thousand sessions with their device nodes.
const OPEN_FILES: u64 = 4096;

/// Bits of the capability sets: past permission checks, and over the limit of locked memory.
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn findings() -> Vec<Finding> {
    let system = System { root: PathBuf::from("/") };
    let mut findings = vec![
        system.kernel(),
        system.rights(is_superuser()),
        io_uring(&uring::open(&Options::default()).map(|(_, mode)| mode)),
        system.locked_memory(),
        system.open_files(),
        system.usbfs(),
        system.usbfs_memory(),
        system.vhci(),
    ];
    findings.extend(ports());
    findings.extend(usbfs::recover().into_iter().map(leftover));
    findings.push(system.helper_module("usbip_host", "only the kernel's own server needs it"));
    findings.push(system.helper_module("dummy_hcd", "only tests with gadgets need it"));
    findings
}

/// The files that describe this system, below a root of the caller's choice.
struct System {
    root: PathBuf,
}

impl System {
    fn text(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(path)).ok()?.trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn release(&self) -> String {
        self.text("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into())
    }

    fn kernel(&self) -> Finding {
        let release = self.release();
        let mut notes = vec![
            "an imported device must be attached again before its 2147483648th transfer".to_owned(),
        ];
        if version(&release).is_some_and(|version| version < (6, 12)) {
            notes.push("10 Gbit/s devices are imported at 5 Gbit/s".into());
        }
        if version(&release).is_some_and(|version| version < (4, 13)) {
            notes.push("USB 3 devices cannot be imported".into());
        }
        Finding::ok("kernel", format!("Linux {release}; {}", notes.join("; ")))
    }

    fn rights(&self, is_root: bool) -> Finding {
        if is_root {
            return Finding::ok("rights", "root");
        }
        if self.has_capability(CAP_DAC_OVERRIDE) {
            return Finding::ok("rights", "not root, but allowed to pass permission checks");
        }
        Finding::warn(
            "rights",
            "not root: simulated devices and lists only; attach and real devices need root",
            "sudo usbip-fast …",
        )
    }

    fn has_capability(&self, bit: u32) -> bool {
        let status = self.text("proc/self/status").unwrap_or_default();
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set >> bit & 1 == 1)
    }

    /// The soft limit; `None` is unlimited or unknown.
    fn limit(&self, name: &str) -> Option<u64> {
        let limits = self.text("proc/self/limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    }

    fn locked_memory(&self) -> Finding {
        let name = "locked memory";
        if self.has_capability(CAP_IPC_LOCK) {
            return Finding::ok(name, "no limit for this process");
        }
        match self.limit("Max locked memory") {
            Some(bytes) if bytes < LOCKED_BYTES => Finding::warn(
                name,
                format!("{} KiB: what is over it is not registered with io_uring", bytes / 1024),
                format!("ulimit -l {}", LOCKED_BYTES / 1024),
            ),
            Some(bytes) => Finding::ok(name, format!("{} MiB", bytes / 1024 / 1024)),
            None => Finding::ok(name, "unlimited"),
        }
    }

    fn open_files(&self) -> Finding {
        let name = "open files";
        match self.limit("Max open files") {
            Some(count) if count < OPEN_FILES => Finding::warn(
                name,
                format!("{count}: enough for about {} sessions", count / 4),
                format!("ulimit -n {OPEN_FILES}"),
            ),
            Some(count) => Finding::ok(name, count.to_string()),
            None => Finding::ok(name, "unlimited"),
        }
    }

    fn usbfs(&self) -> Finding {
        if self.exists("dev/bus/usb") {
            return Finding::ok("usbfs", "/dev/bus/usb is there: real devices can be exported");
        }
        if self.exists("sys/bus/usb") {
            return Finding::missing(
                "usbfs",
                "no /dev/bus/usb: device nodes are not made",
                "sudo udevadm trigger --subsystem-match=usb",
            );
        }
        Finding::warn(
            "usbfs",
            "this kernel runs without USB: only simulated devices can be exported",
            "sudo modprobe usbcore",
        )
    }

    fn usbfs_memory(&self) -> Finding {
        const FILE: &str = "sys/module/usbcore/parameters/usbfs_memory_mb";
        let name = "usbfs memory";
        match self.text(FILE).and_then(|text| text.parse::<u64>().ok()) {
            None => Finding::ok(name, "no usbfs, no limit"),
            Some(0) => Finding::ok(name, "unlimited"),
            Some(mib) if mib < USBFS_MEMORY_MIB => Finding::warn(
                name,
                format!("{mib} MiB for all exported devices together"),
                format!("echo {USBFS_MEMORY_MIB} | sudo tee /{FILE}"),
            ),
            Some(mib) => Finding::ok(name, format!("{mib} MiB")),
        }
    }

    fn vhci(&self) -> Finding {
        let name = "vhci_hcd";
        if self.exists("sys/devices/platform/vhci_hcd.0")
            || self.exists("sys/devices/platform/vhci_hcd")
        {
            return Finding::ok(name, "loaded: devices can be imported");
        }
        if self.has_module("vhci-hcd") {
            return Finding::missing(
                name,
                "not loaded: devices cannot be imported yet",
                "sudo modprobe vhci-hcd",
            );
        }
        Finding::missing(
            name,
            "this kernel comes without it: devices cannot be imported",
            "sudo apt install linux-image-amd64 (on Ubuntu linux-modules-extra-$(uname -r)), \
             and boot that kernel",
        )
    }

    fn helper_module(&self, name: &'static str, use_of_it: &str) -> Finding {
        let state = if self.exists(&format!("sys/module/{name}")) {
            "loaded"
        } else if self.has_module(&name.replace('_', "-")) || self.has_module(name) {
            "not loaded"
        } else {
            "not part of this kernel"
        };
        Finding::ok(name, format!("{state}; {use_of_it}"))
    }

    /// Whether the kernel's module folder knows `name`, as file or built in.
    fn has_module(&self, name: &str) -> bool {
        let folder = Path::new("lib/modules").join(self.release());
        ["modules.dep", "modules.builtin"].iter().any(|list| {
            let path = self.root.join(&folder).join(list);
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|line| {
                let file = line.split(':').next().unwrap_or_default();
                let stem = file.rsplit('/').next().unwrap_or_default();
                stem.split(".ko").next() == Some(name)
            })
        })
    }
}

fn io_uring(result: &Result<RingMode, Refused>) -> Finding {
    let name = "io_uring";
    let refused = match result {
        Ok(mode) => {
            return Finding::ok(name, format!("works ({})", mode.describe(RingMode::default())));
        }
        Err(refused) => refused,
    };
    let command = match refused {
        Refused::Disabled(_) => "sudo sysctl kernel.io_uring_disabled=0",
        Refused::Filtered(_) => "docker run --security-opt seccomp=unconfined …",
        _ => "",
    };
    Finding::warn(name, format!("{refused}: epoll is used"), command)
}

/// A device that a server which was killed had left without its drivers.
fn leftover(Recovered { bus_id, result }: Recovered) -> Finding {
    let left = format!("{bus_id} was left without drivers by a server that was killed");
    match result {
        Ok(drivers) => {
            let detail = format!("{left}; it has them again now: {}", drivers.join(", "));
            Finding::ok("left devices", detail)
        }
        Err(reason) if is_superuser() => Finding::warn(
            "left devices",
            format!("{left}: {reason}"),
            format!("plug {bus_id} in again"),
        ),
        Err(reason) => {
            Finding::warn("left devices", format!("{left}: {reason}"), "sudo usbip-fast doctor")
        }
    }
}

/// How many ports are free, when the driver is there. Does not load it.
fn ports() -> Option<Finding> {
    let files = Files::system();
    if !files.is_loaded() {
        return None;
    }
    let ports = match Vhci::open(files).and_then(|vhci| vhci.ports()) {
        Ok(ports) => ports,
        Err(error) => return Some(Finding::warn("vhci ports", error.to_string(), "")),
    };
    let (usb2, usb3): (Vec<_>, Vec<_>) = ports.iter().partition(|port| port.hub != Hub::Super);
    let free = |ports: &[&Port]| ports.iter().filter(|port| port.state == PortState::Free).count();
    let detail = format!(
        "{} of {} USB 2 ports and {} of {} USB 3 ports are free",
        free(&usb2),
        usb2.len(),
        free(&usb3),
        usb3.len()
    );
    // A driver without USB 3 ports lacks none.
    let full = |ports: &[&Port]| !ports.is_empty() && free(ports) == 0;
    Some(if full(&usb2) || full(&usb3) {
        Finding::warn("vhci ports", detail, "usbip-fast port, then usbip-fast detach -p PORT")
    } else {
        Finding::ok("vhci ports", detail)
    })
}

/// `6.1.0-56-amd64` is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    struct Tree(System);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("doctor-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("inside the tree")).expect("folder");
                fs::write(path, text).expect("file");
            }
            Self(System { root })
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    #[test]
    fn kernels_have_their_notes() {
        let note = |release: &str| {
            let tree = Tree::new("kernel", &[("proc/sys/kernel/osrelease", release)]);
            tree.0.kernel().detail
        };
        assert!(note("6.1.0-56-amd64\n").contains("at 5 Gbit/s"));
        assert!(!note("6.12.3").contains("at 5 Gbit/s"));
        assert!(note("4.4.0").contains("USB 3 devices cannot"));
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn usbfs_memory_has_the_command_to_raise_it() {
        const FILE: &str = "sys/module/usbcore/parameters/usbfs_memory_mb";
        let of = |text| Tree::new("usbfs", &[(FILE, text)]).0.usbfs_memory();
        let small = of("16\n");
        assert_eq!(small.state, State::Warn);
        let command = small.command.expect("a command");
        assert_eq!(command, "echo 256 | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb");
        assert_eq!(of("0\n").detail, "unlimited");
        assert_eq!(of("1000\n").state, State::Ok);
    }

    #[test]
    fn limits_are_those_of_the_process() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
             Max open files            1024                 524288               files\n\
             Max locked memory         8388608              8388608              bytes\n";
        let none = "CapEff:\t0000000000000000\n";
        let tree = Tree::new("limits", &[("proc/self/limits", limits), ("proc/self/status", none)]);
        assert_eq!(tree.0.open_files().command.as_deref(), Some("ulimit -n 4096"));
        assert_eq!(tree.0.locked_memory().command.as_deref(), Some("ulimit -l 65536"));
        assert_eq!(tree.0.rights(false).state, State::Warn);
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        let tree = Tree::new("caps", &[("proc/self/limits", limits), ("proc/self/status", all)]);
        assert_eq!(tree.0.locked_memory().state, State::Ok);
        assert_eq!(tree.0.rights(false).state, State::Ok);
    }

    #[test]
    fn modules_are_loaded_loadable_or_absent() {
        let release = ("proc/sys/kernel/osrelease", "6.1.0\n");
        let list = (
            "lib/modules/6.1.0/modules.dep",
            "kernel/drivers/usb/usbip/vhci-hcd.ko.xz: kernel/drivers/usb/usbip/usbip-core.ko.xz\n",
        );
        let absent = Tree::new("absent", &[release]).0.vhci();
        assert_eq!(absent.state, State::Missing);
        assert!(absent.detail.contains("comes without it"));
        let loadable = Tree::new("loadable", &[release, list]).0.vhci();
        assert_eq!(loadable.command.as_deref(), Some("sudo modprobe vhci-hcd"));
        let status = ("sys/devices/platform/vhci_hcd.0/status", "");
        assert_eq!(Tree::new("loaded", &[release, list, status]).0.vhci().state, State::Ok);
        let helper = Tree::new("helper", &[release, list]);
        let finding = helper.0.helper_module("usbip_host", "why");
        assert_eq!(finding.detail, "not part of this kernel; why");
    }

    #[test]
    fn io_uring_says_why_not() {
        let disabled = io_uring(&Err(Refused::Disabled(2)));
        assert_eq!(disabled.state, State::Warn);
        assert!(disabled.detail.ends_with("is 2: epoll is used"), "{}", disabled.detail);
        assert!(disabled.command.expect("a command").contains("sysctl"));
        assert_eq!(io_uring(&Err(Refused::Absent)).command, None);
        assert_eq!(io_uring(&Ok(RingMode::Deferred)).state, State::Ok);
    }
}
