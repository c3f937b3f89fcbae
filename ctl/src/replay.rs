//! `katran-xsk replay`.

use std::process::ExitCode;

use crate::cli::ReplayArgs;

/// Runs the command.
pub fn run(_args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
