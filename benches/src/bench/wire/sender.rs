//! The generator's threads: one for each CPU that sends.

use std::os::unix::thread::JoinHandleExt;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use xdp_redirect::{Generator, GeneratorLoad, Pace};

use crate::{bench::pin::pin, lab::Namespace};

/// Longest time for threads to end.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Sends from a namespace, when told to. Dropping it stops the threads.
pub(crate) struct Sender {
    namespace: Namespace,
    generator: Generator,
    frame: Vec<u8>,
    load: GeneratorLoad,
    cpus: Vec<usize>,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Sender {
    /// A generator that sends `frame`s of many flows into the peer of an interface, once started.
    pub(crate) fn new(
        namespace: &Namespace,
        interface: u32,
        frame: Vec<u8>,
        flows: u32,
        cpus: Vec<usize>,
    ) -> Result<Self> {
        let mut generator = Generator::load()?;
        let ethernet = *frame
            .first_chunk()
            .context("the frame has no Ethernet header")?;
        generator.set_ethernet(ethernet)?;
        let load = GeneratorLoad {
            interface,
            flows,
            pace: Pace::Paused,
        };
        generator.set(&load)?;
        Ok(Self {
            namespace: namespace.clone(),
            generator,
            frame,
            load,
            cpus,
            threads: Vec::new(),
        })
    }

    /// Starts the threads, which send nothing yet but keep their CPUs busy.
    pub(crate) fn start(&mut self) -> Result<()> {
        make_interruptible()?;
        self.set_pace(Pace::Paused)?;
        for &cpu in &self.cpus {
            let runner = self.generator.runner();
            let frame = self.frame.clone();
            let thread = self.namespace.spawn_thread(move || -> Result<()> {
                pin(cpu)?;
                runner
                    .run(&frame)
                    .context("the kernel does not run the generator")
            })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Sets how fast all threads together send.
    pub(crate) fn set_pace(&mut self, pace: Pace) -> Result<()> {
        self.load.pace = match pace {
            Pace::Rate(rate) => Pace::Rate(rate / self.cpus.len().max(1) as u64),
            other => other,
        };
        Ok(self.generator.set(&self.load)?)
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> Result<u64> {
        Ok(self.generator.sent()?)
    }

    /// Packets that each thread has sent so far.
    pub(crate) fn sent_by_each(&self) -> Result<Vec<u64>> {
        let counts = self.cpus.iter().map(|&cpu| self.generator.sent_on(cpu));
        Ok(counts.collect::<Result<_, _>>()?)
    }

    /// Fails when a thread has ended that should be sending.
    pub(crate) fn check(&self) -> Result<()> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            bail!("a thread of the generator has ended");
        }
        Ok(())
    }

    /// Stops all threads, and says what was wrong with one.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut result = self.set_pace(Pace::Paused);
        for thread in self.threads.drain(..) {
            result = result.and(join(thread, deadline));
        }
        result
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.stop();
    }
}

/// Waits until a thread has ended. It is interrupted again and again: a signal that comes before the
/// kernel runs the generator interrupts nothing.
fn join(thread: JoinHandle<Result<Result<()>>>, deadline: Instant) -> Result<()> {
    while !thread.is_finished() {
        ensure!(Instant::now() < deadline, "the generator does not stop");
        // A thread that has just ended cannot be interrupted, and need not be.
        let _ = pthread_kill(thread.as_pthread_t(), Signal::SIGUSR1);
        std::thread::sleep(POLL_INTERVAL);
    }
    thread
        .join()
        .map_err(|_| anyhow!("a thread of the generator panicked"))
        .and_then(|in_namespace| in_namespace?)
}

/// Makes the signal that stops generators interrupt a system call instead of ending the process.
fn make_interruptible() -> Result<()> {
    static IS_HANDLED: Mutex<bool> = Mutex::new(false);
    let mut is_handled = IS_HANDLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_handled {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot handle a signal")?;
        let _guard = runtime.enter();
        // The handler stays when this is dropped, which is all that is wanted of it.
        drop(signal(SignalKind::user_defined1()).context("cannot handle a signal")?);
        *is_handled = true;
    }
    Ok(())
}
