//! The packets of a burst that need a real.
//!
//! They wait while the processor loads what the flow table has of their flows: all are admitted before
//! the first is looked at again, and then all of one IP version are looked at before the first of them
//! gets its real.

use arrayvec::ArrayVec;
use conntrack::{FlowTable, Hint};

use super::{
    BURST,
    express::{self, Shortcuts},
    family::Family,
    lane::{Lane, Pending, Route, Stage, with_port_rules},
    packet_slot::{Outcome, Packet},
    slots::Slots,
    wrap::Wrap,
};
use crate::{
    packet::parse::{FlowTuple, IpPacket, Kind},
    service::{Detours, Encapsulation, Vip},
};

/// A packet that waits. What else is to be known of it is read again when its turn comes: its headers
/// are in the cache by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) table_hash: u64,
    /// Where the flow table probably has the flow.
    pub(super) hint: Hint,
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

impl Waiting {
    /// No packet waits here.
    pub(super) const NONE: Self = Self {
        table_hash: 0,
        hint: Hint::NONE,
        way: Way::Long,
    };

    /// Starts loading what the flow table has of the flow.
    #[expect(
        clippy::inline_always,
        reason = "the packet's fields stay in registers"
    )]
    #[inline(always)]
    pub(super) fn for_flow<A: Family>(
        flows: &FlowTable<A::Key>,
        flow: &FlowTuple<A>,
        way: Way,
    ) -> Self {
        let table_hash = flows.hash(&A::key(flow));
        Self {
            table_hash,
            hint: flows.prefetch(table_hash),
            way,
        }
    }
}

/// One IP version's packets that go the long way.
#[derive(Debug, Default)]
pub(super) struct Queue<A> {
    /// Their places in the burst.
    slots: Slots,
    /// What was read of them, in the order of the burst.
    long: ArrayVec<Pending<A>, BURST>,
    /// A packet of the burst is for a VIP that follows source routes.
    has_routed: bool,
}

impl<A: Family> Queue<A> {
    /// Takes a packet for `vip` into the queue.
    #[inline]
    pub(super) fn push(
        &mut self,
        flows: &FlowTable<A::Key>,
        slot: usize,
        ip: &IpPacket<A>,
        flow: &FlowTuple<A>,
        vip: &Vip,
    ) -> Waiting {
        let flow = with_port_rules(flow, vip);
        let waiting = Waiting::for_flow(flows, &flow, Way::Long);
        self.slots.insert(slot);
        self.has_routed |= vip.detours.contains(Detours::SOURCE_ROUTE);
        self.long.push(Pending {
            table_hash: waiting.table_hash,
            vip: vip.number,
            length: ip.length,
            flow,
            tos: ip.tos,
            slot: slot as u8,
            is_error: matches!(ip.kind, Kind::IcmpError(_)),
            route: Route::NOT_ASKED,
        });
        waiting
    }

    /// How many.
    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.long.len()
    }

    /// Finds a real for each packet and encapsulates it; empties the queue. `plain` are packets of plain
    /// VIPs, which wait without being in it. Says whether one was dropped.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        plain: Slots,
        waiting: &mut [Waiting; BURST],
        lane: &mut Lane<A>,
        stage: &mut Stage<'_>,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) -> bool {
        let mut slots = std::mem::take(&mut self.slots);
        slots.join(plain);
        if slots.is_empty() {
            return false;
        }
        for slot in slots {
            let one = &mut waiting[slot];
            one.hint = lane.flows.prefetch_entry(one.hint, one.table_hash);
        }
        if std::mem::take(&mut self.has_routed) && !stage.table.source_routes().is_empty() {
            lane.ask_routes(stage, &mut self.long);
        }
        let any_dropped = match stage.table.settings().encapsulation {
            Encapsulation::Ipip => {
                self.resolve_as::<A::Ipip>(slots, waiting, lane, stage, burst, outcomes)
            }
            Encapsulation::Gue { .. } => {
                self.resolve_in_gue(slots, waiting, lane, stage, burst, outcomes)
            }
        };
        self.long.clear();
        any_dropped
    }

    /// Apart, so that only the loop for IPIP is part of its caller: apart as well, it would take 9 instructions a
    /// packet more.
    #[inline(never)]
    fn resolve_in_gue(
        &mut self,
        slots: Slots,
        waiting: &[Waiting; BURST],
        lane: &mut Lane<A>,
        stage: &mut Stage<'_>,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) -> bool {
        self.resolve_as::<A::Gue>(slots, waiting, lane, stage, burst, outcomes)
    }

    #[inline]
    fn resolve_as<W: Wrap<A>>(
        &mut self,
        slots: Slots,
        waiting: &[Waiting; BURST],
        lane: &mut Lane<A>,
        stage: &mut Stage<'_>,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) -> bool {
        let mut any_dropped = false;
        let shortcuts = Shortcuts::of(stage);
        let mut long = self.long.iter();
        for slot in slots {
            // Every place is that of a packet of the burst.
            let Some(packet) = burst.get_mut(slot) else {
                break;
            };
            let one = &waiting[slot];
            let outcome = &mut outcomes[slot];
            *outcome = match one.way {
                Way::Known => {
                    let Err(found) =
                        express::send_on::<A, W>(&mut lane.flows, &shortcuts, one, packet, outcome)
                    else {
                        continue;
                    };
                    lane.resolve_known(stage, &shortcuts, one, packet, slot, found)
                }
                Way::New => lane.resolve_new(stage, &shortcuts, one, packet, slot),
                Way::Long => match long.next() {
                    Some(pending) => lane.resolve_any(stage, pending, packet),
                    // There is one for each; else the packet stays the kernel's, as at admission.
                    None => continue,
                },
            };
            any_dropped |= outcome.is_drop();
        }
        any_dropped
    }
}
