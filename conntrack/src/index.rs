//! From hash to entry: open addressing with linear probing in a power-of-two array.

use std::collections::TryReserveError;

use crate::prefetch::prefetch;

/// Stands for "no entry".
pub(crate) const NONE: u32 = u32::MAX;

/// The entry number `NONE` marks an empty cell.
#[derive(Clone, Copy)]
struct Cell {
    /// Part of the key's hash. Its low bits say where the probe for the key starts, which saves
    /// removal from looking at entries; the others tell most keys apart.
    tag: u32,
    entry: u32,
}

impl Cell {
    const EMPTY: Self = Self {
        tag: 0,
        entry: NONE,
    };

    fn is_empty(self) -> bool {
        self.entry == NONE
    }
}

/// Maps tags to entry numbers. Between a tag's home cell and its own cell no cell is ever empty.
pub(crate) struct Index {
    cells: Box<[Cell]>,
    mask: usize,
}

impl Index {
    /// The cells for `entries` entries: at least twice as many, so that probes stay short.
    fn cells_for(entries: usize) -> usize {
        (2 * entries).next_power_of_two()
    }

    pub(crate) fn bytes_for(entries: usize) -> usize {
        Self::cells_for(entries) * size_of::<Cell>()
    }

    pub(crate) fn new(entries: usize) -> Result<Self, TryReserveError> {
        let count = Self::cells_for(entries);
        let mut cells = Vec::new();
        cells.try_reserve_exact(count)?;
        cells.resize(count, Cell::EMPTY);
        Ok(Self {
            cells: cells.into_boxed_slice(),
            mask: count - 1,
        })
    }

    /// Starts loading the cell where the probe for `tag` begins.
    #[inline]
    pub(crate) fn prefetch(&self, tag: u32) {
        prefetch(&self.cells[self.home(tag)]);
    }

    /// The entry with this tag for which `is_match` holds.
    #[inline]
    pub(crate) fn find(&self, tag: u32, is_match: impl Fn(u32) -> bool) -> Option<u32> {
        let mut position = self.home(tag);
        loop {
            let cell = self.cells[position];
            if cell.is_empty() {
                return None;
            }
            if cell.tag == tag && is_match(cell.entry) {
                return Some(cell.entry);
            }
            position = self.after(position);
        }
    }

    /// Adds an entry that is not in the index. There must be fewer than it was made for.
    pub(crate) fn insert(&mut self, tag: u32, entry: u32) {
        let mut position = self.home(tag);
        while !self.cells[position].is_empty() {
            position = self.after(position);
        }
        self.cells[position] = Cell { tag, entry };
    }

    /// Removes an entry that was added with this tag.
    pub(crate) fn remove(&mut self, tag: u32, entry: u32) {
        let mut hole = self.home(tag);
        while self.cells[hole].entry != entry {
            hole = self.after(hole);
        }
        // Close the gap: a later cell of the run moves into the hole unless its home lies between
        // the two, in which case a probe for it does not pass the hole.
        let mut position = self.after(hole);
        while !self.cells[position].is_empty() {
            let cell = self.cells[position];
            if self.distance(self.home(cell.tag), position) >= self.distance(hole, position) {
                self.cells[hole] = cell;
                hole = position;
            }
            position = self.after(position);
        }
        self.cells[hole] = Cell::EMPTY;
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        tag as usize & self.mask
    }

    #[inline]
    fn after(&self, position: usize) -> usize {
        (position + 1) & self.mask
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Index {
        /// All (tag, entry) pairs, after checking that every one of them can be found.
        pub(crate) fn checked_cells(&self) -> Vec<(u32, u32)> {
            let mut pairs = Vec::new();
            for (position, cell) in self.cells.iter().enumerate() {
                if cell.is_empty() {
                    continue;
                }
                let mut on_the_way = self.home(cell.tag);
                while on_the_way != position {
                    assert!(
                        !self.cells[on_the_way].is_empty(),
                        "a gap hides {}",
                        cell.entry
                    );
                    on_the_way = self.after(on_the_way);
                }
                pairs.push((cell.tag, cell.entry));
            }
            pairs
        }
    }

    #[test]
    fn cells_are_at_most_half_used() {
        for (entries, cells) in [
            (1, 2),
            (2, 4),
            (3, 8),
            (1000, 2048),
            (1024, 2048),
            (1025, 4096),
        ] {
            assert_eq!(Index::cells_for(entries), cells);
            assert_eq!(Index::bytes_for(entries), cells * 8);
        }
    }

    #[test]
    fn removal_keeps_the_others_reachable_across_the_end() {
        // Eight cells; homes 6, 6, 7, 6, so the run is 6, 7, 0, 1 and wraps around the end.
        let tags = [6, 14, 7, 22];
        for removed in 0..tags.len() {
            let mut index = Index::new(4).unwrap();
            for (entry, &tag) in (0..).zip(&tags) {
                index.insert(tag, entry);
            }
            index.remove(tags[removed], removed as u32);
            assert_eq!(index.checked_cells().len(), 3);
            for (entry, &tag) in (0..).zip(&tags) {
                let expected = (entry as usize != removed).then_some(entry);
                assert_eq!(index.find(tag, |e| e == entry), expected);
            }
        }
    }

    #[test]
    fn a_cell_at_its_home_does_not_move() {
        let mut index = Index::new(4).unwrap();
        for (entry, tag) in [(0, 1), (1, 2), (2, 1)] {
            index.insert(tag, entry);
        }
        index.remove(1, 0);
        assert_eq!(index.checked_cells(), [(1, 2), (2, 1)]);
    }
}
