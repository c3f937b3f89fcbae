//! Ethernet and outer IP header of IPIP (katran-compat sections 6.1 and 6.2).

use aya_ebpf::programs::XdpContext;
use xdp_layout::{
    FAMILY_V4,
    balancer::{ConfigValue, HAS_NEXT_HOP},
    counter::{
        BalancerEvent::*,
        BalancerOutcome::{self, *},
    },
};
use xdp_programs::{
    header,
    packet::{Packet, Space, move_start},
};

use crate::{counters::Counters, flow::Inbound, select::Selected};

/// TTL or hop limit of the outer header.
const TTL: u8 = 64;
const WITH_V4: usize = header::ETHERNET + header::IPV4;
const WITH_V6: usize = header::ETHERNET + header::IPV6;

/// Puts the outer header in front of the packet.
#[inline(always)]
pub(crate) fn send<const V6: bool>(
    context: &XdpContext,
    packet: &Packet,
    counters: &Counters,
    config: &ConfigValue,
    inbound: &Inbound,
    selected: &Selected,
) -> BalancerOutcome {
    let is_v4 = selected.real.family == u32::from(FAMILY_V4);
    let outcome = if config.flags & HAS_NEXT_HOP == 0 {
        DroppedNoNextHop
    } else if !is_v4 {
        to_v6::<V6>(context, packet, config, inbound, selected)
    } else if V6 {
        DroppedFamilyMismatch
    } else {
        to_v4(context, packet, config, inbound, selected)
    };
    if !outcome.is_transmit() {
        counters.count(if is_v4 {
            EncapFailuresV4
        } else {
            EncapFailuresV6
        });
    }
    outcome
}

/// An IPv4 packet to an IPv4 real.
#[inline(always)]
fn to_v4(
    context: &XdpContext,
    packet: &Packet,
    config: &ConfigValue,
    inbound: &Inbound,
    selected: &Selected,
) -> BalancerOutcome {
    const PREFIX: u32 = u32::from_le_bytes([172, 16, 0, 0]);
    let Some(frame) = packet.bytes::<{ header::ETHERNET }>(0) else {
        return DroppedNoRoom;
    };
    let (mac_word, mac_half) = (frame.word::<0>(), frame.half::<4>());
    if !move_start(context, -(header::IPV4 as i32)) {
        return DroppedNoRoom;
    }
    let Some(out) = Packet::new(context).space::<WITH_V4>(0) else {
        return DroppedNoRoom;
    };
    ethernet(&out, config, mac_word, mac_half, header::ETHERTYPE_IPV4);
    let length = inbound.length.wrapping_add(header::IPV4 as u16).to_be();
    let first = 0x45 | u32::from(inbound.tos) << 8 | u32::from(length) << 16;
    let third = u32::from(TTL) | u32::from(header::PROTOCOL_IPV4) << 8;
    let low = (selected.source[0] >> 16) as u16 ^ selected.source_port.swap_bytes();
    let source = PREFIX | u32::from(low) << 16;
    let real = word(&selected.real.address, 0);
    let sum = halves(first) + halves(third) + halves(source) + halves(real);
    out.set_word::<{ header::ETHERNET }>(first);
    out.set_word::<{ header::ETHERNET + 4 }>(0);
    out.set_word::<{ header::ETHERNET + 8 }>(third | u32::from(!fold(sum)) << 16);
    out.set_word::<{ header::ETHERNET + 12 }>(source);
    out.set_word::<{ header::ETHERNET + 16 }>(real);
    Transmitted
}

/// A packet of either family to an IPv6 real.
#[inline(always)]
fn to_v6<const V6: bool>(
    context: &XdpContext,
    packet: &Packet,
    config: &ConfigValue,
    inbound: &Inbound,
    selected: &Selected,
) -> BalancerOutcome {
    const PREFIX: u32 = u32::from_le_bytes([1, 0, 0, 0]);
    let Some(frame) = packet.bytes::<{ header::ETHERNET }>(0) else {
        return DroppedNoRoom;
    };
    let (mac_word, mac_half) = (frame.word::<0>(), frame.half::<4>());
    if !move_start(context, -(header::IPV6 as i32)) {
        return DroppedNoRoom;
    }
    let Some(out) = Packet::new(context).space::<WITH_V6>(0) else {
        return DroppedNoRoom;
    };
    ethernet(&out, config, mac_word, mac_half, header::ETHERTYPE_IPV6);
    let (protocol, uncounted, low) = if V6 {
        (header::PROTOCOL_IPV6, header::IPV6, selected.source[3])
    } else {
        (header::PROTOCOL_IPV4, 0, selected.source[0])
    };
    let length = inbound.length.wrapping_add(uncounted as u16).to_be();
    let tos = inbound.tos;
    out.set_word::<{ header::ETHERNET }>(u32::from(0x60 | tos >> 4) | u32::from(tos << 4) << 8);
    out.set_word::<{ header::ETHERNET + 4 }>(
        u32::from(length) | u32::from(protocol) << 16 | u32::from(TTL) << 24,
    );
    out.set_word::<{ header::ETHERNET + 8 }>(PREFIX);
    out.set_word::<{ header::ETHERNET + 12 }>(0);
    out.set_word::<{ header::ETHERNET + 16 }>(0);
    out.set_word::<{ header::ETHERNET + 20 }>(low ^ u32::from(selected.source_port));
    let real = &selected.real.address;
    out.set_word::<{ header::ETHERNET + 24 }>(word(real, 0));
    out.set_word::<{ header::ETHERNET + 28 }>(word(real, 4));
    out.set_word::<{ header::ETHERNET + 32 }>(word(real, 8));
    out.set_word::<{ header::ETHERNET + 36 }>(word(real, 12));
    Transmitted
}

/// To the next hop, from the address that the frame was sent to.
#[inline(always)]
fn ethernet<const N: usize>(
    out: &Space<N>,
    config: &ConfigValue,
    mac_word: u32,
    mac_half: u16,
    ethertype: u16,
) {
    let [m0, m1, m2, m3, m4, m5] = config.next_hop;
    out.set_word::<0>(u32::from_ne_bytes([m0, m1, m2, m3]));
    out.set_half::<4>(u16::from_ne_bytes([m4, m5]));
    out.set_word::<6>(mac_word);
    out.set_half::<10>(mac_half);
    out.set_half::<12>(ethertype.to_be());
}

/// Four bytes of an address in a map, which lies at a multiple of eight.
#[inline(always)]
fn word(address: &[u8; 16], at: usize) -> u32 {
    u32::from_ne_bytes([
        address[at],
        address[at + 1],
        address[at + 2],
        address[at + 3],
    ])
}

/// Sum of the two halves of a word, in the arithmetic of the Internet checksum, where the order of
/// bytes does not matter (RFC 1071 section 2).
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = halves(sum);
    halves(sum) as u16
}
