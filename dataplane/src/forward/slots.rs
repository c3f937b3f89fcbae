//! Sets of a burst's packets.

use super::BURST;

const _: () = assert!(BURST == u64::BITS as usize, "a bit for each packet");

/// Places in a burst, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(u64);

impl Slots {
    /// Adds a place.
    #[inline]
    pub(super) const fn insert(&mut self, slot: usize) {
        self.0 |= 1 << (slot % BURST);
    }

    /// Adds the places of another set.
    #[inline]
    pub(super) const fn join(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl IntoIterator for Slots {
    type Item = usize;
    type IntoIter = Ascending;

    #[inline]
    fn into_iter(self) -> Ascending {
        Ascending(self.0)
    }
}

/// The places of a set, the lowest first.
pub(super) struct Ascending(u64);

impl Iterator for Ascending {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        // At most 63 anyway; this way the compiler knows.
        Some(slot % BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_out_in_order_and_once() {
        let mut slots = Slots::default();
        for slot in [63, 0, 7, 7] {
            slots.insert(slot);
        }
        assert_eq!(slots.into_iter().collect::<Vec<_>>(), [0, 7, 63]);
        let mut others = Slots::default();
        assert!(others.is_empty());
        others.insert(8);
        slots.join(others);
        assert!(!slots.is_empty());
        assert_eq!(slots.into_iter().collect::<Vec<_>>(), [0, 7, 8, 63]);
    }
}
