//! WAV files of 16- and 24-bit PCM, as bytes: their header, and what is behind it.

/// What the samples of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WavFormat {
    /// Sampling frequency in Hz.
    pub rate: u32,
    /// Samples of a frame, at least 1.
    pub channels: u16,
    /// 16 or 24.
    pub bits: u16,
}

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wav<'a> {
    /// What the samples are.
    pub format: WavFormat,
    /// Whole frames, little-endian.
    pub data: &'a [u8],
}

/// Why a file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    /// No samples.
    #[error("it has no samples")]
    Empty,
    /// Not RIFF WAVE with a format and data.
    #[error("it is not a WAV file")]
    NotWav,
    /// Compressed, or of another size.
    #[error("its samples are not 16- or 24-bit PCM")]
    NotPcm,
}

/// Bytes of [`header`].
pub const HEADER_BYTES: usize = 44;

/// Where the header says how long the file is behind this field, and how long its data is.
pub const SIZE_OFFSETS: [u64; 2] = [4, 40];

impl WavFormat {
    /// Bytes of one sample.
    #[must_use]
    pub fn sample_bytes(&self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Bytes of one frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.sample_bytes() * usize::from(self.channels)
    }
}

/// The header of a file with this many bytes of samples behind it.
#[must_use]
pub fn header(format: WavFormat, data_bytes: u64) -> [u8; HEADER_BYTES] {
    let frame_bytes = format.frame_bytes() as u32;
    let [riff_size, data_size] = sizes(data_bytes);
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(b"RIFF");
    bytes[4..8].copy_from_slice(&riff_size);
    bytes[8..16].copy_from_slice(b"WAVEfmt ");
    bytes[16..20].copy_from_slice(&16_u32.to_le_bytes());
    bytes[20..22].copy_from_slice(&PCM.to_le_bytes());
    bytes[22..24].copy_from_slice(&format.channels.to_le_bytes());
    bytes[24..28].copy_from_slice(&format.rate.to_le_bytes());
    bytes[28..32].copy_from_slice(&(format.rate * frame_bytes).to_le_bytes());
    bytes[32..34].copy_from_slice(&(frame_bytes as u16).to_le_bytes());
    bytes[34..36].copy_from_slice(&format.bits.to_le_bytes());
    bytes[36..40].copy_from_slice(b"data");
    bytes[40..].copy_from_slice(&data_size);
    bytes
}

/// What stands at [`SIZE_OFFSETS`] of a file with this many bytes of samples. Above 4 GiB, which
/// the format cannot say, the largest number, which programs take for "to the end of the file".
#[must_use]
pub fn sizes(data_bytes: u64) -> [[u8; 4]; 2] {
    let field = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    [field(data_bytes.saturating_add(HEADER_BYTES as u64 - 8)), field(data_bytes)]
}

/// Finds format and samples in the bytes of a file. A data size beyond the end of the file, as a
/// recorder that was killed leaves it, is taken for the end of the file.
///
/// # Errors
///
/// See [`WavError`].
pub fn parse(bytes: &[u8]) -> Result<Wav<'_>, WavError> {
    let (Some(b"RIFF"), Some(b"WAVE")) = (bytes.get(..4), bytes.get(8..12)) else {
        return Err(WavError::NotWav);
    };
    let mut format = None;
    let mut rest = &bytes[12..];
    while let Some((head, content)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let body = &content[..size.min(content.len())];
        match &head[..4] {
            b"fmt " => format = Some(parse_format(body)?),
            b"data" => {
                let format = format.ok_or(WavError::NotWav)?;
                let data = &body[..body.len() / format.frame_bytes() * format.frame_bytes()];
                return if data.is_empty() {
                    Err(WavError::Empty)
                } else {
                    Ok(Wav { format, data })
                };
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = content.get(size.saturating_add(size % 2)..).unwrap_or_default();
    }
    Err(WavError::NotWav)
}

/// One sample, little-endian, as a number.
#[must_use]
pub fn sample(bytes: &[u8]) -> i32 {
    match *bytes {
        [low, high] => i32::from(i16::from_le_bytes([low, high])),
        [low, middle, high] => i32::from_le_bytes([0, low, middle, high]) >> 8,
        _ => 0,
    }
}

/// The format tags of PCM; the second is PCM where a file says more about its channels.
const PCM: u16 = 1;
const EXTENSIBLE: u16 = 0xfffe;

fn parse_format(body: &[u8]) -> Result<WavFormat, WavError> {
    let word = |at: usize| body.get(at..at + 2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let (tag, channels) = word(0).zip(word(2)).ok_or(WavError::NotWav)?;
    let (low, high) = word(4).zip(word(6)).ok_or(WavError::NotWav)?;
    let (block, bits) = word(12).zip(word(14)).ok_or(WavError::NotWav)?;
    let format = WavFormat { rate: u32::from(high) << 16 | u32::from(low), channels, bits };
    let is_plain = [PCM, EXTENSIBLE].contains(&tag) && [16, 24].contains(&bits) && channels > 0;
    let is_packed = usize::from(block) == format.frame_bytes();
    if is_plain && is_packed { Ok(format) } else { Err(WavError::NotPcm) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: WavFormat = WavFormat { rate: 44_100, channels: 2, bits: 24 };

    fn file(data: &[u8]) -> Vec<u8> {
        let mut bytes = header(FORMAT, data.len() as u64).to_vec();
        bytes.extend(data);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file(&[7; 60]);
        assert_eq!(parse(&bytes), Ok(Wav { format: FORMAT, data: &[7; 60] }));
        assert_eq!(u32::from_le_bytes(bytes[4..8].try_into().expect("four")), 60 + 36);
        for (offset, size) in SIZE_OFFSETS.into_iter().zip(sizes(60)) {
            assert_eq!(bytes[offset as usize..][..4], size);
        }
    }

    #[test]
    fn other_chunks_are_passed_over_and_ends_are_found() {
        let whole = file(&[7; 63]);
        assert_eq!(parse(&whole).expect("cut").data.len(), 60, "whole frames only");
        let mut padded = whole[..36].to_vec();
        padded.extend(b"LIST\x03\0\0\0abc\0");
        padded.extend(&whole[36..]);
        assert_eq!(parse(&padded).expect("a list between").data.len(), 60);
        assert_eq!(parse(&whole[..80]).expect("cut off").data.len(), 36);
    }

    #[test]
    fn others_are_refused() {
        assert_eq!(parse(b"RIFF"), Err(WavError::NotWav));
        assert_eq!(parse(&file(&[])), Err(WavError::Empty));
        let mut eight_bits = file(&[7; 60]);
        eight_bits[34] = 8;
        assert_eq!(parse(&eight_bits), Err(WavError::NotPcm));
        let mut no_channels = file(&[7; 60]);
        no_channels[22] = 0;
        assert_eq!(parse(&no_channels), Err(WavError::NotPcm));
    }

    #[test]
    fn samples_have_a_sign() {
        assert_eq!(sample(&[0xff, 0xff]), -1);
        assert_eq!(sample(&[0xfe, 0xff, 0xff]), -2);
        assert_eq!(sample(&[0, 0, 0x40]), 0x40_0000);
    }
}
