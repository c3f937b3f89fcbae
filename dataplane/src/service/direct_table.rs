//! IPv4 look-ups in one step, or two where a /24 is divided: an array with an entry for each /24
//! (DIR-24-8, by Gupta and others, 1998).
//!
//! The array takes 64 MiB whatever it holds, so it is for many prefixes.

use super::{huge_pages::filled, range_table::Range};

/// Bits of an address behind a /24.
const LOWER_BITS: u32 = 8;
/// Set in the entry of a /24 that is divided; the other bits are the place in
/// [`DirectTable::blocks`].
const IS_DIVIDED: u32 = 1 << 31;

/// Values by address.
#[derive(Debug)]
pub(super) struct DirectTable {
    /// By the upper 24 bits.
    entries: Box<[u32]>,
    /// By the lower 8 bits. Values are small: there are fewer than 4096 reals.
    blocks: Vec<[u16; 1 << LOWER_BITS]>,
}

impl DirectTable {
    /// Of ranges in ascending order, the first of which starts at 0.
    pub(super) fn new(ranges: &[Range<u32>]) -> Self {
        let mut table = Self {
            entries: filled(1 << (u32::BITS - LOWER_BITS), 0),
            blocks: Vec::new(),
        };
        let starts = ranges.iter().map(|(start, _)| u64::from(*start));
        let ends = starts.skip(1).chain([1 << u32::BITS]);
        for (&(start, value), end) in ranges.iter().zip(ends) {
            table.set(u64::from(start), end, value);
        }
        table
    }

    /// Lets `value` hold from `start` up to, and without, `end`.
    fn set(&mut self, mut start: u64, end: u64, value: u32) {
        const BLOCK: u64 = 1 << LOWER_BITS;
        while start < end {
            let entry = (start / BLOCK) as usize;
            if start.is_multiple_of(BLOCK) && end - start >= BLOCK {
                self.entries[entry..(end / BLOCK) as usize].fill(value);
                start = end - end % BLOCK;
                continue;
            }
            let until = end.min(start - start % BLOCK + BLOCK);
            let block = self.block(entry);
            let (from, count) = ((start % BLOCK) as usize, (until - start) as usize);
            block[from..from + count].fill(value as u16);
            start = until;
        }
    }

    /// The values of a divided /24.
    fn block(&mut self, entry: usize) -> &mut [u16] {
        let entry = &mut self.entries[entry];
        if *entry & IS_DIVIDED == 0 {
            *entry = IS_DIVIDED | self.blocks.len() as u32;
            self.blocks.push([0; 1 << LOWER_BITS]);
        }
        &mut self.blocks[(*entry & !IS_DIVIDED) as usize]
    }

    /// The value that holds at an address.
    #[inline]
    pub(super) fn get(&self, address: u32) -> u32 {
        let entry = self.entries[(address >> LOWER_BITS) as usize];
        if entry & IS_DIVIDED == 0 {
            return entry;
        }
        let block = &self.blocks[(entry & !IS_DIVIDED) as usize];
        u32::from(block[(address & ((1 << LOWER_BITS) - 1)) as usize])
    }

    /// Bytes it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.blocks)
    }
}
