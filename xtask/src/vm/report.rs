//! What machines report, and what is made of it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::matrix::Modes;

/// One thing that had to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) ok: bool,
    pub(super) detail: String,
}

/// What one machine said.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    facts: BTreeMap<String, Value>,
    pub(super) checks: Vec<Check>,
    ended: bool,
}

/// Whether a line is the machine's last word.
pub(super) fn is_end(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value["end"] == true)
}

impl Heard {
    /// Takes a line; gives the check that it is, if it is one.
    pub(super) fn read(&mut self, line: &str) -> Option<&Check> {
        let value: Value = serde_json::from_str(line).ok()?;
        self.ended |= value["end"] == true;
        if let Some(name) = value["fact"].as_str() {
            self.facts.insert(name.to_owned(), value["value"].clone());
        }
        let name = value["check"].as_str()?;
        self.checks.push(Check {
            name: name.to_owned(),
            ok: value["ok"] == true,
            detail: value["detail"].as_str().unwrap_or_default().to_owned(),
        });
        self.checks.last()
    }

    fn fact(&self, name: &str) -> &Value {
        self.facts.get(name).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> &str {
        self.fact(name).as_str().unwrap_or("–")
    }

    /// The modes it ran with: `native, zero-copy`, the sockets' once if all have the same.
    fn modes(&self) -> String {
        let mut modes: Vec<&str> = self
            .fact("modes")
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        modes.dedup();
        format!("{}, {}", self.text("xdp"), modes.join(" and "))
    }

    fn share(&self, what: &str) -> String {
        let number = |name: String| {
            let fact = self.fact(&name);
            fact.as_u64()
                .map_or_else(|| "–".to_owned(), |n| n.to_string())
        };
        format!(
            "{}/{}",
            number(format!("{what}-served")),
            number(format!("{what}-sent"))
        )
    }

    /// Recovery times and other figures, by name.
    pub(super) fn figures(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.facts
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("figure ")?, value)))
    }
}

/// One line of the matrix.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kernel: String,
    pub(super) card: &'static str,
    pub(super) expected: Modes,
    pub(super) heard: Heard,
    /// Why the machine did not run to its end.
    pub(super) error: Option<String>,
    pub(super) elapsed: Duration,
}

impl Row {
    /// Whether everything is as expected.
    pub(super) fn ok(&self) -> bool {
        self.problems().is_empty()
    }

    /// Checks that held, and all of them.
    fn held(&self) -> (usize, usize) {
        let checks = &self.heard.checks;
        (checks.iter().filter(|check| check.ok).count(), checks.len())
    }

    /// What is not as expected.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .heard
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| format!("{}: {}", check.name, check.detail))
            .collect();
        problems.extend(self.error.clone());
        if !self.heard.ended {
            problems.push("the machine's last word is missing".to_owned());
        }
        let seen = self.heard.modes();
        if seen != self.expected.to_string() {
            problems.push(format!("{} were expected, {seen} were seen", self.expected));
        }
        if self.heard.checks.is_empty() {
            problems.push("nothing was checked".to_owned());
        }
        problems
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .heard
            .checks
            .iter()
            .map(|check| json!({"check": check.name, "ok": check.ok, "detail": check.detail}))
            .collect();
        let figures: BTreeMap<_, _> = self.heard.figures().collect();
        json!({
            "kernel": self.kernel,
            "card": self.card,
            "driver": self.heard.fact("driver"),
            "expected": {"xdp": self.expected.xdp(), "socket": self.expected.socket()},
            "seen": {"xdp": self.heard.fact("xdp"), "sockets": self.heard.fact("modes")},
            "connections": {
                "sent": self.heard.fact("connections-sent"),
                "served": self.heard.fact("connections-served"),
            },
            "datagrams": {
                "sent": self.heard.fact("datagrams-sent"),
                "served": self.heard.fact("datagrams-served"),
            },
            "checks": checks,
            "figures": figures,
            "ok": self.ok(),
            "problems": self.problems(),
            "seconds": self.elapsed.as_secs_f64(),
        })
    }

    fn cells(&self) -> [String; 8] {
        let (held, all) = self.held();
        [
            self.kernel.clone(),
            self.card.to_owned(),
            self.expected.to_string(),
            self.heard.modes(),
            self.heard.share("connections"),
            self.heard.share("datagrams"),
            format!("{held}/{all}"),
            format!(
                "{} ({:.0} s)",
                if self.ok() { "ok" } else { "FAILED" },
                self.elapsed.as_secs_f64()
            ),
        ]
    }
}

/// The matrix, a line for each row, and below it what is not as expected.
pub(super) fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        [
            "kernel",
            "card",
            "expected",
            "seen",
            "connections",
            "datagrams",
            "checks",
            "result",
        ]
        .map(str::to_owned),
    ];
    cells.extend(rows.iter().map(Row::cells));
    let width = |column: usize| {
        let lengths = cells.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    for row in rows {
        for problem in row.problems() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {}: {problem}", row.kernel, row.card);
        }
    }
    text
}
