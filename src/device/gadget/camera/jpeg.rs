//! A baseline JPEG encoder (ITU-T T.81) for pictures whose 8 × 8 blocks are flat: each block has a
//! DC coefficient and nothing else, so that a decoder gets every level exactly as it was.
//!
//! Sampling is 4:2:2, as the payload for MJPEG of the USB Video Class asks. The Huffman tables
//! stand in every frame: the usual one for DC differences, and one for AC coefficients that knows
//! a single word of one bit, the end of the block.

use super::picture::{CELL, Picture, Size};

/// Quantisation of all coefficients. A flat block of level v has the DC coefficient 8 (v - 128), so
/// that with 8 nothing is rounded.
const QUANTUM: u8 = 8;

/// Codes of the differences of DC levels from 0 to 8 bits (T.81 table K.3), as code and length.
const CATEGORIES: [(u32, u32); 9] = [
    (0b00, 2),
    (0b010, 3),
    (0b011, 3),
    (0b100, 3),
    (0b101, 3),
    (0b110, 3),
    (0b1110, 4),
    (0b11110, 5),
    (0b11_1110, 6),
];

/// Longest code of a block: category, 8 bits of the difference, and the end of the block.
const BLOCK_BITS: usize = 6 + 8 + 1;

/// Bits and their number for each difference from -255 to 255, the end of the block included.
const CODES: [(u16, u8); 511] = {
    let mut codes = [(0, 0); 511];
    let mut index = 0;
    while index < codes.len() {
        let difference = index as i32 - 255;
        let bits = 32 - difference.unsigned_abs().leading_zeros();
        let (code, length) = CATEGORIES[bits as usize];
        // T.81 §F.1.2.1: a negative difference stands as its value less one, in so many bits.
        let value = if difference < 0 { difference - 1 } else { difference };
        let low = value as u32 & ((1 << bits) - 1);
        codes[index] = (((code << bits | low) << 1) as u16, (length + bits + 1) as u8);
        index += 1;
    }
    codes
};

/// Full range (JFIF) of a brightness or colour level of BT.601, by the distance from its zero.
const fn widen(level: u8, zero: i32, range: i32) -> u8 {
    let from_zero = level as i32 - zero;
    let base = if zero == 16 { 0 } else { zero };
    let wide =
        base + (from_zero * 255 + if from_zero < 0 { -range / 2 } else { range / 2 }) / range;
    if wide < 0 {
        0
    } else if wide > 255 {
        255
    } else {
        wide as u8
    }
}

/// Full-range levels of brightness (first) and colour (second).
const WIDE: [[u8; 256]; 2] = {
    let mut wide = [[0; 256]; 2];
    let mut level = 0;
    while level < 256 {
        wide[0][level] = widen(level as u8, 16, 219);
        wide[1][level] = widen(level as u8, 128, 224);
        level += 1;
    }
    wide
};

/// Most bytes of a frame of this size: every block as long as it can be, and every byte of them
/// one that needs a stuffed byte behind it.
#[must_use]
pub fn max_bytes(size: Size) -> usize {
    // Brightness of every cell, and two colours of every second one.
    let blocks = size.columns() * size.rows() * 2;
    let header = HEADER_BYTES + 2;
    header + 2 * (blocks * BLOCK_BITS).div_ceil(8)
}

/// Writes the picture as a JPEG instead of what is in `frame`.
pub fn encode(picture: &Picture, frame: &mut Vec<u8>) {
    frame.clear();
    header(picture.size(), frame);
    let mut bits = BitWriter { bytes: frame, pending: 0, count: 0 };
    // What each component's first difference is taken from: level 128 (T.81 §F.1.1.5.1).
    let mut before = [128; 3];
    let [bright, colour] = &WIDE;
    for row in 0..picture.size().rows() {
        for (luma, [cb, cr]) in picture.row(row) {
            for y in luma {
                bits.block(&mut before[0], bright[usize::from(y)]);
            }
            bits.block(&mut before[1], colour[usize::from(cb)]);
            bits.block(&mut before[2], colour[usize::from(cr)]);
        }
    }
    bits.finish();
    frame.extend_from_slice(&[0xff, EOI]);
}

/// Brightness of the cells of a frame that [`encode`] has made at this size, row by row; `None` for
/// any other bytes.
#[must_use]
pub fn decode_luma(size: Size, frame: &[u8]) -> Option<Vec<u8>> {
    let mut expected = Vec::new();
    header(size, &mut expected);
    let data = frame.strip_prefix(&expected[..])?.strip_suffix(&[0xff, EOI])?;
    let mut bits = BitReader { bytes: data, bit: 0 };
    let mut before = [128_i32; 3];
    let mut luma = Vec::with_capacity(size.columns() * size.rows());
    for _ in 0..size.columns() * size.rows() / 2 {
        for component in [0, 0, 1, 2] {
            before[component] += bits.difference()?;
            let level = u8::try_from(before[component]).ok()?;
            if component == 0 {
                luma.push(level);
            }
        }
    }
    Some(luma)
}

/// Bytes before the first block.
const HEADER_BYTES: usize = 2 + 18 + 69 + 19 + 33 + 22 + 14;

/// Marker codes (T.81 table B.1).
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const APP0: u8 = 0xe0;
const DQT: u8 = 0xdb;
const SOF0: u8 = 0xc0;
const DHT: u8 = 0xc4;
const SOS: u8 = 0xda;

fn header(size: Size, frame: &mut Vec<u8>) {
    let start = frame.len();
    frame.extend_from_slice(&[0xff, SOI]);
    segment(frame, APP0, &[b"JFIF\0", &[1, 2, 0, 0, 1, 0, 1, 0, 0]]);
    segment(frame, DQT, &[&[0], &[QUANTUM; CELL * CELL]]);
    let [height, width] = [size.height.to_be_bytes(), size.width.to_be_bytes()];
    // Identifier, sampling factors, quantisation table of each component.
    let components = [3, 1, 0x21, 0, 2, 0x11, 0, 3, 0x11, 0];
    segment(frame, SOF0, &[&[8], &height, &width, &components]);
    // How many codes of each length from 1 to 16, then what they stand for.
    let dc_lengths = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    segment(frame, DHT, &[&[0x00], &dc_lengths, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]);
    let ac_lengths = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    segment(frame, DHT, &[&[0x10], &ac_lengths, &[0]]);
    segment(frame, SOS, &[&[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]]);
    assert_eq!(frame.len() - start, HEADER_BYTES, "the bound of a frame counts on it");
}

fn segment(frame: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) {
    let length: usize = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    frame.extend_from_slice(&[0xff, marker]);
    frame.extend_from_slice(&u16::try_from(length).expect("a short segment").to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
}

/// Entropy-coded bits, most significant first.
struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u32,
    /// Bits in `pending`, below 8 between two calls.
    count: u8,
}

impl BitWriter<'_> {
    fn block(&mut self, before: &mut u8, level: u8) {
        let difference = i32::from(level) - i32::from(*before);
        *before = level;
        let (code, length) = CODES[(difference + 255) as usize];
        self.write(code, length);
    }

    fn write(&mut self, code: u16, length: u8) {
        self.pending = self.pending << length | u32::from(code);
        self.count += length;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.pending >> self.count) as u8;
            self.bytes.push(byte);
            if byte == 0xff {
                // Not a marker (T.81 §B.1.1.5).
                self.bytes.push(0);
            }
        }
    }

    /// Fills the last byte with ones.
    fn finish(&mut self) {
        if self.count > 0 {
            let rest = 8 - self.count;
            self.write((1 << rest) - 1, rest);
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    bit: u8,
}

impl BitReader<'_> {
    /// The difference of one block's DC level, and past the end of the block.
    fn difference(&mut self) -> Option<i32> {
        let (mut code, mut length) = (0, 0);
        let bits = loop {
            code = code << 1 | self.next()?;
            length += 1;
            if let Some(found) = CATEGORIES.iter().position(|each| *each == (code, length)) {
                break found as u32;
            }
            if length > 6 {
                return None;
            }
        };
        let mut value = 0;
        for _ in 0..bits {
            value = value << 1 | self.next()? as i32;
        }
        let negative = bits > 0 && value >> (bits - 1) == 0;
        let end = self.next()?;
        (end == 0).then_some(if negative { value - (1 << bits) + 1 } else { value })
    }

    fn next(&mut self) -> Option<u32> {
        let (&byte, rest) = self.bytes.split_first()?;
        let bit = byte >> (7 - self.bit) & 1;
        self.bit += 1;
        if self.bit == 8 {
            self.bit = 0;
            self.bytes = if byte == 0xff { rest.strip_prefix(&[0])? } else { rest };
        }
        Some(u32::from(bit))
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::read_number;
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        assert_eq!(CODES[255], (0b000, 3), "no difference, end of block");
        assert_eq!(CODES[255 + 1], (0b0_1010, 5));
        assert_eq!(CODES[255 - 1], (0b0_1000, 5));
        assert_eq!(CODES[255 + 5], (0b100_1010, 7));
        assert_eq!(CODES[255 - 5], (0b100_0100, 7));
        assert_eq!(CODES[0], (0b111_1100_0000_0000, 15));
        assert!(CODES.iter().all(|(_, length)| usize::from(*length) <= BLOCK_BITS));
    }

    #[test]
    fn levels_come_back_exactly_at_every_size() {
        for text in ["160x120", "640x480", "1280x720"] {
            let size: Size = text.parse().expect("a size");
            let mut picture = Picture::new(size);
            let mut frame = Vec::with_capacity(max_bytes(size));
            let capacity = frame.capacity();
            for number in [0, 1, 12_345, u32::MAX] {
                picture.draw(number);
                encode(&picture, &mut frame);
                assert!(frame.len() <= max_bytes(size) && frame.capacity() == capacity);
                let luma = decode_luma(size, &frame).expect("our own");
                let rows = 0..size.rows();
                let drawn = rows.flat_map(|row| picture.row(row).flat_map(|(luma, _)| luma));
                let wide: Vec<_> = drawn.map(|y| WIDE[0][usize::from(y)]).collect();
                assert_eq!(luma, wide);
                let columns = size.columns();
                let pixel = |x, y| luma[y / CELL * columns + x / CELL];
                assert_eq!(read_number(size, pixel), Some(number));
            }
        }
    }

    #[test]
    fn markers_stand_where_a_decoder_looks_for_them() {
        let size: Size = "320x240".parse().expect("a size");
        let mut frame = Vec::new();
        encode(&Picture::new(size), &mut frame);
        assert_eq!(frame[..4], [0xff, SOI, 0xff, APP0]);
        assert_eq!(frame[frame.len() - 2..], [0xff, EOI]);
        let data = &frame[HEADER_BYTES..frame.len() - 2];
        assert!(data.windows(2).all(|pair| pair[0] != 0xff || pair[1] == 0));
        assert_eq!(decode_luma(size, &frame[..frame.len() - 3]), None);
        assert_eq!(decode_luma(Size { width: 640, ..size }, &frame), None);
    }

    #[test]
    fn full_range_keeps_black_white_and_grey() {
        assert_eq!((WIDE[0][16], WIDE[0][235], WIDE[0][0]), (0, 255, 0));
        assert_eq!((WIDE[1][128], WIDE[1][16], WIDE[1][240]), (128, 0, 255));
    }
}
