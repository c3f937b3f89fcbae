//! A shell in the machine, for people who look around.

use std::process::Command;

use anyhow::{Context, Result};

use super::site::{BINARY, Site};

/// Starts a balancer and a shell on the console; returns when the shell ends.
pub(super) fn run(site: &Site) -> Result<()> {
    let balancer = site.launch().start(site.lab())?;
    let socket = balancer.socket().display();
    println!(
        "\n{}\n{BINARY} ctl --socket {socket} show workers\nnsenter --net={} ip address\n\
         `exit` turns the machine off.",
        balancer.log(),
        site.lab().balancer().path(),
    );
    Command::new("/bin/busybox")
        .args([
            "sh",
            "-c",
            "/bin/busybox --install -s /bin; setsid cttyhack sh",
        ])
        .status()
        .context("cannot start a shell")?;
    Ok(())
}
