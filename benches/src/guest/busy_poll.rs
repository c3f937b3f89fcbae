//! `busy_poll`: everything that is received also leaves, while the workers sleep and while they spin.

use anyhow::{Context, Result};

use super::observe::{ensure_serves, frames_conserved, stop};
use super::site::Site;
use super::traffic::{connections, datagrams};

const CONNECTIONS: usize = 24;
const DATAGRAMS: usize = 240;

/// Traffic through balancers whose sockets poll the device.
pub(super) fn run(site: &Site) -> Result<String> {
    let asleep = through(site, "busy_poll = true").context("asleep")?;
    // Spinning workers call into the socket, which polls the device.
    let spinning = through(site, "busy_poll = true\nspin_us = 1000").context("spinning")?;
    Ok(format!("asleep: {asleep}; spinning: {spinning}"))
}

fn through(site: &Site, interface: &str) -> Result<String> {
    let launch = site.launch_with("busy-poll.toml", interface)?;
    let balancer = launch.start(site.lab())?;
    let connections = connections(site, CONNECTIONS)?.all_served()?;
    let datagrams = datagrams(site, DATAGRAMS)?.all_served()?;
    let serves = ensure_serves(&balancer, site.queues(), site.zero_copy())?;
    frames_conserved(&balancer)?;
    stop(balancer)?;
    Ok(format!(
        "connections {connections}, datagrams {datagrams}, {serves}"
    ))
}
