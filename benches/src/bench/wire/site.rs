//! Two network namespaces with a veth pair between them, and who receives on which CPU.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::bench::{pin::pin_process, row::Layout};
use crate::lab::{LinkCounters, Namespace, Netlink, TUNNEL_MTU, VethEnd};

/// Longest time for the kernel to start its threads.
const PATIENCE: Duration = Duration::from_secs(2);
/// Interface at the generator's end.
pub(crate) const FAR: &str = "far0";

/// Which CPUs do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// The generators', in the order of the queues. A veth delivers what a CPU sends by XDP to queue
    /// `CPU mod queues`.
    pub(crate) senders: Vec<usize>,
    /// The devices' receive threads (if there are any) and workers, in the order of the queues.
    pub(crate) workers: Vec<usize>,
}

impl Cpus {
    /// A plan for the CPUs that this process may use.
    pub(crate) fn plan(queues: u32) -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot read the CPUs")?;
        let cpus: Vec<usize> = (0..CpuSet::count())
            .filter(|&cpu| allowed.is_set(cpu).unwrap_or(false))
            .collect();
        Self::of(&cpus, queues as usize)
    }

    fn of(cpus: &[usize], queues: usize) -> Result<Self> {
        ensure!(
            cpus.len() >= 2 && cpus.len() >= queues,
            "{queues} queues take two CPUs at least and one for each queue, but there are {}: run it on a \
             machine with more, or give --queues 1",
            cpus.len()
        );
        let senders = (0..queues)
            .map(|queue| {
                cpus.iter()
                    .copied()
                    .find(|cpu| cpu % queues == queue)
                    .with_context(|| format!("no CPU sends to queue {queue} of {queues}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let idle: Vec<usize> = cpus
            .iter()
            .copied()
            .filter(|cpu| !senders.contains(cpu))
            .collect();
        let workers = if idle.len() >= queues {
            idle[..queues].to_vec()
        } else {
            // Not the CPU that sends to the same queue.
            (1..=queues).map(|queue| senders[queue % queues]).collect()
        };
        Ok(Self { senders, workers })
    }

    /// Whether the workers have their CPUs for themselves.
    pub(crate) fn are_apart(&self) -> bool {
        !self.workers.iter().any(|cpu| self.senders.contains(cpu))
    }
}

/// The two ends.
pub(crate) struct Site {
    pub(crate) far: Namespace,
    far_links: Netlink,
    pub(crate) near: Namespace,
    near_links: Netlink,
    /// Interface at the device's end; its name is its own, because threads are named after it.
    pub(crate) near_name: String,
    pub(crate) queues: u32,
}

impl Site {
    /// Builds both ends and connects them.
    pub(crate) fn new(queues: u32) -> Result<Self> {
        static SITES: AtomicU32 = AtomicU32::new(0);
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let (far, far_links) = end("far")?;
        let (near, near_links) = end("near")?;
        // At most 15 bytes.
        let near_name = format!("kb{}-{}", std::process::id() % 10_000_000, number % 10_000);
        let ends = (
            VethEnd {
                namespace: &far,
                name: FAR,
            },
            VethEnd {
                namespace: &near,
                name: &near_name,
            },
        );
        far_links.add_veth(ends.0, ends.1, queues, TUNNEL_MTU)?;
        far_links.set_up(FAR)?;
        near_links.set_up(&near_name)?;
        Ok(Self {
            far,
            far_links,
            near,
            near_links,
            near_name,
            queues,
        })
    }

    /// Ethernet addresses of the far and the near end.
    pub(crate) fn macs(&self) -> Result<([u8; 6], [u8; 6])> {
        Ok((
            self.far_links.link(FAR)?.address,
            self.near_links.link(&self.near_name)?.address,
        ))
    }

    /// Index of the far end.
    pub(crate) fn far_index(&self) -> Result<u32> {
        Ok(self.far_links.link(FAR)?.index)
    }

    /// What the kernel counted at the far and at the near end.
    pub(crate) fn counters(&self) -> Result<(LinkCounters, LinkCounters)> {
        Ok((
            self.far_links.counters(FAR)?,
            self.near_links.counters(&self.near_name)?,
        ))
    }

    /// Arranges who receives for the device; its XDP program must be attached.
    pub(crate) fn arrange(&self, layout: Layout, cpus: &Cpus) -> Result<()> {
        if layout == Layout::Split {
            return Ok(());
        }
        self.near.set_threaded(&self.near_name)?;
        let prefix = format!("napi/{}-", self.near_name);
        let deadline = Instant::now() + PATIENCE;
        let threads = loop {
            let threads = kernel_threads(&prefix)?;
            if threads.len() >= self.queues as usize {
                break threads;
            }
            ensure!(
                Instant::now() < deadline,
                "the kernel has no receive threads for {}",
                self.near_name
            );
            thread::sleep(Duration::from_millis(1));
        };
        for (thread, &cpu) in threads.into_iter().zip(&cpus.workers) {
            pin_process(thread, cpu)?;
        }
        Ok(())
    }
}

/// A namespace in which nobody sends anything unasked.
fn end(name: &str) -> Result<(Namespace, Netlink)> {
    let namespace = Namespace::new(name)?;
    // Without IPv6 in the kernel there is no such setting, and nothing to switch off.
    let _ = namespace.sysctl("ipv6/conf/default/disable_ipv6", "1");
    let links = Netlink::open(&namespace)?;
    Ok((namespace, links))
}

/// Threads whose name is `prefix` and a number, in the order of the number: the kernel numbers the
/// queues of an interface as they come.
fn kernel_threads(prefix: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")? {
        let entry = entry?;
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // It may have ended meanwhile.
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        if let Some(number) = name
            .trim_end()
            .strip_prefix(prefix)
            .and_then(|rest| rest.parse::<u32>().ok())
        {
            found.push((number, Pid::from_raw(id)));
        }
    }
    found.sort_unstable_by_key(|&(number, _)| number);
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cpus: &[usize], queues: usize) -> Option<(Vec<usize>, Vec<usize>, bool)> {
        let plan = Cpus::of(cpus, queues).ok()?;
        let apart = plan.are_apart();
        Some((plan.senders, plan.workers, apart))
    }

    #[test]
    fn senders_reach_their_queue_and_workers_have_other_cpus_if_there_are_any() {
        assert_eq!(plan(&[0, 1], 1), Some((vec![0], vec![1], true)));
        assert_eq!(plan(&[0, 1], 2), Some((vec![0, 1], vec![1, 0], false)));
        assert_eq!(plan(&[0, 1, 2, 3], 2), Some((vec![0, 1], vec![2, 3], true)));
        assert_eq!(plan(&[4, 5, 6], 2), Some((vec![4, 5], vec![5, 4], false)));
        assert_eq!(plan(&[0], 1), None);
        assert_eq!(plan(&[0, 2], 2), None);
        assert_eq!(plan(&[0, 1], 3), None);
    }
}
