//! Packets that no VIP takes: tunnels to a decap destination lose their outer headers and are decided
//! again; everything else is the kernel's (katran-compat section 8).

use super::{
    admit_any,
    family::Lanes,
    lane::Stage,
    packet_slot::{Outcome, Packet, Verdict},
    reply_verdict, rewrite,
};
use crate::{
    counters::{Counter, DecapCounters, DropReason},
    packet::tunnel::{self, InnerError, Tunnel},
};

/// How often a packet is decided again; Katran is stopped by the kernel's limit on tail calls.
const MAX_RECIRCULATIONS: usize = 33;

/// Decides a packet that no VIP takes.
#[cold]
#[inline(never)]
pub(super) fn unmatched(
    lanes: &mut Lanes<'_>,
    stage: &Stage<'_>,
    slot: usize,
    packet: &mut Packet<'_>,
) -> Outcome {
    let mut recirculations = 0;
    while let Some((tunnel, egress)) = own_tunnel(stage, packet) {
        let counters = &stage.counters.decap;
        if let Err(reason) = strip(packet, &tunnel, counters) {
            return Outcome::new(Verdict::Drop(reason));
        }
        counters.packets.add(1);
        let of_family = |v4: &Counter, v6: &Counter| {
            let counter = if tunnel.inner_is_v4 { v4 } else { v6 };
            counter.add(1);
        };
        if egress {
            of_family(&counters.egress_v4, &counters.egress_v6);
            return Outcome::new(reply_verdict(rewrite::send_back(packet, stage.counters)));
        }
        of_family(&counters.cross_pop_v4, &counters.cross_pop_v6);
        if recirculations == MAX_RECIRCULATIONS {
            return Outcome::new(Verdict::Drop(DropReason::RecirculationLimit));
        }
        recirculations += 1;
        counters.recirculated.add(1);
        counters.recirculated_bytes.add(packet.len() as u64);
    }
    if recirculations == 0 {
        return Outcome::new(Verdict::Pass);
    }
    // What is no tunnel to a decap destination any more does not come back here for another one.
    admit_any(lanes, stage, slot, packet)
}

/// The tunnel, if it goes to a decap destination, and whether its inner packet is to be sent out.
fn own_tunnel(stage: &Stage<'_>, packet: &Packet<'_>) -> Option<(Tunnel, bool)> {
    let tunnel = tunnel::read(packet.frame(), stage.table.settings().decap_gue_port)?;
    let own = stage.table.decap_destination(tunnel.destination)?;
    Some((tunnel, own.egress && tunnel.is_gue))
}

/// Takes the outer header off; the payload stays where it is.
fn strip(
    packet: &mut Packet<'_>,
    tunnel: &Tunnel,
    counters: &DecapCounters,
) -> Result<(), DropReason> {
    tunnel
        .strip(packet.frame_mut())
        .map_err(|error| match error {
            InnerError::Truncated => DropReason::InnerTruncated,
            InnerError::Expired => DropReason::TtlExpired,
        })?;
    if tunnel.destination.is_ipv4() {
        counters.outer_v4.add(1);
    } else {
        counters.outer_v6.add(1);
    }
    packet.strip(tunnel.header_len);
    Ok(())
}
