//! Rings with the endpoints of weight 0 in them, held to Katran's rules written down once more, word by
//! word (katran-compat sections 3.2 to 3.6).

use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Permutation, Ring};
use proptest::prelude::*;

/// The ring of a list from which nothing is filtered.
fn model(function: HashFunction, endpoints: &[Endpoint]) -> Vec<u16> {
    let mut sorted = endpoints.to_vec();
    sorted.sort_by_key(|endpoint| endpoint.hash);
    let mut ring: Vec<Option<u16>> = vec![None; DEFAULT_RING_SIZE as usize];
    if let [only] = &sorted[..] {
        return vec![only.number as u16; ring.len()];
    }
    let permutations: Vec<_> = sorted
        .iter()
        .map(|endpoint| Permutation::of(endpoint.hash, DEFAULT_RING_SIZE))
        .collect();
    let mut candidate = vec![0_u32; sorted.len()];
    let mut weights: Vec<u64> = sorted.iter().map(|e| u64::from(e.weight)).collect();
    let largest = weights.iter().copied().max().unwrap();
    let mut cumulative = vec![0_u64; sorted.len()];
    let mut taken = 0;
    loop {
        for i in 0..sorted.len() {
            let takes = match function {
                HashFunction::MaglevV1 => {
                    let takes = weights[i];
                    weights[i] = 1;
                    takes
                }
                HashFunction::MaglevV2 => {
                    cumulative[i] += weights[i];
                    if cumulative[i] >= largest {
                        cumulative[i] -= largest;
                        1
                    } else {
                        0
                    }
                }
            };
            for _ in 0..takes {
                let slot = loop {
                    let Permutation { offset, skip } = permutations[i];
                    let slot =
                        offset.wrapping_add(candidate[i].wrapping_mul(skip)) % DEFAULT_RING_SIZE;
                    candidate[i] += 1;
                    if ring[slot as usize].is_none() {
                        break slot;
                    }
                };
                ring[slot as usize] = Some(sorted[i].number as u16);
                taken += 1;
                if taken == ring.len() {
                    return ring.into_iter().map(Option::unwrap).collect();
                }
            }
        }
    }
}

fn reals(weights: &[u32]) -> Vec<Endpoint> {
    (1..)
        .zip(weights)
        .map(|(number, weight)| Endpoint::new(number, *weight, [10, 0, 0, number as u8].into()))
        .collect()
}

fn unfiltered(function: HashFunction, weights: &[u32]) -> Ring {
    Ring::build_unfiltered(function, DEFAULT_RING_SIZE, &reals(weights)).unwrap()
}

#[test]
fn v1_gives_a_drained_endpoint_a_slot_in_each_pass_but_the_first() {
    let shares = unfiltered(HashFunction::MaglevV1, &[1, 0, 1]).shares();
    // Two slots in the first pass, three in each after it.
    assert_eq!(shares, [(1, 21_846), (2, 21_845), (3, 21_846)]);
    // The first pass fills the ring.
    let shares = unfiltered(HashFunction::MaglevV1, &[40_000, 0, 40_000]).shares();
    assert!(shares.iter().all(|(number, _)| *number != 2), "{shares:?}");
}

#[test]
fn v2_gives_a_drained_endpoint_nothing_unless_all_are() {
    let filtered = |weights: &[u32]| {
        Ring::build(HashFunction::MaglevV2, DEFAULT_RING_SIZE, &reals(weights)).unwrap()
    };
    for weights in [[1, 0, 1], [5, 0, 3], [0, 7, 0]] {
        assert_eq!(
            unfiltered(HashFunction::MaglevV2, &weights),
            filtered(&weights)
        );
    }
    for function in HashFunction::ALL {
        assert_eq!(
            unfiltered(function, &[0; 3]),
            filtered(&[1; 3]),
            "{function}"
        );
        assert_eq!(unfiltered(function, &[0]), filtered(&[1]), "{function}");
        assert!(unfiltered(function, &[]).is_empty(), "{function}");
    }
}

#[test]
fn few_buyers_among_many_drained_endpoints_are_the_same_as_without_them() {
    let mut weights = vec![0; 200];
    weights[7] = 1000;
    weights[90] = 3;
    let ring = unfiltered(HashFunction::MaglevV2, &weights);
    assert_eq!(
        ring.slots(),
        model(HashFunction::MaglevV2, &reals(&weights))
    );
    assert_eq!(ring.shares().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn as_the_model_says(
        weights in prop::collection::vec(prop_oneof![Just(0), Just(1), 0..10_u32, 0..100_000_u32], 1..40),
    ) {
        for function in HashFunction::ALL {
            let ring = unfiltered(function, &weights);
            prop_assert_eq!(ring.slots(), model(function, &reals(&weights)), "{}", function);
        }
    }

    #[test]
    fn nothing_drained_nothing_different(weights in prop::collection::vec(1..1000_u32, 0..40)) {
        for function in HashFunction::ALL {
            let filtered = Ring::build(function, DEFAULT_RING_SIZE, &reals(&weights)).unwrap();
            prop_assert_eq!(unfiltered(function, &weights), filtered);
        }
    }
}
