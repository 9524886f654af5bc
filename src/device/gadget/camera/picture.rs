//! The test picture: colour bars with a bouncing ball, a grey ramp with a running mark, the frame
//! number in digits, and the same number in black and white blocks for programs to read back.
//!
//! It is made of cells of 8 × 8 pixels with one brightness each, and pairs of cells with one
//! colour. That suits both formats: YUY2 has one colour for two pixels, and a JPEG whose cells are
//! flat is exact, small and quickly made. From top to bottom:
//!
//! ```text
//! ┌──────────────────────────────┐
//! │ seven bars at 75 %, the ball │
//! ├──────────────────────────────┤
//! │ sixteen greys, the mark      │
//! ├──────────────────────────────┤
//! │           00001234           │
//! ├──────────────────────────────┤
//! │ 32 bits, 8 bits of checksum  │  20 blocks a row, most significant bit first
//! └──────────────────────────────┘
//! ```
//!
//! Levels are those of ITU-R BT.601: brightness 16 to 235, colour 16 to 240 around 128.

use std::fmt;
use std::str::FromStr;

/// Pixels of a cell's edge.
pub const CELL: usize = 8;

/// Blocks in a row of the number's code, which has two rows.
const CODE_COLUMNS: usize = 20;

/// Brightness of a block that stands for 1, of one that stands for 0, and what divides them.
const WHITE: u8 = 235;
const BLACK: u8 = 16;
const THRESHOLD: u8 = 128;

/// Colourless.
const NEUTRAL: [u8; 2] = [128, 128];

/// Y, Cb, Cr of the bars at 75 %: white, yellow, cyan, green, magenta, red, blue.
const BARS: [[u8; 3]; 7] = [
    [180, 128, 128],
    [162, 44, 142],
    [131, 156, 44],
    [112, 72, 58],
    [84, 184, 198],
    [65, 100, 212],
    [35, 212, 114],
];

/// Digits of 3 × 5 cells, one row in three bits.
const DIGITS: [[u8; 5]; 10] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 1, 2, 2],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
];

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// A multiple of 16 from 160 to 3840.
    pub width: u16,
    /// A multiple of 8 from 120 to 2160.
    pub height: u16,
}

/// The text is not a size that the picture can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be WIDTHxHEIGHT: a multiple of 16 from 160 to 3840, one of 8 from 120 to 2160")]
pub struct UnknownSize;

impl FromStr for Size {
    type Err = UnknownSize;

    fn from_str(text: &str) -> Result<Self, UnknownSize> {
        let (width, height) = text.split_once('x').ok_or(UnknownSize)?;
        let width: u16 = width.parse().map_err(|_| UnknownSize)?;
        let height: u16 = height.parse().map_err(|_| UnknownSize)?;
        let fits = (160..=3840).contains(&width) && (120..=2160).contains(&height);
        let whole = width.is_multiple_of(16) && height.is_multiple_of(8);
        if fits && whole { Ok(Self { width, height }) } else { Err(UnknownSize) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl Size {
    /// Bytes of a frame in YUY2.
    #[must_use]
    pub fn yuy2_bytes(self) -> usize {
        usize::from(self.width) * usize::from(self.height) * 2
    }

    /// Cells in a row.
    pub(super) fn columns(self) -> usize {
        usize::from(self.width) / CELL
    }

    /// Rows of cells.
    pub(super) fn rows(self) -> usize {
        usize::from(self.height) / CELL
    }
}

/// One frame, as cells. Allocates in [`new`](Self::new) only.
#[derive(Clone, Debug)]
pub struct Picture {
    size: Size,
    layout: Layout,
    /// Brightness of each cell, row by row.
    luma: Vec<u8>,
    /// Cb and Cr of each pair of cells, row by row.
    chroma: Vec<[u8; 2]>,
}

impl Picture {
    /// A picture of this size; black before the first [`draw`](Self::draw).
    #[must_use]
    pub fn new(size: Size) -> Self {
        let cells = size.columns() * size.rows();
        let (luma, chroma) = (vec![BLACK; cells], vec![NEUTRAL; cells / 2]);
        Self { size, layout: Layout::of(size), luma, chroma }
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Draws the frame of this number over whatever was there.
    pub fn draw(&mut self, number: u32) {
        self.draw_bars();
        self.draw_ball(number);
        self.draw_ramp(number);
        self.draw_digits(number);
        self.draw_code(number);
    }

    /// Writes the frame as YUY2 (Y0 Cb Y1 Cr), line by line from the top, instead of what is in
    /// `frame`.
    pub fn yuy2(&self, frame: &mut Vec<u8>) {
        frame.clear();
        for row in 0..self.size.rows() {
            let start = frame.len();
            for (luma, [cb, cr]) in self.row(row) {
                for y in luma {
                    for _ in 0..CELL / 2 {
                        frame.extend_from_slice(&[y, cb, y, cr]);
                    }
                }
            }
            let end = frame.len();
            for _ in 1..CELL {
                frame.extend_from_within(start..end);
            }
        }
    }

    /// The pairs of cells of a row: two brightnesses, and Cb and Cr.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = ([u8; 2], [u8; 2])> {
        let columns = self.size.columns();
        let (luma, _) = self.luma[row * columns..][..columns].as_chunks();
        let chroma = &self.chroma[row * columns / 2..][..columns / 2];
        luma.iter().copied().zip(chroma.iter().copied())
    }

    fn draw_bars(&mut self) {
        let pairs = self.size.columns() / 2;
        for row in 0..self.layout.ramp {
            for pair in 0..pairs {
                let [y, cb, cr] = BARS[pair * BARS.len() / pairs];
                self.paint_pair(pair, row, y, [cb, cr]);
            }
        }
    }

    /// A white disc that bounces off the edges of the bars.
    fn draw_ball(&mut self, number: u32) {
        let radius = (self.layout.ramp / 6).max(1);
        let (columns, rows) = (self.size.columns(), self.layout.ramp);
        let x = radius + bounce(number, columns.saturating_sub(2 * radius));
        let y = radius + bounce(number, rows.saturating_sub(2 * radius));
        for row in y.saturating_sub(radius)..(y + radius).min(rows) {
            for pair in x.saturating_sub(radius) / 2..(x + radius).div_ceil(2).min(columns / 2) {
                // In half cells, from the middle of the disc to the middle of the pair.
                let across = (4 * pair + 2).abs_diff(2 * x);
                let down = (2 * row + 1).abs_diff(2 * y);
                if across * across + down * down <= 4 * radius * radius {
                    self.paint_pair(pair, row, WHITE, NEUTRAL);
                }
            }
        }
    }

    fn draw_ramp(&mut self, number: u32) {
        let columns = self.size.columns();
        let mark = number as usize % columns;
        for row in self.layout.ramp..self.layout.digits {
            for column in 0..columns {
                let grey = BLACK as usize + column * 16 / columns * (WHITE - BLACK) as usize / 15;
                let level = if column > columns / 2 { BLACK } else { WHITE };
                let level = if column == mark { level } else { grey as u8 };
                self.paint(column, row, level);
            }
        }
        self.fade(self.layout.ramp, self.layout.digits);
    }

    fn draw_digits(&mut self, number: u32) {
        let Layout { digits: top, code: end, scale, count, .. } = self.layout;
        let columns = self.size.columns();
        self.fill(top, end, BLACK);
        let left = (columns - (4 * count - 1) * scale) / 2;
        let mut rest = number;
        for position in (0..count).rev() {
            let shape = DIGITS[(rest % 10) as usize];
            rest /= 10;
            for (row, bits) in shape.into_iter().enumerate() {
                for column in (0..3).filter(|column| bits & 4 >> column != 0) {
                    let x = left + (4 * position + column) * scale;
                    self.block(x, top + (row + 1) * scale, scale, scale, WHITE);
                }
            }
        }
    }

    fn draw_code(&mut self, number: u32) {
        let Layout { code: top, block: [width, height], .. } = self.layout;
        self.fill(top, self.size.rows(), BLACK);
        let code = u64::from(number) << 8 | u64::from(checksum(number));
        for bit in 0..2 * CODE_COLUMNS {
            let level = if code >> (2 * CODE_COLUMNS - 1 - bit) & 1 == 1 { WHITE } else { BLACK };
            let (column, row) = (bit % CODE_COLUMNS, bit / CODE_COLUMNS);
            self.block(column * width, top + row * height, width, height, level);
        }
    }

    /// Colourless rows of one brightness.
    fn fill(&mut self, top: usize, end: usize, level: u8) {
        let columns = self.size.columns();
        self.luma[top * columns..end * columns].fill(level);
        self.fade(top, end);
    }

    fn fade(&mut self, top: usize, end: usize) {
        let pairs = self.size.columns() / 2;
        self.chroma[top * pairs..end * pairs].fill(NEUTRAL);
    }

    fn block(&mut self, left: usize, top: usize, width: usize, height: usize, level: u8) {
        for row in top..top + height {
            for column in left..left + width {
                self.paint(column, row, level);
            }
        }
    }

    fn paint(&mut self, column: usize, row: usize, level: u8) {
        let columns = self.size.columns();
        self.luma[row * columns + column] = level;
    }

    fn paint_pair(&mut self, pair: usize, row: usize, level: u8, colour: [u8; 2]) {
        let columns = self.size.columns();
        self.paint(2 * pair, row, level);
        self.paint(2 * pair + 1, row, level);
        self.chroma[row * columns / 2 + pair] = colour;
    }
}

/// Reads the number back from a frame of this size, given the brightness of a pixel by column and
/// line. A lossy picture will do: each block is looked at in its middle. `None` if the checksum is
/// wrong.
#[must_use]
pub fn read_number(size: Size, luma: impl Fn(usize, usize) -> u8) -> Option<u32> {
    let Layout { code: top, block: [width, height], .. } = Layout::of(size);
    let code = (0..2 * CODE_COLUMNS).fold(0_u64, |code, bit| {
        let (column, row) = (bit % CODE_COLUMNS, bit / CODE_COLUMNS);
        let x = (column * width) * CELL + width * CELL / 2;
        let y = (top + row * height) * CELL + height * CELL / 2;
        code << 1 | u64::from(luma(x, y) >= THRESHOLD)
    });
    let number = (code >> 8) as u32;
    (checksum(number) == code as u8).then_some(number)
}

/// Where things are, in cells.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// First row of the ramp; the bars end there.
    ramp: usize,
    /// First row of the field with the digits.
    digits: usize,
    /// First row of the code.
    code: usize,
    /// Cells of a digit's stroke.
    scale: usize,
    /// How many digits.
    count: usize,
    /// Width and height of a block of the code.
    block: [usize; 2],
}

impl Layout {
    fn of(size: Size) -> Self {
        let (columns, rows) = (size.columns(), size.rows());
        let block = [columns / CODE_COLUMNS, (rows / 15).max(1)];
        let scale = (columns / 40).min(rows / 15).max(1);
        let code = rows - 2 * block[1];
        let digits = code - 7 * scale;
        let ramp = digits - (rows / 10).max(1);
        let count = if columns >= 40 { 8 } else { 4 };
        Self { ramp, digits, code, scale, count, block }
    }
}

/// Not 0 for the number 0, so that a black picture is not frame 0.
fn checksum(number: u32) -> u8 {
    number.to_be_bytes().iter().fold(0xa5, |sum: u8, byte| sum.rotate_left(1) ^ byte)
}

/// 0 up to `most` and down again, one a frame.
fn bounce(number: u32, most: usize) -> usize {
    let period = (2 * most).max(1);
    let at = number as usize % period;
    if at <= most { at } else { period - at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Size {
        text.parse().expect("a size of a test")
    }

    #[test]
    fn sizes_are_read_and_bounded() {
        assert_eq!(size("640x480").to_string(), "640x480");
        for text in ["", "640", "640x", "x480", "650x480", "640x481", "144x120", "3856x2160"] {
            assert_eq!(text.parse::<Size>(), Err(UnknownSize), "{text:?}");
        }
    }

    #[test]
    fn the_number_is_in_the_pixels_at_every_size() {
        for text in ["160x120", "320x240", "640x480", "1280x720", "176x144", "1920x120", "160x2160"]
        {
            let size = size(text);
            let mut picture = Picture::new(size);
            let mut frame = Vec::new();
            for number in [0, 1, 2, 77, 0x8000_0001, 0x1234_5678, u32::MAX] {
                picture.draw(number);
                picture.yuy2(&mut frame);
                assert_eq!(frame.len(), size.yuy2_bytes());
                let width = usize::from(size.width);
                let read = read_number(size, |x, y| frame[(y * width + x) * 2]);
                assert_eq!(read, Some(number), "{text}");
                // What a lossy format does to flat blocks, and worse.
                let noisy = |x: usize, y: usize| {
                    let exact = frame[(y * width + x) * 2];
                    exact.saturating_add((x * 7 % 40) as u8).saturating_sub((y * 5 % 40) as u8)
                };
                assert_eq!(read_number(size, noisy), Some(number), "{text}");
            }
        }
    }

    #[test]
    fn a_frame_depends_on_its_number_alone() {
        let mut used = Picture::new(size("640x480"));
        for number in 0..200 {
            used.draw(number);
            let mut fresh = Picture::new(size("640x480"));
            fresh.draw(number);
            assert!(used.luma == fresh.luma && used.chroma == fresh.chroma, "{number}");
        }
    }

    #[test]
    fn no_number_is_read_from_an_empty_or_damaged_picture() {
        let size = size("640x480");
        assert_eq!(read_number(size, |_, _| BLACK), None);
        assert_eq!(read_number(size, |_, _| WHITE), None);
        let mut picture = Picture::new(size);
        picture.draw(1000);
        let mut frame = Vec::new();
        picture.yuy2(&mut frame);
        // A block of the first row: 32 pixels wide, above the lower half of the code.
        let damaged = |x: usize, y: usize| {
            let exact = frame[(y * 640 + x) * 2];
            if (320..352).contains(&x) && y < 448 { 255 - exact } else { exact }
        };
        assert_eq!(read_number(size, damaged), None);
    }

    #[test]
    fn bars_have_their_colours_from_left_to_right() {
        let mut picture = Picture::new(size("640x480"));
        picture.draw(0);
        let mut frame = Vec::new();
        picture.yuy2(&mut frame);
        assert_eq!(frame[..4], [180, 128, 180, 128], "white");
        let last = 640 * 2 - 4;
        assert_eq!(frame[last..last + 4], [35, 212, 35, 114], "blue");
    }
}
