//! Remainder by a divisor that is fixed at run time, without a division instruction.

/// A divisor with its reciprocal.
///
/// The reciprocal is `2^64 / divisor` rounded up. Its product with a dividend, modulo 2^64, is the
/// fraction of the quotient scaled by 2^64; that fraction times the divisor is the remainder. With
/// 32-bit dividends and divisors the rounding never reaches the result (Lemire, Kaser, Kurz,
/// "Faster remainder by direct computation", 2019).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modulus {
    divisor: u32,
    reciprocal: u64,
}

impl Modulus {
    /// `divisor` must be at least 2.
    pub(crate) fn new(divisor: u32) -> Self {
        Self {
            divisor,
            reciprocal: u64::MAX / u64::from(divisor) + 1,
        }
    }

    /// `dividend % divisor`.
    #[inline]
    pub(crate) fn remainder(self, dividend: u32) -> u32 {
        let fraction = self.reciprocal.wrapping_mul(u64::from(dividend));
        ((u128::from(fraction) * u128::from(self.divisor)) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn agrees_with_division_at_the_edges() {
        for divisor in [
            2,
            3,
            5,
            7,
            257,
            65521,
            65537,
            16_777_213,
            u32::MAX - 4,
            u32::MAX,
        ] {
            let modulus = Modulus::new(divisor);
            let multiples =
                [1, 2, 3, 65535, 65536, u32::MAX / divisor].map(|n| n.wrapping_mul(divisor));
            for dividend in multiples.into_iter().chain([0, u32::MAX]) {
                for near in [dividend.wrapping_sub(1), dividend, dividend.wrapping_add(1)] {
                    assert_eq!(
                        modulus.remainder(near),
                        near % divisor,
                        "{near} % {divisor}"
                    );
                }
            }
        }
    }

    #[test]
    fn agrees_with_division_over_a_stride_of_all_hashes() {
        let modulus = Modulus::new(65537);
        for dividend in (0..=u32::MAX).step_by(997) {
            assert_eq!(modulus.remainder(dividend), dividend % 65537);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_division(dividend: u32, divisor in 2..=u32::MAX) {
            prop_assert_eq!(Modulus::new(divisor).remainder(dividend), dividend % divisor);
        }
    }
}
