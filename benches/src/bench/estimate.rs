//! How long a run will take, roughly, so that whoever starts it knows when to come back.

use std::time::Duration;

use super::{
    decision::MOST_KERNEL_FLOWS,
    options::{BenchOptions, Part},
    row::{Case, Datapath},
    wire,
};

/// Seconds for each packet of a decision: with what is prepared around it, and in the kernel with what
/// is measured to be subtracted.
const XSK_PACKET: f64 = 100e-9;
const KERNEL_PACKET: f64 = 700e-9;
/// Trials of a repetition on the wire, and seconds that each takes beside its own.
const TRIALS: f64 = 13.0;
const BESIDE_TRIAL: f64 = 0.02;
/// Seconds to set a device up, and for each flow that it has to know.
const SET_UP: f64 = 0.5;
const FLOW: f64 = 6e-6;

/// The time that the options ask for.
pub(crate) fn of(options: &BenchOptions) -> Duration {
    let mut seconds = 1.0;
    if options.measures(Part::Decision) {
        seconds += decisions(options);
    }
    if options.measures(Part::Wire) {
        seconds += on_the_wire(options);
    }
    Duration::from_secs_f64(seconds)
}

fn decisions(options: &BenchOptions) -> f64 {
    let mut seconds = 0.0;
    let workers = options.workers().len();
    for flows in options.decision_flows() {
        for datapath in options.datapaths() {
            let packet = match datapath {
                // Threads work at the same time.
                Datapath::Xsk => XSK_PACKET * workers as f64,
                Datapath::Kernel if flows <= MOST_KERNEL_FLOWS => KERNEL_PACKET,
                _ => continue,
            };
            let samples = options.cases().len() * options.repetitions();
            let packets = options.decision_packets() * samples as u64;
            let to_fill = if options.cases().contains(&Case::New) {
                3 * flows
            } else {
                flows
            };
            seconds += packet * (packets + to_fill) as f64;
        }
    }
    seconds * options.families().len() as f64
}

fn on_the_wire(options: &BenchOptions) -> f64 {
    let trial = options.trial().as_secs_f64() + BESIDE_TRIAL;
    let sample = TRIALS * trial;
    let mut seconds = 0.0;
    for setting in wire::settings(options) {
        for (datapath, _) in wire::candidates(options) {
            seconds += SET_UP + sample * options.wire_repetitions() as f64;
            if matches!(datapath, Datapath::Kernel | Datapath::Xsk) {
                seconds += FLOW * (setting.flows * u64::from(setting.queues)) as f64;
            }
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_the_documentation_says() {
        let minutes = |options: &BenchOptions| of(options).as_secs_f64() / 60.0;
        let full = BenchOptions::default();
        assert!((10.0..40.0).contains(&minutes(&full)), "{}", minutes(&full));
        let quick = BenchOptions {
            quick: true,
            ..BenchOptions::default()
        };
        assert!(minutes(&quick) < 1.0, "{}", minutes(&quick));
    }

    #[test]
    fn parts_and_repetitions_add_up() {
        let seconds = |part, repetitions| {
            of(&BenchOptions {
                part,
                repetitions: Some(repetitions),
                ..BenchOptions::default()
            })
            .as_secs_f64()
        };
        let both = seconds(None, 5);
        let parts = seconds(Some(Part::Decision), 5) + seconds(Some(Part::Wire), 5);
        assert!((both - parts).abs() < 2.0, "{both} {parts}");
        assert!(seconds(None, 10) > 1.5 * both);
    }
}
