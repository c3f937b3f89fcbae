//! What decides about packets and moves them, as the rest of `run` sees it.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use dataplane::service::{Publisher, ServiceControl};

use super::{health_check::HealthCheckProgram, report::Report};
use crate::control::{ServiceSink, Worker};

/// Attached to the interface while it lives, taken down in order when it is stopped or dropped.
pub(super) trait Datapath {
    /// As the command line names it.
    fn name(&self) -> &'static str;

    /// The numbering, at its start.
    fn services(&self) -> ServiceControl;

    /// The workers' source of tables.
    fn publisher(&self) -> Arc<Publisher>;

    /// The XDP program.
    fn sink(&self) -> Box<dyn ServiceSink>;

    /// The tc program of health checks.
    fn health_checks(&self) -> Arc<Mutex<HealthCheckProgram>>;

    /// In the order in which they are shown.
    fn workers(&self) -> &[Worker];

    /// What came up during the start.
    fn warnings(&self) -> &[String];

    /// Where the XDP program runs, and why not where it was first tried.
    fn xdp_mode(&self) -> (String, Option<String>);

    /// Looks after workers and tables; to be called about twice a second. Fails when nothing is left to
    /// serve with.
    fn care(&self) -> anyhow::Result<()>;

    /// Takes everything down and says what it did.
    fn stop(self: Box<Self>) -> Report;

    /// Lines about itself for the summary of the start.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}
