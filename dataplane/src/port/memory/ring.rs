//! A ring with free-running 32-bit indices, as the kernel's are.

/// Fixed number of slots, first in first out. Indices wrap at 2³² and are masked at each access.
#[derive(Debug)]
pub struct Ring<T> {
    slots: Box<[Option<T>]>,
    mask: u32,
    producer: u32,
    consumer: u32,
}

impl<T> Ring<T> {
    /// An empty ring of at least `capacity` slots, rounded up to a power of two, whose indices start
    /// at `first_index`.
    pub fn new(capacity: usize, first_index: u32) -> Self {
        let slots = capacity.max(1).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| None).collect(),
            mask: (slots - 1) as u32,
            producer: first_index,
            consumer: first_index,
        }
    }

    /// Entries in the ring.
    pub const fn len(&self) -> usize {
        self.producer.wrapping_sub(self.consumer) as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.producer == self.consumer
    }

    /// Entries that can be added.
    pub const fn free(&self) -> usize {
        self.slots.len() - self.len()
    }

    /// Adds an entry; gives it back when the ring is full.
    pub fn push(&mut self, entry: T) -> Result<(), T> {
        if self.free() == 0 {
            return Err(entry);
        }
        self.slots[(self.producer & self.mask) as usize] = Some(entry);
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }

    /// Takes the oldest entry.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let entry = self.slots[(self.consumer & self.mask) as usize].take();
        self.consumer = self.consumer.wrapping_add(1);
        entry
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// 256 cases of up to 8,192 operations: a million on average.
        #[test]
        fn behaves_as_a_bounded_queue(
            bits in 0_u32..9,
            before_wrap in 0_u32..5_000,
            operations in prop::collection::vec(any::<bool>(), 1..8_192),
        ) {
            let capacity = 1_usize << bits;
            let mut ring = Ring::new(capacity, u32::MAX - before_wrap);
            let mut model = VecDeque::new();
            for (number, push) in operations.into_iter().enumerate() {
                if push {
                    let accepted = ring.push(number).is_ok();
                    prop_assert_eq!(accepted, model.len() < capacity);
                    if accepted {
                        model.push_back(number);
                    }
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front());
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.free(), capacity - model.len());
                prop_assert_eq!(ring.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn capacity_is_rounded_up() {
        assert_eq!(Ring::<u8>::new(5, 0).free(), 8);
        assert_eq!(Ring::<u8>::new(0, 0).free(), 1);
    }
}
