//! Numbers of the headers that the programs look at. Offsets count from the first byte of the
//! Ethernet header unless they say otherwise.

use crate::{key::Address, packet::Bytes};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;
/// Bytes of a UDP header.
pub const UDP: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP: usize = 20;
/// Bytes of the ICMP headers that matter here.
pub const ICMP: usize = 8;

/// Offset of the Ethertype.
pub const ETHERTYPE_AT: usize = 12;
/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IPv4 in an IP packet.
pub const PROTOCOL_IPV4: u8 = 4;
/// IPv6 in an IP packet.
pub const PROTOCOL_IPV6: u8 = 41;
/// ICMP for IPv4.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IPv6 fragment header.
pub const PROTOCOL_FRAGMENT: u8 = 44;
/// ICMP for IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// ICMP destination unreachable.
pub const ICMP_UNREACHABLE: u8 = 3;
/// ICMP echo request.
pub const ICMP_ECHO_REQUEST: u8 = 8;
/// ICMPv6 destination unreachable.
pub const ICMPV6_UNREACHABLE: u8 = 1;
/// ICMPv6 packet too big.
pub const ICMPV6_TOO_BIG: u8 = 2;
/// ICMPv6 echo request.
pub const ICMPV6_ECHO_REQUEST: u8 = 128;

/// An IPv4 header without its options.
pub type Ipv4 = Bytes<IPV4>;
/// An IPv6 header.
pub type Ipv6 = Bytes<IPV6>;

/// Bytes of an IPv4 header, as its length field says.
#[inline(always)]
pub fn ipv4_length(header: &Ipv4) -> usize {
    ((header.byte::<0>() & 0x0f) as usize) * 4
}

/// Whether an IPv4 header has options, or a length that cannot be.
#[inline(always)]
pub fn ipv4_has_options(header: &Ipv4) -> bool {
    ipv4_length(header) != IPV4
}

/// Offset of this fragment, in units of eight bytes.
#[inline(always)]
pub fn ipv4_fragment_offset(header: &Ipv4) -> u16 {
    u16::from_be(header.half::<6>()) & 0x1fff
}

/// Whether an IPv4 packet is a fragment: an offset, or more to follow.
#[inline(always)]
pub fn ipv4_is_fragment(header: &Ipv4) -> bool {
    u16::from_be(header.half::<6>()) & 0x3fff != 0
}

/// Protocol of an IPv4 packet.
#[inline(always)]
pub fn ipv4_protocol(header: &Ipv4) -> u8 {
    header.byte::<9>()
}

/// Source address.
#[inline(always)]
pub fn ipv4_source(header: &Ipv4) -> Address {
    [header.word::<12>(), 0, 0, 0]
}

/// Destination address.
#[inline(always)]
pub fn ipv4_destination(header: &Ipv4) -> Address {
    [header.word::<16>(), 0, 0, 0]
}

/// Next header of an IPv6 packet.
#[inline(always)]
pub fn ipv6_next_header(header: &Ipv6) -> u8 {
    header.byte::<6>()
}

/// Source address.
#[inline(always)]
pub fn ipv6_source(header: &Ipv6) -> Address {
    [
        header.word::<8>(),
        header.word::<12>(),
        header.word::<16>(),
        header.word::<20>(),
    ]
}

/// Destination address.
#[inline(always)]
pub fn ipv6_destination(header: &Ipv6) -> Address {
    [
        header.word::<24>(),
        header.word::<28>(),
        header.word::<32>(),
        header.word::<36>(),
    ]
}
