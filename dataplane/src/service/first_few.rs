//! Showing sets that may have millions of elements.

use std::fmt;

/// Elements that are shown.
const SHOWN: usize = 8;

/// Shows the first of `len` elements as a list, and how many more there are.
pub(super) fn first_few<T: fmt::Debug>(
    f: &mut fmt::Formatter<'_>,
    elements: impl Iterator<Item = T>,
    len: usize,
) -> fmt::Result {
    let mut list = f.debug_list();
    list.entries(elements.take(SHOWN));
    if len > SHOWN {
        list.entry(&format_args!("and {} more", len - SHOWN));
    }
    list.finish()
}
