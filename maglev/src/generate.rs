//! Filling a ring: endpoints take turns, each taking the first free slots of its permutation.

use crate::{Endpoint, HashFunction, Permutation, Slots};

/// Fills `ring`, which holds only zeros and has a valid size, for endpoints with valid numbers.
///
/// Endpoints with weight 0 are left out. Turns go in ascending order of the hash; endpoints with
/// equal hashes (in practice the same address twice) take theirs in ascending order of their
/// numbers, where upstream leaves the order undefined.
pub(crate) fn fill(ring: &mut [u16], function: HashFunction, endpoints: &[Endpoint]) {
    let mut order: Vec<&Endpoint> = endpoints.iter().filter(|e| e.weight > 0).collect();
    order.sort_unstable_by_key(|e| (e.hash, e.number));
    let Some(first) = order.first() else {
        return;
    };
    let first = first.number as u16;
    if order.len() == 1 {
        ring.fill(first);
        return;
    }

    let mut vacancies = Vacancies::new(ring);
    let mut takers: Vec<Taker> = order
        .into_iter()
        .map(|e| Taker::new(e, vacancies.ring.len() as u32))
        .collect();
    let all_taken = match function {
        HashFunction::MaglevV1 => take_turns_v1(&mut vacancies, &mut takers),
        HashFunction::MaglevV2 => take_turns_v2(&mut vacancies, &mut takers),
    };
    if !all_taken {
        // No permutation reaches what is left; upstream would search for ever.
        for slot in ring.iter_mut().filter(|slot| **slot == 0) {
            *slot = first;
        }
    }
}

/// The first turn is worth `weight` slots, every later one a single slot.
///
/// Like [`take_turns_v2`], returns once all slots are taken, with `true`, or once a whole pass has
/// taken none, with `false`.
fn take_turns_v1(vacancies: &mut Vacancies<'_>, takers: &mut [Taker]) -> bool {
    for taker in &mut *takers {
        for _ in 0..taker.weight {
            if !taker.take(vacancies) {
                break;
            }
            if vacancies.left == 0 {
                return true;
            }
        }
    }
    loop {
        let mut progress = false;
        for taker in &mut *takers {
            progress |= taker.take(vacancies);
            if vacancies.left == 0 {
                return true;
            }
        }
        if !progress {
            return false;
        }
    }
}

/// A turn adds the weight to the endpoint's credit; a credit of the largest weight buys one slot.
fn take_turns_v2(vacancies: &mut Vacancies<'_>, takers: &mut [Taker]) -> bool {
    let price = takers.iter().map(|taker| taker.weight).max().unwrap_or(0);
    let price = u64::from(price);
    loop {
        let mut progress = false;
        for taker in &mut *takers {
            taker.credit += u64::from(taker.weight);
            if taker.credit >= price {
                taker.credit -= price;
                progress |= taker.take(vacancies);
                if vacancies.left == 0 {
                    return true;
                }
            }
        }
        if !progress {
            return false;
        }
    }
}

/// An endpoint's state during generation.
struct Taker {
    slots: Slots,
    weight: u32,
    number: u16,
    /// Only V2 counts it.
    credit: u64,
}

impl Taker {
    fn new(endpoint: &Endpoint, ring_size: u32) -> Self {
        Self {
            slots: Permutation::of(endpoint.hash, ring_size).slots(ring_size),
            weight: endpoint.weight,
            number: endpoint.number as u16,
            credit: 0,
        }
    }

    /// Takes the first free slot of the permutation; `false` when it has none left to offer.
    #[inline]
    fn take(&mut self, vacancies: &mut Vacancies<'_>) -> bool {
        while vacancies.is_taken(self.slots.current()) {
            if self.slots.exhausted() {
                return false;
            }
            self.slots.advance();
        }
        vacancies.take(self.slots.current(), self.number);
        self.slots.advance();
        true
    }
}

/// The ring being filled and which of its slots are free.
struct Vacancies<'a> {
    ring: &'a mut [u16],
    /// One bit a slot, because probing is most of the work and the bits stay in the L1 cache.
    taken: Box<[u64]>,
    left: usize,
}

impl<'a> Vacancies<'a> {
    fn new(ring: &'a mut [u16]) -> Self {
        Self {
            taken: vec![0; ring.len().div_ceil(64)].into_boxed_slice(),
            left: ring.len(),
            ring,
        }
    }

    #[inline]
    fn is_taken(&self, slot: u32) -> bool {
        self.taken[slot as usize / 64] >> (slot % 64) & 1 != 0
    }

    #[inline]
    fn take(&mut self, slot: u32, number: u16) {
        self.taken[slot as usize / 64] |= 1 << (slot % 64);
        self.ring[slot as usize] = number;
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 65537;

    /// Generation word by word as it is defined, with divisions.
    fn naive(function: HashFunction, endpoints: &[Endpoint]) -> Vec<u16> {
        let mut order: Vec<_> = endpoints.iter().filter(|e| e.weight > 0).collect();
        order.sort_by_key(|e| (e.hash, e.number));
        let largest = order.iter().map(|e| e.weight).max().unwrap();
        let mut ring = vec![0; SIZE];
        let mut weights: Vec<_> = order.iter().map(|e| e.weight).collect();
        let mut credit = vec![0_u64; order.len()];
        let mut cursor = vec![0_u32; order.len()];
        let mut left = SIZE;
        loop {
            for (i, endpoint) in order.iter().enumerate() {
                let permutation = Permutation::of(endpoint.hash, SIZE as u32);
                let turn = match function {
                    HashFunction::MaglevV1 => std::mem::replace(&mut weights[i], 1),
                    HashFunction::MaglevV2 => {
                        credit[i] += u64::from(weights[i]);
                        let buys = credit[i] >= u64::from(largest);
                        credit[i] -= u64::from(if buys { largest } else { 0 });
                        u32::from(buys)
                    }
                };
                for _ in 0..turn {
                    loop {
                        let sum = permutation
                            .offset
                            .wrapping_add(cursor[i].wrapping_mul(permutation.skip));
                        cursor[i] += 1;
                        let slot = sum as usize % SIZE;
                        if ring[slot] == 0 {
                            ring[slot] = endpoint.number as u16;
                            break;
                        }
                    }
                    left -= 1;
                    if left == 0 {
                        return ring;
                    }
                }
            }
        }
    }

    fn filled(function: HashFunction, endpoints: &[Endpoint]) -> Vec<u16> {
        let mut ring = vec![0; SIZE];
        fill(&mut ring, function, endpoints);
        ring
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut hash = 1_u64;
        for (count, weigh) in [
            (2, (|_| 1) as fn(u32) -> u32),
            (3, |n| n * n),
            (17, |n| 70_000 * (n % 2)),
            (200, |n| n % 7),
            (1000, |n| 1 + n % 3 * 1000),
        ] {
            let endpoints: Vec<_> = (1..=count)
                .map(|number| {
                    hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    Endpoint {
                        number,
                        weight: weigh(number),
                        hash,
                    }
                })
                .collect();
            for function in HashFunction::ALL {
                assert_eq!(
                    filled(function, &endpoints),
                    naive(function, &endpoints),
                    "{function} {count}"
                );
            }
        }
    }

    /// The sum of such a permutation takes one value fewer than the ring has slots.
    fn hashes_that_miss_a_slot() -> impl Iterator<Item = u64> {
        (0_u64..).filter(|&hash| Permutation::of(hash, SIZE as u32).skip == 65536)
    }

    #[test]
    fn generation_ends_when_no_permutation_reaches_the_last_slot() {
        let hash = hashes_that_miss_a_slot().next().unwrap();
        let twins = [2, 1].map(|number| Endpoint {
            number,
            weight: 1,
            hash,
        });
        for function in HashFunction::ALL {
            let ring = filled(function, &twins);
            assert!(!ring.contains(&0));
            let ones = ring.iter().filter(|&&number| number == 1).count();
            assert!((32768..=32769).contains(&ones), "{function}: {ones}");
        }
    }

    #[test]
    fn generation_ends_when_a_heavy_endpoint_runs_out_of_slots() {
        let mut hashes = hashes_that_miss_a_slot();
        let heavy = Endpoint {
            number: 1,
            weight: u32::MAX,
            hash: hashes.next().unwrap(),
        };
        let light = Endpoint {
            number: 2,
            weight: 1,
            hash: u64::MAX,
        };
        let ring = filled(HashFunction::MaglevV1, &[heavy, light]);
        assert_eq!(ring.iter().filter(|&&number| number == 1).count(), SIZE - 1);
        assert_eq!(ring.iter().filter(|&&number| number == 2).count(), 1);
    }

    #[test]
    fn equal_hashes_take_turns_in_order_of_their_numbers() {
        let twins = [(9, 5), (4, 5), (7, 5)].map(|(number, hash)| Endpoint {
            number,
            weight: 1,
            hash,
        });
        let ring = filled(HashFunction::MaglevV2, &twins);
        let candidates: Vec<_> = Permutation::of(5, SIZE as u32)
            .slots(SIZE as u32)
            .take(6)
            .collect();
        let takers: Vec<_> = candidates.iter().map(|&slot| ring[slot as usize]).collect();
        assert_eq!(takers, [4, 7, 9, 4, 7, 9]);
    }
}
