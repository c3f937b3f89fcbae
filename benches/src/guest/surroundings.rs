//! What the balancer's machine looks like from outside, before a balancer and after.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xdp_redirect::attached_program;

use crate::lab::LinkState;
use crate::lab::plan::BALANCER_INTERFACE;

use super::site::Site;

/// How long a card may take to be as it was.
const SETTLE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What is compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    link: LinkState,
    interfaces: usize,
    program: bool,
}

impl Surroundings {
    pub(super) fn look(site: &Site) -> Result<Self> {
        let links = site.lab().balancer_links();
        let program = site
            .lab()
            .balancer()
            .run(|| attached_program(BALANCER_INTERFACE))??;
        Ok(Self {
            link: links.link(BALANCER_INTERFACE)?,
            interfaces: links.link_count()?,
            program: program.is_some(),
        })
    }

    /// As [`Self::look`], once the link is there: a driver that has just let go of a program may have
    /// it down.
    pub(super) fn at_rest(site: &Site) -> Result<Self> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let now = Self::look(site)?;
            if now.link.is_running() {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "the link stays down: {now:?}");
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until all is as it was: a driver that lets go of a program may take its link down for
    /// a moment.
    pub(super) fn wait_for(&self, site: &Site) -> Result<String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let now = Self::look(site)?;
            if now == *self {
                return Ok("no XDP program, no interface more, the link as before".to_owned());
            }
            ensure!(Instant::now() < deadline, "it was {self:?} and is {now:?}");
            thread::sleep(POLL_INTERVAL);
        }
    }
}
