//! Internet checksum (RFC 1071).

/// Sum of 16-bit big-endian words, not folded yet. A last odd byte counts as the high byte of a word.
///
/// Sums of up to 2³² bytes cannot overflow.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum();
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// Folds a sum into 16 bits with end-around carry. Zero only for a sum of zero.
#[inline]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Checksum of a sum: its folded complement.
#[inline]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// As [`finish`], of a sum of few words, in few instructions: the halves' sum and its carry meet in the
/// high half.
#[inline]
pub const fn finish_short(sum: u32) -> u16 {
    !((sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16)
}

/// A word as it lies in memory, for a sum of such words: the order of bytes does not matter to a sum
/// (RFC 1071 section 2).
#[inline]
pub(super) fn word(bytes: [u8; 2]) -> u32 {
    u32::from(u16::from_ne_bytes(bytes))
}

/// Sum of the pseudo header of IPv4 or IPv6 (RFC 793 section 3.1, RFC 8200 section 8.1).
/// `addresses` are source and destination in wire order.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: u32) -> u64 {
    sum(addresses) + u64::from(protocol) + u64::from(length >> 16) + u64::from(length & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word with a 32-bit accumulator folded at once.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(pair[0]) * 256 + u32::from(low);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])),
            0xddf2
        );
    }

    #[test]
    fn every_length_at_every_alignment() {
        let bytes: Vec<u8> = (0..2080_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for start in 0..16 {
            for len in 0..=2048 {
                let part = &bytes[start..start + len];
                assert_eq!(
                    finish(sum(part)),
                    reference(part),
                    "start {start} length {len}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn folding_keeps_the_value_modulo_65535(value in any::<u64>()) {
            prop_assert_eq!(u64::from(fold(value)) % 0xffff, value % 0xffff);
            prop_assert_eq!(fold(value) == 0, value == 0);
        }

        #[test]
        fn a_short_sum_is_finished_like_a_long_one(value: u32) {
            prop_assert_eq!(finish_short(value), finish(value.into()));
        }
    }
}
