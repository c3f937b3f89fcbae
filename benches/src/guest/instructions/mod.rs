//! Instructions that the machine spends on a packet: balancer with zero-copy sockets, balancer in the
//! kernel, and a program that sends every frame back.
//!
//! The machine's only processor counts instructions for time, one a nanosecond (QEMU's `-icount`). A
//! sender gives frames to the far card in bursts, each at its time, and a program behind that card
//! counts what comes back and drops it, so all of the machine's work but the balancer's is the same for
//! all. What a thread that has nothing else to do leaves of the time is what the others took; the same
//! time without packets is subtracted.

mod sender;
mod spinner;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dataplane::service::{MacAddress, ServiceControl};
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
use sender::Sender;
use spinner::Spinner;

/// Flows that take turns, all of them known to the balancer.
const FLOWS: u64 = 1024;
/// Frames of a burst, and time between the beginnings of two.
const BURSTS: [usize; 2] = [64, 8];
const PERIOD: Duration = Duration::from_millis(2);
/// Parts of a measurement, of which the median counts: now and then the machine has something else to
/// do. And bursts of each part.
const PARTS: usize = 16;
const COUNT: usize = 64;
/// Measurements of the same, which must agree.
const RUNS: usize = 2;
/// How much two may differ.
const AGREEMENT: f64 = 0.02;
/// Time for the last frames to come back.
const REST: Duration = Duration::from_millis(20);

/// What the machine has at the near card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Reflect,
    Kernel,
    ZeroCopy,
}

impl Subject {
    const ALL: [Self; 3] = [Self::Reflect, Self::Kernel, Self::ZeroCopy];

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
    let bench = Bench {
        site,
        sender: Sender::open(lab.router(), far, own, next_hop)?,
        counter,
        spinner: Spinner::start()?,
        next_hop,
    };
    report.fact("figure a block of the idle thread", bench.spinner.block());
    for subject in Subject::ALL {
        bench
            .subject(subject, report)
            .with_context(|| subject.name())?;
    }
    Ok(format!(
        "{} frames in bursts of {} and of {}, each twice, every one came back",
        PARTS * COUNT * (BURSTS[0] + BURSTS[1]),
        BURSTS[0],
        BURSTS[1]
    ))
}

impl Bench<'_> {
    fn subject(&self, subject: Subject, report: &Report) -> Result<()> {
        let here = self.site.lab().balancer();
        match subject {
            Subject::Reflect => {
                let _program =
                    here.run(|| ReflectProgram::attach(BALANCER_INTERFACE, XdpMode::Native))??;
                self.measure(subject, report)
            }
            Subject::Kernel => {
                let table = ServiceControl::new().apply(&services::services(self.next_hop))?;
                let mut balancer = services::in_kernel(&table, 4 * FLOWS)?;
                here.run(|| balancer.attach_to(BALANCER_INTERFACE, XdpMode::Native))??;
                self.measure(subject, report)
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
                let measured = self.measure(subject, report);
                stop(balancer)?;
                measured
            }
        }
    }

    fn measure(&self, subject: Subject, report: &Report) -> Result<()> {
        // Attaching may take the link down for a moment; then every flow gets known.
        self.sender
            .wait_for_link(&self.counter, subject.counted())?;
        self.window(subject, BURSTS[0])?;
        let nothing = self.window(subject, 0)?;
        for burst in BURSTS {
            let figures = (0..RUNS)
                .map(|_| {
                    let all = self.window(subject, burst)?;
                    Ok((all - nothing) / (COUNT * burst) as f64)
                })
                .collect::<Result<Vec<f64>>>()?;
            let rounded: Vec<f64> = figures.iter().map(|figure| figure.round()).collect();
            report.fact(
                &format!(
                    "figure {} in bursts of {burst}, instructions per packet",
                    subject.name()
                ),
                json!(rounded),
            );
            let (least, most) = figures.iter().fold((f64::MAX, 0.0), |(least, most), &one| {
                (one.min(least), one.max(most))
            });
            ensure!(
                most <= least * (1.0 + AGREEMENT),
                "in bursts of {burst} the measurements differ: {rounded:?}"
            );
        }
        Ok(())
    }

    /// Sends bursts and gives the instructions that everything but the idle thread took for a part of
    /// them.
    fn window(&self, subject: Subject, burst: usize) -> Result<f64> {
        let mut parts = (0..PARTS)
            .map(|_| self.part(subject, burst))
            .collect::<Result<Vec<f64>>>()?;
        parts.sort_by(f64::total_cmp);
        Ok(f64::midpoint(parts[PARTS / 2 - 1], parts[PARTS / 2]))
    }

    fn part(&self, subject: Subject, burst: usize) -> Result<f64> {
        let before = self.counter.frames(subject.counted())?;
        let begin = self.spinner.now();
        self.sender.send(burst, COUNT, PERIOD)?;
        std::thread::sleep(REST);
        let others = self.spinner.others_since(begin);
        let came = self.counter.frames(subject.counted())? - before;
        ensure!(
            came == (burst * COUNT) as u64,
            "{came} of {} frames came back",
            burst * COUNT
        );
        Ok(others)
    }
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
