//! Reasons not to take a device: its owner would lose something that is in use right now.

use super::enumerate::{DEVICES, HUB_CLASS, Tree};

/// Why a device is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InUse {
    /// Hubs are not exported, not even by force.
    #[error("is a hub; its devices can be exported, it cannot")]
    Hub,
    /// A file system on it is mounted.
    #[error(
        "holds {disk}, mounted on {mount_point}; type: sudo umount {mount_point}, or use --force"
    )]
    Mounted {
        /// Name of the disk or partition.
        disk: String,
        /// Where it is mounted.
        mount_point: String,
    },
    /// It has the route that this machine talks through.
    #[error("is the network interface {interface}, which is in use; use --force if that is meant")]
    Network {
        /// Name of the interface.
        interface: String,
    },
    /// Without it nobody could type.
    #[error("is the only keyboard; use --force if that is meant")]
    OnlyKeyboard,
    /// The system runs from it.
    #[error("holds the root file system on {disk}; use --force if that is meant")]
    Root {
        /// Name of the disk or partition.
        disk: String,
    },
    /// The system swaps to it.
    #[error(
        "holds {disk}, which is used as swap space; type: sudo swapoff /dev/{disk}, or use --force"
    )]
    Swap {
        /// Name of the disk or partition.
        disk: String,
    },
}

/// Whether a device can be taken without harm. Reads `/sys` and `/proc`; may wait.
pub(super) fn check(tree: &impl Tree, bus_id: &str) -> Result<(), InUse> {
    check_hub(tree, bus_id)?;
    // A device that is not there any more is found out by whoever opens it.
    let Ok(device) = tree.resolve(&format!("{DEVICES}/{bus_id}")) else { return Ok(()) };
    check_disks(tree, &device)?;
    check_network(tree, &device)?;
    check_keyboard(tree, &device)
}

/// Hubs are refused by force too.
pub(super) fn check_hub(tree: &impl Tree, bus_id: &str) -> Result<(), InUse> {
    let class = tree.attribute(bus_id, "bDeviceClass").unwrap_or_default();
    if u8::from_str_radix(&class, 16) == Ok(HUB_CLASS) { Err(InUse::Hub) } else { Ok(()) }
}

fn check_disks(tree: &impl Tree, device: &str) -> Result<(), InUse> {
    const BLOCK: &str = "/sys/class/block";
    let mut disks: Vec<String> = names_below(tree, BLOCK, device).collect();
    // What is built on a disk (LVM, encryption, RAID) is lost with it.
    let mut seen = 0;
    while seen < disks.len() {
        let holders = tree.list(&format!("{BLOCK}/{}/holders", disks[seen])).unwrap_or_default();
        for holder in holders {
            if !disks.contains(&holder) {
                disks.push(holder);
            }
        }
        seen += 1;
    }
    if disks.is_empty() {
        return Ok(());
    }
    let mounts = tree.text("/proc/self/mountinfo").unwrap_or_default();
    let swaps = tree.text("/proc/swaps").unwrap_or_default();
    for disk in disks {
        let number = tree.text(&format!("{BLOCK}/{disk}/dev")).unwrap_or_default();
        check_mounts(&mounts, &disk, number.trim())?;
        let is_swap = |line: &str| device_name(line.split(' ').next().unwrap_or("")) == disk;
        if swaps.lines().any(is_swap) {
            return Err(InUse::Swap { disk });
        }
    }
    Ok(())
}

/// Lines of mountinfo: ID, parent, MAJOR:MINOR, root, mount point, …, `-`, type, source, options.
fn check_mounts(mounts: &str, disk: &str, number: &str) -> Result<(), InUse> {
    let mut mount_point = None;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(device), Some(point)) = (fields.get(2), fields.get(4)) else { continue };
        let source = fields.iter().position(|field| *field == "-").map(|at| at + 2);
        let source = source.and_then(|at| fields.get(at)).copied().unwrap_or("");
        // File systems over several disks (btrfs) have a number of their own and name one disk.
        if *device != number && device_name(source) != disk {
            continue;
        }
        if *point == "/" {
            return Err(InUse::Root { disk: disk.to_owned() });
        }
        mount_point.get_or_insert(*point);
    }
    match mount_point {
        Some(point) => {
            let mount_point = point.replace("\\040", " ");
            Err(InUse::Mounted { disk: disk.to_owned(), mount_point })
        }
        None => Ok(()),
    }
}

fn device_name(path: &str) -> &str {
    path.strip_prefix("/dev/").map_or("", |name| name.trim_start_matches("mapper/"))
}

/// An interface is in use when IPv4 routes go through it, which begins with its first address, when
/// it is the IPv6 default route, or when it is part of a bridge or bond.
fn check_network(tree: &impl Tree, device: &str) -> Result<(), InUse> {
    const NET: &str = "/sys/class/net";
    for interface in names_below(tree, NET, device) {
        let routes = tree.text("/proc/net/route").unwrap_or_default();
        let routes_v6 = tree.text("/proc/net/ipv6_route").unwrap_or_default();
        let has_route =
            routes.lines().any(|line| line.split_whitespace().next() == Some(&interface));
        let is_default_v6 = routes_v6.lines().any(|line| {
            let mut fields = line.split_whitespace();
            let destination = (fields.next(), fields.next());
            matches!(destination, (Some(to), Some("00")) if to.bytes().all(|digit| digit == b'0'))
                && fields.next_back() == Some(&interface)
        });
        let has_master = tree.resolve(&format!("{NET}/{interface}/master")).is_ok();
        if has_route || is_default_v6 || has_master {
            return Err(InUse::Network { interface });
        }
    }
    Ok(())
}

fn check_keyboard(tree: &impl Tree, device: &str) -> Result<(), InUse> {
    let inputs = tree.text("/proc/bus/input/devices").unwrap_or_default();
    let mut ours = false;
    let mut others = false;
    for input in inputs.split("\n\n").filter(|input| is_keyboard(input)) {
        let path = input.lines().find_map(|line| line.strip_prefix("S: Sysfs="));
        let path = format!("/sys{}", path.unwrap_or(""));
        if is_below(&path, device) {
            ours = true;
        } else {
            others = true;
        }
    }
    if ours && !others { Err(InUse::OnlyKeyboard) } else { Ok(()) }
}

/// Something with all the keys from Escape to D (key codes 1 to 31), as opposed to a power button
/// or the buttons of a headset.
fn is_keyboard(input: &str) -> bool {
    const FIRST_KEYS: u64 = 0xffff_fffe;
    let keys = input.lines().find_map(|line| line.strip_prefix("B: KEY="));
    let lowest = keys.and_then(|keys| keys.split_whitespace().next_back());
    let lowest = lowest.and_then(|word| u64::from_str_radix(word, 16).ok());
    lowest.is_some_and(|word| word & FIRST_KEYS == FIRST_KEYS)
}

fn names_below<'a>(
    tree: &'a impl Tree,
    class: &'a str,
    device: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let names = tree.list(class).unwrap_or_default().into_iter();
    names.filter(move |name| {
        let path = tree.resolve(&format!("{class}/{name}"));
        path.is_ok_and(|path| is_below(&path, device))
    })
}

fn is_below(path: &str, device: &str) -> bool {
    path.strip_prefix(device).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::super::enumerate::tests::FakeTree;
    use super::*;

    const DEVICE: &str = "/sys/devices/pci0/usb1/1-1";

    const KEYBOARD_KEYS: &str = "1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe";

    fn tree() -> FakeTree {
        FakeTree::default().device("1-1", DEVICE, "00\n").device("1-12", "/x/1-12", "00\n")
    }

    fn disk_tree() -> FakeTree {
        tree()
            .link("/sys/class/block/sda", "/sys/devices/pci0/usb1/1-1/1-1:1.0/host0/block/sda")
            .link(
                "/sys/class/block/sda1",
                "/sys/devices/pci0/usb1/1-1/1-1:1.0/host0/block/sda/sda1",
            )
            .link("/sys/class/block/sdb", "/sys/devices/pci0/usb1/1-12/1-12:1.0/host1/block/sdb")
            .file("/sys/class/block/sda/dev", "8:0\n")
            .file("/sys/class/block/sda1/dev", "8:1\n")
            .file("/sys/class/block/sdb/dev", "8:16\n")
            .file("/sys/class/block/dm-0/dev", "253:0\n")
    }

    fn mounted(tree: FakeTree, number: &str, point: &str, source: &str) -> FakeTree {
        let line = format!("25 1 {number} / {point} rw,noatime shared:1 - ext4 {source} rw\n");
        tree.file("/proc/self/mountinfo", line)
    }

    fn input(path: &str, keys: &str) -> String {
        format!("I: Bus=0003\nN: Name=\"k\"\nS: Sysfs={path}/input/input1\nB: KEY={keys}\n\n")
    }

    #[test]
    fn an_idle_device_can_be_had_and_a_hub_never() {
        assert_eq!(check(&tree(), "1-1"), Ok(()));
        assert_eq!(check(&disk_tree(), "1-1"), Ok(()));
        assert_eq!(check(&tree().device("1-2", "/x", "09\n"), "1-2"), Err(InUse::Hub));
    }

    #[test]
    fn mounted_file_systems_keep_their_disk() {
        let used = mounted(disk_tree(), "8:1", "/mnt/my\\040disk", "/dev/sda1");
        let (disk, mount_point) = ("sda1".to_owned(), "/mnt/my disk".to_owned());
        assert_eq!(check(&used, "1-1"), Err(InUse::Mounted { disk, mount_point }));
        assert_eq!(check(&used, "1-12"), Ok(()), "a longer name is another device");
        let root = mounted(disk_tree(), "8:1", "/", "/dev/root");
        assert_eq!(check(&root, "1-1"), Err(InUse::Root { disk: "sda1".to_owned() }));
        let btrfs = mounted(disk_tree(), "0:31", "/data", "/dev/sda");
        assert!(matches!(check(&btrfs, "1-1"), Err(InUse::Mounted { .. })));
        let other = mounted(disk_tree(), "8:16", "/mnt", "/dev/sdb");
        assert_eq!(check(&other, "1-1"), Ok(()));
    }

    #[test]
    fn what_is_built_on_a_disk_keeps_it_too() {
        let layered = disk_tree().link("/sys/class/block/sda1/holders/dm-0", "/x");
        let used = mounted(layered.clone(), "253:0", "/home", "/dev/mapper/home");
        assert!(matches!(check(&used, "1-1"), Err(InUse::Mounted { .. })));
        assert_eq!(check(&layered, "1-1"), Ok(()));
    }

    #[test]
    fn swap_space_keeps_its_disk() {
        let swaps = "Filename Type Size\n/dev/sda1 partition 1 0 -2\n";
        let used = disk_tree().file("/proc/swaps", swaps);
        assert_eq!(check(&used, "1-1"), Err(InUse::Swap { disk: "sda1".to_owned() }));
    }

    #[test]
    fn a_network_interface_with_a_route_is_in_use() {
        let net = tree().link("/sys/class/net/eth1", &format!("{DEVICE}/1-1:1.0/net/eth1"));
        let in_use = Err(InUse::Network { interface: "eth1".to_owned() });
        let head = "Iface\tDestination\tGateway\n";
        assert_eq!(check(&net.clone().file("/proc/net/route", head), "1-1"), Ok(()));
        let route = format!("{head}eth1\t0000A8C0\t00000000\t0001\n");
        assert_eq!(check(&net.clone().file("/proc/net/route", &route), "1-1"), in_use);
        let zeros = "0".repeat(32);
        let default_v6 = format!("{zeros} 00 {zeros} 00 fe80 00000400 1 0 3 eth1\n");
        assert_eq!(check(&net.clone().file("/proc/net/ipv6_route", &default_v6), "1-1"), in_use);
        let local_v6 = format!("fe80{} 40 {zeros} 00 0 0 1 0 1 eth1\n", "0".repeat(28));
        assert_eq!(check(&net.clone().file("/proc/net/ipv6_route", &local_v6), "1-1"), Ok(()));
        assert_eq!(check(&net.link("/sys/class/net/eth1/master", "/x"), "1-1"), in_use);
    }

    #[test]
    fn only_the_only_keyboard_is_kept() {
        let usb = input("/devices/pci0/usb1/1-1/1-1:1.0/0003:1", KEYBOARD_KEYS);
        let power = input("/devices/LNXSYSTM:00", "10000000000000 0");
        let built_in = input("/devices/platform/i8042", KEYBOARD_KEYS);
        let file = "/proc/bus/input/devices";
        let alone = tree().file(file, format!("{usb}{power}"));
        assert_eq!(check(&alone, "1-1"), Err(InUse::OnlyKeyboard));
        assert_eq!(check(&tree().file(file, format!("{usb}{built_in}")), "1-1"), Ok(()));
        assert_eq!(check(&tree().file(file, built_in), "1-1"), Ok(()));
    }
}
