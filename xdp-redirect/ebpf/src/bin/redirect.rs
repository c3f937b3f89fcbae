//! XDP program `redirect`: packets of a VIP go to the socket of their queue, with room in front of
//! them and a tag at its start; everything else goes to the kernel as it came.
//!
//! It is conservative. Only a packet whose destination is a VIP's address, and a tunnel to a decap
//! destination, can be redirected, and what the program does not understand it passes. Ordinary
//! traffic costs one map look-up.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, XskMap, lpm_trie},
    programs::XdpContext,
};
use xdp_layout::{
    FAMILY_V4, FAMILY_V6, MAX_QUEUES, PREFIX_KEY_HEAD_BITS, REDIRECT_FLAGS, REDIRECT_GUE_PORT,
    REDIRECT_HAS_PREFIXES, REDIRECT_SETTINGS, TUNNEL_MAP_CAPACITY, Tag, VIP_MAP_CAPACITY,
    counter::RedirectCounter::{self, *},
};
use xdp_programs::{
    count,
    header::{self, Ipv4, Ipv6},
    key::{self, Address, Key, Port},
    packet::{Packet, move_start},
};

/// Sockets by RX queue.
#[map]
static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
/// VIPs by address, port (or any port) and protocol.
#[map]
static VIPS: HashMap<Key, Tag> = HashMap::with_max_entries(VIP_MAP_CAPACITY, 0);
/// IPv6 prefix VIPs by port (or any port), protocol and longest prefix.
#[map]
static VIP_PREFIXES: LpmTrie<Key, Tag> = LpmTrie::with_max_entries(VIP_MAP_CAPACITY, 0);
/// Addresses that some VIP has.
#[map]
static ADDRESSES: HashMap<Key, Tag> = HashMap::with_max_entries(VIP_MAP_CAPACITY, 0);
/// Prefixes that some VIP has.
#[map]
static ADDRESS_PREFIXES: LpmTrie<Key, Tag> = LpmTrie::with_max_entries(VIP_MAP_CAPACITY, 0);
/// Decap destinations, with the room that an inner packet of a VIP needs.
#[map]
static TUNNELS: HashMap<Key, Tag> = HashMap::with_max_entries(TUNNEL_MAP_CAPACITY, 0);
/// `REDIRECT_*` flags, and the GUE port.
#[map]
static SETTINGS: Array<u32> = Array::with_max_entries(REDIRECT_SETTINGS, 0);
/// Packets by outcome.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(RedirectCounter::COUNT as u32, 0);

/// A packet for the socket: what to write in front of it, and under which counter it goes.
struct Redirect {
    tag: Tag,
    counter: RedirectCounter,
}

/// `Err` is a packet for the kernel.
type Classified = Result<Redirect, RedirectCounter>;

/// Entry point.
#[xdp]
pub fn redirect(context: XdpContext) -> u32 {
    let (verdict, counter) = match classify(&Packet::new(&context)) {
        Ok(redirect) => hand_over(&context, redirect),
        Err(counter) => (XDP_PASS, counter),
    };
    count(&COUNTERS, counter.index());
    verdict
}

/// Opens the room, writes the tag and redirects. Whatever fails, the kernel gets the packet as it
/// came.
#[inline(always)]
fn hand_over(context: &XdpContext, redirect: Redirect) -> (u32, RedirectCounter) {
    let Redirect { tag, counter } = redirect;
    let queue = context.rx_queue_index();
    if XSKS.get(queue).is_none() {
        return (XDP_PASS, PassedNoSocket);
    }
    let room = i32::from(tag.room);
    if !move_start(context, -room) {
        return (XDP_PASS, PassedNoHeadRoom);
    }
    if Packet::new(context).write(0, tag.to_bytes())
        && let Ok(verdict) = XSKS.redirect(queue, u64::from(XDP_PASS))
    {
        return (verdict, counter);
    }
    move_start(context, room);
    (XDP_PASS, PassedNoRedirect)
}

#[inline(always)]
fn classify(packet: &Packet) -> Classified {
    let ethernet = packet.bytes::<{ header::ETHERNET }>(0).ok_or(PassedNotIp)?;
    match u16::from_be(ethernet.half::<{ header::ETHERTYPE_AT }>()) {
        header::ETHERTYPE_IPV4 => ipv4(packet),
        header::ETHERTYPE_IPV6 => ipv6(packet),
        _ => Err(PassedNotIp),
    }
}

#[inline(always)]
fn ipv4(packet: &Packet) -> Classified {
    const PAYLOAD: usize = header::ETHERNET + header::IPV4;
    let outer: Ipv4 = packet.bytes(header::ETHERNET).ok_or(PassedNotIp)?;
    let destination = header::ipv4_destination(&outer);
    let protocol = header::ipv4_protocol(&outer);
    if let Some(stripped) = tunnel_header(packet, header::IPV4, protocol)
        && !header::ipv4_has_options(&outer)
        && !header::ipv4_is_fragment(&outer)
        && let Some(tag) = find_tunnel(destination, FAMILY_V4, stripped)
    {
        return address_level(tag, RedirectedTunnel);
    }
    let address = find_address(destination, FAMILY_V4).ok_or(PassedNotVip)?;
    if header::ipv4_has_options(&outer) {
        return address_level(address, RedirectedOptions);
    }
    if header::ipv4_is_fragment(&outer) {
        return address_level(address, RedirectedFragment);
    }
    match protocol {
        header::PROTOCOL_TCP | header::PROTOCOL_UDP => {
            let Some(ports) = ports(packet, PAYLOAD, protocol) else {
                return address_level(address, RedirectedTruncated);
            };
            service(destination, FAMILY_V4, ports.destination, protocol)
        }
        header::PROTOCOL_ICMP => {
            let Some(icmp) = packet.bytes::<{ header::ICMP }>(PAYLOAD) else {
                return address_level(address, RedirectedTruncated);
            };
            match icmp.byte::<0>() {
                header::ICMP_ECHO_REQUEST => address_level(address, RedirectedEcho),
                header::ICMP_UNREACHABLE => error_v4(packet, address),
                _ => Err(PassedOtherProtocol),
            }
        }
        _ => Err(PassedOtherProtocol),
    }
}

#[inline(always)]
fn ipv6(packet: &Packet) -> Classified {
    const PAYLOAD: usize = header::ETHERNET + header::IPV6;
    let outer: Ipv6 = packet.bytes(header::ETHERNET).ok_or(PassedNotIp)?;
    let destination = header::ipv6_destination(&outer);
    let protocol = header::ipv6_next_header(&outer);
    if let Some(stripped) = tunnel_header(packet, header::IPV6, protocol)
        && let Some(tag) = find_tunnel(destination, FAMILY_V6, stripped)
    {
        return address_level(tag, RedirectedTunnel);
    }
    let address = find_address(destination, FAMILY_V6).ok_or(PassedNotVip)?;
    match protocol {
        header::PROTOCOL_FRAGMENT => address_level(address, RedirectedFragment),
        header::PROTOCOL_TCP | header::PROTOCOL_UDP => {
            let Some(ports) = ports(packet, PAYLOAD, protocol) else {
                return address_level(address, RedirectedTruncated);
            };
            service(destination, FAMILY_V6, ports.destination, protocol)
        }
        header::PROTOCOL_ICMPV6 => {
            let Some(icmp) = packet.bytes::<{ header::ICMP }>(PAYLOAD) else {
                return address_level(address, RedirectedTruncated);
            };
            match icmp.byte::<0>() {
                header::ICMPV6_ECHO_REQUEST => address_level(address, RedirectedEcho),
                header::ICMPV6_UNREACHABLE | header::ICMPV6_TOO_BIG => error_v6(packet, address),
                _ => Err(PassedOtherProtocol),
            }
        }
        _ => Err(PassedOtherProtocol),
    }
}

/// Bytes of the outer header behind the Ethernet header, `ip` of them the IP header, if the packet is a
/// tunnel. IPv6 in IPv4 is none.
#[inline(always)]
fn tunnel_header(packet: &Packet, ip: usize, protocol: u8) -> Option<usize> {
    match protocol {
        header::PROTOCOL_IPV4 => Some(ip),
        header::PROTOCOL_IPV6 if ip == header::IPV6 => Some(ip),
        header::PROTOCOL_UDP => {
            let udp = packet.bytes::<{ header::UDP }>(header::ETHERNET + ip)?;
            let gue_port = setting(REDIRECT_GUE_PORT) as Port;
            (udp.half::<2>() == gue_port && gue_port != 0).then_some(ip + header::UDP)
        }
        _ => None,
    }
}

/// The tag of a tunnel to a decap destination. The outer header that will be taken off is room too.
#[inline(always)]
fn find_tunnel(address: Address, family: u8, stripped: usize) -> Option<Tag> {
    let key = key::address(address, family);
    // SAFETY: the reference lives for this statement, and the value has no invalid bytes.
    let tag = *unsafe { TUNNELS.get(key) }?;
    let room = tag.room.saturating_sub(stripped as u8);
    Some(Tag {
        room: room.max(Tag::SIZE as u8),
        ..tag
    })
}

/// An ICMP error is for us if the packet it quotes came from a VIP.
#[inline(always)]
fn error_v4(packet: &Packet, address: Tag) -> Classified {
    const QUOTED: usize = header::ETHERNET + header::IPV4 + header::ICMP;
    const PAYLOAD: usize = QUOTED + header::IPV4;
    let Some(quoted) = packet.bytes::<{ header::IPV4 }>(QUOTED) else {
        return address_level(address, RedirectedTruncated);
    };
    if header::ipv4_has_options(&quoted) {
        return address_level(address, RedirectedTruncated);
    }
    let protocol = header::ipv4_protocol(&quoted);
    let source = header::ipv4_source(&quoted);
    error(packet, address, source, FAMILY_V4, protocol, PAYLOAD)
}

/// As [`error_v4`].
#[inline(always)]
fn error_v6(packet: &Packet, address: Tag) -> Classified {
    const QUOTED: usize = header::ETHERNET + header::IPV6 + header::ICMP;
    const PAYLOAD: usize = QUOTED + header::IPV6;
    let Some(quoted) = packet.bytes::<{ header::IPV6 }>(QUOTED) else {
        return address_level(address, RedirectedTruncated);
    };
    let protocol = header::ipv6_next_header(&quoted);
    let source = header::ipv6_source(&quoted);
    error(packet, address, source, FAMILY_V6, protocol, PAYLOAD)
}

#[inline(always)]
fn error(
    packet: &Packet,
    address: Tag,
    source: Address,
    family: u8,
    protocol: u8,
    payload: usize,
) -> Classified {
    if protocol != header::PROTOCOL_TCP && protocol != header::PROTOCOL_UDP {
        return Err(PassedOtherError);
    }
    let Some(ports) = ports(packet, payload, protocol) else {
        return address_level(address, RedirectedTruncated);
    };
    let Some(vip) = find_vip(source, family, ports.source, protocol) else {
        return Err(PassedOtherError);
    };
    let room = vip.room;
    address_level(Tag { room, ..address }, RedirectedError)
}

#[inline(always)]
fn service(destination: Address, family: u8, port: Port, protocol: u8) -> Classified {
    match find_vip(destination, family, port, protocol) {
        Some(tag) => Ok(Redirect {
            tag,
            counter: RedirectedService,
        }),
        None => Err(PassedOtherPort),
    }
}

/// For the socket, with a tag that names no VIP.
#[inline(always)]
fn address_level(tag: Tag, counter: RedirectCounter) -> Classified {
    Ok(Redirect { tag, counter })
}

/// Ports as they lie in the packet.
struct Ports {
    source: Port,
    destination: Port,
}

/// Ports of the TCP or UDP header at `offset`, or nothing if the header is cut short.
#[inline(always)]
fn ports(packet: &Packet, offset: usize, protocol: u8) -> Option<Ports> {
    if protocol == header::PROTOCOL_TCP && !packet.reaches(offset + header::TCP) {
        return None;
    }
    let header = packet.bytes::<{ header::UDP }>(offset)?;
    Some(Ports {
        source: header.half::<0>(),
        destination: header.half::<2>(),
    })
}

/// The tag of an address that some VIP has.
#[inline(always)]
fn find_address(address: Address, family: u8) -> Option<Tag> {
    let key = key::address(address, family);
    // SAFETY: the reference lives for this statement, and the value has no invalid bytes.
    if let Some(tag) = unsafe { ADDRESSES.get(key) } {
        return Some(*tag);
    }
    if family == FAMILY_V4 || !has_prefixes() {
        return None;
    }
    longest_prefix(&ADDRESS_PREFIXES, address, 0, 0)
}

/// The VIP of an address, port and protocol: exact before prefix, this port before any port.
#[inline(always)]
fn find_vip(address: Address, family: u8, port: Port, protocol: u8) -> Option<Tag> {
    let prefixes = family == FAMILY_V6 && has_prefixes();
    let key = key::vip(address, port, protocol, family);
    // SAFETY: the reference lives for this statement, and the value has no invalid bytes.
    if let Some(tag) = unsafe { VIPS.get(key) } {
        return Some(*tag);
    }
    if prefixes && let Some(tag) = longest_prefix(&VIP_PREFIXES, address, port, protocol) {
        return Some(tag);
    }
    let any_port = key::vip(address, 0, protocol, family);
    // SAFETY: as above.
    if let Some(tag) = unsafe { VIPS.get(any_port) } {
        return Some(*tag);
    }
    if prefixes {
        return longest_prefix(&VIP_PREFIXES, address, 0, protocol);
    }
    None
}

#[inline(always)]
fn longest_prefix(
    map: &LpmTrie<Key, Tag>,
    address: Address,
    port: Port,
    protocol: u8,
) -> Option<Tag> {
    let key = key::prefix(address, port, protocol);
    let key = lpm_trie::Key::new(PREFIX_KEY_HEAD_BITS + 128, key);
    map.get(key).copied()
}

/// Prefix look-ups are dear, and few balancers have prefix VIPs.
#[inline(always)]
fn has_prefixes() -> bool {
    setting(REDIRECT_FLAGS) & REDIRECT_HAS_PREFIXES != 0
}

#[inline(always)]
fn setting(place: u32) -> u32 {
    SETTINGS.get(place).copied().unwrap_or(0)
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
