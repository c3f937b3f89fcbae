//! What the demo shows on the terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two updates of a counter.
const REFRESH: Duration = Duration::from_millis(100);

/// Back to the line's begin, and everything on it away.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Prints a line. Unlike with `println!`, a reader that has gone is an error, not a panic.
pub(super) fn say(text: impl fmt::Display) -> io::Result<()> {
    writeln!(stdout(), "{text}")
}

/// A line about a step: its title, a counter while it runs where the output is a terminal, and its
/// outcome at the end.
pub(super) struct Progress {
    title: String,
    started: Instant,
    terminal: bool,
    shown: Mutex<Instant>,
}

impl Progress {
    /// Begins a step.
    pub(super) fn new(title: &str) -> Self {
        let started = Instant::now();
        let progress = Self {
            title: title.to_owned(),
            started,
            terminal: stdout().is_terminal(),
            shown: Mutex::new(started),
        };
        if progress.terminal {
            progress.show("…");
        }
        progress
    }

    /// `count` of `total` are through.
    pub(super) fn count(&self, count: usize, total: usize) {
        if !self.terminal {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.elapsed() >= REFRESH {
            *shown = Instant::now();
            self.show(&format!("{count}/{total}"));
        }
    }

    /// The step is over.
    pub(super) fn done(self, outcome: &str) -> io::Result<()> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let clear = if self.terminal { CLEAR_LINE } else { "" };
        say(format_args!(
            "{clear}{}: {outcome} ({elapsed:.1} s)",
            self.title
        ))
    }

    fn show(&self, state: &str) {
        let mut output = stdout().lock();
        // A terminal that does not take output any more will say so at the next whole line.
        let _ = write!(output, "{CLEAR_LINE}{}: {state}", self.title).and_then(|()| output.flush());
    }
}

/// What the demo promises, and whether it held.
#[derive(Default)]
pub(super) struct Checks {
    lines: Vec<(bool, String, Vec<String>)>,
}

impl Checks {
    /// Notes a promise; `failures` are shown when it did not hold.
    pub(super) fn add(&mut self, held: bool, promise: String, failures: &[String]) {
        self.lines.push((held, promise, failures.to_vec()));
    }

    /// Promises.
    pub(super) fn total(&self) -> usize {
        self.lines.len()
    }

    /// Promises that did not hold.
    pub(super) fn failed(&self) -> usize {
        self.lines.iter().filter(|(held, ..)| !held).count()
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (held, promise, failures) in &self.lines {
            let mark = if *held { "ok    " } else { "FAILED" };
            writeln!(f, "  {mark} {promise}")?;
            if !held {
                for failure in failures {
                    writeln!(f, "           {failure}")?;
                }
            }
        }
        Ok(())
    }
}

/// Rows in columns: the first to the left, the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column == 0 {
                format!("  {cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
            text.push_str(&cell);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "long"], ["longer", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "  a       long\n  longer     1\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn a_check_that_did_not_hold_says_why() {
        let mut checks = Checks::default();
        checks.add(
            true,
            "the sky is blue".to_owned(),
            &["not shown".to_owned()],
        );
        assert_eq!(checks.failed(), 0);
        checks.add(false, "pigs fly".to_owned(), &["no wings".to_owned()]);
        assert_eq!(checks.failed(), 1);
        let text = checks.to_string();
        assert!(text.contains("FAILED pigs fly") && text.contains("no wings"));
        assert!(!text.contains("not shown"));
    }
}
