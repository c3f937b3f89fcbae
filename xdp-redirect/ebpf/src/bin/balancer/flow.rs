//! What kind of packet a frame is, as far as a balancer must know (katran-compat sections 4.1–4.5).

use xdp_layout::counter::BalancerOutcome::{self, *};
use xdp_programs::{
    header::{self, Ipv4, Ipv6},
    key::{Address, Port},
    packet::Packet,
};

/// Opens a connection.
pub(crate) const SYN: u8 = 0x02;
/// Resets a connection.
pub(crate) const RST: u8 = 0x04;

/// The five-tuple that selects a real. For an ICMP error it is that of the quoted packet, turned
/// round.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) client: Address,
    pub(crate) vip: Address,
    pub(crate) client_port: Port,
    pub(crate) vip_port: Port,
    pub(crate) protocol: u8,
    /// Byte 13 of the TCP header; zero for UDP.
    pub(crate) tcp_flags: u8,
    /// Whether the packet is an ICMP error about the flow.
    pub(crate) is_error: bool,
}

/// A packet of a flow.
pub(crate) struct Inbound {
    pub(crate) flow: Flow,
    /// Type of service or traffic class.
    pub(crate) tos: u8,
    /// IPv4 total length, or IPv6 payload length.
    pub(crate) length: u16,
}

/// What a packet is.
pub(crate) enum Kind {
    /// Of a flow, or an ICMP error about one.
    Flow(Flow),
    /// Echo request.
    Echo,
    /// Not to be balanced.
    Other,
    /// Cannot be balanced; dropped with this outcome if it is for a VIP.
    Malformed(BalancerOutcome),
}

/// Ports as they lie in the packet, and TCP flags.
struct Transport {
    source: Port,
    destination: Port,
    tcp_flags: u8,
}

#[inline(always)]
pub(crate) fn ipv4(packet: &Packet, ip: &Ipv4) -> Kind {
    const PAYLOAD: usize = header::ETHERNET + header::IPV4;
    const QUOTED: usize = PAYLOAD + header::ICMP;
    if header::ipv4_has_options(ip) {
        return Kind::Malformed(DroppedIpv4Options);
    }
    if header::ipv4_is_fragment(ip) {
        return Kind::Malformed(DroppedFragment);
    }
    let protocol = header::ipv4_protocol(ip);
    if protocol != header::PROTOCOL_ICMP {
        return data(
            packet,
            PAYLOAD,
            protocol,
            header::ipv4_source(ip),
            header::ipv4_destination(ip),
        );
    }
    let Some(icmp) = packet.bytes::<{ header::ICMP }>(PAYLOAD) else {
        return Kind::Malformed(DroppedL4Truncated);
    };
    match icmp.byte::<0>() {
        header::ICMP_ECHO_REQUEST => Kind::Echo,
        header::ICMP_UNREACHABLE => {
            let Some(quoted) = packet.bytes::<{ header::IPV4 }>(QUOTED) else {
                return Kind::Malformed(DroppedQuoteTruncated);
            };
            if header::ipv4_has_options(&quoted) {
                return Kind::Malformed(DroppedQuoteTruncated);
            }
            error(
                packet,
                QUOTED + header::IPV4,
                header::ipv4_protocol(&quoted),
                header::ipv4_source(&quoted),
                header::ipv4_destination(&quoted),
            )
        }
        _ => Kind::Other,
    }
}

#[inline(always)]
pub(crate) fn ipv6(packet: &Packet, ip: &Ipv6) -> Kind {
    const PAYLOAD: usize = header::ETHERNET + header::IPV6;
    const QUOTED: usize = PAYLOAD + header::ICMP;
    let protocol = header::ipv6_next_header(ip);
    if protocol == header::PROTOCOL_FRAGMENT {
        return Kind::Malformed(DroppedFragment);
    }
    if protocol != header::PROTOCOL_ICMPV6 {
        return data(
            packet,
            PAYLOAD,
            protocol,
            header::ipv6_source(ip),
            header::ipv6_destination(ip),
        );
    }
    let Some(icmp) = packet.bytes::<{ header::ICMP }>(PAYLOAD) else {
        return Kind::Malformed(DroppedL4Truncated);
    };
    match icmp.byte::<0>() {
        header::ICMPV6_ECHO_REQUEST => Kind::Echo,
        header::ICMPV6_UNREACHABLE | header::ICMPV6_TOO_BIG => {
            let Some(quoted) = packet.bytes::<{ header::IPV6 }>(QUOTED) else {
                return Kind::Malformed(DroppedQuoteTruncated);
            };
            error(
                packet,
                QUOTED + header::IPV6,
                header::ipv6_next_header(&quoted),
                header::ipv6_source(&quoted),
                header::ipv6_destination(&quoted),
            )
        }
        _ => Kind::Other,
    }
}

#[inline(always)]
fn data(packet: &Packet, at: usize, protocol: u8, source: Address, destination: Address) -> Kind {
    if protocol != header::PROTOCOL_TCP && protocol != header::PROTOCOL_UDP {
        return Kind::Other;
    }
    match transport(packet, at, protocol) {
        Some(transport) => Kind::Flow(Flow {
            client: source,
            vip: destination,
            client_port: transport.source,
            vip_port: transport.destination,
            protocol,
            tcp_flags: transport.tcp_flags,
            is_error: false,
        }),
        None => Kind::Malformed(DroppedL4Truncated),
    }
}

/// The packet quoted in an ICMP error was sent by the VIP; its fragment bits are not looked at.
#[inline(always)]
fn error(packet: &Packet, at: usize, protocol: u8, source: Address, destination: Address) -> Kind {
    if protocol != header::PROTOCOL_TCP && protocol != header::PROTOCOL_UDP {
        return Kind::Other;
    }
    match transport(packet, at, protocol) {
        Some(transport) => Kind::Flow(Flow {
            client: destination,
            vip: source,
            client_port: transport.destination,
            vip_port: transport.source,
            protocol,
            tcp_flags: transport.tcp_flags,
            is_error: true,
        }),
        None => Kind::Malformed(DroppedQuoteTruncated),
    }
}

/// Reads the TCP or UDP header at `offset`, or nothing if it is cut short.
#[inline(always)]
fn transport(packet: &Packet, offset: usize, protocol: u8) -> Option<Transport> {
    if protocol == header::PROTOCOL_TCP {
        let header = packet.bytes::<{ header::TCP }>(offset)?;
        return Some(Transport {
            source: header.half::<0>(),
            destination: header.half::<2>(),
            tcp_flags: header.byte::<13>(),
        });
    }
    let header = packet.bytes::<{ header::UDP }>(offset)?;
    Some(Transport {
        source: header.half::<0>(),
        destination: header.half::<2>(),
        tcp_flags: 0,
    })
}
