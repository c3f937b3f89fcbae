//! Filling a ring: endpoints take turns, each taking the first free slots of its permutation.

use std::iter;

use crate::{
    Endpoint, HashFunction,
    search::{InBlocks, OneByOne, Search},
};

/// Turns that are collected before they are taken.
const BATCH: usize = 4096;
/// Purchases are rare when fewer than one in so many endpoints buys in a pass.
const RARE: u64 = 16;

/// Fills `ring`, which holds only zeros and has a valid size, for endpoints with valid numbers, none of
/// which is left out.
///
/// Turns go in ascending order of the hash; endpoints with equal hashes (in practice the same address
/// twice) take theirs in ascending order of their numbers, where upstream leaves the order undefined.
pub(crate) fn fill(ring: &mut [u16], function: HashFunction, endpoints: &[Endpoint]) {
    let mut order = endpoints.to_vec();
    order.sort_unstable_by_key(|e| (e.hash, e.number));
    let Some(first) = order.first() else {
        return;
    };
    let first = first.number as u16;
    if order.len() == 1 {
        ring.fill(first);
        return;
    }

    let weights: Vec<u32> = order.iter().map(|e| e.weight).collect();
    let all_taken = if let Some(search) = InBlocks::new(ring, &order) {
        take_turns(search, function, &weights)
    } else {
        take_turns(OneByOne::new(ring, &order), function, &weights)
    };
    if !all_taken {
        // No permutation reaches what is left; upstream would search for ever.
        for slot in ring.iter_mut().filter(|slot| **slot == 0) {
            *slot = first;
        }
    }
}

/// Returns once all slots are taken, with `true`, or once a whole pass has taken none, with `false`.
fn take_turns(search: impl Search, function: HashFunction, weights: &[u32]) -> bool {
    match function {
        HashFunction::MaglevV1 => take_turns_v1(search, weights),
        HashFunction::MaglevV2 => take_turns_v2(search, weights),
    }
}

/// The first turn is worth `weight` slots, every later one a single slot, also to a weight of 0.
fn take_turns_v1(mut search: impl Search, weights: &[u32]) -> bool {
    // Who has no slot left to offer has none on the rest of its turns.
    let most = search.left();
    let mut first_pass = (0..)
        .zip(weights)
        .flat_map(|(i, &weight)| iter::repeat_n(i, most.min(weight as usize)));
    let mut turns = Vec::with_capacity(BATCH);
    while search.left() > 0 {
        turns.clear();
        turns.extend(first_pass.by_ref().take(BATCH));
        if turns.is_empty() {
            break;
        }
        search.take_each(&turns);
    }
    take_equal_turns(search, weights.len())
}

/// Every turn is worth a slot.
fn take_equal_turns(mut search: impl Search, count: usize) -> bool {
    let turns: Vec<u16> = (0..count as u16).collect();
    while search.left() > 0 {
        if !search.take_each(&turns) {
            return false;
        }
    }
    true
}

/// A turn adds the weight to the endpoint's credit; a credit of the largest weight buys one slot. So a
/// weight of 0 buys none, unless all are 0.
fn take_turns_v2(search: impl Search, weights: &[u32]) -> bool {
    let price = weights.iter().copied().max().unwrap_or(0);
    if weights.iter().all(|&weight| weight == price) {
        return take_equal_turns(search, weights.len());
    }
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    if sum / u64::from(price) < weights.len() as u64 / RARE {
        take_rare_turns(search, weights, price)
    } else {
        take_paid_turns(search, weights, price)
    }
}

/// Counts the credit of every endpoint in every pass.
fn take_paid_turns(mut search: impl Search, weights: &[u32], price: u32) -> bool {
    let mut credits = vec![0; weights.len()];
    let mut buyers = vec![0; weights.len()];
    while search.left() > 0 {
        let mut count = 0;
        for (i, (credit, &weight)) in (0..).zip(credits.iter_mut().zip(weights)) {
            // The credit is below the price; the sum of credit and weight can exceed 32 bits.
            let missing = price - *credit;
            let buys = weight >= missing;
            // Without a branch, because it could not be foreseen.
            *credit = if buys {
                weight - missing
            } else {
                *credit + weight
            };
            buyers[count] = i;
            count += usize::from(buys);
        }
        if !search.take_each(&buyers[..count]) {
            return false;
        }
    }
    true
}

/// As [`take_paid_turns`] where few buy in a pass: computes the passes in which each endpoint buys. The
/// n-th purchase comes in the first pass by which n prices are paid.
fn take_rare_turns(mut search: impl Search, weights: &[u32], price: u32) -> bool {
    let price = u64::from(price);
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    let window = (BATCH as u64 * price / sum).max(1);
    let pass = |purchase: u64, weight: u32| match u64::from(weight) {
        0 => u64::MAX,
        weight => (purchase * price).div_ceil(weight),
    };
    let mut next: Vec<(u64, u64)> = weights.iter().map(|&weight| (1, pass(1, weight))).collect();
    let mut last = 0;
    let mut purchases = Vec::with_capacity(2 * BATCH);
    while search.left() > 0 {
        last += window;
        purchases.clear();
        for (i, ((purchase, at), &weight)) in (0..).zip(next.iter_mut().zip(weights)) {
            while *at <= last {
                purchases.push((*at, i));
                *purchase += 1;
                *at = pass(*purchase, weight);
            }
        }
        purchases.sort_unstable();
        let turns: Vec<u16> = purchases.iter().map(|&(_, i)| i).collect();
        if !search.take_each(&turns) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Permutation;

    const SIZE: usize = 65537;

    /// Generation word by word as it is defined, with divisions.
    fn naive(function: HashFunction, endpoints: &[Endpoint]) -> Vec<u16> {
        let mut order: Vec<_> = endpoints.iter().collect();
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
            (5, |_| 0),
            // Few buy in a pass of V2.
            (300, |n| if n == 7 { 1000 } else { n % 20 }),
            (40, |n| if n == 7 { u32::MAX } else { 1 + n }),
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
    fn agrees_with_the_definition_when_a_sum_wraps() {
        let endpoints: Vec<_> = (1..=9)
            .zip(hashes_that_miss_a_slot().step_by(2))
            .map(|(number, hash)| Endpoint {
                number,
                weight: 1 + number % 2,
                hash: hash + u64::from(number % 3),
            })
            .collect();
        for function in HashFunction::ALL {
            assert_eq!(
                filled(function, &endpoints),
                naive(function, &endpoints),
                "{function}"
            );
        }
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
