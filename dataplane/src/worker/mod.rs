//! The thread that moves frames between a queue and its forwarder.
//!
//! One round of the loop ([`Engine::round`]): a new service table, if there is one (an atomic load
//! when there is none); completions back to the free list; a burst from the RX ring through the
//! forwarder to the TX ring, the kernel or the free list; the free list to the fill ring; one step
//! of what the control plane asked. After a round without frames the worker sleeps in poll, until a
//! frame arrives, the control plane calls, or for a second.
//!
//! - While the TX ring is full nothing more is received: overload stays in the RX ring, where the
//!   kernel counts what it has to drop, instead of starving the transmission of what was received.
//!   After about 10 ms without progress the frames in hand are dropped as
//!   [`TxStalled`](crate::counters::DropReason::TxStalled).
//! - While traffic flows the loop neither allocates nor locks nor logs. Exceptions, each caused by
//!   the control plane or a fault: a step of a question may do what it likes, and its closure is
//!   freed; a frame that goes to the kernel costs a system call; lost frames are logged once.
//! - About once a second the worker asks whether the queue is still there, counts the chunks, and
//!   calls the driver if a direction stands still ([`Engine::check`]).
//! - A swapped-out table is not freed here; the [`Publisher`](crate::service::Publisher) keeps it.

mod clock;
mod decision;
mod engine;
mod error;
mod handle;
mod priority;
mod status;
mod tasks;
mod waker;
mod watchdog;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use core_affinity::CoreId;
use crossbeam::channel::bounded;

pub use clock::now_ns;
pub use decision::{Balance, Decision};
pub use engine::{Engine, Round};
pub use error::{AskError, WorkerError};
pub use handle::WorkerHandle;
pub use priority::Priority;
pub use status::WorkerReport;

use self::{status::Status, waker::Waker};
use crate::{
    forward::Forwarder,
    port::{PassPath, QueuePort},
    service::Subscription,
};

/// What a worker is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Its queue; names the thread `kx-worker-N`.
    pub queue: u32,
    /// CPU to run on, as `/proc/cpuinfo` numbers them; any when left out.
    pub cpu: Option<usize>,
    /// How long to look for frames after the last one before sleeping. Not at all when left out.
    pub spin: Option<Duration>,
    /// How the scheduler ranks its thread.
    pub priority: Priority,
}

/// Starts a worker. Returns once its thread runs, is pinned, has its priority and has given its chunks
/// to the kernel.
pub fn spawn<P>(
    config: &WorkerConfig,
    port: P,
    forwarder: Forwarder,
    subscription: Subscription,
    pass: Box<dyn PassPath + Send>,
) -> Result<WorkerHandle, WorkerError>
where
    P: QueuePort + Send + 'static,
    P::Chunk: Send,
{
    spawn_deciding(config, port, forwarder, subscription, pass, Balance)
}

/// As [`spawn`], with something else to decide instead of the forwarder.
pub fn spawn_deciding<P, D>(
    config: &WorkerConfig,
    port: P,
    forwarder: Forwarder,
    subscription: Subscription,
    pass: Box<dyn PassPath + Send>,
    decision: D,
) -> Result<WorkerHandle, WorkerError>
where
    P: QueuePort + Send + 'static,
    P::Chunk: Send,
    D: Decision + Send + 'static,
{
    let WorkerConfig {
        queue,
        cpu,
        priority,
        ..
    } = *config;
    let cannot_start = |source| WorkerError::Start { queue, source };
    let core = cpu.map(|cpu| allowed_core(queue, cpu)).transpose()?;
    let counters = Arc::clone(forwarder.counters());
    let waker = Waker::new().map_err(cannot_start)?;
    let status = Arc::new(Status::default());
    let (tasks, incoming) = tasks::channel();
    let mut engine = Engine::assemble(
        config,
        port,
        forwarder,
        subscription,
        pass,
        incoming,
        decision,
    );
    let (started, start) = bounded(1);

    let thread = {
        let (status, waker) = (Arc::clone(&status), waker.clone());
        let body = move || {
            let placed = if core.is_none_or(core_affinity::set_for_current) {
                priority
                    .take()
                    .map_err(|source| WorkerError::Priority { queue, source })
            } else {
                Err(WorkerError::Pin {
                    queue,
                    cpu: cpu.unwrap_or_default(),
                })
            };
            let is_placed = placed.is_ok();
            // The receiver waits for this.
            let _ = started.send(placed);
            if !is_placed {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(|| {
                let error = engine.run(&status, &waker).err().map(|source| {
                    if engine.interface_removed() {
                        WorkerError::Removed { queue, source }
                    } else {
                        WorkerError::Queue { queue, source }
                    }
                });
                (engine.close(), error)
            }));
            let (census, error) = match result {
                Ok((census, error)) => (Some(census), error),
                Err(panic) => (None, Some(WorkerError::panicked(queue, &*panic))),
            };
            if let Some(error) = &error {
                tracing::error!(queue, %error, "worker stopped");
            }
            status.finish(WorkerReport {
                queue,
                census,
                error: error.map(Arc::new),
            });
        };
        thread::Builder::new()
            .name(format!("kx-worker-{queue}"))
            .spawn(body)
            .map_err(cannot_start)?
    };
    start.recv().unwrap_or_else(|_| {
        let ended = io::Error::other("its thread ended at once");
        Err(cannot_start(ended))
    })?;
    Ok(WorkerHandle::new(
        config, counters, status, tasks, waker, thread,
    ))
}

/// The CPU, if this process may run on it.
fn allowed_core(queue: u32, cpu: usize) -> Result<CoreId, WorkerError> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    allowed
        .iter()
        .find(|core| core.id == cpu)
        .copied()
        .ok_or_else(|| WorkerError::Cpu {
            queue,
            cpu,
            allowed: allowed.iter().map(|core| core.id).collect(),
        })
}
