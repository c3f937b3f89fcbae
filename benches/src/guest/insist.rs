//! `--mode zero-copy`: zero-copy, or an error that says why not.

use anyhow::{Result, ensure};

use super::boot;
use super::scenario::Scenario;
use super::site::Site;
use super::traffic::{modes, stop};

/// Starts a balancer that insists.
pub(super) fn run(site: &Site, scenario: &Scenario) -> Result<String> {
    let mut launch = site.launch();
    launch.arguments = ["--mode", "zero-copy"].map(str::to_owned).to_vec();
    if scenario.zero_copy {
        let balancer = launch.start(site.lab())?;
        let modes = modes(&balancer)?;
        ensure!(
            modes.iter().all(|mode| mode == "zero-copy"),
            "the sockets say {modes:?}"
        );
        return stop(balancer);
    }
    let (status, said) = launch.fail(site.lab())?;
    let release = boot::release()?;
    ensure!(!status.success(), "it ended well: {said}");
    for word in [site.driver(), &release, "zero-copy", "auto"] {
        ensure!(said.contains(word), "it does not say {word}: {said}");
    }
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
