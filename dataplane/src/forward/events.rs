//! What happened to the packets of a burst that their outcomes do not tell.

use std::cell::Cell;

use super::BURST;

const _: () = assert!(BURST <= u64::BITS as usize, "a bit for each packet");

/// Marks of one burst; bit *n* is packet *n*.
///
/// Written on rare paths only, so that the common one pays nothing for them.
#[derive(Clone, Debug, Default)]
pub struct BurstEvents {
    lru_misses: Cell<u64>,
    too_big: Cell<u64>,
}

impl BurstEvents {
    pub(super) fn mark_lru_miss(&self, slot: usize) {
        self.lru_misses.set(self.lru_misses.get() | 1 << slot);
    }

    pub(super) fn mark_too_big(&self, slot: usize) {
        self.too_big.set(self.too_big.get() | 1 << slot);
    }

    /// Whether packet `slot` was a TCP packet without SYN whose flow the table did not have
    /// (katran-compat section 10, event 0).
    pub const fn is_lru_miss(&self, slot: usize) -> bool {
        self.lru_misses.get() >> slot & 1 != 0
    }

    /// Whether packet `slot` was longer than the VIP's frames may be (event 1), answered or not.
    pub const fn is_too_big(&self, slot: usize) -> bool {
        self.too_big.get() >> slot & 1 != 0
    }
}
