//! The results for programs, readers and eyes.

mod charts;
mod json;
mod markdown;
pub(crate) mod outputs;

use std::io::Write as _;

use anyhow::{Context, Result, ensure};

use super::{load::Load, machine::Machine, options::BenchOptions, row::Row};

/// Everything that was measured in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// What else ran in the second before.
    pub background: Load,
    /// What was measured.
    pub rows: Vec<Row>,
}

impl Report {
    /// Prints the tables and writes the files that the options name. What cannot be written does not keep
    /// the rest from it; rows are printed then.
    ///
    /// # Errors
    /// Something could not be printed or written.
    pub fn write(&self, options: &BenchOptions) -> Result<()> {
        let tables = markdown::tables(self);
        let mut failures = Vec::new();
        let mut attempt = |result: Result<()>| {
            let failure = result.err();
            let failed = failure.is_some();
            failures.extend(failure.map(|error| format!("{error:#}")));
            failed
        };
        attempt(print(&tables));
        if let Some(path) = &options.json {
            let lines = json::lines(self)?;
            if attempt(outputs::write(path, &lines)) {
                attempt(print(&lines));
            }
        }
        let mut charts = Vec::new();
        if let Some(folder) = &options.svg {
            for (name, chart) in charts::draw(self)? {
                let path = folder.join(name);
                attempt(outputs::write(&path, &chart));
                charts.push(path);
            }
        }
        if let Some(path) = &options.markdown {
            let figures = format!("{tables}{}", markdown::images(&charts, path));
            attempt(outputs::page(path, &figures).and_then(|page| outputs::write(path, &page)));
        }
        ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(())
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the results")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bench::{
        row::{Case, Datapath, DecisionRow, IpFamily, Latency, Layout, Scheduling, WireRow},
        statistics::Spread,
    };

    fn around(median: f64) -> Spread {
        Spread {
            median,
            min: median * 0.95,
            max: median * 1.05,
        }
    }

    fn decision(datapath: Datapath, flows: u64, ns: f64) -> Row {
        Row::Decision(DecisionRow {
            datapath,
            family: IpFamily::V4,
            case: Case::Hit,
            flows,
            workers: 1,
            burst: 64,
            ns_per_packet: around(ns),
            repetitions: 5,
            disturbed: 0,
            load: Load::default(),
        })
    }

    fn by_two(row: Row) -> Row {
        match row {
            Row::Decision(row) => Row::Decision(DecisionRow { workers: 2, ..row }),
            Row::Wire(_) => row,
        }
    }

    /// A report with some of everything.
    pub(super) fn report() -> Report {
        Report {
            machine: Machine {
                cpu: "CPU".to_owned(),
                cpus: 2,
                virtualised: true,
                memory_mib: 1024,
                kernel: "6.18".to_owned(),
                huge_pages: "madvise".to_owned(),
                clock_source: "tsc".to_owned(),
                governor: "none".to_owned(),
                bpf_jit: ["1".to_owned(), "0".to_owned()],
                mitigations: [
                    ("retbleed", "Vulnerable"),
                    ("spectre_v2", "Mitigation: Retpolines"),
                ]
                .map(|(name, says)| (name.to_owned(), says.to_owned()))
                .into(),
                version: "0.1.0",
                optimised: true,
                command: "katran-xsk bench".to_owned(),
            },
            background: Load::default(),
            rows: vec![
                decision(Datapath::Xsk, 1_000, 20.0),
                decision(Datapath::Kernel, 1_000, 60.0),
                decision(Datapath::Xsk, 10_000_000, 40.0),
                by_two(decision(Datapath::Xsk, 1_000, 10.0)),
                Row::Wire(Box::new(WireRow {
                    datapath: Datapath::Xsk,
                    layout: Layout::Split,
                    queues: 1,
                    flows: 1_000,
                    scheduling: Some(Scheduling::RealTime),
                    mpps: around(1.0),
                    flat_out_mpps: around(1.1),
                    flat_out_offered_mpps: around(6.0),
                    overload_mpps: around(1.05),
                    overload_offered_mpps: around(4.0),
                    cpu_ns_per_packet: None,
                    latency_ns: Latency {
                        p50: 10_000.0,
                        p90: 15_000.0,
                        p99: 20_000.0,
                        p999: 30_000.0,
                    },
                    repetitions: 5,
                    disturbed: 0,
                    unconfirmed_losses: 0,
                    shares_cpus_with_generator: false,
                    load: Load::default(),
                })),
            ],
        }
    }

    #[test]
    fn files_are_written_where_the_options_say() {
        let folder = crate::lab::Scratch::new().expect("a folder");
        let path = |name: &str| folder.file(name);
        let options = BenchOptions {
            json: Some(path("rows.json")),
            markdown: Some(path("tables.md")),
            svg: Some(path("charts")),
            ..BenchOptions::default()
        };
        outputs::check(&options).expect("can be written");
        report().write(&options).expect("written");
        let json = fs::read_to_string(path("rows.json")).expect("rows");
        let values: Vec<serde_json::Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object per line"))
            .collect();
        assert_eq!(values.len(), 6);
        assert_eq!(values[0]["bench"], "machine");
        assert_eq!(values[0]["kernel"], "6.18");
        assert_eq!(values[0]["mitigations"]["retbleed"], "Vulnerable");
        assert_eq!(values[0]["background"]["others"], 0.0);
        assert_eq!(values[1]["ns_per_packet"]["median"], 20.0);
        assert_eq!(values[5]["bench"], "wire");
        assert!(
            fs::read_to_string(path("tables.md"))
                .expect("tables")
                .contains("| IPv4 hit |")
        );
        assert_eq!(fs::read_dir(path("charts")).expect("charts").count(), 2);
        let text = fs::read_to_string(path("tables.md")).expect("tables");
        assert!(text.contains("](charts/decision-ipv4.svg)"), "{text}");
        report().write(&options).expect("written again");
        assert_eq!(fs::read_to_string(path("tables.md")).expect("tables"), text);
    }

    #[test]
    fn what_cannot_be_written_keeps_nothing_else_from_it() {
        let folder = crate::lab::Scratch::new().expect("a folder");
        let options = BenchOptions {
            json: Some(folder.file("missing/rows.json")),
            svg: Some(folder.file("missing")),
            markdown: Some(folder.file("tables.md")),
            ..BenchOptions::default()
        };
        let error = report().write(&options).expect_err("no such folder");
        for name in ["missing/rows.json", "missing/decision-ipv4.svg"] {
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(folder.file("tables.md").exists());
    }
}
