//! What `run` says when it has stopped.

use std::{collections::BTreeMap, fmt};

use dataplane::counters::DropReason;

use crate::control::Worker;

/// What the workers did, in the end.
#[derive(Debug, Default)]
pub(super) struct Report {
    received: u64,
    transmitted: u64,
    passed: u64,
    drops: BTreeMap<&'static str, u64>,
    frames_lost: u64,
    errors: Vec<String>,
}

impl Report {
    /// Of these workers.
    pub(super) fn of(workers: &[Worker]) -> Self {
        let mut report = Self::default();
        for worker in workers {
            report.add(worker);
        }
        report
    }

    fn add(&mut self, worker: &Worker) {
        let counters = worker.counters();
        self.received += counters.received.packets.get();
        self.transmitted += counters.transmitted.packets.get();
        self.passed += counters.passed.packets.get();
        for &reason in DropReason::ALL {
            let (packets, _) = counters.dropped(reason);
            if packets > 0 {
                *self.drops.entry(reason.name()).or_default() += packets;
            }
        }
        self.frames_lost += counters.io.frames_lost.get();
        self.errors.extend(worker.error());
    }
}

/// `stopped: 10 packets received, 8 transmitted, 1 passed, 1 dropped (no-real 1)`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dropped: u64 = self.drops.values().sum();
        write!(
            f,
            "stopped: {} packets received, {} transmitted, {} passed, {dropped} dropped",
            self.received, self.transmitted, self.passed
        )?;
        if !self.drops.is_empty() {
            let reasons = self
                .drops
                .iter()
                .map(|(name, packets)| format!("{name} {packets}"));
            write!(f, " ({})", reasons.collect::<Vec<_>>().join(", "))?;
        }
        if self.frames_lost > 0 {
            write!(
                f,
                "; {} frames were lost, please report this",
                self.frames_lost
            )?;
        }
        for error in &self.errors {
            write!(f, "\n{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_line_unless_something_broke() {
        let mut report = Report {
            received: 10,
            transmitted: 8,
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "stopped: 10 packets received, 8 transmitted, 0 passed, 0 dropped"
        );
        report.passed = 1;
        report.drops.insert("no-real", 1);
        assert_eq!(
            report.to_string(),
            "stopped: 10 packets received, 8 transmitted, 1 passed, 1 dropped (no-real 1)"
        );
        report.frames_lost = 2;
        report.errors.push("worker of queue 0: panicked".to_owned());
        assert!(
            report
                .to_string()
                .ends_with("; 2 frames were lost, please report this\nworker of queue 0: panicked")
        );
    }
}
