//! What can go wrong with a worker.

use std::{any::Any, io};

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The process may not use the CPU.
    #[error(
        "worker of queue {queue}: cpu {cpu} is not among those this process may use ({}); choose one \
         of them, or widen the process's CPU set",
        list(allowed)
    )]
    Cpu {
        /// The worker's queue.
        queue: u32,
        /// The CPU asked for.
        cpu: usize,
        /// CPUs that can be used.
        allowed: Vec<usize>,
    },
    /// Pinning failed although the CPU was allowed a moment ago.
    #[error("worker of queue {queue}: cannot be pinned to cpu {cpu}; was the CPU taken offline?")]
    Pin {
        /// The worker's queue.
        queue: u32,
        /// The CPU asked for.
        cpu: usize,
    },
    /// The scheduler gives the thread no such priority.
    #[error(
        "worker of queue {queue}: cannot have real-time priority: {source}; give the program \
         CAP_SYS_NICE, or its workers normal priority"
    )]
    Priority {
        /// The worker's queue.
        queue: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// No thread or no descriptor to be had.
    #[error("worker of queue {queue}: cannot be started: {source}")]
    Start {
        /// The worker's queue.
        queue: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The queue is gone with its interface.
    #[error(
        "worker of queue {queue}: the interface was removed, or moved to another network namespace \
         ({source}); start again once it is back"
    )]
    Removed {
        /// The worker's queue.
        queue: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The queue is gone, and nothing is known of its interface's end.
    #[error(
        "worker of queue {queue}: the socket failed ({source}); restart katran-xsk, and see what the \
         kernel's log says of the driver"
    )]
    Queue {
        /// The worker's queue.
        queue: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// A bug.
    #[error("worker of queue {queue}: panicked: {message}; please report this")]
    Panicked {
        /// The worker's queue.
        queue: u32,
        /// What the panic said.
        message: String,
    },
}

impl WorkerError {
    pub(super) fn panicked(queue: u32, panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Self::Panicked { queue, message }
    }
}

fn list(cpus: &[usize]) -> String {
    let cpus: Vec<_> = cpus.iter().map(ToString::to_string).collect();
    cpus.join(", ")
}

/// Why a worker did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many questions are waiting.
    #[error("the worker has too many questions waiting; try again")]
    Busy,
    /// The worker did not come to the end of the question in time. It will not go on with it.
    #[error("the worker did not answer in time; try again")]
    Timeout,
    /// The worker does not run any more.
    #[error("the worker does not run any more")]
    Gone,
}
