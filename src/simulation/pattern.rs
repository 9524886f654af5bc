//! The bytes of all transfers: a URB's name and the place in its buffer say what stands there.

/// Longest buffer that the simulation fills, in bytes.
pub const LONGEST: usize = 160 * 1024;

/// The pattern repeats after a prime number of bytes, so that data that moved is recognised.
const PERIOD: usize = 251;

/// A run of the pattern, long enough for any buffer at any phase.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// The one pattern.
    #[must_use]
    pub fn new() -> Self {
        let period: Vec<u8> = (0..=u8::MAX).take(PERIOD).collect();
        Self(period.repeat(LONGEST / PERIOD + 2))
    }

    /// What stands at `offset` of the buffer of URB `name`, `length` bytes long.
    #[must_use]
    pub fn slice(&self, name: u32, offset: usize, length: usize) -> &[u8] {
        let start = (name as usize + offset) % PERIOD;
        &self.0[start..start + length]
    }
}
