//! `katran-xsk decap`.

use std::process::ExitCode;

use crate::cli::DecapArgs;

/// Runs the command.
pub fn run(_args: &DecapArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
