//! What happens to a card while the balancer runs on it.
//!
//! After each fault all clients must be served again over both families, or the balancer must have
//! ended with an error that says why, within [`LIMIT`]. The report has the time as a figure.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xdp_redirect::loaded;

use crate::balancer::Balancer;
use crate::lab::cpu_time;
use crate::lab::plan::{self, BALANCER_INTERFACE};
use crate::traffic::time_to_answer;

use super::report::Report;
use super::scenario::Scenario;
use super::site::{CLIENTS, PORT, Site};
use super::traffic::{Surroundings, frames_add_up, stop};

/// Longest time until all are served again, or the balancer has ended.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it is waited, so that the report can say how long it took.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a link stays down.
const OUTAGE: Duration = Duration::from_secs(2);
/// Memory that may differ between two looks at a machine that does the same again.
const MEMORY_NOISE: u64 = 16 << 20;
/// How long the number of programs and maps stays the same before it counts.
const QUIET: Duration = Duration::from_secs(5);
/// Starts and stops before the first look: caches fill.
const WARM_UP: usize = 3;

type Fault = fn(&Site, &Scenario) -> Result<Outcome>;

/// How long the interruption was, if there was one, and what was seen.
struct Outcome {
    interruption: Option<Duration>,
    seen: String,
}

/// Runs them all. The card is gone afterwards.
pub(super) fn run(site: &Site, scenario: &Scenario, report: &Report) {
    let faults: [(&str, Fault); 7] = [
        ("link down and up", link),
        ("MTU changed and back", mtu),
        ("queues taken away", queues_in_use),
        ("queues changed", queues_not_in_use),
        ("kill -9 and start", kill),
        ("starts and stops", cycles),
        ("card removed", remove),
    ];
    for (name, fault) in faults {
        let outcome = fault(site, scenario);
        if let Ok(Outcome {
            interruption: Some(interruption),
            ..
        }) = &outcome
        {
            let figure = format!("figure {name}, seconds");
            report.fact(
                &figure,
                (interruption.as_secs_f64() * 1000.0).round() / 1000.0,
            );
        }
        report.check(name, outcome.and_then(Outcome::judge));
    }
}

impl Outcome {
    fn judge(self) -> Result<String> {
        let Self { interruption, seen } = self;
        match interruption {
            Some(time) if time > LIMIT => bail!("{seen}, but only after {time:.1?}"),
            Some(time) => Ok(format!("{seen} after {:.2} s", time.as_secs_f64())),
            None => Ok(seen),
        }
    }
}

/// Waits until every client is served over both families; gives the time from `since`.
fn served_since(site: &Site, since: Instant) -> Result<Duration> {
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..CLIENTS)
            .map(|i| {
                scope.spawn(move || -> Result<()> {
                    let vips: [IpAddr; 2] = [plan::vip_v4(0).into(), plan::vip_v6(0).into()];
                    for vip in vips {
                        let client = site.lab().client(i);
                        time_to_answer(client, (vip, PORT).into(), PATIENCE)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for waiter in waiters {
            waiter
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(since.elapsed())
    })
}

/// Starts a balancer and makes sure that it serves.
fn start(site: &Site) -> Result<Balancer> {
    let balancer = site.launch().start(site.lab())?;
    served_since(site, Instant::now()).context("before the fault")?;
    Ok(balancer)
}

/// All are served again; then the frames are counted and the balancer is stopped.
fn recovered(site: &Site, balancer: Balancer, since: Instant) -> Result<Outcome> {
    let interruption = served_since(site, since)
        .with_context(|| format!("the balancer said: {}", balancer.log()))?;
    frames_add_up(&balancer)?;
    stop(balancer)?;
    Ok(Outcome {
        interruption: Some(interruption),
        seen: "all served again".to_owned(),
    })
}

fn link(site: &Site, _: &Scenario) -> Result<Outcome> {
    let balancer = start(site)?;
    let links = site.lab().balancer_links();
    links.set_down(BALANCER_INTERFACE)?;
    let before = cpu_time(balancer.id())?;
    thread::sleep(OUTAGE);
    let spent = cpu_time(balancer.id())?.saturating_sub(before);
    ensure!(
        spent < OUTAGE / 2,
        "the balancer used {spent:?} of the processor in {OUTAGE:?} without a link"
    );
    links.set_up(BALANCER_INTERFACE)?;
    // The kernel forgot its routes with the link.
    site.lab().address_balancer()?;
    recovered(site, balancer, Instant::now())
}

fn mtu(site: &Site, _: &Scenario) -> Result<Outcome> {
    let balancer = start(site)?;
    let links = site.lab().balancer_links();
    let mtu = links.link(BALANCER_INTERFACE)?.mtu;
    links.set_mtu(BALANCER_INTERFACE, mtu - 20)?;
    links.set_mtu(BALANCER_INTERFACE, mtu)?;
    recovered(site, balancer, Instant::now())
}

/// The kernel keeps queues that have sockets.
fn queues_in_use(site: &Site, _: &Scenario) -> Result<Outcome> {
    let balancer = start(site)?;
    let machine = site.lab().balancer();
    let refused = machine.set_queues(BALANCER_INTERFACE, 1);
    let Err(refusal) = refused else {
        machine.set_queues(BALANCER_INTERFACE, 2)?;
        bail!("the kernel took a queue away that has a socket");
    };
    let mut outcome = recovered(site, balancer, Instant::now())?;
    outcome.seen = format!("refused ({}), all served", refusal.root_cause());
    Ok(outcome)
}

/// A balancer on the first queue only, which stays. Some drivers refuse, because a program is attached.
fn queues_not_in_use(site: &Site, _: &Scenario) -> Result<Outcome> {
    let mut launch = site.launch();
    "0".clone_into(&mut launch.queues);
    let balancer = launch.start(site.lab())?;
    let machine = site.lab().balancer();
    if let Err(refusal) = machine.set_queues(BALANCER_INTERFACE, 1) {
        frames_add_up(&balancer)?;
        stop(balancer)?;
        return Ok(Outcome {
            interruption: None,
            seen: format!("refused ({})", refusal.root_cause()),
        });
    }
    let outcome = recovered(site, balancer, Instant::now());
    machine.set_queues(BALANCER_INTERFACE, 2)?;
    outcome
}

fn kill(site: &Site, _: &Scenario) -> Result<Outcome> {
    let balancer = start(site)?;
    let since = Instant::now();
    balancer.kill()?;
    let balancer = site.launch().start(site.lab())?;
    recovered(site, balancer, since)
}

/// What a machine has of what programs like ours take.
#[derive(Debug)]
struct Holdings {
    programs: usize,
    maps: usize,
    memory: u64,
}

impl Holdings {
    fn look() -> Result<Self> {
        let (programs, maps) = loaded()?;
        let text = fs::read_to_string("/proc/meminfo")?;
        let available = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))
            .and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .context("/proc/meminfo does not say what is available")?;
        Ok(Self {
            programs,
            maps,
            memory: available << 10,
        })
    }

    /// Looks until nothing has changed in number for a while: the kernel frees programs and maps some
    /// time after their owner has gone.
    fn settled() -> Result<Self> {
        let numbers = |holdings: &Self| (holdings.programs, holdings.maps);
        let deadline = Instant::now() + PATIENCE;
        let mut known = Self::look()?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            ensure!(
                Instant::now() < deadline,
                "eBPF programs and maps come and go: {known:?}"
            );
            thread::sleep(Duration::from_millis(100));
            let now = Self::look()?;
            if numbers(&now) != numbers(&known) {
                since = Instant::now();
            }
            known = now;
        }
        Ok(known)
    }
}

fn cycles(site: &Site, scenario: &Scenario) -> Result<Outcome> {
    let around = Surroundings::look(site)?;
    let cycle = || -> Result<()> {
        stop(site.launch().start(site.lab())?)?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        cycle()?;
    }
    around.wait_for(site)?;
    let before = Holdings::settled()?;
    for number in 0..scenario.cycles {
        cycle().with_context(|| format!("at start {number}"))?;
    }
    around.wait_for(site)?;
    let deadline = Instant::now() + PATIENCE;
    let after = loop {
        let now = Holdings::look()?;
        let same = (now.programs, now.maps) == (before.programs, before.maps)
            && now.memory + MEMORY_NOISE >= before.memory;
        if same || Instant::now() >= deadline {
            ensure!(same, "before {before:?}, afterwards {now:?}");
            break now;
        }
        thread::sleep(Duration::from_millis(100));
    };
    Ok(Outcome {
        interruption: None,
        seen: format!(
            "{} times; {} eBPF programs and {} maps as before, {} KiB of memory less",
            scenario.cycles,
            after.programs,
            after.maps,
            before.memory.saturating_sub(after.memory) >> 10
        ),
    })
}

fn remove(site: &Site, _: &Scenario) -> Result<Outcome> {
    let balancer = start(site)?;
    let since = Instant::now();
    site.remove_card()?;
    let (status, said) = balancer.wait(PATIENCE)?;
    let interruption = since.elapsed();
    ensure!(!status.success(), "the balancer ended well: {said}");
    let reason = said
        .lines()
        .find(|line| line.contains("was the interface removed?"))
        .with_context(|| format!("the balancer does not say why it ended: {said}"))?;
    Ok(Outcome {
        interruption: Some(interruption),
        seen: format!("the balancer ended with: {reason}"),
    })
}
