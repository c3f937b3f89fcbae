//! The packets of a burst that belong to one IP version and need a real.
//!
//! They wait here while the processor loads what the flow table has of their flows.

use arrayvec::ArrayVec;
use conntrack::{FlowKey, FlowTable, Hint};

use super::{
    BURST, express,
    family::Family,
    lane::{Lane, Pending, Route, Stage, with_port_rules},
    packet_slot::{Outcome, Packet},
};
use crate::{
    packet::parse::{FlowTuple, IpPacket, Kind},
    service::{Detours, Vip},
};

/// Packets that come in between the loading of a flow's bucket and of its entry: as many as a processor
/// loads cache lines at once, and long enough for memory to answer.
const AHEAD: usize = 16;

/// A packet that waits. What else is to be known of it is read again when its turn comes: its headers
/// are in the cache by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) table_hash: u64,
    /// Where the flow table probably has the flow.
    pub(super) hint: Hint,
    pub(super) vip: u16,
    /// Place in the burst.
    pub(super) slot: u8,
    way: Way,
}

/// How a packet gets its real.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Its VIP is plain, and the flow table probably has the flow.
    Known,
    /// Its VIP is plain, and it opens a connection: the table is not asked.
    New,
    /// Any other.
    Long,
}

/// One IP version's share of a burst.
#[derive(Debug, Default)]
pub(super) struct Queue<A> {
    waiting: ArrayVec<Waiting, BURST>,
    /// What was read of the packets that go the long way, in the order of `waiting`.
    long: ArrayVec<Pending<A>, BURST>,
    /// A packet of the burst is for a VIP that follows source routes.
    has_routed: bool,
}

/// Where packets come into a queue: it and the flow table that will be asked.
pub(super) struct Entrance<'f, A: Family> {
    queue: &'f mut Queue<A>,
    flows: &'f FlowTable<A::Key>,
}

impl<'f, A: Family> Entrance<'f, A> {
    pub(super) const fn new(queue: &'f mut Queue<A>, lane: &'f Lane<A>) -> Self {
        Self {
            queue,
            flows: &lane.flows,
        }
    }

    /// Takes a packet for `vip` into the queue.
    #[inline]
    pub(super) fn push(&mut self, slot: usize, ip: &IpPacket<A>, flow: &FlowTuple<A>, vip: &Vip) {
        let flow = with_port_rules(flow, vip);
        let table_hash = self.wait(slot, &flow, vip.number, Way::Long);
        self.queue.has_routed |= vip.detours.contains(Detours::SOURCE_ROUTE);
        self.queue.long.push(Pending {
            table_hash,
            vip: vip.number,
            length: ip.length,
            flow,
            tos: ip.tos,
            slot: slot as u8,
            is_error: matches!(ip.kind, Kind::IcmpError(_)),
            route: Route::NOT_ASKED,
        });
    }

    /// Takes a packet of a plain VIP into the queue.
    #[inline]
    pub(super) fn push_plain(&mut self, slot: usize, flow: &FlowTuple<A>, vip: u16, is_new: bool) {
        let way = if is_new { Way::New } else { Way::Known };
        self.wait(slot, flow, vip, way);
    }

    /// Starts loading what the flow table has of the flow. Returns the key's hash.
    #[expect(
        clippy::inline_always,
        reason = "the packet's fields stay in registers"
    )]
    #[inline(always)]
    fn wait(&mut self, slot: usize, flow: &FlowTuple<A>, vip: u16, way: Way) -> u64 {
        let table_hash = self.flows.hash(&A::key(flow));
        self.queue.waiting.push(Waiting {
            table_hash,
            hint: self.flows.prefetch(table_hash),
            vip,
            slot: slot as u8,
            way,
        });
        if let Some(place) = self.queue.waiting.len().checked_sub(AHEAD + 1) {
            look_ahead(self.flows, &mut self.queue.waiting[place]);
        }
        table_hash
    }
}

impl<A: Family> Queue<A> {
    /// Finds a real for each packet and encapsulates it; empties the queue. Says whether one was dropped.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        lane: &mut Lane<A>,
        stage: &mut Stage<'_>,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) -> bool {
        let mut any_dropped = false;
        if self.waiting.is_empty() {
            return any_dropped;
        }
        let waiting = self.waiting.as_mut_slice();
        stage.counters.vip_packets.add(waiting.len() as u64);
        let looked_at = waiting.len().saturating_sub(AHEAD);
        for one in &mut waiting[looked_at..] {
            look_ahead(&lane.flows, one);
        }
        if std::mem::take(&mut self.has_routed) && !stage.table.source_routes().is_empty() {
            lane.ask_routes(stage, &mut self.long);
        }
        let mut long = self.long.iter();
        for one in waiting {
            let slot = usize::from(one.slot);
            let packet = &mut burst[slot];
            let outcome = &mut outcomes[slot];
            *outcome = match one.way {
                Way::Known => {
                    let Err(found) =
                        express::send_on::<A>(&mut lane.flows, stage, one, packet, outcome)
                    else {
                        continue;
                    };
                    match found {
                        Some(real) => lane.resolve_found(stage, one, packet, real),
                        None => lane.resolve_known(stage, one, packet),
                    }
                }
                Way::New => lane.resolve_new(stage, one, packet),
                Way::Long => match long.next() {
                    Some(pending) => lane.resolve_any(stage, pending, packet),
                    None => continue,
                },
            };
            any_dropped |= outcome.is_drop();
        }
        self.waiting.clear();
        self.long.clear();
        any_dropped
    }
}

/// Starts loading the entry of a packet's flow.
#[inline]
fn look_ahead<K: FlowKey>(flows: &FlowTable<K>, waiting: &mut Waiting) {
    waiting.hint = flows.prefetch_entry(waiting.hint, waiting.table_hash);
}
