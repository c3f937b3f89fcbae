//! ICMP to a VIP: echo requests are answered (katran-compat section 4.4), errors about frames that were
//! too big are counted.

use xdp_layout::counter::{
    BalancerEvent::*,
    BalancerOutcome::{self, *},
};
use xdp_programs::{
    header,
    packet::{Bytes, Packet, Space},
};

use crate::counters::Counters;

const IP: usize = header::ETHERNET;
const ICMP_V4: usize = IP + header::IPV4;
const ICMP_V6: usize = IP + header::IPV6;
const ECHO_V4: usize = ICMP_V4 + header::ICMP;
const ECHO_V6: usize = ICMP_V6 + header::ICMP;
/// TTL or hop limit of the answer.
const TTL: u8 = 64;
/// Echo reply of ICMP.
const ICMP_ECHO_REPLY: u8 = 0;
/// Echo reply of ICMPv6.
const ICMPV6_ECHO_REPLY: u8 = 129;
/// "Fragmentation needed" among the codes of "destination unreachable".
const FRAGMENTATION_NEEDED: u8 = 4;
/// An MTU below this one is "small": no IPv6 path may have one (RFC 8200 section 5).
const SMALL_MTU: u32 = 1280;

/// Turns an IPv4 echo request into its reply, in place.
#[inline(always)]
pub(crate) fn echo_v4(packet: &Packet) -> BalancerOutcome {
    let (Some(frame), Some(out)) = (packet.bytes::<ECHO_V4>(0), packet.space::<ECHO_V4>(0)) else {
        return DroppedL4Truncated;
    };
    swap_macs(&frame, &out);
    let (source, destination) = (frame.word::<{ IP + 12 }>(), frame.word::<{ IP + 16 }>());
    out.set_word::<{ IP + 12 }>(destination);
    out.set_word::<{ IP + 16 }>(source);
    out.set_byte::<{ IP + 8 }>(TTL);
    out.set_half::<{ IP + 10 }>(0);
    // The answer's header, read back.
    let sum = u32::from(frame.half::<{ IP }>())
        + u32::from(frame.half::<{ IP + 2 }>())
        + u32::from(frame.half::<{ IP + 4 }>())
        + u32::from(frame.half::<{ IP + 6 }>())
        + (u32::from(TTL) | u32::from(header::PROTOCOL_ICMP) << 8)
        + halves(source)
        + halves(destination);
    let sum = halves(halves(sum)) as u16;
    out.set_half::<{ IP + 10 }>(!sum);
    out.set_byte::<ICMP_V4>(ICMP_ECHO_REPLY);
    // Without the end-around carry, as Katran does.
    let checksum = frame.half::<{ ICMP_V4 + 2 }>().wrapping_add(8);
    out.set_half::<{ ICMP_V4 + 2 }>(checksum);
    EchoReplied
}

/// As [`echo_v4`].
#[inline(always)]
pub(crate) fn echo_v6(packet: &Packet) -> BalancerOutcome {
    let (Some(frame), Some(out)) = (packet.bytes::<ECHO_V6>(0), packet.space::<ECHO_V6>(0)) else {
        return DroppedL4Truncated;
    };
    swap_macs(&frame, &out);
    let s = [
        frame.word::<{ IP + 8 }>(),
        frame.word::<{ IP + 12 }>(),
        frame.word::<{ IP + 16 }>(),
        frame.word::<{ IP + 20 }>(),
    ];
    out.set_word::<{ IP + 8 }>(frame.word::<{ IP + 24 }>());
    out.set_word::<{ IP + 12 }>(frame.word::<{ IP + 28 }>());
    out.set_word::<{ IP + 16 }>(frame.word::<{ IP + 32 }>());
    out.set_word::<{ IP + 20 }>(frame.word::<{ IP + 36 }>());
    out.set_word::<{ IP + 24 }>(s[0]);
    out.set_word::<{ IP + 28 }>(s[1]);
    out.set_word::<{ IP + 32 }>(s[2]);
    out.set_word::<{ IP + 36 }>(s[3]);
    out.set_byte::<{ IP + 7 }>(TTL);
    out.set_byte::<ICMP_V6>(ICMPV6_ECHO_REPLY);
    let checksum = frame.half::<{ ICMP_V6 + 2 }>().wrapping_sub(1);
    out.set_half::<{ ICMP_V6 + 2 }>(checksum);
    EchoReplied
}

/// Counts an ICMP error that is about a frame that was too big (katran-compat section 10, 12 and 13).
#[inline(always)]
pub(crate) fn count_too_big<const V6: bool>(packet: &Packet, counters: &Counters) {
    if V6 {
        let Some(icmp) = packet.bytes::<{ header::ICMP }>(ICMP_V6) else {
            return;
        };
        if icmp.byte::<0>() == header::ICMPV6_TOO_BIG {
            counters.count(PtbV6);
            if u32::from_be(icmp.word::<4>()) < SMALL_MTU {
                counters.count(PtbV6Small);
            }
        }
        return;
    }
    let Some(icmp) = packet.bytes::<{ header::ICMP }>(ICMP_V4) else {
        return;
    };
    if icmp.byte::<1>() == FRAGMENTATION_NEEDED {
        counters.count(PtbV4);
        if u32::from(u16::from_be(icmp.half::<6>())) < SMALL_MTU {
            counters.count(PtbV4Small);
        }
    }
}

#[inline(always)]
fn swap_macs<const N: usize>(frame: &Bytes<N>, out: &Space<N>) {
    let (to_word, to_half) = (frame.word::<0>(), frame.half::<4>());
    let (from_word, from_half) = (frame.word::<6>(), frame.half::<10>());
    out.set_word::<0>(from_word);
    out.set_half::<4>(from_half);
    out.set_word::<6>(to_word);
    out.set_half::<10>(to_half);
}

/// Sum of the two halves of a word, as the Internet checksum adds.
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}
