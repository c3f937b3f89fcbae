//! What the wire carries: packets of many flows from a generator through a datapath to a far end that
//! counts them.
//!
//! ```text
//!   namespace `far`                            namespace `near`
//!  ┌──────────────────────────────┐  far0   ┌──────────────────────┐
//!  │ `generator` (live frames) ───┼────────►│ the datapath         │
//!  │ `count`, drops ◄─────────────┼─────────│                      │
//!  └──────────────────────────────┘   veth  └──────────────────────┘
//! ```

mod account;
mod device;
mod idle;
mod reflect;
mod rig;
mod search;
mod sender;
mod site;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xdp_redirect::Pace;

use super::{
    load::{Load, Meter, REMEDY},
    options::BenchOptions,
    progress::Progress,
    row::{Datapath, Latency, Layout, Row, Scheduling, WireRow},
    statistics::Spread,
};
use device::DeviceOptions;
use rig::Rig;
use search::{LEAST, Range, TOLERATED_LOSS};
use site::Cpus;

/// Offered, as a multiple of the loss-free rate, to see what overload does.
const OVERLOAD: f64 = 4.0;
/// Tries for each repetition that is to count.
const TRIES: usize = 3;

/// What all datapaths are measured with in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    layout: Layout,
    pub(super) queues: u32,
    pub(super) flows: u64,
}

/// One repetition of everything.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Whether there was a rate without loss.
    is_loss_free: bool,
    /// Packets per second.
    loss_free: f64,
    flat_out: f64,
    flat_out_offered: f64,
    overload: f64,
    overload_offered: f64,
    cpu_ns: f64,
    latency: Latency,
    /// Losses that a second trial did not see.
    unconfirmed: u32,
}

/// A datapath and its samples.
struct Candidate {
    datapath: Datapath,
    scheduling: Option<Scheduling>,
    rig: Rig,
    samples: Vec<Sample>,
    disturbed: usize,
    /// Of the samples that count.
    load: Load,
}

/// Measures every setting; rows come in the order of the settings.
pub(super) fn run(options: &BenchOptions, meter: Meter, progress: &Progress) -> Result<Vec<Row>> {
    let settings = settings(options);
    let candidates = candidates(options);
    let steps = settings.len() * candidates.len() * options.wire_repetitions();
    let bar = progress.bar("on the wire", steps as u64);
    let mut rows = Vec::new();
    for setting in settings {
        let Setting {
            layout,
            queues,
            flows,
        } = setting;
        let title = format!("{layout}, {queues} queues, {flows} flows");
        let cpus = Cpus::plan(queues)?;
        let mut rigs = Vec::new();
        for &(datapath, scheduling) in &candidates {
            bar.set_message(format!("{title}: {datapath} gets to know the flows"));
            let device = DeviceOptions {
                datapath,
                scheduling: scheduling.unwrap_or(Scheduling::Normal),
                flows,
            };
            let mut rig = Rig::new(device, layout, queues, &cpus)?;
            rig.sending(Rig::introduce_flows)?;
            rigs.push(Candidate {
                datapath,
                scheduling,
                rig,
                samples: Vec::new(),
                disturbed: 0,
                load: Load::default(),
            });
        }
        for repetition in 0..options.wire_repetitions() {
            // In turn from either end, so that a drift of the machine meets all alike.
            let mut order: Vec<usize> = (0..rigs.len()).collect();
            if repetition % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let candidate = &mut rigs[at];
                bar.set_message(format!("{title}: {}", candidate.datapath));
                candidate.measure(options, meter)?;
                bar.inc(1);
            }
        }
        for candidate in &rigs {
            rows.push(Row::Wire(Box::new(candidate.row(setting)?)));
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// What the options name, in the order of the rows.
pub(super) fn settings(options: &BenchOptions) -> Vec<Setting> {
    let mut settings = Vec::new();
    for layout in options.layouts() {
        for queues in options.queues() {
            for flows in options.wire_flows() {
                settings.push(Setting {
                    layout,
                    queues,
                    flows,
                });
            }
        }
    }
    settings
}

/// Datapaths, each with every way to schedule its workers if it has any.
pub(super) fn candidates(options: &BenchOptions) -> Vec<(Datapath, Option<Scheduling>)> {
    options
        .datapaths()
        .into_iter()
        .flat_map(|datapath| match datapath {
            Datapath::Reflect | Datapath::Kernel => vec![(datapath, None)],
            Datapath::L2fwd | Datapath::Xsk => options
                .schedulings()
                .into_iter()
                .map(|scheduling| (datapath, Some(scheduling)))
                .collect(),
        })
        .collect()
}

impl Candidate {
    /// Takes one sample on a quiet machine, or says why there is none.
    fn measure(&mut self, options: &BenchOptions, meter: Meter) -> Result<()> {
        let mut worst = Load::default();
        for _ in 0..TRIES {
            let watch = meter.watch()?;
            let sample = self.sample(options)?;
            let load = watch.stop()?;
            // A datapath of which packets are lost at every rate never got to run.
            let counts = load.is_quiet() && sample.is_loss_free;
            if counts || options.tolerate_load {
                self.disturbed += usize::from(!counts);
                self.load = self.load.clone().worst(load);
                self.samples.push(sample);
                return Ok(());
            }
            worst = worst.worst(load);
        }
        ensure!(
            !worst.is_quiet(),
            "{} loses more than 1 packet in {:.0} even at {LEAST:.0} a second, and nobody else is to \
             blame: {worst}",
            self.datapath,
            1.0 / TOLERATED_LOSS
        );
        bail!(
            "the machine is too busy to measure {}: {worst}. {REMEDY}",
            self.datapath
        );
    }

    fn sample(&mut self, options: &BenchOptions) -> Result<Sample> {
        let guess = self.samples.last().map(|sample| sample.loss_free);
        self.rig.sending(|rig| sample(rig, guess, options))
    }

    fn row(&self, setting: Setting) -> Result<WireRow> {
        let spread = |of: fn(&Sample) -> f64| {
            let values: Vec<f64> = self.samples.iter().map(of).collect();
            Spread::of(&values).with_context(|| format!("{}: no sample is a number", self.datapath))
        };
        let mpps = |of: fn(&Sample) -> f64| spread(of).map(|spread| spread.scaled(1e-6));
        let median = |of: fn(&Sample) -> f64| spread(of).map(|spread| spread.median);
        Ok(WireRow {
            datapath: self.datapath,
            layout: setting.layout,
            queues: setting.queues,
            flows: setting.flows,
            scheduling: self.scheduling,
            mpps: mpps(|sample| sample.loss_free)?,
            flat_out_mpps: mpps(|sample| sample.flat_out)?,
            flat_out_offered_mpps: mpps(|sample| sample.flat_out_offered)?,
            overload_mpps: mpps(|sample| sample.overload)?,
            overload_offered_mpps: mpps(|sample| sample.overload_offered)?,
            cpu_ns_per_packet: if self.rig.owns_its_cpus() {
                Some(spread(|sample| sample.cpu_ns)?)
            } else {
                None
            },
            latency_ns: Latency {
                p50: median(|sample| sample.latency.p50)?,
                p90: median(|sample| sample.latency.p90)?,
                p99: median(|sample| sample.latency.p99)?,
                p999: median(|sample| sample.latency.p999)?,
            },
            repetitions: self.samples.len(),
            disturbed: self.disturbed,
            unconfirmed_losses: self.samples.iter().map(|sample| sample.unconfirmed).sum(),
            shares_cpus_with_generator: self.rig.shares_cpus_with_generator(),
            load: self.load.clone(),
        })
    }
}

/// Measures everything once; the search begins at `guess`.
fn sample(rig: &mut Rig, guess: Option<f64>, options: &BenchOptions) -> Result<Sample> {
    let time = options.trial();
    let flat_out = rig.trial(Pace::FlatOut, time)?;
    let range = Range {
        guess: guess.unwrap_or(flat_out.delivered),
        most: flat_out.offered,
        precision: options.precision(),
    };
    let found = search::search(range, |rate| rig.trial(Pace::Rate(whole(rate)), time))?;
    let free = found.trial;
    let overload = rig.trial(Pace::Rate(whole(free.offered * OVERLOAD)), time)?;
    let half = rig.detailed(whole(free.offered / 2.0), time)?;
    let quantile = |share| {
        let quantile = half.latencies.quantile(share);
        quantile.map(|ns| ns as f64).context("no packet was timed")
    };
    Ok(Sample {
        is_loss_free: free.is_loss_free(),
        loss_free: free.delivered,
        flat_out: flat_out.delivered,
        flat_out_offered: flat_out.offered,
        overload: overload.delivered,
        overload_offered: overload.offered,
        cpu_ns: half.cpu_ns,
        latency: Latency {
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
            p999: quantile(0.999)?,
        },
        unconfirmed: found.unconfirmed,
    })
}

/// A rate that the generator takes.
fn whole(rate: f64) -> u64 {
    Duration::from_secs_f64(rate.clamp(1.0, 1e12))
        .as_secs()
        .max(1)
}
