//! How much of the flow tables' memory the kernel put on huge pages: it may refuse, and says nothing.

use std::fs;

use crate::memory::Bytes;

/// Flow tables of less are in the processor's caches anyway, with what leads to their pages.
const NEEDED_FROM: usize = 32 << 20;

/// Bytes of this process that are on transparent huge pages; `None` where the kernel does not say.
pub(super) fn in_use() -> Option<usize> {
    of_rollup(&fs::read_to_string("/proc/self/smaps_rollup").ok()?)
}

fn of_rollup(text: &str) -> Option<usize> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// What is to be said when large flow tables are mostly on ordinary pages.
pub(super) fn warning(flow_tables: usize, on_huge_pages: usize) -> Option<String> {
    if flow_tables < NEEDED_FROM || on_huge_pages >= flow_tables / 2 {
        return None;
    }
    Some(format!(
        "flow tables: {} of {} are on huge pages, which makes look-ups among many flows slower; allow them \
         with `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` and start again",
        Bytes(on_huge_pages),
        Bytes(flow_tables)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_kernel_counts_in_kibibytes() {
        let text = "AnonHugePages:     96256 kB\nShmemPmdMapped:        0 kB\n";
        assert_eq!(of_rollup(text), Some(94 * MIB));
        assert_eq!(of_rollup("Rss: 5 kB\n"), None);
    }

    #[test]
    fn large_tables_on_ordinary_pages_are_warned_of() {
        let text = warning(94 * MIB, 0).unwrap();
        assert!(
            text.starts_with("flow tables: 0 B of 94.0 MiB are on huge pages"),
            "{text}"
        );
        assert!(warning(94 * MIB, 46 * MIB).is_some());
        assert_eq!(warning(94 * MIB, 92 * MIB), None);
        assert_eq!(warning(20 * MIB, 0), None);
    }
}
