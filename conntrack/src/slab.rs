//! The entries, each in one of two lists: in use, in order of use, or free.

use std::collections::TryReserveError;

use crate::Flow;
use crate::index::NONE;

pub(crate) struct Entry<K> {
    pub(crate) last_use: u64,
    pub(crate) value: u32,
    /// What the index knows the entry by.
    pub(crate) tag: u32,
    /// The entry used next after this one, or `NONE`; in the free list, the entry itself.
    newer: u32,
    /// The entry used last before this one, or `NONE`; in the free list, the next free entry.
    older: u32,
    pub(crate) key: K,
}

/// A fixed number of entries.
pub(crate) struct Slab<K> {
    entries: Box<[Entry<K>]>,
    newest: u32,
    oldest: u32,
    free: u32,
    len: usize,
}

impl<K: Copy + Default> Slab<K> {
    pub(crate) fn bytes_for(entries: usize) -> usize {
        entries * size_of::<Entry<K>>()
    }

    pub(crate) fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity)?;
        // The free list hands entries out in order of their addresses.
        entries.extend((1..=capacity).map(|next| Entry {
            last_use: 0,
            value: 0,
            tag: 0,
            newer: next as u32 - 1,
            older: if next == capacity { NONE } else { next as u32 },
            key: K::default(),
        }));
        Ok(Self {
            entries: entries.into_boxed_slice(),
            newest: NONE,
            oldest: NONE,
            free: 0,
            len: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(crate) fn get(&self, entry: u32) -> &Entry<K> {
        &self.entries[entry as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, entry: u32) -> &mut Entry<K> {
        &mut self.entries[entry as usize]
    }

    pub(crate) fn flow(&self, entry: u32) -> Flow<K> {
        let entry = self.get(entry);
        Flow {
            key: entry.key,
            value: entry.value,
            last_use: entry.last_use,
        }
    }

    /// The entry used last, if any is in use.
    pub(crate) fn newest(&self) -> Option<u32> {
        some(self.newest)
    }

    /// The entry used longest ago, if any is in use.
    pub(crate) fn oldest(&self) -> Option<u32> {
        some(self.oldest)
    }

    /// The entry used last before this one.
    pub(crate) fn older(&self, entry: u32) -> Option<u32> {
        some(self.get(entry).older)
    }

    /// Whether an entry is in use.
    pub(crate) fn is_in_use(&self, entry: u32) -> bool {
        self.get(entry).newer != entry
    }

    /// Takes a free entry into use, as the newest.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let entry = some(self.free)?;
        self.free = self.get(entry).older;
        self.link_newest(entry);
        self.len += 1;
        Some(entry)
    }

    /// Frees an entry in use.
    pub(crate) fn release(&mut self, entry: u32) {
        self.unlink(entry);
        let next = self.free;
        let links = self.get_mut(entry);
        links.newer = entry;
        links.older = next;
        self.free = entry;
        self.len -= 1;
    }

    /// Makes an entry in use the newest.
    #[inline]
    pub(crate) fn touch(&mut self, entry: u32) {
        if self.newest != entry {
            self.unlink(entry);
            self.link_newest(entry);
        }
    }

    fn link_newest(&mut self, entry: u32) {
        let second = self.newest;
        let links = self.get_mut(entry);
        links.newer = NONE;
        links.older = second;
        match some(second) {
            Some(second) => self.get_mut(second).newer = entry,
            None => self.oldest = entry,
        }
        self.newest = entry;
    }

    fn unlink(&mut self, entry: u32) {
        let &Entry { newer, older, .. } = self.get(entry);
        match some(newer) {
            Some(newer) => self.get_mut(newer).older = older,
            None => self.newest = older,
        }
        match some(older) {
            Some(older) => self.get_mut(older).newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[inline]
fn some(entry: u32) -> Option<u32> {
    (entry != NONE).then_some(entry)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl<K: Copy + Default> Slab<K> {
        /// The entries in use, newest first, after checking that both lists are whole.
        pub(crate) fn checked_entries(&self) -> Vec<u32> {
            let mut used = Vec::new();
            let (mut newer, mut cursor) = (None, self.newest());
            while let Some(entry) = cursor {
                assert_eq!(some(self.get(entry).newer), newer);
                assert!(self.is_in_use(entry));
                used.push(entry);
                assert!(
                    used.len() <= self.capacity(),
                    "the list of used entries is a ring"
                );
                (newer, cursor) = (cursor, self.older(entry));
            }
            assert_eq!(self.oldest(), newer);
            assert_eq!(used.len(), self.len());

            let mut seen = vec![false; self.capacity()];
            let mut free = some(self.free);
            let mut all = used.clone();
            while let Some(entry) = free {
                assert!(!self.is_in_use(entry));
                all.push(entry);
                assert!(all.len() <= self.capacity(), "the lists overlap");
                free = self.older(entry);
            }
            for entry in all {
                assert!(!std::mem::replace(&mut seen[entry as usize], true));
            }
            assert!(seen.iter().all(|&seen| seen), "an entry is in neither list");
            used
        }
    }

    #[test]
    fn entries_move_between_the_lists() {
        let mut slab = Slab::<()>::new(3).unwrap();
        assert_eq!(slab.checked_entries(), []);
        assert_eq!(
            [(); 3].map(|()| slab.allocate()),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(slab.allocate(), None);
        assert_eq!(slab.checked_entries(), [2, 1, 0]);
        slab.touch(1);
        assert_eq!(slab.checked_entries(), [1, 2, 0]);
        slab.touch(0);
        assert_eq!(slab.checked_entries(), [0, 1, 2]);
        slab.release(1);
        assert_eq!(slab.checked_entries(), [0, 2]);
        slab.release(2);
        slab.release(0);
        assert_eq!(slab.checked_entries(), []);
        assert_eq!(slab.allocate(), Some(0));
        assert_eq!(slab.checked_entries(), [0]);
    }
}
