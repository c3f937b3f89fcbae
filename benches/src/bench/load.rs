//! Whether the machine was busy with something else while it measured.

mod reading;

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use reading::Reading;

/// Share of one CPU's time above which a hypervisor that takes it disturbs a measurement.
const LIMIT_STOLEN: f64 = 0.03;
/// Share of one CPU's time above which others do so, on whatever CPU: they share caches and memory with
/// what is measured.
const LIMIT_OTHERS: f64 = 0.05;
/// Tries to find the machine quiet before anything is measured.
const IDLE_TRIES: usize = 5;

/// What to do where the machine is too busy.
pub(crate) const REMEDY: &str = "Stop what else runs, or give --tolerate-load and trust no figure";

/// Tells how busy the machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    read: fn() -> Result<Reading>,
    /// The time before a run in which nothing is measured.
    idle: Duration,
}

/// Starts where a measurement starts.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    meter: Meter,
    before: Reading,
}

/// What happened on the machine meanwhile, as shares of one CPU's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// What other programs and the kernel's threads took.
    pub others: f64,
    /// What the hypervisor took.
    pub stolen: f64,
    /// What interrupts took. While packets are sent, that is the benchmark's own work too.
    #[serde(skip)]
    interrupts: f64,
    /// The thread that took most, and its share.
    #[serde(skip)]
    busiest: Option<(String, f64)>,
}

impl Meter {
    /// Of this machine.
    pub(crate) const MACHINE: Self = Self {
        read: Reading::take,
        idle: Duration::from_secs(1),
    };

    /// Starts to watch.
    pub(crate) fn watch(self) -> Result<LoadWatch> {
        Ok(LoadWatch {
            meter: self,
            before: (self.read)()?,
        })
    }

    /// What happens on the machine while this program does nothing: interrupts are others' work then.
    ///
    /// # Errors
    /// It is too much, and is not to be tolerated.
    pub(crate) fn background(self, tolerate: bool) -> Result<Load> {
        let mut quietest: Option<Load> = None;
        for _ in 0..IDLE_TRIES {
            let watch = self.watch()?;
            thread::sleep(self.idle);
            let mut load = watch.stop()?;
            load.others += load.interrupts;
            if load.is_quiet() || tolerate {
                return Ok(load);
            }
            if quietest
                .as_ref()
                .is_none_or(|quietest| load.others < quietest.others)
            {
                quietest = Some(load);
            }
        }
        bail!(
            "the machine is too busy to measure, before anything was measured: {}. {REMEDY}",
            quietest.unwrap_or_default()
        );
    }
}

impl LoadWatch {
    /// What happened since.
    pub(crate) fn stop(self) -> Result<Load> {
        Ok(Load::between(&self.before, &(self.meter.read)()?))
    }
}

impl Load {
    fn between(before: &Reading, after: &Reading) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let share = |time: Duration| time.as_secs_f64() / seconds;
        let mut by_threads = Duration::ZERO;
        let mut busiest = None;
        for (id, thread) in &after.threads {
            let then = before.threads.get(id).map_or(Duration::ZERO, |t| t.spent);
            let spent = thread.spent.saturating_sub(then);
            by_threads += spent;
            if busiest.is_none_or(|(_, most)| spent > most) {
                busiest = Some((thread, spent));
            }
        }
        // Threads that have ended meanwhile are only in what the kernel counted by ticks, of which each
        // CPU may have one more.
        let by_ticks = after
            .programs
            .saturating_sub(before.programs)
            .saturating_sub(after.own.saturating_sub(before.own))
            .saturating_sub(after.tick * after.cpus);
        let beyond_tick =
            |before: Duration, after_: Duration| after_.saturating_sub(before + after.tick);
        Self {
            others: share(by_threads.max(by_ticks)),
            stolen: share(beyond_tick(before.stolen, after.stolen)),
            interrupts: share(beyond_tick(before.interrupts, after.interrupts)),
            busiest: busiest.map(|(thread, spent)| (thread.name.clone(), share(spent))),
        }
    }

    /// Whether what was measured meanwhile counts.
    pub(crate) fn is_quiet(&self) -> bool {
        self.stolen <= LIMIT_STOLEN && self.others <= LIMIT_OTHERS
    }

    /// The larger of each.
    #[must_use]
    pub(crate) fn worst(self, other: Self) -> Self {
        let busiest = if self.others < other.others {
            other.busiest
        } else {
            self.busiest
        };
        Self {
            others: self.others.max(other.others),
            stolen: self.stolen.max(other.stolen),
            interrupts: self.interrupts.max(other.interrupts),
            busiest,
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| share * 100.0;
        write!(
            f,
            "others used {:.1} % of a CPU (limit {:.0} %)",
            percent(self.others),
            percent(LIMIT_OTHERS)
        )?;
        if let Some((name, share)) = &self.busiest {
            write!(f, ", most of all {name} with {:.1} %", percent(*share))?;
        }
        write!(
            f,
            ", and the hypervisor took {:.1} % (limit {:.0} %)",
            percent(self.stolen),
            percent(LIMIT_STOLEN)
        )
    }
}

/// Meters that tests have instead of the machine's.
#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::{reading::Thread, *};

    const CPUS: u32 = 2;

    fn reading() -> Reading {
        Reading {
            at: Instant::now(),
            cpus: CPUS,
            tick: Duration::from_millis(10),
            programs: Duration::from_secs(100),
            interrupts: Duration::from_secs(3),
            stolen: Duration::from_secs(7),
            own: Duration::from_secs(50),
            threads: [(77, thread("neighbour (77)", 1000))].into(),
        }
    }

    fn thread(name: &str, ms: u64) -> Thread {
        Thread {
            name: name.to_owned(),
            spent: Duration::from_millis(ms),
        }
    }

    /// A second later.
    fn load(change: impl FnOnce(&mut Reading)) -> Load {
        let before = reading();
        let mut after = reading();
        after.at = before.at + Duration::from_secs(1);
        change(&mut after);
        Load::between(&before, &after)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A machine on which a neighbour is busy all the time.
    pub(crate) const BUSY: Meter = Meter {
        read: || {
            static READINGS: AtomicU64 = AtomicU64::new(0);
            Ok(neighbour_ran(
                READINGS.fetch_add(1, Ordering::Relaxed) * LONG,
            ))
        },
        idle: Duration::ZERO,
    };

    /// A machine that is quiet in the second before and at no time after.
    pub(crate) const BUSY_LATER: Meter = Meter {
        read: || {
            static READINGS: AtomicU64 = AtomicU64::new(0);
            let number = READINGS.fetch_add(1, Ordering::Relaxed);
            Ok(neighbour_ran(number.saturating_sub(1) * LONG))
        },
        idle: Duration::ZERO,
    };

    /// More seconds than go by between two readings.
    const LONG: u64 = 1000;

    fn neighbour_ran(seconds: u64) -> Reading {
        let mut reading = reading();
        reading.threads = [(77, thread("neighbour (77)", seconds * 1000))].into();
        reading
    }

    #[test]
    fn own_work_is_no_load() {
        let quiet = load(|after| {
            after.programs += ms(1900);
            after.own += ms(1890);
            after.interrupts += ms(90);
        });
        assert!(quiet.is_quiet(), "{quiet}");
    }

    #[test]
    fn threads_of_others_count_to_the_nanosecond_and_by_name() {
        let busy = load(|after| {
            after.threads.insert(77, thread("neighbour (77)", 1040));
            after.threads.insert(78, thread("born meanwhile (78)", 20));
        });
        assert!((busy.others - 0.06).abs() < 1e-9, "{busy}");
        assert!(!busy.is_quiet());
        let text = busy.to_string();
        assert!(text.contains("neighbour (77) with 4.0 %"), "{text}");
        let quiet = load(|after| {
            after.threads.insert(77, thread("neighbour (77)", 1040));
        });
        assert!(quiet.is_quiet(), "{quiet}");
    }

    #[test]
    fn threads_that_have_ended_are_counted_by_ticks() {
        let busy = load(|after| {
            after.programs += ms(1100);
            after.own += ms(1000);
            after.threads.clear();
        });
        // A tick for each CPU may be chance.
        assert!((busy.others - 0.08).abs() < 1e-9, "{busy}");
        assert!(!busy.is_quiet());
    }

    #[test]
    fn the_hypervisor_counts_beyond_a_tick() {
        assert!(load(|after| after.stolen += ms(40)).is_quiet());
        let busy = load(|after| after.stolen += ms(50));
        assert!(!busy.is_quiet(), "{busy}");
        let both = busy.worst(load(|after| {
            after.threads.insert(77, thread("neighbour (77)", 1900));
        }));
        assert!(both.others > 0.89 && both.stolen > 0.039, "{both:?}");
        let text = both.to_string();
        assert!(text.contains("hypervisor took 4.0 %"), "{text}");
        assert!(text.contains("neighbour (77) with 90.0 %"), "{text}");
    }

    #[test]
    fn a_busy_second_before_the_run_ends_it() {
        let error = BUSY.background(false).expect_err("busy").to_string();
        assert!(error.contains("too busy to measure"), "{error}");
        assert!(error.contains("neighbour (77)"), "{error}");
        let load = BUSY.background(true).expect("tolerated");
        assert!(!load.is_quiet(), "{load}");
    }
}
