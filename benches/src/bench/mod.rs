//! `katran-xsk bench`: what a decision costs and what the wire carries, for the balancer on `AF_XDP`
//! sockets, its in-kernel twin, and what bounds both from above. docs/performance.md explains the
//! method.

mod asked;
mod decision;
mod estimate;
pub(crate) mod frame;
mod load;
mod machine;
mod options;
mod pin;
mod progress;
mod report;
mod row;
pub(crate) mod services;
mod statistics;
mod wire;

use std::io::Write as _;

use anyhow::{Context, Result};
use indicatif::HumanDuration;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

pub use load::Load;
pub use machine::Machine;
pub use options::{BenchOptions, Part};
pub use report::Report;
pub use row::{Case, Datapath, DecisionRow, IpFamily, Latency, Layout, Row, Scheduling, WireRow};
pub use statistics::Spread;

use load::Meter;
use progress::Progress;

/// Measures, prints the tables, and writes the files that the options name. An error says why there is
/// no report.
pub fn run(options: &BenchOptions) -> Result<()> {
    report::outputs::check(options)?;
    // Nobody has to read it.
    for (option, about) in options.without_effect() {
        let _ = writeln!(
            std::io::stderr(),
            "Warning: {option} changes nothing here: it is about {about}."
        );
    }
    let _ = writeln!(
        std::io::stderr(),
        "This takes about {}.",
        HumanDuration(estimate::of(options))
    );
    measure(options)?.write(options)
}

/// Measures what the options name.
///
/// # Errors
/// Something cannot be measured here, counters do not add up, or the machine was too busy.
pub fn measure(options: &BenchOptions) -> Result<Report> {
    measure_by(options, Meter::MACHINE)
}

fn measure_by(options: &BenchOptions, meter: Meter) -> Result<Report> {
    let background = meter.background(options.tolerate_load)?;
    let progress = Progress::default();
    let mut rows = Vec::new();
    if options.measures(Part::Decision) {
        rows.extend(on_one_cpu(|cpus| {
            decision::run(options, meter, &progress, cpus)
        })?);
    }
    if options.measures(Part::Wire) {
        rows.extend(wire::run(options, meter, &progress)?);
    }
    Ok(Report {
        machine: Machine::here(),
        background,
        rows,
    })
}

/// Runs `work` on the last CPU that this thread may use: the first one is where most interrupts are. `work`
/// gets all of them, the last first.
fn on_one_cpu<R>(work: impl FnOnce(&[usize]) -> Result<R>) -> Result<R> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("cannot read the CPUs of this thread")?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .rev()
        .filter(|&cpu| allowed.is_set(cpu).unwrap_or(false))
        .collect();
    let last = *cpus.first().context("this thread has no CPU")?;
    pin::pin(last)?;
    let result = work(&cpus);
    sched_setaffinity(this, &allowed).context("cannot free this thread")?;
    result
}

#[cfg(test)]
mod tests {
    use super::{
        load::tests::{BUSY, BUSY_LATER},
        *,
    };

    fn options(tolerate_load: bool) -> BenchOptions {
        BenchOptions {
            part: Some(Part::Decision),
            quick: true,
            repetitions: Some(2),
            flows: vec![1000],
            datapath: vec![Datapath::Xsk],
            tolerate_load,
            ..BenchOptions::default()
        }
    }

    #[test]
    fn a_busy_machine_is_refused_unless_it_is_tolerated() {
        let refused = |meter| {
            let error = measure_by(&options(false), meter).expect_err("refused");
            error.to_string()
        };
        let before = refused(BUSY);
        assert!(before.contains("before anything was measured"), "{before}");
        let later = refused(BUSY_LATER);
        assert!(later.contains("too busy to measure: others"), "{later}");
        assert!(later.contains("--tolerate-load"), "{later}");
        let report = measure_by(&options(true), BUSY).expect("tolerated");
        assert!(!report.background.is_quiet());
        for row in &report.rows {
            let Row::Decision(row) = row else {
                panic!("{row:?}");
            };
            assert_eq!((row.repetitions, row.disturbed), (2, 2), "{row:?}");
            assert!(!row.load.is_quiet(), "{row:?}");
        }
    }
}
