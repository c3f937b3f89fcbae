//! A warning for weights that V1 does not turn into shares.

use crate::Endpoint;

/// Why these weights will not become shares on a V1 ring of `ring_size` slots, if they will not.
///
/// V1 gives an endpoint `weight` slots once and equal numbers of slots after that. Weights that
/// differ therefore need a sum close to the size of the ring: far below it the shares are nearly
/// equal, above it the endpoints with the highest hashes starve. Equal weights share equally
/// unless their sum exceeds the ring.
pub fn v1_weights_warning(endpoints: &[Endpoint], ring_size: u32) -> Option<String> {
    let weights = || endpoints.iter().map(|e| e.weight).filter(|&w| w > 0);
    // A lone endpoint has the whole ring, whatever its weight.
    weights().nth(1)?;
    let (least, most) = (weights().min()?, weights().max()?);
    let sum: u64 = weights().map(u64::from).sum();
    let size = u64::from(ring_size);
    if sum > size {
        Some(format!(
            "weights add up to {sum}, more than the {size} slots of a maglev-v1 ring: some reals \
             get fewer slots than their weight or none; scale the weights to a sum of {size} or \
             use maglev-v2"
        ))
    } else if least != most && sum < size - size / 10 {
        Some(format!(
            "weights add up to {sum}, less than the {size} slots of a maglev-v1 ring: shares will \
             be more equal than the weights; scale the weights to a sum of {size} or use maglev-v2"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(weights: &[u32]) -> Option<String> {
        let endpoints: Vec<_> = (1..)
            .zip(weights)
            .map(|(number, &weight)| Endpoint {
                number,
                weight,
                hash: u64::from(number),
            })
            .collect();
        v1_weights_warning(&endpoints, 65537)
    }

    #[test]
    fn weights_that_become_shares_are_fine() {
        for weights in [
            &[] as &[u32],
            &[0],
            &[1_000_000],
            &[1, 1, 1],
            &[0, 10, 10],
            &[10_000, 20_000, 35_000],
            &[32_768, 32_769],
        ] {
            assert_eq!(warning(weights), None, "{weights:?}");
        }
    }

    #[test]
    fn small_unequal_weights_are_named() {
        assert!(warning(&[1, 10]).unwrap().contains("add up to 11, less"));
    }

    #[test]
    fn weights_above_the_ring_are_named() {
        assert!(
            warning(&[30_000; 3])
                .unwrap()
                .contains("add up to 90000, more")
        );
        assert!(warning(&[u32::MAX; 3]).is_some());
    }
}
