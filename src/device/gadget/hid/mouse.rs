//! The mouse's reports and the words of its scripts.

use std::collections::VecDeque;
use std::f64::consts::TAU;

use super::program::{read_wait, split_word};
use super::{Kind, Report, Step};

/// Reports of one round of the circle: about a second.
const CIRCLE_REPORTS: u64 = 1024;

/// Radius of the circle, in counts of the mouse.
const CIRCLE_RADIUS: f64 = 60.0;

/// Buttons held.
#[derive(Debug, Default)]
pub struct Mouse {
    buttons: u8,
}

impl Kind for Mouse {
    const NAME: &'static str = "mouse";
    const PRODUCT: &'static str = "Mouse (simulated)";
    const PROTOCOL: u8 = 2;
    const RELEASE: u16 = 0x0101;
    /// Three buttons, X, Y and a wheel: HID 1.11 appendix E.10 and one byte more.
    const REPORT_DESCRIPTOR: &'static [u8] = &[
        0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01, 0x29,
        0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x05,
        0x81, 0x01, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75,
        0x08, 0x95, 0x03, 0x81, 0x06, 0xc0, 0xc0,
    ];
    const REPORT_BYTES: [usize; 2] = [3, 4];
    const OUTPUT_BYTES: usize = 0;

    /// `move DX DY`, `wheel N`, `press BUTTON`, `release BUTTON`, `click BUTTON`, `wait MS`.
    fn read_line(&mut self, line: &str, steps: &mut VecDeque<Step>) -> Result<(), String> {
        let (word, rest) = split_word(line);
        let numbers: Vec<_> = rest.split_whitespace().map(str::parse::<i8>).collect();
        match (word, &numbers[..]) {
            ("", _) => {}
            _ if word.starts_with('#') => {}
            ("move", [Ok(x), Ok(y)]) if *x > -128 && *y > -128 => self.add(steps, [*x, *y, 0], 1),
            ("move", _) => return Err("move needs DX and DY, from -127 to 127".to_owned()),
            ("wheel", [Ok(turn)]) if *turn > -128 => self.add(steps, [0, 0, *turn], 1),
            ("wheel", _) => return Err("wheel needs a number from -127 to 127".to_owned()),
            ("press" | "release" | "click", _) => {
                let bit = read_button(rest)?;
                if word != "release" {
                    self.buttons |= bit;
                    self.add(steps, [0; 3], 1);
                }
                if word != "press" {
                    self.buttons &= !bit;
                    self.add(steps, [0; 3], 1);
                }
            }
            ("wait", _) => self.add(steps, [0; 3], read_wait(rest)?),
            _ => {
                return Err(format!(
                    "{word:?} is not move DX DY, wheel N, press, release or click BUTTON, wait MS"
                ));
            }
        }
        Ok(())
    }

    /// A circle that ends where it began.
    fn pattern(index: u64) -> Report {
        let place = |index: u64| {
            let angle = (index % CIRCLE_REPORTS) as f64 / CIRCLE_REPORTS as f64 * TAU;
            [(angle.cos() * CIRCLE_RADIUS).round(), (angle.sin() * CIRCLE_RADIUS).round()]
        };
        let (from, to) = (place(index), place(index + 1));
        let step = |axis: usize| (to[axis] - from[axis]) as i8 as u8;
        [0, step(0), step(1), 0, 0, 0, 0, 0]
    }
}

impl Mouse {
    fn add(&self, steps: &mut VecDeque<Step>, moved: [i8; 3], times: u32) {
        let [x, y, wheel] = moved.map(i8::cast_unsigned);
        steps.push_back(Step { report: [self.buttons, x, y, wheel, 0, 0, 0, 0], times });
    }
}

fn read_button(name: &str) -> Result<u8, String> {
    let names = ["left", "right", "middle"];
    let found = names.iter().position(|each| *each == name.trim());
    found.map(|bit| 1 << bit).ok_or_else(|| "the buttons are left, right and middle".to_owned())
}
