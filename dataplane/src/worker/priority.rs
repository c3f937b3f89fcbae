//! How the scheduler ranks a worker's thread.
//!
//! Where a worker shares its CPU with the thread that receives for the kernel (threaded NAPI,
//! ksoftirqd), equal rank makes overload worse than it is: the kernel goes on receiving what the
//! worker then has no time to send. A worker that outranks that thread finishes what it has first, and
//! what is too much is lost before anything was spent on it. That is safe only because a worker sleeps
//! when its queue is empty, and because the kernel limits real-time threads
//! (`kernel.sched_rt_runtime_us`; kernel documentation, scheduler/sched-rt-group).

use std::{fmt, io, thread};

use thread_priority::{
    Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The lowest of the 99 real-time priorities: before all ordinary threads, and behind every other
/// real-time thread of the host.
const REAL_TIME: u8 = 1;

/// A worker's rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// That of an ordinary thread (`SCHED_OTHER`).
    #[default]
    Normal,
    /// Before all ordinary threads (`SCHED_FIFO`). Takes `CAP_SYS_NICE`, or a limit `RLIMIT_RTPRIO`
    /// above zero.
    RealTime,
}

impl Priority {
    /// Name as configuration files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::RealTime => "rt",
        }
    }

    /// Gives this rank to the calling thread. An ordinary thread stays as it is.
    pub(super) fn take(self) -> io::Result<()> {
        if self == Self::Normal {
            return Ok(());
        }
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        ThreadPriority::try_from(REAL_TIME)
            .map_err(io::Error::other)
            .and_then(|priority| {
                set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(
                    |error| match error {
                        Error::OS(number) => io::Error::from_raw_os_error(number),
                        other => io::Error::other(format!("{other:?}")),
                    },
                )
            })
    }

    /// Whether a thread of this process can have this rank: one tries and ends.
    pub fn probe(self) -> io::Result<()> {
        thread::spawn(move || self.take())
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that tried panicked")))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
