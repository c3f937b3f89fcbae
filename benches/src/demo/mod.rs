//! `katran-xsk demo`: the balancer at work in a lab, in a minute.

mod report;

use std::io::{self, BufRead};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::balancer::{Balancer, Launch, Vip, configuration};
use crate::lab::{Lab, LabOptions, plan};
use crate::traffic::{
    HeldConnections, Plan, Server, Tally, WebServer, run_connections, run_datagrams,
};

use report::{Checks, Progress, say, table};

/// Port of the servers that check what they get.
const PORT: u16 = 7000;
/// Port of the servers for looking around.
const WEB_PORT: u16 = 80;
/// Bytes each TCP connection carries in each direction: some full segments and a part of one.
const TCP_PAYLOAD: usize = 20_000;
/// Bytes each datagram carries in each direction.
const UDP_PAYLOAD: usize = 1_000;
/// Connections that stay open while a real is drained.
const HELD: usize = 60;
const CONCURRENCY: usize = 50;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Flows per worker: far more than the demo has, and only some megabytes.
const FLOWS: usize = 50_000;

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// TCP connections to each VIP
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// UDP flows to each VIP
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub datagrams: u32,
    /// Real servers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub reals: u8,
    /// RX queues of the balancer's interface, with one worker each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub queues: u32,
    /// Leave the lab running afterwards and say how to look around, until Enter or Ctrl-C
    #[arg(long)]
    pub keep: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            connections: 1000,
            datagrams: 500,
            reals: 3,
            queues: 4,
            keep: false,
        }
    }
}

/// Runs the demo with this program as the balancer. An error says that a check failed or that the
/// demo could not run.
pub fn run(options: &DemoOptions) -> Result<()> {
    let started = Instant::now();
    let binary = std::env::current_exe().context("cannot find the path of this program")?;
    say(format_args!(
        "A client, a router, the balancer and {} real servers, in network namespaces:\n\n{}",
        options.reals,
        map(options)
    ))?;

    let progress = Progress::new("building the lab");
    let lab = Lab::new(LabOptions {
        clients: 1,
        reals: options.reals,
        queues: options.queues,
        ..LabOptions::default()
    })?;
    let (_servers, _web) = start_servers(&lab)?;
    progress.done("done")?;

    let progress = Progress::new("starting the balancer");
    let vips = Vips::new(options.reals);
    let config = lab
        .scratch()
        .write("lb.toml", configuration(&vips.all(), FLOWS))?;
    let balancer = Launch::new(binary, config).start(&lab)?;
    progress.done("serving")?;
    for line in balancer.log().lines() {
        say(format_args!("    {line}"))?;
    }
    say("")?;

    let mut checks = Checks::default();
    let demo = Demo {
        options,
        lab: &lab,
        balancer: &balancer,
        vips: &vips,
    };
    demo.traffic(&mut checks)?;
    demo.drain(&mut checks)?;
    demo.counters(&mut checks)?;

    say(&checks)?;
    let took = started.elapsed().as_secs_f64();
    if options.keep {
        demo.keep()?;
    }
    drop(balancer);
    if checks.failed() > 0 {
        bail!("the demo FAILED: {} checks did not hold", checks.failed());
    }
    say(format_args!(
        "PASS: all {} checks held; the demo took {took:.0} s",
        checks.total()
    ))?;
    Ok(())
}

fn map(options: &DemoOptions) -> String {
    let reals: Vec<String> = (0..options.reals)
        .map(|i| plan::real_v4(i).to_string())
        .collect();
    format!(
        "  client {} ─── router ─── real servers {}\n\
         \x20                        │\n\
         \x20                     balancer {} ({} queues, one worker each)\n\n\
         \x20 VIPs {} and {}, port {PORT} (TCP and UDP)\n",
        plan::client_v4(0),
        reals.join(", "),
        plan::BALANCER_V4,
        options.queues,
        plan::vip_v4(0),
        plan::vip_v6(0),
    )
}

/// The demo's VIPs: one address of each family.
struct Vips {
    tcp: [Vip; 2],
    udp: [Vip; 2],
    web: [Vip; 2],
}

impl Vips {
    fn new(reals: u8) -> Self {
        let vip = |v6: bool, port, protocol| Vip {
            address: if v6 {
                plan::vip_v6(0).into()
            } else {
                plan::vip_v4(0).into()
            },
            port,
            protocol,
            reals: (0..reals).map(|i| (real(i, v6), 1)).collect(),
        };
        let both = |port, protocol| [false, true].map(|v6| vip(v6, port, protocol));
        Self {
            tcp: both(PORT, "tcp"),
            udp: both(PORT, "udp"),
            web: both(WEB_PORT, "tcp"),
        }
    }

    fn all(&self) -> Vec<Vip> {
        [&self.tcp, &self.udp, &self.web]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// The address of real `i` in one family.
fn real(i: u8, v6: bool) -> IpAddr {
    if v6 {
        plan::real_v6(i).into()
    } else {
        plan::real_v4(i).into()
    }
}

/// How servers and people number reals: from 1.
fn server_number(i: u8) -> u16 {
    u16::from(i) + 1
}

fn start_servers(lab: &Lab) -> Result<(Vec<Server>, Vec<WebServer>)> {
    let addresses: [IpAddr; 2] = [plan::vip_v4(0).into(), plan::vip_v6(0).into()];
    let mut servers = Vec::new();
    let mut web = Vec::new();
    for i in 0..lab.options().reals {
        let number = server_number(i);
        servers.push(Server::start(lab.real(i), number, &addresses, PORT)?);
        let body = format!("This is real server {number}, {}\n", plan::real_v4(i));
        web.push(WebServer::start(lab.real(i), &addresses, WEB_PORT, &body)?);
    }
    Ok((servers, web))
}

struct Demo<'a> {
    options: &'a DemoOptions,
    lab: &'a Lab,
    balancer: &'a Balancer,
    vips: &'a Vips,
}

impl Demo<'_> {
    /// Many short connections and datagrams, to every VIP.
    fn traffic(&self, checks: &mut Checks) -> Result<()> {
        let mut columns = Vec::new();
        for vip in &self.vips.tcp {
            let tally = self.connections(vip, self.options.connections as usize)?;
            checks.add(
                tally.failed == 0 && tally.answered() == u64::from(self.options.connections),
                format!(
                    "{} connections to {}: every byte arrived, both ways",
                    tally.answered(),
                    vip.name()
                ),
                &tally.failures,
            );
            columns.push((vip, tally));
        }
        for vip in &self.vips.udp {
            let title = format!("{} UDP flows to {}", self.options.datagrams, vip.name());
            let progress = Progress::new(&title);
            let total = self.options.datagrams as usize;
            let plan = plan_to(vip, total, UDP_PAYLOAD);
            let tally = run_datagrams(self.lab.client(0), &plan, |n| progress.count(n, total))?;
            progress.done(&outcome(&tally))?;
            checks.add(
                tally.failed == 0 && tally.answered() == u64::from(self.options.datagrams),
                format!(
                    "{} UDP flows to {}: every byte arrived, both ways",
                    tally.answered(),
                    vip.name()
                ),
                &tally.failures,
            );
            columns.push((vip, tally));
        }
        say(format_args!("\n{}", self.shares(&columns)))?;
        let every_real =
            |tally: &Tally| (0..self.options.reals).all(|i| tally.of_server(server_number(i)) > 0);
        checks.add(
            columns.iter().all(|(_, tally)| every_real(tally)),
            "every real server got its part of every VIP".to_owned(),
            &[],
        );
        Ok(())
    }

    /// The first real gets weight 0 while it has open connections.
    fn drain(&self, checks: &mut Checks) -> Result<()> {
        let drained = server_number(0);
        for (vip, v6) in self.vips.tcp.iter().zip([false, true]) {
            let progress = Progress::new(&format!(
                "draining real {drained} of {} under {HELD} open connections",
                vip.name()
            ));
            let held = HeldConnections::open(
                self.lab.client(0),
                &plan_to(vip, HELD, UDP_PAYLOAD),
                Duration::from_millis(100),
            )?;
            let before = held.verify();
            self.balancer.set_weight(vip, real(0, v6), 0)?;
            let new = run_connections(
                self.lab.client(0),
                &plan_to(vip, self.options.connections as usize, UDP_PAYLOAD),
                |_| (),
            )?;
            let after = held.verify();
            self.balancer.set_weight(vip, real(0, v6), 1)?;
            progress.done(&format!(
                "{} new connections to it, {} of its {} old ones live",
                new.of_server(drained),
                after.of_server(drained),
                before.of_server(drained)
            ))?;
            let mut failures = before.failures.clone();
            failures.extend(after.failures.iter().chain(&new.failures).cloned());
            checks.add(
                new.failed == 0
                    && new.of_server(drained) == 0
                    && new.answered() == u64::from(self.options.connections),
                format!(
                    "real {drained} of {} with weight 0 got none of {} new connections",
                    vip.name(),
                    new.answered()
                ),
                &failures,
            );
            checks.add(
                before.broken == 0 && before.of_server(drained) > 0 && after == before,
                format!(
                    "meanwhile its {} open connections lived on, and the {} to others",
                    after.of_server(drained),
                    after.alive() - after.of_server(drained)
                ),
                &failures,
            );
        }
        Ok(())
    }

    /// The balancer's own counters.
    fn counters(&self, checks: &mut Checks) -> Result<()> {
        let stats = self.balancer.stats()?;
        let mut rows = vec![
            ["worker", "received", "transmitted", "passed", "dropped"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (queue, frames) in &stats.workers {
            rows.push(vec![
                format!("queue {queue}"),
                frames.received.to_string(),
                frames.transmitted.to_string(),
                frames.passed.to_string(),
                frames.dropped.to_string(),
            ]);
        }
        say(format_args!(
            "\nPackets that the workers moved:\n{}",
            table(&rows)
        ))?;
        checks.add(
            stats.workers.len() == self.options.queues as usize
                && stats
                    .workers
                    .iter()
                    .all(|(_, frames)| frames.transmitted > 0),
            format!("all {} workers had packets", stats.workers.len()),
            &[],
        );
        checks.add(
            stats.frames.add_up() && stats.frames.dropped == 0,
            format!(
                "{} packets received = {} transmitted + {} passed + {} dropped; none dropped",
                stats.frames.received,
                stats.frames.transmitted,
                stats.frames.passed,
                stats.frames.dropped
            ),
            &[],
        );
        Ok(())
    }

    fn connections(&self, vip: &Vip, count: usize) -> Result<Tally> {
        let progress = Progress::new(&format!("{count} TCP connections to {}", vip.name()));
        let plan = plan_to(vip, count, TCP_PAYLOAD);
        let tally = run_connections(self.lab.client(0), &plan, |n| progress.count(n, count))?;
        progress.done(&outcome(&tally))?;
        Ok(tally)
    }

    /// The table of what each real got of each VIP.
    fn shares(&self, columns: &[(&Vip, Tally)]) -> String {
        let mut rows = Vec::new();
        let names = columns.iter().map(|(vip, _)| vip.name());
        rows.push(
            std::iter::once("served by".to_owned())
                .chain(names)
                .collect(),
        );
        for i in 0..self.options.reals {
            let counts = columns
                .iter()
                .map(|(_, tally)| tally.of_server(server_number(i)).to_string());
            let name = format!("real {} ({})", server_number(i), plan::real_v4(i));
            rows.push(std::iter::once(name).chain(counts).collect::<Vec<_>>());
        }
        table(&rows)
    }

    /// Says how to look around and waits.
    fn keep(&self) -> Result<()> {
        let client = self.lab.client(0).path();
        let balancer = self.lab.balancer().path();
        let vip = plan::vip_v4(0);
        let vip6 = plan::vip_v6(0);
        let web = self.vips.web[0].name();
        let drained = plan::real_v4(0);
        let socket = self.balancer.socket().display();
        let binary = std::env::current_exe()?;
        let binary = binary.display();
        say(format_args!(
            "The lab is up. From another terminal, as root:\n\
             \n  who answers?\n    nsenter --net={client} curl http://{vip}/\n\
             \x20   nsenter --net={client} curl 'http://[{vip6}]/'\n\
             \n  what does the balancer count?\n    {binary} ctl --socket {socket} show stats\n\
             \n  drain a real server, ask again, and let it back\n\
             \x20   {binary} ctl --socket {socket} real weight {web} {drained} 0\n\
             \x20   {binary} ctl --socket {socket} real weight {web} {drained} 1\n\
             \n  an interactive shell\n    {binary} shell --socket {socket}\n\
             \n  the balancer's interface\n    nsenter --net={balancer} ip address\n\
             \nEnter or Ctrl-C ends the lab."
        ))?;
        if io::stdin().lock().read_line(&mut String::new())? == 0 {
            // Nobody can press Enter; a signal ends the process, and the lab with it.
            loop {
                thread::park();
            }
        }
        Ok(())
    }
}

fn plan_to(vip: &Vip, count: usize, payload: usize) -> Plan {
    Plan {
        target: (vip.address, vip.port).into(),
        count,
        concurrency: CONCURRENCY,
        payload,
        timeout: TIMEOUT,
    }
}

fn outcome(tally: &Tally) -> String {
    let resent = match tally.resent {
        0 => String::new(),
        resent => format!(", {resent} sent again"),
    };
    format!(
        "{} answered, {} failed{resent}",
        tally.answered(),
        tally.failed
    )
}
