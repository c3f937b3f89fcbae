//! Asking the processor to fetch a cache line early.

/// Starts loading the cache line at `target`, which need not be a valid address, into every cache
/// level; does nothing on processors other than x86-64.
#[inline]
pub(crate) fn prefetch<T>(target: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads no memory as far as the program can observe and never faults,
        // whatever the address. Every x86-64 processor has the instruction (it is part of SSE).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(target.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}
