//! The balancer in the kernel as the control plane sees it: a worker for each CPU, whose counters lie in
//! the program's maps, and one flow table for all of them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dataplane::{
    counters::{Counter, DropReason, WorkerCounters},
    forward::{FlowId, Forwarder},
    service::{Protocol, Publisher, RealId, ServiceError, ServiceSpec, ServiceTable},
    worker::now_ns,
};
use xdp_redirect::{
    Balancer, BalancerCounters, BalancerEvent, BalancerOptions, BalancerOutcome, FlowKey,
    FlowTraffic, KernelFlow, Traffic,
};

use super::{
    sink::ServiceSink,
    worker::{NoAnswer, Worker},
};

/// Most flows that are copied to be looked through: about half a gigabyte.
const MAX_COPIED: usize = 1 << 20;

/// Where a worker counts what the program calls so.
type Place = fn(&WorkerCounters) -> &Counter;

/// What the program counts besides outcomes.
const EVENTS: [(BalancerEvent, Place); BalancerEvent::COUNT] = [
    (BalancerEvent::VipPackets, |c| &c.vip_packets),
    (BalancerEvent::RingSelections, |c| &c.ring_selections),
    (BalancerEvent::TcpSynMisses, |c| &c.tcp_syn_misses),
    (BalancerEvent::TcpNonSynMisses, |c| &c.tcp_non_syn_misses),
    (BalancerEvent::RingUnknownReals, |c| &c.ring_unknown_reals),
    (BalancerEvent::RingEmptySlots, |c| &c.ring_empty_slots),
    (BalancerEvent::FlowInserts, |c| &c.flow_inserts),
    (BalancerEvent::FloodSuppressed, |c| &c.flood_suppressed),
    (BalancerEvent::ConnectionEvents, |c| &c.connection_events),
    (BalancerEvent::ConnectionWindowNs, |c| {
        &c.connection_window_ns
    }),
    (BalancerEvent::IcmpErrors, |c| &c.icmp_errors),
    (BalancerEvent::PtbV4, |c| &c.ptb_v4),
    (BalancerEvent::PtbV4Small, |c| &c.ptb_v4_small),
    (BalancerEvent::PtbV6, |c| &c.ptb_v6),
    (BalancerEvent::PtbV6Small, |c| &c.ptb_v6_small),
    (BalancerEvent::EncapFailuresV4, |c| &c.encap_failures_v4),
    (BalancerEvent::EncapFailuresV6, |c| &c.encap_failures_v6),
];

/// Names of the counters that the program has, events not counted.
const OTHERS: [&str; 2] = ["echo-replies", "generation"];

/// The program and what goes with it.
pub struct KernelDatapath {
    balancer: Mutex<Balancer>,
    publisher: Arc<Publisher>,
    /// CPUs that are online at the start, with their counters.
    cpus: Vec<(u32, Arc<WorkerCounters>)>,
    flow_table_capacity: usize,
    /// Secret of tables that flows are copied into, so that nobody can aim collisions.
    seeds: [u64; 4],
}

impl KernelDatapath {
    /// For a loaded program and these CPUs.
    pub fn new(
        balancer: Balancer,
        options: &BalancerOptions,
        publisher: Arc<Publisher>,
        cpus: &[u32],
        seeds: [u64; 4],
    ) -> Arc<Self> {
        Arc::new(Self {
            balancer: Mutex::new(balancer),
            publisher,
            cpus: cpus
                .iter()
                .map(|&cpu| (cpu, Arc::new(WorkerCounters::new())))
                .collect(),
            flow_table_capacity: options.flow_table_capacity,
            seeds,
        })
    }

    /// The program.
    pub fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker for each CPU.
    pub fn workers(self: &Arc<Self>) -> Vec<Worker> {
        self.cpus
            .iter()
            .map(|(cpu, counters)| {
                Worker::kernel(KernelCpu {
                    cpu: *cpu,
                    counters: Arc::clone(counters),
                    datapath: Arc::clone(self),
                })
            })
            .collect()
    }
}

impl ServiceSink for Arc<KernelDatapath> {
    fn refusals(&self, services: &ServiceSpec) -> Vec<ServiceError> {
        services.kernel_refusals()
    }

    fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()> {
        let services = table.kernel_services()?;
        self.balancer()
            .apply(&services.settings, &services.vips, &services.reals)?;
        for (_, counters) in &self.cpus {
            counters.generation.set(u64::from(table.generation()));
        }
        Ok(())
    }

    fn holds_next_hop(&self) -> bool {
        true
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let counters = self.balancer().counters()?;
        Ok(counters
            .outcomes()
            .map(|(name, traffic)| (name.to_owned(), traffic.packets))
            .collect())
    }

    fn refresh(&self, table: &ServiceTable) -> anyhow::Result<()> {
        let balancer = self.balancer();
        for vip in table.vips() {
            let traffic = balancer.vip_traffic(vip.number)?;
            let number = usize::from(vip.number);
            self.each(&traffic, |counters, traffic| {
                let FlowTraffic {
                    packets,
                    bytes,
                    ring_selections,
                } = traffic;
                counters.vips[number].packets.set(*packets);
                counters.vips[number].bytes.set(*bytes);
                counters.vip_ring_selections[number].set(*ring_selections);
            });
        }
        for real in table.reals() {
            let index = real.id.index();
            let traffic = balancer.real_traffic(index as u32)?;
            self.each(&traffic, |counters, traffic| {
                counters.reals[index].packets.set(traffic.packets);
                counters.reals[index].bytes.set(traffic.bytes);
                counters.real_ring_selections[index].set(traffic.ring_selections);
            });
        }
        self.each(&balancer.counters_by_cpu()?, copy);
        Ok(())
    }
}

impl KernelDatapath {
    /// Does something with what each CPU has, the CPUs that are not shown left out.
    fn each<T>(&self, by_cpu: &[T], set: impl Fn(&WorkerCounters, &T)) {
        for (cpu, counters) in &self.cpus {
            if let Some(value) = by_cpu.get(*cpu as usize) {
                set(counters, value);
            }
        }
    }
}

/// The program's counters as those of a worker.
fn copy(counters: &WorkerCounters, counted: &BalancerCounters) {
    let set = |place: &dataplane::counters::Traffic, traffic: Traffic| {
        place.packets.set(traffic.packets);
        place.bytes.set(traffic.bytes);
    };
    set(&counters.received, counted.received());
    set(&counters.transmitted, counted.transmitted());
    set(&counters.passed, counted.passed());
    for &reason in DropReason::ALL {
        let outcome = BalancerOutcome::ALL
            .iter()
            .find(|outcome| outcome.name() == reason.name());
        if let Some(outcome) = outcome {
            set(&counters.drops[reason as usize], counted.outcome(*outcome));
        }
    }
    let replies = counted.outcome(BalancerOutcome::EchoReplied);
    counters.echo_replies.set(replies.packets);
    for (event, place) in EVENTS {
        place(counters).set(counted.event(event));
    }
}

/// Whether the program counts what a worker calls `name`.
fn counts(name: &str) -> bool {
    OTHERS.contains(&name) || BalancerEvent::ALL.iter().any(|event| event.name() == name)
}

/// What one CPU does.
#[derive(Clone)]
pub struct KernelCpu {
    cpu: u32,
    counters: Arc<WorkerCounters>,
    datapath: Arc<KernelDatapath>,
}

impl std::fmt::Debug for KernelCpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KernelCpu").field(&self.cpu).finish()
    }
}

impl KernelCpu {
    /// Its number.
    pub(super) const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// What it counted when [`ServiceSink::refresh`] was called last.
    pub(super) fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Whether the program counts what a worker's thread calls `name`.
    pub(super) fn counts(name: &str) -> bool {
        counts(name)
    }

    /// Bytes of its flow tables, about.
    pub(super) fn flow_table_bytes(&self) -> usize {
        BalancerOptions::memory_for(self.datapath.flow_table_capacity, 1)
    }

    /// A copy of the entry that packets of this flow find, or of none.
    pub(super) fn copy_flow(&self, id: &FlowId) -> Result<Copy, NoAnswer> {
        let table = self.datapath.publisher.current();
        let mut flows = Vec::new();
        if let Some(key) = table.flow_key(id).map(|id| key(&id)) {
            let found = self.datapath.balancer().flow(&key).map_err(kernel)?;
            flows.extend(found.map(|value| KernelFlow { key, value }));
        }
        Copy::new(self.clone(), table, &flows)
    }

    /// A copy of all flows, whichever CPU made them.
    pub(super) fn copy_flows(&self) -> Result<Copy, NoAnswer> {
        let table = self.datapath.publisher.current();
        let balancer = self.datapath.balancer();
        let flows = at_most(MAX_COPIED, balancer.flows())?;
        drop(balancer);
        Copy::new(self.clone(), table, &flows)
    }
}

/// All of the flows, unless there are more than `most`.
fn at_most<T, E: std::error::Error>(
    most: usize,
    flows: impl Iterator<Item = Result<T, E>>,
) -> Result<Vec<T>, NoAnswer> {
    let flows: Result<Vec<_>, _> = flows.take(most + 1).collect();
    let flows = flows.map_err(kernel)?;
    if flows.len() > most {
        return Err(NoAnswer::Kernel(format!(
            "it has more than the {most} flows that can be looked through; `flow get`, `flow del` and \
             `explain` look at one"
        )));
    }
    Ok(flows)
}

fn key(id: &FlowId) -> FlowKey {
    FlowKey {
        source: id.source().ip(),
        destination: id.destination().ip(),
        source_port: id.source().port().to_be_bytes(),
        destination_port: id.destination().port().to_be_bytes(),
        protocol: id.protocol().number(),
    }
}

fn kernel(error: impl std::error::Error) -> NoAnswer {
    NoAnswer::Kernel(error.to_string())
}

/// Flows in a forwarder that is there to be asked.
pub(super) struct Copy {
    cpu: KernelCpu,
    forwarder: Forwarder,
    ids: HashSet<FlowId>,
}

impl Copy {
    fn new(
        cpu: KernelCpu,
        table: Arc<ServiceTable>,
        flows: &[KernelFlow],
    ) -> Result<Self, NoAnswer> {
        let flows: Vec<_> = flows.iter().filter_map(entry).collect();
        let forwarder = Forwarder::of_flows(cpu.datapath.seeds, table, &flows).map_err(kernel)?;
        Ok(Self {
            cpu,
            ids: ids(&forwarder),
            forwarder,
        })
    }

    /// Answers a question as a worker does; what it removes is removed in the kernel.
    pub(super) fn answer<R>(
        mut self,
        question: impl FnOnce(&mut Forwarder, u64) -> R,
    ) -> Result<R, NoAnswer> {
        let answer = question(&mut self.forwarder, now_ns());
        if self.forwarder.flow_count() < self.ids.len() {
            let mut balancer = self.cpu.datapath.balancer();
            for id in self.ids.difference(&ids(&self.forwarder)) {
                balancer.remove_flow(&key(id)).map_err(kernel)?;
            }
        }
        Ok(answer)
    }
}

fn ids(forwarder: &Forwarder) -> HashSet<FlowId> {
    let mut ids = HashSet::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = forwarder.scan_flows(at, usize::MAX, &mut |record| {
            ids.insert(record.id);
        });
    }
    ids
}

/// A flow as forwarders name it.
fn entry(flow: &KernelFlow) -> Option<(FlowId, RealId, u64)> {
    let FlowKey {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
    } = flow.key;
    let id = FlowId::new(
        (source, u16::from_be_bytes(source_port)).into(),
        (destination, u16::from_be_bytes(destination_port)).into(),
        Protocol::from_number(protocol)?,
    );
    let real = RealId::from_bits(flow.value.real);
    Some((id.ok()?, real, flow.value.last_use_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_flows_than_memory_is_meant_for_are_refused() {
        let flows = |count| at_most(3, (0..count).map(Ok::<_, std::fmt::Error>));
        assert_eq!(flows(3), Ok(vec![0, 1, 2]));
        let refusal = flows(4).unwrap_err().to_string();
        assert!(refusal.contains("more than the 3 flows"), "{refusal}");
    }

    #[test]
    fn every_event_is_a_counter_of_workers_by_the_same_name() {
        let counters = WorkerCounters::new();
        for (n, (event, place)) in (1..).zip(EVENTS) {
            place(&counters).set(n);
            let row = WorkerCounters::ROWS
                .iter()
                .find(|row| row.name == event.name())
                .unwrap_or_else(|| panic!("workers count no {}", event.name()));
            assert_eq!((row.read)(&counters), n, "{}", row.name);
        }
        for name in OTHERS {
            assert!(WorkerCounters::ROWS.iter().any(|row| row.name == name));
            assert!(counts(name));
        }
        assert!(!counts("flow-evictions"), "the kernel does not tell");
    }

    #[test]
    fn every_drop_is_one_of_workers() {
        for outcome in BalancerOutcome::ALL {
            if !outcome.is_transmit() && !outcome.is_pass() {
                assert!(
                    DropReason::ALL
                        .iter()
                        .any(|reason| reason.name() == outcome.name()),
                    "{outcome:?}"
                );
            }
        }
    }
}
