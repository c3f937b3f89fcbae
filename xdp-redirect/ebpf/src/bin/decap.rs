//! XDP program `decap`, for real servers: takes the outer header off packets that a balancer
//! encapsulated for this host and hands the inner packet to the stack. MAC addresses stay, the
//! Ethertype follows the inner packet. Everything else goes to the stack as it came.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};
use xdp_layout::{
    DECAP_ANY_DESTINATION, DECAP_MAP_CAPACITY, DecapConfig, FAMILY_V4, FAMILY_V6,
    counter::DecapCounter::{self, *},
};
use xdp_programs::{
    header::{self, Ipv4, Ipv6},
    key::{self, Address, Key},
    packet::{Packet, move_start},
};

/// What the operator told us.
#[map]
static CONFIG: Array<DecapConfig> = Array::with_max_entries(1, 0);
/// Addresses of this host; the value says nothing.
#[map]
static DESTINATIONS: HashMap<Key, u32> = HashMap::with_max_entries(DECAP_MAP_CAPACITY, 0);
/// Packets, and bytes of the frames as they came, by outcome.
#[map]
static COUNTERS: PerCpuArray<[u64; 2]> =
    PerCpuArray::with_max_entries(DecapCounter::COUNT as u32, 0);

/// What an IP packet says it carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Ipv4,
    Ipv6,
    /// GUE: the first bits of the payload tell the version.
    Gue,
}

/// A header to take off.
struct Tunnel {
    /// Bytes between the Ethernet header and the inner packet.
    outer: usize,
    /// Ethertype of the inner packet.
    ethertype: u16,
    counter: DecapCounter,
}

/// `Err` is a packet that stays as it came.
type Classified = Result<Tunnel, DecapCounter>;

/// Entry point.
#[xdp]
pub fn decap(context: XdpContext) -> u32 {
    let packet = Packet::new(&context);
    let length = packet.length() as u64;
    let counter = match classify(&packet) {
        Ok(tunnel) => strip(&context, &packet, &tunnel),
        Err(counter) => counter,
    };
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU
        // writes it while the program runs; userspace only reads.
        unsafe {
            (*value)[0] = (*value)[0].wrapping_add(1);
            (*value)[1] = (*value)[1].wrapping_add(length);
        }
    }
    XDP_PASS
}

#[inline(always)]
fn strip(context: &XdpContext, packet: &Packet, tunnel: &Tunnel) -> DecapCounter {
    let Some(macs) = packet.bytes::<{ header::ETHERTYPE_AT }>(0) else {
        return InnerTruncated;
    };
    let macs = macs.array();
    if !move_start(context, tunnel.outer as i32) {
        return AdjustFailed;
    }
    let packet = Packet::new(context);
    packet.write(0, macs);
    packet.write(header::ETHERTYPE_AT, tunnel.ethertype.to_be_bytes());
    tunnel.counter
}

#[inline(always)]
fn classify(packet: &Packet) -> Classified {
    let config = CONFIG.get(0).ok_or(NotTunnel)?;
    let ethernet = packet.bytes::<{ header::ETHERNET }>(0).ok_or(NotTunnel)?;
    match u16::from_be(ethernet.half::<{ header::ETHERTYPE_AT }>()) {
        header::ETHERTYPE_IPV4 => ipv4(packet, config),
        header::ETHERTYPE_IPV6 => ipv6(packet, config),
        _ => Err(NotTunnel),
    }
}

#[inline(always)]
fn ipv4(packet: &Packet, config: &DecapConfig) -> Classified {
    const PAYLOAD: usize = header::ETHERNET + header::IPV4;
    let outer: Ipv4 = packet.bytes(header::ETHERNET).ok_or(NotTunnel)?;
    let carries = match header::ipv4_protocol(&outer) {
        header::PROTOCOL_IPV4 => Carries::Ipv4,
        // Only the first fragment has ports.
        header::PROTOCOL_UDP
            if header::ipv4_fragment_offset(&outer) == 0
                && is_gue(
                    packet,
                    header::ETHERNET + header::ipv4_length(&outer),
                    config,
                ) =>
        {
            Carries::Gue
        }
        _ => return Err(NotTunnel),
    };
    if !is_ours(header::ipv4_destination(&outer), FAMILY_V4, config) {
        return Err(NotOurs);
    }
    if header::ipv4_has_options(&outer) {
        return Err(OuterOptions);
    }
    if header::ipv4_is_fragment(&outer) {
        return Err(OuterFragment);
    }
    match carries {
        Carries::Gue => gue(packet, PAYLOAD + header::UDP, Gue4In4, Gue6In4),
        _ => ipip(packet, PAYLOAD, 4, Ipip4In4),
    }
}

#[inline(always)]
fn ipv6(packet: &Packet, config: &DecapConfig) -> Classified {
    const PAYLOAD: usize = header::ETHERNET + header::IPV6;
    /// Bytes of a fragment header.
    const FRAGMENT: usize = 8;
    let outer: Ipv6 = packet.bytes(header::ETHERNET).ok_or(NotTunnel)?;
    let next = header::ipv6_next_header(&outer);
    let is_fragment = next == header::PROTOCOL_FRAGMENT;
    let carries = if is_fragment {
        let fragment = packet.bytes::<FRAGMENT>(PAYLOAD).ok_or(NotTunnel)?;
        let is_first = u16::from_be(fragment.half::<2>()) & 0xfff8 == 0;
        carries_v6(
            fragment.byte::<0>(),
            is_first && is_gue(packet, PAYLOAD + FRAGMENT, config),
        )
    } else {
        carries_v6(next, is_gue(packet, PAYLOAD, config))
    };
    let carries = carries.ok_or(NotTunnel)?;
    if !is_ours(header::ipv6_destination(&outer), FAMILY_V6, config) {
        return Err(NotOurs);
    }
    if is_fragment {
        return Err(OuterFragment);
    }
    match carries {
        Carries::Ipv4 => ipip(packet, PAYLOAD, 4, Ipip4In6),
        Carries::Ipv6 => ipip(packet, PAYLOAD, 6, Ipip6In6),
        Carries::Gue => gue(packet, PAYLOAD + header::UDP, Gue4In6, Gue6In6),
    }
}

/// What an IPv6 packet with this next header carries, if it is a tunnel.
#[inline(always)]
fn carries_v6(next: u8, gue_port: bool) -> Option<Carries> {
    match next {
        header::PROTOCOL_IPV4 => Some(Carries::Ipv4),
        header::PROTOCOL_IPV6 => Some(Carries::Ipv6),
        header::PROTOCOL_UDP if gue_port => Some(Carries::Gue),
        _ => None,
    }
}

/// Whether the UDP header at `offset` is addressed to GUE's port.
#[inline(always)]
fn is_gue(packet: &Packet, offset: usize, config: &DecapConfig) -> bool {
    let gue_port = u16::from_ne_bytes(config.gue_port);
    gue_port != 0
        && packet
            .bytes::<4>(offset)
            .is_some_and(|ports| ports.half::<2>() == gue_port)
}

#[inline(always)]
fn is_ours(address: Address, family: u8, config: &DecapConfig) -> bool {
    if config.flags & DECAP_ANY_DESTINATION != 0 {
        return true;
    }
    let key = key::address(address, family);
    // SAFETY: only the presence of the value is asked for.
    unsafe { DESTINATIONS.get(key) }.is_some()
}

/// The inner packet at `offset` must have the version that the outer header names.
#[inline(always)]
fn ipip(packet: &Packet, offset: usize, version: u8, counter: DecapCounter) -> Classified {
    if inner_version(packet, offset)? != version {
        return Err(InnerVersion);
    }
    tunnel(packet, offset, version == 6, counter)
}

/// The inner packet at `offset` names its version itself (GUE variant 1).
#[inline(always)]
fn gue(packet: &Packet, offset: usize, v4: DecapCounter, v6: DecapCounter) -> Classified {
    match inner_version(packet, offset)? {
        4 => tunnel(packet, offset, false, v4),
        6 => tunnel(packet, offset, true, v6),
        _ => Err(InnerVersion),
    }
}

#[inline(always)]
fn inner_version(packet: &Packet, offset: usize) -> Result<u8, DecapCounter> {
    let first = packet.bytes::<1>(offset).ok_or(InnerTruncated)?;
    Ok(first.byte::<0>() >> 4)
}

#[inline(always)]
fn tunnel(packet: &Packet, offset: usize, is_v6: bool, counter: DecapCounter) -> Classified {
    let (length, ethertype) = if is_v6 {
        (header::IPV6, header::ETHERTYPE_IPV6)
    } else {
        (header::IPV4, header::ETHERTYPE_IPV4)
    };
    if !packet.reaches(offset + length) {
        return Err(InnerTruncated);
    }
    Ok(Tunnel {
        outer: offset - header::ETHERNET,
        ethertype,
        counter,
    })
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
