//! What a worker and its handle share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use super::WorkerError;
use crate::{counters::Counter, port::Census};

/// How a worker ended.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Its queue.
    pub queue: u32,
    /// Where the chunks were at the end; `None` after a panic.
    pub census: Option<Census>,
    /// Why it ended; `None` when it was told to.
    pub error: Option<Arc<WorkerError>>,
}

/// Written by one side, read by the other.
#[derive(Debug, Default)]
pub(super) struct Status {
    stop: AtomicBool,
    /// Rounds of the loop.
    pub(super) rounds: Counter,
    report: OnceLock<WorkerReport>,
}

impl Status {
    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn finish(&self, report: WorkerReport) {
        // A worker ends once.
        let _ = self.report.set(report);
    }

    pub(super) fn report(&self) -> Option<&WorkerReport> {
        self.report.get()
    }
}
