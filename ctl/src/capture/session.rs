//! A capture as the commands see it: what was asked for, and how far it is.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{Request, writer::Writer};
use crate::admin::report::{CaptureReport, WorkerFailure};

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has all the packets it was to have.
    Limit,
    /// Somebody stopped it, or the balancer stopped.
    Stopped,
    /// The file could not be written.
    Failed(String),
}

/// What the writer tells and is told.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) packets: AtomicU64,
    /// Bytes of the file.
    pub(super) bytes: AtomicU64,
    pub(super) lost: AtomicU64,
    stop: AtomicBool,
    end: Mutex<Option<(End, Instant)>>,
    ended: Condvar,
}

impl Progress {
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn end(&self) -> MutexGuard<'_, Option<(End, Instant)>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, end: End) {
        *self.end() = Some((end, Instant::now()));
        self.ended.notify_all();
    }
}

/// One capture.
#[derive(Debug)]
pub(super) struct Session {
    request: Request,
    failed: Vec<WorkerFailure>,
    started: Instant,
    progress: Arc<Progress>,
    writer: Mutex<Option<Thread>>,
}

impl Session {
    pub(super) fn new(request: Request, failed: Vec<WorkerFailure>) -> Self {
        Self {
            request,
            failed,
            started: Instant::now(),
            progress: Arc::default(),
            writer: Mutex::default(),
        }
    }

    pub(super) const fn request(&self) -> &Request {
        &self.request
    }

    pub(super) const fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Has the writer write, on a thread of its own.
    pub(super) fn run(&self, writer: Writer) -> io::Result<()> {
        let progress = Arc::clone(&self.progress);
        let file = self.request.file.display().to_string();
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let end = writer.run();
                let packets = progress.packets.load(Ordering::Relaxed);
                match &end {
                    End::Failed(error) => {
                        tracing::error!(file, packets, error, "the capture ended early");
                    }
                    End::Limit | End::Stopped => tracing::info!(file, packets, "capture ended"),
                }
                progress.finish(end);
            })?;
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.progress.end().is_none()
    }

    pub(super) fn request_stop(&self) {
        self.progress.stop.store(true, Ordering::Release);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*writer {
            thread.unpark();
        }
    }

    /// Waits for the end; false when it does not come in time.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let end = self.progress.end();
        let waited = self
            .progress
            .ended
            .wait_timeout_while(end, patience, |end| end.is_none());
        let (end, _) = waited.unwrap_or_else(PoisonError::into_inner);
        end.is_some()
    }

    pub(super) fn report(&self) -> CaptureReport {
        let end = self.progress.end().clone();
        let (state, error, until) = match end {
            None if self.progress.stop_requested() => ("stopping", None, Instant::now()),
            None => ("running", None, Instant::now()),
            Some((End::Limit, at)) => ("complete", None, at),
            Some((End::Stopped, at)) => ("stopped", None, at),
            Some((End::Failed(error), at)) => ("failed", Some(error), at),
        };
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let elapsed = until.saturating_duration_since(self.started);
        CaptureReport {
            state: state.to_owned(),
            error,
            file: Some(self.request.file.display().to_string()),
            events: self
                .request
                .events
                .iter()
                .map(ToString::to_string)
                .collect(),
            limit: self.request.limit,
            snaplen: self.request.snaplen,
            packets: load(&self.progress.packets),
            bytes: load(&self.progress.bytes),
            lost: load(&self.progress.lost),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            failed: self.failed.clone(),
        }
    }
}
