//! What kind of packet a frame is, as far as a balancer must know (katran-compat sections 4.1–4.5).

use std::net::IpAddr;

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP_LEN, IPV4_LEN, IPV6_LEN, TCP_LEN, UDP_LEN,
    protocol,
};
use crate::counters::DropReason;

/// TCP flag bits of header byte 13 that matter here.
pub mod tcp_flags {
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
}

/// IP address in wire order: 4 or 16 bytes.
pub trait Address: Copy + Eq + Into<IpAddr> {
    /// The address with all bits zero.
    const ZERO: Self;
}

impl Address for [u8; 4] {
    const ZERO: Self = [0; 4];
}

impl Address for [u8; 16] {
    const ZERO: Self = [0; 16];
}

/// The five-tuple that selects a real, in wire order. For an ICMP error it is that of the quoted
/// packet, turned round (katran-compat section 4.5): its destination is the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple<A> {
    /// The client.
    pub source: A,
    /// The VIP.
    pub destination: A,
    /// The client's port.
    pub source_port: [u8; 2],
    /// The VIP's port.
    pub destination_port: [u8; 2],
    /// [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u8,
    /// TCP header byte 13; zero for UDP.
    pub tcp_flags: u8,
}

/// What a packet is to a balancer, if it is addressed to a VIP's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<A> {
    /// TCP or UDP.
    Data(FlowTuple<A>),
    /// ICMP destination unreachable, or `ICMPv6` packet too big, about a TCP or UDP packet.
    IcmpError(FlowTuple<A>),
    /// Echo request.
    Echo,
    /// For the kernel: another protocol, extension headers, other ICMP.
    Other,
    /// Cannot be balanced.
    Malformed(DropReason),
}

/// An IP packet with a complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket<A> {
    /// Destination of the IP header itself.
    pub destination: A,
    /// Type of service or traffic class, all eight bits.
    pub tos: u8,
    /// IPv4 total length, or IPv6 payload length, as the header says.
    pub length: u16,
    /// What it is.
    pub kind: Kind<A>,
}

/// A frame by its network protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// IPv4.
    V4(IpPacket<[u8; 4]>),
    /// IPv6.
    V6(IpPacket<[u8; 16]>),
    /// Anything else, and frames that end within the IP header: there is no destination to compare.
    NotIp,
}

/// Reads an Ethernet II frame. Destination MAC, IP version, checksums, TTL and the length fields are
/// not validated (katran-compat section 4.2).
#[inline]
pub fn frame(frame: &[u8]) -> Frame {
    let Some((ethernet, payload)) = frame.split_first_chunk::<ETHERNET_LEN>() else {
        return Frame::NotIp;
    };
    let packet = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => ipv4(payload).map(Frame::V4),
        ETHERTYPE_IPV6 => ipv6(payload).map(Frame::V6),
        _ => None,
    };
    packet.unwrap_or(Frame::NotIp)
}

#[inline]
fn ipv4(bytes: &[u8]) -> Option<IpPacket<[u8; 4]>> {
    let (header, rest) = bytes.split_first_chunk::<IPV4_LEN>()?;
    let source = [header[12], header[13], header[14], header[15]];
    let destination = [header[16], header[17], header[18], header[19]];
    // More fragments, or an offset; DF and the reserved bit do not matter.
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    let kind = if header[0] & 0x0f != 5 {
        Kind::Malformed(DropReason::Ipv4Options)
    } else if is_fragment {
        Kind::Malformed(DropReason::Fragment)
    } else if header[9] == protocol::ICMP {
        icmpv4(rest)
    } else {
        transport(source, destination, header[9], rest)
    };
    Some(IpPacket {
        destination,
        tos: header[1],
        length: u16::from_be_bytes([header[2], header[3]]),
        kind,
    })
}

#[inline]
fn ipv6(bytes: &[u8]) -> Option<IpPacket<[u8; 16]>> {
    let (header, rest) = bytes.split_first_chunk::<IPV6_LEN>()?;
    let (source, destination) = ipv6_addresses(header);
    let kind = match header[6] {
        protocol::IPV6_FRAGMENT => Kind::Malformed(DropReason::Fragment),
        protocol::ICMPV6 => icmpv6(rest),
        next_header => transport(source, destination, next_header, rest),
    };
    Some(IpPacket {
        destination,
        tos: (header[0] << 4) | (header[1] >> 4),
        length: u16::from_be_bytes([header[4], header[5]]),
        kind,
    })
}

#[inline]
fn ipv6_addresses(header: &[u8; IPV6_LEN]) -> ([u8; 16], [u8; 16]) {
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let mut destination = [0; 16];
    destination.copy_from_slice(&header[24..40]);
    (source, destination)
}

#[inline]
fn transport<A>(source: A, destination: A, protocol: u8, bytes: &[u8]) -> Kind<A> {
    let needed = match protocol {
        protocol::TCP => TCP_LEN,
        protocol::UDP => UDP_LEN,
        _ => return Kind::Other,
    };
    match ports_and_flags(bytes, needed) {
        Some((source_port, destination_port, tcp_flags)) => Kind::Data(FlowTuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            tcp_flags,
        }),
        None => Kind::Malformed(DropReason::L4Truncated),
    }
}

/// The two ports and, of a header long enough for TCP, its flags.
#[inline]
fn ports_and_flags(bytes: &[u8], needed: usize) -> Option<([u8; 2], [u8; 2], u8)> {
    let header = bytes.get(..needed)?;
    let ports = header.first_chunk::<4>()?;
    let flags = header.get(13).copied().unwrap_or(0);
    Some(([ports[0], ports[1]], [ports[2], ports[3]], flags))
}

fn icmpv4(bytes: &[u8]) -> Kind<[u8; 4]> {
    const ECHO_REQUEST: u8 = 8;
    const DESTINATION_UNREACHABLE: u8 = 3;
    let Some((header, quoted)) = bytes.split_first_chunk::<ICMP_LEN>() else {
        return Kind::Malformed(DropReason::L4Truncated);
    };
    match header[0] {
        ECHO_REQUEST => Kind::Echo,
        DESTINATION_UNREACHABLE => quoted_ipv4(quoted),
        _ => Kind::Other,
    }
}

fn icmpv6(bytes: &[u8]) -> Kind<[u8; 16]> {
    const ECHO_REQUEST: u8 = 128;
    const DESTINATION_UNREACHABLE: u8 = 1;
    const PACKET_TOO_BIG: u8 = 2;
    let Some((header, quoted)) = bytes.split_first_chunk::<ICMP_LEN>() else {
        return Kind::Malformed(DropReason::L4Truncated);
    };
    match header[0] {
        ECHO_REQUEST => Kind::Echo,
        DESTINATION_UNREACHABLE | PACKET_TOO_BIG => quoted_ipv6(quoted),
        _ => Kind::Other,
    }
}

/// The packet quoted in an ICMP error was sent by the VIP; its fragment bits are not looked at.
fn quoted_ipv4(bytes: &[u8]) -> Kind<[u8; 4]> {
    let Some((header, rest)) = bytes.split_first_chunk::<IPV4_LEN>() else {
        return Kind::Malformed(DropReason::QuoteTruncated);
    };
    if header[0] & 0x0f != 5 {
        return Kind::Malformed(DropReason::QuoteTruncated);
    }
    let source = [header[12], header[13], header[14], header[15]];
    let destination = [header[16], header[17], header[18], header[19]];
    quoted_transport(source, destination, header[9], rest)
}

fn quoted_ipv6(bytes: &[u8]) -> Kind<[u8; 16]> {
    let Some((header, rest)) = bytes.split_first_chunk::<IPV6_LEN>() else {
        return Kind::Malformed(DropReason::QuoteTruncated);
    };
    let (source, destination) = ipv6_addresses(header);
    quoted_transport(source, destination, header[6], rest)
}

fn quoted_transport<A>(source: A, destination: A, protocol: u8, bytes: &[u8]) -> Kind<A> {
    match transport(source, destination, protocol, bytes) {
        Kind::Data(quoted) => Kind::IcmpError(FlowTuple {
            source: quoted.destination,
            destination: quoted.source,
            source_port: quoted.destination_port,
            destination_port: quoted.source_port,
            protocol: quoted.protocol,
            tcp_flags: quoted.tcp_flags,
        }),
        Kind::Malformed(_) => Kind::Malformed(DropReason::QuoteTruncated),
        other => other,
    }
}
