//! Stacks of headers that are valid and odd: what our parser calls them is what etherparse reads.

mod common;

use std::{cell::RefCell, collections::HashSet, mem::discriminant, net::IpAddr};

use common::{
    frames::{OWN_MAC, SENDER_MAC},
    proptest_config,
};
use dataplane::{
    counters::DropReason,
    packet::parse::{self, Address, Frame, Kind},
};
use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber,
    Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, LinkExtSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    ip_number,
};
use proptest::{prelude::*, test_runner::TestRunner};

/// Stacks of each kind, about.
const STACKS: u32 = 100_000;

/// What the parser says, without types.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    NotIp,
    Data(Flow),
    Error(Flow),
    Echo,
    Other,
    Malformed(DropReason),
}

/// A flow as the packet that opened it would name it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

impl Flow {
    fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
        }
    }
}

fn ours(bytes: &[u8]) -> Read {
    match parse::frame(bytes) {
        Frame::V4(ip) => read(ip.kind),
        Frame::V6(ip) => read(ip.kind),
        Frame::NotIp => Read::NotIp,
    }
}

fn read<A: Address>(kind: Kind<A>) -> Read {
    let named = |flow: parse::FlowTuple<A>| Flow {
        source: (flow.source.into(), u16::from_be_bytes(flow.source_port)),
        destination: (
            flow.destination.into(),
            u16::from_be_bytes(flow.destination_port),
        ),
        protocol: flow.protocol,
    };
    match kind {
        Kind::Data(flow) => Read::Data(named(flow)),
        Kind::IcmpError(flow) => Read::Error(named(flow)),
        Kind::Echo => Read::Echo,
        Kind::Other => Read::Other,
        Kind::Malformed(reason) => Read::Malformed(reason),
    }
}

/// What katran-compat sections 4.1 to 4.3 make of what etherparse reads.
fn theirs(bytes: &[u8]) -> Result<Read, TestCaseError> {
    let sliced = SlicedPacket::from_ethernet(bytes)
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    if sliced
        .link_exts
        .iter()
        .any(|ext| matches!(ext, LinkExtSlice::Vlan(_)))
    {
        return Ok(Read::NotIp);
    }
    Ok(of_packet(&sliced, true))
}

/// `may_quote`: whether ICMP errors are looked into.
fn of_packet(sliced: &SlicedPacket<'_>, may_quote: bool) -> Read {
    let (source, destination, first) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            if !header.options().is_empty() {
                return Read::Malformed(DropReason::Ipv4Options);
            }
            if header.more_fragments() || header.fragments_offset().value() != 0 {
                return Read::Malformed(DropReason::Fragment);
            }
            let addresses = (header.source_addr(), header.destination_addr());
            (addresses.0.into(), addresses.1.into(), header.protocol())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let addresses = (header.source_addr(), header.destination_addr());
            (
                IpAddr::from(addresses.0),
                IpAddr::from(addresses.1),
                header.next_header(),
            )
        }
        _ => return Read::NotIp,
    };
    let flow = |ports: (u16, u16)| Flow {
        source: (source, ports.0),
        destination: (destination, ports.1),
        protocol: first.0,
    };
    match (first, &sliced.transport) {
        (ip_number::IPV6_FRAGMENTATION_HEADER, _) => Read::Malformed(DropReason::Fragment),
        (ip_number::TCP, Some(TransportSlice::Tcp(tcp))) => {
            Read::Data(flow((tcp.source_port(), tcp.destination_port())))
        }
        (ip_number::UDP, Some(TransportSlice::Udp(udp))) => {
            Read::Data(flow((udp.source_port(), udp.destination_port())))
        }
        (ip_number::ICMP, Some(TransportSlice::Icmpv4(icmp))) if source.is_ipv4() => {
            match icmp.icmp_type() {
                // Codes that etherparse has no name for are `Unknown`.
                Icmpv4Type::EchoRequest(_) | Icmpv4Type::Unknown { type_u8: 8, .. } => Read::Echo,
                Icmpv4Type::DestinationUnreachable(_) | Icmpv4Type::Unknown { type_u8: 3, .. }
                    if may_quote =>
                {
                    quoted(icmp.payload())
                }
                _ => Read::Other,
            }
        }
        (ip_number::IPV6_ICMP, Some(TransportSlice::Icmpv6(icmp))) if source.is_ipv6() => {
            match icmp.icmp_type() {
                Icmpv6Type::EchoRequest(_) | Icmpv6Type::Unknown { type_u8: 128, .. } => Read::Echo,
                Icmpv6Type::DestinationUnreachable(_)
                | Icmpv6Type::PacketTooBig { .. }
                | Icmpv6Type::Unknown { type_u8: 1 | 2, .. }
                    if may_quote =>
                {
                    quoted(icmp.payload())
                }
                _ => Read::Other,
            }
        }
        _ => Read::Other,
    }
}

fn quoted(packet: &[u8]) -> Read {
    match SlicedPacket::from_ip(packet).map(|sliced| of_packet(&sliced, false)) {
        Ok(Read::Data(flow)) => Read::Error(flow.reversed()),
        Ok(Read::Malformed(DropReason::Ipv4Options)) => Read::Malformed(DropReason::QuoteTruncated),
        // Nothing else is quoted here.
        other => panic!("{other:?}"),
    }
}

/// What follows the IP header.
#[derive(Clone, Debug)]
enum Upper {
    Tcp(u16, u16),
    Udp(u16, u16),
    /// Type and code, and the ports of the quoted packet, which is TCP or UDP.
    Icmp(u8, u8, (u16, u16), bool),
    Protocol(u8),
}

fn upper() -> impl Strategy<Value = Upper> {
    let icmp_type = prop_oneof![
        Just(3_u8),
        Just(8),
        Just(1),
        Just(2),
        Just(128),
        any::<u8>()
    ];
    // Protocols whose header etherparse would read, and want whole, are left to the others.
    let foreign = any::<u8>().prop_filter("no header of its own", |protocol| {
        !matches!(
            protocol,
            0 | 1 | 2 | 6 | 17 | 43 | 44 | 51 | 58 | 60 | 135 | 139 | 140
        )
    });
    prop_oneof![
        3 => any::<(u16, u16)>().prop_map(|(from, to)| Upper::Tcp(from, to)),
        3 => any::<(u16, u16)>().prop_map(|(from, to)| Upper::Udp(from, to)),
        3 => (icmp_type, any::<(u8, (u16, u16), bool)>())
            .prop_map(|(kind, (code, ports, tcp))| Upper::Icmp(kind, code, ports, tcp)),
        1 => foreign.prop_map(Upper::Protocol),
    ]
}

/// Oddities below and within the IP header.
#[derive(Clone, Debug)]
struct Oddities {
    vlans: usize,
    v4: bool,
    options_words: usize,
    fragment: Option<(u16, bool)>,
    /// IPv6: destination options, hop-by-hop options, routing header.
    extensions: [bool; 3],
    payload: Vec<u8>,
}

fn oddities() -> impl Strategy<Value = Oddities> {
    (
        prop_oneof![8 => Just(0_usize), 1 => Just(1), 1 => Just(2)],
        any::<bool>(),
        prop_oneof![8 => Just(0_usize), 1 => 1..=10_usize],
        prop::option::weighted(0.1, (0..8192_u16, any::<bool>())),
        [
            prop::bool::weighted(0.05),
            prop::bool::weighted(0.05),
            prop::bool::weighted(0.05),
        ],
        prop::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(
            |(vlans, v4, options_words, fragment, extensions, payload)| Oddities {
                vlans,
                v4,
                options_words,
                fragment,
                extensions,
                payload,
            },
        )
}

const V4: [[u8; 4]; 2] = [[192, 0, 2, 10], [203, 0, 113, 10]];
const V6: [[u8; 16]; 2] = [
    [0x20, 1, 0x0d, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 1, 0x0d, 0xb8, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10],
];

/// The bytes behind the IP header, and their protocol.
fn upper_bytes(upper: &Upper, v4: bool, payload: &[u8]) -> (Vec<u8>, IpNumber) {
    let mut bytes = Vec::new();
    match *upper {
        Upper::Tcp(from, to) => {
            etherparse::TcpHeader::new(from, to, 1, 2)
                .write(&mut bytes)
                .expect("into memory");
            bytes.extend_from_slice(payload);
            (bytes, ip_number::TCP)
        }
        Upper::Udp(from, to) => {
            etherparse::UdpHeader {
                source_port: from,
                destination_port: to,
                length: 8 + payload.len() as u16,
                checksum: 0,
            }
            .write(&mut bytes)
            .expect("into memory");
            bytes.extend_from_slice(payload);
            (bytes, ip_number::UDP)
        }
        Upper::Icmp(kind, code, (from, to), tcp) => {
            bytes.extend_from_slice(&[kind, code, 0, 0, 0, 0, 5, 0]);
            let quote = if v4 {
                PacketBuilder::ipv4(V4[1], V4[0], 60)
            } else {
                PacketBuilder::ipv6(V6[1], V6[0], 60)
            };
            if tcp {
                quote.tcp(to, from, 3, 4).write(&mut bytes, payload)
            } else {
                quote.udp(to, from).write(&mut bytes, payload)
            }
            .expect("a valid packet");
            let protocol = if v4 {
                ip_number::ICMP
            } else {
                ip_number::IPV6_ICMP
            };
            (bytes, protocol)
        }
        Upper::Protocol(protocol) => (payload.to_vec(), IpNumber(protocol)),
    }
}

fn frame(upper: &Upper, odd: &Oddities) -> Vec<u8> {
    let (bytes, protocol) = upper_bytes(upper, odd.v4, &odd.payload);
    let ip_type = if odd.v4 {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    };
    let mut types = vec![EtherType::PROVIDER_BRIDGING, EtherType::VLAN_TAGGED_FRAME];
    types.drain(..2 - odd.vlans);
    types.push(ip_type);
    let mut frame = Vec::new();
    Ethernet2Header {
        source: SENDER_MAC,
        destination: OWN_MAC,
        ether_type: types[0],
    }
    .write(&mut frame)
    .expect("into memory");
    for next in &types[1..] {
        frame.extend_from_slice(&[0x20, 7]);
        frame.extend_from_slice(&next.0.to_be_bytes());
    }
    headers(odd, protocol, bytes.len())
        .write(&mut frame)
        .expect("into memory");
    frame.extend_from_slice(&bytes);
    frame
}

fn headers(odd: &Oddities, protocol: IpNumber, len: usize) -> IpHeaders {
    let mut headers = if odd.v4 {
        let mut header = Ipv4Header::new(0, 64, protocol, V4[0], V4[1]).expect("no payload yet");
        header.options = Ipv4Options::try_from(vec![1; 4 * odd.options_words].as_slice())
            .expect("at most 40 bytes");
        if let Some((offset, more)) = odd.fragment {
            header.fragment_offset = IpFragOffset::try_new(offset).expect("thirteen bits");
            header.more_fragments = more;
        }
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    } else {
        let header = Ipv6Header {
            source: V6[0],
            destination: V6[1],
            hop_limit: 64,
            next_header: protocol,
            ..Ipv6Header::default()
        };
        let raw = || Ipv6RawExtHeader::new_raw(ip_number::TCP, &[0; 6]).expect("eight bytes");
        let [destination, hop_by_hop, routing] = odd.extensions;
        let extensions = Ipv6Extensions {
            hop_by_hop_options: hop_by_hop.then(raw),
            destination_options: destination.then(raw),
            routing: routing.then(|| etherparse::Ipv6RoutingExtensions {
                routing: raw(),
                final_destination_options: None,
            }),
            fragment: odd.fragment.map(|(offset, more)| Ipv6FragmentHeader {
                next_header: protocol,
                fragment_offset: IpFragOffset::try_new(offset).expect("thirteen bits"),
                more_fragments: more,
                identification: 9,
            }),
            auth: None,
        };
        IpHeaders::Ipv6(header, extensions)
    };
    headers.set_payload_len(len).expect("the payload is short");
    headers.set_next_headers(protocol);
    headers
}

/// IPv4 options, fragments, VLAN tags, IPv6 extension headers, every ICMP type with a quoted packet,
/// every protocol.
#[test]
fn odd_stacks_are_what_etherparse_reads() {
    let seen = RefCell::new(HashSet::new());
    TestRunner::new(proptest_config(STACKS))
        .run(&(upper(), oddities()), |(upper, odd)| {
            // Of timestamp messages etherparse reads those of the one right length only.
            prop_assume!(!matches!(upper, Upper::Icmp(13 | 14, 0, ..)));
            let bytes = frame(&upper, &odd);
            let read = theirs(&bytes)?;
            prop_assert_eq!(&ours(&bytes), &read);
            seen.borrow_mut().insert(discriminant(&read));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen.borrow().len(), 6, "every kind was met");
}
