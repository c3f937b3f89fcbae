//! How packets of one IP version get their reals: that version's flow table, and the ring.

use conntrack::{FlowTable, Insertion, Lookup};

use super::{
    connection_rate::ConnectionRate,
    events::BurstEvents,
    family::Family,
    flow_hash::flow_hash,
    packet_slot::{Outcome, Packet, Selection, Verdict},
    rewrite,
};
use crate::{
    counters::{DropReason, WorkerCounters},
    packet::{
        emit::Inner,
        parse::{FlowTuple, tcp_flags},
        protocol,
    },
    service::{Real, RealId, ServiceTable, Vip, VipFlags},
};

/// A UDP flow that was idle for longer has ended (katran-compat section 1).
const UDP_TIMEOUT_NS: u64 = 30_000_000_000;

/// A packet whose turn has come, and what was read of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending<A> {
    pub(super) table_hash: u64,
    pub(super) vip: u16,
    pub(super) length: u16,
    /// The flow with the ports that table and hash take.
    pub(super) flow: FlowTuple<A>,
    pub(super) tos: u8,
    /// Place in the burst.
    pub(super) slot: u8,
    /// The packet is an ICMP error about the flow.
    pub(super) is_error: bool,
    /// What the source routes say of the client.
    pub(super) route: Route,
}

/// An answer of the source routes, in two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route(u16);

impl Route {
    /// They were not asked.
    pub(super) const NOT_ASKED: Self = Self(u16::MAX);

    /// They name the real of this index, or none by 0, which no real has.
    pub(super) const fn to(index: u32) -> Self {
        Self(index as u16)
    }

    /// The index, if they were asked.
    pub(super) fn index(self) -> Option<usize> {
        (self != Self::NOT_ASKED).then_some(usize::from(self.0))
    }
}

/// What is known when a flow is to be stored.
#[derive(Clone, Copy)]
pub(super) struct Storing {
    /// There are too many new connections.
    pub(super) flooded: bool,
    /// The table was just asked for the flow and does not have it.
    pub(super) is_missed: bool,
}

/// One IP version's flow table.
#[derive(Debug)]
pub(super) struct Lane<A: Family> {
    pub(super) flows: FlowTable<A::Key>,
}

/// What the stages of a burst share.
pub(super) struct Stage<'a> {
    pub(super) table: &'a ServiceTable,
    pub(super) counters: &'a WorkerCounters,
    pub(super) connection_rate: &'a mut ConnectionRate,
    pub(super) events: BurstEvents,
    pub(super) now_ns: u64,
}

impl Stage<'_> {
    /// Counts a connection event (katran-compat section 5.4); true when it is over the cap.
    #[inline]
    pub(super) fn is_flooded(&mut self) -> bool {
        let cap = self.table.settings().connection_rate_cap;
        let is_over = self.connection_rate.is_over(cap, self.now_ns);
        self.connection_rate.publish(self.counters);
        is_over
    }
}

impl<A: Family> Lane<A> {
    pub(super) const fn new(flows: FlowTable<A::Key>) -> Self {
        Self { flows }
    }

    /// Finds the real of a packet of whatever VIP and encapsulates it.
    #[inline(never)]
    pub(super) fn resolve_any(
        &mut self,
        stage: &mut Stage<'_>,
        pending: &Pending<A>,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        let Some(vip) = stage.table.vip(pending.vip) else {
            return Outcome::new(Verdict::Pass);
        };
        if !vip.detours.is_empty() {
            return self.resolve_with_detours(stage, pending, vip, packet);
        }
        let (real, selection) = match self.by_flow_table(stage, pending, vip) {
            Some(real) => (Some(real), Selection::Table),
            None => (self.by_ring(stage, pending, vip, false), Selection::Ring),
        };
        let verdict = deliver(stage, packet, pending, vip, real, selection);
        outcome(verdict, vip, real, selection)
    }

    /// The real that the flow used last (katran-compat section 5.2 step 4).
    #[inline]
    pub(super) fn by_flow_table<'t>(
        &mut self,
        stage: &Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
    ) -> Option<&'t Real> {
        let flow = &pending.flow;
        if !reads_table(vip) || is_syn(flow) {
            return None;
        }
        let found = self.flows.lookup(
            pending.table_hash,
            &A::key(flow),
            stage.now_ns,
            timeout(flow.protocol),
        );
        match found {
            Lookup::Hit(bits) => current_real(stage.table, RealId::from_bits(bits)),
            Lookup::Expired | Lookup::Miss => None,
        }
    }

    /// The real of the ring, which enters the flow table (katran-compat section 5.2 step 7).
    ///
    /// With `DPORT_ONLY` the entry would be written under a changed key and never found again (section
    /// 5.3), so it is not written at all. `is_missed` says that the table was just asked for the flow and
    /// does not have it.
    #[inline]
    pub(super) fn by_ring<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
        is_missed: bool,
    ) -> Option<&'t Real> {
        let flooded = count_miss(stage, pending);
        let real = ring_real(stage, pending, vip)?;
        stage.counters.ring_selections.add(1);
        if !vip.flags.contains(VipFlags::DPORT_ONLY) {
            self.store(stage, pending, vip, real, Storing { flooded, is_missed });
        }
        Some(real)
    }

    /// Writes the real of a flow that the table does not have, or has with another real.
    #[inline]
    pub(super) fn store(
        &mut self,
        stage: &Stage<'_>,
        pending: &Pending<A>,
        vip: &Vip,
        real: &Real,
        Storing { flooded, is_missed }: Storing,
    ) {
        let flow = &pending.flow;
        if !reads_table(vip) || is_rst(flow) {
            return;
        }
        let counters = stage.counters;
        if flooded {
            counters.flood_suppressed.add(1);
            return;
        }
        let is_udp = flow.protocol == protocol::UDP;
        let time = if is_udp { stage.now_ns } else { 0 };
        let (hash, key, value) = (pending.table_hash, A::key(flow), real.id.bits());
        let inserted = if is_missed {
            self.flows.insert_missed(hash, key, value, time)
        } else {
            self.flows.insert(hash, key, value, time)
        };
        count_insertion(counters, &inserted);
    }
}

/// Counts a packet whose real nothing has named before source route and ring; true in a flood.
#[inline]
pub(super) fn count_miss<A>(stage: &mut Stage<'_>, pending: &Pending<A>) -> bool {
    let flow = &pending.flow;
    let counters = stage.counters;
    if flow.protocol != protocol::UDP {
        if is_syn(flow) {
            counters.tcp_syn_misses.add(1);
        } else {
            counters.tcp_non_syn_misses.add(1);
            stage.events.mark_lru_miss(pending.slot.into());
        }
    }
    stage.is_flooded()
}

/// The real at the flow's place of the ring.
#[inline]
pub(super) fn ring_real<'t, A: Family>(
    stage: &Stage<'t>,
    pending: &Pending<A>,
    vip: &Vip,
) -> Option<&'t Real> {
    let index = vip.ring.select(ring_hash(&pending.flow, vip));
    let counters = stage.counters;
    let Some(real) = stage.table.real(usize::from(index)) else {
        count_ring_drop(counters, index);
        return None;
    };
    counters.vip_ring_selections[usize::from(vip.number)].add(1);
    counters.real_ring_selections[real.id.index()].add(1);
    Some(real)
}

/// The outcome of a packet for a VIP.
#[inline]
pub(super) fn outcome(
    verdict: Verdict,
    vip: &Vip,
    real: Option<&Real>,
    selection: Selection,
) -> Outcome {
    Outcome {
        verdict,
        vip: vip.number,
        real: real.map_or(RealId::NONE, |real| real.id),
        selection,
    }
}

#[inline]
pub(super) const fn is_rst<A>(flow: &FlowTuple<A>) -> bool {
    flow.tcp_flags & tcp_flags::RST != 0
}

#[inline]
pub(super) const fn is_syn<A>(flow: &FlowTuple<A>) -> bool {
    flow.tcp_flags & tcp_flags::SYN != 0
}

/// Counts and encapsulates a packet whose real is known.
#[inline]
pub(super) fn deliver<A: Family>(
    stage: &Stage<'_>,
    packet: &mut Packet<'_>,
    pending: &Pending<A>,
    vip: &Vip,
    real: Option<&Real>,
    selection: Selection,
) -> Verdict {
    let Some(real) = real else {
        return Verdict::Drop(DropReason::NoReal);
    };
    count_delivery(stage, pending, vip, real);
    let inner = Inner {
        tos: pending.tos,
        length: pending.length,
        source: outer_source_of(&pending.flow, vip, selection),
        source_port: pending.flow.source_port,
    };
    match rewrite::encapsulate(
        packet,
        &inner,
        real.address,
        stage.table.settings(),
        stage.counters,
    ) {
        Ok(len) => Verdict::Transmit { len },
        Err(reason) => {
            count_encap_failure(stage.counters, real);
            Verdict::Drop(reason)
        }
    }
}

/// Katran's counter 9: slot 0 is empty, any other has named a real that is gone.
#[cold]
fn count_ring_drop(counters: &WorkerCounters, index: u16) {
    if index == 0 {
        counters.ring_empty_slots.add(1);
    } else {
        counters.ring_unknown_reals.add(1);
    }
}

/// Katran's counter 7, by the family of the outer header.
#[cold]
fn count_encap_failure(counters: &WorkerCounters, real: &Real) {
    if real.address.is_ipv4() {
        counters.encap_failures_v4.add(1);
    } else {
        counters.encap_failures_v6.add(1);
    }
}

/// Counts a packet of the VIP for the real (katran-compat section 10).
#[inline]
pub(super) fn count_delivery<A>(stage: &Stage<'_>, pending: &Pending<A>, vip: &Vip, real: &Real) {
    let bytes = u64::from(pending.length);
    stage.counters.vips[usize::from(vip.number)].count(bytes);
    stage.counters.reals[real.id.index()].count(bytes);
}

pub(super) fn count_insertion<K>(counters: &WorkerCounters, inserted: &Insertion<K>) {
    match inserted {
        Insertion::Added => counters.flow_inserts.add(1),
        Insertion::Overwrote(_) => {}
        Insertion::Evicted(_) => {
            counters.flow_inserts.add(1);
            counters.flow_evictions.add(1);
        }
    }
}

/// The real a flow stored, unless its index was given to another real since then.
#[inline]
pub(super) fn current_real(table: &ServiceTable, id: RealId) -> Option<&Real> {
    table.real(id.index()).filter(|real| real.id == id)
}

/// Whether the flow table takes part.
#[inline]
pub(super) fn reads_table(vip: &Vip) -> bool {
    !vip.flags.contains(VipFlags::LRU_BYPASS)
}

/// Applies the first two rules of katran-compat section 2 to the ports.
#[inline]
pub(super) fn with_port_rules<A: Family>(flow: &FlowTuple<A>, vip: &Vip) -> FlowTuple<A> {
    let mut flow = *flow;
    let keeps_port = VipFlags::DPORT_ONLY.union(VipFlags::SRC_DST_PORT);
    if vip.is_wildcard() && !vip.flags.intersects(keeps_port) {
        flow.destination_port = [0; 2];
    }
    if vip.flags.contains(VipFlags::NO_SRC_PORT) {
        flow.source_port = [0; 2];
    }
    flow
}

/// The ring's hash of a flow whose ports have gone through [`with_port_rules`].
#[inline]
pub(super) fn ring_hash<A: Family>(flow: &FlowTuple<A>, vip: &Vip) -> u32 {
    if vip.flags.contains(VipFlags::DPORT_ONLY) {
        flow_hash(&A::ZERO, flow.destination_port, flow.destination_port)
    } else {
        flow_hash(&flow.source, flow.source_port, flow.destination_port)
    }
}

/// The address that the outer source is made of (katran-compat section 6): `DPORT_ONLY` clears the
/// client's only where the ring is asked (section 2 rule 3).
#[inline]
pub(super) fn outer_source_of<A: Family>(
    flow: &FlowTuple<A>,
    vip: &Vip,
    selection: Selection,
) -> A {
    if selection == Selection::Ring && vip.flags.contains(VipFlags::DPORT_ONLY) {
        A::ZERO
    } else {
        flow.source
    }
}

/// Whether an idle UDP flow, or any TCP flow, still counts.
#[inline]
pub(super) const fn timeout(protocol: u8) -> Option<u64> {
    match protocol {
        protocol::UDP => Some(UDP_TIMEOUT_NS),
        _ => None,
    }
}
