//! What ICMP errors for VIPs say of the path's MTU (Katran's counters 12 and 13).

use super::family::Family;
use crate::{
    counters::WorkerCounters,
    packet::{ETHERNET_LEN, ICMP_LEN},
};

/// An MTU below this one is "small": no IPv6 path may have one (RFC 8200 section 5).
const SMALL_MTU: u32 = 1280;

/// Counts an ICMP error that is about a frame that was too big. Katran does so before it looks the
/// VIP up; here it is one of a VIP already.
#[cold]
pub(super) fn count<A: Family>(counters: &WorkerCounters, frame: &[u8]) {
    let message = frame.get(ETHERNET_LEN + A::HEADER_LEN..);
    let Some(header) = message.and_then(<[u8]>::first_chunk::<ICMP_LEN>) else {
        return;
    };
    let [kind, code, _, _, mtu @ ..] = *header;
    if A::IS_V4 && (kind, code) == (3, 4) {
        counters.ptb_v4.add(1);
        // The upper half is not the MTU's (RFC 1191 section 4).
        if u32::from_be_bytes(mtu) & 0xffff < SMALL_MTU {
            counters.ptb_v4_small.add(1);
        }
    } else if !A::IS_V4 && kind == 2 {
        counters.ptb_v6.add(1);
        if u32::from_be_bytes(mtu) < SMALL_MTU {
            counters.ptb_v6_small.add(1);
        }
    }
}
