//! Answers about flows that another table holds: that of the in-kernel balancer.

use std::{net::IpAddr, sync::Arc};

use super::{
    FlowId, Forwarder, ForwarderConfig,
    family::Family,
    lane::{self, Lane},
};
use crate::{
    counters::WorkerCounters,
    service::{RealId, ServiceTable},
};

/// Room of a table for each flow in it, so that no bucket overflows.
const ROOM: usize = 4;

impl Forwarder {
    /// A forwarder whose flow tables hold these flows, each with the id of its real and its last use. It is
    /// there to be asked; what it changes, it changes in its own tables.
    ///
    /// # Errors
    ///
    /// More flows than a table can hold.
    pub fn of_flows(
        seeds: [u64; 4],
        table: Arc<ServiceTable>,
        flows: &[(FlowId, RealId, u64)],
    ) -> Result<Self, conntrack::NewError> {
        let config = ForwarderConfig {
            flow_table_capacity: flows.len().max(1).saturating_mul(ROOM),
            seeds,
        };
        let mut forwarder = Self::new(&config, table, Arc::new(WorkerCounters::new()))?;
        for (id, real, last_use_ns) in flows {
            match id.destination().ip() {
                IpAddr::V4(_) => forwarder.v4.keep(id, *real, *last_use_ns),
                IpAddr::V6(_) => forwarder.v6.keep(id, *real, *last_use_ns),
            }
        }
        Ok(forwarder)
    }
}

impl<A: Family> Lane<A> {
    fn keep(&mut self, id: &FlowId, real: RealId, last_use_ns: u64) {
        if let Some(flow) = id.tuple::<A>() {
            let key = A::key(&flow);
            let hash = self.flows.hash(&key);
            self.flows.insert(hash, key, real.bits(), last_use_ns);
        }
    }
}

impl ServiceTable {
    /// The key under which a flow table has a flow: with the ports that its VIP's rules leave. `None`
    /// when no VIP has the destination.
    pub fn flow_key(&self, id: &FlowId) -> Option<FlowId> {
        if id.destination().is_ipv4() {
            self.key_of::<[u8; 4]>(id)
        } else {
            self.key_of::<[u8; 16]>(id)
        }
    }

    fn key_of<A: Family>(&self, id: &FlowId) -> Option<FlowId> {
        let destination = id.destination();
        let vip = self.lookup(destination.ip(), destination.port(), id.protocol())?;
        let flow = lane::with_port_rules(&id.tuple::<A>()?, vip);
        let (source, destination, _) = A::endpoints(&A::key(&flow));
        FlowId::new(source, destination, id.protocol()).ok()
    }
}
