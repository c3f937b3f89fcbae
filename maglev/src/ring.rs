//! The ring: an array of real numbers, and what can be asked of it.

use std::fmt;

use crate::generate::fill;
use crate::modulus::Modulus;
use crate::{Endpoint, HashFunction, MAX_NUMBER};

/// Slots of a ring unless configured otherwise: Katran's.
pub const DEFAULT_RING_SIZE: u32 = 65537;

/// The smallest ring; on a smaller one no endpoint has a choice of permutations.
pub const MIN_RING_SIZE: u32 = 3;

/// The largest ring, 2^24 slots (32 MiB).
pub const MAX_RING_SIZE: u32 = 1 << 24;

/// Why a ring cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The ring size is too small or too large.
    SizeOutOfRange(u32),
    /// The ring size is no prime number, so some permutations would repeat slots.
    SizeNotPrime(u32),
    /// An endpoint's number is 0 or above [`MAX_NUMBER`].
    Number(u32),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SizeOutOfRange(size) => write!(
                f,
                "ring size {size}: must be {MIN_RING_SIZE} to {MAX_RING_SIZE}; \
                 {DEFAULT_RING_SIZE} is the usual size"
            ),
            Self::SizeNotPrime(size) => write!(
                f,
                "ring size {size}: must be a prime number, as {DEFAULT_RING_SIZE} is"
            ),
            Self::Number(number) => {
                write!(f, "real number {number}: must be 1 to {MAX_NUMBER}")
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// A filled ring.
///
/// Either every slot holds the number of an endpoint or, when it was built of none, every slot holds 0.
#[derive(Clone)]
pub struct Ring {
    slots: Box<[u16]>,
    modulus: Modulus,
}

impl Ring {
    /// Generates the ring of `ring_size` slots for `endpoints`, in whatever order they come.
    ///
    /// Endpoints with weight 0 get no slot under either hash function. Endpoints with equal hashes
    /// take turns in order of their numbers.
    pub fn build(
        function: HashFunction,
        ring_size: u32,
        endpoints: &[Endpoint],
    ) -> Result<Self, BuildError> {
        validate(ring_size, endpoints)?;
        let weighted = endpoints.iter().filter(|e| e.weight > 0);
        let weighted: Vec<Endpoint> = weighted.copied().collect();
        Ok(Self::filled(function, ring_size, &weighted))
    }

    /// As [`build`](Self::build), with the endpoints of weight 0 taking part: Katran's ring after a
    /// change of the hash function alone.
    ///
    /// With V1 they take one slot in each pass but the first; with V2 none, unless all weights are 0, and
    /// then as many as any other.
    pub fn build_unfiltered(
        function: HashFunction,
        ring_size: u32,
        endpoints: &[Endpoint],
    ) -> Result<Self, BuildError> {
        validate(ring_size, endpoints)?;
        Ok(Self::filled(function, ring_size, endpoints))
    }

    fn filled(function: HashFunction, ring_size: u32, endpoints: &[Endpoint]) -> Self {
        let mut slots = vec![0; ring_size as usize].into_boxed_slice();
        fill(&mut slots, function, endpoints);
        Self {
            slots,
            modulus: Modulus::new(ring_size),
        }
    }

    /// The number of the real that a flow's hash selects, or 0 if the ring is empty.
    #[inline]
    pub fn select(&self, hash: u32) -> u16 {
        self.slots[self.modulus.remainder(hash) as usize]
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot holds a real.
    pub fn is_empty(&self) -> bool {
        self.slots[0] == 0
    }

    /// The slots in order; the slot of a hash is the remainder by [`len`](Self::len).
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }

    /// How many slots each number holds, as (number, slots) in ascending order of the numbers.
    ///
    /// Numbers without slots are left out, as is 0.
    pub fn shares(&self) -> Vec<(u16, u32)> {
        let mut counts = [0_u32; MAX_NUMBER as usize + 1];
        for &number in &self.slots {
            counts[usize::from(number)] += 1;
        }
        (0..)
            .zip(counts)
            .skip(1)
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// How many slots hold another number than in `other`.
    ///
    /// Slots that only one of the two rings has count as changed.
    pub fn changed_slots(&self, other: &Self) -> usize {
        let differing = self.slots.iter().zip(&other.slots).filter(|(a, b)| a != b);
        differing.count() + self.len().abs_diff(other.len())
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl Eq for Ring {}

/// The slots are too many to print; their shares tell more.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("len", &self.len())
            .field("shares", &self.shares())
            .finish()
    }
}

fn validate(ring_size: u32, endpoints: &[Endpoint]) -> Result<(), BuildError> {
    if !(MIN_RING_SIZE..=MAX_RING_SIZE).contains(&ring_size) {
        return Err(BuildError::SizeOutOfRange(ring_size));
    }
    if !is_prime(ring_size) {
        return Err(BuildError::SizeNotPrime(ring_size));
    }
    let mut numbers = endpoints.iter().map(|endpoint| endpoint.number);
    match numbers.find(|number| !(1..=MAX_NUMBER).contains(number)) {
        Some(number) => Err(BuildError::Number(number)),
        None => Ok(()),
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..=n.isqrt()).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints<const N: usize>(weights: [u32; N]) -> Vec<Endpoint> {
        (1..)
            .zip(weights)
            .map(|(number, weight)| Endpoint::new(number, weight, [10, 0, 0, number as u8].into()))
            .collect()
    }

    fn built(ring_size: u32, endpoints: &[Endpoint]) -> Ring {
        Ring::build(HashFunction::MaglevV2, ring_size, endpoints).unwrap()
    }

    #[test]
    fn sizes_must_be_prime_and_in_range() {
        let refusal = |size| Ring::build(HashFunction::MaglevV1, size, &[]).unwrap_err();
        for size in [0, 1, 2, MAX_RING_SIZE + 1, u32::MAX] {
            assert_eq!(refusal(size), BuildError::SizeOutOfRange(size));
        }
        for size in [4, 9, 65535, 65536, 4093 * 4091, MAX_RING_SIZE] {
            assert_eq!(refusal(size), BuildError::SizeNotPrime(size));
        }
        assert!(refusal(65536).to_string().contains("ring size 65536"));
        for size in [3, 5, 251, 65521, 65537, 16_777_213] {
            assert_eq!(built(size, &[]).len(), size as usize);
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for number in [0, MAX_NUMBER + 1, 65537, u32::MAX] {
            let stray = Endpoint {
                number,
                weight: 0,
                hash: 1,
            };
            let refusal = Ring::build(HashFunction::MaglevV1, 65537, &[stray]).unwrap_err();
            assert_eq!(refusal, BuildError::Number(number));
            assert!(refusal.to_string().contains(&number.to_string()));
        }
    }

    #[test]
    fn without_a_usable_endpoint_the_ring_is_empty() {
        for usable in [&[] as &[Endpoint], &endpoints([0, 0, 0])] {
            let ring = built(251, usable);
            assert!(ring.is_empty());
            assert_eq!(ring.select(77), 0);
            assert_eq!(ring.shares(), []);
        }
    }

    #[test]
    fn a_hash_selects_the_slot_of_its_remainder() {
        for size in [3, 251, 65537, 1_048_573] {
            let ring = built(size, &endpoints([1, 2, 3, 4, 5]));
            assert!(!ring.is_empty());
            for hash in (0..=u32::MAX).step_by(65_521) {
                assert_eq!(ring.select(hash), ring.slots()[(hash % size) as usize]);
            }
        }
    }

    #[test]
    fn shares_count_every_slot() {
        let ring = built(65537, &endpoints([1, 0, 3]));
        let shares = ring.shares();
        assert_eq!(shares.len(), 2);
        assert_eq!((shares[0].0, shares[1].0), (1, 3));
        assert_eq!(shares[0].1 + shares[1].1, 65537);
        assert_eq!(
            format!("{:?}", built(3, &endpoints([1]))),
            "Ring { len: 3, shares: [(1, 3)] }"
        );
    }

    #[test]
    fn changed_slots_are_counted_both_ways() {
        let three = built(251, &endpoints([1, 1, 1]));
        let two = built(251, &endpoints([1, 1]));
        let empty = built(251, &[]);
        let longer = built(257, &[]);
        assert_eq!(three.changed_slots(&three.clone()), 0);
        assert_eq!(three.changed_slots(&empty), 251);
        let lost = three.shares()[2].1 as usize;
        assert!((lost..251).contains(&three.changed_slots(&two)));
        assert_eq!(three.changed_slots(&two), two.changed_slots(&three));
        assert_eq!(empty.changed_slots(&longer), 6);
        assert_eq!(longer.changed_slots(&empty), 6);
    }

    #[test]
    fn primes_are_known() {
        let primes: Vec<_> = (0..40).filter(|&n| is_prime(n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
    }
}
