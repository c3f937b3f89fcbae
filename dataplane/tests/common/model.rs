//! What becomes of a frame, as katran-compat sections 4.1 to 4.7, 8.1 and 8.2 say: a second, slow reading of the
//! document that shares no code with the parser under test. Which real a flow gets is not its
//! business.

use std::net::IpAddr;

use dataplane::{
    counters::DropReason,
    service::{Protocol, RealId, ServiceSpec, VipFlags, VipSpec},
};

use super::{Bench, NotSent};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to the kernel.
    Passed,
    /// It is dropped.
    Dropped(DropReason),
    /// An ICMP message, or the inner packet of a tunnel, goes back to where it came from.
    Answered,
    /// It goes to a real.
    Balanced,
    /// It goes to the kernel, for a real that is this host.
    Local,
}

impl Fate {
    /// What a bench saw.
    pub fn of(bench: &Bench, sent: &Result<Vec<u8>, NotSent>) -> Self {
        match sent {
            Err(NotSent::Passed) if bench.last.real != RealId::NONE => Self::Local,
            Err(NotSent::Passed) => Self::Passed,
            Err(NotSent::Dropped(reason)) => Self::Dropped(*reason),
            Ok(_) if bench.last.real == RealId::NONE => Self::Answered,
            Ok(_) => Self::Balanced,
        }
    }
}

/// What the tunnels to decap destinations make of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwrapped {
    /// What is to be decided: the frame, or its innermost packet.
    Kept(Vec<u8>),
    /// The inner packet leaves at once.
    Sent(Vec<u8>),
    /// It goes nowhere.
    Dropped(DropReason),
}

/// Sections 8.1 and 8.2.
pub fn unwrapped(services: &ServiceSpec, frame: &[u8]) -> Unwrapped {
    let mut frame = frame.to_vec();
    for round in 0.. {
        let Some((outer_len, inner_is_v6, egress)) = own_tunnel(services, &frame) else {
            break;
        };
        let inner = frame.split_off(14 + outer_len);
        if inner.len() < if inner_is_v6 { 40 } else { 20 } {
            return Unwrapped::Dropped(DropReason::InnerTruncated);
        }
        frame.truncate(12);
        frame.extend(if inner_is_v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(inner);
        let hops = if inner_is_v6 { 14 + 7 } else { 14 + 8 };
        match frame[hops] {
            0 => frame[hops] = 255,
            1 => return Unwrapped::Dropped(DropReason::TtlExpired),
            left => frame[hops] = left - 1,
        }
        if !inner_is_v6 {
            // TTL is the high byte of its word: the sum of the header is less by 0x0100.
            let sum = u32::from(frame[24]) * 256 + u32::from(frame[25]) + 0x100;
            let sum = if sum > 0xffff { sum - 0xffff } else { sum };
            (frame[24], frame[25]) = ((sum / 256) as u8, (sum % 256) as u8);
        }
        if egress {
            let macs = [&frame[6..12], &frame[..6]].concat();
            frame[..12].copy_from_slice(&macs);
            return Unwrapped::Sent(frame);
        }
        if round == 33 {
            return Unwrapped::Dropped(DropReason::RecirculationLimit);
        }
    }
    Unwrapped::Kept(frame)
}

/// Of a tunnel to a decap destination: bytes of its header, whether it carries IPv6, and whether the
/// inner packet leaves.
fn own_tunnel(services: &ServiceSpec, frame: &[u8]) -> Option<(usize, bool, bool)> {
    let packet = IpPacket::read(frame).filter(|one| !one.has_options && !one.is_fragment)?;
    let own = services
        .decap
        .iter()
        .find(|own| own.address == packet.destination)?;
    let ip = if packet.is_v4 { 20 } else { 40 };
    match (packet.is_v4, packet.protocol) {
        (_, 4) => Some((ip, false, false)),
        (false, 41) => Some((ip, true, false)),
        (is_v4, 17) if packet.payload.len() >= 8 => {
            let port = u16::from_be_bytes([packet.payload[2], packet.payload[3]]);
            let first = packet.payload.get(8).copied().unwrap_or(0);
            let inner_is_v6 = !is_v4 && first & 0b0011_0000 != 0;
            (port == services.settings.decap_gue_port).then_some((ip + 8, inner_is_v6, own.egress))
        }
        _ => None,
    }
}

/// The contract's fate of a frame with room enough around it and no flow in the table.
pub fn fate(services: &ServiceSpec, frame: &[u8]) -> Fate {
    match unwrapped(services, frame) {
        Unwrapped::Kept(frame) => fate_of_innermost(services, &frame),
        Unwrapped::Sent(_) => Fate::Answered,
        Unwrapped::Dropped(reason) => Fate::Dropped(reason),
    }
}

fn fate_of_innermost(services: &ServiceSpec, frame: &[u8]) -> Fate {
    let Some(packet) = IpPacket::read(frame) else {
        return Fate::Passed;
    };
    if !services
        .vips
        .iter()
        .any(|vip| covers(vip, packet.destination))
    {
        return Fate::Passed;
    }
    if packet.has_options {
        return Fate::Dropped(DropReason::Ipv4Options);
    }
    if packet.is_fragment {
        return Fate::Dropped(DropReason::Fragment);
    }
    match packet.content() {
        Content::Ports { destination, .. } => balanced(
            services,
            packet.destination,
            destination,
            packet.protocol,
            frame.len(),
        ),
        Content::Icmp(message) => icmp(services, &packet, message, frame.len()),
        Content::Truncated => Fate::Dropped(DropReason::L4Truncated),
        Content::Foreign => Fate::Passed,
    }
}

fn icmp(services: &ServiceSpec, packet: &IpPacket<'_>, message: &[u8], frame_len: usize) -> Fate {
    match (packet.is_v4, message[0]) {
        (true, 8) | (false, 128) => return Fate::Answered,
        (true, 3) | (false, 1 | 2) => {}
        _ => return Fate::Passed,
    }
    let ethertype: &[u8] = if packet.is_v4 { &[8, 0] } else { &[0x86, 0xdd] };
    let quoted_frame = [&[0; 12], ethertype, &message[8..]].concat();
    let Some(quoted) = IpPacket::read(&quoted_frame).filter(|quoted| !quoted.has_options) else {
        return Fate::Dropped(DropReason::QuoteTruncated);
    };
    match quoted.content() {
        // The VIP sent the quoted packet.
        Content::Ports { source, .. } => {
            balanced(services, quoted.source, source, quoted.protocol, frame_len)
        }
        Content::Truncated if !quoted.is_icmp() => Fate::Dropped(DropReason::QuoteTruncated),
        Content::Truncated | Content::Icmp(_) | Content::Foreign => Fate::Passed,
    }
}

fn balanced(
    services: &ServiceSpec,
    address: IpAddr,
    port: u16,
    protocol: u8,
    frame_len: usize,
) -> Fate {
    let settings = &services.settings;
    let Some(vip) = vip_of(services, address, port, protocol) else {
        return Fate::Passed;
    };
    if frame_len > usize::from(settings.max_frame) {
        return if settings.icmp_too_big {
            Fate::Answered
        } else {
            Fate::Dropped(DropReason::FrameTooLong)
        };
    }
    if vip.reals.iter().all(|real| real.weight == 0) {
        return Fate::Dropped(DropReason::NoReal);
    }
    // The services here have no VIP with reals of both kinds.
    if vip.flags.contains(VipFlags::LOCAL_VIP) && vip.reals.iter().all(|real| real.local) {
        return Fate::Local;
    }
    if settings.next_hop_mac.is_none() {
        return Fate::Dropped(DropReason::NoNextHop);
    }
    Fate::Balanced
}

/// Section 4.7: exact, prefix with this port, any port, prefix with any port.
fn vip_of(services: &ServiceSpec, address: IpAddr, port: u16, protocol: u8) -> Option<&VipSpec> {
    let protocol = Protocol::from_number(protocol)?;
    let find = |port: u16, single: bool| {
        services
            .vips
            .iter()
            .filter(|vip| vip.key.port == port && vip.key.protocol == protocol)
            .filter(|vip| vip.key.is_single_address() == single && covers(vip, address))
            .max_by_key(|vip| vip.key.prefix_len)
    };
    find(port, true)
        .or_else(|| find(port, false))
        .or_else(|| find(0, true))
        .or_else(|| find(0, false))
}

fn covers(vip: &VipSpec, address: IpAddr) -> bool {
    let (network, address) = match (vip.key.address, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.octets().to_vec(), address.octets().to_vec())
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.octets().to_vec(), address.octets().to_vec())
        }
        _ => return false,
    };
    let bit = |octets: &[u8], n: u8| (octets[usize::from(n / 8)] >> (7 - n % 8)) & 1;
    (0..vip.key.prefix_len).all(|n| bit(&network, n) == bit(&address, n))
}

struct IpPacket<'a> {
    is_v4: bool,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    has_options: bool,
    is_fragment: bool,
    payload: &'a [u8],
}

enum Content<'a> {
    Ports { source: u16, destination: u16 },
    Icmp(&'a [u8]),
    Truncated,
    Foreign,
}

impl<'a> IpPacket<'a> {
    /// `None` for what is not IP or ends within the IP header.
    fn read(frame: &'a [u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        match (frame[12], frame[13]) {
            (0x08, 0x00) if ip.len() >= 20 => Some(Self {
                is_v4: true,
                source: IpAddr::from(<[u8; 4]>::try_from(&ip[12..16]).unwrap()),
                destination: IpAddr::from(<[u8; 4]>::try_from(&ip[16..20]).unwrap()),
                protocol: ip[9],
                has_options: ip[0] % 16 != 5,
                is_fragment: u16::from_be_bytes([ip[6], ip[7]]) % 0x4000 != 0,
                payload: &ip[20..],
            }),
            (0x86, 0xdd) if ip.len() >= 40 => Some(Self {
                is_v4: false,
                source: IpAddr::from(<[u8; 16]>::try_from(&ip[8..24]).unwrap()),
                destination: IpAddr::from(<[u8; 16]>::try_from(&ip[24..40]).unwrap()),
                protocol: ip[6],
                has_options: false,
                is_fragment: ip[6] == 44,
                payload: &ip[40..],
            }),
            _ => None,
        }
    }

    fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v4 { 1 } else { 58 }
    }

    fn content(&self) -> Content<'a> {
        let word = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        let needed = match self.protocol {
            6 => 20,
            17 => 8,
            _ if self.is_icmp() => 8,
            _ => return Content::Foreign,
        };
        if self.payload.len() < needed {
            Content::Truncated
        } else if self.is_icmp() {
            Content::Icmp(self.payload)
        } else {
            Content::Ports {
                source: word(0),
                destination: word(2),
            }
        }
    }
}
