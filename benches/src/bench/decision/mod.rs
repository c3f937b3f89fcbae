//! What one decision costs: no sockets, no wire.

mod kernel;
mod team;
mod userspace;

use anyhow::{Result, bail, ensure};

use super::{
    BenchOptions,
    load::{Load, Meter, REMEDY},
    progress::Progress,
    row::{Case, Datapath, DecisionRow, IpFamily, Row},
    statistics::Spread,
};
use kernel::InKernel;
use team::Team;

/// Flows that the in-kernel balancer is measured with at most: its tables take memory for every CPU.
pub(crate) const MOST_KERNEL_FLOWS: u64 = 1_000_000;
/// Tries for each repetition that is to count.
const TRIES: usize = 8;

/// One combination to measure: the flow tables are filled once for all samples of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Family of the packets.
    pub family: IpFamily,
    /// Flows in each table.
    pub flows: u64,
}

/// A datapath that is ready for samples.
enum Subject {
    Xsk(Team),
    Kernel(Box<InKernel>),
}

impl Subject {
    /// Those of a datapath: none where there is nothing to measure, because it does not decide or there are
    /// too many flows.
    fn all(
        datapath: Datapath,
        setting: Setting,
        options: &BenchOptions,
        cpus: &[usize],
    ) -> Result<Vec<Self>> {
        let Setting { family, flows } = setting;
        match datapath {
            Datapath::Xsk => options
                .workers()
                .into_iter()
                .map(|workers| Team::new(setting, options.burst, &cpus[..workers]).map(Self::Xsk))
                .collect(),
            Datapath::Kernel if flows <= MOST_KERNEL_FLOWS => {
                Ok(vec![Self::Kernel(Box::new(InKernel::new(family, flows)?))])
            }
            Datapath::Kernel | Datapath::Reflect | Datapath::L2fwd => Ok(Vec::new()),
        }
    }

    const fn datapath(&self) -> Datapath {
        match self {
            Self::Xsk(_) => Datapath::Xsk,
            Self::Kernel(_) => Datapath::Kernel,
        }
    }

    /// How many threads decide at the same time.
    const fn workers(&self) -> usize {
        match self {
            Self::Xsk(team) => team.size(),
            Self::Kernel(_) => 1,
        }
    }

    /// Nanoseconds per packet, over at least this many packets.
    fn sample(&mut self, case: Case, packets: u64) -> Result<f64> {
        match self {
            Self::Xsk(team) => team.sample(case, packets),
            Self::Kernel(bench) => bench.sample(case, packets),
        }
    }
}

/// Samples of one row.
#[derive(Default)]
struct Samples {
    values: Vec<f64>,
    disturbed: usize,
    /// While those values were taken.
    load: Load,
}

/// Measures every setting; rows come in the order of the settings. Workers are on the first of these CPUs.
pub(crate) fn run(
    options: &BenchOptions,
    meter: Meter,
    progress: &Progress,
    cpus: &[usize],
) -> Result<Vec<Row>> {
    for workers in options.workers() {
        ensure!(
            workers <= cpus.len(),
            "--workers {workers}: this program may use {} CPUs; give no more than that",
            cpus.len()
        );
    }
    let settings = settings(options);
    let steps = settings.len() * options.cases().len() * options.repetitions();
    let bar = progress.bar("decision cost", steps as u64);
    let mut rows = Vec::new();
    for setting in settings {
        bar.set_message(format!(
            "{} {} flows: filling the tables",
            setting.family, setting.flows
        ));
        let mut subjects = Vec::new();
        for datapath in options.datapaths() {
            subjects.extend(Subject::all(datapath, setting, options, cpus)?);
        }
        for case in options.cases() {
            let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples::default()).collect();
            for repetition in 0..options.repetitions() {
                bar.set_message(format!(
                    "{} {} flows: {case}",
                    setting.family, setting.flows
                ));
                // In turn from either end, so that a drift of the machine meets all alike.
                let mut order: Vec<usize> = (0..subjects.len()).collect();
                if repetition % 2 == 1 {
                    order.reverse();
                }
                for at in order {
                    measure(&mut subjects[at], case, options, meter, &mut samples[at])?;
                }
                bar.inc(1);
            }
            for (subject, samples) in subjects.iter().zip(samples) {
                rows.push(Row::Decision(samples.row(subject, setting, case, options)?));
            }
        }
    }
    bar.finish_and_clear();
    ensure!(
        !rows.is_empty(),
        "no decision is measured: of the datapaths only `xsk` and, up to {MOST_KERNEL_FLOWS} flows, `kernel` decide"
    );
    Ok(rows)
}

fn settings(options: &BenchOptions) -> Vec<Setting> {
    let flows = options.decision_flows();
    options
        .families()
        .into_iter()
        .flat_map(|family| flows.iter().map(move |&flows| Setting { family, flows }))
        .collect()
}

/// Takes one sample on a quiet machine, or says that the machine is not quiet.
fn measure(
    subject: &mut Subject,
    case: Case,
    options: &BenchOptions,
    meter: Meter,
    samples: &mut Samples,
) -> Result<()> {
    let mut worst = Load::default();
    for _ in 0..TRIES {
        let watch = meter.watch()?;
        let value = subject.sample(case, options.decision_packets())?;
        let load = watch.stop()?;
        let quiet = load.is_quiet();
        if quiet || options.tolerate_load {
            samples.disturbed += usize::from(!quiet);
            samples.load = std::mem::take(&mut samples.load).worst(load);
            samples.values.push(value);
            return Ok(());
        }
        worst = worst.worst(load);
    }
    bail!("the machine is too busy to measure: {worst}. {REMEDY}");
}

impl Samples {
    fn row(
        &self,
        subject: &Subject,
        setting: Setting,
        case: Case,
        options: &BenchOptions,
    ) -> Result<DecisionRow> {
        let datapath = subject.datapath();
        let Some(ns_per_packet) = Spread::of(&self.values) else {
            bail!("{datapath}: no sample is a number");
        };
        Ok(DecisionRow {
            datapath,
            family: setting.family,
            case,
            flows: setting.flows,
            workers: subject.workers(),
            burst: match datapath {
                Datapath::Kernel => 1,
                _ => options.burst,
            },
            ns_per_packet,
            repetitions: self.values.len(),
            disturbed: self.disturbed,
            load: self.load.clone(),
        })
    }
}
