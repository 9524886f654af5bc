//! Random numbers that are the same on every machine and in every version.

/// A generator that a seed determines completely (the SplitMix64 sequence of Steele, Lea, Flood).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for a part of the simulation, so that what one part draws does not
    /// change what another sees.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit` - 1; 0 if `limit` is 0. The bias is of no account here.
    pub fn below(&mut self, limit: u32) -> u32 {
        let high = self.draw() >> 32;
        u32::try_from((high * u64::from(limit)) >> 32).expect("below a 32-bit limit")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// Whether something that happens `percent` times in 100 happens now.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// An index below `length`.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(u32::try_from(length).expect("a small list")) as usize
    }
}
