//! Large tables on huge pages, where the kernel gives them: a random look-up in a table of ordinary
//! pages costs a page walk on top of a cache miss.

use conntrack::filled_array;

/// `count` times a value. Ends the process when there is no memory, as any other allocation does.
pub(super) fn filled<T: Copy>(count: usize, value: T) -> Box<[T]> {
    filled_array(count, value).unwrap_or_else(|_| vec![value; count].into())
}

/// A copy.
pub(super) fn copied<T: Copy>(items: &[T]) -> Box<[T]> {
    let Some(first) = items.first() else {
        return Box::default();
    };
    let mut copy = filled(items.len(), *first);
    copy.copy_from_slice(items);
    copy
}
