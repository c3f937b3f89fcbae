//! Longest prefix match on a table that never changes.
//!
//! Prefixes are flattened into ranges: sorted keys, each with the value that holds from there up to
//! the next key. A look-up finds the last key that is not above the address, in a [`RangeTable`]. Many
//! IPv4 prefixes are looked up in a [`DirectTable`] instead.

use super::{
    direct_table::DirectTable,
    range_table::{Key, Range, RangeTable},
};

/// No prefix covers the address.
const NONE: u32 = 0;
/// Set in the value of a /64 that has routes to parts of it; the other bits are the place in
/// [`PrefixTableV6::parts`].
const IS_PARTED: u32 = 1 << 31;

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

    /// As [`Self::get`], of the key of each address: 1 more than the number, or 0.
    fn get_each<A: Copy>(&self, addresses: &[A], key: impl Fn(A) -> Self::Key, values: &mut [u32]);

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

/// From this many ranges on, the caches no longer hold a range table, and IPv4 has a direct one.
const DIRECT_FROM: usize = 1 << 16;

/// IPv4 prefixes.
#[derive(Debug)]
pub(super) enum PrefixTableV4 {
    /// Of few prefixes.
    Ranges(RangeTable<u32, 16>),
    /// Of many.
    Direct(DirectTable),
}

impl PrefixTable for PrefixTableV4 {
    type Key = u32;

    fn new(prefixes: impl Iterator<Item = (u32, u8, u16)>) -> Self {
        let prefixes = prefixes.map(|(start, len, number)| (start, len, value(number)));
        let ranges = flatten(prefixes);
        if ranges.len() < DIRECT_FROM {
            Self::Ranges(RangeTable::new(&ranges))
        } else {
            Self::Direct(DirectTable::new(&ranges))
        }
    }

    #[inline]
    fn get(&self, address: u32) -> Option<u16> {
        number(match self {
            Self::Ranges(table) => table.get(address),
            Self::Direct(table) => table.get(address),
        })
    }

    #[inline]
    fn get_each<A: Copy>(&self, addresses: &[A], key: impl Fn(A) -> u32, values: &mut [u32]) {
        match self {
            Self::Ranges(table) => table.get_each(addresses, key, values),
            Self::Direct(table) => {
                for (address, value) in addresses.iter().zip(values) {
                    *value = table.get(key(*address));
                }
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Ranges(table) => table.memory_bytes(),
            Self::Direct(table) => table.memory_bytes(),
        }
    }
}

/// IPv6 prefixes. The table is one of the addresses' upper halves; a /64 that is divided further has a
/// sorted list of its own.
#[derive(Debug)]
pub(super) struct PrefixTableV6 {
    upper: RangeTable<u64, 10>,
    /// Place of each list in `lower`.
    parts: Vec<(u32, u32)>,
    lower: Vec<Range<u64>>,
}

const fn upper_half(address: u128) -> u64 {
    (address >> 64) as u64
}

impl PrefixTableV6 {
    /// The value of an address, from that of its upper half.
    #[inline]
    fn whole(&self, value: u32, address: u128) -> u32 {
        if value & IS_PARTED == 0 {
            return value;
        }
        let (start, end) = self.parts[(value & !IS_PARTED) as usize];
        let part = &self.lower[start as usize..end as usize];
        let place = part.partition_point(|(key, _)| *key <= address as u64);
        part[place - 1].1
    }
}

impl PrefixTable for PrefixTableV6 {
    type Key = u128;

    fn new(prefixes: impl Iterator<Item = (u128, u8, u16)>) -> Self {
        let prefixes = prefixes.map(|(start, len, number)| (start, len, value(number)));
        let ranges = flatten(prefixes);
        let (mut upper, mut parts, mut lower) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = NONE;
        for group in ranges.chunk_by(|(a, _), (b, _)| upper_half(*a) == upper_half(*b)) {
            let (first, value) = group[0];
            let half = upper_half(first);
            let last = group[group.len() - 1].1;
            if let ([_], 0) = (group, first as u64) {
                set(&mut upper, half, value);
            } else {
                let start = lower.len() as u32;
                if first as u64 != 0 {
                    lower.push((0, before));
                }
                lower.extend(group.iter().map(|(key, value)| (*key as u64, *value)));
                set(&mut upper, half, IS_PARTED | parts.len() as u32);
                parts.push((start, lower.len() as u32));
                if let Some(next) = half.next() {
                    set(&mut upper, next, last);
                }
            }
            before = last;
        }
        Self {
            upper: RangeTable::new(&upper),
            parts,
            lower,
        }
    }

    #[inline]
    fn get(&self, address: u128) -> Option<u16> {
        number(self.whole(self.upper.get(upper_half(address)), address))
    }

    #[inline]
    fn get_each<A: Copy>(&self, addresses: &[A], key: impl Fn(A) -> u128, values: &mut [u32]) {
        self.upper
            .get_each(addresses, |address| upper_half(key(address)), values);
        for (address, value) in addresses.iter().zip(values) {
            *value = self.whole(*value, key(*address));
        }
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
    fn the_direct_table_agrees_with_the_ranges() {
        let ranges = flatten(prefixes().into_iter());
        let by_range = RangeTable::<u32, 16>::new(&ranges);
        let table = DirectTable::new(&ranges);
        assert!(table.memory_bytes() > by_range.memory_bytes());
        let mut steps = 0;
        for (start, value) in &ranges {
            for address in [*start, start.wrapping_sub(1), start.wrapping_add(1)] {
                assert_eq!(table.get(address), by_range.get(address), "{address:#x}");
            }
            assert_eq!(table.get(*start), *value);
            steps += 1;
        }
        assert!(steps > 10_000, "{steps} ranges are too few");
        for address in [u32::MAX, u32::MAX - 1, 1 << 31] {
            assert_eq!(table.get(address), by_range.get(address), "{address:#x}");
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
        assert!(matches!(few, PrefixTableV4::Ranges(_)));
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
