//! XDP program `balancer`: the balancer wholly in the kernel. Packets of a VIP get their outer header
//! here and leave by the interface they came from; everything else goes to the kernel as it came.
//!
//! Same hash, same rings, same bytes as the workers behind `redirect`. What it cannot do (GUE, server
//! ids, source routes, decapsulation, too-big messages) is refused before it is loaded.
#![no_std]
#![no_main]

mod counters;
mod encapsulate;
mod flow;
mod maps;
mod reply;
mod select;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use xdp_layout::counter::{
    BalancerEvent,
    BalancerOutcome::{self, *},
};
use xdp_programs::{
    header::{self, Ipv4, Ipv6},
    key::Address,
    packet::Packet,
};

use counters::Counters;
use flow::{Inbound, Kind};

/// Entry point.
#[xdp]
pub fn balancer(context: XdpContext) -> u32 {
    let Some(counters) = Counters::of_this_cpu() else {
        return XDP_PASS;
    };
    let packet = Packet::new(&context);
    let length = packet.length();
    let outcome = decide(&context, &packet, &counters);
    counters.count_outcome(outcome, length as u64);
    if outcome.is_transmit() {
        XDP_TX
    } else if outcome.is_pass() {
        XDP_PASS
    } else {
        XDP_DROP
    }
}

#[inline(always)]
fn decide(context: &XdpContext, packet: &Packet, counters: &Counters) -> BalancerOutcome {
    let Some(ethernet) = packet.bytes::<{ header::ETHERNET }>(0) else {
        return PassedNotIp;
    };
    match u16::from_be(ethernet.half::<{ header::ETHERTYPE_AT }>()) {
        header::ETHERTYPE_IPV4 => ipv4(context, packet, counters),
        header::ETHERTYPE_IPV6 => ipv6(context, packet, counters),
        _ => PassedNotIp,
    }
}

#[inline(always)]
fn ipv4(context: &XdpContext, packet: &Packet, counters: &Counters) -> BalancerOutcome {
    let Some(ip) = packet.bytes::<{ header::IPV4 }>(header::ETHERNET) else {
        return PassedNotIp;
    };
    let ip: Ipv4 = ip;
    let inbound = match flow::ipv4(packet, &ip) {
        Kind::Flow(flow) => Inbound {
            flow,
            tos: ip.byte::<1>(),
            length: u16::from_be(ip.half::<2>()),
        },
        Kind::Other => return PassedOtherProtocol,
        Kind::Echo => {
            return if is_vip_address::<false>(header::ipv4_destination(&ip)) {
                reply::echo_v4(packet)
            } else {
                PassedNotVip
            };
        }
        Kind::Malformed(outcome) => {
            return malformed::<false>(header::ipv4_destination(&ip), outcome);
        }
    };
    if inbound.flow.is_error && !is_vip_address::<false>(header::ipv4_destination(&ip)) {
        return PassedNotVip;
    }
    balance::<false>(context, packet, counters, &inbound)
}

#[inline(always)]
fn ipv6(context: &XdpContext, packet: &Packet, counters: &Counters) -> BalancerOutcome {
    let Some(ip) = packet.bytes::<{ header::IPV6 }>(header::ETHERNET) else {
        return PassedNotIp;
    };
    let ip: Ipv6 = ip;
    let inbound = match flow::ipv6(packet, &ip) {
        Kind::Flow(flow) => Inbound {
            flow,
            tos: ip.byte::<0>() << 4 | ip.byte::<1>() >> 4,
            length: u16::from_be(ip.half::<4>()),
        },
        Kind::Other => return PassedOtherProtocol,
        Kind::Echo => {
            return if is_vip_address::<true>(header::ipv6_destination(&ip)) {
                reply::echo_v6(packet)
            } else {
                PassedNotVip
            };
        }
        Kind::Malformed(outcome) => {
            return malformed::<true>(header::ipv6_destination(&ip), outcome);
        }
    };
    if inbound.flow.is_error && !is_vip_address::<true>(header::ipv6_destination(&ip)) {
        return PassedNotVip;
    }
    balance::<true>(context, packet, counters, &inbound)
}

/// What cannot be balanced is dropped if it is for a VIP, as far as that can be known.
#[inline(always)]
fn malformed<const V6: bool>(destination: Address, outcome: BalancerOutcome) -> BalancerOutcome {
    if is_vip_address::<V6>(destination) {
        outcome
    } else {
        PassedNotVip
    }
}

#[inline(always)]
fn is_vip_address<const V6: bool>(address: Address) -> bool {
    maps::is_vip_address::<V6>(address)
}

/// Finds the VIP, the real, and sends the packet there.
#[inline(always)]
fn balance<const V6: bool>(
    context: &XdpContext,
    packet: &Packet,
    counters: &Counters,
    inbound: &Inbound,
) -> BalancerOutcome {
    let flow = &inbound.flow;
    let Some(vip) = maps::find_vip::<V6>(flow.vip, flow.vip_port, flow.protocol) else {
        return PassedNotVip;
    };
    let Some(config) = maps::config() else {
        return PassedNotVip;
    };
    if flow.is_error {
        counters.count(BalancerEvent::IcmpErrors);
        reply::count_too_big::<V6>(packet, counters);
    }
    if packet.length() > usize::from(config.max_frame) {
        return DroppedFrameTooLong;
    }
    counters.count(BalancerEvent::VipPackets);
    let Some(selected) = select::real::<V6>(counters, config, vip, flow) else {
        return DroppedNoReal;
    };
    counters::count_traffic(&maps::VIP_TRAFFIC, u32::from(vip.number), inbound.length);
    counters::count_traffic(&maps::REAL_TRAFFIC, selected.index(), inbound.length);
    encapsulate::send::<V6>(context, packet, counters, config, inbound, &selected)
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
