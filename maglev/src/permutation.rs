//! The order in which an endpoint asks for slots.

/// An endpoint's order of preference over the slots of a ring.
///
/// Candidate k is slot `((offset + k * skip) mod 2^32) mod ring_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permutation {
    /// The first candidate, below the ring size.
    pub offset: u32,
    /// The distance between candidates, 1 to ring size - 1.
    pub skip: u32,
}

impl Permutation {
    /// The permutation that an endpoint's hash gives on a ring of `ring_size` slots.
    ///
    /// `ring_size` must be at least 2; [`Ring::build`](crate::Ring::build) asks for more.
    pub fn of(hash: u64, ring_size: u32) -> Self {
        let size = u64::from(ring_size);
        Self {
            offset: (murmur3_16(hash, 42, 0) % size) as u32,
            skip: (murmur3_16(hash, 2_718_281_828, 2307) % (size - 1)) as u32 + 1,
        }
    }

    /// The candidate slots in order of preference, without end.
    pub fn slots(self, ring_size: u32) -> Slots {
        Slots {
            sum: self.offset,
            slot: self.offset % ring_size,
            skip: self.skip,
            step: self.skip % ring_size,
            ring_size,
            wraps: 0,
        }
    }
}

/// The endless iterator over an endpoint's candidate slots.
///
/// The sum `offset + k * skip` is kept in 32 bits and wraps there, as it does upstream; the
/// remainder is carried along beside it, so that a division is needed only where the sum wraps.
#[derive(Clone, Debug)]
pub struct Slots {
    /// `offset + k * skip` modulo 2^32, for the candidate that comes next.
    sum: u32,
    /// `sum` modulo the ring size.
    slot: u32,
    skip: u32,
    /// `skip` modulo the ring size.
    step: u32,
    ring_size: u32,
    /// How often the sum has wrapped.
    wraps: u32,
}

impl Slots {
    /// The candidate that comes next.
    #[inline]
    pub(crate) fn current(&self) -> u32 {
        self.slot
    }

    /// Moves on to the candidate after it.
    #[inline]
    pub(crate) fn advance(&mut self) {
        let (sum, wrapped) = self.sum.overflowing_add(self.skip);
        self.sum = sum;
        if wrapped {
            self.rewind();
        } else {
            // Both are below the ring size, which is below 2^31: no overflow.
            self.slot += self.step;
            if self.slot >= self.ring_size {
                self.slot -= self.ring_size;
            }
        }
    }

    #[cold]
    fn rewind(&mut self) {
        self.slot = self.sum % self.ring_size;
        self.wraps = self.wraps.saturating_add(1);
    }

    /// Whether every slot that can ever come has come.
    ///
    /// The sum returns to its start after `skip / gcd(skip, 2^32)` wraps. A permutation can miss
    /// slots: with skip 65536 on 65537 slots the sum takes only 65536 values.
    #[inline]
    pub(crate) fn exhausted(&self) -> bool {
        self.wraps > self.skip >> self.skip.trailing_zeros()
    }
}

impl Iterator for Slots {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let slot = self.current();
        self.advance();
        Some(slot)
    }
}

/// `MurmurHash3` x64 128 over one 16-byte block of two little-endian halves, its first half.
fn murmur3_16(first: u64, second: u64, seed: u32) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    const LENGTH: u64 = 16;
    let seed = u64::from(seed);
    let mut h1 = seed;
    let mut h2 = seed;

    h1 ^= first.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    h1 = h1.rotate_left(27).wrapping_add(h2);
    h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
    h2 ^= second.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    h2 = h2.rotate_left(31).wrapping_add(h1);
    h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);

    h1 ^= LENGTH;
    h2 ^= LENGTH;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    murmur3_finalise(h1).wrapping_add(murmur3_finalise(h2))
}

fn murmur3_finalise(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn murmur_of_one_block() {
        for (first, second, seed, digest) in [
            (0, 0, 0, 0x4bbd_1bf2_7da9_18d6),
            (1, 42, 0, 0x0b85_e5b7_38ec_6ba3),
            (0x0123_4567_89ab_cdef, 42, 0, 0x0ea1_a9ef_7be9_12eb),
            (
                0x0123_4567_89ab_cdef,
                2_718_281_828,
                2307,
                0x5805_79b8_07a9_5615,
            ),
            (u64::MAX, u64::MAX, u32::MAX, 0x06da_21bb_0268_bf00),
        ] {
            assert_eq!(
                murmur3_16(first, second, seed),
                digest,
                "({first:#x}, {second:#x}, {seed:#x})"
            );
        }
    }

    /// The formula as it is defined, with one division a candidate.
    fn naive(permutation: Permutation, k: u32, ring_size: u32) -> u32 {
        permutation
            .offset
            .wrapping_add(k.wrapping_mul(permutation.skip))
            % ring_size
    }

    #[test]
    fn candidates_follow_the_formula_through_the_wrap() {
        const SIZE: u32 = 65537;
        for permutation in [
            Permutation { offset: 0, skip: 1 },
            Permutation {
                offset: 65536,
                skip: 65536,
            },
            Permutation {
                offset: 0,
                skip: 65536,
            },
            Permutation {
                offset: 65536,
                skip: 65535,
            },
            Permutation {
                offset: 12345,
                skip: 65521,
            },
            Permutation {
                offset: 1,
                skip: 32768,
            },
        ] {
            for (k, slot) in (0..400_000).zip(permutation.slots(SIZE)) {
                assert_eq!(slot, naive(permutation, k, SIZE), "{permutation:?} k={k}");
            }
        }
    }

    #[test]
    fn a_permutation_that_misses_a_slot_is_exhausted_and_others_are_not() {
        const SIZE: u32 = 65537;
        let advanced = |skip, steps: usize| {
            let mut slots = Permutation { offset: 7, skip }.slots(SIZE);
            slots.by_ref().take(steps).for_each(drop);
            slots
        };
        assert!(!advanced(65536, 65536).exhausted());
        assert!(advanced(65536, 3 * 65536).exhausted());
        assert!(!advanced(65535, 3 * 65536).exhausted());
        assert!(!advanced(1, 3 * 65536).exhausted());
    }

    proptest! {
        #[test]
        fn candidates_follow_the_formula(
            hash: u64,
            ring_size in prop::sample::select(vec![7_u32, 251, 4093, 65537, 1_048_573, 16_777_213]),
        ) {
            let permutation = Permutation::of(hash, ring_size);
            prop_assert!(permutation.offset < ring_size);
            prop_assert!((1..ring_size).contains(&permutation.skip));
            for (k, slot) in (0..70_000).zip(permutation.slots(ring_size)) {
                prop_assert_eq!(slot, naive(permutation, k, ring_size));
            }
        }
    }
}
