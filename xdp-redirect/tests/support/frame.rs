//! Frames, built from the inside out. Checksums are zero unless a test delivers the packet.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// An Ethernet frame.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0xaa, 1, 2, 0, 0, 0, 0xbb, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet without options.
pub(crate) fn ipv4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.parse::<Ipv4Addr>().expect("IPv4").octets());
    packet.extend(destination.parse::<Ipv4Addr>().expect("IPv4").octets());
    let sum = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv4 packet with one option of four bytes.
pub(crate) fn ipv4_options(
    source: &str,
    destination: &str,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = ipv4(source, destination, protocol, payload);
    packet[0] = 0x46;
    packet[3] += 4;
    packet.splice(20..20, [1, 1, 1, 0]);
    packet
}

/// Sets flags and fragment offset (in units of eight bytes) of an IPv4 packet.
pub(crate) fn fragmented(mut packet: Vec<u8>, flags_and_offset: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    packet
}

/// An IPv6 packet.
pub(crate) fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.parse::<Ipv6Addr>().expect("IPv6").octets());
    packet.extend(destination.parse::<Ipv6Addr>().expect("IPv6").octets());
    packet.extend(payload);
    packet
}

/// A TCP segment with four bytes of payload.
pub(crate) fn tcp(source: u16, destination: u16) -> Vec<u8> {
    let mut segment = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    segment.extend([0, 0, 3, 0xe8, 0, 0, 7, 0xd0, 0x50, 0x10, 2, 0, 0, 0, 0, 0]);
    segment.extend(*b"data");
    segment
}

/// A UDP datagram without checksum.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A UDP datagram with its checksum over IPv6.
pub(crate) fn udp_over_v6(addresses: (&str, &str), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = udp(ports.0, ports.1, payload);
    let (source, destination) = addresses;
    let mut pseudo = source.parse::<Ipv6Addr>().expect("IPv6").octets().to_vec();
    pseudo.extend(destination.parse::<Ipv6Addr>().expect("IPv6").octets());
    pseudo.extend([0, 0]);
    pseudo.extend((datagram.len() as u16).to_be_bytes());
    pseudo.extend([0, 0, 0, UDP]);
    pseudo.extend(&datagram);
    let sum = checksum(&pseudo, 0);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// An ICMP message: type, code, rest of the header, body.
pub(crate) fn icmp(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    message
}

/// Internet checksum.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
