//! A flow table that several threads use at once.
//!
//! [`FlowTable`](crate::FlowTable) belongs to one thread. This one is for flows that move between
//! threads: whoever stores a flow does so where the others can find it. Nobody ever waits. A slot is
//! one cache line with a version in front: odd while somebody writes it, another even number
//! afterwards. A reader that sees the version change, or odd, has read nothing; a writer that finds
//! somebody else writing goes elsewhere or gives up. So what is lost under contention is an entry, and
//! what is read was stored for exactly that key.

use std::{
    array, fmt,
    hint::spin_loop,
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use crate::{
    flow::{Lookup, expired},
    key::{AnyKey, KEY_WORDS, SharedKey},
    table::NewError,
};

/// Slots in which a flow may lie.
const WAYS: usize = 8;
/// Most slots a table can have.
const MAX_SLOTS: usize = 1 << 30;
/// How often an operation looks again while others write what it reads.
const ATTEMPTS: usize = 4;
/// Set in the value's word of a slot that holds a flow.
const OCCUPIED: u64 = 1 << 32;

/// A flow of either family as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFlow {
    /// The flow's key.
    pub key: AnyKey,
    /// The caller's value.
    pub value: u32,
    /// When it was last stored or found, in nanoseconds of the callers' clock.
    pub last_use: u64,
}

/// What an insertion into a [`SharedTable`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedInsertion {
    /// The flow is new.
    Added,
    /// The flow was there with the same value; its last use is what is new.
    Refreshed,
    /// The flow was there with another value.
    Overwrote,
    /// The flow is new and replaced the one among its neighbours that was not used for longest.
    Evicted,
    /// Others wrote all the while; the flow may not be there.
    GaveUp,
}

/// One cache line.
#[repr(align(64))]
#[derive(Default)]
struct Slot {
    version: AtomicU64,
    key: [AtomicU64; KEY_WORDS],
    /// The value and [`OCCUPIED`]; 0 when the slot is free.
    value: AtomicU64,
    /// Not under the version: a stale write makes a flow look younger, never another flow.
    last_use: AtomicU64,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// What a slot held at one moment.
struct Snapshot {
    version: u64,
    key: [u64; KEY_WORDS],
    value: u64,
}

impl Snapshot {
    const fn is_free(&self) -> bool {
        self.value == 0
    }

    fn holds(&self, key: &[u64; KEY_WORDS]) -> bool {
        !self.is_free() && self.key == *key
    }
}

impl Slot {
    /// `None` while somebody writes it.
    #[inline]
    fn read(&self) -> Option<Snapshot> {
        let version = self.version.load(Acquire);
        if version & 1 == 1 {
            return None;
        }
        let key = array::from_fn(|word| self.key[word].load(Relaxed));
        let value = self.value.load(Relaxed);
        // What was read before this line was stored before the version is read again, or the
        // version is another one: the writer's fence stands before its stores.
        fence(Acquire);
        (self.version.load(Relaxed) == version).then_some(Snapshot {
            version,
            key,
            value,
        })
    }

    /// Replaces what `seen` was; false when somebody else did.
    fn replace(&self, seen: &Snapshot, key: &[u64; KEY_WORDS], value: u64, last_use: u64) -> bool {
        let version = seen.version;
        if self
            .version
            .compare_exchange(version, version + 1, Acquire, Relaxed)
            .is_err()
        {
            return false;
        }
        fence(Release);
        for (word, &bits) in self.key.iter().zip(key) {
            word.store(bits, Relaxed);
        }
        self.value.store(value, Relaxed);
        self.last_use.store(last_use, Relaxed);
        self.version.store(version + 2, Release);
        true
    }

    fn clear(&self, seen: &Snapshot) -> bool {
        self.replace(seen, &[0; KEY_WORDS], 0, 0)
    }
}

/// A table of flows of both families, of fixed size, without locks.
///
/// A flow may lie in one of eight slots. When all are taken, it replaces the one that was not used for
/// longest, so the table keeps nearly as many flows as it has slots only while they spread well: make
/// it about twice as large as the number of flows to be kept.
pub struct SharedTable {
    slots: Box<[Slot]>,
    hasher: ahash::RandomState,
}

impl SharedTable {
    /// An empty table with room for `capacity` flows, rounded up to whole groups of eight, with all
    /// its memory allocated and touched. Its hash is keyed at random.
    pub fn new(capacity: usize) -> Result<Self, NewError> {
        if !(1..=MAX_SLOTS).contains(&capacity) {
            return Err(NewError::Capacity(capacity));
        }
        let count = slots_for(capacity);
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(count)
            .map_err(|_| NewError::Memory(Self::memory_for(capacity)))?;
        slots.resize_with(count, Slot::default);
        Ok(Self {
            slots: slots.into_boxed_slice(),
            hasher: ahash::RandomState::new(),
        })
    }

    /// The bytes that a table with this capacity takes.
    pub const fn memory_for(capacity: usize) -> usize {
        slots_for(capacity) * size_of::<Slot>()
    }

    /// The bytes that this table has allocated.
    pub const fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Slots, each for one flow.
    pub const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Looks a flow up and, on a hit, sets its last use to `now`.
    ///
    /// With a `timeout` (UDP) the flow must have been used within that many nanoseconds before `now`.
    pub fn lookup<K: SharedKey>(&self, key: &K, now: u64, timeout: Option<u64>) -> Lookup {
        let Some((slot, value)) = self.find(key) else {
            return Lookup::Miss;
        };
        if expired(slot.last_use.load(Relaxed), now, timeout) {
            return Lookup::Expired;
        }
        slot.last_use.store(now, Relaxed);
        Lookup::Hit(value)
    }

    /// Looks a flow up, expired or not, and changes nothing. Gives its value and its last use.
    pub fn peek<K: SharedKey>(&self, key: &K) -> Option<(u32, u64)> {
        let (slot, value) = self.find(key)?;
        Some((value, slot.last_use.load(Relaxed)))
    }

    /// Stores a flow, last used at `time`, over the one of the same key, whose last use stays if it was later.
    pub fn insert<K: SharedKey>(&self, key: &K, value: u32, time: u64) -> SharedInsertion {
        let key = key.words();
        let group = self.group(&key);
        for attempt in 1..=ATTEMPTS {
            let patient = attempt < ATTEMPTS;
            if let Some(done) = try_insert(group, &key, value, time, patient) {
                return done;
            }
            spin_loop();
        }
        SharedInsertion::GaveUp
    }

    /// Removes a flow; false when it was not there.
    pub fn remove<K: SharedKey>(&self, key: &K) -> bool {
        let key = key.words();
        let mut removed = false;
        for _ in 0..ATTEMPTS {
            let mut clear = true;
            for slot in self.group(&key) {
                match slot.read() {
                    Some(seen) if seen.holds(&key) => {
                        let cleared = slot.clear(&seen);
                        removed |= cleared;
                        clear &= cleared;
                    }
                    Some(_) => {}
                    None => clear = false,
                }
            }
            if clear {
                break;
            }
            spin_loop();
        }
        removed
    }

    /// The flows in these of the table's [`slots`](Self::slots), without those being written just now.
    pub fn iter_slots(&self, slots: Range<usize>) -> impl Iterator<Item = SharedFlow> {
        let end = slots.end.min(self.slots.len());
        let slots = self.slots.get(slots.start..end).unwrap_or_default();
        slots.iter().filter_map(|slot| {
            let seen = slot.read().filter(|seen| !seen.is_free())?;
            Some(SharedFlow {
                key: AnyKey::from_words(&seen.key),
                value: seen.value as u32,
                last_use: slot.last_use.load(Relaxed),
            })
        })
    }

    fn find<K: SharedKey>(&self, key: &K) -> Option<(&Slot, u32)> {
        let key = key.words();
        let group = self.group(&key);
        for _ in 0..ATTEMPTS {
            let mut clear = true;
            for slot in group {
                match slot.read() {
                    Some(seen) if seen.holds(&key) => return Some((slot, seen.value as u32)),
                    Some(_) => {}
                    None => clear = false,
                }
            }
            if clear {
                break;
            }
            spin_loop();
        }
        None
    }

    fn group(&self, key: &[u64; KEY_WORDS]) -> &[Slot] {
        let groups = self.slots.len() / WAYS;
        // Scales the hash to the number of groups instead of dividing by it.
        let group = (u128::from(self.hasher.hash_one(key)) * groups as u128) >> 64;
        let start = group as usize * WAYS;
        &self.slots[start..start + WAYS]
    }
}

/// `None` when others wrote what this reads or wants to write; try again. The last attempt is
/// impatient: it leaves slots alone that are being written.
fn try_insert(
    group: &[Slot],
    key: &[u64; KEY_WORDS],
    value: u32,
    time: u64,
    patient: bool,
) -> Option<SharedInsertion> {
    let bits = u64::from(value) | OCCUPIED;
    let mut own: Option<(&Slot, Snapshot)> = None;
    // Free slots come first, then the oldest use.
    let mut best: Option<(Option<u64>, &Slot, Snapshot)> = None;
    for slot in group {
        let Some(seen) = slot.read() else {
            if patient {
                return None;
            }
            continue;
        };
        if seen.holds(key) {
            if own.is_none() {
                own = Some((slot, seen));
            } else {
                // Two threads stored the flow at the same time.
                slot.clear(&seen);
            }
            continue;
        }
        let age = (!seen.is_free()).then(|| slot.last_use.load(Relaxed));
        if best.as_ref().is_none_or(|(oldest, ..)| age < *oldest) {
            best = Some((age, slot, seen));
        }
    }
    if let Some((slot, seen)) = own {
        // Whoever knows of an earlier use only does not make the flow older.
        if seen.value == bits {
            slot.last_use.fetch_max(time, Relaxed);
            return Some(SharedInsertion::Refreshed);
        }
        let time = slot.last_use.load(Relaxed).max(time);
        return slot
            .replace(&seen, key, bits, time)
            .then_some(SharedInsertion::Overwrote);
    }
    let (age, slot, seen) = best?;
    let done = match age {
        None => SharedInsertion::Added,
        Some(_) => SharedInsertion::Evicted,
    };
    slot.replace(&seen, key, bits, time).then_some(done)
}

const fn slots_for(capacity: usize) -> usize {
    capacity.div_ceil(WAYS) * WAYS
}

impl fmt::Debug for SharedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTable")
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FlowKeyV4, key::Words as _};

    fn key(port: u16) -> FlowKeyV4 {
        FlowKeyV4 {
            source: [192, 0, 2, 10],
            destination: [203, 0, 113, 10],
            source_port: port.to_be_bytes(),
            destination_port: [0, 80],
            protocol: 6,
        }
    }

    #[test]
    fn a_slot_being_written_is_neither_read_nor_waited_for() {
        let table = SharedTable::new(WAYS).unwrap();
        table.insert(&key(1), 7, 100);
        let (slot, _) = table.find(&key(1)).unwrap();
        let version = slot.version.fetch_add(1, Relaxed);
        assert_eq!(table.lookup(&key(1), 100, None), Lookup::Miss);
        assert_eq!(table.iter_slots(0..WAYS).count(), 0);
        assert!(!table.remove(&key(1)));
        // The others are still good for other flows.
        assert_eq!(table.insert(&key(2), 8, 100), SharedInsertion::Added);
        assert_eq!(table.lookup(&key(2), 100, None), Lookup::Hit(8));
        slot.version.store(version, Relaxed);
        assert_eq!(table.lookup(&key(1), 100, None), Lookup::Hit(7));
    }

    #[test]
    fn a_write_that_came_second_does_not_happen() {
        let table = SharedTable::new(WAYS).unwrap();
        table.insert(&key(1), 7, 100);
        let (slot, _) = table.find(&key(1)).unwrap();
        let seen = slot.read().unwrap();
        table.insert(&key(1), 8, 100);
        assert!(!slot.clear(&seen));
        assert_eq!(table.peek(&key(1)), Some((8, 100)));
    }

    #[test]
    fn a_flow_that_was_stored_twice_is_stored_once_again() {
        let table = SharedTable::new(WAYS).unwrap();
        for (slot, value) in table.slots.iter().zip([7, 8]) {
            let seen = slot.read().unwrap();
            assert!(slot.replace(&seen, &key(1).words(), value | OCCUPIED, 5));
        }
        assert_eq!(table.insert(&key(1), 9, 6), SharedInsertion::Overwrote);
        assert_eq!(table.iter_slots(0..WAYS).count(), 1);
        assert_eq!(table.peek(&key(1)), Some((9, 6)));
        for (slot, value) in table.slots.iter().skip(2).zip([7, 8]) {
            let seen = slot.read().unwrap();
            assert!(slot.replace(&seen, &key(1).words(), value | OCCUPIED, 5));
        }
        assert!(table.remove(&key(1)));
        assert_eq!(table.iter_slots(0..WAYS).count(), 0);
    }
}
