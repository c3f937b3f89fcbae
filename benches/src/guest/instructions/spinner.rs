//! A thread that runs whenever nothing else does, and knows how many instructions that takes.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Steps of a block, the unit that is counted.
const STEPS: u32 = 200;
/// Blocks of a window while the cost of one is found out, and windows: some of them see no interrupt.
const WINDOW: u32 = 500;
const WINDOWS: u32 = 500;

/// The thread. Dropping it ends it.
pub(super) struct Spinner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Nanoseconds of the machine's clock, which are instructions, that a block takes.
    block: f64,
}

#[derive(Default)]
struct Shared {
    blocks: AtomicU64,
    stop: AtomicBool,
}

/// A moment: what the clock says and how far the thread has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    clock: Instant,
    blocks: u64,
}

impl Spinner {
    /// Finds out what a block takes, and starts.
    pub(super) fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let block = (0..WINDOWS)
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..WINDOW {
                    shared.block();
                }
                begun.elapsed().as_nanos() as f64 / f64::from(WINDOW)
            })
            .reduce(f64::min)
            .context("no window")?;
        shared.blocks.store(0, Ordering::Relaxed);
        let inner = Arc::clone(&shared);
        let (report, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("spinner".to_owned())
            .spawn(move || {
                let ranked = set_thread_priority_and_policy(
                    thread_native_id(),
                    ThreadPriority::Min,
                    ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle),
                );
                let ranked = ranked.map_err(|error| anyhow!("SCHED_IDLE is refused: {error:?}"));
                let failed = ranked.is_err();
                // Who does not listen any more has given up.
                let _ = report.send(ranked);
                while !failed && !inner.stop.load(Ordering::Relaxed) {
                    inner.block();
                }
            })?;
        let spinner = Self {
            shared,
            thread: Some(thread),
            block,
        };
        outcome.recv().context("the spinner ended")??;
        Ok(spinner)
    }

    /// Nanoseconds of a block.
    pub(super) const fn block(&self) -> f64 {
        self.block
    }

    pub(super) fn now(&self) -> Moment {
        Moment {
            clock: Instant::now(),
            blocks: self.shared.blocks.load(Ordering::Relaxed),
        }
    }

    /// Instructions since a moment that were not this thread's.
    pub(super) fn others_since(&self, begin: Moment) -> f64 {
        let end = self.now();
        let all = (end.clock - begin.clock).as_nanos() as f64;
        all - (end.blocks - begin.blocks) as f64 * self.block
    }
}

impl Shared {
    #[inline(never)]
    fn block(&self) {
        for step in 0..STEPS {
            black_box(step);
        }
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}
