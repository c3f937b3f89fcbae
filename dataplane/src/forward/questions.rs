//! What the control plane asks a forwarder between bursts. Nothing here changes which real a flow
//! gets, except that a removed flow selects anew.

use std::net::{IpAddr, SocketAddr};

use conntrack::Flow;

use super::{
    Forwarder, Selection, detour,
    family::Family,
    lane::{self, Lane},
    server_id,
};
use crate::{
    packet::{emit, parse::FlowTuple},
    service::{Detours, Encapsulation, Protocol, Real, RealId, ServiceTable, Vip, VipKey},
};

/// A flow as operators name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
}

/// Source and destination of a flow are of different address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{source_address} and {destination} are of different address families; give two of one family"
)]
pub struct FlowIdError {
    source_address: IpAddr,
    destination: IpAddr,
}

impl FlowId {
    /// A flow from a client to a VIP.
    pub fn new(
        source: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> Result<Self, FlowIdError> {
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(FlowIdError {
                source_address: source.ip(),
                destination: destination.ip(),
            });
        }
        Ok(Self {
            source,
            destination,
            protocol,
        })
    }

    /// The client.
    pub const fn source(&self) -> SocketAddr {
        self.source
    }

    /// The VIP.
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Transport protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn tuple<A: Family>(&self) -> Option<FlowTuple<A>> {
        Some(FlowTuple {
            source: A::from_ip(self.source.ip())?,
            destination: A::from_ip(self.destination.ip())?,
            source_port: self.source.port().to_be_bytes(),
            destination_port: self.destination.port().to_be_bytes(),
            protocol: self.protocol.number(),
            tcp_flags: 0,
        })
    }
}

/// An entry of a worker's flow table or of the global table. Ports that the VIP's rules take out of the key are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Key of the entry.
    pub id: FlowId,
    /// The real it stores.
    pub real: RealId,
    /// That real's address, unless its index was given to another real since then.
    pub real_address: Option<IpAddr>,
    /// Last use, on the clock of [`Forwarder::process`]. 0 for TCP in a worker's table; in the global
    /// table a time at which it was stored or found.
    pub last_use_ns: u64,
}

/// Where a flow would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// No VIP has this destination: the packet goes to the kernel.
    NotAVip,
    /// The packet is a GUE tunnel to a decap destination: its inner packet is decided by itself.
    Tunnel {
        /// The inner packet leaves instead.
        egress: bool,
    },
    /// The VIP has no real with a weight above zero.
    NoReal {
        /// The VIP.
        vip: VipKey,
    },
    /// A real is selected.
    Selected {
        /// The VIP.
        vip: VipKey,
        /// The real.
        real: IpAddr,
        /// How.
        by: Selection,
        /// The real is this host, and the VIP leaves its packets to the kernel.
        local: bool,
        /// Slot of the VIP's ring that the flow hashes to.
        ring_index: u32,
        /// The flow hash.
        hash: u32,
        /// Source address of the outer header.
        outer_source: IpAddr,
    },
}

impl Forwarder {
    /// Flows in both tables.
    pub fn flow_count(&self) -> usize {
        self.v4.flows.len() + self.v6.flows.len()
    }

    /// The entry that a packet of this flow would find, whether or not it has expired.
    pub fn flow(&self, id: &FlowId) -> Option<FlowRecord> {
        let vip = self.vip_of(id)?;
        match id.destination.ip() {
            IpAddr::V4(_) => self.v4.record(&self.table, vip, id),
            IpAddr::V6(_) => self.v6.record(&self.table, vip, id),
        }
    }

    /// Removes a flow, from the global table too; its next packet selects a real anew. False when this
    /// forwarder had none.
    pub fn remove_flow(&mut self, id: &FlowId) -> bool {
        let Some(record) = self.flow(id) else {
            return false;
        };
        self.remove_entry(&record.id)
    }

    /// Removes the entry whose key is exactly `key`, from the global table too: what is left there
    /// would come back.
    fn remove_entry(&mut self, key: &FlowId) -> bool {
        self.table.remove_global_flow(key);
        match key.destination.ip() {
            IpAddr::V4(_) => self.v4.remove(key),
            IpAddr::V6(_) => self.v6.remove(key),
        }
    }

    /// Visits the flows of up to `max` table slots from `cursor` on, which starts at 0. Returns the
    /// next cursor, or `None` after the last slot. A long walk is cut into steps between bursts; flows
    /// that come or go meanwhile may be missed or seen.
    pub fn scan_flows(
        &self,
        cursor: usize,
        max: usize,
        visit: &mut dyn FnMut(&FlowRecord),
    ) -> Option<usize> {
        let v4_slots = self.v4.flows.slots();
        if cursor < v4_slots {
            let end = cursor.saturating_add(max).min(v4_slots);
            self.v4.visit(&self.table, cursor..end, visit);
            return Some(end);
        }
        let slots = self.v6.flows.slots();
        let start = (cursor - v4_slots).min(slots);
        let end = start.saturating_add(max).min(slots);
        self.v6.visit(&self.table, start..end, visit);
        (end < slots).then_some(v4_slots + end)
    }

    /// Removes matching flows among up to `max` table slots from `cursor` on, as
    /// [`Self::scan_flows`] visits them. Returns how many it removed, and the next cursor.
    pub fn purge_step(
        &mut self,
        cursor: usize,
        max: usize,
        matches: &dyn Fn(&FlowRecord) -> bool,
    ) -> (usize, Option<usize>) {
        let mut doomed = Vec::new();
        let next = self.scan_flows(cursor, max, &mut |record| {
            if matches(record) {
                doomed.push(record.id);
            }
        });
        let removed = doomed.iter().filter(|key| self.remove_entry(key)).count();
        (removed, next)
    }

    /// Which real the next packet of this flow gets and why, without changing anything. The packet is
    /// taken to be no SYN.
    pub fn explain(&self, id: &FlowId, now_ns: u64) -> Explanation {
        self.explain_with_server_id(id, None, now_ns)
    }

    /// As [`Self::explain`], for a packet that carries this server id, in whatever form the VIP reads.
    pub fn explain_with_server_id(
        &self,
        id: &FlowId,
        server_id: Option<u32>,
        now_ns: u64,
    ) -> Explanation {
        let Some(vip) = self.vip_of(id) else {
            return self.explain_without_vip(id);
        };
        match id.destination.ip() {
            IpAddr::V4(_) => self.v4.explain(&self.table, vip, id, server_id, now_ns),
            IpAddr::V6(_) => self.v6.explain(&self.table, vip, id, server_id, now_ns),
        }
    }

    fn explain_without_vip(&self, id: &FlowId) -> Explanation {
        let is_gue = id.protocol == Protocol::Udp
            && id.destination.port() == self.table.settings().decap_gue_port;
        match self.table.decap_destination(id.destination.ip()) {
            Some(own) if is_gue => Explanation::Tunnel { egress: own.egress },
            _ => Explanation::NotAVip,
        }
    }

    fn vip_of(&self, id: &FlowId) -> Option<&Vip> {
        let FlowId {
            destination,
            protocol,
            ..
        } = id;
        self.table
            .lookup(destination.ip(), destination.port(), *protocol)
    }
}

impl<A: Family> Lane<A> {
    fn record(&self, table: &ServiceTable, vip: &Vip, id: &FlowId) -> Option<FlowRecord> {
        let key = A::key(&lane::with_port_rules(&id.tuple()?, vip));
        let flow = self.flows.peek(self.flows.hash(&key), &key)?;
        record::<A>(table, &flow)
    }

    fn remove(&mut self, key: &FlowId) -> bool {
        let Some(flow) = key.tuple::<A>() else {
            return false;
        };
        let key = A::key(&flow);
        self.flows.remove(self.flows.hash(&key), &key).is_some()
    }

    fn visit(
        &self,
        table: &ServiceTable,
        slots: std::ops::Range<usize>,
        visit: &mut dyn FnMut(&FlowRecord),
    ) {
        for flow in self.flows.iter_slots(slots) {
            if let Some(record) = record::<A>(table, &flow) {
                visit(&record);
            }
        }
    }

    fn explain(
        &self,
        table: &ServiceTable,
        vip: &Vip,
        id: &FlowId,
        server_id: Option<u32>,
        now_ns: u64,
    ) -> Explanation {
        let Some(flow) = id.tuple::<A>() else {
            return Explanation::NotAVip;
        };
        let flow = lane::with_port_rules(&flow, vip);
        let key = A::key(&flow);
        let stored = self
            .flows
            .peek(self.flows.hash(&key), &key)
            .filter(|_| lane::reads_table(vip))
            .filter(|stored| !stored.is_expired(now_ns, lane::timeout(flow.protocol)))
            .and_then(|stored| lane::current_real(table, RealId::from_bits(stored.value)));
        let known = match stored {
            Some(real) => Some((real, Selection::Table)),
            None => {
                global::<A>(table, vip, &flow, now_ns).map(|real| (real, Selection::GlobalTable))
            }
        };
        let hash = lane::ring_hash(&flow, vip);
        let routed = || {
            let follows = vip.detours.contains(Detours::SOURCE_ROUTE);
            follows.then(|| flow.source.source_route(table)).flatten()
        };
        let named = server_id
            .filter(|_| table.server_id_forms(vip).next().is_some())
            .and_then(|server_id| server_id::known_real::<A>(table, server_id));
        let (real, by) = if let Some(real) = named {
            (Some(real), Selection::ServerId)
        } else if let Some((real, by)) = known.filter(|(real, _)| !vip.is_down(real.id.index())) {
            (Some(real), by)
        } else if let Some(real) = routed() {
            (Some(real), Selection::SourceRoute)
        } else {
            let index = vip.ring.select(hash);
            (table.real(usize::from(index)), Selection::Ring)
        };
        let Some(real) = real else {
            return Explanation::NoReal { vip: vip.key };
        };
        let source = lane::outer_source_of(&flow, vip, by);
        Explanation::Selected {
            vip: vip.key,
            real: real.address,
            by,
            local: detour::goes_up(vip, real),
            ring_index: hash % vip.ring.len() as u32,
            hash,
            outer_source: outer_source::<A>(table, real.address, source, flow.source_port),
        }
    }
}

/// The real that the global table has for the flow.
fn global<'t, A: Family>(
    table: &'t ServiceTable,
    vip: &Vip,
    flow: &FlowTuple<A>,
    now_ns: u64,
) -> Option<&'t Real> {
    if !vip.detours.contains(Detours::GLOBAL_TABLE) {
        return None;
    }
    let key = A::key(flow);
    let (value, last_use) = table.global()?.peek(&key)?;
    let stored = Flow {
        key,
        value,
        last_use,
    };
    if stored.is_expired(now_ns, lane::timeout(flow.protocol)) {
        return None;
    }
    lane::current_real(table, RealId::from_bits(value))
}

fn outer_source<A: Family>(
    table: &ServiceTable,
    real: IpAddr,
    source: A,
    source_port: [u8; 2],
) -> IpAddr {
    match (table.settings().encapsulation, real, source.into()) {
        (Encapsulation::Gue { source_v4, .. }, IpAddr::V4(_), _) => source_v4.into(),
        (Encapsulation::Gue { source_v6, .. }, IpAddr::V6(_), _) => source_v6.into(),
        (Encapsulation::Ipip, IpAddr::V4(_), IpAddr::V4(source)) => {
            emit::ipip_source_v4(source.octets(), source_port).into()
        }
        (Encapsulation::Ipip, _, _) => emit::ipip_source_v6(source, source_port).into(),
    }
}

fn record<A: Family>(table: &ServiceTable, flow: &Flow<A::Key>) -> Option<FlowRecord> {
    flow_record(table, A::endpoints(&flow.key), flow.value, flow.last_use)
}

/// The record of an entry with these endpoints and this protocol.
pub(super) fn flow_record(
    table: &ServiceTable,
    (source, destination, protocol): (SocketAddr, SocketAddr, u8),
    value: u32,
    last_use_ns: u64,
) -> Option<FlowRecord> {
    let real = RealId::from_bits(value);
    Some(FlowRecord {
        id: FlowId {
            source,
            destination,
            protocol: Protocol::from_number(protocol)?,
        },
        real,
        real_address: lane::current_real(table, real).map(|real| real.address),
        last_use_ns,
    })
}
