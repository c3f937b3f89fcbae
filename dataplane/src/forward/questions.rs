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
    packet::{
        emit,
        parse::{FlowTuple, tcp_flags},
    },
    service::{
        Detours, Encapsulation, Protocol, Real, RealId, ServerIdForm, ServiceTable, Vip, VipKey,
    },
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

/// What is asked about besides the flow: the packet, and the state of the worker that takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The packet carries this server id, in whatever form the VIP reads.
    pub server_id: Option<u32>,
    /// It is a TCP segment with SYN, or quotes one.
    pub syn: bool,
    /// It is an ICMP error that quotes a packet of the flow.
    pub error: bool,
    /// Connection events that the worker has counted in the window that lasts
    /// ([`connection_events_at`](crate::counters::WorkerCounters::connection_events_at)).
    pub connection_events: u64,
}

impl Asked {
    /// Whether a server id in this form would be looked for in the packet.
    pub const fn reads(&self, form: ServerIdForm) -> bool {
        match form {
            ServerIdForm::QuicConnectionId => !self.error,
            ServerIdForm::UdpPayload => true,
            ServerIdForm::TcpOption => !self.syn && !self.error,
        }
    }

    /// Whether the packet's `nth` connection event is over the cap. The first of a window never is.
    fn is_flooded(&self, nth: u64, table: &ServiceTable) -> bool {
        let events = self.connection_events + nth;
        events > 1 && events > u64::from(table.settings().connection_rate_cap)
    }
}

/// Why no flow table decides, although one is there or even has the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOver {
    /// The VIP asks none.
    Bypass,
    /// A SYN asks none.
    Syn,
    /// The entry has expired.
    Expired,
    /// The number of the entry's real was given to another real.
    StaleReal,
    /// The flow leaves the real of its worker's table, which is down.
    RealDown,
    /// The flow leaves the real of the global table, which is down.
    GlobalRealDown,
}

impl PassedOver {
    /// Name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bypass => "lru-bypass",
            Self::Syn => "syn",
            Self::Expired => "expired",
            Self::StaleReal => "stale-real",
            Self::RealDown => "real-down",
            Self::GlobalRealDown => "global-real-down",
        }
    }
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
        /// Why the tables do not name one either.
        passed_over: Option<PassedOver>,
        /// The worker's cap on new connections is in force: a source route is not asked.
        flooded: bool,
    },
    /// A real is selected.
    Selected {
        /// The VIP.
        vip: VipKey,
        /// The real.
        real: IpAddr,
        /// How.
        by: Selection,
        /// Why no table did.
        passed_over: Option<PassedOver>,
        /// The worker's cap on new connections is in force.
        flooded: bool,
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
    /// taken to be no SYN and no ICMP error.
    pub fn explain(&self, id: &FlowId, now_ns: u64) -> Explanation {
        self.explain_packet(id, &Asked::default(), now_ns)
    }

    /// As [`Self::explain`], for another packet or a worker with many new connections.
    pub fn explain_packet(&self, id: &FlowId, asked: &Asked, now_ns: u64) -> Explanation {
        let Some(vip) = self.vip_of(id) else {
            return self.explain_without_vip(id);
        };
        match id.destination.ip() {
            IpAddr::V4(_) => self.v4.explain(&self.table, vip, id, asked, now_ns),
            IpAddr::V6(_) => self.v6.explain(&self.table, vip, id, asked, now_ns),
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
        asked: &Asked,
        now_ns: u64,
    ) -> Explanation {
        let Some(mut flow) = id.tuple::<A>() else {
            return Explanation::NotAVip;
        };
        if asked.syn {
            flow.tcp_flags = tcp_flags::SYN;
        }
        let flow = lane::with_port_rules(&flow, vip);
        let flooded = asked.is_flooded(1, table);
        let named = asked
            .server_id
            .filter(|_| table.server_id_forms(vip).any(|form| asked.reads(form)))
            .and_then(|server_id| server_id::known_real::<A>(table, server_id));
        let hash = lane::ring_hash(&flow, vip);
        let (real, by, passed_over) = match (named, self.known(table, vip, &flow, now_ns)) {
            (Some(real), _) => (Some(real), Selection::ServerId, None),
            (None, Known::Real(real, by)) if flooded || !vip.is_down(real.id.index()) => {
                (Some(real), by, None)
            }
            (None, known) => {
                let passed_over = match known {
                    Known::Real(_, Selection::GlobalTable) => Some(PassedOver::GlobalRealDown),
                    Known::Real(..) => Some(PassedOver::RealDown),
                    Known::Nothing(reason) => reason,
                };
                // Where flows migrate, that was an event of its own.
                let migrates = vip.detours.contains(Detours::FLOW_MIGRATION);
                let nth = if migrates { 2 } else { 1 };
                let follows =
                    vip.detours.contains(Detours::SOURCE_ROUTE) && !asked.is_flooded(nth, table);
                let routed = follows.then(|| flow.source.source_route(table)).flatten();
                if routed.is_some() {
                    (routed, Selection::SourceRoute, passed_over)
                } else {
                    let index = vip.ring.select(hash);
                    (table.real(usize::from(index)), Selection::Ring, passed_over)
                }
            }
        };
        let Some(real) = real else {
            return Explanation::NoReal {
                vip: vip.key,
                passed_over,
                flooded,
            };
        };
        let source = lane::outer_source_of(&flow, vip, by);
        Explanation::Selected {
            vip: vip.key,
            real: real.address,
            by,
            passed_over,
            flooded,
            local: detour::goes_up(vip, real),
            ring_index: hash % vip.ring.len() as u32,
            hash,
            outer_source: outer_source::<A>(table, real.address, source, flow.source_port),
        }
    }

    /// What the flow tables say: the worker's own, then the global one.
    fn known<'t>(
        &self,
        table: &'t ServiceTable,
        vip: &Vip,
        flow: &FlowTuple<A>,
        now_ns: u64,
    ) -> Known<'t> {
        if !lane::reads_table(vip) {
            return Known::Nothing(Some(PassedOver::Bypass));
        }
        if lane::is_syn(flow) {
            return Known::Nothing(Some(PassedOver::Syn));
        }
        let key = A::key(flow);
        let timeout = lane::timeout(flow.protocol);
        let judge = |stored: Flow<A::Key>| {
            if stored.is_expired(now_ns, timeout) {
                return Err(PassedOver::Expired);
            }
            let real = lane::current_real(table, RealId::from_bits(stored.value));
            real.ok_or(PassedOver::StaleReal)
        };
        let own = self.flows.peek(self.flows.hash(&key), &key).map(judge);
        if let Some(Ok(real)) = own {
            return Known::Real(real, Selection::Table);
        }
        let asks_global = vip.detours.contains(Detours::GLOBAL_TABLE);
        let global = asks_global.then(|| table.global()).flatten();
        let global = global.and_then(|global| global.peek(&key));
        match global.map(|(value, last_use)| {
            judge(Flow {
                key,
                value,
                last_use,
            })
        }) {
            Some(Ok(real)) => Known::Real(real, Selection::GlobalTable),
            global => Known::Nothing(own.or(global).and_then(Result::err)),
        }
    }
}

/// What the flow tables say of a flow.
enum Known<'t> {
    /// It is with this real, by that table.
    Real(&'t Real, Selection),
    /// Nothing, or nothing that counts.
    Nothing(Option<PassedOver>),
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
