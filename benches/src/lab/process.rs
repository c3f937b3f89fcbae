//! Child processes that cannot outlive the lab.

use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time between two looks at a process that is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel sends the parent-death signal when the *thread* that forked ends, so one thread that
/// lives as long as this process forks for everybody.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<Request>();
    // Without the thread the receiver is dropped, and every request fails with an error.
    let _ = thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || {
            for (mut command, reply) in requests {
                // A requester that has gone drops the child's handle, not the child; it dies with us.
                let _ = reply.send(command.spawn());
            }
        });
    Mutex::new(sender)
});

/// A running child; dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command, usually one from [`Namespace::command`](super::Namespace::command).
    pub fn spawn(command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (reply, answer) = mpsc::sync_channel(1);
        SPAWNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((command, reply))
            .map_err(|_| anyhow!("the thread that starts processes is gone"))?;
        let child = answer
            .recv()
            .map_err(|_| anyhow!("the thread that starts processes is gone"))?
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's handle, for its pipes.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// The exit status if the process has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for the end of the process; an error when it takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} is still running after {timeout:?}", self.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks the process to end with SIGTERM and waits for it.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }
}

/// CPU time that the threads of a process have used. Threads that have ended do not count.
pub fn cpu_time(process: u32) -> Result<Duration> {
    cpu_time_of(process, |_| true)
}

/// The same of those threads whose name `counts`, by the nanoseconds that the scheduler gave them: the
/// first field of their schedstat files.
///
/// The times in their stat files are whole ticks for each thread, of which a handful are chance.
pub fn cpu_time_of(process: u32, counts: impl Fn(&str) -> bool) -> Result<Duration> {
    let mut spent = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        let read = |name: &str| match fs::read_to_string(task.join(name)) {
            Ok(text) => Ok(Some(text)),
            // It has ended since the folder was listed.
            Err(_) if !task.exists() => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error).context("CPU time cannot be read"),
        };
        let (Some(name), Some(times)) = (read("comm")?, read("schedstat")?) else {
            continue;
        };
        if !counts(name.trim_end()) {
            continue;
        }
        let ran = times
            .split_whitespace()
            .next()
            .context("an empty schedstat file")?;
        spent += Duration::from_nanos(ran.parse()?);
    }
    Ok(spent)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
