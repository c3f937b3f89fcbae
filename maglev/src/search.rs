//! How an endpoint finds the first free slot of its permutation while a ring is being filled.
//!
//! Nearly all the time of a generation goes there. On average a search asks for `size / free` slots:
//! a handful while most are free, tens of thousands at the end. Mispredicted branches and loads that
//! wait for each other cost more than the questions themselves.

use crate::{DEFAULT_RING_SIZE, Endpoint, Permutation, Slots};

/// Hands out the slots of a ring.
pub(crate) trait Search {
    /// How many slots are free.
    fn left(&self) -> usize;

    /// Gives each of these endpoints in turn the first free slot of its permutation, until no slot is
    /// left; `false` when none of them got any.
    fn take_each(&mut self, turns: &[u16]) -> bool;
}

/// One candidate after another, for every ring and permutation.
pub(crate) struct OneByOne<'a> {
    ring: &'a mut [u16],
    takers: Vec<(Slots, u16)>,
    left: usize,
}

impl<'a> OneByOne<'a> {
    /// For an empty ring.
    pub(crate) fn new(ring: &'a mut [u16], endpoints: &[Endpoint]) -> Self {
        let size = ring.len() as u32;
        let takers = endpoints.iter().map(|endpoint| {
            let slots = Permutation::of(endpoint.hash, size).slots(size);
            (slots, endpoint.number as u16)
        });
        Self {
            takers: takers.collect(),
            left: ring.len(),
            ring,
        }
    }

    /// `false` when the endpoint has no slot left to offer.
    fn take(&mut self, i: usize) -> bool {
        let (slots, number) = &mut self.takers[i];
        while self.ring[slots.current() as usize] != 0 {
            if slots.exhausted() {
                return false;
            }
            slots.advance();
        }
        self.ring[slots.current() as usize] = *number;
        slots.advance();
        self.left -= 1;
        true
    }
}

impl Search for OneByOne<'_> {
    fn left(&self) -> usize {
        self.left
    }

    fn take_each(&mut self, turns: &[u16]) -> bool {
        let mut progress = false;
        for &i in turns {
            if self.left == 0 {
                break;
            }
            progress |= self.take(usize::from(i));
        }
        progress
    }
}

/// Slots of the ring that [`InBlocks`] fills.
const SIZE: u32 = DEFAULT_RING_SIZE;
const SLOTS: usize = SIZE as usize;
/// Free slots to which searches look at two candidates at once.
const MANY: usize = SLOTS / 2;
/// Free slots to which searches look at four candidates at once; below, at eight.
const SOME: usize = SLOTS / 4;
/// Free slots at which they are listed, and a search computes which of them comes first.
const FEW: usize = 192;

type Ring = [u16; SLOTS];
/// A byte a slot, 1 while it is free: half as many bytes as the ring, and no shifts.
type Free = [u8; SLOTS];

/// Several candidates at a time, for rings of the default size. The slots are those
/// that [`OneByOne`] would give:
///
/// - A search looks at two candidates at once while many slots are free, then at four, then at eight.
/// - When few slots are left, the question is turned round: how many candidates ahead is each of them?
///   That is its distance times the inverse of the skip, since the ring size is prime.
pub(crate) struct InBlocks<'a> {
    ring: &'a mut Ring,
    free: Box<Free>,
    left: usize,
    seekers: Vec<Seeker>,
    /// The free slots in no order, once they are few.
    few: Vec<u32>,
}

/// Where an endpoint is in its permutation.
#[derive(Clone, Copy)]
struct Seeker {
    /// The candidate that comes next.
    slot: u32,
    skip: u32,
    number: u16,
}

impl<'a> InBlocks<'a> {
    /// For an empty ring; `None` when it has another size, or when the sum of a permutation can wrap
    /// before every slot has come: about one of 65,537 can.
    pub(crate) fn new(ring: &'a mut [u16], endpoints: &[Endpoint]) -> Option<Self> {
        let ring: &mut Ring = ring.try_into().ok()?;
        let seekers = endpoints
            .iter()
            .map(|endpoint| {
                let Permutation { offset, skip } = Permutation::of(endpoint.hash, SIZE);
                let last = u64::from(offset) + u64::from(SIZE - 1) * u64::from(skip);
                u32::try_from(last).is_ok().then_some(Seeker {
                    slot: offset,
                    skip,
                    number: endpoint.number as u16,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let free: Box<[u8]> = vec![1; SLOTS].into();
        Some(Self {
            ring,
            free: free.try_into().ok()?,
            left: SLOTS,
            seekers,
            few: Vec::new(),
        })
    }

    /// How many turns are searched for in the same way from now on.
    fn stride(&self) -> usize {
        match self.left {
            left if left > MANY => left - MANY,
            left if left > SOME => left - SOME,
            left if left > FEW => left - FEW,
            left => left,
        }
    }
}

impl Search for InBlocks<'_> {
    fn left(&self) -> usize {
        self.left
    }

    fn take_each(&mut self, mut turns: &[u16]) -> bool {
        let progress = !turns.is_empty() && self.left > 0;
        while !turns.is_empty() && self.left > 0 {
            let now;
            (now, turns) = turns.split_at(turns.len().min(self.stride()));
            let (ring, free) = (&mut *self.ring, &mut *self.free);
            if self.left > MANY {
                take_each(ring, free, &mut self.seekers, now, seek_in_twos);
            } else if self.left > SOME {
                take_each(ring, free, &mut self.seekers, now, seek_in_fours);
            } else if self.left > FEW {
                take_each(ring, free, &mut self.seekers, now, seek_in_eights);
            } else {
                if self.few.is_empty() {
                    self.few = (0..SIZE).filter(|&slot| is_free(free, slot)).collect();
                }
                for &i in now {
                    let seeker = &mut self.seekers[usize::from(i)];
                    let slot = take_nearest(&mut self.few, seeker);
                    ring[slot as usize] = seeker.number;
                }
            }
            self.left -= now.len();
        }
        progress
    }
}

/// Gives each endpoint in turn what `seek` finds for it.
///
/// What it works on are parameters, so that the compiler knows that they are not the same memory.
#[inline(never)]
fn take_each(
    ring: &mut Ring,
    free: &mut Free,
    seekers: &mut [Seeker],
    turns: &[u16],
    seek: impl Fn(&Free, &mut Seeker) -> u32,
) {
    for &i in turns {
        let seeker = &mut seekers[usize::from(i)];
        let slot = seek(free, seeker) as usize;
        free[slot] = 0;
        ring[slot] = seeker.number;
    }
}

/// Moves the seeker past the first free slot and gives that slot.
#[inline]
fn seek_in_twos(free: &Free, seeker: &mut Seeker) -> u32 {
    let skip = seeker.skip;
    loop {
        let a = seeker.slot;
        let b = step(a, skip);
        let c = step(b, skip);
        let (a_free, b_free) = (is_free(free, a), is_free(free, b));
        if a_free | b_free {
            seeker.slot = if a_free { b } else { c };
            return if a_free { a } else { b };
        }
        seeker.slot = c;
    }
}

/// As [`seek_in_twos`].
#[inline]
fn seek_in_fours(free: &Free, seeker: &mut Seeker) -> u32 {
    let skip = seeker.skip;
    let skip2 = step(skip, skip);
    loop {
        let a = seeker.slot;
        let b = step(a, skip);
        let c = step(a, skip2);
        let d = step(b, skip2);
        let [a_free, b_free, c_free, d_free] = [a, b, c, d].map(|slot| is_free(free, slot));
        if a_free | b_free | c_free | d_free {
            let slot = if c_free { c } else { d };
            let slot = if b_free { b } else { slot };
            let slot = if a_free { a } else { slot };
            seeker.slot = step(slot, skip);
            return slot;
        }
        seeker.slot = step(c, skip2);
    }
}

/// As [`seek_in_twos`].
#[inline]
fn seek_in_eights(free: &Free, seeker: &mut Seeker) -> u32 {
    // How far ahead each candidate of a block is, and the next block.
    let mut ahead = [0, seeker.skip, 0, 0, 0, 0, 0, 0, 0];
    for i in 2..ahead.len() {
        ahead[i] = step(ahead[i / 2], ahead[i.div_ceil(2)]);
    }
    let [ahead @ .., past] = ahead;
    let mut start = seeker.slot;
    loop {
        let block = ahead.map(|ahead| reduce(start + ahead));
        let mut found = 0;
        for (i, &slot) in block.iter().enumerate() {
            found |= u32::from(free[slot as usize]) << i;
        }
        if found != 0 {
            let slot = block[found.trailing_zeros() as usize % block.len()];
            seeker.slot = step(slot, seeker.skip);
            return slot;
        }
        start = step(start, past);
    }
}

/// Takes that of the few free slots which is the fewest candidates ahead.
fn take_nearest(few: &mut Vec<u32>, seeker: &mut Seeker) -> u32 {
    let per_slot = Factor::new(inverse(seeker.skip));
    let back = SIZE - seeker.slot;
    // Signed, because the vector units of any x86-64 find the minimum of signed numbers only.
    let ahead = few
        .iter()
        .map(|&slot| per_slot.times(reduce(slot + back)).cast_signed())
        .min()
        .unwrap_or_default()
        .cast_unsigned();
    let slot = step(seeker.slot, Factor::new(seeker.skip).times(ahead));
    seeker.slot = step(slot, seeker.skip);
    if let Some(position) = few.iter().position(|&few| few == slot) {
        few.swap_remove(position);
    }
    slot
}

#[inline]
fn is_free(free: &Free, slot: u32) -> bool {
    free[slot as usize] != 0
}

/// `slot + distance` modulo the size, for a slot below it and a distance up to it.
#[inline]
fn step(slot: u32, distance: u32) -> u32 {
    let sum = slot + distance;
    // The difference is huge when there is nothing to subtract.
    sum.min(sum.wrapping_sub(SIZE))
}

/// `value` modulo the size, for values below twice the size. As [`step`], in a form that becomes vector
/// instructions.
#[inline]
fn reduce(value: u32) -> u32 {
    let over = value.cast_signed() >= SIZE.cast_signed();
    value - if over { SIZE } else { 0 }
}

/// A factor of many products modulo the size, with its quotient by the size (Shoup's method).
#[derive(Clone, Copy)]
struct Factor {
    factor: u32,
    /// `factor * 2^32 / size`, rounded down.
    quotient: u32,
}

impl Factor {
    /// `factor` must be below the size.
    fn new(factor: u32) -> Self {
        Self {
            factor,
            quotient: ((u64::from(factor) << 32) / u64::from(SIZE)) as u32,
        }
    }

    /// `factor * value` modulo the size, for a value below the size.
    #[inline]
    fn times(self, value: u32) -> u32 {
        let multiples = ((u64::from(self.quotient) * u64::from(value)) >> 32) as u32;
        // The estimate is too small by at most one, and the upper halves are equal.
        let rest = self
            .factor
            .wrapping_mul(value)
            .wrapping_sub(multiples.wrapping_mul(SIZE));
        reduce(rest)
    }
}

/// The inverse of `value` modulo the size, which is prime, by the extended Euclidean algorithm.
fn inverse(value: u32) -> u32 {
    let (mut low, mut high) = (value.cast_signed(), SIZE.cast_signed());
    let (mut x, mut y) = (1, 0);
    while low > 1 {
        let quotient = high / low;
        (low, high) = (high - quotient * low, low);
        (x, y) = (y - quotient * x, x);
    }
    x.rem_euclid(SIZE.cast_signed()).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn searched(mut search: impl Search, turns: &[Vec<u16>]) -> (usize, usize) {
        let mut passes = 0;
        for turns in turns.iter().cycle() {
            passes += 1;
            if !search.take_each(turns) || search.left() == 0 {
                break;
            }
        }
        (passes, search.left())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_find_what_one_by_one_finds(
            hashes in prop::collection::vec(any::<u64>(), 1..400),
            turns in prop::collection::vec(prop::collection::vec(any::<u16>(), 1..3000), 1..5),
        ) {
            let endpoints: Vec<Endpoint> = (1..)
                .zip(hashes)
                .map(|(number, hash)| Endpoint { number, weight: 1, hash })
                .collect();
            let turns: Vec<Vec<u16>> = turns
                .into_iter()
                .map(|turns| turns.into_iter().map(|i| i % endpoints.len() as u16).collect())
                .collect();
            let mut expected = vec![0; SLOTS];
            let outcome = searched(OneByOne::new(&mut expected, &endpoints), &turns);
            let mut ring = vec![0; SLOTS];
            // Permutations whose sums wrap are for the other search.
            if let Some(search) = InBlocks::new(&mut ring, &endpoints) {
                prop_assert_eq!(searched(search, &turns), outcome);
                prop_assert_eq!(ring, expected);
            }
        }
    }

    #[test]
    fn only_permutations_whose_sums_do_not_wrap_are_searched_in_blocks() {
        let mut ring = vec![0; SLOTS];
        let mut searched_in_blocks = |hash| {
            let endpoint = Endpoint {
                number: 1,
                weight: 1,
                hash,
            };
            InBlocks::new(&mut ring, &[endpoint]).is_some()
        };
        let skip = |hash| Permutation::of(hash, SIZE).skip;
        let longest = (0..u64::MAX).find(|&hash| skip(hash) == SIZE - 1);
        assert!(!searched_in_blocks(longest.expect("some hash")));
        assert!(searched_in_blocks(1));
        assert!(InBlocks::new(&mut [0; 251], &[]).is_none(), "another size");
    }

    #[test]
    fn inverses_and_products_agree_with_their_definitions() {
        for value in 1..SIZE {
            let product = u64::from(value) * u64::from(inverse(value)) % u64::from(SIZE);
            assert_eq!(product, 1, "{value}");
        }
        for factor in (0..SIZE).step_by(251).chain([1, SIZE - 1]) {
            let scaled = Factor::new(factor);
            for value in (0..SIZE).step_by(127).chain([1, SIZE - 1]) {
                let product = u64::from(factor) * u64::from(value) % u64::from(SIZE);
                assert_eq!(
                    u64::from(scaled.times(value)),
                    product,
                    "{factor} * {value}"
                );
            }
        }
    }

    #[test]
    fn steps_stay_below_the_size() {
        for (slot, distance, sum) in [
            (0, 1, 1),
            (SIZE - 1, 1, 0),
            (SIZE - 1, SIZE - 1, SIZE - 2),
            (5, SIZE, 5),
        ] {
            assert_eq!(step(slot, distance), sum);
            assert_eq!(reduce(slot + distance), sum);
        }
    }
}
