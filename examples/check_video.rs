//! Checks a recording of the simulated camera: every frame number once and in order, every byte as
//! it has to be. Ends with 1 on any fault.
//!
//! ```text
//! usbip-fast serve --simulate camera:pace=demand
//! sudo usbip-fast attach -r 127.0.0.1 -b sim-1
//! v4l2-ctl --set-fmt-video=width=640,height=480,pixelformat=YUYV \
//!     --stream-mmap=32 --stream-count=150 --stream-to=video
//! cargo run --release --example check_video -- yuy2 640x480 video --frames 150 --png frame.png
//! ```

#![allow(clippy::disallowed_methods, reason = "a program that reads and writes files")]

use std::error::Error;
use std::process::ExitCode;

use usbip_fast::device::gadget::camera::picture::{CELL, Picture, Size, read_number};
use usbip_fast::device::gadget::camera::{Format, jpeg};

const USAGE: &str = "usage: check_video yuy2|mjpeg WIDTHxHEIGHT FILE \
    [--first NUMBER] [--frames COUNT] [--png FILE]";

struct Options {
    format: Format,
    size: Size,
    file: String,
    /// Number of the first frame, 0 unless told.
    first: u32,
    /// How many there have to be.
    frames: Option<usize>,
    /// Where one frame goes as a PNG.
    png: Option<String>,
}

fn main() -> ExitCode {
    match options().and_then(|options| check(&options)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(format), Some(size), Some(file)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(USAGE.into());
    };
    let format = match format.as_str() {
        "yuy2" => Format::Yuy2,
        "mjpeg" => Format::Mjpeg,
        _ => return Err(USAGE.into()),
    };
    let mut options =
        Options { format, size: size.parse()?, file, first: 0, frames: None, png: None };
    while let Some(key) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match key.as_str() {
            "--first" => options.first = value.parse()?,
            "--frames" => options.frames = Some(value.parse()?),
            "--png" => options.png = Some(value),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn check(options: &Options) -> Result<String, Box<dyn Error>> {
    let recorded = std::fs::read(&options.file)?;
    let frames = split(options, &recorded)?;
    if let Some(wanted) = options.frames.filter(|wanted| *wanted != frames.len()) {
        return Err(format!("{} frames, not {wanted}", frames.len()).into());
    }
    if frames.is_empty() {
        return Err("no frame at all".into());
    }
    let mut picture = Picture::new(options.size);
    let mut expected = Vec::new();
    for (position, (number, frame)) in (options.first..).zip(&frames).enumerate() {
        picture.draw(number);
        match options.format {
            Format::Yuy2 => picture.yuy2(&mut expected),
            Format::Mjpeg => jpeg::encode(&picture, &mut expected),
        }
        if **frame != expected {
            return Err(fault(options, position, number, frame, &expected).into());
        }
    }
    if let Some(file) = &options.png {
        std::fs::write(file, png::encode(&picture))?;
    }
    let last = options.first as usize + frames.len() - 1;
    let (count, bytes, first) = (frames.len(), recorded.len(), options.first);
    Ok(format!("{count} frames, {bytes} bytes: {first} to {last} once, in order and exact"))
}

/// What is wrong with a frame, in one line.
fn fault(options: &Options, position: usize, number: u32, frame: &[u8], expected: &[u8]) -> String {
    match read(options, frame) {
        Some(found) if found != number => {
            format!("frame at position {position} is number {found}, not {number}")
        }
        _ => {
            let differs = frame.iter().zip(expected).position(|(found, wanted)| found != wanted);
            let at = differs.unwrap_or(frame.len().min(expected.len()));
            format!("frame {number} differs from byte {at} of {} on", expected.len())
        }
    }
}

/// The number in the pixels.
fn read(options: &Options, frame: &[u8]) -> Option<u32> {
    let size = options.size;
    let width = usize::from(size.width);
    match options.format {
        Format::Yuy2 => read_number(size, |x, y| frame[(y * width + x) * 2]),
        Format::Mjpeg => {
            let luma = jpeg::decode_luma(size, frame)?;
            read_number(size, |x, y| luma[y / CELL * (width / CELL) + x / CELL])
        }
    }
}

/// Cuts the recording into frames: YUY2 by length, JPEGs behind their ends.
fn split<'a>(options: &Options, mut bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, Box<dyn Error>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = match options.format {
            Format::Yuy2 => Some(options.size.yuy2_bytes()).filter(|wanted| *wanted <= bytes.len()),
            Format::Mjpeg => {
                bytes.windows(2).position(|pair| pair == [0xff, 0xd9]).map(|end| end + 2)
            }
        };
        let length = length.ok_or_else(|| format!("frame {} is cut off", frames.len()))?;
        let (frame, rest) = bytes.split_at(length);
        frames.push(frame);
        bytes = rest;
    }
    Ok(frames)
}

/// A small PNG encoder (ISO/IEC 15948): RGB, rows filtered by the one above or the pixel before,
/// and of DEFLATE (RFC 1951) only runs of one byte in the fixed Huffman code. That is all that a
/// picture of flat cells needs.
mod png {
    use super::Picture;

    pub fn encode(picture: &Picture) -> Vec<u8> {
        let size = picture.size();
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut header = Vec::new();
        header.extend(u32::from(size.width).to_be_bytes());
        header.extend(u32::from(size.height).to_be_bytes());
        // 8 bits a sample, RGB, the only methods there are, not interlaced.
        header.extend([8, 2, 0, 0, 0]);
        chunk(&mut file, b"IHDR", &header);
        chunk(&mut file, b"IDAT", &zlib(&filtered(picture)));
        chunk(&mut file, b"IEND", &[]);
        file
    }

    /// The rows, each behind the number of its filter: 2 (above) for a row that repeats, 1 (before)
    /// for others. Both leave little but zeros.
    fn filtered(picture: &Picture) -> Vec<u8> {
        let mut frame = Vec::new();
        picture.yuy2(&mut frame);
        let mut bytes = Vec::new();
        let mut above: Vec<u8> = Vec::new();
        for line in frame.chunks(usize::from(picture.size().width) * 2) {
            let row = rgb(line);
            if row == above {
                bytes.push(2);
                bytes.resize(bytes.len() + row.len(), 0);
            } else {
                bytes.push(1);
                bytes.extend_from_slice(&row[..3]);
                bytes
                    .extend(row.iter().zip(&row[3..]).map(|(left, here)| here.wrapping_sub(*left)));
            }
            above = row;
        }
        bytes
    }

    /// ITU-R BT.601 to full-range RGB.
    fn rgb(line: &[u8]) -> Vec<u8> {
        let (quads, _) = line.as_chunks();
        let pixels = quads.iter().flat_map(|[y0, cb, y1, cr]| [[*y0, *cb, *cr], [*y1, *cb, *cr]]);
        let colours = pixels.flat_map(|[y, cb, cr]| {
            let luma = 1.164 * (f64::from(y) - 16.0);
            let (blue, red) = (f64::from(cb) - 128.0, f64::from(cr) - 128.0);
            let green = luma - 0.392 * blue - 0.813 * red;
            [luma + 1.596 * red, green, luma + 2.017 * blue].map(|x| x.round() as u8)
        });
        colours.collect()
    }

    fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
        file.extend(u32::try_from(data.len()).expect("a small picture").to_be_bytes());
        let start = file.len();
        file.extend_from_slice(name);
        file.extend_from_slice(data);
        let crc = file[start..].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
            })
        });
        file.extend((!crc).to_be_bytes());
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut bits = Bits { bytes: vec![0x78, 0x01], pending: 0, count: 0 };
        // The last block, in the fixed code.
        bits.write(0b011, 3);
        for run in bytes.chunk_by(|before, here| before == here) {
            bits.run(run[0], run.len());
        }
        bits.symbol(256);
        bits.write(0, 7);
        let (low, high) = bytes.iter().fold((1, 0), |(low, high), byte| {
            let low = (low + u32::from(*byte)) % 65521;
            (low, (high + low) % 65521)
        });
        bits.bytes.extend((high << 16 | low).to_be_bytes());
        bits.bytes
    }

    /// Bits, least significant first.
    struct Bits {
        bytes: Vec<u8>,
        pending: u32,
        count: u32,
    }

    impl Bits {
        /// A byte, and copies of it from one byte back in pieces whose lengths need no extra bits.
        fn run(&mut self, byte: u8, length: usize) {
            self.symbol(u32::from(byte));
            let mut left = length - 1;
            while left > 0 {
                match left {
                    258.. => {
                        self.symbol(285);
                        left -= 258;
                    }
                    3.. => {
                        let copied = left.min(10);
                        self.symbol(254 + copied as u32);
                        left -= copied;
                    }
                    _ => {
                        self.symbol(u32::from(byte));
                        left -= 1;
                        continue;
                    }
                }
                // A distance of 1: code 0, which has five bits.
                self.write(0, 5);
            }
        }

        /// A literal or length in the fixed code, which stands most significant bit first.
        fn symbol(&mut self, symbol: u32) {
            let (code, length) = match symbol {
                0..=143 => (0x30 + symbol, 8),
                144..=255 => (0x190 + symbol - 144, 9),
                256..=279 => (symbol - 256, 7),
                _ => (0xc0 + symbol - 280, 8),
            };
            self.write(code.reverse_bits() >> (32 - length), length);
        }

        fn write(&mut self, code: u32, length: u32) {
            self.pending |= code << self.count;
            self.count += length;
            while self.count >= 8 {
                self.bytes.push(self.pending as u8);
                self.pending >>= 8;
                self.count -= 8;
            }
        }
    }
}
