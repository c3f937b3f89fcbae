//! Instructions that the machine spends on a packet: balancer with zero-copy sockets, balancer in the
//! kernel, and a program that sends every frame back.
//!
//! The machine's only processor counts instructions for time, one a nanosecond (QEMU's `-icount`). A
//! sender gives frames to the far card in bursts, each at its time, and a program behind that card
//! counts what comes back and drops it, so all of the machine's work but the balancer's is the same for
//! all. What a thread that has nothing else to do leaves of the time is what the others took; the same
//! time without packets is subtracted. The host compares what repeated measurements gave.

mod sender;
mod spinner;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::service::{MacAddress, ServiceControl};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use xdp_redirect::{CountCounter, CountProgram, ReflectProgram, XdpMode};

use super::observe::{modes, stop};
use super::report::Report;
use super::scenario::Scenario;
use super::site::{Site, insisting};
use crate::balancer::{Vip, configuration};
use crate::bench::services;
use crate::bench::{IpFamily, services::REALS};
use crate::lab::plan::BALANCER_INTERFACE;
use sender::{Sender, sleep_until};
use spinner::Spinner;

/// Flows that take turns, all of them known to the balancer.
const FLOWS: u64 = 1024;
/// Frames of a burst, and time between the beginnings of two: enough for all that one causes, such as
/// the look of a worker for frames that have not left a millisecond later.
const BURSTS: [usize; 2] = [64, 8];
const PERIOD: Duration = Duration::from_millis(2);
/// Bursts of each part of a measurement, and time for the last frames to come back.
const COUNT: usize = 64;
const REST: Duration = Duration::from_millis(20);
/// Parts of a measurement, of which the one counts that took least: what the machine has to do beside
/// the packets, such as a card's driver that looks after its link, only adds to a part.
const PARTS: usize = 20;
/// The kernel's clock ticks at multiples of this or of a part of it. Parts begin between two ticks and
/// last a multiple of this, so that they all have the same number of ticks at the same places.
const TICKS: Duration = Duration::from_millis(4);
const BETWEEN_TICKS: Duration = Duration::from_micros(100);
const _: () = {
    let part = PERIOD.as_millis() * COUNT as u128 + REST.as_millis();
    assert!(part.is_multiple_of(TICKS.as_millis()));
};
/// How long the machine rests first. In the seconds after its start it does more beside the packets
/// than later.
const SETTLE: Duration = Duration::from_secs(30);
/// Measurements of all subjects in one machine.
const RUNS: usize = 2;

/// What the machine has at the near card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Reflect,
    Kernel,
    ZeroCopy,
}

impl Subject {
    const ALL: [Self; 3] = [Self::Reflect, Self::Kernel, Self::ZeroCopy];
    const BALANCERS: [Self; 2] = [Self::Kernel, Self::ZeroCopy];

    const fn name(self) -> &'static str {
        match self {
            Self::Reflect => "sent back by a program",
            Self::Kernel => "balanced in the kernel",
            Self::ZeroCopy => "balanced through zero-copy sockets",
        }
    }

    /// As what its frames are counted at the far end.
    const fn counted(self) -> CountCounter {
        match self {
            Self::Reflect => CountCounter::Returned,
            Self::Kernel | Self::ZeroCopy => CountCounter::Encapsulated,
        }
    }
}

/// The two ends of the cable, and what measures.
struct Bench<'a> {
    site: &'a Site,
    sender: Sender,
    counter: CountProgram,
    spinner: Spinner,
    next_hop: [u8; 6],
}

/// Measures all and reports each as a figure.
pub(super) fn run(site: &Site, scenario: &Scenario, report: &Report) -> Result<String> {
    let (own, next_hop) = (mac(&scenario.card)?, mac(&scenario.far_card)?);
    let lab = site.lab();
    let far = lab.balancer().name();
    let counter = lab
        .router()
        .run(|| CountProgram::attach(far, XdpMode::Generic))??;
    std::thread::sleep(SETTLE);
    let bench = Bench {
        site,
        sender: Sender::open(lab.router(), far, own, next_hop)?,
        counter,
        spinner: Spinner::start()?,
        next_hop,
    };
    report.fact("figure a block of the idle thread", bench.spinner.block());
    let runs = (0..RUNS)
        .map(|_| bench.all(report))
        .collect::<Result<Vec<Run>>>()?;
    tell(&runs, report);
    let sent = BURSTS.map(|burst| format!("{} in bursts of {burst}", PARTS * COUNT * burst));
    Ok(format!(
        "each of {} times every frame came back: {}",
        RUNS * Subject::ALL.len(),
        sent.join(" and ")
    ))
}

/// Instructions per packet of one subject, for each length of bursts.
type Counts = [f64; BURSTS.len()];
/// A measurement of all subjects.
type Run = [Counts; Subject::ALL.len()];

/// What a subject takes more than the one that only sends back.
fn more(run: &Run, subject: Subject, burst: usize) -> f64 {
    run[subject as usize][burst] - run[Subject::Reflect as usize][burst]
}

/// Reports each figure with what every run says of it.
fn tell(runs: &[Run], report: &Report) {
    let figure = |name: String, of: &dyn Fn(&Run) -> f64| {
        let rounded: Vec<f64> = runs
            .iter()
            .map(|run| (of(run) * 10.0).round() / 10.0)
            .collect();
        report.fact(&format!("figure {name}"), json!(rounded));
    };
    for (number, frames) in BURSTS.iter().enumerate() {
        for subject in Subject::ALL {
            let name = subject.name();
            figure(
                format!("{name} in bursts of {frames}, instructions per packet"),
                &|run| run[subject as usize][number],
            );
        }
        for subject in Subject::BALANCERS {
            let name = subject.name();
            figure(
                format!("{name} in bursts of {frames}, more than sent back"),
                &|run| more(run, subject, number),
            );
        }
    }
}

impl Bench<'_> {
    /// Measures all subjects once.
    fn all(&self, report: &Report) -> Result<Run> {
        let mut run = Run::default();
        for subject in Subject::ALL {
            run[subject as usize] = self
                .subject(subject, report)
                .with_context(|| subject.name())?;
        }
        Ok(run)
    }

    fn subject(&self, subject: Subject, report: &Report) -> Result<Counts> {
        let here = self.site.lab().balancer();
        match subject {
            Subject::Reflect => {
                let _program =
                    here.run(|| ReflectProgram::attach(BALANCER_INTERFACE, XdpMode::Native))??;
                self.measure(subject)
            }
            Subject::Kernel => {
                let table = ServiceControl::new().apply(&services::services(self.next_hop))?;
                let mut balancer = services::in_kernel(&table, 4 * FLOWS)?;
                here.run(|| balancer.attach_to(BALANCER_INTERFACE, XdpMode::Native))??;
                self.measure(subject)
            }
            Subject::ZeroCopy => {
                let vip = Vip {
                    address: services::vip(IpFamily::V4),
                    port: services::PORT,
                    protocol: "tcp",
                    reals: (0..REALS)
                        .map(|number| (services::real(IpFamily::V4, number), 1))
                        .collect(),
                };
                let text = format!(
                    "[interface]\nnext_hop_mac = \"{}\"\n\n{}",
                    MacAddress(self.next_hop),
                    configuration(&[vip], 4 * FLOWS as usize)
                );
                let mut launch = insisting(self.site.launch());
                let file = self.site.lab().scratch().write("counted.toml", text)?;
                launch.config = Some(file);
                let balancer = launch.start(self.site.lab())?;
                report.fact("xdp", balancer.ctl(["show", "config"])?["xdp_mode"].clone());
                report.fact("modes", modes(&balancer)?);
                let measured = self.measure(subject);
                stop(balancer)?;
                measured
            }
        }
    }

    fn measure(&self, subject: Subject) -> Result<Counts> {
        // Attaching may take the link down for a moment; then every flow gets known.
        self.sender
            .wait_for_link(&self.counter, subject.counted())?;
        self.part(subject, BURSTS[0])?;
        let nothing = self.window(subject, 0)?;
        let mut counts = Counts::default();
        for (count, burst) in counts.iter_mut().zip(BURSTS) {
            *count = (self.window(subject, burst)? - nothing) / (COUNT * burst) as f64;
        }
        Ok(counts)
    }

    /// Sends bursts and gives the instructions that everything but the idle thread took for a part of
    /// them.
    fn window(&self, subject: Subject, burst: usize) -> Result<f64> {
        (0..PARTS)
            .map(|_| self.part(subject, burst))
            .try_fold(f64::INFINITY, |least, part| Ok(least.min(part?)))
    }

    fn part(&self, subject: Subject, burst: usize) -> Result<f64> {
        let before = self.counter.frames(subject.counted())?;
        let begin = between_ticks()?;
        sleep_until(begin);
        let moment = self.spinner.now();
        self.sender.send(burst, COUNT, begin, PERIOD)?;
        sleep_until(begin + COUNT as u32 * PERIOD + REST);
        let others = self.spinner.others_since(moment);
        let came = self.counter.frames(subject.counted())? - before;
        let sent = burst * COUNT;
        ensure!(came == sent as u64, "{came} of {sent} frames came back");
        Ok(others)
    }
}

/// A moment soon, shortly after a tick of the kernel's clock.
fn between_ticks() -> Result<Instant> {
    let (clock, now) = (
        Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?),
        Instant::now(),
    );
    let ticks = TICKS.as_nanos();
    let to_tick = ticks - clock.as_nanos() % ticks;
    Ok(now + Duration::from_nanos(to_tick as u64) + BETWEEN_TICKS)
}

/// Reads an Ethernet address.
fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect();
    octets
        .ok()
        .and_then(|octets| octets.try_into().ok())
        .with_context(|| format!("{text} is no Ethernet address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_read() {
        assert_eq!(
            mac("52:54:00:00:00:0b").unwrap(),
            [0x52, 0x54, 0, 0, 0, 0xb]
        );
        assert!(mac("52:54:00:00:00").is_err() && mac("x").is_err());
    }
}
