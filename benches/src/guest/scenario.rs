//! What the host wants.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Where the host puts it.
const FILE: &str = "/scenario.json";

/// One machine's work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// Kernel modules in the order of their dependencies.
    pub(super) modules: Vec<PathBuf>,
    /// Ethernet address of the card under test.
    pub(super) card: String,
    /// Ethernet address of the card behind which clients and reals are.
    pub(super) far_card: String,
    /// Queues that have to see traffic.
    pub(super) queues: usize,
    /// Whether the card has zero-copy under this kernel.
    pub(super) zero_copy: bool,
    /// What to do, in this order.
    pub(super) steps: Vec<Step>,
    /// TCP connections in all.
    pub(super) connections: usize,
    /// UDP datagrams in all.
    pub(super) datagrams: usize,
    /// Starts and stops of the balancer, to see whether something is left each time.
    pub(super) cycles: usize,
    /// Whether a person wants to look around at the end.
    pub(super) keep: bool,
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// Connections and datagrams through a balancer that chooses its modes itself.
    Traffic,
    /// A balancer that insists on zero-copy.
    Insist,
    /// Connections and datagrams while the kernel polls for the sockets.
    BusyPoll,
    /// Instructions for each packet, on a machine whose clock counts them.
    Instructions,
    /// What happens to a card; it is gone afterwards.
    Faults,
}

impl Scenario {
    /// Reads the host's file.
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
        serde_json::from_str(&text).with_context(|| format!("{FILE} makes no sense"))
    }
}
