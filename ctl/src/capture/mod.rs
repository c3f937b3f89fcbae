//! `capture start|stop|status`: packets that the workers copy, written to a file.
//!
//! One capture at a time. A thread of its own reads what the workers' monitors copied and writes it as
//! pcapng, until the limit is reached, somebody stops it, or the file cannot take more. Workers never
//! wait for it: what it is too slow for is counted as lost.

mod file;
mod pcapng;
mod session;
mod writer;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane::{
    capture::{Event, Monitor},
    forward::BURST,
    service::ServiceTable,
};

use self::{
    session::Session,
    writer::{Source, Writer},
};
use crate::{
    admin::{
        AdminError,
        report::{CaptureReport, WorkerFailure},
    },
    control::{NoAnswer, View},
};

/// Packets that a capture takes when nothing else is said.
pub const DEFAULT_LIMIT: u64 = 10_000;
/// Most packets that a capture can be told to take.
pub const MAX_LIMIT: u64 = 1_000_000_000;
/// Bytes of each packet that are kept when nothing else is said: as in Katran (katran-compat
/// section 1).
pub const DEFAULT_SNAPLEN: usize = 128;
/// Most bytes of a packet: more than any frame has.
pub const MAX_SNAPLEN: usize = 4096;
/// Least: an Ethernet header.
pub const MIN_SNAPLEN: usize = 14;

/// Events that a capture can have, as packets are held against each.
pub const MAX_EVENTS: usize = 64;

/// Memory for packets that wait for the writer, in bytes per worker.
const MEMORY: usize = 4 << 20;
/// What a packet takes besides its bytes, about.
const OVERHEAD: usize = 128;
/// How long `capture stop` waits for the last packets to be written.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Kinds of packets; one that is any of them is captured.
    pub events: Vec<Event>,
    /// Packets after which the capture ends, over all workers.
    pub limit: u64,
    /// Most bytes of each packet.
    pub snaplen: usize,
    /// Where they go.
    pub file: PathBuf,
    /// Replace the file if there is one.
    pub force: bool,
}

/// The capture that runs, or the last one.
#[derive(Debug, Default)]
pub struct Captures {
    session: Mutex<Option<Arc<Session>>>,
}

impl Captures {
    /// Starts a capture.
    ///
    /// # Errors
    ///
    /// One is running, a VIP does not exist, the file cannot be made, or no worker answers. Nothing
    /// is captured then.
    pub fn start(
        &self,
        request: Request,
        view: &View,
        interface: &str,
    ) -> Result<CaptureReport, AdminError> {
        let mut current = self.lock();
        if let Some(session) = current.as_ref().filter(|session| session.is_running()) {
            return Err(AdminError::new(
                "capture",
                format!("one is running, to {}", session.request().file.display()),
                "`capture stop` ends it",
            ));
        }
        for event in &request.events {
            refuse_unknown_vip(event, &view.table)?;
        }
        let (file, new_file) = file::create(&request.file, request.force)?;
        let count = snapshots(&request);
        let (mut sources, mut failed) = (Vec::new(), Vec::new());
        for worker in view.workers.iter() {
            let filter = request.events.iter().copied().collect();
            let (monitor, feed) = Monitor::new(filter, request.snaplen, count);
            match worker.set_monitor(Some(monitor)) {
                Ok(_) => sources.push(Source::new(worker.clone(), feed)),
                Err(NoAnswer::NoPackets) => return Err(no_packets()),
                Err(error) => failed.push(WorkerFailure {
                    worker: worker.queue(),
                    problem: error.to_string(),
                }),
            }
        }
        if sources.is_empty() {
            let reasons = failed
                .iter()
                .map(|failure| format!("; queue {}: {}", failure.worker, failure.problem));
            return Err(AdminError::new(
                "capture",
                format!("no worker answers{}", reasons.take(1).collect::<String>()),
                "look at `show workers`",
            ));
        }
        let session = Arc::new(Session::new(request, failed));
        let writer = Writer::new(file, interface, sources, &session);
        session.run(writer).map_err(|error| {
            AdminError::new(
                "capture",
                format!("no thread can be started to write it: {error}"),
                "",
            )
        })?;
        if let Err(error) = new_file.keep() {
            session.request_stop();
            // The workers let go of their monitors before another capture can give them new ones.
            session.wait(STOP_PATIENCE);
            return Err(error);
        }
        Ok(current.insert(session).report())
    }

    /// Ends the capture, once all that was captured is written. One that has ended by itself is told of
    /// once.
    ///
    /// # Errors
    ///
    /// There has been none, it was stopped before, or its file could not be written to its end.
    pub fn stop(&self) -> Result<CaptureReport, AdminError> {
        let nothing = |problem| AdminError::new("capture", problem, "`capture start` starts one");
        let Some(session) = self.last() else {
            return Err(nothing("there is none to stop".to_owned()));
        };
        if !session.is_running() && session.progress().stop_requested() {
            return Err(nothing(format!(
                "there is none to stop: that into {} was stopped before",
                session.request().file.display()
            )));
        }
        session.request_stop();
        if !session.wait(STOP_PATIENCE) {
            tracing::warn!(
                file = %session.request().file.display(),
                "the capture's file takes no more; it is left behind"
            );
        }
        let report = session.report();
        match report.error {
            Some(error) => Err(AdminError::new(
                "capture",
                format!(
                    "that into {} ended early: {error}; {} packets are in it",
                    session.request().file.display(),
                    report.packets
                ),
                "correct the cause, or name another file, and start another",
            )),
            None => Ok(report),
        }
    }

    /// How the capture is going, or how the last one ended.
    pub fn status(&self) -> CaptureReport {
        self.last()
            .map_or_else(CaptureReport::default, |session| session.report())
    }

    fn last(&self) -> Option<Arc<Session>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        // A session is put in whole.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Snapshots of each worker: as many as the capture can need, as far as they fit their memory.
fn snapshots(request: &Request) -> usize {
    let wanted = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let most = MEMORY / (request.snaplen + OVERHEAD);
    wanted.saturating_add(BURST).min(most).max(2 * BURST)
}

/// What the kernel decides, no worker sees.
fn no_packets() -> AdminError {
    AdminError::new(
        "capture",
        NoAnswer::NoPackets.to_string(),
        "use --datapath xsk, or tcpdump for what the kernel's stack gets",
    )
}

fn refuse_unknown_vip(event: &Event, table: &ServiceTable) -> Result<(), AdminError> {
    match event {
        Event::Vip(key) if table.find(key).is_none() => Err(AdminError::no_such_vip(key)),
        Event::Address(address) if !table.is_vip_address(*address) => Err(AdminError::new(
            "event",
            format!("there is no VIP with the address {address}"),
            "`vip list` names those there are",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_capture_that_failed_is_not_stopped_as_if_it_were_complete() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let request = Request {
            events: Vec::new(),
            limit: 10,
            snaplen: 128,
            file: "/captures/a.pcapng".into(),
            force: false,
        };
        let session = Arc::new(Session::new(request, Vec::new()));
        let writer = Writer::new(full, "eth0", Vec::new(), &session);
        session.run(writer).unwrap();
        let captures = Captures {
            session: Mutex::new(Some(session)),
        };
        let error = captures.stop().unwrap_err().to_string();
        for part in ["/captures/a.pcapng", "No space left", "0 packets"] {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
        let error = captures.stop().unwrap_err().to_string();
        assert!(error.contains("was stopped before"), "{error}");
        assert_eq!(captures.status().state, "failed");
    }
}
