//! A balancer with connections through it, which are in flight whatever happens to its card.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::balancer::{Balancer, Launch};
use crate::lab::plan;
use crate::traffic::{HeldConnections, time_to_answer};

use super::super::observe::{ensure_rests, ensure_serves, frames_add_up, stop};
use super::super::site::{CLIENTS, PORT, Site};
use super::super::traffic::plan_to;
use super::{LIMIT, Outcome, PATIENCE};

/// Bytes of each request.
const REQUEST: usize = 64;
/// Pause between an answer and the next request.
const REST: Duration = Duration::from_millis(50);
/// How long a client waits that may belong to a queue without a worker.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);

/// A balancer that serves, and connections that exchange requests and answers through it.
pub(super) struct Flowing {
    pub(super) balancer: Balancer,
    pub(super) held: Vec<HeldConnections>,
    /// Its queues.
    queues: usize,
}

impl Flowing {
    /// Starts a balancer, makes sure that it serves, and opens a connection from each client to each
    /// VIP.
    pub(super) fn start(site: &Site, launch: &Launch) -> Result<Self> {
        let balancer = launch.start(site.lab())?;
        served_since(site, Instant::now()).context("before the fault")?;
        let mut held = Vec::new();
        for client in 0..CLIENTS {
            for vip in vips() {
                let plan = plan_to(vip, 1, REQUEST);
                held.push(HeldConnections::open(
                    site.lab().client(client),
                    &plan,
                    REST,
                )?);
            }
        }
        let flowing = Self {
            balancer,
            held,
            queues: site.queues(),
        };
        flowing.all_live().context("before the fault")?;
        Ok(flowing)
    }

    /// A balancer on one queue, that cannot serve all clients yet.
    pub(super) const fn without_connections(balancer: Balancer) -> Self {
        Self {
            balancer,
            held: Vec::new(),
            queues: 1,
        }
    }

    /// Kills the balancer and starts another one at once.
    pub(super) fn restart_killed(&mut self, site: &Site) -> Result<()> {
        self.balancer.signal(nix::sys::signal::Signal::SIGKILL)?;
        // What it replaces is waited for when it is dropped.
        self.balancer = site.launch_as_expected().start(site.lab())?;
        Ok(())
    }

    /// As [`served_since`], with the balancer's words when it fails.
    pub(super) fn served_since(&self, site: &Site, since: Instant) -> Result<Duration> {
        served_since(site, since)
            .with_context(|| format!("the balancer said: {}", self.balancer.log()))
    }

    /// All are served again and the connections live; then every worker must run, with zero-copy where
    /// the card has it, and the balancer must come to rest, have all frames and stop.
    pub(super) fn recovered(self, site: &Site, since: Instant) -> Result<Outcome> {
        let interruption = self.served_since(site, since)?;
        self.all_live()?;
        let Self {
            balancer,
            held,
            queues,
        } = self;
        let connections = held.len();
        drop(held);
        ensure_serves(&balancer, queues, site.zero_copy())?;
        ensure_rests(&balancer)?;
        frames_add_up(&balancer)?;
        stop(balancer)?;
        Ok(Outcome {
            interruption: Some(interruption),
            seen: match connections {
                0 => "all served".to_owned(),
                _ => format!("{connections} connections live, all served"),
            },
        })
    }

    /// Each connection does a whole exchange.
    fn all_live(&self) -> Result<()> {
        for held in &self.held {
            let report = held.verify();
            ensure!(
                report.broken == 0,
                "a connection broke: {}",
                report.failures.join("; ")
            );
        }
        Ok(())
    }
}

fn vips() -> [IpAddr; 2] {
    [plan::vip_v4(0).into(), plan::vip_v6(0).into()]
}

/// Asks for the VIPs from each client, until an answer comes or `patience` ends.
fn ask(site: &Site, patience: Duration) -> Vec<Result<Duration>> {
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..CLIENTS)
            .map(|i| {
                scope.spawn(move || {
                    let client = site.lab().client(i);
                    vips().map(|vip| time_to_answer(client, (vip, PORT).into(), patience))
                })
            })
            .collect();
        waiters
            .into_iter()
            .flat_map(|waiter| match waiter.join() {
                Ok(answers) => Vec::from(answers),
                Err(_) => vec![Err(anyhow::anyhow!("a client panicked"))],
            })
            .collect()
    })
}

/// Waits until every client is served over both families; gives the time from `since`.
fn served_since(site: &Site, since: Instant) -> Result<Duration> {
    for answer in ask(site, PATIENCE) {
        answer?;
    }
    Ok(since.elapsed())
}

/// How many of the clients' flows are served, when some belong to a queue without a worker; an error
/// if none is, also when the card's link has had time to come back.
pub(super) fn some_served(site: &Site) -> Result<usize> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answers = ask(site, SHORT_PATIENCE);
        let served = answers.iter().filter(|answer| answer.is_ok()).count();
        if served > 0 {
            return Ok(served);
        }
        ensure!(
            Instant::now() < deadline,
            "none of {} flows is served",
            answers.len()
        );
    }
}
