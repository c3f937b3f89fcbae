//! Random valid packets through the forwarder, read back by etherparse, which shares no code with
//! us (katran-compat section 6).

mod common;

use std::{
    cell::RefCell,
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use common::{
    Bench, V4_REALS, V6_REALS,
    frames::{OWN_MAC, SENDER_MAC, Segment, icmp_error, tcp, udp},
    proptest_config,
    services::gue,
    settings, vip,
};
use dataplane::{
    forward::Selection,
    packet::parse::{self, Frame, Kind},
    service::{Encapsulation, Protocol, ServiceSpec, Settings, VipFlags},
};
use etherparse::{
    Ethernet2Header, IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, SlicedPacket, TcpHeader,
    TransportSlice, UdpHeader, ip_number,
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xcc, 3];
/// Longest payload: with IPv6, TCP options and padding, the frame reaches the largest size.
const MAX_PAYLOAD: usize = 1400;

/// Packets of each encapsulation and mixture, and stacks for the parser.
const PACKETS: u32 = 100_000;
/// Flows about which errors come; enough to meet every mixture of the choices below many times.
const CASES: u32 = 10_000;

/// Which IP versions meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixture {
    V4InV4,
    V4InV6,
    V6InV6,
}

impl Mixture {
    const fn vip(self) -> IpAddr {
        match self {
            Self::V4InV4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
            Self::V4InV6 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20)),
            Self::V6InV6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10)),
        }
    }

    const fn outer_is_v4(self) -> bool {
        matches!(self, Self::V4InV4)
    }

    const fn inner_is_v4(self) -> bool {
        !matches!(self, Self::V6InV6)
    }

    fn reals(self) -> HashSet<IpAddr> {
        let reals = if self.outer_is_v4() {
            V4_REALS
        } else {
            V6_REALS
        };
        reals.iter().map(|real| real.parse().unwrap()).collect()
    }
}

fn services(settings: Settings) -> ServiceSpec {
    let mut vips = Vec::new();
    for mixture in [Mixture::V4InV4, Mixture::V4InV6, Mixture::V6InV6] {
        let address = mixture.vip().to_string();
        let reals = if mixture.outer_is_v4() {
            V4_REALS
        } else {
            V6_REALS
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            vips.push(vip(&address, 0, protocol, VipFlags::empty(), reals));
        }
    }
    ServiceSpec {
        settings,
        vips,
        ..ServiceSpec::default()
    }
}

/// A flow's own part of a packet.
#[derive(Clone, Copy, Debug)]
struct Client {
    mixture: Mixture,
    is_tcp: bool,
    address: u128,
    source_port: u16,
    destination_port: u16,
}

/// The rest of a packet.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tos: u8,
    ttl: u8,
    /// IPv4 identification, or low bits of the flow label.
    id: u16,
    df: bool,
    /// TCP flags, six bits.
    flags: u8,
    /// Words of TCP options.
    options: usize,
    payload_len: usize,
    payload_seed: u64,
    padding: usize,
    /// Only of UDP over IPv4.
    without_checksum: bool,
    room: usize,
}

fn client() -> impl Strategy<Value = Client> {
    client_of(vec![Mixture::V4InV4, Mixture::V4InV6, Mixture::V6InV6])
}

fn client_of(mixtures: Vec<Mixture>) -> impl Strategy<Value = Client> {
    let mixture = prop::sample::select(mixtures);
    (mixture, any::<(bool, u128, u16, u16)>()).prop_map(
        |(mixture, (is_tcp, address, source_port, destination_port))| Client {
            mixture,
            is_tcp,
            address,
            source_port,
            destination_port,
        },
    )
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        any::<(u8, u8, u16, bool)>(),
        (0_u8..64, 0_usize..=5),
        (0..=MAX_PAYLOAD, any::<u64>()),
        prop_oneof![Just(0), 1_usize..=20],
        prop::bool::weighted(0.05),
        prop::sample::select(vec![0, 8, 20, 28, 40, 48, 64]),
    )
        .prop_map(
            |((tos, ttl, id, df), (flags, options), payload, padding, without_checksum, room)| {
                Shape {
                    tos,
                    ttl,
                    id,
                    df,
                    flags,
                    options,
                    payload_len: payload.0,
                    payload_seed: payload.1,
                    padding,
                    without_checksum,
                    room,
                }
            },
        )
}

/// Bytes that look random (xorshift).
fn payload(shape: &Shape) -> Vec<u8> {
    let mut state = shape.payload_seed | 1;
    (0..shape.payload_len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

fn source(client: &Client) -> IpAddr {
    if client.mixture.inner_is_v4() {
        let [a, b, c, d, ..] = client.address.to_be_bytes();
        [a, b, c, d].into()
    } else {
        client.address.to_be_bytes().into()
    }
}

fn ip_header(client: &Client, shape: &Shape) -> IpHeaders {
    match (source(client), client.mixture.vip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(
                0,
                shape.ttl,
                ip_number::TCP,
                source.octets(),
                destination.octets(),
            )
            .expect("no payload yet");
            header.dscp = (shape.tos >> 2).try_into().expect("six bits");
            header.ecn = (shape.tos & 3).try_into().expect("two bits");
            header.identification = shape.id;
            header.dont_fragment = shape.df;
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: shape.tos,
                flow_label: u32::from(shape.id).try_into().expect("twenty bits"),
                payload_length: 0,
                next_header: ip_number::TCP,
                hop_limit: shape.ttl,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        _ => unreachable!("client and VIP are of one family"),
    }
}

/// A packet as the client's stack and network card would make it.
fn frame(client: &Client, shape: &Shape) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(SENDER_MAC, OWN_MAC).ip(ip_header(client, shape));
    let payload = payload(shape);
    let mut frame = Vec::new();
    if client.is_tcp {
        let mut header = TcpHeader::new(client.source_port, client.destination_port, 7, 512);
        header.fin = shape.flags & 1 != 0;
        header.syn = shape.flags & 2 != 0;
        header.rst = shape.flags & 4 != 0;
        header.psh = shape.flags & 8 != 0;
        header.ack = shape.flags & 16 != 0;
        header.urg = shape.flags & 32 != 0;
        header
            .set_options_raw(&vec![1; 4 * shape.options])
            .expect("at most 40 bytes");
        builder
            .tcp_header(header)
            .write(&mut frame, &payload)
            .expect("a valid packet");
    } else {
        builder
            .udp(client.source_port, client.destination_port)
            .write(&mut frame, &payload)
            .expect("a valid packet");
        if shape.without_checksum && client.mixture.inner_is_v4() {
            frame[40..42].fill(0);
        }
    }
    frame.resize(frame.len() + shape.padding, 0xee);
    frame
}

/// What the outer header must know of a packet.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    tos: u8,
    padding: usize,
    /// Whether GUE's checksum, which trusts the inner one, can be right.
    checksum_holds: bool,
}

impl Arrived {
    fn data(client: &Client, shape: &Shape) -> Self {
        let without_checksum =
            shape.without_checksum && !client.is_tcp && client.mixture.inner_is_v4();
        Self {
            tos: shape.tos,
            padding: shape.padding,
            checksum_holds: !without_checksum,
        }
    }

    /// An ICMP error with TOS 0. `ICMPv4` has no pseudo header, against what section 6.4 assumes.
    fn error(client: &Client) -> Self {
        Self {
            tos: 0,
            padding: 0,
            checksum_holds: !client.mixture.inner_is_v4(),
        }
    }
}

/// What the outer header says besides the addresses that settle where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outer {
    source: IpAddr,
    /// Zero for IPIP.
    source_port: u16,
    real: IpAddr,
}

/// Reads a frame that was sent and checks it against the one that arrived.
fn outer(
    encapsulation: Encapsulation,
    client: &Client,
    arrived: Arrived,
    arriving: &[u8],
    sent: &[u8],
) -> Result<Outer, TestCaseError> {
    let (ethernet, rest) = Ethernet2Header::from_slice(sent)?;
    prop_assert_eq!(ethernet.destination, NEXT_HOP);
    prop_assert_eq!(ethernet.source, OWN_MAC);
    let packet_len = arriving.len() - 14 - arrived.padding;

    let (udp_overhead, tunnel) = match encapsulation {
        Encapsulation::Ipip if client.mixture.inner_is_v4() => (0, ip_number::IPV4),
        Encapsulation::Ipip => (0, ip_number::IPV6),
        Encapsulation::Gue { .. } => (8, ip_number::UDP),
    };
    let (ip, rest, source, real) = if client.mixture.outer_is_v4() {
        prop_assert_eq!(ethernet.ether_type, etherparse::ether_type::IPV4);
        let (header, rest) = Ipv4Header::from_slice(rest)?;
        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
        prop_assert_eq!(header.header_len(), 20);
        prop_assert_eq!(
            usize::from(header.total_len),
            20 + udp_overhead + packet_len
        );
        prop_assert_eq!(header.time_to_live, 64);
        prop_assert_eq!(header.identification, 0);
        prop_assert!(!header.dont_fragment && !header.more_fragments);
        prop_assert_eq!(header.fragment_offset.value(), 0);
        prop_assert_eq!(header.protocol, tunnel);
        prop_assert_eq!((header.dscp.value() << 2) | header.ecn.value(), arrived.tos);
        let (source, real) = (header.source.into(), header.destination.into());
        let ip = IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        (ip, rest, source, real)
    } else {
        prop_assert_eq!(ethernet.ether_type, etherparse::ether_type::IPV6);
        let (header, rest) = Ipv6Header::from_slice(rest)?;
        prop_assert_eq!(
            usize::from(header.payload_length),
            udp_overhead + packet_len
        );
        prop_assert_eq!(header.hop_limit, 64);
        prop_assert_eq!(header.flow_label.value(), 0);
        prop_assert_eq!(header.next_header, tunnel);
        prop_assert_eq!(header.traffic_class, arrived.tos);
        let (source, real) = (header.source.into(), header.destination.into());
        let ip = IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default());
        (ip, rest, source, real)
    };

    let mut source_port = 0;
    let mut inner = rest;
    if let Encapsulation::Gue {
        port,
        source_v4,
        source_v6,
    } = encapsulation
    {
        let (udp, rest) = UdpHeader::from_slice(rest)?;
        prop_assert_eq!(udp.destination_port, port);
        prop_assert_eq!(usize::from(udp.length), 8 + packet_len);
        let configured: [IpAddr; 2] = [source_v4.into(), source_v6.into()];
        prop_assert_eq!(
            source,
            configured[usize::from(!client.mixture.outer_is_v4())]
        );
        if arrived.checksum_holds {
            let expected = match &ip {
                IpHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, &rest[..packet_len]),
                IpHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, &rest[..packet_len]),
            }
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
            // Katran sends a computed zero as zero (section 6.4), RFC 768 as all ones.
            let expected = if expected == u16::MAX { 0 } else { expected };
            prop_assert_eq!(udp.checksum, expected);
        }
        source_port = udp.source_port;
        inner = rest;
    }
    prop_assert_eq!(inner, &arriving[14..], "inner packet and padding");
    Ok(Outer {
        source,
        source_port,
        real,
    })
}

/// Sections 6.1 to 6.3 once more: where the outer source or GUE's source port comes from.
fn expected_source(encapsulation: Encapsulation, client: &Client) -> (Option<IpAddr>, u16) {
    let [high, low] = client.source_port.to_be_bytes();
    let address = match source(client) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => *address.octets().last_chunk().expect("sixteen bytes"),
    };
    let [a, b, c, d] = address;
    match (encapsulation, client.mixture) {
        (Encapsulation::Ipip, Mixture::V4InV4) => {
            (Some(Ipv4Addr::new(172, 16, c ^ low, d ^ high).into()), 0)
        }
        (Encapsulation::Ipip, Mixture::V4InV6 | Mixture::V6InV6) => {
            let words = [[a ^ high, b ^ low], [c, d]].map(u16::from_be_bytes);
            let source = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, words[0], words[1]);
            (Some(source.into()), 0)
        }
        (Encapsulation::Gue { .. }, Mixture::V4InV4) => {
            (None, u16::from_be_bytes([c ^ low, d ^ high]))
        }
        (Encapsulation::Gue { .. }, Mixture::V4InV6) => {
            (None, u16::from_be_bytes([c ^ high, d ^ low]))
        }
        (Encapsulation::Gue { .. }, Mixture::V6InV6) => {
            (None, u16::from_be_bytes([a ^ high, b ^ low]))
        }
    }
}

/// Two packets of one flow: both arrive whole, at one real, from one outer source.
fn encapsulates(settings: Settings, mixture: Mixture) {
    let bench = RefCell::new(Bench::new(&services(settings)));
    let encapsulation = settings.encapsulation;
    let flow = (client_of(vec![mixture]), shape(), shape());
    TestRunner::new(proptest_config(PACKETS / 2))
        .run(&flow, |(client, first, second)| {
            let mut bench = bench.borrow_mut();
            let mut outers = Vec::new();
            for shape in [first, second] {
                let arriving = frame(&client, &shape);
                let sent = bench
                    .send_with_room(&arriving, shape.room)
                    .map_err(|other| TestCaseError::fail(format!("{other:?}")))?;
                let arrived = Arrived::data(&client, &shape);
                let outer = outer(encapsulation, &client, arrived, &arriving, &sent)?;
                let (source, source_port) = expected_source(encapsulation, &client);
                prop_assert_eq!(source.unwrap_or(outer.source), outer.source);
                prop_assert_eq!(source_port, outer.source_port);
                prop_assert!(client.mixture.reals().contains(&outer.real));
                outers.push(outer);
            }
            prop_assert_eq!(outers[0], outers[1]);
            prop_assert_eq!(bench.counters.unaccounted(), 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn ipip_carries_ipv4_in_ipv4_unharmed() {
    encapsulates(settings(), Mixture::V4InV4);
}

#[test]
fn ipip_carries_ipv4_in_ipv6_unharmed() {
    encapsulates(settings(), Mixture::V4InV6);
}

#[test]
fn ipip_carries_ipv6_in_ipv6_unharmed() {
    encapsulates(settings(), Mixture::V6InV6);
}

#[test]
fn gue_carries_ipv4_in_ipv4_unharmed() {
    encapsulates(gue(), Mixture::V4InV4);
}

#[test]
fn gue_carries_ipv4_in_ipv6_unharmed() {
    encapsulates(gue(), Mixture::V4InV6);
}

#[test]
fn gue_carries_ipv6_in_ipv6_unharmed() {
    encapsulates(gue(), Mixture::V6InV6);
}

/// An ICMP error about a flow goes where the flow goes, with the outer source of the flow.
fn errors_follow(settings: Settings) {
    let bench = RefCell::new(Bench::new(&services(settings)));
    let encapsulation = settings.encapsulation;
    TestRunner::new(proptest_config(CASES))
        .run(
            &(client(), shape(), any::<(bool, u8)>()),
            |(client, shape, (too_big, code))| {
                let mut bench = bench.borrow_mut();
                let data = frame(&client, &shape);
                let sent = bench
                    .send(&data)
                    .map_err(|other| TestCaseError::fail(format!("{other:?}")))?;
                let arrived = Arrived::data(&client, &shape);
                let expected = outer(encapsulation, &client, arrived, &data, &sent)?;

                let vip = SocketAddr::new(client.mixture.vip(), client.destination_port);
                let quoted_to = SocketAddr::new(source(&client), client.source_port).to_string();
                let quoted = if client.is_tcp {
                    tcp(&vip.to_string(), &quoted_to, Segment::Ack)
                } else {
                    udp(&vip.to_string(), &quoted_to, b"answer")
                };
                let (router, kind) = match (client.mixture.inner_is_v4(), too_big) {
                    (true, _) => ("198.18.0.1", 3),
                    (false, false) => ("2001:db8:99::1", 1),
                    (false, true) => ("2001:db8:99::1", 2),
                };
                let error = icmp_error(router, &vip.ip().to_string(), (kind, code), &quoted);
                let sent = bench
                    .send_with_room(&error, shape.room)
                    .map_err(|other| TestCaseError::fail(format!("{other:?}")))?;
                let arrived = Arrived::error(&client);
                let steered = outer(encapsulation, &client, arrived, &error, &sent)?;
                prop_assert_eq!(steered, expected);
                let is_reset = client.is_tcp && shape.flags & 4 != 0;
                if !is_reset {
                    prop_assert_eq!(bench.last.selection, Selection::Table);
                }
                Ok(())
            },
        )
        .unwrap();
}

#[test]
fn ipip_carries_errors_to_the_real_of_the_flow() {
    errors_follow(settings());
}

#[test]
fn gue_carries_errors_to_the_real_of_the_flow() {
    errors_follow(gue());
}

/// Receivers spread tunnels over queues by the outer source, so flows must differ in it. Random flows
/// fall on 65536 values; with 1000 of them, fewer than 960 different ones would be far off chance.
#[test]
fn flows_differ_in_their_outer_source() {
    for settings in [settings(), gue()] {
        for mixture in [Mixture::V4InV4, Mixture::V4InV6, Mixture::V6InV6] {
            let mut bench = Bench::new(&services(settings));
            let mut runner = TestRunner::new_with_rng(
                proptest_config(1),
                TestRng::deterministic_rng(RngAlgorithm::ChaCha),
            );
            let mut sources = HashSet::new();
            for _ in 0..1000 {
                let tree = (client(), shape()).new_tree(&mut runner).unwrap();
                let (client, shape) = tree.current();
                let client = Client { mixture, ..client };
                let arriving = frame(&client, &shape);
                let sent = bench.send(&arriving).expect("it is sent");
                let arrived = Arrived::data(&client, &shape);
                let outer =
                    outer(settings.encapsulation, &client, arrived, &arriving, &sent).unwrap();
                sources.insert((outer.source, outer.source_port));
            }
            let different = sources.len();
            assert!(different >= 960, "{mixture:?}: {different} outer sources");
        }
    }
}

/// Our parser reads the five-tuple, TOS and length that etherparse reads.
#[test]
fn the_parser_agrees_with_etherparse() {
    TestRunner::new(proptest_config(PACKETS))
        .run(&(client(), shape()), |(client, shape)| {
            let bytes = frame(&client, &shape);
            let sliced = SlicedPacket::from_ethernet(&bytes)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            let (source_port, destination_port, flags, protocol) = match sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => (
                    tcp.source_port(),
                    tcp.destination_port(),
                    tcp.slice()[13],
                    6,
                ),
                Some(TransportSlice::Udp(udp)) => {
                    (udp.source_port(), udp.destination_port(), 0, 17)
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            let (source, destination, tos, length) = match sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let ip = ip.header();
                    let tos = (ip.dcp().value() << 2) | ip.ecn().value();
                    (
                        IpAddr::from(ip.source_addr()),
                        IpAddr::from(ip.destination_addr()),
                        tos,
                        ip.total_len(),
                    )
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    let ip = ip.header();
                    (
                        ip.source_addr().into(),
                        ip.destination_addr().into(),
                        ip.traffic_class(),
                        ip.payload_length(),
                    )
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            let read = match parse::frame(&bytes) {
                Frame::V4(ip) => flat(&ip),
                Frame::V6(ip) => flat(&ip),
                Frame::NotIp => None,
            };
            let expected = Flat {
                source,
                destination,
                outer_destination: destination,
                source_port,
                destination_port,
                flags,
                protocol,
                tos,
                length,
            };
            prop_assert_eq!(read, Some(expected));
            Ok(())
        })
        .unwrap();
}

#[derive(Debug, PartialEq, Eq)]
struct Flat {
    source: IpAddr,
    destination: IpAddr,
    outer_destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    flags: u8,
    protocol: u8,
    tos: u8,
    length: u16,
}

fn flat<A: parse::Address>(ip: &parse::IpPacket<A>) -> Option<Flat> {
    let Kind::Data(flow) = &ip.kind else {
        return None;
    };
    Some(Flat {
        source: flow.source.into(),
        destination: flow.destination.into(),
        outer_destination: ip.destination.into(),
        source_port: u16::from_be_bytes(flow.source_port),
        destination_port: u16::from_be_bytes(flow.destination_port),
        flags: flow.tcp_flags,
        protocol: flow.protocol,
        tos: ip.tos,
        length: ip.length,
    })
}
