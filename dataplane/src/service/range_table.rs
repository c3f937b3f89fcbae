//! Values by ranges of addresses, for look-ups that the caches cannot help.
//!
//! Sorted ranges lie in leaves of two cache lines, keys beside their values. Above them is a tree of
//! which each level has the first keys of all that is below, 16 to a node. Where a node's children are
//! follows from where it is, so there are no pointers; and every look-up takes the same steps, none of
//! which is a branch. So the look-ups of a burst go down level by level together, and wait for memory at
//! the same time.

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

/// Children of a node.
const FANOUT: usize = 16;

/// The first keys of a node's children.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node<K>([K; FANOUT]);

/// Nodes at the same distance from the leaves.
#[derive(Debug)]
struct Level<K> {
    nodes: Box<[Node<K>]>,
    /// The last child. A key that stands for none is the largest there is, and stands behind it.
    last: usize,
}

impl<K: Key> Level<K> {
    /// Above children with these first keys, of which there is one at least.
    fn new(firsts: &[K]) -> Self {
        let node = |firsts: &[K]| {
            let mut node = Node([K::MAX; FANOUT]);
            node.0[..firsts.len()].copy_from_slice(firsts);
            node
        };
        let nodes: Vec<_> = firsts.chunks(FANOUT).map(node).collect();
        Self {
            nodes: copied(&nodes),
            last: firsts.len() - 1,
        }
    }

    /// The child of a node that has the address.
    #[inline]
    fn child(&self, node: usize, address: K) -> usize {
        let child = node * FANOUT + rank(&self.nodes[node].0, address);
        child.min(self.last)
    }
}

/// Values of sorted ranges.
#[derive(Debug)]
pub(super) struct RangeTable<K, const LEAF: usize> {
    /// The first has one node.
    levels: Vec<Level<K>>,
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
        let mut firsts: Vec<K> = leaves.iter().map(|leaf| leaf.keys[0]).collect();
        let mut levels = Vec::new();
        while firsts.len() > 1 {
            levels.push(Level::new(&firsts));
            firsts = firsts.iter().step_by(FANOUT).copied().collect();
        }
        levels.reverse();
        Self {
            levels,
            leaves: copied(&leaves),
        }
    }

    /// The value that holds at an address.
    #[inline]
    pub(super) fn get(&self, address: K) -> u32 {
        let levels = self.levels.iter();
        self.at(
            levels.fold(0, |node, level| level.child(node, address)),
            address,
        )
    }

    /// The value that holds at the key of each address.
    #[inline]
    pub(super) fn get_each<A: Copy>(
        &self,
        addresses: &[A],
        key: impl Fn(A) -> K,
        values: &mut [u32],
    ) {
        values.fill(0);
        for level in &self.levels {
            for (address, node) in addresses.iter().zip(&mut *values) {
                *node = level.child(*node as usize, key(*address)) as u32;
            }
        }
        for (address, value) in addresses.iter().zip(values) {
            *value = self.at(*value as usize, key(*address));
        }
    }

    /// The value in a leaf.
    #[inline]
    fn at(&self, leaf: usize, address: K) -> u32 {
        let leaf = &self.leaves[leaf];
        leaf.values[rank(&leaf.keys, address)]
    }

    /// Bytes it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let levels = self.levels.iter();
        let nodes: usize = levels.map(|level| size_of_val(&*level.nodes)).sum();
        nodes + size_of_val(&*self.leaves)
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
            let addresses: Vec<u64> = near.chain(others).collect();
            let mut together = vec![7; addresses.len()];
            table.get_each(&addresses, |address| address, &mut together);
            for (address, value) in addresses.into_iter().zip(together) {
                let place = starts.partition_point(|start| *start <= address) - 1;
                prop_assert_eq!(table.get(address), place as u32, "{:#x}", address);
                prop_assert_eq!(value, place as u32, "{:#x}", address);
            }
        }
    }
}
