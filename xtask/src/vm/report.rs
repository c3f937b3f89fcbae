//! What machines report, and what is made of it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    accelerator::Accelerator,
    initramfs::{CONNECTIONS, DATAGRAMS},
    matrix::{Card, Modes, Version},
    plan::{Limit, Work},
};

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
    /// Steps that announced checks.
    begun: Vec<String>,
    /// Names of those checks.
    announced: Vec<String>,
    checks: Vec<Check>,
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
        if let (Some(step), Some(names)) = (value["step"].as_str(), value["expect"].as_array()) {
            let known = self.announced.len();
            self.announced
                .extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
            if self.announced.len() > known {
                self.begun.push(step.to_owned());
            }
        }
        let name = value["check"].as_str()?;
        self.checks.push(Check {
            name: name.to_owned(),
            ok: value["ok"] == true,
            detail: value["detail"].as_str().unwrap_or_default().to_owned(),
        });
        self.checks.last()
    }

    fn is_nothing(&self) -> bool {
        self.facts.is_empty() && self.checks.is_empty() && !self.ended
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

    /// Checks that were announced and never heard of.
    fn missing(&self) -> impl Iterator<Item = &String> {
        self.announced
            .iter()
            .filter(|name| self.checks.iter().all(|check| check.name != **name))
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
    pub(super) work: Work,
    pub(super) heard: Heard,
    /// Why it cannot run on this computer.
    pub(super) lacks: Option<String>,
    /// Why the machine did not run to its end.
    pub(super) error: Option<String>,
    pub(super) elapsed: Duration,
}

impl Row {
    /// A machine that has not run yet.
    pub(super) fn new(kernel: &str, version: Version, card: &Card, work: Work) -> Self {
        Self {
            kernel: kernel.to_owned(),
            card: card.name,
            expected: card.expected(version),
            work,
            heard: Heard::default(),
            lacks: None,
            error: None,
            elapsed: Duration::ZERO,
        }
    }

    /// The same of a machine that cannot run here.
    pub(super) fn lacking(self, why: String) -> Self {
        Self {
            lacks: Some(why),
            ..self
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
        if let Some(why) = &self.lacks {
            return vec![why.clone()];
        }
        if let Some(error) = self.error.as_ref().filter(|_| self.heard.is_nothing()) {
            return vec![format!("{error}; it said nothing")];
        }
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
        let steps = self.work.steps().iter();
        let left_out = steps.filter(|step| self.heard.begun.iter().all(|begun| begun != *step));
        problems.extend(left_out.map(|step| format!("the step {step} announced no check")));
        let missing = self.heard.missing();
        problems.extend(missing.map(|name| format!("{name}: was not checked")));
        problems.extend(self.unserved());
        let kernel = self.heard.text("kernel");
        if kernel != self.kernel {
            problems.push(format!("the machine runs kernel {kernel}"));
        }
        problems
    }

    /// Connections and datagrams that were not sent or not served, or not at once where the driver must
    /// not lose any.
    fn unserved(&self) -> Vec<String> {
        if self.work == Work::Count {
            return Vec::new();
        }
        let wanted = [("connections", CONNECTIONS), ("datagrams", DATAGRAMS)];
        let unserved = wanted.into_iter().filter(|(what, wanted)| {
            ["sent", "served"]
                .iter()
                .any(|end| self.heard.fact(&format!("{what}-{end}")) != *wanted)
        });
        let mut problems: Vec<String> = unserved
            .map(|(what, wanted)| {
                let share = self.heard.share(what);
                format!("{share} {what} were served, {wanted}/{wanted} were expected")
            })
            .collect();
        match self.heard.resent() {
            None => problems.push("nobody says what was sent again".to_owned()),
            Some(resent) if resent > 0 && self.expected.zero_copy => {
                problems.push(format!("{resent} were answered only when sent again"));
            }
            Some(_) => {}
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
            "broken": self.is_broken(),
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

    fn is_broken(&self) -> bool {
        matches!(self.work, Work::Break { .. })
    }

    fn cells(&self) -> [String; 10] {
        let (held, all) = self.held();
        let result = match (&self.lacks, self.ok()) {
            (Some(_), _) => "not run",
            (None, true) => "ok",
            (None, false) => "FAILED",
        };
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
            if self.is_broken() { "yes" } else { "no" }.to_owned(),
            format!("{held}/{all}"),
            format!("{result} ({:.0} s)", self.elapsed.as_secs_f64()),
        ]
    }
}

/// What came of machines.
pub(super) struct Run {
    pub(super) rows: Vec<Row>,
    pub(super) elapsed: Duration,
    pub(super) limit: Limit,
    /// Unknown if none needed it.
    pub(super) accelerator: Option<Accelerator>,
}

impl Run {
    /// The rows, what is not as expected, and the time.
    pub(super) fn table(&self) -> String {
        let mut text = table(&self.rows);
        let accelerator = self.accelerator.map_or_else(
            || "TCG, instructions counted".to_owned(),
            |accelerator| accelerator.to_string(),
        );
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{} machines ({accelerator}) in {:.0} s",
            self.rows.len(),
            self.elapsed.as_secs_f64()
        );
        if let Limit::Together(limit) = self.limit {
            let _ = write!(text, ", {} s were allowed", limit.as_secs());
        }
        text.push('\n');
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({
            "rows": rows,
            "seconds": self.elapsed.as_secs_f64(),
            "limit_seconds": match self.limit {
                Limit::Together(limit) => Some(limit.as_secs()),
                Limit::Each(_) | Limit::None => None,
            },
            "accelerator": self.accelerator.map(|accelerator| accelerator.to_string()),
        })
    }
}

/// A line for each row, and below it what is not as expected.
fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        [
            "kernel",
            "card",
            "expected",
            "seen",
            "connections",
            "datagrams",
            "resent",
            "broken",
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
{"step":"traffic","expect":["connections","frames"]}
{"fact":"xdp","value":"native"}
{"fact":"modes","value":["zero-copy","zero-copy"]}
{"fact":"connections-sent","value":200}
{"fact":"connections-served","value":200}
{"fact":"connections-resent","value":0}
{"check":"connections","ok":true,"detail":"200"}
{"fact":"datagrams-sent","value":2000}
{"fact":"datagrams-served","value":2000}
{"fact":"datagrams-resent","value":0}
{"check":"frames","ok":true,"detail":"all"}
{"step":"insist","expect":["insist"]}
{"check":"insist","ok":true,"detail":"zero-copy"}
{"step":"busy-poll","expect":["busy poll"]}
{"check":"busy poll","ok":true,"detail":"served"}
{"step":"faults","expect":["link"]}
{"fact":"figure link, seconds","value":0.5}
{"check":"link","ok":true,"detail":"0.5 s"}
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
            work: Work::Break { cycles: 100 },
            heard,
            lacks: None,
            error: None,
            elapsed: Duration::from_secs(9),
        }
    }

    /// The only problem of a machine that says this instead of that.
    fn problem(that: &str, this: &str) -> String {
        assert_eq!(GOOD.matches(that).count(), 1, "{that}");
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
        let json = row.json();
        assert_eq!(json["ok"], true);
        assert_eq!(json["broken"], true);
        assert_eq!(json["resent"], 0);
        assert_eq!(json["datagrams"]["served"], 2000);
        assert_eq!(json["figures"]["link, seconds"], 0.5);

        let run = Run {
            rows: vec![row],
            elapsed: Duration::from_secs(10),
            limit: Limit::Together(Duration::from_mins(10)),
            accelerator: Some(Accelerator::Tcg),
        };
        let table = run.table();
        let words: Vec<_> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            words,
            [
                "7.3.4 igb native, zero-copy native, zero-copy 200/200 2000/2000 0 yes 5/5 ok (9 s)",
                "1 machines (TCG) in 10 s, 600 s were allowed"
            ]
        );
        let json = run.json();
        assert_eq!(json["seconds"], 10.0);
        assert_eq!(json["limit_seconds"], 600);
        assert_eq!(json["rows"][0]["ok"], true);
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
            (
                r#""ok":true,"detail":"all""#,
                r#""ok":false,"detail":"all""#,
                "frames: all",
            ),
            (
                r#"{"check":"frames","ok":true,"detail":"all"}"#,
                "",
                "frames: was not checked",
            ),
            (
                r#"{"check":"link","ok":true,"detail":"0.5 s"}"#,
                r#"{"check":"link","ok":tr"#,
                "link: was not checked",
            ),
            (r#""7.3.4""#, r#""7.3.5""#, "runs kernel 7.3.5"),
            (
                r#"connections-sent","value":200"#,
                r#"connections-sent","value":100"#,
                "200/100 connections were served, 200/200",
            ),
            (
                r#"datagrams-sent","value":2000"#,
                r#"datagrams-sent","value":1000"#,
                "2000/1000 datagrams",
            ),
            (
                r#"datagrams-served","value":2000"#,
                r#"datagrams-served","value":1999"#,
                "1999/2000 datagrams were served",
            ),
            (
                r#"{"fact":"datagrams-served","value":2000}"#,
                "",
                "–/2000 datagrams were served",
            ),
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
    fn a_step_that_a_machine_leaves_out_is_missed() {
        let row = row(&GOOD
            .replace(r#"{"step":"insist","expect":["insist"]}"#, "")
            .replace(r#"{"check":"insist","ok":true,"detail":"zero-copy"}"#, "")
            .replace(r#""expect":["link"]"#, r#""expect":[]"#));
        assert_eq!(
            row.problems(),
            [
                "the step insist announced no check",
                "the step faults announced no check"
            ]
        );
    }

    #[test]
    fn who_counts_instructions_serves_nobody() {
        let said = r#"
{"fact":"kernel","value":"7.3.4"}
{"fact":"xdp","value":"native"}
{"fact":"modes","value":["zero-copy"]}
{"step":"instructions","expect":["instructions"]}
{"check":"instructions","ok":true,"detail":""}
{"end":true}
"#;
        let mut row = row(said);
        row.work = Work::Count;
        assert_eq!(row.problems(), [""; 0]);
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
    fn a_machine_that_cannot_run_here_says_why_and_nothing_else() {
        let row = row("").lacking("no TAP devices".to_owned());
        assert!(!row.ok());
        assert_eq!(row.problems(), ["no TAP devices"]);
        assert!(table(&[row]).contains("not run"));
    }

    #[test]
    fn a_machine_that_did_not_come_up_says_why_and_nothing_else() {
        let mut row = row("");
        row.error = Some("QEMU ended with 1".to_owned());
        assert_eq!(row.problems(), ["QEMU ended with 1; it said nothing"]);
        row.error = None;
        assert!(
            row.problems()
                .contains(&"the machine's last word is missing".to_owned())
        );
    }

    #[test]
    fn lines_that_are_no_json_are_not_the_end() {
        assert!(is_end(r#"{"end":true}"#));
        assert!(!is_end("{\"end\":") && !is_end(r#"{"check":"end"}"#));
    }
}
