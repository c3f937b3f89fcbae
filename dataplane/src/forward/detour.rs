//! Packets of VIPs whose flags ask for more than flow table, ring and encapsulation.

use arrayvec::ArrayVec;

use super::{
    BURST,
    family::Family,
    lane::{self, Lane, Pending, Route, Stage, Storing},
    packet_slot::{Outcome, Packet, Selection, Verdict},
};
use crate::service::{Detours, Real, Vip, VipFlags};

impl<A: Family> Lane<A> {
    /// Finds the packet's real and delivers it, in the order of katran-compat section 5.2 as far as
    /// the VIP's flags ask for it.
    ///
    /// Never inlined, so that the VIPs which need nothing of it keep a short loop.
    #[inline(never)]
    pub(super) fn resolve_with_detours(
        &mut self,
        stage: &mut Stage<'_>,
        pending: &Pending<A>,
        vip: &Vip,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        let (real, selection) = self.select(stage, pending, vip, packet);
        let verdict = match real {
            Some(real) if goes_up(vip, real) => {
                lane::count_delivery(stage, pending, vip, real);
                Verdict::Pass
            }
            real => lane::deliver(stage, packet, pending, vip, real, selection),
        };
        lane::outcome(verdict, vip, real, selection)
    }

    fn select<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
        packet: &Packet<'_>,
    ) -> (Option<&'t Real>, Selection) {
        let global = vip.detours.contains(Detours::GLOBAL_TABLE);
        if vip.detours.contains(Detours::SERVER_ID)
            && let Some(real) = self.select_by_server_id(stage, pending, vip, packet)
        {
            if global {
                self.publish(stage, pending, real);
            }
            return (Some(real), Selection::ServerId);
        }
        let last_use = if global { self.last_use(pending) } else { 0 };
        let known = match self.by_flow_table(stage, pending, vip) {
            Some(real) => Some((real, Selection::Table)),
            None if global => self
                .by_global_table(stage, pending)
                .map(|real| (real, Selection::GlobalTable)),
            None => None,
        };
        let leaves = vip.detours.contains(Detours::FLOW_MIGRATION)
            && leaves_down_real(stage, vip, known.map(|(real, _)| real));
        if let Some((real, selection)) = known
            && !leaves
        {
            if global && selection == Selection::Table {
                self.republish(stage, pending, real, last_use);
            }
            return (Some(real), selection);
        }
        let (real, selection) = if vip.detours.contains(Detours::SOURCE_ROUTE) {
            self.by_route_or_ring(stage, pending, vip)
        } else {
            (self.by_ring(stage, pending, vip, false), Selection::Ring)
        };
        if let Some(real) = real
            && global
        {
            self.publish(stage, pending, real);
        }
        (real, selection)
    }

    /// Asks the routes for the clients of the burst's new flows, all at once: one by one, between other
    /// work, each look-up would wait for memory several times.
    #[inline(never)]
    pub(super) fn ask_routes(&self, stage: &Stage<'_>, burst: &mut [Pending<A>]) {
        let mut places = ArrayVec::<u8, BURST>::new();
        let mut clients = ArrayVec::<A, BURST>::new();
        for (place, pending) in burst.iter().enumerate() {
            let vip = stage.table.vip(pending.vip);
            if !vip.is_some_and(|vip| vip.detours.contains(Detours::SOURCE_ROUTE)) {
                continue;
            }
            if lane::is_syn(&pending.flow) || !self.flows.may_have(pending.table_hash) {
                places.push(place as u8);
                clients.push(pending.flow.source);
            }
        }
        let mut reals = [0; BURST];
        let reals = &mut reals[..clients.len()];
        A::source_routes(&clients, stage.table, reals);
        for (place, real) in places.into_iter().zip(reals) {
            burst[usize::from(place)].route = Route::to(*real);
        }
    }

    /// The real of the client's prefix, or of the ring where there is none and in a flood; it enters
    /// the flow table (katran-compat section 5.2 step 7).
    fn by_route_or_ring<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
    ) -> (Option<&'t Real>, Selection) {
        let flooded = lane::count_miss(stage, pending);
        let routed = if flooded {
            None
        } else {
            by_source_route(stage, pending)
        };
        let (real, selection) = match routed {
            Some(real) => (Some(real), Selection::SourceRoute),
            None => (lane::ring_real(stage, pending, vip), Selection::Ring),
        };
        // What the ring says of a VIP with `DPORT_ONLY` is not stored; see `by_ring`.
        let by_port_only = selection == Selection::Ring && vip.flags.contains(VipFlags::DPORT_ONLY);
        if let Some(real) = real {
            stage.counters.ring_selections.add(1);
            if !by_port_only {
                let is_missed = false;
                self.store(stage, pending, vip, real, Storing { flooded, is_missed });
            }
        }
        (real, selection)
    }
}

/// The real of the longest prefix around the client's address.
fn by_source_route<'t, A: Family>(stage: &Stage<'t>, pending: &Pending<A>) -> Option<&'t Real> {
    let real = match pending.route.index() {
        Some(index) => stage.table.real(index),
        // The table seemed to have the flow.
        None => pending.flow.source.source_route(stage.table),
    };
    if real.is_some() {
        stage.counters.source_route_hits.add(1);
    } else {
        stage.counters.source_route_misses.add(1);
    }
    real
}

/// Whether a UDP flow gives up the real that is known of it (katran-compat section 5.2 step 6). Counts
/// a connection event also for packets of which no real is known; in a flood nobody moves.
fn leaves_down_real(stage: &mut Stage<'_>, vip: &Vip, known: Option<&Real>) -> bool {
    if stage.is_flooded() || !known.is_some_and(|real| vip.is_down(real.id.index())) {
        return false;
    }
    stage.counters.udp_flow_migrations.add(1);
    true
}

/// Whether the real's packets are left to the kernel (katran-compat section 6.5).
pub(super) const fn goes_up(vip: &Vip, real: &Real) -> bool {
    vip.detours.contains(Detours::LOCAL_REAL) && real.local
}
