//! `katran-xsk demo`: the lab and what happens in it are in [`benches`].

use std::process::ExitCode;

use benches::demo::DemoOptions;

/// Runs the command.
pub fn run(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    benches::demo::run(options)?;
    Ok(ExitCode::SUCCESS)
}
