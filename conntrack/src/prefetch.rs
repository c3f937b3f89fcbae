//! Asking the processor to fetch a cache line early.

/// Starts loading `target`'s cache line into every cache level; does nothing on processors other
/// than x86-64.
#[inline]
pub(crate) fn prefetch<T>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads no memory as far as the program can observe and never faults,
        // whatever the address; this one comes from a live reference. Every x86-64 processor has
        // the instruction (it is part of SSE).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}
