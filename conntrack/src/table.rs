//! The flow table.

use std::fmt;
use std::iter;
use std::ops::Range;

use crate::flow::{Flow, Insertion, Lookup, expired};
use crate::index::Index;
use crate::key::FlowKey;
use crate::slab::Slab;

/// The most flows a table can hold.
pub const MAX_CAPACITY: usize = 1 << 30;

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewError {
    /// The capacity is 0 or above [`MAX_CAPACITY`].
    Capacity(usize),
    /// This many bytes cannot be had.
    Memory(usize),
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(capacity) => write!(
                f,
                "flow table capacity {capacity}: must be 1 to {MAX_CAPACITY} flows"
            ),
            Self::Memory(bytes) => write!(
                f,
                "flow table: cannot allocate {bytes} bytes; lower its capacity"
            ),
        }
    }
}

impl std::error::Error for NewError {}

/// A table of flows that evicts the least recently used one when it is full.
///
/// Methods that take a `hash` expect what [`hash`](Self::hash) of the same table says about the
/// key. With another hash they do not find the flow, and an insertion may store it twice.
pub struct FlowTable<K> {
    index: Index,
    slab: Slab<K>,
    hasher: ahash::RandomState,
}

impl<K: FlowKey> FlowTable<K> {
    /// An empty table for `capacity` flows, with all its memory allocated and touched.
    ///
    /// The seeds key the hash. They must be random and secret, or others can aim collisions.
    pub fn new(capacity: usize, seeds: [u64; 4]) -> Result<Self, NewError> {
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(NewError::Capacity(capacity));
        }
        let out_of_memory = |_| NewError::Memory(Self::memory_for(capacity));
        let [a, b, c, d] = seeds;
        Ok(Self {
            index: Index::new(capacity).map_err(out_of_memory)?,
            slab: Slab::new(capacity).map_err(out_of_memory)?,
            hasher: ahash::RandomState::with_seeds(a, b, c, d),
        })
    }

    /// The bytes that a table for `capacity` flows, at most [`MAX_CAPACITY`], allocates.
    pub fn memory_for(capacity: usize) -> usize {
        Index::bytes_for(capacity) + Slab::<K>::bytes_for(capacity)
    }

    /// The bytes that this table has allocated.
    pub fn memory_bytes(&self) -> usize {
        Self::memory_for(self.capacity())
    }

    /// The number of flows it holds.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of flows it can hold.
    pub fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// The key's hash under this table's seeds.
    #[inline]
    pub fn hash(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Starts loading the cache line of the index where a lookup with `hash` begins.
    ///
    /// The flow's entry, one more cache line, is not known before the index has been read.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(tag(hash));
    }

    /// Looks a flow up and, on a hit, makes it the most recently used.
    ///
    /// With a `timeout` (UDP) the flow must have been used within that many nanoseconds before
    /// `now`, and a hit sets its last use to `now`. Without one (TCP) it never expires and its
    /// last use stays as it is.
    #[inline]
    pub fn lookup(&mut self, hash: u64, key: &K, now: u64, timeout: Option<u64>) -> Lookup {
        let Some(found) = self.find(hash, key) else {
            return Lookup::Miss;
        };
        let entry = self.slab.get_mut(found);
        if expired(entry.last_use, now, timeout) {
            return Lookup::Expired;
        }
        if timeout.is_some() {
            entry.last_use = now;
        }
        let value = entry.value;
        self.slab.touch(found);
        Lookup::Hit(value)
    }

    /// Looks a flow up, expired or not, and changes nothing.
    pub fn peek(&self, hash: u64, key: &K) -> Option<Flow<K>> {
        self.find(hash, key).map(|found| self.slab.flow(found))
    }

    /// Stores a flow as the most recently used, last used at `time`.
    ///
    /// It overwrites the flow of the same key; if there is none and the table is full, it replaces
    /// the least recently used flow.
    pub fn insert(&mut self, hash: u64, key: K, value: u32, time: u64) -> Insertion<K> {
        if let Some(found) = self.find(hash, &key) {
            let entry = self.slab.get_mut(found);
            entry.last_use = time;
            let previous = std::mem::replace(&mut entry.value, value);
            self.slab.touch(found);
            return Insertion::Overwrote(previous);
        }
        let mut done = Insertion::Added;
        if self.len() == self.capacity()
            && let Some(oldest) = self.slab.oldest()
        {
            done = Insertion::Evicted(self.slab.flow(oldest));
            self.release(oldest);
        }
        if let Some(free) = self.slab.allocate() {
            let entry = self.slab.get_mut(free);
            entry.key = key;
            entry.value = value;
            entry.last_use = time;
            entry.tag = tag(hash);
            self.index.insert(tag(hash), free);
        }
        done
    }

    /// Removes a flow, expired or not, and returns it.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<Flow<K>> {
        let found = self.find(hash, key)?;
        let flow = self.slab.flow(found);
        self.release(found);
        Some(flow)
    }

    /// All flows, expired or not, most recently used first.
    pub fn iter(&self) -> impl Iterator<Item = Flow<K>> {
        iter::successors(self.slab.newest(), |&entry| self.slab.older(entry))
            .map(|entry| self.slab.flow(entry))
    }

    /// The flows in these of the table's [`capacity`](Self::capacity) slots, in no order of use.
    ///
    /// A walk over the whole table can be cut into steps, between which flows may come and go: a
    /// flow that stays is seen exactly once.
    pub fn iter_slots(&self, slots: Range<usize>) -> impl Iterator<Item = Flow<K>> {
        let end = slots.end.min(self.capacity());
        (slots.start..end)
            .map(|slot| slot as u32)
            .filter(|slot| self.slab.is_in_use(*slot))
            .map(|slot| self.slab.flow(slot))
    }

    /// Removes the flows for which `keep` is false and returns how many there were.
    ///
    /// It visits every flow, most recently used first, and leaves that order as it is.
    pub fn retain(&mut self, mut keep: impl FnMut(&Flow<K>) -> bool) -> usize {
        let before = self.len();
        let mut cursor = self.slab.newest();
        while let Some(entry) = cursor {
            cursor = self.slab.older(entry);
            if !keep(&self.slab.flow(entry)) {
                self.release(entry);
            }
        }
        before - self.len()
    }

    #[inline]
    fn find(&self, hash: u64, key: &K) -> Option<u32> {
        self.index
            .find(tag(hash), |entry| self.slab.get(entry).key == *key)
    }

    fn release(&mut self, entry: u32) {
        self.index.remove(self.slab.get(entry).tag, entry);
        self.slab.release(entry);
    }
}

impl<K: FlowKey> fmt::Debug for FlowTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// The part of a hash that the index keeps.
#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::FlowKeyV4;

    impl FlowKey for u16 {}

    const SECOND: u64 = 1_000_000_000;
    const TIMEOUT: Option<u64> = Some(30 * SECOND);

    fn table(capacity: usize) -> FlowTable<u16> {
        FlowTable::new(capacity, [1, 2, 3, 4]).unwrap()
    }

    impl FlowTable<u16> {
        fn assert_consistent(&self) {
            let mut cells = self.index.checked_cells();
            let mut entries: Vec<_> = self
                .slab
                .checked_entries()
                .into_iter()
                .map(|entry| (self.slab.get(entry).tag, entry))
                .collect();
            cells.sort_unstable();
            entries.sort_unstable();
            assert_eq!(cells, entries);
        }
    }

    #[test]
    fn a_walk_by_slots_sees_every_flow_once() {
        let mut table = FlowTable::new(100, [1, 2, 3, 4]).unwrap();
        for port in 0..150_u16 {
            let key = FlowKeyV4 {
                source_port: port.to_be_bytes(),
                ..FlowKeyV4::default()
            };
            table.insert(table.hash(&key), key, u32::from(port), 0);
            if port % 3 == 0 {
                table.remove(table.hash(&key), &key);
            }
        }
        let mut walked: Vec<u32> = (0..100)
            .step_by(7)
            .flat_map(|start| table.iter_slots(start..start + 7).map(|flow| flow.value))
            .collect();
        let mut listed: Vec<u32> = table.iter().map(|flow| flow.value).collect();
        walked.sort_unstable();
        listed.sort_unstable();
        assert_eq!(walked, listed);
        assert_eq!(walked.len(), table.len());
    }

    #[test]
    fn capacities_out_of_range_are_refused() {
        for capacity in [0, MAX_CAPACITY + 1, usize::MAX] {
            let refusal = FlowTable::<u16>::new(capacity, [0; 4]).unwrap_err();
            assert_eq!(refusal, NewError::Capacity(capacity));
            assert!(refusal.to_string().contains(&capacity.to_string()));
        }
    }

    #[test]
    fn a_udp_flow_lives_thirty_idle_seconds() {
        let mut flows = table(10);
        let hash = flows.hash(&1);
        flows.insert(hash, 1, 7, 100 * SECOND);
        assert_eq!(
            flows.lookup(hash, &1, 129 * SECOND, TIMEOUT),
            Lookup::Hit(7)
        );
        // That hit refreshed it, so this is 30 s idle, not 59.
        assert_eq!(
            flows.lookup(hash, &1, 159 * SECOND, TIMEOUT),
            Lookup::Hit(7)
        );
        assert_eq!(
            flows.lookup(hash, &1, 190 * SECOND, TIMEOUT),
            Lookup::Expired
        );
        assert_eq!(
            flows.lookup(hash, &1, 189 * SECOND + 1, TIMEOUT),
            Lookup::Expired
        );
        // A miss refreshes nothing.
        assert_eq!(flows.peek(hash, &1).unwrap().last_use, 159 * SECOND);
        assert_eq!(
            flows.insert(hash, 1, 8, 190 * SECOND),
            Insertion::Overwrote(7)
        );
        assert_eq!(
            flows.lookup(hash, &1, 190 * SECOND, TIMEOUT),
            Lookup::Hit(8)
        );
    }

    #[test]
    fn a_tcp_flow_never_expires_and_keeps_its_time() {
        let mut flows = table(10);
        let hash = flows.hash(&1);
        flows.insert(hash, 1, 7, 0);
        assert_eq!(flows.lookup(hash, &1, u64::MAX, None), Lookup::Hit(7));
        assert_eq!(flows.peek(hash, &1).unwrap().last_use, 0);
        // The same entry is expired to a caller with a timeout.
        assert_eq!(
            flows.lookup(hash, &1, 31 * SECOND, TIMEOUT),
            Lookup::Expired
        );
    }

    #[test]
    fn the_least_recently_used_flow_is_evicted() {
        let mut flows = table(3);
        let insert = |flows: &mut FlowTable<u16>, key| {
            flows.insert(flows.hash(&key), key, u32::from(key), 5)
        };
        for key in [1, 2, 3] {
            assert_eq!(insert(&mut flows, key), Insertion::Added);
        }
        // Neither peeking nor an expired lookup is a use; a hit and an overwrite are.
        let hash = |key| flows.hasher.hash_one(key);
        let hashes = [1_u16, 2, 3].map(hash);
        assert!(flows.peek(hashes[1], &2).is_some());
        assert_eq!(flows.lookup(hashes[1], &2, 6, Some(0)), Lookup::Expired);
        assert_eq!(flows.lookup(hashes[0], &1, 6, None), Lookup::Hit(1));
        assert_eq!(insert(&mut flows, 3), Insertion::Overwrote(3));
        let evicted = Flow {
            key: 2,
            value: 2,
            last_use: 5,
        };
        assert_eq!(insert(&mut flows, 4), Insertion::Evicted(evicted));
        let order: Vec<_> = flows.iter().map(|flow| flow.key).collect();
        assert_eq!(order, [4, 3, 1]);
    }

    #[test]
    fn retain_keeps_order_and_counts() {
        let mut flows = table(100);
        for key in 0..100 {
            flows.insert(flows.hash(&key), key, u32::from(key), 0);
        }
        assert_eq!(flows.retain(|flow| flow.value % 3 == 0), 66);
        let order: Vec<_> = flows.iter().map(|flow| flow.key).collect();
        let expected: Vec<_> = (0..100).rev().filter(|key| key % 3 == 0).collect();
        assert_eq!(order, expected);
        flows.assert_consistent();
        assert_eq!(flows.retain(|_| false), 34);
        assert!(flows.is_empty());
        flows.assert_consistent();
    }

    #[test]
    fn the_seeds_key_the_hash() {
        let differing = |seeds| {
            let other = FlowTable::<u16>::new(1, seeds).unwrap();
            let table = table(1);
            let keys = 0..1000;
            keys.filter(|key| other.hash(key) != table.hash(key))
                .count()
        };
        assert_eq!(differing([1, 2, 3, 4]), 0);
        assert_eq!(differing([5, 6, 7, 8]), 1000);
        // The first two key every hash; the others only take part in wider keys.
        assert_eq!(differing([0, 2, 3, 4]), 1000);
        assert_eq!(differing([1, 0, 3, 4]), 1000);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Lookup(u16),
        Insert(u16),
        Remove(u16),
        Purge(u16),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let key = 0..40_u16;
        prop_oneof![
            4 => key.clone().prop_map(Operation::Lookup),
            4 => key.clone().prop_map(Operation::Insert),
            2 => key.prop_map(Operation::Remove),
            1 => (2..5_u16).prop_map(Operation::Purge),
        ]
    }

    proptest! {
        /// The caller supplies the hashes, so the test can make them as bad as it likes.
        #[test]
        fn colliding_hashes_cost_time_only(
            capacity in 1..24_usize,
            hash_mask in prop::sample::select(vec![0, 1, 0b11, 0b1_0000, 0x3f, u64::MAX << 32, u64::MAX]),
            hash_base: u64,
            operations in prop::collection::vec(operation(), 1..200),
        ) {
            let mut flows = table(capacity);
            let real_hash = flows.hasher.clone();
            let hash = |key: u16| hash_base ^ real_hash.hash_one(key) & hash_mask;
            // Key to (value, time of use).
            let mut model = BTreeMap::<u16, (u32, u32)>::new();
            for (now, operation) in (0_u32..).zip(operations) {
                match operation {
                    Operation::Lookup(key) => {
                        let found = flows.lookup(hash(key), &key, 0, None);
                        let expected = model.get_mut(&key).map_or(Lookup::Miss, |(value, used)| {
                            *used = now;
                            Lookup::Hit(*value)
                        });
                        prop_assert_eq!(found, expected);
                    }
                    Operation::Insert(key) => {
                        let mut expected = Insertion::Added;
                        if let Some((value, _)) = model.get(&key) {
                            expected = Insertion::Overwrote(*value);
                        } else if model.len() == capacity {
                            let (&oldest, _) = model.iter().min_by_key(|(_, (_, used))| used).unwrap();
                            let (value, _) = model.remove(&oldest).unwrap();
                            expected = Insertion::Evicted(Flow { key: oldest, value, last_use: 0 });
                        }
                        model.insert(key, (now, now));
                        prop_assert_eq!(flows.insert(hash(key), key, now, 0), expected);
                    }
                    Operation::Remove(key) => {
                        let removed = flows.remove(hash(key), &key).map(|flow| flow.value);
                        prop_assert_eq!(removed, model.remove(&key).map(|(value, _)| value));
                    }
                    Operation::Purge(divisor) => {
                        let before = model.len();
                        model.retain(|key, _| key % divisor != 0);
                        let purged = flows.retain(|flow| flow.key % divisor != 0);
                        prop_assert_eq!(purged, before - model.len());
                    }
                }
                flows.assert_consistent();
                prop_assert_eq!(flows.len(), model.len());
            }
            for key in 0..40 {
                let value = flows.peek(hash(key), &key).map(|flow| flow.value);
                prop_assert_eq!(value, model.get(&key).map(|(value, _)| *value));
            }
        }
    }
}
