//! An object per line: the machine first, then the rows.

use anyhow::Result;
use serde::Serialize;

use super::Report;
use crate::bench::{load::Load, machine::Machine};

#[derive(Serialize)]
#[serde(tag = "bench", rename = "machine")]
struct MachineLine<'a> {
    #[serde(flatten)]
    machine: &'a Machine,
    background: &'a Load,
}

/// The report as JSON lines.
pub(crate) fn lines(report: &Report) -> Result<String> {
    let machine = MachineLine {
        machine: &report.machine,
        background: &report.background,
    };
    let mut text = serde_json::to_string(&machine)?;
    text.push('\n');
    for row in &report.rows {
        text.push_str(&serde_json::to_string(row)?);
        text.push('\n');
    }
    Ok(text)
}
