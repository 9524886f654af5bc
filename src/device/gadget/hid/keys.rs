//! Keys of a US keyboard (HID Usage Tables 1.5 §10).

/// Bits of the modifier byte.
pub(super) const SHIFT: u8 = 0x02;

/// The usage of the key that makes a character, and whether Shift is held.
pub(super) fn of_character(character: char) -> Option<(u8, bool)> {
    let index = |row: &str| row.chars().position(|each| each == character);
    if let Some(letter) = index("abcdefghijklmnopqrstuvwxyz") {
        return Some((0x04 + letter as u8, false));
    }
    if let Some(letter) = index("ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
        return Some((0x04 + letter as u8, true));
    }
    if let Some(key) = index("1234567890\n\u{1b}\u{8}\t -=[]\\") {
        return Some((0x1e + key as u8, false));
    }
    if let Some(key) = index("!@#$%^&*()\0\0\0\0\0_+{}|").filter(|_| character != '\0') {
        return Some((0x1e + key as u8, true));
    }
    if let Some(key) = index(";'`,./") {
        return Some((0x33 + key as u8, false));
    }
    let key = index(":\"~<>?")?;
    Some((0x33 + key as u8, true))
}

/// A key by its name: its usage, or for a modifier its bit.
pub(super) fn of_name(name: &str) -> Option<Key> {
    let modifier = ["ctrl", "shift", "alt", "gui", "rctrl", "rshift", "ralt", "rgui"];
    if let Some(bit) = modifier.iter().position(|each| *each == name) {
        return Some(Key::Modifier(1 << bit));
    }
    let named = NAMED.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage);
    let function = name.strip_prefix('f').and_then(|number| number.parse().ok());
    let function = function.filter(|number| (1..=12).contains(number)).map(|n: u8| 0x39 + n);
    let mut characters = name.chars();
    let single = characters.next().filter(|_| characters.next().is_none());
    let single = single.and_then(of_character).filter(|(_, shifted)| !shifted);
    named.or(function).or(single.map(|(usage, _)| usage)).map(Key::Usage)
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Modifier(u8),
    Usage(u8),
}

const NAMED: [(&str, u8); 20] = [
    ("enter", 0x28),
    ("esc", 0x29),
    ("backspace", 0x2a),
    ("tab", 0x2b),
    ("space", 0x2c),
    ("capslock", 0x39),
    ("print", 0x46),
    ("scrolllock", 0x47),
    ("pause", 0x48),
    ("insert", 0x49),
    ("home", 0x4a),
    ("pageup", 0x4b),
    ("delete", 0x4c),
    ("end", 0x4d),
    ("pagedown", 0x4e),
    ("right", 0x4f),
    ("left", 0x50),
    ("down", 0x51),
    ("up", 0x52),
    ("numlock", 0x53),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_on_the_keys_of_a_us_keyboard() {
        for (character, usage, shifted) in [
            ('a', 0x04, false),
            ('Z', 0x1d, true),
            ('1', 0x1e, false),
            ('0', 0x27, false),
            ('!', 0x1e, true),
            (')', 0x27, true),
            ('\n', 0x28, false),
            (' ', 0x2c, false),
            ('_', 0x2d, true),
            ('|', 0x31, true),
            (';', 0x33, false),
            ('/', 0x38, false),
            ('?', 0x38, true),
        ] {
            assert_eq!(of_character(character), Some((usage, shifted)), "{character:?}");
        }
        assert_eq!((of_character('é'), of_character('\0')), (None, None));
    }

    #[test]
    fn keys_have_names() {
        assert_eq!(of_name("ctrl"), Some(Key::Modifier(0x01)));
        assert_eq!(of_name("rgui"), Some(Key::Modifier(0x80)));
        assert_eq!(of_name("f1"), Some(Key::Usage(0x3a)));
        assert_eq!(of_name("f12"), Some(Key::Usage(0x45)));
        assert_eq!(of_name("up"), Some(Key::Usage(0x52)));
        assert_eq!(of_name("f"), Some(Key::Usage(0x09)));
        assert_eq!((of_name("f13"), of_name("A"), of_name("any")), (None, None, None));
    }
}
