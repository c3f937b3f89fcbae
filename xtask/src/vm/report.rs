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

    /// How often something was sent again because no answer came; `None` as long as nobody said.
    fn resent(&self) -> Option<u64> {
        let of = |what: &str| self.fact(&format!("{what}-resent")).as_u64();
        Some(of("connections")? + of("datagrams")?)
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
    /// A machine that cannot be started.
    pub(super) fn unable(kernel: &str, card: &'static str, expected: Modes, why: String) -> Self {
        Self {
            kernel: kernel.to_owned(),
            card,
            expected,
            heard: Heard::default(),
            error: Some(why),
            elapsed: Duration::ZERO,
        }
    }

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
        // A machine that did not get so far has told so already.
        if let Some(kernel) = self.heard.fact("kernel").as_str()
            && kernel != self.kernel
        {
            problems.push(format!("the machine runs kernel {kernel}"));
        }
        match self.heard.resent() {
            Some(resent) if resent > 0 && self.expected.zero_copy => {
                problems.push(format!("{resent} were answered only when sent again"));
            }
            _ => {}
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
            "resent": self.heard.resent(),
            "checks": checks,
            "figures": figures,
            "ok": self.ok(),
            "problems": self.problems(),
            "seconds": self.elapsed.as_secs_f64(),
        })
    }

    fn cells(&self) -> [String; 9] {
        let (held, all) = self.held();
        [
            self.kernel.clone(),
            self.card.to_owned(),
            self.expected.to_string(),
            self.heard.modes(),
            self.heard.share("connections"),
            self.heard.share("datagrams"),
            self.heard
                .resent()
                .map_or_else(|| "–".to_owned(), |resent| resent.to_string()),
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
            "resent",
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
{"fact":"kernel","value":"7.3.4"}
{"fact":"xdp","value":"native"}
{"fact":"modes","value":["zero-copy","zero-copy"]}
{"fact":"connections-sent","value":200}
{"fact":"connections-served","value":200}
{"fact":"connections-resent","value":0}
{"fact":"datagrams-sent","value":2000}
{"fact":"datagrams-served","value":2000}
{"fact":"datagrams-resent","value":0}
{"fact":"figure link, seconds","value":0.5}
{"check":"frames","ok":true,"detail":"all"}
{"end":true}
"#;

    fn row(said: &str) -> Row {
        let mut heard = Heard::default();
        for line in said.lines() {
            heard.read(line);
        }
        Row {
            kernel: "7.3.4".to_owned(),
            card: "igb",
            expected: Modes {
                native: true,
                zero_copy: true,
            },
            heard,
            error: None,
            elapsed: Duration::from_secs(9),
        }
    }

    /// The only problem of a machine that says this instead of that.
    fn problem(that: &str, this: &str) -> String {
        assert!(GOOD.contains(that), "{that}");
        let row = row(&GOOD.replace(that, this));
        assert!(!row.ok());
        let mut problems = row.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn a_good_machine_has_no_problems() {
        let row = row(GOOD);
        assert_eq!(row.problems(), [""; 0]);
        let table = table(std::slice::from_ref(&row));
        let line = table.lines().nth(1).expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "7.3.4 igb native, zero-copy native, zero-copy 200/200 2000/2000 0 1/1 ok (9 s)"
        );
        let json = row.json();
        assert_eq!(json["ok"], true);
        assert_eq!(json["resent"], 0);
        assert_eq!(json["datagrams"]["served"], 2000);
        assert_eq!(json["figures"]["link, seconds"], 0.5);
    }

    #[test]
    fn each_thing_that_is_missing_or_wrong_is_a_problem() {
        for (that, this, words) in [
            (r#"{"end":true}"#, "", "last word"),
            (
                r#""native""#,
                r#""generic""#,
                "generic, zero-copy were seen",
            ),
            (
                r#"["zero-copy","zero-copy"]"#,
                r#"["zero-copy","copy"]"#,
                "zero-copy and copy",
            ),
            (r#""ok":true"#, r#""ok":false"#, "frames: all"),
            (
                r#"{"check":"frames","ok":true,"detail":"all"}"#,
                "",
                "nothing was checked",
            ),
            (r#""7.3.4""#, r#""7.3.5""#, "runs kernel 7.3.5"),
            (
                r#"datagrams-resent","value":0"#,
                r#"datagrams-resent","value":3"#,
                "3 were answered",
            ),
        ] {
            let problem = problem(that, this);
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn what_a_copying_driver_loses_is_told_but_no_problem() {
        let said = GOOD.replace("\"zero-copy\"", "\"copy\"").replace(
            r#"datagrams-resent","value":0"#,
            r#"datagrams-resent","value":3"#,
        );
        let mut row = row(&said);
        row.expected.zero_copy = false;
        assert_eq!(row.problems(), [""; 0]);
        assert_eq!(row.json()["resent"], 3);
    }

    #[test]
    fn a_machine_that_could_not_start_says_why() {
        let modes = Modes {
            native: true,
            zero_copy: false,
        };
        let row = Row::unable("7.3.4", "virtio", modes, "no TAP devices".to_owned());
        assert!(!row.ok());
        assert!(row.problems().contains(&"no TAP devices".to_owned()));
    }

    #[test]
    fn lines_that_are_no_json_are_not_the_end() {
        assert!(is_end(r#"{"end":true}"#));
        assert!(!is_end("{\"end\":") && !is_end(r#"{"check":"end"}"#));
    }
}
