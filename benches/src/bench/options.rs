//! What to measure, and where to write it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::row::{Case, Datapath, IpFamily, Layout, Scheduling};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Nanoseconds per decision, without sockets and wire
    Decision,
    /// Packets per second over veth interfaces, in network namespaces
    Wire,
}

/// Options of the benchmark.
#[derive(Clone, Debug, Args)]
pub struct BenchOptions {
    /// What to measure [default: both]
    #[arg(value_enum)]
    pub part: Option<Part>,
    /// Write the results as JSON: an object per line, first the machine, then a row each
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results as Markdown tables
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Draw charts into this folder
    #[arg(long, value_name = "FOLDER")]
    pub svg: Option<PathBuf>,
    /// Less of everything, in under a minute
    #[arg(long)]
    pub quick: bool,
    /// Repetitions of each measurement [default: 5, quick: 3, on the wire 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: Option<u32>,
    /// Flows, as in 1000,100000 [default: 1000, 100000, 1000000, for decisions 10000000 too; quick:
    /// 100000, for decisions 1000, 100000, 1000000]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub flows: Vec<u64>,
    /// What forwards
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    pub datapath: Vec<Datapath>,
    /// Address family of decisions
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    pub family: Vec<IpFamily>,
    /// Packets to decide about
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    pub case: Vec<Case>,
    /// Packets that the forwarder decides together
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = burst)]
    pub burst: usize,
    /// Threads that decide at the same time, each with a forwarder and a CPU of its own [default: 1]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = workers)]
    pub workers: Vec<usize>,
    /// Which CPUs do what on the wire
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    pub layout: Vec<Layout>,
    /// Queues on the wire [default: 1, 2; quick: 1]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8))]
    pub queues: Vec<u32>,
    /// How workers are scheduled on the wire [default: rt]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    pub scheduling: Vec<Scheduling>,
    /// Length of a trial on the wire in milliseconds [default: 500, quick: 100]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub trial: Option<u64>,
    /// Report although other programs or the hypervisor used the CPUs; such rows say so
    #[arg(long)]
    pub tolerate_load: bool,
}

fn burst(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(burst @ 1..=dataplane::forward::BURST) => Ok(burst),
        _ => Err(format!(
            "give a number from 1 to {}",
            dataplane::forward::BURST
        )),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers) if workers > 0 => Ok(workers),
        _ => Err("give numbers from 1 to the number of CPUs".to_owned()),
    }
}

/// What was asked for, or everything.
fn or_all<T: Copy + PartialEq>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all } else { asked }.to_vec()
}

impl BenchOptions {
    /// Whether a part is to be measured.
    pub fn measures(&self, part: Part) -> bool {
        self.part.is_none_or(|asked| asked == part)
    }

    /// Options that were given although they change nothing in what is measured, each with what it is about.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let wire = self.measures(Part::Wire);
        let decisions = self.measures(Part::Decision);
        let bursts = decisions && self.datapaths().contains(&Datapath::Xsk);
        let given = [
            ("--layout", !self.layout.is_empty(), wire, "the wire"),
            ("--queues", !self.queues.is_empty(), wire, "the wire"),
            (
                "--scheduling",
                !self.scheduling.is_empty(),
                wire,
                "the wire",
            ),
            ("--trial", self.trial.is_some(), wire, "the wire"),
            ("--family", !self.family.is_empty(), decisions, "decisions"),
            ("--case", !self.case.is_empty(), decisions, "decisions"),
            (
                "--workers",
                !self.workers.is_empty(),
                bursts,
                "decisions of `xsk`",
            ),
            (
                "--burst",
                self.burst != dataplane::forward::BURST,
                bursts,
                "decisions of `xsk`",
            ),
        ];
        given
            .into_iter()
            .filter(|(_, is_given, has_effect, _)| *is_given && !has_effect)
            .map(|(name, _, _, about)| (name, about))
            .collect()
    }

    /// Repetitions of each measurement.
    pub fn repetitions(&self) -> usize {
        self.repetitions
            .map_or(if self.quick { 3 } else { 5 }, |repetitions| {
                repetitions as usize
            })
    }

    /// Repetitions on the wire.
    pub fn wire_repetitions(&self) -> usize {
        if self.quick && self.repetitions.is_none() {
            2
        } else {
            self.repetitions()
        }
    }

    /// Layouts on the wire.
    pub fn layouts(&self) -> Vec<Layout> {
        or_all(&self.layout, Layout::ALL)
    }

    /// Queues on the wire.
    pub fn queues(&self) -> Vec<u32> {
        or_all(&self.queues, if self.quick { &[1] } else { &[1, 2] })
    }

    /// Flows on the wire.
    pub fn wire_flows(&self) -> Vec<u64> {
        or_all(
            &self.flows,
            if self.quick {
                &[100_000]
            } else {
                &[1_000, 100_000, 1_000_000]
            },
        )
    }

    /// How workers are scheduled on the wire.
    pub fn schedulings(&self) -> Vec<Scheduling> {
        or_all(&self.scheduling, &[Scheduling::RealTime])
    }

    /// Length of a trial on the wire.
    pub fn trial(&self) -> Duration {
        let default = if self.quick { 100 } else { 500 };
        Duration::from_millis(self.trial.unwrap_or(default))
    }

    /// How close the loss-free rate is to be found.
    pub const fn precision(&self) -> f64 {
        if self.quick { 0.1 } else { 0.02 }
    }

    /// Datapaths to measure.
    pub fn datapaths(&self) -> Vec<Datapath> {
        or_all(&self.datapath, Datapath::ALL)
    }

    /// Families of decisions.
    pub fn families(&self) -> Vec<IpFamily> {
        or_all(&self.family, IpFamily::ALL)
    }

    /// Cases of decisions: hits first, for new flows take the place of those that would be hit.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = or_all(&self.case, Case::ALL);
        cases.sort_unstable();
        cases.dedup();
        cases
    }

    /// How many threads decide at the same time.
    pub fn workers(&self) -> Vec<usize> {
        or_all(&self.workers, &[1])
    }

    /// Flows of decisions.
    pub fn decision_flows(&self) -> Vec<u64> {
        or_all(
            &self.flows,
            if self.quick {
                &[1_000, 100_000, 1_000_000]
            } else {
                &[1_000, 100_000, 1_000_000, 10_000_000]
            },
        )
    }

    /// Packets of one sample of a decision.
    pub const fn decision_packets(&self) -> u64 {
        if self.quick { 1 << 19 } else { 1 << 22 }
    }
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            part: None,
            json: None,
            markdown: None,
            svg: None,
            quick: false,
            repetitions: None,
            flows: Vec::new(),
            datapath: Vec::new(),
            family: Vec::new(),
            case: Vec::new(),
            burst: dataplane::forward::BURST,
            workers: Vec::new(),
            layout: Vec::new(),
            queues: Vec::new(),
            scheduling: Vec::new(),
            trial: None,
            tolerate_load: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_other_part_are_told() {
        let all = BenchOptions {
            layout: vec![Layout::Split],
            queues: vec![1],
            scheduling: vec![Scheduling::Normal],
            trial: Some(100),
            family: vec![IpFamily::V4],
            case: vec![Case::Hit],
            workers: vec![2],
            burst: 2,
            ..BenchOptions::default()
        };
        let told = |part, datapath: &[Datapath]| {
            let options = BenchOptions {
                part,
                datapath: datapath.to_vec(),
                ..all.clone()
            };
            let names = options.without_effect().into_iter();
            names.map(|(name, _)| name).collect::<Vec<_>>()
        };
        let on_the_wire = ["--layout", "--queues", "--scheduling", "--trial"];
        assert!(told(None, &[]).is_empty());
        assert_eq!(told(Some(Part::Decision), &[]), on_the_wire);
        assert_eq!(
            told(Some(Part::Wire), &[]),
            ["--family", "--case", "--workers", "--burst"]
        );
        assert_eq!(told(None, &[Datapath::Kernel]), ["--workers", "--burst"]);
        assert!(BenchOptions::default().without_effect().is_empty());
    }
}
