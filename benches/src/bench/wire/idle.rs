//! How long a CPU was busy, to the nanosecond.
//!
//! /proc/stat counts in ticks of some milliseconds, and what threads ran for does not have interrupts in
//! it on every kernel. The kernel also adds up how long each CPU was idle, for its timers. All else is
//! busy: threads, interrupts, and what the kernel does behind them, whoever caused it.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::bench::pin::pin;

/// Times so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    now: Duration,
    idle: Duration,
}

/// Starts where a measurement starts.
#[derive(Debug)]
pub(crate) struct BusyWatch(Vec<(usize, Reading)>);

impl BusyWatch {
    /// Starts to watch these CPUs.
    pub(crate) fn start(cpus: &[usize]) -> Result<Self> {
        let readings = cpus.iter().map(|&cpu| Ok((cpu, read(cpu)?)));
        readings.collect::<Result<_>>().map(Self)
    }

    /// How long they were busy since, all together.
    pub(crate) fn stop(self) -> Result<Duration> {
        let mut busy = Duration::ZERO;
        for (cpu, before) in self.0 {
            let after = read(cpu)?;
            let idle = after.idle.saturating_sub(before.idle);
            busy += after.now.saturating_sub(before.now).saturating_sub(idle);
        }
        Ok(busy)
    }
}

/// Reads the times of a CPU from that CPU: while it is idle, what it has been idle for is not added yet.
fn read(cpu: usize) -> Result<Reading> {
    const PATH: &str = "/proc/timer_list";
    let work = move || {
        pin(cpu)?;
        let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
        of(&text, cpu).with_context(|| format!("{PATH} does not tell how long CPU {cpu} was idle"))
    };
    thread::spawn(work)
        .join()
        .map_err(|_| anyhow!("the thread that reads {PATH} panicked"))?
}

fn of(text: &str, cpu: usize) -> Option<Reading> {
    let now = text.lines().find_map(|line| line.strip_prefix("now at "))?;
    let heading = format!("cpu: {cpu}");
    let mut lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let mut of_cpu = lines.by_ref().take_while(|line| !line.starts_with("cpu: "));
    // In this order; with somebody waiting for a disk the CPU is idle, too.
    let mut field = |name: &str| {
        let value = of_cpu.find_map(|line| line.trim_start().strip_prefix(name))?;
        nanoseconds(value.trim_start().strip_prefix(':')?)
    };
    Some(Reading {
        now: nanoseconds(now)?,
        idle: field(".idle_sleeptime")? + field(".iowait_sleeptime")?,
    })
}

/// `N nsecs`.
fn nanoseconds(text: &str) -> Option<Duration> {
    let number = text.trim().strip_suffix("nsecs")?.trim_end();
    Some(Duration::from_nanos(number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::lab::requirements;

    const TEXT: &str = "Timer List Version: v0.10\nnow at 1000 nsecs\n\ncpu: 0\n \
        clock 0:\n  .idle_sleeptime : 1 nsecs\n  .iowait_sleeptime: 1 nsecs\n\ncpu: 1\n  .idle_active : 1\n  \
        .idle_sleeptime : 300 nsecs\n  .iowait_sleeptime: 40 nsecs\n\ncpu: 10\n  .idle_sleeptime : 9 nsecs\n  \
        .iowait_sleeptime: 0 nsecs\n";

    #[test]
    fn idle_time_is_found_by_cpu() {
        let reading = |idle| Reading {
            now: Duration::from_micros(1),
            idle: Duration::from_nanos(idle),
        };
        assert_eq!(of(TEXT, 0), Some(reading(2)));
        assert_eq!(of(TEXT, 1), Some(reading(340)));
        assert_eq!(of(TEXT, 10), Some(reading(9)));
        assert_eq!(of(TEXT, 2), None);
        assert_eq!(of("now at 1000 nsecs\ncpu: 0\n", 0), None);
    }

    #[test]
    fn a_cpu_on_which_a_thread_spins_is_busy() {
        if !requirements::met_or_skip("a_cpu_on_which_a_thread_spins_is_busy", &[]) {
            return;
        }
        let (watch, spun) = thread::spawn(|| {
            let cpu = nix::sched::sched_getcpu().expect("a CPU");
            pin(cpu).expect("allowed");
            let watch = BusyWatch::start(&[cpu]).expect("idle times");
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(20) {}
            (watch, Duration::from_millis(20))
        })
        .join()
        .expect("no panic");
        let busy = watch.stop().expect("idle times");
        assert!(busy >= spun, "{busy:?}");
    }
}
