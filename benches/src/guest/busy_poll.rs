//! `busy_poll`: everything that is received also leaves.

use std::fs;

use anyhow::{Context, Result};

use super::site::Site;
use super::traffic::{Sums, connections, datagrams, frames_conserved, stop};

const CONNECTIONS: usize = 24;
const DATAGRAMS: usize = 240;

/// Traffic through a balancer whose sockets poll the device.
pub(super) fn run(site: &Site) -> Result<String> {
    let mut launch = site.launch();
    let usual = launch.config.context("the site has a configuration")?;
    let text = format!(
        "[interface]\nbusy_poll = 50\n\n{}",
        fs::read_to_string(usual)?
    );
    launch.config = Some(site.lab().scratch().write("busy-poll.toml", text)?);
    let balancer = launch.start(site.lab())?;
    let sums: [Sums; 2] = [connections(site, CONNECTIONS)?, datagrams(site, DATAGRAMS)?];
    for sums in sums {
        sums.all_served()?;
    }
    frames_conserved(&balancer)?;
    stop(balancer)
}
