//! Real connections and datagrams through the balancer, and everything as it was afterwards.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xdp_redirect::attached_program;

use crate::balancer::Balancer;
use crate::lab::LinkState;
use crate::lab::plan::{self, BALANCER_INTERFACE};
use crate::traffic::{Plan, Tally, run_connections, run_datagrams};

use super::report::Report;
use super::scenario::Scenario;
use super::site::{CLIENTS, PORT, REALS, Site};

/// Bytes each connection carries both ways: full segments, which fill the MTU of the clients, and a
/// part of one.
const STREAM: usize = 20_000;
/// Payloads of datagrams to the VIPs of IPv4 and of IPv6: the smallest there is, and one whose answer
/// fills the MTU of the clients (headers of IP, UDP and the answer off 1500 bytes).
const DATAGRAMS: [[usize; 2]; 2] = [[0, 1500 - 20 - 8 - 18], [0, 1500 - 40 - 8 - 18]];
const CONCURRENCY: usize = 8;
/// An emulated machine on a busy host is slow.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a card may take to be as it was.
const SETTLE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Starts a balancer, sends everything through it and stops it.
pub(super) fn run(site: &Site, scenario: &Scenario, report: &Report) {
    if let Err(error) = whole(site, scenario, report) {
        report.check("traffic", Err(error));
    }
}

fn whole(site: &Site, scenario: &Scenario, report: &Report) -> Result<()> {
    let before = Surroundings::at_rest(site)?;
    let balancer = site.launch().start(site.lab())?;
    let config = balancer.ctl(["show", "config"])?;
    report.fact("xdp", config["xdp_mode"].clone());
    report.fact("modes", modes(&balancer)?);

    let connections = connections(site, scenario.connections)?;
    connections.tell("connections", report);
    if connections.tally.failed == 0 {
        let datagrams = datagrams(site, scenario.datagrams)?;
        datagrams.tell("datagrams", report);
    }
    report.check("queues", queues_used(&balancer, scenario.queues));
    report.check("frames", frames_conserved(&balancer));

    let end = stop(balancer);
    report.check("stop", end);
    report.check("left as found", before.wait_for(site));
    Ok(())
}

/// TCP connections to both VIPs from all clients, as long as they are served.
pub(super) fn connections(site: &Site, total: usize) -> Result<Sums> {
    let mut sums = Sums::default();
    for (_, address) in vips() {
        for (client, count) in shares(total / 2) {
            let plan = plan_to(address, count, STREAM);
            let tally = run_connections(site.lab().client(client), &plan, |_| ())?;
            if !sums.add(count, &tally) {
                return Ok(sums);
            }
        }
    }
    Ok(sums)
}

/// Datagrams of both lengths to both VIPs from all clients, as long as they are served.
pub(super) fn datagrams(site: &Site, total: usize) -> Result<Sums> {
    let mut sums = Sums::default();
    for (v6, address) in vips() {
        for (client, count) in shares(total / 2) {
            for (payload, count) in DATAGRAMS[usize::from(v6)].into_iter().zip(halves(count)) {
                let plan = plan_to(address, count, payload);
                let tally = run_datagrams(site.lab().client(client), &plan, |_| ())?;
                if !sums.add(count, &tally) {
                    return Ok(sums);
                }
            }
        }
    }
    Ok(sums)
}

/// The VIPs' addresses, and whether they are IPv6.
fn vips() -> [(bool, IpAddr); 2] {
    [
        (false, plan::vip_v4(0).into()),
        (true, plan::vip_v6(0).into()),
    ]
}

/// A plan to a VIP.
pub(super) fn plan_to(address: IpAddr, count: usize, payload: usize) -> Plan {
    Plan {
        target: (address, PORT).into(),
        count,
        concurrency: CONCURRENCY,
        payload,
        timeout: TIMEOUT,
    }
}

/// `total` spread over the clients.
fn shares(total: usize) -> impl Iterator<Item = (u8, usize)> {
    let clients = usize::from(CLIENTS);
    (0..CLIENTS).map(move |client| {
        let extra = usize::from(usize::from(client) < total % clients);
        (client, total / clients + extra)
    })
}

/// `count` in two parts.
const fn halves(count: usize) -> [usize; 2] {
    [count / 2, count - count / 2]
}

/// Sums over clients and families.
#[derive(Default)]
pub(super) struct Sums {
    sent: usize,
    tally: Tally,
}

impl Sums {
    /// Adds what became of `sent`; whether all of it was served.
    fn add(&mut self, sent: usize, tally: &Tally) -> bool {
        self.sent += sent;
        for (server, count) in &tally.by_server {
            *self.tally.by_server.entry(*server).or_default() += count;
        }
        self.tally.failed += tally.failed;
        self.tally.resent += tally.resent;
        self.tally.failures.extend(tally.failures.iter().cloned());
        tally.failed == 0
    }

    fn tell(&self, what: &str, report: &Report) {
        report.fact(&format!("{what}-sent"), self.sent);
        report.fact(&format!("{what}-served"), self.tally.answered());
        report.fact(&format!("{what}-resent"), self.tally.resent);
        report.check(what, self.all_served());
    }

    pub(super) fn all_served(&self) -> Result<String> {
        let Self { sent, tally } = self;
        ensure!(
            tally.failed == 0 && tally.answered() == *sent as u64,
            "{} of {sent} answered: {}",
            tally.answered(),
            tally.failures.join("; ")
        );
        ensure!(
            (1..=u16::from(REALS)).all(|server| tally.of_server(server) > 0),
            "not every real got some: {:?}",
            tally.by_server
        );
        Ok(format!(
            "{sent} answered with the right bytes by {} reals, {} sent again",
            tally.by_server.len(),
            tally.resent
        ))
    }
}

/// `show workers`.
pub(super) fn workers(balancer: &Balancer) -> Result<Vec<Value>> {
    let answer = balancer.ctl(["show", "workers"])?;
    let workers = answer["workers"].as_array();
    Ok(workers.context("`show workers` lists no workers")?.clone())
}

/// What each socket says of its mode.
pub(super) fn modes(balancer: &Balancer) -> Result<Vec<Value>> {
    let workers = workers(balancer)?;
    Ok(workers
        .iter()
        .map(|worker| worker["mode"].clone())
        .collect())
}

fn queues_used(balancer: &Balancer, wanted: usize) -> Result<String> {
    let stats = balancer.stats()?;
    let packets: Vec<u64> = stats
        .workers
        .iter()
        .map(|(_, frames)| frames.transmitted)
        .collect();
    let used = packets.iter().filter(|packets| **packets > 0).count();
    ensure!(
        used >= wanted,
        "{used} queues instead of {wanted} forwarded packets: {packets:?}"
    );
    Ok(format!("packets forwarded by queue: {packets:?}"))
}

/// No frame was dropped, and none is unaccounted for.
pub(super) fn frames_conserved(balancer: &Balancer) -> Result<String> {
    let frames = balancer.stats()?.frames;
    ensure!(frames.dropped == 0, "frames were dropped: {frames:?}");
    frames_add_up(balancer)
}

/// Every frame is accounted for.
pub(super) fn frames_add_up(balancer: &Balancer) -> Result<String> {
    let frames = balancer.stats()?.frames;
    let workers = workers(balancer)?;
    ensure!(
        frames.add_up(),
        "frames do not add up: {frames:?}, {workers:?}"
    );
    for worker in workers {
        for (group, name) in [
            ("io", "frames-lost"),
            ("io", "invalid-descriptors"),
            ("socket", "rx-dropped"),
            ("socket", "rx-invalid-descriptors"),
            ("socket", "tx-invalid-descriptors"),
        ] {
            let count = worker[group][name].as_u64();
            ensure!(
                count == Some(0),
                "queue {}: {name} is {count:?}",
                worker["queue"]
            );
        }
    }
    Ok(format!(
        "{} received = {} transmitted + {} passed",
        frames.received, frames.transmitted, frames.passed
    ))
}

/// Ends the balancer as a service manager does.
pub(super) fn stop(balancer: Balancer) -> Result<String> {
    let (status, log) = balancer.stop_with_log()?;
    ensure!(status.success(), "ended with {status}: {log}");
    let last = log.lines().find(|line| line.contains("stopped: "));
    let last = last.with_context(|| format!("said nothing about its end: {log}"))?;
    if last.contains("frames were lost") {
        bail!("{last}");
    }
    Ok(last.to_owned())
}

/// What the balancer's machine looks like from outside.
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
