//! `katran-xsk check`.

use std::process::ExitCode;

use crate::cli::CheckArgs;

/// Runs the command.
pub fn run(_args: &CheckArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
