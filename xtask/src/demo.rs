//! `cargo xtask demo`: build, then watch.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// Builds the optimised binary and becomes `katran-xsk demo`; returns only when that fails.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::demo()?;
    shell::run(shell::cargo().args(["build", "--release", "--locked", "--package=katran-xsk"]))?;
    let binary = shell::target_folder()?.join("release/katran-xsk");
    // Network namespaces need root.
    let mut demo = shell::as_root(binary)?;
    demo.arg("demo").args(args);
    shell::announce(&demo);
    // In our place rather than below us: Ctrl-C reaches the demo, and nobody stops waiting for it
    // while it takes its namespaces down.
    Err(demo.exec()).context("cannot start the demo")
}
