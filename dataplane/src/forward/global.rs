//! The table in which the workers leave the flows of some VIPs for each other (katran-compat section
//! 5.2 step 5), so that a flow which moves to another RX queue keeps its real.
//!
//! What enters a worker's own table enters this one as well. A packet that its worker's table does not
//! know is looked for here, and what is found enters the worker's table.

use conntrack::{AnyKey, Lookup, SharedInsertion, SharedTable};

use super::{
    family::Family,
    lane::{self, Lane, Pending, Stage},
    questions::{FlowId, FlowRecord, flow_record},
};
use crate::{
    packet::protocol,
    service::{Real, RealId, ServiceTable},
};

/// A UDP flow's entry is at most this much older than its last packet.
const REFRESH_NS: u64 = 5_000_000_000;
/// Of the packets that find their flow in their worker's table, one in so many refreshes the entry
/// here, so that flows which live long are not taken for forgotten ones.
const SAMPLE: u64 = 16;

impl<A: Family> Lane<A> {
    /// The real that another worker stored for the flow; it enters this worker's table.
    pub(super) fn by_global_table<'t>(
        &mut self,
        stage: &Stage<'t>,
        pending: &Pending<A>,
    ) -> Option<&'t Real> {
        let flow = &pending.flow;
        if lane::is_syn(flow) {
            return None;
        }
        let key = A::key(flow);
        let timeout = lane::timeout(flow.protocol);
        let Lookup::Hit(bits) = stage.table.global()?.lookup(&key, stage.now_ns, timeout) else {
            return None;
        };
        let real = lane::current_real(stage.table, RealId::from_bits(bits))?;
        stage.counters.global_table_hits.add(1);
        if !lane::is_rst(flow) {
            let time = timeout.map_or(0, |_| stage.now_ns);
            let inserted = self.flows.insert(pending.table_hash, key, bits, time);
            lane::count_insertion(stage.counters, &inserted);
        }
        Some(real)
    }

    /// When the worker's table was last asked for the flow; 0 for TCP.
    pub(super) fn last_use(&self, pending: &Pending<A>) -> u64 {
        if pending.flow.protocol != protocol::UDP {
            return 0;
        }
        let key = A::key(&pending.flow);
        let stored = self.flows.peek(pending.table_hash, &key);
        stored.map_or(0, |stored| stored.last_use)
    }

    /// As [`Self::publish`], for a flow that was in the worker's table already; now and then only.
    /// `last_use` is that before this packet.
    pub(super) fn republish(
        &self,
        stage: &Stage<'_>,
        pending: &Pending<A>,
        real: &Real,
        last_use: u64,
    ) {
        let sampled = (stage.now_ns >> 10 ^ pending.table_hash).is_multiple_of(SAMPLE);
        let is_udp = pending.flow.protocol == protocol::UDP;
        let grew_old = is_udp && last_use / REFRESH_NS != stage.now_ns / REFRESH_NS;
        if sampled || grew_old {
            self.publish(stage, pending, real);
        }
    }

    /// Leaves for the other workers what this worker's table holds for the flow, if that is `real`.
    pub(super) fn publish(&self, stage: &Stage<'_>, pending: &Pending<A>, real: &Real) {
        let key = A::key(&pending.flow);
        let (Some(global), Some(stored)) = (
            stage.table.global(),
            self.flows.peek(pending.table_hash, &key),
        ) else {
            return;
        };
        if stored.value != real.id.bits() {
            return;
        }
        // A UDP flow that a server id brought in has expired already, here as well.
        let time = if pending.flow.protocol == protocol::UDP {
            stored.last_use
        } else {
            stage.now_ns
        };
        if global.insert(&key, stored.value, time) == SharedInsertion::Evicted {
            stage.counters.global_table_evictions.add(1);
        }
    }
}

/// What the control plane asks about the table; all of it is nothing while no VIP uses the table.
impl ServiceTable {
    /// The entry that a packet of this flow would find, whether or not it has expired.
    pub fn global_flow(&self, id: &FlowId) -> Option<FlowRecord> {
        let destination = id.destination();
        let vip = self.lookup(destination.ip(), destination.port(), id.protocol())?;
        if destination.is_ipv4() {
            let key = <[u8; 4]>::key(&lane::with_port_rules(&id.tuple()?, vip));
            self.record(AnyKey::V4(key), self.global()?.peek(&key)?)
        } else {
            let key = <[u8; 16]>::key(&lane::with_port_rules(&id.tuple()?, vip));
            self.record(AnyKey::V6(key), self.global()?.peek(&key)?)
        }
    }

    /// Visits all flows; those that come or go meanwhile may be missed or seen.
    pub fn global_flows(&self) -> impl Iterator<Item = FlowRecord> {
        let flows = self.global().into_iter();
        let flows = flows.flat_map(|global| global.iter_slots(0..global.slots()));
        flows.filter_map(|flow| self.record(flow.key, (flow.value, flow.last_use)))
    }

    /// Removes the entry whose key is exactly `key`; false when there was none.
    pub fn remove_global_flow(&self, key: &FlowId) -> bool {
        let remove = |global: &SharedTable| {
            if key.destination().is_ipv4() {
                Some(global.remove(&<[u8; 4]>::key(&key.tuple()?)))
            } else {
                Some(global.remove(&<[u8; 16]>::key(&key.tuple()?)))
            }
        };
        self.global().and_then(remove).unwrap_or(false)
    }

    fn record(&self, key: AnyKey, (value, last_use): (u32, u64)) -> Option<FlowRecord> {
        let endpoints = match &key {
            AnyKey::V4(key) => <[u8; 4]>::endpoints(key),
            AnyKey::V6(key) => <[u8; 16]>::endpoints(key),
        };
        flow_record(self, endpoints, value, last_use)
    }
}
