//! `katran-xsk shell`.

use std::process::ExitCode;

use crate::cli::ClientArgs;

/// Runs the command.
pub fn run(_args: &ClientArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
