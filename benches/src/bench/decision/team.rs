//! Forwarders that decide at the same time, each on a thread and a CPU of its own, as workers do.

use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow};

use super::{Setting, userspace::Userspace};
use crate::bench::{pin::pin, row::Case};

/// One forwarder or more, which share nothing but the machine.
pub(crate) struct Team {
    members: Vec<Apart>,
    cpus: Vec<usize>,
}

/// A forwarder on cache lines of its own.
#[repr(align(128))]
struct Apart(Userspace);

impl Team {
    /// A forwarder for each of these CPUs.
    pub(crate) fn new(setting: Setting, burst: usize, cpus: &[usize]) -> Result<Self> {
        let Setting { family, flows } = setting;
        // Each where it will run, so that its memory is near.
        let made: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = cpus
                .iter()
                .map(|&cpu| {
                    scope.spawn(move || {
                        pin(cpu)?;
                        Userspace::new(family, flows, burst).map(Apart)
                    })
                })
                .collect();
            threads.into_iter().map(joined).collect()
        });
        Ok(Self {
            members: made.into_iter().collect::<Result<Vec<_>>>()?,
            cpus: cpus.to_vec(),
        })
    }

    /// How many forwarders.
    pub(crate) const fn size(&self) -> usize {
        self.members.len()
    }

    /// Each decides `packets` packets; nanoseconds per packet of all of them together: half of what one takes
    /// if two do not disturb each other.
    pub(crate) fn sample(&mut self, case: Case, packets: u64) -> Result<f64> {
        if let [Apart(only)] = self.members.as_mut_slice() {
            return only.sample(case, packets);
        }
        let start = Barrier::new(self.members.len());
        let start = &start;
        let samples = thread::scope(|scope| {
            let threads: Vec<_> = self
                .members
                .iter_mut()
                .zip(&self.cpus)
                .map(|(Apart(member), &cpu)| {
                    scope.spawn(move || {
                        let ready = pin(cpu).and_then(|()| member.make_ready(case));
                        // Whatever happened, for the others wait.
                        start.wait();
                        ready?;
                        member.sample(case, packets)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(joined)
                .collect::<Result<Vec<f64>>>()
        })
        .context("workers at the same time")?;
        Ok(together(&samples))
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a worker panicked"))?
}

/// Time per packet of workers of which each takes so much.
fn together(each: &[f64]) -> f64 {
    let packets_per_ns: f64 = each.iter().map(|ns| ns.recip()).sum();
    packets_per_ns.recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{on_one_cpu, row::IpFamily};

    const SETTING: Setting = Setting {
        family: IpFamily::V4,
        flows: 1000,
    };

    #[test]
    fn two_that_are_as_fast_take_half_as_long() {
        assert!((together(&[20.0, 20.0]) - 10.0).abs() < 1e-9);
        assert!((together(&[10.0, 40.0]) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn workers_decide_at_the_same_time() {
        on_one_cpu(|cpus| {
            // Where there is only one CPU, they share it.
            let mut team = Team::new(SETTING, 64, &[cpus[0], cpus[0]])?;
            assert_eq!(team.members.len(), 2);
            for case in [Case::Hit, Case::New] {
                assert!(team.sample(case, 10_000)? > 0.0);
            }
            Ok(())
        })
        .expect("counters add up");
    }
}
