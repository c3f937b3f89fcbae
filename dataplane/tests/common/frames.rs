//! Frames, built by etherparse: an implementation that shares nothing with ours.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Ipv4Header, PacketBuilder};

/// MAC of the balancer's interface.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
/// MAC of whoever sent the frame to us.
pub const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0xbb, 2];

/// TCP flags of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    Ack,
    Rst,
}

/// A TCP segment from `source` to `destination`, written `address:port`.
pub fn tcp(source: &str, destination: &str, segment: Segment) -> Vec<u8> {
    let (source, destination) = endpoints(source, destination);
    let step = ip(source, destination).tcp(source.port(), destination.port(), 1000, 502);
    let step = match segment {
        Segment::Syn => step.syn(),
        Segment::Ack => step.ack(2000),
        Segment::Rst => step.rst(),
    };
    let mut frame = Vec::new();
    step.write(&mut frame, b"").expect("a valid packet");
    frame
}

/// A UDP datagram.
pub fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = endpoints(source, destination);
    let mut frame = Vec::new();
    ip(source, destination)
        .udp(source.port(), destination.port())
        .write(&mut frame, payload)
        .expect("a valid packet");
    frame
}

/// An ICMP error of `kind` (type, code) from `router` to the VIP, about `quoted`, a frame that the
/// VIP's flow carried back to the client.
pub fn icmp_error(router: &str, vip: &str, kind: (u8, u8), quoted: &[u8]) -> Vec<u8> {
    let quoted = &quoted[14..];
    let mut frame = Vec::new();
    match (
        router.parse::<std::net::IpAddr>().unwrap(),
        vip.parse::<std::net::IpAddr>().unwrap(),
    ) {
        (std::net::IpAddr::V4(router), std::net::IpAddr::V4(vip)) => {
            PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC)
                .ipv4(router.octets(), vip.octets(), 64)
                .icmpv4_raw(kind.0, kind.1, [0, 0, 5, 0x78])
                .write(&mut frame, quoted)
        }
        (std::net::IpAddr::V6(router), std::net::IpAddr::V6(vip)) => {
            PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC)
                .ipv6(router.octets(), vip.octets(), 64)
                .icmpv6_raw(kind.0, kind.1, [0, 0, 5, 0x78])
                .write(&mut frame, quoted)
        }
        _ => panic!("router and VIP of different families"),
    }
    .expect("a valid packet");
    frame
}

/// An echo request.
pub fn echo(source: &str, destination: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    match (source.parse::<Ipv4Addr>(), source.parse::<Ipv6Addr>()) {
        (Ok(source), _) => PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC)
            .ipv4(
                source.octets(),
                destination.parse::<Ipv4Addr>().unwrap().octets(),
                7,
            )
            .icmpv4_echo_request(1, 2)
            .write(&mut frame, b"ping"),
        (_, Ok(source)) => PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC)
            .ipv6(
                source.octets(),
                destination.parse::<Ipv6Addr>().unwrap().octets(),
                7,
            )
            .icmpv6_echo_request(1, 2)
            .write(&mut frame, b"ping"),
        _ => panic!("{source} is not an address"),
    }
    .expect("a valid packet");
    frame
}

/// An IP packet of any protocol. `payload` follows the IP header.
pub fn ip_packet(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    const EXPERIMENTAL: u8 = 253;
    let [source, destination] = [source, destination]
        .map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
    // The builder wants extension headers to be whole, so the number is put in afterwards.
    let mut frame = Vec::new();
    ip(source, destination)
        .write(&mut frame, EXPERIMENTAL.into(), payload)
        .expect("a valid packet");
    if source.is_ipv6() {
        return patched(frame, 20, &[protocol]);
    }
    let frame = patched(frame, 23, &[protocol]);
    let (header, _) = Ipv4Header::from_slice(&frame[14..]).expect("an IPv4 header");
    let checksum = header.calc_header_checksum().to_be_bytes();
    patched(frame, 24, &checksum)
}

/// An ICMP message of `kind` (type, code) whose eight-byte header `body` follows. Its checksum is 0.
pub fn icmp(source: &str, destination: &str, kind: (u8, u8), body: &[u8]) -> Vec<u8> {
    let protocol = if source.contains(':') { 58 } else { 1 };
    let message = [&[kind.0, kind.1, 0, 0, 0, 0, 0, 0], body].concat();
    ip_packet(source, destination, protocol, &message)
}

/// Outer headers that a tunnel can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    Ipip,
    /// GUE variant 1 to this port.
    Gue(u16),
}

/// The packet of `inner` in a tunnel from `source` to `destination`.
pub fn tunnel(source: &str, destination: &str, outer: Outer, inner: &[u8]) -> Vec<u8> {
    let (is_v6, packet) = (inner[12..14] == [0x86, 0xdd], &inner[14..]);
    match outer {
        Outer::Ipip => ip_packet(source, destination, if is_v6 { 41 } else { 4 }, packet),
        Outer::Gue(port) => {
            let length = (8 + packet.len() as u16).to_be_bytes();
            let header = [&[0xc0, 0], &port.to_be_bytes()[..], &length, &[0, 0]].concat();
            ip_packet(source, destination, 17, &[&header, packet].concat())
        }
    }
}

/// The frame with `bytes` in place of those at `offset`.
pub fn patched(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The first `len` bytes of the frame, or the frame and zeros up to `len`.
pub fn resized(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.resize(len, 0);
    frame
}

fn endpoints(source: &str, destination: &str) -> (SocketAddr, SocketAddr) {
    (
        source.parse().expect("a socket address"),
        destination.parse().expect("a socket address"),
    )
}

fn ip(
    source: SocketAddr,
    destination: SocketAddr,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC);
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            ethernet.ipv4(source.ip().octets(), destination.ip().octets(), 64)
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            ethernet.ipv6(source.ip().octets(), destination.ip().octets(), 64)
        }
        _ => panic!("endpoints of different families"),
    }
}
