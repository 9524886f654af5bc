//! Names from the USB id list.

use crate::usb::identity::Class;

/// The vendor's name, or `None` if it is not in the list.
pub(super) fn vendor(vendor: u16) -> Option<&'static str> {
    use usb_ids::FromId;
    usb_ids::Vendor::from_id(vendor).map(usb_ids::Vendor::name)
}

/// The product's name, or `None` if it is not in the list.
pub(super) fn product(vendor: u16, product: u16) -> Option<&'static str> {
    usb_ids::Device::from_vid_pid(vendor, product).map(usb_ids::Device::name)
}

/// `Human Interface Device, Boot Interface Subclass, Keyboard`: as much as the list knows.
pub(super) fn class(class: Class) -> String {
    use usb_ids::FromId;
    let Class { class, subclass, protocol } = class;
    let numbers = format!("{class:02x}/{subclass:02x}/{protocol:02x}");
    let Some(known) = usb_ids::Class::from_id(class) else {
        return format!("class {numbers}");
    };
    let mut text = known.name().to_owned();
    if let Some(known) = usb_ids::SubClass::from_cid_scid(class, subclass) {
        text = format!("{text}, {}", known.name());
    }
    if let Some(known) = usb_ids::Protocol::from_cid_scid_pid(class, subclass, protocol) {
        text = format!("{text}, {}", known.name());
    }
    format!("{text} ({numbers})")
}

/// `Netchip Technology, Inc. : Linux-USB "Gadget Zero"`; what the list does not know is taken from
/// the device's own strings, if there are any.
pub(super) fn describe(vendor_id: u16, product_id: u16, own_vendor: &str, own: &str) -> String {
    let or_own = |known: Option<&'static str>, own: &str, unknown: &str| match known {
        Some(name) => name.to_owned(),
        // What a device says of itself may hold codes that a terminal obeys.
        None if !own.is_empty() => own.chars().filter(|letter| !letter.is_control()).collect(),
        None => unknown.to_owned(),
    };
    format!(
        "{} : {}",
        or_own(vendor(vendor_id), own_vendor, "unknown vendor"),
        or_own(product(vendor_id, product_id), own, "unknown product")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_asked_first_then_the_device() {
        let zero = describe(0x0525, 0xa4a0, "own", "own");
        assert_eq!(zero, "Netchip Technology, Inc. : Linux-USB \"Gadget Zero\"");
        let private = describe(0x0525, 0xfff0, "", "Board");
        assert_eq!(private, "Netchip Technology, Inc. : Board");
        assert_eq!(describe(0xfff0, 1, "a\x1b[2Jb", "c\n"), "a[2Jb : c");
        assert_eq!(describe(0xfff0, 1, "", ""), "unknown vendor : unknown product");
    }

    #[test]
    fn classes_are_named_as_far_as_known() {
        let keyboard = Class { class: 3, subclass: 1, protocol: 1 };
        assert_eq!(
            class(keyboard),
            "Human Interface Device, Boot Interface Subclass, Keyboard (03/01/01)"
        );
        let own = Class { class: 0xff, subclass: 0, protocol: 0 };
        assert!(class(own).starts_with("Vendor Specific Class"), "{}", class(own));
        assert_eq!(class(Class { class: 0x6b, subclass: 0, protocol: 0 }), "class 6b/00/00");
    }
}
