//! Generator, device and far end, and trials with them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::param::clock_ticks_per_second;
use xdp_redirect::{CountCounter, CountProgram, Latencies, Pace, XdpMode};

use super::{
    account::Account,
    device::{Device, DeviceOptions, looks_like},
    search::Trial,
    sender::Sender,
    site::{Cpus, FAR, Site},
};
use crate::bench::{
    frame::{self, Segment},
    row::{Datapath, IpFamily, Layout},
};

/// Longest time for packets to come to an end.
const DRAIN: Duration = Duration::from_secs(3);
/// Part of a trial after which rates are taken: queues have filled then.
const RUN_UP: f64 = 0.2;
/// Rate at which flows are made known before anything is measured.
const INTRODUCTION_RATE: u64 = 400_000;

/// A device with everything around it.
pub(crate) struct Rig {
    /// Before the device, so that nothing is sent when it goes.
    sender: Sender,
    device: Device,
    far: CountProgram,
    site: Site,
    cpus: Cpus,
    datapath: Datapath,
    layout: Layout,
    flows: u64,
}

/// What a trial saw beside its rates.
pub(crate) struct Details {
    pub(crate) latencies: Latencies,
    /// Busy time of the workers' CPUs per delivered packet, in nanoseconds.
    pub(crate) cpu_ns: f64,
}

impl Rig {
    /// Builds everything; nothing is sent yet.
    pub(crate) fn new(
        options: DeviceOptions,
        layout: Layout,
        queues: u32,
        cpus: &Cpus,
    ) -> Result<Self> {
        let site = Site::new(queues)?;
        let (far_mac, near_mac) = site.macs()?;
        let far = site
            .far
            .run(|| CountProgram::attach(FAR, XdpMode::Native))?
            .context("the far end cannot count")?;
        let device = Device::start(options, &site, cpus)
            .with_context(|| format!("cannot start the datapath {}", options.datapath))?;
        site.arrange(layout, cpus)?;
        let frame = frame::template(IpFamily::V4, Segment::Ack, near_mac, far_mac);
        let flows =
            u32::try_from(options.flows).context("the generator has less than 2^32 flows")?;
        let sender = Sender::new(
            &site.far,
            site.far_index()?,
            frame,
            flows,
            cpus.senders.clone(),
        )?;
        Ok(Self {
            sender,
            device,
            far,
            site,
            cpus: cpus.clone(),
            datapath: options.datapath,
            layout,
            flows: options.flows,
        })
    }

    /// Makes the generator ready to send.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.sender.start()
    }

    /// Stops the generator's threads.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.sender.stop()
    }

    /// Sends two packets of every flow at a rate that every datapath stands.
    pub(crate) fn introduce_flows(&mut self) -> Result<()> {
        if !matches!(self.datapath, Datapath::Kernel | Datapath::Xsk) {
            return Ok(());
        }
        let wanted = 2 * self.flows;
        let before = self.sender.sent()?;
        self.sender.set_pace(Pace::Rate(INTRODUCTION_RATE))?;
        let deadline = Instant::now()
            + Duration::from_secs(10)
            + Duration::from_secs_f64(4.0 * wanted as f64 / INTRODUCTION_RATE as f64);
        while self.sender.sent()? - before < wanted {
            self.sender.check()?;
            self.device.check()?;
            ensure!(
                Instant::now() < deadline,
                "the generator does not get {wanted} packets sent"
            );
            thread::sleep(Duration::from_millis(5));
        }
        self.sender.set_pace(Pace::Paused)?;
        self.drained().map(|_| ())
    }

    /// Sends at a pace for a while. Every packet must be accounted for.
    pub(crate) fn trial(&mut self, pace: Pace, time: Duration) -> Result<Trial> {
        let before = self.drained()?;
        self.sender.set_pace(pace)?;
        thread::sleep(time.mul_f64(RUN_UP));
        let (began, sent, delivered) = (Instant::now(), self.sender.sent()?, self.delivered()?);
        thread::sleep(time.mul_f64(1.0 - RUN_UP));
        let seconds = began.elapsed().as_secs_f64();
        let rate = |packets: u64| packets as f64 / seconds;
        let (offered, delivered) = (
            rate(self.sender.sent()? - sent),
            rate(self.delivered()? - delivered),
        );
        self.sender.set_pace(Pace::Paused)?;
        let account = self.drained()?.since(&before);
        self.sender.check()?;
        self.device.check()?;
        account
            .check()
            .with_context(|| format!("{} {}", self.datapath, self.layout))?;
        ensure!(
            account.sent > 0,
            "the machine is too busy to measure: the generator did not get to send a packet in {time:?}"
        );
        Ok(Trial {
            offered,
            delivered,
            lost: account.lost(),
            sent: account.sent,
        })
    }

    /// As [`Rig::trial`], and takes the time of packets and CPUs.
    pub(crate) fn detailed(&mut self, rate: u64, time: Duration) -> Result<Details> {
        self.far.take_times(true)?;
        let busy = busy_time(&self.cpus.workers)?;
        let delivered = self.delivered()?;
        self.trial(Pace::Rate(rate), time)?;
        let busy = busy_time(&self.cpus.workers)?.saturating_sub(busy);
        let delivered = self.delivered()? - delivered;
        let latencies = self.far.latencies()?;
        self.far.take_times(false)?;
        ensure!(
            latencies.count() == delivered,
            "the counters do not add up: {} times of {delivered} packets",
            latencies.count()
        );
        Ok(Details {
            latencies,
            cpu_ns: busy.as_nanos() as f64 / delivered.max(1) as f64,
        })
    }

    /// Whether the workers' CPUs do all of the device's work and nothing else.
    pub(crate) fn owns_its_cpus(&self) -> bool {
        self.layout == Layout::SharedCore && self.cpus.are_apart()
    }

    fn delivered(&self) -> Result<u64> {
        Ok(self.far.frames(looks_like(self.datapath))?)
    }

    /// Waits until no packet is on its way, and says where all have gone.
    fn drained(&self) -> Result<Account> {
        let deadline = Instant::now() + DRAIN;
        let mut account = self.account()?;
        loop {
            thread::sleep(Duration::from_millis(2));
            let next = self.account()?;
            // Twice the same: the numbers are not read at one moment.
            if next == account && (next.ended() == next.sent || Instant::now() > deadline) {
                return Ok(next);
            }
            ensure!(
                Instant::now() < deadline + DRAIN,
                "packets keep coming although the generator sends none ({next:?})"
            );
            account = next;
        }
    }

    fn account(&self) -> Result<Account> {
        let (far, near) = self.site.counters()?;
        let counted = self.device.counted()?;
        let expected = looks_like(self.datapath);
        let mut strange = 0;
        for &kind in CountCounter::ALL {
            if kind != expected {
                strange += self.far.frames(kind)?;
            }
        }
        Ok(Account {
            sent: self.sender.sent()?,
            refused: far.tx_dropped,
            seen: counted.seen,
            workers: counted.workers,
            transmitted: counted.transmitted,
            not_forwarded: counted.not_forwarded,
            refused_back: near.tx_dropped,
            delivered: self.delivered()?,
            strange,
        })
    }
}

/// Time in which these CPUs were not idle, since the machine was started.
fn busy_time(cpus: &[usize]) -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_in(&text, cpus).context("/proc/stat does not have the workers' CPUs")
}

/// Fields `user`, `nice`, `system`, `irq` and `softirq` of these CPUs.
fn busy_in(text: &str, cpus: &[usize]) -> Option<Duration> {
    let mut ticks = 0;
    for cpu in cpus {
        let name = format!("cpu{cpu} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        for field in [0, 1, 2, 5, 6] {
            ticks += fields.get(field)?;
        }
    }
    Some(Duration::from_secs_f64(
        ticks as f64 / clock_ticks_per_second() as f64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_stolen() {
        let second = clock_ticks_per_second();
        let text = format!(
            "cpu  1 1 1\ncpu0 9 9 9 9 9 9 9 9\ncpu1 {second} {second} {second} 7 7 {second} {second} 7\ncpu10 0 0 0 0 0 0 0 0\n"
        );
        assert_eq!(busy_in(&text, &[1]), Some(Duration::from_secs(5)));
        assert_eq!(busy_in(&text, &[1, 10]), Some(Duration::from_secs(5)));
        assert_eq!(busy_in(&text, &[2]), None);
        assert!(busy_time(&[]).is_ok());
    }
}
