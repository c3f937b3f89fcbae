//! `katran-xsk demo`.

use std::process::ExitCode;

use crate::cli::DemoArgs;

/// Runs the command.
pub fn run(_args: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
