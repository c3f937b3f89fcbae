//! Sets of slots of a bucket, and comparing sixteen tags at once: a few instructions, which the
//! compiler finds for no loop.

/// Slots of a bucket.
pub(crate) const WAYS: usize = 16;

/// Slots of a bucket, as bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ways(u16);

impl Ways {
    /// The slots whose tag is `tag`.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn equal(tags: &[u16; WAYS], tag: u16) -> Self {
        // SAFETY: the function asks for SSE2, which every x86-64 processor has, and for nothing else.
        Self(unsafe { sse2::equal(zerocopy::transmute!(*tags), tag) })
    }

    /// The slots whose tag is `tag`.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    pub(crate) fn equal(tags: &[u16; WAYS], tag: u16) -> Self {
        Self((0..WAYS).fold(0, |ways, way| ways | u16::from(tags[way] == tag) << way))
    }

    /// How many.
    #[inline]
    pub(crate) const fn size(&self) -> u32 {
        self.0.count_ones()
    }

    /// The other slots.
    pub(crate) const fn others(&self) -> Self {
        Self(!self.0)
    }
}

impl Iterator for Ways {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let way = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        // At most 15 anyway; this way the compiler knows.
        Some(way % WAYS)
    }
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
    };

    /// Bit n says whether the nth of sixteen tags is `tag`.
    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn equal([low, high]: [__m128i; 2], tag: u16) -> u16 {
        let wanted = _mm_set1_epi16(tag.cast_signed());
        let equal = _mm_packs_epi16(_mm_cmpeq_epi16(low, wanted), _mm_cmpeq_epi16(high, wanted));
        _mm_movemask_epi8(equal).cast_unsigned() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_compared() {
        for way in 0..WAYS {
            let mut tags = [7; WAYS];
            tags[way] = 0x8001;
            assert_eq!(Ways::equal(&tags, 0x8001).collect::<Vec<_>>(), [way]);
            assert_eq!(Ways::equal(&tags, 7).size(), WAYS as u32 - 1);
            assert_eq!(Ways::equal(&tags, 7).others(), Ways::equal(&tags, 0x8001));
            assert_eq!(Ways::equal(&tags, 0x0001).next(), None);
        }
        assert_eq!(
            Ways::equal(&[9; WAYS], 9).collect::<Vec<_>>(),
            (0..WAYS).collect::<Vec<_>>()
        );
    }
}
