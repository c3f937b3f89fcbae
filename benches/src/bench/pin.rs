//! Which CPU a thread runs on.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    pin_process(Pid::from_raw(0), cpu)
}

/// Pins a thread of any process.
pub(crate) fn pin_process(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(thread, &set))
        .with_context(|| format!("cannot pin thread {thread} to CPU {cpu}"))
}
