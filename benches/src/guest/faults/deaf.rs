//! A driver that does not look at its queues, though frames wait in the card and the balancer has chunks for
//! them. No kernel call that asks it to look reaches it; the balancer's watchdog has to poll it.
//!
//! `napi_defer_hard_irqs` makes one: after a poll that received something the driver leaves its interrupt
//! off, that of its own wake-ups included, and the kernel polls again only when a timer runs out.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::balancer::Balancer;
use crate::lab::plan::{self, BALANCER_INTERFACE};

use super::super::observe::sum;
use super::super::scenario::Scenario;
use super::super::site::{CLIENTS, PORT, Site};
use super::Outcome;
use super::flowing::Flowing;

/// Chunks of each queue: fewer than the card's ring has places for, so that the driver finds the fill ring
/// empty again and again, which makes the watchdog look at a silent queue.
const FRAMES: usize = 128;
/// How long the watchdog takes to look for the first time. It asks only what has happened since.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long the kernel waits for a driver that is deaf.
const DEAF: Duration = Duration::from_secs(10);
/// How long the watchdog, which looks every second, is waited for: less, so that it was not the timer.
const WAIT: Duration = Duration::from_secs(7);
const POLL: Duration = Duration::from_millis(100);
/// The driver whose emulated card has its interrupts on always: QEMU takes what is written to the register of
/// their automatic masking upside down (`igb_set_eiam` in `hw/net/igb_core.c`).
const NEVER_DEAF: &str = "igb";
/// Pause between two datagrams of each client.
const PACE: Duration = Duration::from_millis(50);

/// The watchdog gets frames out of a card whose driver is deaf.
pub(super) fn deaf(site: &Site, _: &Scenario) -> Result<Outcome> {
    let launch = site.launch_with("deaf.toml", &format!("frames = {FRAMES}"))?;
    let flowing = Flowing::without_connections(launch.start(site.lab())?);
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let sender = scope.spawn(|| trickle(site, &over));
        let seen = rouse(site, &flowing);
        over.store(true, Ordering::Relaxed);
        match sender.join() {
            Ok(sent) => sent.and(seen),
            Err(_) => bail!("the thread that sends panicked"),
        }
    })?;
    let mut outcome = flowing.recovered(site, Instant::now())?;
    // The driver hears again when its timer runs out.
    outcome.interruption = None;
    outcome.seen = seen;
    Ok(outcome)
}

/// Sends datagrams to all queues, so that none of them is silent while its driver listens, and frames wait
/// when it does not.
fn trickle(site: &Site, over: &AtomicBool) -> Result<()> {
    let vip: SocketAddr = (plan::vip_v4(0), PORT).into();
    while !over.load(Ordering::Relaxed) {
        for client in 0..CLIENTS {
            // Of another port each time, as some cards choose a queue by it.
            site.lab().client(client).run(|| -> Result<()> {
                let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(&[0; 64], vip);
                Ok(())
            })??;
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Makes the driver deaf once it has found no chunk; gives what the watchdog did.
fn rouse(site: &Site, flowing: &Flowing) -> Result<String> {
    let balancer = &flowing.balancer;
    flowing.served_since(site, Instant::now())?;
    thread::sleep(FIRST_LOOK);
    await_rise(balancer, "socket", "fill-ring-empty")?;
    set_deaf(site, DEAF)?;
    let seen = frames_come(balancer, site.driver());
    // Also after a failure: the next steps need a driver that hears.
    set_deaf(site, Duration::ZERO)?;
    seen
}

/// What has frames come although the driver is deaf.
fn frames_come(balancer: &Balancer, driver: &str) -> Result<String> {
    match await_rise(balancer, "io", "rx-stalls") {
        Ok(time) => Ok(format!(
            "frames came out of a deaf driver after {:.2} s",
            time.as_secs_f64()
        )),
        Err(_) if driver == NEVER_DEAF && receives(balancer)? => {
            Ok("QEMU's card interrupts a driver that left that off".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// Whether frames arrive by themselves.
fn receives(balancer: &Balancer) -> Result<bool> {
    let before = balancer.stats()?.frames.received;
    thread::sleep(Duration::from_secs(1));
    Ok(balancer.stats()?.frames.received > before)
}

/// Waits until a number of `show workers` rises.
fn await_rise(balancer: &Balancer, group: &str, name: &str) -> Result<Duration> {
    let since = Instant::now();
    let before = sum(balancer, group, name)?;
    while sum(balancer, group, name)? == before {
        if since.elapsed() > WAIT {
            bail!(
                "{name} stays at {before}: {}",
                balancer.ctl(["show", "workers"])?
            );
        }
        thread::sleep(POLL);
    }
    Ok(since.elapsed())
}

fn set_deaf(site: &Site, time: Duration) -> Result<()> {
    let polls = if time.is_zero() { "0" } else { "1000000" };
    let balancer = site.lab().balancer();
    let time = time.as_nanos().to_string();
    for (attribute, value) in [
        ("gro_flush_timeout", time.as_str()),
        ("napi_defer_hard_irqs", polls),
    ] {
        balancer
            .set_attribute(BALANCER_INTERFACE, attribute, value)
            .context("the driver's interrupts")?;
    }
    Ok(())
}
