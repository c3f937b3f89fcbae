//! The flow table.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Range;

use crate::bucket::{Bucket, Clocks};
use crate::entry::Entry;
use crate::flow::{Flow, Insertion, Lookup};
use crate::key::FlowKey;
use crate::memory::filled;
use crate::prefetch::prefetch;
use crate::ways::WAYS;

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

/// A table of flows that gives up flows when it is full.
///
/// Methods that take a `hash` expect what [`hash`](Self::hash) of the same table says about the
/// key. With another hash they do not find the flow, and an insertion may store it twice.
pub struct FlowTable<K: FlowKey> {
    groups: Box<[Group<K>]>,
    hasher: ahash::RandomState,
    clocks: Clocks,
    /// The latest time that the caller told.
    now: u64,
    len: usize,
    capacity: usize,
}

/// A bucket and the flows in its slots, next to each other, so that they mostly share a page: far
/// apart, each would cost a large table its own walk through the page tables.
#[derive(Clone, Copy)]
#[repr(C)]
struct Group<K: FlowKey> {
    bucket: Bucket,
    entries: [Entry<K>; WAYS],
}

impl<K: FlowKey> Group<K> {
    /// Starts loading an entry, which can lie across two lines.
    #[inline]
    fn prefetch_entry(&self, way: usize) {
        let entry = &self.entries[way];
        prefetch(std::ptr::from_ref(entry));
        prefetch(entry.last_part());
    }
}

/// Where a flow can be.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    second: usize,
    tag: u16,
}

/// The number of a slot, counted through the buckets; there are fewer than 2³² for [`MAX_CAPACITY`].
#[derive(Clone, Copy, Debug)]
struct Slot(u32);

/// Where a flow probably is, in the table that said so. To another table it is only a wrong guess.
#[derive(Clone, Copy, Debug)]
pub struct Hint(Slot);

impl Hint {
    /// A guess that knows nothing.
    pub const NONE: Self = Self(Slot(0));
}

impl Slot {
    #[inline]
    const fn new(bucket: usize, way: usize) -> Self {
        Self((bucket * WAYS + way) as u32)
    }

    #[inline]
    const fn bucket(self) -> usize {
        self.0 as usize / WAYS
    }

    #[inline]
    const fn way(self) -> usize {
        self.0 as usize % WAYS
    }
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
        let buckets = Self::buckets_for(capacity);
        let empty = Group {
            bucket: Bucket::EMPTY,
            entries: [Entry::empty(); WAYS],
        };
        let [a, b, c, d] = seeds;
        Ok(Self {
            groups: filled(buckets, empty).map_err(out_of_memory)?,
            hasher: ahash::RandomState::with_seeds(a, b, c, d),
            clocks: Clocks::new(capacity),
            now: 0,
            len: 0,
            capacity,
        })
    }

    /// Buckets that take `capacity` flows.
    fn buckets_for(capacity: usize) -> usize {
        (capacity * K::BYTES_PER_FLOW).div_ceil(size_of::<Group<K>>())
    }

    /// The bytes that a table for `capacity` flows, at most [`MAX_CAPACITY`], allocates.
    pub fn memory_for(capacity: usize) -> usize {
        Self::buckets_for(capacity) * size_of::<Group<K>>()
    }

    /// The bytes that this table has allocated.
    pub fn memory_bytes(&self) -> usize {
        Self::memory_for(self.capacity)
    }

    /// The number of flows it holds.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no flow.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of flows it was made for. It may come to hold a few more.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of slots that [`iter_slots`](Self::iter_slots) walks over.
    pub const fn slots(&self) -> usize {
        self.groups.len() * WAYS
    }

    /// The key's hash under this table's seeds.
    #[expect(
        clippy::manual_hash_one,
        reason = "`hash_one` is not inlined where packets are hashed"
    )]
    #[inline]
    pub fn hash(&self, key: &K) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// Starts loading the cache line where a look-up with `hash` begins. Says where that is.
    #[inline]
    pub fn prefetch(&self, hash: u64) -> Hint {
        let bucket = self.first_bucket(hash);
        prefetch(self.groups.as_ptr().wrapping_add(bucket));
        Hint(Slot::new(bucket, 0))
    }

    /// Starts loading what a look-up with `hash` touches next: the flow's entry, or the second bucket
    /// and the slot that a new flow would get. To be called with what [`prefetch`](Self::prefetch)
    /// said, when it has had time to finish. Says where the flow probably is.
    #[expect(
        clippy::inline_always,
        reason = "it is a dozen instructions of a packet's"
    )]
    #[inline(always)]
    pub fn prefetch_entry(&self, Hint(slot): Hint, hash: u64) -> Hint {
        let bucket = slot.bucket();
        let Some(group) = self.groups.get(bucket) else {
            return Hint(slot);
        };
        let way = group.bucket.with_tag(Bucket::tag(hash as u16)).next();
        let way = way.unwrap_or_else(|| self.prefetch_for_new(bucket, hash));
        group.prefetch_entry(way);
        Hint(Slot::new(bucket, way))
    }

    /// Starts loading the second bucket. Says which slot of the first a new flow would get.
    #[inline(never)]
    fn prefetch_for_new(&self, first: usize, hash: u64) -> usize {
        prefetch(&raw const self.groups[self.place(hash).second].bucket);
        let bucket = &self.groups[first].bucket;
        let free = bucket.free().next();
        free.unwrap_or_else(|| bucket.first_to_go(&self.clocks).0)
    }

    /// The value of a flow that is where the hint of [`prefetch_entry`](Self::prefetch_entry) says; the
    /// hit counts as a use. The hint may be stale or another flow's: `None` says nothing but that the flow has
    /// to be [looked up](Self::lookup).
    #[inline]
    pub fn hit_at(
        &mut self,
        Hint(slot): Hint,
        key: &K,
        now: u64,
        timeout: Option<u64>,
    ) -> Option<u32> {
        let way = slot.way();
        let group = self.groups.get(slot.bucket())?;
        if !(group.bucket.is_used(way) && group.entries[way].is_of(key)) {
            return None;
        }
        match self.use_at(slot, now, timeout) {
            Lookup::Hit(value) => Some(value),
            Lookup::Expired | Lookup::Miss => None,
        }
    }

    /// False if no flow with this hash is there, expired or not. Of those that are not there, about one in a
    /// thousand seems to be.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        let Place { first, second, tag } = self.place(hash);
        let has_tag = |bucket: usize| self.groups[bucket].bucket.with_tag(tag).next().is_some();
        has_tag(first) || has_tag(second)
    }

    /// Looks a flow up and, on a hit, counts it as used.
    ///
    /// With a `timeout` (UDP) the flow must have been used within that many nanoseconds before
    /// `now`, and a hit sets its last use to `now`. Without one (TCP) it never expires and its
    /// last use stays as it is.
    pub fn lookup(&mut self, hash: u64, key: &K, now: u64, timeout: Option<u64>) -> Lookup {
        match self.find(self.place(hash), key) {
            Some(slot) => self.use_at(slot, now, timeout),
            None => Lookup::Miss,
        }
    }

    /// Uses the flow in a slot.
    #[inline]
    fn use_at(&mut self, slot: Slot, now: u64, timeout: Option<u64>) -> Lookup {
        let group = &mut self.groups[slot.bucket()];
        let entry = &mut group.entries[slot.way()];
        if let Some(timeout) = timeout {
            if entry.is_expired(now, timeout) {
                return Lookup::Expired;
            }
            entry.use_at(now);
            self.now = self.now.max(now);
        }
        let value = entry.value;
        group.bucket.touch(slot.way(), &mut self.clocks);
        Lookup::Hit(value)
    }

    /// Looks a flow up, expired or not, and changes nothing.
    pub fn peek(&self, hash: u64, key: &K) -> Option<Flow<K>> {
        let slot = self.find(self.place(hash), key)?;
        Some(self.flow(slot))
    }

    /// Stores a flow, last used at `time`.
    ///
    /// It overwrites the flow of the same key, which counts as a use of it. If there is none and
    /// both buckets where it could be are full, it replaces another flow there.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: K, value: u32, time: u64) -> Insertion<K> {
        let place = self.place(hash);
        let Some(slot) = self.find(place, &key) else {
            return self.add(place, &key, value, time);
        };
        self.now = self.now.max(time);
        let group = &mut self.groups[slot.bucket()];
        group.bucket.touch(slot.way(), &mut self.clocks);
        let entry = Entry::new(&key, value, time);
        let previous = std::mem::replace(&mut group.entries[slot.way()], entry);
        Insertion::Overwrote(previous.value)
    }

    /// As [`insert`](Self::insert), for a flow that is not in the table: the last thing that the
    /// table was asked was a look-up of this key, and it was a [`Lookup::Miss`]. It is not looked for
    /// again.
    #[inline]
    pub fn insert_missed(&mut self, hash: u64, key: K, value: u32, time: u64) -> Insertion<K> {
        let place = self.place(hash);
        debug_assert!(self.find(place, &key).is_none(), "the flow is there");
        self.add(place, &key, value, time)
    }

    #[inline]
    fn add(&mut self, place: Place, key: &K, value: u32, time: u64) -> Insertion<K> {
        self.now = self.now.max(time);
        let stamp = self.clocks.arrival();
        let (slot, done) = if let Some(slot) = self.vacancy(place) {
            self.len += 1;
            (slot, Insertion::Added)
        } else {
            let slot = self.victim(place);
            (slot, Insertion::Evicted(self.flow(slot)))
        };
        let group = &mut self.groups[slot.bucket()];
        group.bucket.put(slot.way(), place.tag, stamp);
        group.entries[slot.way()] = Entry::new(key, value, time);
        done
    }

    /// Removes a flow, expired or not, and returns it.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<Flow<K>> {
        let slot = self.find(self.place(hash), key)?;
        let flow = self.flow(slot);
        self.release(slot);
        Some(flow)
    }

    /// All flows, expired or not, in no order of use.
    pub fn iter(&self) -> impl Iterator<Item = Flow<K>> {
        self.iter_slots(0..self.slots())
    }

    /// The flows in these of the table's [`slots`](Self::slots), in no order of use.
    ///
    /// A walk over the whole table can be cut into steps, between which flows may come and go: a
    /// flow that stays is seen exactly once.
    pub fn iter_slots(&self, slots: Range<usize>) -> impl Iterator<Item = Flow<K>> {
        let end = slots.end.min(self.slots());
        (slots.start..end)
            .map(|slot| Slot(slot as u32))
            .filter(|slot| self.groups[slot.bucket()].bucket.is_used(slot.way()))
            .map(|slot| self.flow(slot))
    }

    /// Removes the flows for which `keep` is false and returns how many there were.
    pub fn retain(&mut self, mut keep: impl FnMut(&Flow<K>) -> bool) -> usize {
        let before = self.len;
        for bucket in 0..self.groups.len() {
            for way in self.groups[bucket].bucket.used() {
                let slot = Slot::new(bucket, way);
                if !keep(&self.flow(slot)) {
                    self.release(slot);
                }
            }
        }
        before - self.len
    }

    #[inline]
    fn place(&self, hash: u64) -> Place {
        Place {
            first: self.first_bucket(hash),
            second: self.scaled(hash & 0xffff_ffff),
            tag: Bucket::tag(hash as u16),
        }
    }

    #[inline]
    fn first_bucket(&self, hash: u64) -> usize {
        self.scaled(hash >> 32)
    }

    /// Scales half a hash to the number of buckets: a product's high half does (Lemire, "Fast random
    /// integer generation in an interval", 2019). It is made of the high bits, the tag of the low ones.
    #[inline]
    fn scaled(&self, half: u64) -> usize {
        ((half * self.groups.len() as u64) >> 32) as usize
    }

    #[inline]
    fn find(&self, place: Place, key: &K) -> Option<Slot> {
        self.find_in(place.first, place.tag, key)
            .or_else(|| self.find_in(place.second, place.tag, key))
    }

    #[inline]
    fn find_in(&self, bucket: usize, tag: u16, key: &K) -> Option<Slot> {
        let group = &self.groups[bucket];
        let mut candidates = group.bucket.with_tag(tag);
        let way = candidates.find(|way| group.entries[*way].is_of(key))?;
        Some(Slot::new(bucket, way))
    }

    /// A free slot for a new flow.
    #[inline]
    fn vacancy(&self, place: Place) -> Option<Slot> {
        let free = self.groups[place.first].bucket.free();
        let used = WAYS as u32 - free.size();
        let (bucket, mut free) = if used < K::CROWDED {
            (place.first, free)
        } else {
            let other = self.groups[place.second].bucket.free();
            if other.size() > free.size() {
                (place.second, other)
            } else {
                (place.first, free)
            }
        };
        free.next().map(|way| Slot::new(bucket, way))
    }

    /// The slot of the flow that goes first, when both buckets are full. One on trial in the first
    /// bucket does; only where all have proved themselves the second is looked at.
    #[inline]
    fn victim(&self, place: Place) -> Slot {
        let in_bucket = |bucket: usize| {
            let (way, urgency) = self.groups[bucket].bucket.first_to_go(&self.clocks);
            (Slot::new(bucket, way), urgency)
        };
        let first = in_bucket(place.first);
        if first.1.is_dispensable() {
            return first.0;
        }
        let second = in_bucket(place.second);
        if second.1 > first.1 {
            second.0
        } else {
            first.0
        }
    }

    fn release(&mut self, slot: Slot) {
        self.groups[slot.bucket()].bucket.clear(slot.way());
        self.len -= 1;
    }

    #[inline]
    fn flow(&self, slot: Slot) -> Flow<K> {
        self.groups[slot.bucket()].entries[slot.way()].flow(self.now)
    }
}

impl<K: FlowKey> fmt::Debug for FlowTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::FlowKeyV4;

    const SECOND: u64 = 1_000_000_000;
    const TIMEOUT: Option<u64> = Some(30 * SECOND);

    fn table(capacity: usize) -> FlowTable<FlowKeyV4> {
        FlowTable::new(capacity, [1, 2, 3, 4]).unwrap()
    }

    fn key(n: u16) -> FlowKeyV4 {
        FlowKeyV4 {
            source_port: n.to_be_bytes(),
            protocol: 17,
            ..FlowKeyV4::default()
        }
    }

    #[test]
    fn a_hint_of_another_table_is_only_a_wrong_guess() {
        let large = table(100_000);
        let mut small = table(1);
        let hints = (0..100).map(|n| (n, large.prefetch(large.hash(&key(n)))));
        let (n, hint) = hints
            .into_iter()
            .find(|(_, Hint(slot))| slot.bucket() >= small.groups.len())
            .unwrap();
        let hash = small.hash(&key(n));
        small.insert(hash, key(n), 7, 0);
        let hint = small.prefetch_entry(hint, hash);
        assert_eq!(small.hit_at(hint, &key(n), 0, None), None);
        assert_eq!(small.lookup(hash, &key(n), 0, None), Lookup::Hit(7));
    }

    #[test]
    fn a_flow_that_is_there_may_be_there_and_few_others_may() {
        let mut table = table(1000);
        for n in 0..1000 {
            table.insert(table.hash(&key(n)), key(n), 1, 0);
        }
        assert!(
            table
                .iter()
                .all(|flow| table.may_have(table.hash(&flow.key)))
        );
        let others = (1000..11_000).filter(|n| table.may_have(table.hash(&key(*n))));
        assert!(others.count() < 50);
    }

    #[test]
    fn a_walk_by_slots_sees_every_flow_once() {
        let mut table = table(100);
        for n in 0..150 {
            table.insert(table.hash(&key(n)), key(n), u32::from(n), 0);
            if n % 3 == 0 {
                table.remove(table.hash(&key(n)), &key(n));
            }
        }
        let mut walked: Vec<u32> = (0..table.slots())
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
            let refusal = FlowTable::<FlowKeyV4>::new(capacity, [0; 4]).unwrap_err();
            assert_eq!(refusal, NewError::Capacity(capacity));
            assert!(refusal.to_string().contains(&capacity.to_string()));
        }
    }

    #[test]
    fn a_udp_flow_lives_thirty_idle_seconds() {
        let mut flows = table(10);
        let flow = key(1);
        let hash = flows.hash(&flow);
        flows.insert(hash, flow, 7, 100 * SECOND);
        let mut at = |now| flows.lookup(hash, &flow, now, TIMEOUT);
        assert_eq!(at(129 * SECOND), Lookup::Hit(7));
        // That hit refreshed it, so this is 30 s idle, not 59.
        assert_eq!(at(159 * SECOND), Lookup::Hit(7));
        assert_eq!(at(190 * SECOND), Lookup::Expired);
        assert_eq!(at(189 * SECOND + 1), Lookup::Expired);
        // A miss refreshes nothing.
        assert_eq!(flows.peek(hash, &flow).unwrap().last_use, 159 * SECOND);
        let again = flows.insert(hash, flow, 8, 190 * SECOND);
        assert_eq!(again, Insertion::Overwrote(7));
        let found = flows.lookup(hash, &flow, 190 * SECOND, TIMEOUT);
        assert_eq!(found, Lookup::Hit(8));
    }

    #[test]
    fn a_tcp_flow_never_expires_and_keeps_its_time() {
        let mut flows = table(10);
        let flow = key(1);
        let hash = flows.hash(&flow);
        flows.insert(hash, flow, 7, 0);
        assert_eq!(flows.lookup(hash, &flow, u64::MAX, None), Lookup::Hit(7));
        assert_eq!(flows.peek(hash, &flow).unwrap().last_use, 0);
        // The same entry is expired to a caller with a timeout.
        let found = flows.lookup(hash, &flow, 31 * SECOND, TIMEOUT);
        assert_eq!(found, Lookup::Expired);
    }

    #[test]
    fn flows_that_differ_in_their_protocol_only_are_two() {
        let mut flows = table(10);
        let udp = key(1);
        let tcp = FlowKeyV4 { protocol: 6, ..udp };
        // Even with one hash.
        flows.insert(5, udp, 17, 0);
        flows.insert(5, tcp, 6, 0);
        assert_eq!(flows.lookup(5, &udp, 0, None), Lookup::Hit(17));
        assert_eq!(flows.lookup(5, &tcp, 0, None), Lookup::Hit(6));
    }

    #[test]
    fn the_seeds_key_the_hash() {
        let differing = |seeds| {
            let other = FlowTable::<FlowKeyV4>::new(1, seeds).unwrap();
            let table = table(1);
            (0..1000)
                .filter(|&n| other.hash(&key(n)) != table.hash(&key(n)))
                .count()
        };
        assert_eq!(differing([1, 2, 3, 4]), 0);
        assert_eq!(differing([5, 6, 7, 8]), 1000);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Lookup(u16),
        Insert(u16),
        Remove(u16),
        Purge(u16),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let key = 0..80_u16;
        prop_oneof![
            4 => key.clone().prop_map(Operation::Lookup),
            4 => key.clone().prop_map(Operation::Insert),
            2 => key.prop_map(Operation::Remove),
            1 => (2..5_u16).prop_map(Operation::Purge),
        ]
    }

    proptest! {
        /// The caller supplies the hashes, so the test can make them as bad as it likes. All flows
        /// in one bucket displace each other, but none is taken for another.
        #[test]
        fn colliding_hashes_cost_room_only(
            capacity in 1..60_usize,
            hash_mask in prop::sample::select(vec![0, 1, 0b11, 0b1_0000, 0x3f, u64::MAX << 32, u64::MAX]),
            hash_base: u64,
            operations in prop::collection::vec(operation(), 1..300),
        ) {
            let mut flows = table(capacity);
            let real_hash = flows.hasher.clone();
            let hash = |n: u16| hash_base ^ real_hash.hash_one(key(n)) & hash_mask;
            let mut model = BTreeMap::<u16, u32>::new();
            for (now, operation) in (0_u32..).zip(operations) {
                match operation {
                    Operation::Lookup(n) => {
                        let hint = flows.prefetch(hash(n));
                        flows.prefetch_entry(hint, hash(n));
                        let found = flows.lookup(hash(n), &key(n), 0, None);
                        let expected = model.get(&n).map_or(Lookup::Miss, |&value| Lookup::Hit(value));
                        prop_assert_eq!(found, expected);
                    }
                    Operation::Insert(n) => {
                        let previous = model.insert(n, now);
                        let is_missed = now % 2 == 0
                            && flows.lookup(hash(n), &key(n), 0, None) == Lookup::Miss;
                        let inserted = if is_missed {
                            flows.insert_missed(hash(n), key(n), now, 0)
                        } else {
                            flows.insert(hash(n), key(n), now, 0)
                        };
                        match inserted {
                            Insertion::Added => prop_assert_eq!(previous, None),
                            Insertion::Overwrote(value) => prop_assert_eq!(previous, Some(value)),
                            Insertion::Evicted(flow) => {
                                prop_assert_eq!(previous, None);
                                let gone = u16::from_be_bytes(flow.key.source_port);
                                prop_assert_eq!(model.remove(&gone), Some(flow.value));
                            }
                        }
                    }
                    Operation::Remove(n) => {
                        let removed = flows.remove(hash(n), &key(n)).map(|flow| flow.value);
                        prop_assert_eq!(removed, model.remove(&n));
                    }
                    Operation::Purge(divisor) => {
                        let before = model.len();
                        model.retain(|n, _| n % divisor != 0);
                        let purged =
                            flows.retain(|flow| u16::from_be_bytes(flow.key.source_port) % divisor != 0);
                        prop_assert_eq!(purged, before - model.len());
                    }
                }
                prop_assert_eq!(flows.len(), model.len());
                prop_assert_eq!(flows.iter().count(), model.len());
            }
            for n in 0..80 {
                let value = flows.peek(hash(n), &key(n)).map(|flow| flow.value);
                prop_assert_eq!(value, model.get(&n).copied());
            }
        }
    }
}
