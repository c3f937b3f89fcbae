//! The short way of most packets: TCP or UDP that the XDP program tagged with a plain VIP.
//!
//! It takes no decision that the long way would take differently; whatever it does not recognise at
//! once it leaves alone.

use std::net::IpAddr;

use conntrack::{Hint, Lookup};

use super::{
    family::{Family, Lanes},
    lane::{self, Lane, Pending, Stage},
    packet_slot::{Outcome, Packet, Selection, Verdict},
};
use crate::{
    packet::{ETHERNET_LEN, emit::Inner, parse},
    service::RealId,
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
    let expected = match vip.address {
        IpAddr::V4(address) => {
            let Some(data) = parse::data_v4(packet.frame(), vip.protocol) else {
                return false;
            };
            let flow = &data.flow;
            let expected =
                (address.octets(), vip.port) == (flow.destination, flow.destination_port);
            if expected {
                lanes.v4.push_plain(slot, data, vip.number);
            }
            expected
        }
        IpAddr::V6(address) => {
            let Some(data) = parse::data_v6(packet.frame(), vip.protocol) else {
                return false;
            };
            let flow = &data.flow;
            let expected =
                (address.octets(), vip.port) == (flow.destination, flow.destination_port);
            if expected {
                lanes.v6.push_plain(slot, data, vip.number);
            }
            expected
        }
    };
    if expected {
        stage.counters.vip_packets.add(1);
    }
    expected
}

impl<A: Family> Lane<A> {
    /// Sends a packet of a plain VIP on if the flow table has its real.
    #[inline]
    pub(super) fn resolve_plain(
        &mut self,
        stage: &Stage<'_>,
        hint: Hint,
        pending: &Pending<A>,
        packet: &mut Packet<'_>,
    ) -> Option<Outcome> {
        let flow = &pending.flow;
        if lane::is_syn(flow) {
            return None;
        }
        let timeout = lane::timeout(flow.protocol);
        let key = A::key(flow);
        let found = self
            .flows
            .lookup_at(hint, pending.table_hash, &key, stage.now_ns, timeout);
        let Lookup::Hit(bits) = found else {
            return None;
        };
        let real = RealId::from_bits(bits);
        let header = stage.table.outer_header(real)?;
        // The room is that of the header: nothing has to move.
        if packet.room + ETHERNET_LEN != header.size() {
            return None;
        }
        let own_mac = *packet.frame().first_chunk()?;
        let inner = Inner {
            tos: pending.tos,
            length: pending.length,
            source: flow.source,
            source_port: flow.source_port,
        };
        let written = if header.is_v4() {
            header.write_v4(packet.buffer, own_mac, &A::inside_v4(&inner)?)
        } else {
            header.write_v6(packet.buffer, own_mac, &inner)
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
            selection: Selection::Table,
        })
    }
}
