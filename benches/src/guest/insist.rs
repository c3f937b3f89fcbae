//! `--mode zero-copy`: zero-copy, or an error that says why not.

use anyhow::{Result, ensure};

use super::boot;
use super::observe::{ensure_serves, stop};
use super::site::{Site, insisting};

/// Starts a balancer that insists.
pub(super) fn run(site: &Site) -> Result<String> {
    let launch = insisting(site.launch());
    if site.zero_copy() {
        let balancer = launch.start(site.lab())?;
        let serves = ensure_serves(&balancer, site.queues(), true)?;
        return Ok(format!("{serves}; {}", stop(balancer)?));
    }
    let (status, said) = launch.fail(site.lab())?;
    let release = boot::release()?;
    ensure!(!status.success(), "it ended well: {said}");
    for word in [site.driver(), &release, "zero-copy", "auto"] {
        ensure!(said.contains(word), "it does not say {word}: {said}");
    }
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
