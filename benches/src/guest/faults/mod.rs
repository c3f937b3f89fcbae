//! What happens to a card while the balancer runs on it.
//!
//! Connections exchange requests and answers all the while. After each fault all clients must be
//! served again over both families and the connections must live, or the balancer must have ended
//! with an error that says why, within [`LIMIT`]. The report has the time as a figure.

mod deaf;
mod flowing;
mod holdings;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;

use crate::lab::cpu_time;
use crate::lab::plan::{self, BALANCER_INTERFACE};

use super::observe::{WATCH, ensure_rests, ensure_serves, frames_add_up, stop, sum};
use super::report::Report;
use super::scenario::Scenario;
use super::site::{CLIENTS, PORT, Site};
use flowing::{Flowing, some_served};

/// Longest time until all are served again, or the balancer has ended.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it is waited, so that the report can say how long it took.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a link stays down, and a balancer stands still.
const OUTAGE: Duration = Duration::from_secs(2);
/// Chunks of each queue of the balancer that stands still: more than the card's ring holds.
const FEW_FRAMES: usize = 512;
/// Datagrams that each client sends to it while it stands still: more than the chunks of all queues.
const FLOOD: usize = 1000;

type Fault = fn(&Site, &Scenario) -> Result<Outcome>;

/// How long the interruption was from the first call that breaks something, or, where a link is down or a
/// balancer stands still on purpose, from the call that ends that; and what was seen.
struct Outcome {
    interruption: Option<Duration>,
    seen: String,
}

/// In this order. The last one takes the card.
const FAULTS: [(&str, Fault); 9] = [
    ("link down and up", link),
    ("MTU changed and back", mtu),
    ("queue in use taken away", queue_in_use),
    ("unused queue taken away", unused_queue),
    ("no room for frames", stand_still),
    ("driver deaf", deaf::deaf),
    ("kill -9 and start", kill),
    (STARTS, holdings::cycles),
    ("card removed", remove),
];
const STARTS: &str = "starts and stops";

/// Those that are wanted.
fn chosen(scenario: &Scenario) -> impl Iterator<Item = (&'static str, Fault)> {
    let starts = scenario.cycles > 0;
    FAULTS
        .into_iter()
        .filter(move |(name, _)| starts || *name != STARTS)
}

/// What the step checks.
pub(super) fn checks(scenario: &Scenario) -> Vec<&'static str> {
    chosen(scenario).map(|(name, _)| name).collect()
}

/// Runs them all. The card is gone afterwards.
pub(super) fn run(site: &Site, scenario: &Scenario, report: &Report) {
    for (name, fault) in chosen(scenario) {
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

fn link(site: &Site, _: &Scenario) -> Result<Outcome> {
    let flowing = Flowing::start(site, &site.launch_as_expected())?;
    let links = site.lab().balancer_links();
    links.set_down(BALANCER_INTERFACE)?;
    thread::sleep(OUTAGE.saturating_sub(WATCH));
    ensure_rests(&flowing.balancer).context("without a link")?;
    let since = Instant::now();
    links.set_up(BALANCER_INTERFACE)?;
    // The kernel forgot its routes with the link.
    site.lab().address_balancer()?;
    flowing.recovered(site, since)
}

fn mtu(site: &Site, _: &Scenario) -> Result<Outcome> {
    let flowing = Flowing::start(site, &site.launch_as_expected())?;
    let links = site.lab().balancer_links();
    let mtu = links.link(BALANCER_INTERFACE)?.mtu;
    let since = Instant::now();
    links.set_mtu(BALANCER_INTERFACE, mtu - 20)?;
    links.set_mtu(BALANCER_INTERFACE, mtu)?;
    flowing.recovered(site, since)
}

/// Takes the second queue away and says with what words the kernel refused, if it did. Any refusal but
/// that of a queue in use is an error.
fn take_queue(site: &Site) -> Result<Option<Errno>> {
    let Err(error) = site.lab().balancer().set_queues(BALANCER_INTERFACE, 1) else {
        return Ok(None);
    };
    let cause = error.root_cause().downcast_ref::<io::Error>();
    match cause.and_then(io::Error::raw_os_error).map(Errno::from_raw) {
        Some(Errno::EINVAL) => Ok(Some(Errno::EINVAL)),
        _ => Err(error),
    }
}

/// The kernel keeps queues that have sockets.
fn queue_in_use(site: &Site, _: &Scenario) -> Result<Outcome> {
    let flowing = Flowing::start(site, &site.launch_as_expected())?;
    let since = Instant::now();
    let Some(refusal) = take_queue(site)? else {
        site.lab().balancer().set_queues(BALANCER_INTERFACE, 2)?;
        bail!("the kernel took a queue away that has a socket");
    };
    let mut outcome = flowing.recovered(site, since)?;
    outcome.seen = format!("refused ({refusal}), all served");
    Ok(outcome)
}

/// Whether a driver changes its number of queues while a program is attached.
fn keeps_queues(driver: &str) -> Result<bool> {
    match driver {
        "igb" => Ok(false),
        "virtio_net" => Ok(true),
        _ => bail!("nothing is known about queues of the driver {driver}"),
    }
}

/// A balancer on the first queue only, which stays.
fn unused_queue(site: &Site, _: &Scenario) -> Result<Outcome> {
    let mut launch = site.launch_as_expected();
    "0".clone_into(&mut launch.queues);
    let balancer = launch.start(site.lab())?;
    let before = some_served(site).context("before the queue was taken away")?;
    let since = Instant::now();
    let refusal = take_queue(site)?;
    ensure!(
        refusal.is_some() == keeps_queues(site.driver())?,
        "{} answered {refusal:?}",
        site.driver()
    );
    if let Some(refusal) = refusal {
        // Packets of the second queue are nobody's, now as before.
        let after = some_served(site).context("afterwards")?;
        ensure_serves(&balancer, 1, site.zero_copy())?;
        ensure_rests(&balancer)?;
        frames_add_up(&balancer)?;
        stop(balancer)?;
        return Ok(Outcome {
            interruption: None,
            seen: format!("refused ({refusal}), {before} served before and {after} afterwards"),
        });
    }
    let outcome = Flowing::without_connections(balancer).recovered(site, since);
    site.lab().balancer().set_queues(BALANCER_INTERFACE, 2)?;
    outcome
}

/// The balancer stands still until its RX rings or its chunks are used up. The fill ring's is the fault
/// [`deaf`].
fn stand_still(site: &Site, _: &Scenario) -> Result<Outcome> {
    let launch = site.launch_with("few.toml", &format!("frames = {FEW_FRAMES}"))?;
    let flowing = Flowing::start(site, &launch)?;
    let counted = |name| sum(&flowing.balancer, "socket", name);
    // The driver looks at the fill ring when the socket is bound, before there is a chunk.
    let (no_chunk, no_room) = (counted("fill-ring-empty")?, counted("rx-ring-full")?);
    flowing.balancer.signal(Signal::SIGSTOP)?;
    let flooded = flood(site);
    thread::sleep(OUTAGE);
    flooded?;
    let since = Instant::now();
    flowing.balancer.signal(Signal::SIGCONT)?;
    flowing.served_since(site, since)?;
    let no_chunk = counted("fill-ring-empty")? - no_chunk;
    let no_room = counted("rx-ring-full")? - no_room;
    ensure!(no_chunk + no_room > 0, "there was room for every frame");
    let stalls = sum(&flowing.balancer, "io", "rx-stalls")?;
    let mut outcome = flowing.recovered(site, since)?;
    outcome.seen = format!(
        "RX ring full {no_room} times, fill ring empty {no_chunk} times, {stalls} RX stalls, all served"
    );
    Ok(outcome)
}

/// Sends datagrams that nobody may answer.
fn flood(site: &Site) -> Result<()> {
    let vip: SocketAddr = (plan::vip_v4(0), PORT).into();
    for client in 0..CLIENTS {
        site.lab().client(client).run(|| -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for _ in 0..FLOOD {
                // A full queue on the way is not what this is about.
                let _ = socket.send_to(&[0; 64], vip);
            }
            Ok(())
        })??;
    }
    Ok(())
}

fn kill(site: &Site, _: &Scenario) -> Result<Outcome> {
    let mut flowing = Flowing::start(site, &site.launch_as_expected())?;
    let since = Instant::now();
    flowing.restart_killed(site)?;
    flowing.recovered(site, since)
}

fn remove(site: &Site, _: &Scenario) -> Result<Outcome> {
    let Flowing { balancer, held, .. } = Flowing::start(site, &site.launch_as_expected())?;
    // What processes used that have been waited for; only the balancer ends meanwhile.
    let used = || -> Result<Duration> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        Ok(Duration::from_micros(micros.unsigned_abs()))
    };
    let before = used()? + cpu_time(balancer.id())?;
    let since = Instant::now();
    site.remove_card()?;
    let (status, said) = balancer.wait(PATIENCE)?;
    let interruption = since.elapsed();
    let spent = used()?.saturating_sub(before);
    drop(held);
    ensure!(!status.success(), "the balancer ended well: {said}");
    ensure!(
        spent < interruption / 2 + Duration::from_millis(500),
        "the balancer used {spent:?} of the processor until its end after {interruption:?}"
    );
    let reason = said
        .lines()
        .find(|line| line.contains("the interface was removed"))
        .with_context(|| format!("the balancer does not say why it ended: {said}"))?;
    Ok(Outcome {
        interruption: Some(interruption),
        seen: format!("the balancer ended, having used {spent:?} of the processor, with: {reason}"),
    })
}
