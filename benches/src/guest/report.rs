//! What the host hears: one line of JSON for each thing, on a serial port of its own.
//!
//! `{"fact":NAME,"value":…}`, `{"step":NAME,"expect":[NAME,…]}` before a step, with the names of the checks
//! that it must make, `{"check":NAME,"ok":BOOL,"detail":TEXT}` for each of them, and `{"end":true}` last.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::scenario::Step;

/// The serial port; the kernel's own messages go to the first.
const PORT: &str = "/dev/ttyS1";

/// The way to the host.
pub(super) struct Report {
    port: Mutex<File>,
}

impl Report {
    /// Opens the port.
    pub(super) fn open() -> Result<Self> {
        let port = OpenOptions::new()
            .write(true)
            .open(PORT)
            .with_context(|| format!("cannot open {PORT}"))?;
        Ok(Self {
            port: Mutex::new(port),
        })
    }

    /// Something that was seen or measured.
    pub(super) fn fact(&self, name: &str, value: impl Into<Value>) {
        self.say(&json!({"fact": name, "value": value.into()}));
    }

    /// The checks of the step that begins: one that is never heard of was not made.
    pub(super) fn begin(&self, step: Step, checks: &[&str]) {
        self.say(&json!({"step": step, "expect": checks}));
    }

    /// Something that had to hold: what was seen, or why it did not.
    pub(super) fn check(&self, name: &str, outcome: Result<String>) {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        self.say(&json!({"check": name, "ok": ok, "detail": detail}));
    }

    /// The last word.
    pub(super) fn end(&self) {
        self.say(&json!({"end": true}));
    }

    fn say(&self, line: &Value) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        // Without the port nobody is there to be told about it; the host misses the end.
        let _ = writeln!(port, "{line}").and_then(|()| port.flush());
    }
}
