//! The keyboard's reports and the words of its scripts.

use std::collections::VecDeque;

use super::keys::{self, Key};
use super::program::{read_wait, split_word};
use super::{Kind, Report, Step};

/// Bit of the output report: Scroll Lock.
pub(super) const SCROLL_LOCK: u8 = 0x04;

/// Keys held; what the next report says.
#[derive(Debug, Default)]
pub struct Keyboard {
    report: Report,
}

impl Kind for Keyboard {
    const NAME: &'static str = "keyboard";
    const PRODUCT: &'static str = "Keyboard (simulated)";
    const PROTOCOL: u8 = 1;
    const RELEASE: u16 = 0x0100;
    /// HID 1.11 appendix E.6: eight modifiers, a byte of nothing, five lights, six keys.
    const REPORT_DESCRIPTOR: &'static [u8] = &[
        0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25,
        0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05,
        0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91,
        0x01, 0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65,
        0x81, 0x00, 0xc0,
    ];
    const REPORT_BYTES: [usize; 2] = [8, 8];
    const OUTPUT_BYTES: usize = 1;

    /// `type TEXT`, `press KEY…`, `release [KEY…]`, `tap KEY…`, `wait MS`, `# comment`.
    fn read_line(&mut self, line: &str, steps: &mut VecDeque<Step>) -> Result<(), String> {
        let (word, rest) = split_word(line);
        match word {
            "" => {}
            _ if word.starts_with('#') => {}
            "type" => self.type_text(rest, steps)?,
            "press" => {
                self.press(rest)?;
                self.add(steps, 1);
            }
            "release" => {
                self.release(rest)?;
                self.add(steps, 1);
            }
            "tap" => {
                self.press(rest)?;
                self.add(steps, 1);
                self.release(rest)?;
                self.add(steps, 1);
            }
            "wait" => self.add(steps, read_wait(rest)?),
            _ => {
                return Err(format!(
                    "{word:?} is not type TEXT, press KEY…, release KEY…, tap KEY… or wait MS"
                ));
            }
        }
        Ok(())
    }

    /// Keys a to z, over and over: each pressed, then released.
    fn pattern(index: u64) -> Report {
        let key = 0x04 + (index / 2 % 26) as u8;
        [0, 0, if index.is_multiple_of(2) { key } else { 0 }, 0, 0, 0, 0, 0]
    }
}

impl Keyboard {
    fn add(&self, steps: &mut VecDeque<Step>, times: u32) {
        steps.push_back(Step { report: self.report, times });
    }

    fn type_text(&mut self, text: &str, steps: &mut VecDeque<Step>) -> Result<(), String> {
        let held = self.report;
        for character in text.chars() {
            let found = keys::of_character(character);
            let (usage, shifted) =
                found.ok_or_else(|| format!("no key of a US keyboard makes {character:?}"))?;
            let modifiers = if shifted { held[0] | keys::SHIFT } else { held[0] };
            let report = [modifiers, 0, usage, 0, 0, 0, 0, 0];
            steps.push_back(Step { report, times: 1 });
            steps.push_back(Step { report: held, times: 1 });
        }
        Ok(())
    }

    fn press(&mut self, names: &str) -> Result<(), String> {
        for key in read_keys(names)? {
            match key {
                Key::Modifier(bit) => self.report[0] |= bit,
                Key::Usage(usage) if self.report[2..].contains(&usage) => {}
                Key::Usage(usage) => {
                    let free = self.report[2..].iter_mut().find(|held| **held == 0);
                    *free.ok_or("no more than six keys can be held")? = usage;
                }
            }
        }
        Ok(())
    }

    /// Without names, all that are held.
    fn release(&mut self, names: &str) -> Result<(), String> {
        if names.trim().is_empty() {
            self.report = Report::default();
            return Ok(());
        }
        for key in read_keys(names)? {
            match key {
                Key::Modifier(bit) => self.report[0] &= !bit,
                Key::Usage(usage) => {
                    for held in self.report[2..].iter_mut().filter(|held| **held == usage) {
                        *held = 0;
                    }
                }
            }
        }
        Ok(())
    }
}

fn read_keys(names: &str) -> Result<Vec<Key>, String> {
    let keys: Result<Vec<_>, _> = names
        .split_whitespace()
        .map(|name| keys::of_name(name).ok_or_else(|| format!("no key is named {name:?}")))
        .collect();
    keys.and_then(|keys| if keys.is_empty() { Err("which key?".to_owned()) } else { Ok(keys) })
}
