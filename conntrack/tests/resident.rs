//! The table's memory is not only reserved but backed by pages once the table is made.
#![cfg(target_os = "linux")]

use conntrack::{FlowKeyV4, FlowKeyV6, FlowTable};

/// Bytes of this process that are in memory, from the `VmRSS` line of its status.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<usize>().unwrap() * 1024
}

#[test]
fn all_memory_is_touched_at_construction() {
    let before = resident();
    let v4 = FlowTable::<FlowKeyV4>::new(1 << 19, [1, 2, 3, 4]).unwrap();
    let v6 = FlowTable::<FlowKeyV6>::new(1 << 19, [1, 2, 3, 4]).unwrap();
    let gained = resident() - before;
    let expected = v4.memory_bytes() + v6.memory_bytes();
    // The kernel batches its count of resident pages per thread, so it lags a little.
    assert!(
        gained > expected - (4 << 20),
        "{gained} bytes of {expected} are resident"
    );
}
