//! A worker as the control plane holds it.

use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam::channel::{RecvTimeoutError, Sender, TrySendError, bounded};

use super::{
    AskError, Priority, WorkerConfig, WorkerError, WorkerReport,
    status::Status,
    tasks::{Asked, Task},
    waker::Waker,
};
use crate::{capture::Monitor, counters::WorkerCounters, forward::Forwarder};

/// A running worker. Dropping the handle stops it.
pub struct WorkerHandle {
    config: WorkerConfig,
    counters: Arc<WorkerCounters>,
    status: Arc<Status>,
    tasks: Sender<Task>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WorkerHandle {
    pub(super) fn new(
        config: &WorkerConfig,
        counters: Arc<WorkerCounters>,
        status: Arc<Status>,
        tasks: Sender<Task>,
        waker: Waker,
        thread: JoinHandle<()>,
    ) -> Self {
        Self {
            config: config.clone(),
            counters,
            status,
            tasks,
            waker,
            thread: Mutex::new(Some(thread)),
        }
    }

    /// Its queue.
    pub const fn queue(&self) -> u32 {
        self.config.queue
    }

    /// The CPU it is pinned to.
    pub const fn cpu(&self) -> Option<usize> {
        self.config.cpu
    }

    /// How the scheduler ranks its thread.
    pub const fn priority(&self) -> Priority {
        self.config.priority
    }

    /// What it counts.
    pub const fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Whether it runs. When it does not, its port is closed already.
    pub fn is_running(&self) -> bool {
        self.status.report().is_none()
    }

    /// Why it does not run any more, unless it was told to stop.
    pub fn error(&self) -> Option<Arc<WorkerError>> {
        self.status.report()?.error.clone()
    }

    /// Rounds of its loop so far: grows while there is traffic, about once a second without.
    pub fn rounds(&self) -> u64 {
        self.status.rounds.get()
    }

    /// Gets the worker out of its sleep, for example to pick up a new service table before the next
    /// frame arrives.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Runs `question` on the worker between two bursts and returns its answer. The second argument
    /// of the question is the worker's clock in nanoseconds.
    pub fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Forwarder, u64) -> R + Send + 'static,
        timeout: Duration,
    ) -> Result<R, AskError> {
        let mut question = Some(question);
        self.ask_steps(
            move |forwarder, now_ns| match question.take() {
                Some(question) => ControlFlow::Break(question(forwarder, now_ns)),
                None => ControlFlow::Continue(()),
            },
            timeout,
        )
    }

    /// Runs `step` on the worker, once per round of its loop, until it breaks with the answer. For
    /// walks over the flow table: each step should take microseconds.
    ///
    /// After a time-out the worker takes no further step.
    pub fn ask_steps<R: Send + 'static>(
        &self,
        mut step: impl FnMut(&mut Forwarder, u64) -> ControlFlow<R> + Send + 'static,
        timeout: Duration,
    ) -> Result<R, AskError> {
        self.submit(move |asked| step(asked.forwarder, asked.now_ns), timeout)
    }

    /// Has the worker copy its packets for a capture, or stop to. Returns the monitor it had. A
    /// monitor that is left to the worker would be freed between two bursts.
    ///
    /// # Errors
    ///
    /// The worker did not answer. It has then neither taken nor given up a monitor, unless that
    /// happened at the very moment of the time-out.
    pub fn set_monitor(
        &self,
        monitor: Option<Box<Monitor>>,
        timeout: Duration,
    ) -> Result<Option<Box<Monitor>>, AskError> {
        let mut monitor = Some(monitor);
        self.submit(
            move |asked| match monitor.take() {
                Some(monitor) => ControlFlow::Break(std::mem::replace(asked.monitor, monitor)),
                None => ControlFlow::Continue(()),
            },
            timeout,
        )
    }

    fn submit<R: Send + 'static>(
        &self,
        mut step: impl FnMut(Asked<'_>) -> ControlFlow<R> + Send + 'static,
        timeout: Duration,
    ) -> Result<R, AskError> {
        let (sender, answer) = bounded(1);
        let abandoned = Arc::new(AtomicBool::new(false));
        let task: Task = {
            let abandoned = Arc::clone(&abandoned);
            Box::new(move |asked| {
                if abandoned.load(Ordering::Relaxed) {
                    return ControlFlow::Break(());
                }
                step(asked).map_break(|answer| {
                    // Nobody receives it when the time is over.
                    let _ = sender.try_send(answer);
                })
            })
        };
        self.tasks.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Gone,
        })?;
        self.waker.wake();
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                abandoned.store(true, Ordering::Relaxed);
                AskError::Timeout
            }
            RecvTimeoutError::Disconnected => AskError::Gone,
        })
    }

    /// Tells the worker to stop, without waiting. Take its socket out of the XDP program's map
    /// first, so that nothing arrives that nobody will send.
    pub fn request_stop(&self) {
        self.status.request_stop();
        self.waker.wake();
    }

    /// Stops the worker and waits for its end: what was received is forwarded, what is being sent
    /// gets up to 100 ms to leave, then the port is closed. Returns the same report again when
    /// called again.
    pub fn stop(&self) -> WorkerReport {
        self.request_stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panics are in the report.
            let _ = thread.join();
        }
        self.status.report().cloned().unwrap_or(WorkerReport {
            queue: self.config.queue,
            census: None,
            error: None,
        })
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("config", &self.config)
            .field("report", &self.status.report())
            .finish_non_exhaustive()
    }
}
