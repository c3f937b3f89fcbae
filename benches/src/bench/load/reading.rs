//! CPU time that has gone by on this machine, and whose it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::param::clock_ticks_per_second;

/// Names of the kernel's threads that do the work of a measured device: they receive for it, and take
/// over when there is too much to do in interrupts.
const DEVICE_THREADS: [&str; 2] = ["napi/kb", "ksoftirqd/"];

/// CPU time so far.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) cpus: u32,
    /// Unit of what /proc/stat counts.
    pub(super) tick: Duration,
    /// Of all programs and threads, whether in user mode or in the kernel.
    pub(super) programs: Duration,
    /// Of interrupts, and of what the kernel does behind them.
    pub(super) interrupts: Duration,
    /// Taken by the hypervisor.
    pub(super) stolen: Duration,
    /// Of this process, also of threads that have ended, and of the devices' threads.
    pub(super) own: Duration,
    /// Every other thread, by its id.
    pub(super) threads: BTreeMap<i32, Thread>,
}

/// A thread of somebody else.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// Its name with its id.
    pub(super) name: String,
    /// What it has run for.
    pub(super) spent: Duration,
}

impl Reading {
    /// Reads all there is to know.
    pub(super) fn take() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let counted = Counted::of(&text).context("/proc/stat has no line for all CPUs")?;
        let tick = Duration::from_secs(1) / clock_ticks_per_second() as u32;
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot read the CPU time")?;
        let own = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let mut reading = Self {
            at: Instant::now(),
            cpus: counted.cpus,
            tick,
            programs: counted.programs,
            interrupts: counted.interrupts,
            stolen: counted.stolen,
            own: Duration::from_micros(own.unsigned_abs()),
            threads: BTreeMap::new(),
        };
        reading.add_threads()?;
        Ok(reading)
    }

    fn add_threads(&mut self) -> Result<()> {
        for process in numbered(Path::new("/proc")).context("cannot list processes")? {
            if process.unsigned_abs() == std::process::id() {
                continue;
            }
            let folder = Path::new("/proc").join(process.to_string()).join("task");
            // Whoever has ended since is told by the ticks.
            for id in numbered(&folder).unwrap_or_default() {
                let read = |file| fs::read_to_string(folder.join(id.to_string()).join(file));
                let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else {
                    continue;
                };
                let spent = ran(&times).context("a schedstat file does not begin with a time")?;
                let name = name.trim_end();
                if DEVICE_THREADS.iter().any(|own| name.starts_with(own)) {
                    self.own += spent;
                } else {
                    let name = format!("{name} ({id})");
                    self.threads.insert(id, Thread { name, spent });
                }
            }
        }
        Ok(())
    }
}

/// Entries of a folder that are numbers.
fn numbered(folder: &Path) -> std::io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<i32>().ok()),
        );
    }
    Ok(numbers)
}

/// First field of a thread's schedstat file: how long it ran, in nanoseconds.
fn ran(schedstat: &str) -> Option<Duration> {
    let field = schedstat.split_whitespace().next()?;
    Some(Duration::from_nanos(field.parse().ok()?))
}

/// What /proc/stat counts for all CPUs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    cpus: u32,
    programs: Duration,
    interrupts: Duration,
    stolen: Duration,
}

impl Counted {
    fn of(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = fields.as_slice()
        else {
            return None;
        };
        let time =
            |ticks: u64| Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64);
        let cpus = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        Some(Self {
            cpus: cpus as u32,
            programs: time(user + nice + system),
            interrupts: time(irq + softirq),
            stolen: time(stolen),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_all_cpus_is_read() {
        let second = clock_ticks_per_second();
        let text = format!(
            "cpu  {second} {second} {second} 6 7 {second} {second} {second} 0 0\n\
             cpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\nintr 9\n"
        );
        let expected = Counted {
            cpus: 2,
            programs: Duration::from_secs(3),
            interrupts: Duration::from_secs(2),
            stolen: Duration::from_secs(1),
        };
        assert_eq!(Counted::of(&text), Some(expected));
        assert_eq!(Counted::of("cpu0 1 2 3 4 5 6 7 8 0 0\n"), None);
        assert_eq!(Counted::of("cpu  1 2 3\n"), None);
    }

    #[test]
    fn times_of_threads_are_read() {
        assert_eq!(ran("80442 37675 1\n"), Some(Duration::from_nanos(80_442)));
        assert_eq!(ran(""), None);
    }

    #[test]
    fn another_process_is_somebody_else_and_this_one_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("a process");
        let reading = Reading::take();
        child.kill().expect("ours");
        child.wait().expect("ours");
        let threads = reading.expect("/proc").threads;
        assert!(threads.contains_key(&child.id().cast_signed()));
        let own = nix::unistd::gettid().as_raw();
        assert!(!threads.contains_key(&own));
    }
}
