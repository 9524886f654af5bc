//! What an attached device turned into: the names a user looks for.

use usbip_fast_native::linux::vhci::Descendant;

use crate::host::Appearance;

/// Sums up everything the kernel made below the device `bus_id`.
pub(super) fn summarize(bus_id: String, descendants: &[Descendant]) -> Appearance {
    let mut names: Vec<_> = descendants.iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    let interfaces = || descendants.iter().filter(|found| is_interface(found));
    let mut drivers: Vec<_> = interfaces().filter_map(|found| found.driver.clone()).collect();
    drivers.sort();
    drivers.dedup();
    let driverless = interfaces().filter(|found| found.driver.is_none()).count();
    let fulfilled = drivers.iter().all(|driver| is_fulfilled(driver, descendants));
    let complete = interfaces().count() > 0 && driverless == 0 && fulfilled;
    Appearance { bus_id, names, drivers, driverless, complete }
}

fn is_interface(found: &Descendant) -> bool {
    found.subsystem == "usb" && found.name.contains(':')
}

/// How a user calls it. A sound card is known by its card, not by its many nodes; the generic
/// nodes of a disk say nothing beyond the disk.
fn name(found: &Descendant) -> Option<String> {
    match found.subsystem.as_str() {
        "net" => Some(found.name.clone()),
        "sound" => found.name.starts_with("card").then(|| found.name.clone()),
        "usb" | "bsg" | "scsi_generic" => None,
        _ => found.node.as_ref().map(|node| format!("/dev/{node}")),
    }
}

/// Drivers that make their nodes some time after they are bound, and the subsystem to wait for.
const LATE_DRIVERS: [(&str, &str); 8] = [
    ("cdc_acm", "tty"),
    ("cdc_ether", "net"),
    ("cdc_ncm", "net"),
    ("snd-usb-audio", "sound"),
    ("uas", "block"),
    ("usb-storage", "block"),
    ("usbhid", "hidraw"),
    ("uvcvideo", "video4linux"),
];

fn is_fulfilled(driver: &str, descendants: &[Descendant]) -> bool {
    LATE_DRIVERS
        .iter()
        .filter(|(late, _)| *late == driver)
        .all(|(_, subsystem)| descendants.iter().any(|found| found.subsystem == *subsystem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, subsystem: &str, driver: &str, node: &str) -> Descendant {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Descendant {
            name: name.into(),
            subsystem: subsystem.into(),
            driver: some(driver),
            node: some(node),
        }
    }

    #[test]
    fn a_disk_is_complete_when_its_node_is_there() {
        let mut tree = vec![
            found("1-1:1.0", "usb", "usb-storage", ""),
            found("host3", "scsi", "", ""),
            found("3:0:0:0", "scsi", "sd", ""),
        ];
        let early = summarize("1-1".into(), &tree);
        assert!(!early.complete);
        assert_eq!(early.drivers, ["usb-storage"]);
        tree.push(found("sda", "block", "", "sda"));
        tree.push(found("sda1", "block", "", "sda1"));
        tree.push(found("3:0:0:0", "bsg", "", "bsg/3:0:0:0"));
        tree.push(found("sg0", "scsi_generic", "", "sg0"));
        let late = summarize("1-1".into(), &tree);
        assert!(late.complete);
        assert_eq!(late.names, ["/dev/sda", "/dev/sda1"]);
    }

    #[test]
    fn sound_net_video_and_input_have_their_names() {
        let tree = [
            found("1-2:1.0", "usb", "snd-usb-audio", ""),
            found("1-2:1.1", "usb", "snd-usb-audio", ""),
            found("card1", "sound", "", ""),
            found("controlC1", "sound", "", "snd/controlC1"),
            found("eth1", "net", "", ""),
            found("video0", "video4linux", "", "video0"),
            found("event3", "input", "", "input/event3"),
            found("input7", "input", "", ""),
        ];
        let seen = summarize("1-2".into(), &tree);
        assert_eq!(seen.names, ["/dev/input/event3", "/dev/video0", "card1", "eth1"]);
        assert_eq!(seen.drivers, ["snd-usb-audio"]);
        assert!(seen.complete);
    }

    #[test]
    fn interfaces_without_a_driver_are_counted() {
        let tree = [found("1-1:1.0", "usb", "usbtest", ""), found("1-1:1.1", "usb", "", "")];
        let seen = summarize("1-1".into(), &tree);
        assert_eq!(seen.driverless, 1);
        assert!(!seen.complete);
        assert!(seen.names.is_empty());
        assert!(!summarize("1-1".into(), &[]).complete, "no interface yet");
    }
}
