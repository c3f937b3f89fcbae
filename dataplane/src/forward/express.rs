//! The short way of most packets: TCP or UDP that the XDP program tagged with a plain VIP.
//!
//! It takes no decision that the long way would take differently; whatever it does not recognise at
//! once it leaves alone.

use conntrack::{FlowKey, FlowTable, Lookup};

use super::{
    family::Family,
    lane::{self, Lane, Pending, Route, Stage},
    packet_slot::{Outcome, Packet, Selection, Verdict},
    queue::{Waiting, Way},
    wrap::Wrap,
};
use crate::{
    counters::Traffic,
    packet::{
        ETHERNET_LEN,
        emit::Inner,
        outer::{Form, OuterHeader},
    },
    service::{Expected, MAX_REALS, MAX_VIPS, OuterHeaders, RealId, ServiceTable},
};

/// IP version of a packet that was taken, by the version of its VIP.
pub(super) enum Taken {
    V4(Waiting),
    V6(Waiting),
}

/// Takes a packet of a plain VIP: TCP or UDP, as the tag says. `None` if it has to go the long way.
#[inline]
pub(super) fn admit(
    table: &ServiceTable,
    v4: &Lane<[u8; 4]>,
    v6: &Lane<[u8; 16]>,
    packet: &Packet<'_>,
) -> Option<Taken> {
    let vip = table.plain_vip(packet.tag())?;
    if !vip.takes(packet.len()) {
        return None;
    }
    match &vip.expected {
        Expected::V4(expected) => take(v4, packet, expected, vip.opening).map(Taken::V4),
        Expected::V6(expected) => take(v6, packet, expected, vip.opening).map(Taken::V6),
    }
}

#[inline]
fn take<A: Family>(
    lane: &Lane<A>,
    packet: &Packet<'_>,
    expected: &A::Expected,
    opening: u8,
) -> Option<Waiting> {
    let head = packet.head::<A>().filter(|head| A::is(head, expected))?;
    let way = if A::tcp_flags(head) & opening == 0 {
        Way::Known
    } else {
        Way::New
    };
    Some(Waiting::for_flow(&lane.flows, &A::flow_to_hash(head), way))
}

/// What most packets need of services and counters, each one load away.
pub(super) struct Shortcuts<'a> {
    headers: OuterHeaders<'a>,
    vips: &'a [Traffic; MAX_VIPS],
    reals: &'a [Traffic; MAX_REALS],
    now_ns: u64,
}

impl<'a> Shortcuts<'a> {
    #[inline]
    pub(super) fn of(stage: &Stage<'a>) -> Self {
        Self {
            headers: stage.table.outer_headers(),
            vips: &stage.counters.vips,
            reals: &stage.counters.reals,
            now_ns: stage.now_ns,
        }
    }

    #[inline]
    fn count<A>(&self, vip: u16, real: RealId, inner: &Inner<A>) {
        let bytes = u64::from(inner.length);
        // A plain VIP has a number below that.
        self.vips[usize::from(vip) % MAX_VIPS].count(bytes);
        self.reals[real.index()].count(bytes);
    }
}

/// Sends a packet of a plain VIP to the real that the flow table has at the hinted place. If it has none
/// there, or the outer header is not prepared, the packet is left alone; the error is the real, if any.
#[expect(
    clippy::inline_always,
    reason = "the loop around it is its only caller"
)]
#[inline(always)]
pub(super) fn send_on<A: Family, W: Wrap<A>>(
    flows: &mut FlowTable<A::Key>,
    shortcuts: &Shortcuts<'_>,
    waiting: &Waiting,
    packet: &mut Packet<'_>,
    outcome: &mut Outcome,
) -> Result<(), Option<RealId>> {
    let room = packet.room();
    let Some(roomy) = W::roomy(packet.buffer_mut(), room) else {
        return send_otherwise::<A>(flows, shortcuts, waiting, packet, outcome);
    };
    let head = W::head_in(roomy);
    let real = known_real::<A>(flows, shortcuts, waiting, head).ok_or(None)?;
    let header = shortcuts.headers.towards(real);
    let Some(header) = header.filter(|header| header.is(W::FORM)) else {
        return Err(Some(real));
    };
    let inner = A::inner(head);
    W::write(header, roomy, &inner).ok_or(Some(real))?;
    let vip = packet.tag().vip;
    shortcuts.count(vip, real, &inner);
    *outcome = sent(packet, vip, real, Selection::Table);
    Ok(())
}

/// As [`send_on`], with other room than the headers of the own version take.
#[inline(never)]
fn send_otherwise<A: Family>(
    flows: &mut FlowTable<A::Key>,
    shortcuts: &Shortcuts<'_>,
    waiting: &Waiting,
    packet: &mut Packet<'_>,
    outcome: &mut Outcome,
) -> Result<(), Option<RealId>> {
    let head = packet.head::<A>().ok_or(None)?;
    let real = known_real::<A>(flows, shortcuts, waiting, head).ok_or(None)?;
    *outcome = encapsulate::<A>(shortcuts, packet, real, Selection::Table).ok_or(Some(real))?;
    Ok(())
}

/// The real that the flow table has at the hinted place.
#[inline]
fn known_real<A: Family>(
    flows: &mut FlowTable<A::Key>,
    shortcuts: &Shortcuts<'_>,
    waiting: &Waiting,
    head: &A::Head,
) -> Option<RealId> {
    let key = A::key(&A::flow(head));
    let timeout = lane::timeout(key.protocol());
    let bits = flows.hit_at(waiting.hint, &key, shortcuts.now_ns, timeout)?;
    Some(RealId::from_bits(bits))
}

/// What the flow table said of a flow.
#[derive(Clone, Copy)]
enum Found {
    /// It has this real.
    Real(RealId),
    /// It was not asked, or the flow has ended.
    Nothing,
    /// It was just asked for the flow and does not have it.
    Missed,
}

impl<A: Family> Lane<A> {
    /// Sends on a packet of a plain VIP that [`send_on`] left alone; `found` is the real it found, if any.
    #[inline(never)]
    pub(super) fn resolve_known(
        &mut self,
        stage: &mut Stage<'_>,
        shortcuts: &Shortcuts<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
        slot: usize,
        found: Option<RealId>,
    ) -> Outcome {
        let found = match found {
            // Its header could not be written.
            Some(real) => Found::Real(real),
            None => match self.look_up(stage, waiting, packet) {
                Lookup::Hit(bits) => {
                    let real = RealId::from_bits(bits);
                    let sent = encapsulate::<A>(shortcuts, packet, real, Selection::Table);
                    if let Some(outcome) = sent {
                        return outcome;
                    }
                    Found::Real(real)
                }
                Lookup::Expired => Found::Nothing,
                Lookup::Miss => Found::Missed,
            },
        };
        self.resolve_plain(stage, shortcuts, waiting, packet, slot, found)
    }

    /// What the flow table has of the packet's flow, wherever.
    #[inline]
    fn look_up(&mut self, stage: &Stage<'_>, waiting: &Waiting, packet: &Packet<'_>) -> Lookup {
        let Some(head) = packet.head::<A>() else {
            return Lookup::Miss;
        };
        let key = A::key(&A::flow(head));
        let timeout = lane::timeout(key.protocol());
        self.flows
            .lookup(waiting.table_hash, &key, stage.now_ns, timeout)
    }

    /// Sends on a packet of a plain VIP that opens a connection.
    #[inline(never)]
    pub(super) fn resolve_new(
        &mut self,
        stage: &mut Stage<'_>,
        shortcuts: &Shortcuts<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
        slot: usize,
    ) -> Outcome {
        self.resolve_plain(stage, shortcuts, waiting, packet, slot, Found::Nothing)
    }

    /// Sends a packet of a plain VIP to the real that the flow table has, or else to the ring's.
    #[inline]
    fn resolve_plain(
        &mut self,
        stage: &mut Stage<'_>,
        shortcuts: &Shortcuts<'_>,
        waiting: &Waiting,
        packet: &mut Packet<'_>,
        slot: usize,
        found: Found,
    ) -> Outcome {
        let (Some(head), Some(vip)) = (packet.head::<A>(), stage.table.vip(packet.tag().vip))
        else {
            return Outcome::new(Verdict::Pass);
        };
        let inner = A::inner(head);
        let pending = &Pending {
            table_hash: waiting.table_hash,
            vip: vip.number,
            length: inner.length,
            flow: A::flow(head),
            tos: inner.tos,
            slot: slot as u8,
            is_error: false,
            route: Route::NOT_ASKED,
        };
        let known = match found {
            Found::Real(real) => lane::current_real(stage.table, real),
            Found::Nothing | Found::Missed => None,
        };
        let (real, selection) = if known.is_some() {
            (known, Selection::Table)
        } else {
            let is_missed = matches!(found, Found::Missed);
            let real = self.by_ring(stage, pending, vip, is_missed);
            (real, Selection::Ring)
        };
        if let Some(real) = real
            && selection == Selection::Ring
            && let Some(outcome) = encapsulate::<A>(shortcuts, packet, real.id, selection)
        {
            return outcome;
        }
        let verdict = lane::deliver(stage, packet, pending, vip, real, selection);
        lane::outcome(verdict, vip, real, selection)
    }
}

/// Puts the prepared outer header in front of a packet of a plain VIP. `None`, and nothing is done, when
/// there is none for this real, it does not fit into the room or [`write`] cannot write it.
#[inline]
fn encapsulate<A: Family>(
    shortcuts: &Shortcuts<'_>,
    packet: &mut Packet<'_>,
    real: RealId,
    selection: Selection,
) -> Option<Outcome> {
    let header = shortcuts.headers.towards(real)?;
    // The room is that of the header: nothing has to move.
    if header.size() != packet.room() + ETHERNET_LEN {
        return None;
    }
    let inner = write::<A>(header, packet)?;
    let vip = packet.tag().vip;
    shortcuts.count(vip, real, &inner);
    Some(sent(packet, vip, real, selection))
}

/// Writes headers of any form. `None`, and nothing is written, for a real of the wrong family, or if the
/// checksum is not that of a sound packet.
#[inline]
fn write<A: Family>(header: &OuterHeader, packet: &mut Packet<'_>) -> Option<Inner<A>> {
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
    Some(inner)
}

/// The outcome of a packet with its outer header, which took up the room.
#[inline]
fn sent(packet: &Packet<'_>, vip: u16, real: RealId, selection: Selection) -> Outcome {
    Outcome {
        verdict: Verdict::Transmit {
            len: (packet.room() + packet.len()) as u16,
        },
        vip,
        real,
        selection,
    }
}
