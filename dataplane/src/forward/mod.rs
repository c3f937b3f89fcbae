//! Bursts in, verdicts out.
//!
//! [`Forwarder::process`] runs a burst through three stages, each a plain loop, so that the memory
//! latency of one packet overlaps with the work of the others: read the headers, decide what needs no
//! flow, hash the rest and load the flow table's buckets; then, for each IP version, look into these and
//! load the entries; take the real from there or from the ring and write the outer headers. See
//! katran-compat sections 4.1 and 5.2 for the order of decisions.

mod connection_rate;
mod decap;
mod detour;
mod events;
mod express;
mod family;
mod flow_hash;
mod global;
mod icmp_error;
mod lane;
mod packet_slot;
mod questions;
mod queue;
mod rewrite;
mod server_id;
mod slots;
mod snapshot;
mod wrap;

use std::{net::IpAddr, sync::Arc};

use conntrack::FlowTable;

use self::{
    connection_rate::ConnectionRate,
    express::Taken,
    family::{Family, Lanes},
    lane::{Lane, Stage},
    queue::{Queue, Waiting},
    slots::Slots,
};
use crate::{
    counters::{DropReason, WorkerCounters},
    packet::parse::{self, FlowTuple, Frame, IpPacket, Kind},
    service::{Protocol, RealId, ServiceTable, Vip},
};

pub use events::BurstEvents;
pub use flow_hash::{HashAddress, flow_hash};
pub use packet_slot::{Outcome, Packet, Selection, Verdict};
pub use questions::{Asked, Explanation, FlowId, FlowIdError, FlowRecord, PassedOver};

/// Packets that are processed together.
pub const BURST: usize = 64;

/// What a forwarder is made with.
#[derive(Clone, Copy, Debug)]
pub struct ForwarderConfig {
    /// Flows that each address family's table can hold.
    pub flow_table_capacity: usize,
    /// Secret of the flow tables' hash; random, so that nobody can aim collisions.
    pub seeds: [u64; 4],
}

/// Decides what becomes of packets. Owned by one worker.
#[derive(Debug)]
pub struct Forwarder {
    table: Arc<ServiceTable>,
    counters: Arc<WorkerCounters>,
    v4: Lane<[u8; 4]>,
    v6: Lane<[u8; 16]>,
    /// Empty between bursts.
    queue_v4: Queue<[u8; 4]>,
    queue_v6: Queue<[u8; 16]>,
    /// By place in the burst, of packets that wait; other places are of earlier bursts.
    waiting: [Waiting; BURST],
    connection_rate: ConnectionRate,
    events: BurstEvents,
}

impl Forwarder {
    /// Allocates the flow tables; nothing is allocated afterwards.
    ///
    /// # Errors
    ///
    /// The capacity is zero or too large.
    pub fn new(
        config: &ForwarderConfig,
        table: Arc<ServiceTable>,
        counters: Arc<WorkerCounters>,
    ) -> Result<Self, conntrack::NewError> {
        counters.generation.set(u64::from(table.generation()));
        Ok(Self {
            table,
            counters,
            v4: Lane::new(FlowTable::new(config.flow_table_capacity, config.seeds)?),
            v6: Lane::new(FlowTable::new(config.flow_table_capacity, config.seeds)?),
            queue_v4: Queue::default(),
            queue_v6: Queue::default(),
            waiting: [Waiting::NONE; BURST],
            events: BurstEvents::default(),
            connection_rate: ConnectionRate::default(),
        })
    }

    /// Bytes of flow-table memory that a forwarder of this capacity takes.
    pub fn memory_for(flow_table_capacity: usize) -> usize {
        FlowTable::<<[u8; 4] as Family>::Key>::memory_for(flow_table_capacity)
            + FlowTable::<<[u8; 16] as Family>::Key>::memory_for(flow_table_capacity)
    }

    /// Bytes of flow-table memory.
    pub fn memory_bytes(&self) -> usize {
        self.v4.flows.memory_bytes() + self.v6.flows.memory_bytes()
    }

    /// The service table in use.
    pub const fn table(&self) -> &Arc<ServiceTable> {
        &self.table
    }

    /// Uses another service table from now on. Flows keep their reals.
    pub fn set_table(&mut self, table: Arc<ServiceTable>) {
        self.counters.generation.set(u64::from(table.generation()));
        self.table = table;
    }

    /// What this forwarder counts into.
    pub const fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// What happened to packets of the last burst besides their outcomes.
    pub const fn events(&self) -> &BurstEvents {
        &self.events
    }

    /// Decides up to [`BURST`] packets; `outcomes[n]` belongs to `burst[n]`.
    ///
    /// Received packets and drops are counted here. The caller counts a packet as transmitted or
    /// passed once it has gone there, or as dropped if it could not.
    ///
    /// # Panics
    ///
    /// The burst is longer than [`BURST`].
    pub fn process(
        &mut self,
        now_ns: u64,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) {
        assert!(burst.len() <= BURST, "a burst of {} packets", burst.len());
        let mut stage = Stage {
            table: &self.table,
            counters: &self.counters,
            connection_rate: &mut self.connection_rate,
            events: BurstEvents::default(),
            now_ns,
        };
        let mut received_bytes = 0;
        let mut any_dropped = false;
        let (mut plain_v4, mut plain_v6) = (Slots::default(), Slots::default());
        let mut others = 0;
        for (slot, (packet, waiting)) in burst.iter_mut().zip(&mut self.waiting).enumerate() {
            received_bytes += packet.len() as u64;
            // Packets that wait get their outcome later.
            match express::admit(stage.table, &self.v4, &self.v6, packet) {
                Some(Taken::V4(taken)) => {
                    *waiting = taken;
                    plain_v4.insert(slot);
                }
                Some(Taken::V6(taken)) => {
                    *waiting = taken;
                    plain_v6.insert(slot);
                }
                None => {
                    others += 1;
                    let lanes = &mut Lanes {
                        v4: (&mut self.queue_v4, &self.v4),
                        v6: (&mut self.queue_v6, &self.v6),
                        waiting,
                    };
                    outcomes[slot] = admit_any(lanes, &stage, slot, packet);
                    any_dropped |= outcomes[slot].is_drop();
                }
            }
        }
        let for_vips = burst.len() - others + self.queue_v4.len() + self.queue_v6.len();
        stage.counters.vip_packets.add(for_vips as u64);
        let waiting = &mut self.waiting;
        let v4 = &mut self.v4;
        any_dropped |= self
            .queue_v4
            .resolve(plain_v4, waiting, v4, &mut stage, burst, outcomes);
        let v6 = &mut self.v6;
        any_dropped |= self
            .queue_v6
            .resolve(plain_v6, waiting, v6, &mut stage, burst, outcomes);
        self.events = stage.events;

        let counters = &*self.counters;
        counters.received.packets.add(burst.len() as u64);
        counters.received.bytes.add(received_bytes);
        if any_dropped {
            count_drops(counters, burst, outcomes);
        }
        counters
            .flows
            .set((self.v4.flows.len() + self.v6.flows.len()) as u64);
    }
}

#[inline(never)]
fn count_drops(counters: &WorkerCounters, burst: &[Packet<'_>], outcomes: &[Outcome; BURST]) {
    for (packet, outcome) in burst.iter().zip(outcomes) {
        if let Verdict::Drop(reason) = outcome.verdict {
            counters.drop(reason, packet.frame_len() as u64);
        }
    }
}

/// As [`admit`], of a packet of whatever kind.
#[inline(never)]
fn admit_any(
    lanes: &mut Lanes<'_>,
    stage: &Stage<'_>,
    slot: usize,
    packet: &mut Packet<'_>,
) -> Outcome {
    match parse::frame(packet.frame()) {
        Frame::V4(ip) => admit(lanes, stage, slot, packet, &ip),
        Frame::V6(ip) => admit(lanes, stage, slot, packet, &ip),
        Frame::NotIp => Outcome::new(Verdict::Pass),
    }
}

/// Decides a packet that needs no flow, or puts it in a queue, where it gets its outcome later.
#[inline]
fn admit<A: Family>(
    lanes: &mut Lanes<'_>,
    stage: &Stage<'_>,
    slot: usize,
    packet: &mut Packet<'_>,
    ip: &IpPacket<A>,
) -> Outcome {
    let Stage {
        table, counters, ..
    } = stage;
    let (flow, vip) = match &ip.kind {
        Kind::Data(flow) => {
            let vip = tagged_vip(stage, packet, flow).or_else(|| {
                lookup(
                    table,
                    flow.destination.into(),
                    flow.destination_port,
                    flow.protocol,
                )
            });
            (flow, vip)
        }
        Kind::Other => return decap::unmatched(lanes, stage, slot, packet),
        kind => {
            if !table.is_vip_address(ip.destination.into()) {
                return Outcome::new(Verdict::Pass);
            }
            match kind {
                Kind::IcmpError(flow) => {
                    let port = flow.destination_port;
                    let vip = lookup(table, flow.destination.into(), port, flow.protocol);
                    if vip.is_some() {
                        counters.icmp_errors.add(1);
                        icmp_error::count::<A>(counters, packet.frame());
                    }
                    (flow, vip)
                }
                Kind::Echo => {
                    let reply = rewrite::echo_reply::<A>(packet, counters);
                    if reply.is_ok() {
                        counters.echo_replies.add(1);
                    }
                    return Outcome::new(reply_verdict(reply));
                }
                Kind::Malformed(reason) => return Outcome::new(Verdict::Drop(*reason)),
                Kind::Other | Kind::Data(_) => return Outcome::new(Verdict::Pass),
            }
        }
    };
    let Some(vip) = vip else {
        return decap::unmatched(lanes, stage, slot, packet);
    };
    let max_frame = table.settings().max_frame;
    if packet.len() > usize::from(max_frame) {
        stage.events.mark_too_big(slot);
        return Outcome {
            vip: vip.number,
            ..Outcome::new(too_long::<A>(stage, packet, max_frame))
        };
    }
    let (queue, lane) = A::entrance(lanes);
    *lanes.waiting = queue.push(&lane.flows, slot, ip, flow, vip);
    Outcome::new(Verdict::Pass)
}

fn too_long<A: Family>(stage: &Stage<'_>, packet: &mut Packet<'_>, max_frame: u16) -> Verdict {
    if !stage.table.settings().icmp_too_big {
        return Verdict::Drop(DropReason::FrameTooLong);
    }
    if A::IS_V4 {
        stage.counters.too_big_v4.add(1);
    } else {
        stage.counters.too_big_v6.add(1);
    }
    reply_verdict(rewrite::too_big_reply::<A>(
        packet,
        max_frame,
        stage.counters,
    ))
}

fn reply_verdict(reply: Result<u16, DropReason>) -> Verdict {
    match reply {
        Ok(len) => Verdict::Transmit { len },
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The VIP that the XDP program found, if its number still belongs to the same VIP. The flow is compared
/// because the program may read a map element that is being reused for another VIP.
#[inline]
fn tagged_vip<'t, A: Family>(
    stage: &Stage<'t>,
    packet: &Packet<'_>,
    flow: &FlowTuple<A>,
) -> Option<&'t Vip> {
    let tag = packet.tag();
    if tag.vip == xdp_layout::Tag::NO_VIP {
        return None;
    }
    let vip = stage.table.vip(tag.vip).filter(|vip| {
        vip.generation == tag.generation
            && vip.key.protocol.number() == flow.protocol
            && [0, u16::from_be_bytes(flow.destination_port)].contains(&vip.key.port)
            && vip.key.contains(flow.destination.into())
    });
    if vip.is_none() {
        stage.counters.stale_tags.add(1);
    }
    vip
}

fn lookup(table: &ServiceTable, address: IpAddr, port: [u8; 2], protocol: u8) -> Option<&Vip> {
    let protocol = Protocol::from_number(protocol)?;
    table.lookup(address, u16::from_be_bytes(port), protocol)
}

impl Outcome {
    pub(super) const fn is_drop(&self) -> bool {
        matches!(self.verdict, Verdict::Drop(_))
    }

    /// A verdict in which no VIP and no real took part.
    const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            vip: xdp_layout::Tag::NO_VIP,
            real: RealId::NONE,
            selection: Selection::None,
        }
    }
}
