//! Generator, device and far end, and trials with them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xdp_redirect::{CountCounter, CountProgram, Latencies, Pace, XdpMode};

use super::{
    account::Account,
    device::{Device, DeviceOptions, looks_like},
    idle::BusyWatch,
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
/// Rate at which flows are made known before anything is measured; half of that after each round that
/// lost packets, down to the least.
const INTRODUCTION_RATE: u64 = 400_000;
const LEAST_INTRODUCTION_RATE: u64 = 100_000;
/// Rounds in which all flows must have become known.
const INTRODUCTION_ROUNDS: u32 = 16;

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

    /// Has the generator ready to send while `work` goes on, and its threads ended afterwards, however
    /// that ends.
    pub(crate) fn sending<R>(&mut self, work: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let result = match self.sender.start() {
            Ok(()) => work(self),
            Err(error) => Err(error),
        };
        let stopped = self.sender.stop();
        let result = result?;
        stopped?;
        Ok(result)
    }

    /// Sends packets of every flow until the flow table has them.
    pub(crate) fn introduce_flows(&mut self) -> Result<()> {
        let mut result = Ok(());
        let mut rate = INTRODUCTION_RATE;
        for _ in 0..INTRODUCTION_ROUNDS {
            let account = self.send_every_flow(rate)?;
            account.check()?;
            // Each queue has decided half of the flows at least, else nobody knows what its table has.
            result = ensure_few_lost(&account, self.flows / 2).and_then(|()| account.check_hits());
            if result.is_ok() {
                break;
            }
            if account.lost() > 0 {
                rate = (rate / 2).max(LEAST_INTRODUCTION_RATE);
            }
        }
        result.with_context(|| {
            format!(
                "{} is not known to have {} flows after {INTRODUCTION_ROUNDS} packets of each",
                self.datapath, self.flows
            )
        })
    }

    /// Sends a packet of every flow to every queue.
    fn send_every_flow(&mut self, rate: u64) -> Result<Account> {
        let before = self.drained()?;
        let sent_before = self.sender.sent_by_each()?;
        let wanted = self.flows;
        let threads = sent_before.len() as f64;
        self.sender.set_pace(Pace::Rate(rate))?;
        let deadline = Instant::now()
            + Duration::from_secs(10)
            + Duration::from_secs_f64(4.0 * threads * wanted as f64 / rate as f64);
        let is_done = |sent: Vec<u64>| {
            let mut both = sent.iter().zip(&sent_before);
            both.all(|(now, then)| now - then >= wanted)
        };
        while !is_done(self.sender.sent_by_each()?) {
            self.sender.check()?;
            self.device.check()?;
            ensure!(
                Instant::now() < deadline,
                "the generator does not get {wanted} packets sent on each of its CPUs"
            );
            thread::sleep(Duration::from_millis(5));
        }
        self.sender.set_pace(Pace::Paused)?;
        Ok(self.drained()?.since(&before))
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
            .and_then(|()| account.check_hits())
            .with_context(|| format!("{} {}", self.datapath, self.layout))?;
        ensure!(
            account.sent > 0,
            "the generator did not send a packet in {time:?}"
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
        let busy = BusyWatch::start(&self.cpus.workers)?;
        let delivered = self.delivered()?;
        self.trial(Pace::Rate(rate), time)?;
        let busy = busy.stop()?;
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

    /// Whether what forwards has to share a CPU with the generator: workers for want of CPUs, and in the
    /// split layout whatever has no workers.
    pub(crate) fn shares_cpus_with_generator(&self) -> bool {
        let has_workers = matches!(self.datapath, Datapath::L2fwd | Datapath::Xsk);
        !self.cpus.are_apart() || (self.layout == Layout::Split && !has_workers)
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
            asked: counted.asked,
        })
    }
}

fn ensure_few_lost(account: &Account, most: u64) -> Result<()> {
    let lost = account.lost();
    ensure!(
        lost <= most,
        "{lost} packets were lost, at most {most} may be ({account:?})"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::row::Scheduling, lab::requirements};

    /// Threads of this process that are in the generator's namespace.
    fn senders() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("own threads");
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim_end() == "far").count()
    }

    #[test]
    fn a_trial_that_fails_leaves_nothing_behind() {
        if !requirements::met_or_skip("a_trial_that_fails_leaves_nothing_behind", &[]) {
            return;
        }
        let options = DeviceOptions {
            datapath: Datapath::Kernel,
            scheduling: Scheduling::Normal,
            flows: 100,
        };
        let cpus = Cpus::plan(1).expect("two CPUs");
        let mut rig = Rig::new(options, Layout::SharedCore, 1, &cpus).expect("a rig");
        rig.sending(|rig| {
            // Flows that nobody knows yet.
            let error = rig
                .trial(Pace::Rate(1_000), Duration::from_millis(50))
                .expect_err("no hits");
            assert!(
                format!("{error:#}").contains("the ring was asked"),
                "{error:#}"
            );
            assert_eq!(senders(), 1);
            Err::<(), _>(error)
        })
        .expect_err("failed");
        assert_eq!(senders(), 0);
        rig.sending(|rig| {
            rig.introduce_flows()?;
            rig.trial(Pace::Rate(1_000), Duration::from_millis(50))
        })
        .expect("it works on");
        drop(rig);
        assert_eq!(senders(), 0);
    }
}
