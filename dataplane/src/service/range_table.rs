//! Values by ranges of addresses, for look-ups that the caches cannot help.
//!
//! Sorted ranges lie in leaves of two cache lines, keys beside their values. The addresses are divided
//! into slots of one size, several for each leaf, and an array says at which leaf each slot begins. A
//! look-up goes to its slot at once and chooses among the slot's leaves, by a dense list of their first
//! keys: mostly among two, and one step more each time that ranges crowd twice as much. There are no
//! pointers, and only the number of steps is a branch, so look-ups of different packets overlap.

use std::hint;

use super::huge_pages::copied;

/// An address as a number.
pub(super) trait Key: Copy + Ord + Default + std::fmt::Debug {
    /// The last address.
    const MAX: Self;
    /// Bits of an address.
    const BITS: u8;
    /// The first address of the prefix around this address.
    fn first(self, prefix_len: u8) -> Self;
    /// The last address of the prefix around this address.
    fn last(self, prefix_len: u8) -> Self;
    /// The address after this one, if there is one.
    fn next(self) -> Option<Self>;
    /// How many times `1 << shift` this address is above `base`; 0 below it.
    fn steps_above(self, base: Self, shift: u32) -> usize;
    /// The address that is so many times `1 << shift` above this one.
    fn up(self, steps: usize, shift: u32) -> Self;
    /// Bits of the distance from `base` up to this address.
    fn bits_above(self, base: Self) -> u32;
}

macro_rules! key {
    ($($number:ty),*) => {$(
        impl Key for $number {
            const MAX: Self = <$number>::MAX;
            const BITS: u8 = <$number>::BITS as u8;

            fn first(self, prefix_len: u8) -> Self {
                self & !<$number>::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0)
            }

            fn last(self, prefix_len: u8) -> Self {
                self | <$number>::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline]
            fn steps_above(self, base: Self, shift: u32) -> usize {
                (self.saturating_sub(base) >> shift) as usize
            }

            fn up(self, steps: usize, shift: u32) -> Self {
                self.saturating_add((steps as $number) << shift)
            }

            fn bits_above(self, base: Self) -> u32 {
                <$number>::BITS - self.saturating_sub(base).leading_zeros()
            }
        }
    )*};
}

key!(u32, u64, u128);

/// Where a value begins to hold.
pub(super) type Range<K> = (K, u32);

/// The last of the keys that is not above `key`, or the first.
#[inline]
fn rank<K: Key>(keys: &[K], key: K) -> usize {
    let (mut base, mut left) = (0, keys.len());
    while left > 1 {
        let half = left / 2;
        base = hint::select_unpredictable(keys[base + half] <= key, base + half, base);
        left -= half;
    }
    base
}

#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
struct Leaf<K, const N: usize> {
    keys: [K; N],
    values: [u32; N],
}

/// At which leaves to look for an address.
#[derive(Debug)]
struct Slots<K> {
    /// Where the first slot begins. It also has what is below, as the last one has what is above.
    base: K,
    /// Bits of an address within its slot.
    shift: u32,
    /// The leaf in which each slot begins; at the end the last leaf.
    leaves: Box<[u32]>,
}

impl<K: Key> Slots<K> {
    /// Bits of a slot's number beyond those of a leaf's.
    const EXTRA_BITS: u32 = 2;
    /// One of so many leaves can lie below the first slot, and one above the last, so that a few
    /// prefixes far from all others do not spread the slots thin.
    const OUTLIERS: usize = 64;

    /// For leaves with these first keys, of which there is one at least.
    fn new(firsts: &[K]) -> Self {
        let last = firsts.len() - 1;
        let outliers = firsts.len() / Self::OUTLIERS;
        // The first leaf begins at 0 wherever the others are.
        let base = firsts[outliers.max(1).min(last)];
        let top = firsts[last - outliers].max(base);
        let slot_bits = firsts.len().next_power_of_two().ilog2() + Self::EXTRA_BITS;
        let shift = top.bits_above(base).saturating_sub(slot_bits);
        let count = top.steps_above(base, shift) + 1;
        let mut leaf = 0;
        let begins = (1..count).map(|slot| {
            let start = base.up(slot, shift);
            while leaf < last && firsts[leaf + 1] <= start {
                leaf += 1;
            }
            leaf as u32
        });
        let leaves: Vec<u32> = std::iter::once(0)
            .chain(begins)
            .chain([last as u32])
            .collect();
        Self {
            base,
            shift,
            leaves: copied(&leaves),
        }
    }

    /// The first and the last leaf that can have the address.
    #[inline]
    fn leaves(&self, address: K) -> (usize, usize) {
        let slot = address.steps_above(self.base, self.shift);
        let slot = slot.min(self.leaves.len() - 2);
        (self.leaves[slot] as usize, self.leaves[slot + 1] as usize)
    }
}

/// Values of sorted ranges.
#[derive(Debug)]
pub(super) struct RangeTable<K, const LEAF: usize> {
    slots: Slots<K>,
    /// The first key of each leaf.
    firsts: Box<[K]>,
    leaves: Box<[Leaf<K, LEAF>]>,
}

impl<K: Key, const LEAF: usize> RangeTable<K, LEAF> {
    /// Of ranges in ascending order, the first of which starts at 0.
    pub(super) fn new(ranges: &[Range<K>]) -> Self {
        // A key that stands for none is the largest there is, and what it leads to holds there.
        let leaf = |ranges: &[Range<K>]| {
            let last = ranges.last().map_or(0, |(_, value)| *value);
            let mut leaf = Leaf {
                keys: [K::MAX; LEAF],
                values: [last; LEAF],
            };
            for (place, (key, value)) in ranges.iter().enumerate() {
                (leaf.keys[place], leaf.values[place]) = (*key, *value);
            }
            leaf
        };
        let leaves: Vec<_> = ranges.chunks(LEAF).map(leaf).collect();
        let firsts: Vec<K> = leaves.iter().map(|leaf| leaf.keys[0]).collect();
        Self {
            slots: Slots::new(&firsts),
            firsts: copied(&firsts),
            leaves: copied(&leaves),
        }
    }

    /// The value that holds at an address.
    #[inline]
    pub(super) fn get(&self, address: K) -> u32 {
        let (first, last) = self.slots.leaves(address);
        let leaf = &self.leaves[first + rank(&self.firsts[first..=last], address)];
        leaf.values[rank(&leaf.keys, address)]
    }

    /// Bytes it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots.leaves) + size_of_val(&*self.firsts) + size_of_val(&*self.leaves)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Starts of ranges: anywhere, crowded around some address, and at both ends.
    fn starts() -> impl Strategy<Value = Vec<u64>> {
        let crowd =
            (any::<u64>(), 0_u32..60, 1_usize..400).prop_flat_map(|(near, width, count)| {
                prop::collection::vec(
                    (0..=u64::MAX >> (63 - width)).prop_map(move |n| near ^ n),
                    count,
                )
            });
        let anywhere = prop::collection::vec(any::<u64>(), 0..50);
        let ends =
            prop::collection::vec(prop::sample::select(vec![1, u64::MAX - 1, u64::MAX]), 0..3);
        (prop::collection::vec(crowd, 0..4), anywhere, ends).prop_map(|(crowds, anywhere, ends)| {
            let mut starts = crowds.concat();
            starts.extend(anywhere);
            starts.extend(ends);
            starts.push(0);
            starts.sort_unstable();
            starts.dedup();
            starts
        })
    }

    proptest! {
        #[test]
        fn finds_the_last_range_that_does_not_start_above(
            starts in starts(),
            others in prop::collection::vec(any::<u64>(), 20),
        ) {
            let number = 0..starts.len() as u32;
            let ranges: Vec<Range<u64>> = starts.iter().copied().zip(number).collect();
            let table = RangeTable::<u64, 10>::new(&ranges);
            let near = starts.iter().flat_map(|start| {
                [start.saturating_sub(1), *start, start.saturating_add(1)]
            });
            for address in near.chain(others) {
                let place = starts.partition_point(|start| *start <= address) - 1;
                prop_assert_eq!(table.get(address), place as u32, "{:#x}", address);
            }
        }
    }

    #[test]
    fn leaves_that_crowd_are_divided_among_the_slots() {
        // All but two prefixes in one /32 of the upper halves of IPv6 addresses.
        let crowd = (0..100_000_u64).map(|n| (0x2001_0db8_u64 << 32) + (n << 12));
        let starts = [0, 1 << 32].into_iter().chain(crowd).chain([0xfe80 << 48]);
        let ranges: Vec<Range<u64>> = starts.zip(0..).collect();
        let table = RangeTable::<u64, 10>::new(&ranges);
        for (start, value) in &ranges {
            assert_eq!(table.get(*start), *value);
            let (first, last) = table.slots.leaves(*start);
            let outlying = ranges.len().div_ceil(10) / Slots::<u64>::OUTLIERS;
            let at_the_ends = first <= outlying || last >= table.leaves.len() - 2 - outlying;
            assert!(at_the_ends || last - first <= 1, "{first}..={last}");
        }
    }
}
