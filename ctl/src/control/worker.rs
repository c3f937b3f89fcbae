//! A worker with its socket, as the control plane holds them.

use std::{sync::Arc, time::Duration};

use dataplane::{
    capture::Monitor,
    counters::WorkerCounters,
    forward::Forwarder,
    worker::{AskError, WorkerHandle},
    xsk::SocketProbe,
};

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

/// One worker. Clones are the same worker.
#[derive(Clone, Debug)]
pub struct Worker {
    handle: Arc<WorkerHandle>,
    socket: Option<Socket>,
}

impl Worker {
    /// A worker and its socket; workers on memory have none.
    pub const fn new(handle: Arc<WorkerHandle>, socket: Option<Socket>) -> Self {
        Self { handle, socket }
    }

    /// Its RX queue.
    pub fn queue(&self) -> u32 {
        self.handle.queue()
    }

    /// The thread.
    pub const fn handle(&self) -> &Arc<WorkerHandle> {
        &self.handle
    }

    /// Its socket.
    pub const fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    /// What it counts.
    pub fn counters(&self) -> &WorkerCounters {
        self.handle.counters()
    }

    /// Has it copy packets for a capture, or stop to; returns the monitor it had.
    pub fn set_monitor(
        &self,
        monitor: Option<Box<Monitor>>,
    ) -> Result<Option<Box<Monitor>>, AskError> {
        self.handle.set_monitor(monitor, PATIENCE)
    }

    /// Has it answer a question between two bursts.
    pub fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Forwarder, u64) -> R + Send + 'static,
    ) -> Result<R, AskError> {
        self.handle.ask(question, PATIENCE)
    }
}
