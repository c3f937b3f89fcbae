//! `katran-xsk bench`: what is measured and how is in [`benches`].

use std::process::ExitCode;

use benches::bench::BenchOptions;

/// Runs the command.
pub fn run(options: &BenchOptions) -> anyhow::Result<ExitCode> {
    benches::bench::run(options)?;
    Ok(ExitCode::SUCCESS)
}
