//! A worker as the control plane sees it.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use dataplane::{counters::WorkerCounters, forward::Forwarder};

/// Runs on the worker between two bursts; takes the worker's clock in nanoseconds.
pub type Question = Box<dyn FnOnce(&mut Forwarder, u64) + Send>;

/// Why a worker did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many questions are waiting.
    #[error("it has too many questions waiting; try again")]
    Busy,
    /// It did not come to the question in time.
    #[error("it did not answer in time; try again, and look at `show workers`")]
    Timeout,
    /// It does not run any more.
    #[error("it does not run any more; restart katran-xsk")]
    Gone,
}

/// A worker's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketReport {
    /// `zero-copy` or `copy`.
    pub mode: String,
    /// Bytes of frames and rings.
    pub memory_bytes: u64,
    /// What the kernel counted, by name; empty when it could not be asked.
    pub statistics: Vec<(String, u64)>,
}

/// One worker.
pub trait Worker: Send + Sync {
    /// Its RX queue.
    fn queue(&self) -> u32;

    /// The CPU it is pinned to.
    fn cpu(&self) -> Option<usize>;

    /// Whether its thread runs.
    fn is_running(&self) -> bool;

    /// What it counts.
    fn counters(&self) -> &Arc<WorkerCounters>;

    /// Its AF_XDP socket, if it has one.
    fn socket(&self) -> Option<SocketReport>;

    /// Has it answer a question between two bursts; returns when it has, or after `timeout`.
    fn ask(&self, question: Question, timeout: Duration) -> Result<(), AskError>;
}

/// [`Worker::ask`] with an answer.
pub fn ask<R: Send + 'static>(
    worker: &dyn Worker,
    timeout: Duration,
    question: impl FnOnce(&mut Forwarder, u64) -> R + Send + 'static,
) -> Result<R, AskError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let question: Question = Box::new(move |forwarder, now_ns| {
        // Nobody is there to receive after a time-out.
        let _ = sender.try_send(question(forwarder, now_ns));
    });
    worker.ask(question, timeout)?;
    receiver.try_recv().map_err(|_| AskError::Gone)
}
