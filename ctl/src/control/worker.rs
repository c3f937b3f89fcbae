//! A worker as the control plane holds it: a thread with its socket, or a CPU that runs the balancer in
//! the kernel.

use std::{sync::Arc, time::Duration};

use dataplane::{
    capture::Monitor,
    counters::WorkerCounters,
    forward::{FlowId, Forwarder},
    worker::{AskError, WorkerHandle},
    xsk::SocketProbe,
};

use super::kernel::KernelCpu;

/// A worker sleeps until it is asked, and a burst takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// A worker's `AF_XDP` socket.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Frames are shared with the driver instead of copied.
    pub zero_copy: bool,
    /// Bytes of frames and rings.
    pub memory_bytes: usize,
    /// Reads the kernel's statistics.
    pub probe: SocketProbe,
}

/// Why a worker did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Its thread did not.
    #[error(transparent)]
    Thread(#[from] AskError),
    /// Its flow table lies in the kernel and cannot be used.
    #[error("the flow table in the kernel cannot be used: {0}")]
    Kernel(String),
    /// Its packets are nowhere to be copied from.
    #[error("--datapath kernel shows no packets to this process")]
    NoPackets,
}

/// One worker. Clones are the same worker.
#[derive(Clone, Debug)]
pub struct Worker(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Thread {
        handle: Arc<WorkerHandle>,
        socket: Option<Socket>,
    },
    Kernel(KernelCpu),
}

impl Worker {
    /// A worker's thread and its socket; workers on memory have none.
    pub const fn new(handle: Arc<WorkerHandle>, socket: Option<Socket>) -> Self {
        Self(Kind::Thread { handle, socket })
    }

    /// What a CPU does in the kernel.
    pub const fn kernel(cpu: KernelCpu) -> Self {
        Self(Kind::Kernel(cpu))
    }

    /// The thread, of a worker that is one.
    pub const fn thread(&self) -> Option<&Arc<WorkerHandle>> {
        match &self.0 {
            Kind::Thread { handle, .. } => Some(handle),
            Kind::Kernel(_) => None,
        }
    }

    /// Its RX queue; of a CPU its number.
    pub fn queue(&self) -> u32 {
        match &self.0 {
            Kind::Thread { handle, .. } => handle.queue(),
            Kind::Kernel(kernel) => kernel.cpu(),
        }
    }

    /// The CPU it runs on, if on one only.
    pub fn cpu(&self) -> Option<usize> {
        match &self.0 {
            Kind::Thread { handle, .. } => handle.cpu(),
            Kind::Kernel(kernel) => Some(kernel.cpu() as usize),
        }
    }

    /// How the scheduler ranks it: `rt` or `normal`; the kernel's own work is `softirq`.
    pub fn priority(&self) -> String {
        self.thread().map_or_else(
            || "softirq".to_owned(),
            |handle| handle.priority().to_string(),
        )
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.thread().is_none_or(|handle| handle.is_running())
    }

    /// Why it does not run any more, unless it was told to stop.
    pub fn error(&self) -> Option<String> {
        let error = self.thread()?.error()?;
        Some(error.to_string())
    }

    /// Gets it to look for a new service table.
    pub fn wake(&self) {
        if let Some(handle) = self.thread() {
            handle.wake();
        }
    }

    /// Its socket.
    pub const fn socket(&self) -> Option<&Socket> {
        match &self.0 {
            Kind::Thread { socket, .. } => socket.as_ref(),
            Kind::Kernel(_) => None,
        }
    }

    /// How frames reach it: `zero-copy`, `copy` or `kernel`; nothing without a socket.
    pub const fn mode(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Kernel(_) => Some("kernel"),
            Kind::Thread {
                socket: Some(socket),
                ..
            } => Some(if socket.zero_copy {
                "zero-copy"
            } else {
                "copy"
            }),
            Kind::Thread { socket: None, .. } => None,
        }
    }

    /// What it counts. Those of a CPU are as [`super::Control::view`] found them.
    pub fn counters(&self) -> &WorkerCounters {
        match &self.0 {
            Kind::Thread { handle, .. } => handle.counters(),
            Kind::Kernel(kernel) => kernel.counters(),
        }
    }

    /// Whether it counts what `name` says, of [`WorkerCounters::ROWS`].
    pub fn counts(&self, name: &str) -> bool {
        self.thread().is_some() || KernelCpu::counts(name)
    }

    /// Whether its flows are those of all workers: the balancer in the kernel has one table.
    pub const fn shares_flows(&self) -> bool {
        self.thread().is_none()
    }

    /// Bytes of its flow tables.
    pub fn flow_table_bytes(&self) -> Result<usize, NoAnswer> {
        match &self.0 {
            Kind::Thread { .. } => self.ask(|forwarder, _| forwarder.memory_bytes()),
            Kind::Kernel(kernel) => Ok(kernel.flow_table_bytes()),
        }
    }

    /// Has it copy packets for a capture, or stop to; returns the monitor it had.
    pub fn set_monitor(
        &self,
        monitor: Option<Box<Monitor>>,
    ) -> Result<Option<Box<Monitor>>, NoAnswer> {
        let handle = self.thread().ok_or(NoAnswer::NoPackets)?;
        Ok(handle.set_monitor(monitor, PATIENCE)?)
    }

    /// Has it answer a question about all its flows. A thread answers between two bursts; of the kernel's
    /// flows, which are those of all CPUs, a copy is made first.
    pub fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Forwarder, u64) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        match &self.0 {
            Kind::Thread { handle, .. } => Ok(handle.ask(question, PATIENCE)?),
            Kind::Kernel(kernel) => kernel.copy_flows()?.answer(question),
        }
    }

    /// Has it answer a question about one flow.
    pub fn ask_about<R: Send + 'static>(
        &self,
        id: &FlowId,
        question: impl FnOnce(&mut Forwarder, u64) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        match &self.0 {
            Kind::Thread { handle, .. } => Ok(handle.ask(question, PATIENCE)?),
            Kind::Kernel(kernel) => kernel.copy_flow(id)?.answer(question),
        }
    }

    /// Runs one step of a walk over its flows after the other until a step returns no next cursor, or
    /// what it found is enough.
    pub fn walk<R, S>(
        &self,
        step: impl FnMut(usize) -> S,
        collect: impl FnMut(R) -> bool,
    ) -> Result<(), NoAnswer>
    where
        R: Send + 'static,
        S: FnOnce(&mut Forwarder, u64) -> (R, Option<usize>) + Send + 'static,
    {
        match &self.0 {
            Kind::Thread { handle, .. } => {
                let ask = |step| Ok(handle.ask(step, PATIENCE)?);
                in_steps(step, collect, ask)
            }
            Kind::Kernel(kernel) => kernel.copy_flows()?.answer(|forwarder, now_ns| {
                in_steps(step, collect, |step: S| Ok(step(forwarder, now_ns)))
            })?,
        }
    }
}

fn in_steps<R, S>(
    mut step: impl FnMut(usize) -> S,
    mut collect: impl FnMut(R) -> bool,
    mut ask: impl FnMut(S) -> Result<(R, Option<usize>), NoAnswer>,
) -> Result<(), NoAnswer> {
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let (found, next) = ask(step(at))?;
        if !collect(found) {
            break;
        }
        cursor = next;
    }
    Ok(())
}
