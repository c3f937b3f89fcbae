//! Tasks that run in a namespace until their handle is dropped.

use std::sync::mpsc;

use anyhow::{Result, anyhow};
use tokio::sync::oneshot;

use crate::lab::Namespace;

use super::{raise_descriptor_limit, runtime};

/// A thread with an I/O runtime; dropping it ends the thread with all its tasks and sockets.
#[derive(Debug)]
pub(super) struct Background {
    _stop: oneshot::Sender<()>,
}

impl Background {
    /// Starts the thread and runs `begin` on it, which spawns the tasks.
    pub(super) fn start(
        namespace: &Namespace,
        begin: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        raise_descriptor_limit()?;
        let (stop, stopped) = oneshot::channel();
        let (report, outcome) = mpsc::sync_channel(1);
        namespace.spawn_thread(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    // Who does not listen any more has given up on the tasks.
                    let _ = report.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async {
                let begun = begin();
                let failed = begun.is_err();
                let _ = report.send(begun);
                if !failed {
                    // An error says that the handle was dropped, which is the way to stop.
                    let _ = stopped.await;
                }
            });
        })?;
        outcome
            .recv()
            .map_err(|_| anyhow!("a thread in namespace `{}` ended", namespace.name()))??;
        Ok(Self { _stop: stop })
    }
}
