//! Selection by a server id in the packet (katran-compat sections 5.2, 5.3 and 7).

use super::{
    family::Family,
    lane::{Lane, Pending, Stage, count_insertion},
    packet_slot::Packet,
};
use crate::{
    packet::{
        ETHERNET_LEN, ICMP_LEN, UDP_LEN,
        parse::tcp_flags,
        protocol,
        server_id::{self, QuicServer},
    },
    service::{Real, RealId, ServiceTable, Vip, VipFlags},
};

/// What the flow table held for a flow whose real a server id named.
enum TableEntry {
    Same,
    Other,
    Missing,
}

impl<A: Family> Lane<A> {
    /// The real that the packet's server id names, if it carries one that is known. Of ICMP
    /// errors only stable routing reads the quoted packet: Katran's answers to recorded packets follow no
    /// TCP option that an error quotes.
    pub(super) fn select_by_server_id<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
        packet: &Packet<'_>,
    ) -> Option<&'t Real> {
        let message = packet.frame().get(ETHERNET_LEN + A::HEADER_LEN..)?;
        let is_udp = pending.flow.protocol == protocol::UDP;
        let mut real = None;
        if vip.flags.contains(VipFlags::QUIC) {
            if pending.is_error {
                count_quic_error::<A>(stage, message);
            } else {
                real = self.by_quic(stage, pending, vip, message);
            }
        }
        if vip.flags.contains(VipFlags::UDP_STABLE_ROUTING) && is_udp {
            let quoted_at = if pending.is_error {
                ICMP_LEN + A::HEADER_LEN
            } else {
                0
            };
            let datagram = message.get(quoted_at..).unwrap_or_default();
            real = by_stable_routing::<A>(stage, datagram).or(real);
        }
        if stage.table.settings().tcp_server_id && !is_udp && !pending.is_error && real.is_none() {
            real = self.by_tcp_option(stage, pending, vip, message);
        }
        real
    }

    fn by_quic<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
        segment: &[u8],
    ) -> Option<&'t Real> {
        let counters = &stage.counters.quic;
        let vip_counters = &stage.counters.server_id_vips[usize::from(vip.number)];
        let payload = segment.get(UDP_LEN..).unwrap_or_default();
        let id = match server_id::quic(payload) {
            QuicServer::Initial => {
                counters.initial.add(1);
                vip_counters.openings.add(1);
                return None;
            }
            QuicServer::None => {
                counters.by_table_or_ring.add(1);
                return None;
            }
            QuicServer::Id { version, id } => {
                match version {
                    1 => counters.cid_v1.add(1),
                    2 => counters.cid_v2.add(1),
                    _ => counters.cid_v3.add(1),
                }
                id
            }
        };
        let Some(real) = known_real::<A>(stage.table, id) else {
            counters.unknown_id.add(1);
            counters.unknown_id_sample.set(u64::from(id));
            counters.by_table_or_ring.add(1);
            return None;
        };
        match self.store_named_real(stage, pending, real.id) {
            TableEntry::Same => counters.table_match.add(1),
            TableEntry::Other => {
                counters.table_mismatch.add(1);
                vip_counters.mismatches.add(1);
            }
            TableEntry::Missing => counters.table_miss.add(1),
        }
        counters.routed.add(1);
        Some(real)
    }

    fn by_tcp_option<'t>(
        &mut self,
        stage: &mut Stage<'t>,
        pending: &Pending<A>,
        vip: &Vip,
        segment: &[u8],
    ) -> Option<&'t Real> {
        let counters = &stage.counters.tcp_server_id;
        let vip_counters = &stage.counters.server_id_vips[usize::from(vip.number)];
        if pending.flow.tcp_flags & tcp_flags::SYN != 0 {
            counters.syn.add(1);
            vip_counters.openings.add(1);
            return None;
        }
        let real = server_id::tcp_option(segment).and_then(|id| known_real::<A>(stage.table, id));
        let Some(real) = real else {
            counters.by_table_or_ring.add(1);
            return None;
        };
        if !vip.flags.contains(VipFlags::LRU_BYPASS)
            && let TableEntry::Other = self.store_named_real(stage, pending, real.id)
        {
            counters.table_mismatch.add(1);
            vip_counters.mismatches.add(1);
        }
        counters.routed.add(1);
        Some(real)
    }

    /// Makes the flow table agree with a server id. An entry keeps its time; a new one gets time 0,
    /// with which a UDP flow has already expired.
    fn store_named_real(
        &mut self,
        stage: &mut Stage<'_>,
        pending: &Pending<A>,
        real: RealId,
    ) -> TableEntry {
        let key = A::key(&pending.flow);
        let Some(stored) = self.flows.peek(pending.table_hash, &key) else {
            if stage.is_flooded() {
                stage.counters.flood_suppressed.add(1);
            } else {
                let inserted = self.flows.insert(pending.table_hash, key, real.bits(), 0);
                count_insertion(stage.counters, &inserted);
            }
            return TableEntry::Missing;
        };
        self.flows
            .insert(pending.table_hash, key, real.bits(), stored.last_use);
        if stored.value == real.bits() {
            TableEntry::Same
        } else {
            TableEntry::Other
        }
    }
}

fn by_stable_routing<'t, A: Family>(stage: &Stage<'t>, segment: &[u8]) -> Option<&'t Real> {
    let counters = &stage.counters.stable_routing;
    let payload = segment.get(UDP_LEN..).unwrap_or_default();
    match server_id::stable_routing(payload) {
        None => {
            counters.not_marked.add(1);
            counters.by_table_or_ring.add(1);
            None
        }
        Some(0) => {
            counters.by_table_or_ring.add(1);
            None
        }
        Some(id) => {
            let real = known_real::<A>(stage.table, id);
            if real.is_some() {
                counters.routed.add(1);
            } else {
                counters.unknown_id.add(1);
                counters.by_table_or_ring.add(1);
            }
            real
        }
    }
}

/// The real that an id names. One whose family the packet cannot be sent to counts as unknown
/// (katran-compat section 12).
pub(super) fn known_real<A: Family>(table: &ServiceTable, id: u32) -> Option<&Real> {
    table
        .real_of_server_id(id)
        .filter(|real| A::IS_V4 || real.address.is_ipv6())
}

fn count_quic_error<A: Family>(stage: &Stage<'_>, message: &[u8]) {
    let counters = &stage.counters.quic;
    counters.icmp_errors.add(1);
    let ignorable = if A::IS_V4 { [1, 3] } else { [3, 4] };
    if message.get(1).is_some_and(|code| ignorable.contains(code)) {
        counters.icmp_ignorable.add(1);
    }
}
