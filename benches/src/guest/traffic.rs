//! Real connections and datagrams through the balancer, and everything as it was afterwards.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{CLIENT_MTU, plan};
use crate::traffic::{Plan, REQUEST_HEADER, Tally, run_connections, run_datagrams};

use super::observe::{frames_conserved, modes, queues_used, stop};
use super::report::Report;
use super::scenario::Scenario;
use super::site::{CLIENTS, PORT, REALS, Site};
use super::surroundings::Surroundings;

/// What the step checks.
pub(super) const CHECKS: [&str; 6] = [
    CONNECTIONS,
    DATAGRAMS,
    "queues",
    "frames",
    "stop",
    "left as found",
];
const CONNECTIONS: &str = "connections";
const DATAGRAMS: &str = "datagrams";

/// Bytes each connection carries both ways: full segments, which fill the MTU of the clients, and a
/// part of one.
const STREAM: usize = 20_000;
/// Headers of IP, those of IPv4 and of IPv6; each request has one, and one more towards the real.
const IP_HEADERS: [usize; 2] = [20, 40];
const UDP_HEADER: usize = 8;
const CONCURRENCY: usize = 8;
/// An emulated machine on a busy host is slow.
const TIMEOUT: Duration = Duration::from_secs(20);

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
    connections.tell(CONNECTIONS, report);
    if connections.tally.failed == 0 {
        let datagrams = datagrams(site, scenario.datagrams)?;
        datagrams.tell(DATAGRAMS, report);
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

/// Datagrams of all lengths to both VIPs from all clients, as long as they are served.
pub(super) fn datagrams(site: &Site, total: usize) -> Result<Sums> {
    let mut sums = Sums::default();
    for (v6, address) in vips() {
        for (client, count) in shares(total / 2) {
            for (payload, count) in payloads(v6).into_iter().zip(thirds(count)) {
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

/// Payloads of datagrams to a VIP: none, one that fills the clients' MTU behind the second IP header,
/// and one that fills it before.
fn payloads(v6: bool) -> [usize; 3] {
    let ip = IP_HEADERS[usize::from(v6)];
    let full = CLIENT_MTU as usize - ip - UDP_HEADER - REQUEST_HEADER;
    [0, full - ip, full]
}

/// `count` in three parts.
const fn thirds(count: usize) -> [usize; 3] {
    let third = count / 3;
    [third, third, count - 2 * third]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fill_the_mtu_with_and_without_the_outer_header() {
        for (v6, ip) in [(false, 20), (true, 40)] {
            let lengths = payloads(v6).map(|payload| ip + 8 + 12 + payload);
            assert_eq!(lengths, [ip + 20, 1500 - ip, 1500]);
        }
        assert_eq!(thirds(20), [6, 6, 8]);
    }
}
