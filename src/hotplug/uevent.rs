//! What the kernel says when a device comes or goes (netlink, KOBJECT_UEVENT).

/// Whether a message is about a USB device as a whole: not about an interface, an endpoint, or
/// another subsystem. `ACTION@PATH` and `KEY=VALUE` texts, each ended by a NUL.
#[must_use]
pub fn concerns_a_usb_device(message: &[u8]) -> bool {
    let mut parts = message.split(|&byte| byte == 0);
    let Some(headline) = parts.next() else { return false };
    if !headline.contains(&b'@') {
        return false;
    }
    let (mut of_usb, mut of_a_device) = (false, false);
    for part in parts {
        of_usb |= part == b"SUBSYSTEM=usb";
        of_a_device |= part == b"DEVTYPE=usb_device";
    }
    of_usb && of_a_device
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &[u8] = b"add@/devices/platform/dummy_hcd.0/usb1/1-1\0ACTION=add\0\
        DEVPATH=/devices/platform/dummy_hcd.0/usb1/1-1\0SUBSYSTEM=usb\0MAJOR=189\0\
        DEVTYPE=usb_device\0PRODUCT=525/a4a0/100\0SEQNUM=1234\0";

    #[test]
    fn only_whole_usb_devices_count() {
        assert!(concerns_a_usb_device(ADDED));
        let swap = |from: &str, to: &str| {
            String::from_utf8(ADDED.to_vec()).expect("text").replace(from, to).into_bytes()
        };
        assert!(!concerns_a_usb_device(&swap("usb_device", "usb_interface")));
        assert!(!concerns_a_usb_device(&swap("SUBSYSTEM=usb", "SUBSYSTEM=usbmisc")));
        assert!(
            !concerns_a_usb_device(&swap("add@", "add ")),
            "udev's own messages begin otherwise"
        );
        assert!(!concerns_a_usb_device(b""));
        assert!(!concerns_a_usb_device(b"SUBSYSTEM=usb\0DEVTYPE=usb_device"));
    }
}
