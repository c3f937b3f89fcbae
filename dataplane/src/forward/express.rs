//! The short way of most packets: TCP or UDP that the XDP program tagged with a plain VIP.
//!
//! It takes no decision that the long way would take differently; whatever it does not recognise at
//! once it leaves alone.

use std::net::IpAddr;

use conntrack::{FlowTable, Lookup};

use super::{
    family::{Family, Lanes},
    lane::{self, Lane, Pending, Stage},
    packet_slot::{Outcome, Packet, Selection, Verdict},
};
use crate::{
    packet::{ETHERNET_LEN, emit::Inner},
    service::{PlainVip, RealId},
};

/// Puts a packet of a plain VIP into its lane; false if it has to go the long way.
#[inline]
pub(super) fn admit(
    lanes: &mut Lanes<'_>,
    stage: &Stage<'_>,
    slot: usize,
    packet: &Packet<'_>,
) -> bool {
    let Some(vip) = stage.table.plain_vip(packet.tag) else {
        return false;
    };
    if packet.len > usize::from(stage.table.settings().max_frame) {
        return false;
    }
    match vip.address {
        IpAddr::V4(address) => lanes.v4.take(slot, packet, vip, address.octets()),
        IpAddr::V6(address) => lanes.v6.take(slot, packet, vip, address.octets()),
    }
}

impl<A: Family> Lane<A> {
    /// Takes a packet that is what the tag says it is: TCP or UDP for this plain VIP.
    #[inline]
    fn take(&mut self, slot: usize, packet: &Packet<'_>, vip: &PlainVip, address: A) -> bool {
        let Some(data) = A::data(packet.frame(), vip.protocol) else {
            return false;
        };
        let flow = &data.flow;
        let expected = flow.destination == address && flow.destination_port == vip.port;
        if expected {
            self.push_plain(slot, data, vip.number);
        }
        expected
    }

    /// Sends on a packet of a plain VIP that [`resolve`] left alone. `found` is what the flow table said
    /// if it was asked.
    #[inline(never)]
    pub(super) fn resolve_new(
        &mut self,
        stage: &mut Stage<'_>,
        pending: &Pending<A>,
        packet: &mut Packet<'_>,
        found: Option<Lookup>,
    ) -> Outcome {
        let Some(vip) = stage.table.vip(pending.vip) else {
            return Outcome::new(Verdict::Pass);
        };
        let known = match found {
            Some(Lookup::Hit(bits)) => lane::current_real(stage.table, RealId::from_bits(bits)),
            _ => None,
        };
        let is_missed = found == Some(Lookup::Miss);
        let (real, selection) = match known {
            Some(real) => (Some(real), Selection::Table),
            None => (
                self.by_ring(stage, pending, vip, is_missed),
                Selection::Ring,
            ),
        };
        if let Some(real) = real
            && let Some(outcome) = send(stage, pending, packet, real.id, selection)
        {
            return outcome;
        }
        let verdict = lane::deliver(stage, packet, pending, vip, real, selection);
        lane::outcome(verdict, vip, real, selection)
    }
}

/// Sends a packet of a plain VIP to the real that the flow table has. Where it has none, or the outer
/// header is not prepared, nothing is done but to say what the table has, if it was asked.
#[inline]
pub(super) fn resolve<A: Family>(
    flows: &mut FlowTable<A::Key>,
    stage: &Stage<'_>,
    pending: &Pending<A>,
    packet: &mut Packet<'_>,
) -> Result<Outcome, Option<Lookup>> {
    let flow = &pending.flow;
    if lane::is_syn(flow) {
        return Err(None);
    }
    let Pending {
        hint, table_hash, ..
    } = *pending;
    let timeout = lane::timeout(flow.protocol);
    let found = flows.lookup_at(hint, table_hash, &A::key(flow), stage.now_ns, timeout);
    let Lookup::Hit(bits) = found else {
        return Err(Some(found));
    };
    let real = RealId::from_bits(bits);
    send(stage, pending, packet, real, Selection::Table).ok_or(Some(found))
}

/// Puts the prepared outer header in front of a packet. `None`, and nothing is done, when there is none
/// for this real or it does not fit into the room.
#[expect(clippy::inline_always, reason = "half of what most packets cost")]
#[inline(always)]
fn send<A: Family>(
    stage: &Stage<'_>,
    pending: &Pending<A>,
    packet: &mut Packet<'_>,
    real: RealId,
    selection: Selection,
) -> Option<Outcome> {
    let header = stage.table.outer_header(real)?;
    // The room is that of the header: nothing has to move.
    if packet.room + ETHERNET_LEN != header.size() {
        return None;
    }
    let own_mac = *packet.frame().first_chunk()?;
    let inner = Inner {
        tos: pending.tos,
        length: pending.length,
        source: pending.flow.source,
        source_port: pending.flow.source_port,
    };
    let written = if header.is_v4() {
        header.write_v4(packet.buffer, &own_mac, &A::inside_v4(&inner)?)
    } else {
        header.write_v6(packet.buffer, &own_mac, &inner)
    };
    if !written {
        return None;
    }
    let bytes = u64::from(pending.length);
    stage.counters.vips[usize::from(pending.vip)].count(bytes);
    stage.counters.reals[real.index()].count(bytes);
    Some(Outcome {
        verdict: Verdict::Transmit {
            len: (packet.room + packet.len) as u16,
        },
        vip: pending.vip,
        real,
        selection,
    })
}
