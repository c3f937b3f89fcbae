//! Instructions by case: stored, read and compared.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    str::FromStr,
};

use anyhow::{Context as _, Error, Result};

/// Change of a count, either way, that is left alone.
pub(super) const TOLERANCE_PERCENT: f64 = 5.0;

/// What a packet of a small burst may take, as a multiple of one of a full burst. It is about instructions;
/// `docs/performance.md` has the times.
const SMALL_BURST_LIMIT: f64 = 1.75;

/// Instructions of a packet, by case. The case `X-burst-N` is `X` in bursts of N packets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts(BTreeMap<String, f64>);

/// What a comparison found.
pub(super) struct Report {
    /// A line for each case.
    pub(super) text: String,
    /// Every case is in both, and nearly the same, and small bursts do not cost too much.
    pub(super) is_same: bool,
}

impl Counts {
    pub(super) fn add(&mut self, case: &str, instructions: f64) {
        self.0.insert(case.to_owned(), instructions);
    }

    /// Compares what was counted now with these.
    pub(super) fn compare(&self, now: &Self) -> Report {
        let mut report = Report {
            text: String::new(),
            is_same: true,
        };
        let mut cases: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        cases.sort();
        cases.dedup();
        for case in cases {
            let line = match (self.0.get(case), now.0.get(case)) {
                (Some(stored), Some(now)) => {
                    let change = (now / stored - 1.0) * 100.0;
                    let is_same = change.abs() <= TOLERANCE_PERCENT;
                    report.is_same &= is_same;
                    let mark = if is_same { "" } else { "  NOT AS STORED" };
                    format!("{case:<18} {now:8.1}  stored {stored:8.1}  {change:+5.1} %{mark}")
                }
                (None, _) => {
                    report.is_same = false;
                    format!("{case:<18} is not stored")
                }
                (_, None) => {
                    report.is_same = false;
                    format!("{case:<18} is stored but not counted any more")
                }
            };
            let _ = writeln!(report.text, "{line}");
        }
        for (case, ratio) in now.small_bursts() {
            if ratio > SMALL_BURST_LIMIT {
                report.is_same = false;
                let _ = writeln!(
                    report.text,
                    "{case:<18} {ratio:.2} times a full burst's, more than {SMALL_BURST_LIMIT}"
                );
            }
        }
        report
    }

    /// Cases of small bursts, each as a multiple of the same in full bursts.
    fn small_bursts(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(case, instructions)| {
            let (whole, _) = case.split_once("-burst-")?;
            Some((case.as_str(), instructions / self.0.get(whole)?))
        })
    }
}

/// The form of the file: a case and its count a line.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, instructions) in &self.0 {
            writeln!(f, "{case} {instructions:.1}")?;
        }
        Ok(())
    }
}

impl FromStr for Counts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let counts = text.lines().map(|line| {
            let words = line.split_once(' ');
            let (case, count) = words.with_context(|| format!("`{line}`: no case and count"))?;
            let count = count.parse().with_context(|| format!("`{line}`"))?;
            Ok((case.to_owned(), count))
        });
        Ok(Self(counts.collect::<Result<_>>()?))
    }
}

/// The number that callgrind ends with; `None` if there is none or nothing was counted.
pub(super) fn collected(words: &str) -> Option<u64> {
    let line = words.lines().find(|line| line.contains("Collected :"))?;
    let number = line.rsplit(' ').next()?.parse().ok()?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "hit 425.7\nnew 1030.3\n";
        assert_eq!(counts(text).to_string(), text);
        assert!("hit".parse::<Counts>().is_err());
        assert!("hit many".parse::<Counts>().is_err());
    }

    #[test]
    fn five_percent_either_way_are_left_alone() {
        let stored = counts("hit 400\n");
        for (now, is_same) in [
            ("hit 400\n", true),
            ("hit 419.9\n", true),
            ("hit 420.1\n", false),
            ("hit 380.1\n", true),
            ("hit 379.9\n", false),
            ("", false),
            ("hit 400\nnew 1\n", false),
        ] {
            let report = stored.compare(&counts(now));
            assert_eq!(report.is_same, is_same, "{now}: {}", report.text);
        }
    }

    #[test]
    fn small_bursts_may_take_so_much_more_and_no_more() {
        for (now, is_same) in [
            ("hit 400\nhit-burst-1 699\n", true),
            ("hit 400\nhit-burst-1 701\n", false),
        ] {
            let report = counts(now).compare(&counts(now));
            assert_eq!(report.is_same, is_same, "{now}: {}", report.text);
        }
    }

    #[test]
    fn callgrind_says_how_many() {
        let words = "==7== Events    : Ir\n==7== Collected : 27246942\n==7== \n";
        assert_eq!(collected(words), Some(27_246_942));
        assert_eq!(collected("==7== Collected : 0\n"), None);
        assert_eq!(collected("Segmentation fault"), None);
    }
}
