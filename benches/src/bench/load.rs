//! Whether the machine was busy with something else while it measured.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::param::clock_ticks_per_second;

/// Share of one CPU's time above which a hypervisor that takes it, or a scheduler that gives it to
/// somebody else, disturbs a measurement.
const LIMIT_OWN: f64 = 0.03;
/// Share of one CPU's time above which programs of others do so, on whatever CPU: they share caches
/// and memory with the measured ones.
const LIMIT_OTHERS: f64 = 0.25;

/// CPU time so far.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// Of user-mode code of all processes.
    user: Duration,
    /// Taken by the hypervisor.
    stolen: Duration,
    /// Of user-mode code of this process.
    own_user: Duration,
}

/// Starts where a measurement starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadWatch(Reading);

/// What happened on the machine during a measurement, as shares of one CPU's time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// What the hypervisor took.
    pub stolen: f64,
    /// What user-mode code of other processes took.
    pub others: f64,
}

impl LoadWatch {
    /// Starts to watch.
    pub(crate) fn start() -> Result<Self> {
        Reading::take().map(Self)
    }

    /// What happened since.
    pub(crate) fn stop(self) -> Result<Load> {
        Ok(Load::between(&self.0, &Reading::take()?))
    }
}

impl Reading {
    fn take() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let (user, stolen) = cpu_line(&text).context("/proc/stat has no line for all CPUs")?;
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot read the CPU time")?;
        let own = usage.user_time().num_microseconds();
        Ok(Self {
            at: Instant::now(),
            user,
            stolen,
            own_user: Duration::from_micros(own.unsigned_abs()),
        })
    }
}

/// User-mode time (fields `user` and `nice`) and stolen time of all CPUs.
fn cpu_line(text: &str) -> Option<(Duration, Duration)> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let ticks =
        |number: u64| Duration::from_secs_f64(number as f64 / clock_ticks_per_second() as f64);
    Some((
        ticks(fields.first()? + fields.get(1)?),
        ticks(*fields.get(7)?),
    ))
}

impl Load {
    fn between(before: &Reading, after: &Reading) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        // The kernel counts user time of the whole machine in ticks; one more or less is no load.
        let tick = 1.0 / clock_ticks_per_second() as f64;
        let share = |time: f64| ((time - tick) / seconds).max(0.0);
        let user = after.user.saturating_sub(before.user);
        let own = after.own_user.saturating_sub(before.own_user);
        Self {
            stolen: share(after.stolen.saturating_sub(before.stolen).as_secs_f64()),
            others: share(user.saturating_sub(own).as_secs_f64()),
        }
    }

    /// Whether what was measured meanwhile counts.
    pub(crate) fn is_quiet(self) -> bool {
        self.stolen <= LIMIT_OWN && self.others <= LIMIT_OTHERS
    }

    /// The larger of each.
    #[must_use]
    pub(crate) fn worst(self, other: Self) -> Self {
        Self {
            stolen: self.stolen.max(other.stolen),
            others: self.others.max(other.others),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "other programs used {:.0} % of a CPU (limit {:.0} %), the hypervisor took {:.0} % (limit {:.0} %)",
            self.others * 100.0,
            LIMIT_OTHERS * 100.0,
            self.stolen * 100.0,
            LIMIT_OWN * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(user_ms: u64, own_ms: u64, stolen_ms: u64) -> Load {
        let at = Instant::now();
        let start = Reading {
            at,
            user: Duration::from_secs(100),
            stolen: Duration::from_secs(7),
            own_user: Duration::from_secs(50),
        };
        let end = Reading {
            at: at + Duration::from_secs(1),
            user: start.user + Duration::from_millis(user_ms),
            stolen: start.stolen + Duration::from_millis(stolen_ms),
            own_user: start.own_user + Duration::from_millis(own_ms),
        };
        Load::between(&start, &end)
    }

    #[test]
    fn own_work_is_no_load_and_that_of_others_is() {
        assert!(load(1900, 1900, 0).is_quiet());
        assert!(load(1000, 1010, 0).is_quiet(), "ticks are coarse");
        assert!(load(1100, 1000, 20).is_quiet());
        assert!(!load(1900, 900, 0).is_quiet());
        assert!(!load(1000, 1000, 100).is_quiet());
        let both = load(1900, 900, 0).worst(load(0, 0, 210));
        assert!(both.others > 0.9 && both.stolen > 0.19, "{both:?}");
        assert!(
            both.to_string().contains("the hypervisor took 20 %"),
            "{both}"
        );
    }

    #[test]
    fn the_line_of_all_cpus_is_read() {
        let ticks = clock_ticks_per_second();
        let text =
            format!("cpu  {ticks} {ticks} 5 6 7 8 9 {ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n");
        assert_eq!(
            cpu_line(&text),
            Some((Duration::from_secs(2), Duration::from_secs(1)))
        );
        assert_eq!(cpu_line("cpu0 1 2 3 4 5 6 7 8 0 0\n"), None);
        assert_eq!(cpu_line("cpu  1 2 3\n"), None);
        assert!(LoadWatch::start().expect("/proc").stop().is_ok());
    }
}
