//! Large arrays that are touched when they are made, on huge pages where the kernel gives them.

use std::collections::TryReserveError;

/// Bytes of a huge page on x86-64, and a multiple of the page size everywhere. Advice about less would
/// split the process's mappings for nothing.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// `count` copies of `value`, every page of them written to, on huge pages where the kernel gives them.
///
/// # Errors
///
/// There is not that much memory.
pub fn filled<T: Copy>(count: usize, value: T) -> Result<Box<[T]>, TryReserveError> {
    let mut items = Vec::new();
    items.try_reserve_exact(count)?;
    advise_huge_pages(items.spare_capacity_mut());
    items.resize(count, value);
    Ok(items.into_boxed_slice())
}

/// Asks for transparent huge pages behind `memory`. A random look-up in a table of ordinary pages costs a
/// page walk on top of a cache miss.
fn advise_huge_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        let bytes = memory.as_mut_ptr_range();
        let start = bytes.start.addr().next_multiple_of(HUGE_PAGE);
        let end = bytes.end.addr() / HUGE_PAGE * HUGE_PAGE;
        if start >= end {
            return;
        }
        let first = bytes.start.with_addr(start).cast();
        // SAFETY: the range lies within `memory`, which is borrowed for writing, and this advice
        // changes neither contents nor access rights of the pages.
        let advised = unsafe { madvise(first, end - start, Advice::LinuxHugepage) };
        // A kernel without huge pages refuses; ordinary pages do as well.
        let _ = advised;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
