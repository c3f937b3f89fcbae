//! Random numbers that are the same in every run.

/// An xorshift generator (Marsaglia, 2003).
pub(crate) struct Random(u64);

impl Random {
    /// `seed` must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    /// One of these; `None` when there is none.
    pub(crate) fn choose<I>(&mut self, from: I) -> Option<I::Item>
    where
        I: IntoIterator<IntoIter: ExactSizeIterator>,
    {
        let mut from = from.into_iter();
        let count = from.len() as u64;
        (count > 0).then(|| from.nth(self.below(count) as usize))?
    }
}
