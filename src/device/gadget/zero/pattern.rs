//! The data that source and sink agree on.

/// A pattern of usbtest; its number is what `pattern=` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// 0: all bytes zero.
    #[default]
    Zeros,
    /// 1: byte i of a transfer is (i % packet size) % 63.
    Modulo63,
}

impl Pattern {
    /// Writes the pattern from byte `offset` of a transfer on.
    pub(super) fn fill(self, data: &mut [u8], offset: usize, max_packet_size: u16) {
        match self {
            Self::Zeros => data.fill(0),
            Self::Modulo63 => {
                let mut data = data;
                for piece in pieces(data.len(), offset, max_packet_size) {
                    let (front, rest) = data.split_at_mut(piece.len());
                    front.copy_from_slice(piece);
                    data = rest;
                }
            }
        }
    }

    /// Whether `data` is the pattern from byte `offset` of a transfer on.
    pub(super) fn matches(self, data: &[u8], offset: usize, max_packet_size: u16) -> bool {
        match self {
            // Folding whole chunks lets the compiler use wide registers.
            Self::Zeros => {
                data.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
            }
            Self::Modulo63 => {
                let mut data = data;
                pieces(data.len(), offset, max_packet_size).all(|piece| {
                    let (front, rest) = data.split_at(piece.len());
                    data = rest;
                    front == piece
                })
            }
        }
    }
}

/// The pattern of `length` bytes in pieces that end with packets.
fn pieces(
    length: usize,
    offset: usize,
    max_packet_size: u16,
) -> impl Iterator<Item = &'static [u8]> {
    let packet = usize::from(max_packet_size);
    let mut at = offset % packet;
    let mut left = length;
    std::iter::from_fn(move || {
        let piece = (packet - at).min(left);
        let start = at;
        at = 0;
        left -= piece;
        (piece > 0).then(|| &PACKET[start..start + piece])
    })
}

/// One packet of the largest size.
static PACKET: [u8; 1024] = {
    let mut bytes = [0; 1024];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = (index % 63) as u8;
        index += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modulo_restarts_with_every_packet_and_continues_at_an_offset() {
        let mut whole = [0xff; 1500];
        Pattern::Modulo63.fill(&mut whole, 0, 512);
        assert!(whole.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 512 % 63));
        for cut in [1, 511, 512, 700] {
            let mut parts = [0xff; 1500];
            let (front, back) = parts.split_at_mut(cut);
            Pattern::Modulo63.fill(front, 0, 512);
            Pattern::Modulo63.fill(back, cut, 512);
            assert_eq!(parts, whole);
            assert!(Pattern::Modulo63.matches(&whole[cut..], cut, 512));
        }
    }

    #[test]
    fn a_single_wrong_byte_is_seen() {
        for pattern in [Pattern::Zeros, Pattern::Modulo63] {
            let mut data = [0xff; 1024];
            pattern.fill(&mut data, 0, 64);
            assert!(pattern.matches(&data, 0, 64));
            for index in [0, 63, 64, 255, 256, 1023] {
                data[index] ^= 1;
                assert!(!pattern.matches(&data, 0, 64), "{pattern:?} byte {index}");
                data[index] ^= 1;
            }
        }
    }
}
