//! Longest prefix match on a table that never changes.
//!
//! Prefixes are flattened into ranges: sorted keys, each with the value that holds from there up to
//! the next key. A look-up finds the last key that is not above the address, in a tree without
//! pointers: leaves are two cache lines of keys with their values, inner nodes two cache lines of
//! first keys of the nodes below. A look-up in a tree that the caches do not hold waits for memory
//! about once, whatever the lengths and the order of the prefixes are. Many IPv4 prefixes are looked
//! up in a [`DirectTable`] instead.

use std::hint;

use super::direct_table::DirectTable;

/// No prefix covers the address.
const NONE: u32 = 0;
/// Set in the value of a /64 that has routes to parts of it; the other bits are the place in
/// [`PrefixTableV6::parts`].
const IS_PARTED: u32 = 1 << 31;

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
        }
    )*};
}

key!(u32, u64, u128);

/// Where a value begins to hold.
pub(super) type Range<K> = (K, u32);

/// The last of the keys that is not above `key`, or the first.
#[inline]
fn rank<K: Key, const N: usize>(keys: &[K; N], key: K) -> usize {
    let (mut base, mut left) = (0, N);
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

#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
struct Inner<K, const N: usize> {
    keys: [K; N],
}

/// The tree over sorted ranges, the first of which starts at 0.
#[derive(Debug)]
pub(super) struct RangeTree<K, const LEAF: usize, const INNER: usize> {
    /// The root's level first.
    levels: Vec<Box<[Inner<K, INNER>]>>,
    leaves: Box<[Leaf<K, LEAF>]>,
}

impl<K: Key, const LEAF: usize, const INNER: usize> RangeTree<K, LEAF, INNER> {
    fn new(ranges: &[Range<K>]) -> Self {
        // A key that stands for none is the largest there is, and what it leads to holds there.
        let leaf = |ranges: &[Range<K>]| {
            let last = ranges.last().map_or(NONE, |(_, value)| *value);
            let mut leaf = Leaf {
                keys: [K::MAX; LEAF],
                values: [last; LEAF],
            };
            for (place, (key, value)) in ranges.iter().enumerate() {
                (leaf.keys[place], leaf.values[place]) = (*key, *value);
            }
            leaf
        };
        let leaves: Box<[_]> = ranges.chunks(LEAF).map(leaf).collect();
        let mut levels = Vec::new();
        let mut firsts: Vec<K> = leaves.iter().map(|leaf| leaf.keys[0]).collect();
        while firsts.len() > 1 {
            let inner = |below: &[K]| {
                let mut keys = [K::MAX; INNER];
                keys[..below.len()].copy_from_slice(below);
                Inner { keys }
            };
            let level: Box<[_]> = firsts.chunks(INNER).map(inner).collect();
            firsts = level.iter().map(|inner| inner.keys[0]).collect();
            levels.push(level);
        }
        levels.reverse();
        Self { levels, leaves }
    }

    #[inline]
    fn get(&self, key: K) -> u32 {
        let mut place = 0;
        for level in &self.levels {
            // Beyond the last node there is only the largest key, which the last node has.
            let node = place.min(level.len() - 1);
            place = node * INNER + rank(&level[node].keys, key);
        }
        let leaf = &self.leaves[place.min(self.leaves.len() - 1)];
        leaf.values[rank(&leaf.keys, key)]
    }

    fn memory_bytes(&self) -> usize {
        let inner: usize = self.levels.iter().map(|level| size_of_val(&**level)).sum();
        inner + size_of_val(&*self.leaves)
    }
}

/// Ranges of prefixes in ascending order of address and then of length; values are above 0.
fn flatten<K: Key>(prefixes: impl Iterator<Item = (K, u8, u32)>) -> Vec<Range<K>> {
    let mut ranges: Vec<Range<K>> = vec![(K::default(), NONE)];
    // Prefixes around the present one: where each ends, and its value.
    let mut around: Vec<Range<K>> = Vec::new();
    for (start, prefix_len, value) in prefixes {
        close(&mut ranges, &mut around, Some(start));
        set(&mut ranges, start, value);
        around.push((start.last(prefix_len), value));
    }
    close(&mut ranges, &mut around, None);
    ranges
}

/// Ends the prefixes that end before `start`: what is around them holds again.
fn close<K: Key>(ranges: &mut Vec<Range<K>>, around: &mut Vec<Range<K>>, start: Option<K>) {
    while let Some(&(end, _)) = around.last()
        && start.is_none_or(|start| end < start)
    {
        around.pop();
        let outer = around.last().map_or(NONE, |(_, value)| *value);
        if let Some(after) = end.next() {
            set(ranges, after, outer);
        }
    }
}

/// Lets `value` hold from `start` on, which is not below the last range's start.
fn set<K: Key>(ranges: &mut Vec<Range<K>>, start: K, value: u32) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, before)| *before != value) {
        ranges.push((start, value));
    }
}

/// Prefixes of one address family with a number each.
pub(super) trait PrefixTable: Sized {
    /// An address.
    type Key: Key;

    /// Of prefixes in ascending order of address and then of length, each there once, with host
    /// bits zero.
    fn new(prefixes: impl Iterator<Item = (Self::Key, u8, u16)>) -> Self;

    /// The number of the longest prefix that covers the address.
    fn get(&self, address: Self::Key) -> Option<u16>;

    /// Bytes it takes.
    fn memory_bytes(&self) -> usize;
}

const fn value(number: u16) -> u32 {
    number as u32 + 1
}

#[inline]
const fn number(value: u32) -> Option<u16> {
    if value == NONE {
        None
    } else {
        Some((value - 1) as u16)
    }
}

/// From this many ranges on, the caches no longer hold a tree, and IPv4 has a direct table.
const DIRECT_FROM: usize = 1 << 16;

/// IPv4 prefixes.
#[derive(Debug)]
pub(super) enum PrefixTableV4 {
    /// Of few prefixes.
    Tree(RangeTree<u32, 16, 32>),
    /// Of many.
    Direct(DirectTable),
}

impl PrefixTable for PrefixTableV4 {
    type Key = u32;

    fn new(prefixes: impl Iterator<Item = (u32, u8, u16)>) -> Self {
        let prefixes = prefixes.map(|(start, len, number)| (start, len, value(number)));
        let ranges = flatten(prefixes);
        if ranges.len() < DIRECT_FROM {
            Self::Tree(RangeTree::new(&ranges))
        } else {
            Self::Direct(DirectTable::new(&ranges))
        }
    }

    #[inline]
    fn get(&self, address: u32) -> Option<u16> {
        number(match self {
            Self::Tree(tree) => tree.get(address),
            Self::Direct(table) => table.get(address),
        })
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Tree(tree) => tree.memory_bytes(),
            Self::Direct(table) => table.memory_bytes(),
        }
    }
}

/// IPv6 prefixes. The tree is one of the addresses' upper halves; a /64 that is divided further has a
/// sorted list of its own.
#[derive(Debug)]
pub(super) struct PrefixTableV6 {
    upper: RangeTree<u64, 10, 16>,
    /// Place of each list in `lower`.
    parts: Vec<(u32, u32)>,
    lower: Vec<Range<u64>>,
}

impl PrefixTable for PrefixTableV6 {
    type Key = u128;

    fn new(prefixes: impl Iterator<Item = (u128, u8, u16)>) -> Self {
        let prefixes = prefixes.map(|(start, len, number)| (start, len, value(number)));
        let ranges = flatten(prefixes);
        let half = |key: u128| (key >> 64) as u64;
        let (mut upper, mut parts, mut lower) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = NONE;
        for group in ranges.chunk_by(|(a, _), (b, _)| half(*a) == half(*b)) {
            let (first, value) = group[0];
            let last = group[group.len() - 1].1;
            if let ([_], 0) = (group, first as u64) {
                set(&mut upper, half(first), value);
            } else {
                let start = lower.len() as u32;
                if first as u64 != 0 {
                    lower.push((0, before));
                }
                lower.extend(group.iter().map(|(key, value)| (*key as u64, *value)));
                set(&mut upper, half(first), IS_PARTED | parts.len() as u32);
                parts.push((start, lower.len() as u32));
                if let Some(next) = half(first).next() {
                    set(&mut upper, next, last);
                }
            }
            before = last;
        }
        Self {
            upper: RangeTree::new(&upper),
            parts,
            lower,
        }
    }

    #[inline]
    fn get(&self, address: u128) -> Option<u16> {
        let value = self.upper.get((address >> 64) as u64);
        if value & IS_PARTED == 0 {
            return number(value);
        }
        let (start, end) = self.parts[(value & !IS_PARTED) as usize];
        let part = &self.lower[start as usize..end as usize];
        let place = part.partition_point(|(key, _)| *key <= address as u64);
        number(part[place - 1].1)
    }

    fn memory_bytes(&self) -> usize {
        self.upper.memory_bytes() + size_of_val(&*self.parts) + size_of_val(&*self.lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefixes of all lengths, many of them in each other, in the order that the tables want.
    fn prefixes() -> Vec<(u32, u8, u32)> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut prefixes: Vec<(u32, u8, u32)> = (0..40_000)
            .map(|number| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let prefix_len = (state % 33) as u8;
                // A quarter of all addresses, so that /24 are divided more than once.
                let start = ((state >> 20) as u32 & 0x3fff_ffff).first(prefix_len);
                (start, prefix_len, value(number % 4000))
            })
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup_by_key(|(start, prefix_len, _)| (*start, *prefix_len));
        prefixes
    }

    #[test]
    fn the_direct_table_agrees_with_the_tree() {
        let ranges = flatten(prefixes().into_iter());
        let tree = RangeTree::<u32, 16, 32>::new(&ranges);
        let table = DirectTable::new(&ranges);
        assert!(table.memory_bytes() > tree.memory_bytes());
        let mut steps = 0;
        for (start, value) in &ranges {
            for address in [*start, start.wrapping_sub(1), start.wrapping_add(1)] {
                assert_eq!(table.get(address), tree.get(address), "{address:#x}");
            }
            assert_eq!(table.get(*start), *value);
            steps += 1;
        }
        assert!(steps > 10_000, "{steps} ranges are too few");
        for address in [u32::MAX, u32::MAX - 1, 1 << 31] {
            assert_eq!(table.get(address), tree.get(address), "{address:#x}");
        }
    }

    #[test]
    fn many_prefixes_get_a_direct_table() {
        let table = |count: u32| {
            // Neighbours with different values: a range for each.
            let prefixes = (0..count).map(|n| (n << 12, 20, (n % 2) as u16));
            PrefixTableV4::new(prefixes)
        };
        let (few, many) = (table(1000), table(DIRECT_FROM as u32));
        assert!(matches!(few, PrefixTableV4::Tree(_)));
        assert!(matches!(many, PrefixTableV4::Direct(_)));
        for n in [0_u32, 1, 998, 999] {
            for table in [&few, &many] {
                assert_eq!(table.get(n << 12), Some((n % 2) as u16));
                assert_eq!(table.get((n << 12) + 4095), Some((n % 2) as u16));
            }
        }
        assert_eq!(few.get(1000 << 12), None);
    }
}
