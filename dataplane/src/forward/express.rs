//! The short way of most packets: TCP or UDP that the XDP program tagged with a plain VIP.
//!
//! It takes no decision that the long way would take differently; whatever it does not recognise at
//! once it leaves alone.

use std::net::IpAddr;

use conntrack::{FlowKey, FlowTable, Lookup};

use super::{
    family::{Family, Lanes},
    lane::{self, Lane, Pending, Route, Stage},
    packet_slot::{Outcome, Packet, Selection, Verdict},
    queue::{Entrance, Waiting},
};
use crate::{
    packet::{
        ETHERNET_LEN,
        outer::{Form, OuterHeader},
    },
    service::{PlainVip, Real, RealId},
};

/// Puts a packet of a plain VIP into its queue; false if it has to go the long way.
#[inline]
pub(super) fn admit(
    lanes: &mut Lanes<'_>,
    stage: &Stage<'_>,
    slot: usize,
    packet: &Packet<'_>,
) -> bool {
    let Some(vip) = stage.table.plain_vip(packet.tag()) else {
        return false;
    };
    match vip.address {
        IpAddr::V4(address) => take(&mut lanes.v4, slot, packet, vip, address.octets()),
        IpAddr::V6(address) => take(&mut lanes.v6, slot, packet, vip, address.octets()),
    }
}

/// Takes a packet that is what the tag says it is: TCP or UDP for this plain VIP.
#[inline]
fn take<A: Family>(
    entrance: &mut Entrance<'_, A>,
    slot: usize,
    packet: &Packet<'_>,
    vip: &PlainVip,
    address: A,
) -> bool {
    let Some(head) = packet.head::<A>() else {
        return false;
    };
    let expected = vip.takes(packet.len())
        && A::is_data(head, vip.protocol)
        && A::destination(head) == address
        && A::destination_port(head) == vip.port;
    if expected {
        let is_new = A::tcp_flags(head) & vip.opening != 0;
        entrance.push_plain(slot, &A::flow(head), vip.number, is_new);
    }
    expected
}

/// Sends a packet of a plain VIP to the real that the flow table has at the hinted place. If it has none
/// there, or the outer header is not prepared, the packet is left alone; the error is the real, if any.
#[expect(
    clippy::inline_always,
    reason = "the loop around it is its only caller"
)]
#[inline(always)]
pub(super) fn send_on<A: Family>(
    flows: &mut FlowTable<A::Key>,
    stage: &Stage<'_>,
    waiting: &Waiting,
    packet: &mut Packet<'_>,
    outcome: &mut Outcome,
) -> Result<(), Option<RealId>> {
    let Some(head) = packet.head::<A>() else {
        return Err(None);
    };
    let key = A::key(&A::flow(head));
    let timeout = lane::timeout(key.protocol());
    let Some(bits) = flows.hit_at(waiting.hint, &key, stage.now_ns, timeout) else {
        return Err(None);
    };
    let real = RealId::from_bits(bits);
    if encapsulate::<A>(stage, waiting, packet, real, Selection::Table, outcome) {
        Ok(())
    } else {
        Err(Some(real))
    }
}

impl<A: Family> Lane<A> {
    /// Sends on a packet of a plain VIP of which [`send_on`] found the real, but no outer header.
    #[inline(never)]
    pub(super) fn resolve_found(
        &mut self,
        stage: &mut Stage<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
        found: RealId,
    ) -> Outcome {
        let known = lane::current_real(stage.table, found);
        self.resolve_plain(stage, waiting, packet, known, false)
    }

    /// Sends on a packet of a plain VIP whose flow [`send_on`] did not find.
    #[inline(never)]
    pub(super) fn resolve_known(
        &mut self,
        stage: &mut Stage<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        let Some(head) = packet.head::<A>() else {
            return Outcome::new(Verdict::Pass);
        };
        let key = A::key(&A::flow(head));
        let timeout = lane::timeout(key.protocol());
        let found = self
            .flows
            .lookup(waiting.table_hash, &key, stage.now_ns, timeout);
        let known = match found {
            Lookup::Hit(bits) => lane::current_real(stage.table, RealId::from_bits(bits)),
            Lookup::Expired | Lookup::Miss => None,
        };
        self.resolve_plain(stage, waiting, packet, known, found == Lookup::Miss)
    }

    /// Sends on a packet of a plain VIP that opens a connection.
    #[inline(never)]
    pub(super) fn resolve_new(
        &mut self,
        stage: &mut Stage<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        self.resolve_plain(stage, waiting, packet, None, false)
    }

    /// Sends a packet of a plain VIP to the real that the flow table has, or else to the ring's.
    /// `is_missed` says that the table was just asked for the flow and does not have it.
    #[inline]
    fn resolve_plain(
        &mut self,
        stage: &mut Stage<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
        known: Option<&Real>,
        is_missed: bool,
    ) -> Outcome {
        let (Some(head), Some(vip)) = (packet.head::<A>(), stage.table.vip(waiting.vip)) else {
            return Outcome::new(Verdict::Pass);
        };
        let inner = A::inner(head);
        let pending = &Pending {
            table_hash: waiting.table_hash,
            vip: waiting.vip,
            length: inner.length,
            flow: A::flow(head),
            tos: inner.tos,
            slot: waiting.slot,
            is_error: false,
            route: Route::NOT_ASKED,
        };
        let (real, selection) = match known {
            Some(real) => (Some(real), Selection::Table),
            None => (
                self.by_ring(stage, pending, vip, is_missed),
                Selection::Ring,
            ),
        };
        let mut outcome = Outcome::new(Verdict::Pass);
        if let Some(real) = real
            && encapsulate::<A>(stage, waiting, packet, real.id, selection, &mut outcome)
        {
            return outcome;
        }
        let verdict = lane::deliver(stage, packet, pending, vip, real, selection);
        lane::outcome(verdict, vip, real, selection)
    }
}

/// Puts the prepared outer header in front of a packet. False, and nothing is done, when there is none
/// for this real or it does not fit into the room.
#[expect(clippy::inline_always, reason = "half of what most packets cost")]
#[inline(always)]
fn encapsulate<A: Family>(
    stage: &Stage<'_>,
    waiting: &Waiting,
    packet: &mut Packet<'_>,
    real: RealId,
    selection: Selection,
    outcome: &mut Outcome,
) -> bool {
    // The room is that of the header: nothing has to move.
    let size = packet.room() + ETHERNET_LEN;
    let (Some(header), Some(head)) = (stage.table.outer_header(real, size), packet.head::<A>())
    else {
        return false;
    };
    let inner = A::inner(head);
    let own_mac = A::own_mac(head);
    let is_written = match (header.form(), A::inside_v4(&inner)) {
        (Some(Form::IpipV4), Some(inner)) => {
            let out = packet.buffer_mut().first_chunk_mut();
            out.map(|out| header.write_ipip_v4(out, own_mac, &inner))
        }
        (Some(Form::IpipV6), None) => {
            let out = packet.buffer_mut().first_chunk_mut();
            out.map(|out| header.write_ipip_v6(out, own_mac, &inner))
        }
        _ => write_apart::<A>(header, packet),
    };
    if is_written.is_none() {
        return false;
    }
    let bytes = u64::from(inner.length);
    stage.counters.vips[usize::from(waiting.vip)].count(bytes);
    stage.counters.reals[real.index()].count(bytes);
    *outcome = Outcome {
        verdict: Verdict::Transmit {
            len: (packet.room() + packet.len()) as u16,
        },
        vip: waiting.vip,
        real,
        selection,
    };
    true
}

/// Writes headers of any form, not to crowd the registers of the loop around [`encapsulate`]: most packets
/// go in IPIP of their own family. `None`, and nothing is written, for a real of the wrong family, or if
/// the checksum is not that of a sound packet.
#[inline(never)]
fn write_apart<A: Family>(header: &OuterHeader, packet: &mut Packet<'_>) -> Option<()> {
    let head = packet.head::<A>()?;
    let (inner, own_mac, part) = (A::inner(head), A::own_mac(head), A::gue_part(head));
    let out = packet.buffer_mut();
    match header.form()? {
        Form::IpipV4 => {
            header.write_ipip_v4(out.first_chunk_mut()?, own_mac, &A::inside_v4(&inner)?);
        }
        Form::IpipV6 => header.write_ipip_v6(out.first_chunk_mut()?, own_mac, &inner),
        Form::GueV4 => {
            let inner = A::inside_v4(&inner)?;
            header.write_gue_v4(out.first_chunk_mut()?, own_mac, &inner, part?);
        }
        Form::GueV6 => header.write_gue_v6(out.first_chunk_mut()?, own_mac, &inner, part?),
    }
    Some(())
}
