//! Packets and what the `redirect` program makes of them, run in the kernel.

mod support;

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use aya::{
    maps::{Map, MapData, XskMap},
    programs::loaded_programs,
};

use support::{
    frame::{
        ARP, IPV4, IPV6, TCP, UDP, ethernet, fragmented, icmp, ipv4, ipv4_options, ipv6, tcp, udp,
    },
    is_privileged,
    namespace::{Namespace, index, veth},
    xsk::XskSocket,
};
use xdp_redirect::{
    Ingress, Redirect,
    RedirectCounter::{self, *},
    Tag, Tunnels, Verdict, VipEntry, XdpMode, attached_program,
};

const CLIENT: &str = "192.0.2.10";
const CLIENT6: &str = "2001:db8:c1::10";
const DECAP: &str = "198.51.100.7";
const DECAP6: &str = "2001:db8:d::1";
const GENERATION: u32 = 0x0a0b_0c0d;

/// Room of the VIPs on one address differs, so that a tag tells which one was found.
fn vips() -> Vec<VipEntry> {
    let vip = |address: &str, prefix_len, port, protocol, vip, room| VipEntry {
        address: address.parse().expect("an address"),
        prefix_len,
        port,
        protocol,
        generation: GENERATION,
        vip,
        room,
    };
    vec![
        vip("203.0.113.10", 32, 80, TCP, 1, 20),
        vip("203.0.113.10", 32, 443, UDP, 2, 28),
        vip("203.0.113.20", 32, 0, TCP, 3, 40),
        vip("203.0.113.20", 32, 5060, TCP, 4, 8),
        vip("2001:db8:a::10", 128, 80, TCP, 5, 40),
        vip("2001:db8:a::10", 128, 53, UDP, 6, 48),
        vip("2001:db8:c::", 64, 443, TCP, 7, 40),
        vip("2001:db8:c:0:1::", 80, 443, TCP, 8, 48),
        vip("2001:db8:c:0:1::5", 128, 443, TCP, 9, 12),
        vip("2001:db8:c:0:1::7", 128, 0, TCP, 10, 16),
        vip("2001:db8:c::", 48, 0, TCP, 11, 24),
        vip("203.0.113.0", 32, 9, UDP, 0, 20),
        vip("203.0.113.30", 32, 0, UDP, 12, 28),
    ]
}

/// One of each family; one in a prefix VIP, and one that is a VIP on any UDP port.
fn tunnels() -> Tunnels {
    let destinations = [DECAP, DECAP6, "2001:db8:c:0:1::9", "203.0.113.30"];
    Tunnels {
        gue_port: 6080,
        room: 40,
        destinations: destinations
            .map(|one| one.parse().expect("an address"))
            .into(),
    }
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Pass(RedirectCounter),
    /// To the socket, with this VIP's number and room.
    Service(u16, u8),
    /// To the socket with a tag that names no VIP, but has this room.
    Address(RedirectCounter, u8),
}
use Expected::{Address, Pass, Service};

struct Row {
    name: &'static str,
    frame: Vec<u8>,
    expected: Expected,
}

fn row(name: &'static str, frame: Vec<u8>, expected: Expected) -> Row {
    Row {
        name,
        frame,
        expected,
    }
}

fn v4(destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &ipv4(CLIENT, destination, protocol, payload))
}

fn v6(destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6(CLIENT6, destination, next, payload))
}

fn ordinary_traffic() -> Vec<Row> {
    let solicitation = icmp(135, 0, &[0x20; 24]);
    let tagged = |inner: Vec<u8>| {
        let mut vlan = vec![0, 7];
        vlan.extend(&inner[12..]);
        vlan
    };
    let service = v4("203.0.113.10", TCP, &tcp(40000, 80));
    vec![
        row("ARP request", ethernet(ARP, &[1; 28]), Pass(PassedNotIp)),
        row("LLDP", ethernet(0x88cc, &[2; 46]), Pass(PassedNotIp)),
        row("LACP", ethernet(0x8809, &[1; 110]), Pass(PassedNotIp)),
        row(
            "802.3 length field",
            ethernet(38, &[0x42; 46]),
            Pass(PassedNotIp),
        ),
        row(
            "VLAN around a VIP's packet",
            ethernet(0x8100, &tagged(service.clone())),
            Pass(PassedNotIp),
        ),
        row(
            "QinQ around a VIP's packet",
            ethernet(0x88a8, &tagged(ethernet(0x8100, &tagged(service)))),
            Pass(PassedNotIp),
        ),
        row(
            "neighbour solicitation to the solicited-node group",
            v6("ff02::1:ff00:10", 58, &solicitation),
            Pass(PassedNotVip),
        ),
        row(
            "neighbour solicitation to a VIP's address",
            v6("2001:db8:a::10", 58, &solicitation),
            Pass(PassedOtherProtocol),
        ),
        row(
            "neighbour advertisement to a VIP's address",
            v6("2001:db8:a::10", 58, &icmp(136, 0, &[0x20; 24])),
            Pass(PassedOtherProtocol),
        ),
        row(
            "SSH to the host",
            v4("192.0.2.3", TCP, &tcp(50000, 22)),
            Pass(PassedNotVip),
        ),
        row(
            "SSH to a VIP's address",
            v4("203.0.113.10", TCP, &tcp(50000, 22)),
            Pass(PassedOtherPort),
        ),
        row(
            "BGP to the host",
            v4("192.0.2.3", TCP, &tcp(179, 179)),
            Pass(PassedNotVip),
        ),
        row(
            "BGP to a VIP's address",
            v6("2001:db8:a::10", TCP, &tcp(179, 179)),
            Pass(PassedOtherPort),
        ),
        row(
            "DNS to the host",
            v4("192.0.2.3", UDP, &udp(53, 53, b"q")),
            Pass(PassedNotVip),
        ),
        row(
            "the VIP's answer on its way back",
            ethernet(IPV4, &ipv4("203.0.113.10", CLIENT, TCP, &tcp(80, 40000))),
            Pass(PassedNotVip),
        ),
        row(
            "ping to the host",
            v4("192.0.2.3", 1, &icmp(8, 0, b"ping")),
            Pass(PassedNotVip),
        ),
        row(
            "ping to the host over IPv6",
            v6("2001:db8:1::3", 58, &icmp(128, 0, b"ping")),
            Pass(PassedNotVip),
        ),
        row(
            "fragment to the host",
            ethernet(
                IPV4,
                &fragmented(ipv4(CLIENT, "192.0.2.3", UDP, &[0; 16]), 0x2000),
            ),
            Pass(PassedNotVip),
        ),
        row(
            "IP options to the host",
            ethernet(IPV4, &ipv4_options(CLIENT, "192.0.2.3", TCP, &tcp(1, 80))),
            Pass(PassedNotVip),
        ),
        row(
            "TCP cut short to the host",
            v4("192.0.2.3", TCP, &[0; 3]),
            Pass(PassedNotVip),
        ),
        row(
            "IPv6 fragment to the host",
            v6("2001:db8:1::3", 44, &[TCP, 0, 0, 1, 0, 0, 0, 9]),
            Pass(PassedNotVip),
        ),
        row(
            "GRE to a VIP's address",
            v4("203.0.113.10", 47, &[0; 24]),
            Pass(PassedOtherProtocol),
        ),
        row(
            "OSPF to its group",
            v4("224.0.0.5", 89, &[2; 44]),
            Pass(PassedNotVip),
        ),
        row(
            "SCTP to a VIP's address",
            v4("203.0.113.10", 132, &[0; 24]),
            Pass(PassedOtherProtocol),
        ),
        row(
            "ESP to a VIP's address",
            v6("2001:db8:a::10", 50, &[0; 40]),
            Pass(PassedOtherProtocol),
        ),
        row(
            "IPIP to a VIP's address",
            v4(
                "203.0.113.10",
                4,
                &ipv4(CLIENT, "203.0.113.10", TCP, &tcp(1, 80)),
            ),
            Pass(PassedOtherProtocol),
        ),
        row(
            "hop-by-hop options before a VIP's TCP",
            v6(
                "2001:db8:a::10",
                0,
                &[&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(1, 80)].concat(),
            ),
            Pass(PassedOtherProtocol),
        ),
        row(
            "destination options before a VIP's TCP",
            v6(
                "2001:db8:a::10",
                60,
                &[&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(1, 80)].concat(),
            ),
            Pass(PassedOtherProtocol),
        ),
        row(
            "no next header",
            v6("2001:db8:a::10", 59, &[]),
            Pass(PassedOtherProtocol),
        ),
    ]
}

fn services() -> Vec<Row> {
    vec![
        row(
            "TCP exact",
            v4("203.0.113.10", TCP, &tcp(40000, 80)),
            Service(1, 20),
        ),
        row(
            "UDP exact",
            v4("203.0.113.10", UDP, &udp(40000, 443, b"x")),
            Service(2, 28),
        ),
        row(
            "UDP without payload",
            v4("203.0.113.10", UDP, &udp(40000, 443, b"")),
            Service(2, 28),
        ),
        row(
            "TCP to a port that UDP has",
            v4("203.0.113.10", TCP, &tcp(40000, 443)),
            Pass(PassedOtherPort),
        ),
        row(
            "UDP to a port that TCP has",
            v4("203.0.113.10", UDP, &udp(1, 80, b"x")),
            Pass(PassedOtherPort),
        ),
        row(
            "VIP number zero",
            v4("203.0.113.0", UDP, &udp(1, 9, b"x")),
            Service(0, 20),
        ),
        row(
            "any port",
            v4("203.0.113.20", TCP, &tcp(40000, 65535)),
            Service(3, 40),
        ),
        row(
            "port zero",
            v4("203.0.113.20", TCP, &tcp(40000, 0)),
            Service(3, 40),
        ),
        row(
            "exact before any port",
            v4("203.0.113.20", TCP, &tcp(40000, 5060)),
            Service(4, 8),
        ),
        row(
            "any TCP port is no UDP port",
            v4("203.0.113.20", UDP, &udp(1, 5060, b"x")),
            Pass(PassedOtherPort),
        ),
        row(
            "IPv6 TCP exact",
            v6("2001:db8:a::10", TCP, &tcp(40000, 80)),
            Service(5, 40),
        ),
        row(
            "IPv6 UDP exact",
            v6("2001:db8:a::10", UDP, &udp(40000, 53, b"q")),
            Service(6, 48),
        ),
        row(
            "IPv6 other port",
            v6("2001:db8:a::10", TCP, &tcp(40000, 81)),
            Pass(PassedOtherPort),
        ),
        row(
            "IPv6 address beside a VIP's",
            v6("2001:db8:a::11", TCP, &tcp(1, 80)),
            Pass(PassedNotVip),
        ),
        row(
            "prefix",
            v6("2001:db8:c::1", TCP, &tcp(1, 443)),
            Service(7, 40),
        ),
        row(
            "longer prefix",
            v6("2001:db8:c:0:1::1", TCP, &tcp(1, 443)),
            Service(8, 48),
        ),
        row(
            "exact before prefix",
            v6("2001:db8:c:0:1::5", TCP, &tcp(1, 443)),
            Service(9, 12),
        ),
        row(
            "prefix with the port before exact any port",
            v6("2001:db8:c:0:1::7", TCP, &tcp(1, 443)),
            Service(8, 48),
        ),
        row(
            "exact any port before prefix any port",
            v6("2001:db8:c:0:1::7", TCP, &tcp(1, 80)),
            Service(10, 16),
        ),
        row(
            "prefix any port",
            v6("2001:db8:c:9::1", TCP, &tcp(1, 443)),
            Service(11, 24),
        ),
        row(
            "prefix any port under a longer prefix",
            v6("2001:db8:c::1", TCP, &tcp(1, 80)),
            Service(11, 24),
        ),
        row(
            "prefix of TCP is none of UDP",
            v6("2001:db8:c::1", UDP, &udp(1, 443, b"x")),
            Pass(PassedOtherPort),
        ),
        row(
            "address beside the prefixes",
            v6("2001:db8:d::1", TCP, &tcp(1, 443)),
            Pass(PassedNotVip),
        ),
        row(
            "IPv4 address of a VIP in an IPv6 header",
            v6("cb00:710a::", TCP, &tcp(1, 80)),
            Pass(PassedNotVip),
        ),
        row(
            "don't-fragment and reserved flags",
            ethernet(
                IPV4,
                &fragmented(ipv4(CLIENT, "203.0.113.10", TCP, &tcp(1, 80)), 0xc000),
            ),
            Service(1, 20),
        ),
        row(
            "frame longer than may be sent",
            v4("203.0.113.10", UDP, &udp(1, 443, &[7; 1900])),
            Service(2, 28),
        ),
        row(
            "broadcast MAC",
            {
                let mut frame = v4("203.0.113.10", TCP, &tcp(1, 80));
                frame[..6].fill(0xff);
                frame
            },
            Service(1, 20),
        ),
        row(
            "wrong version under IPv4's Ethertype",
            {
                let mut frame = v4("203.0.113.10", TCP, &tcp(1, 80));
                frame[14] = 0x65;
                frame
            },
            Service(1, 20),
        ),
    ]
}

fn address_level() -> Vec<Row> {
    // Largest room of the VIPs on the address.
    const ROOM: u8 = 28;
    const ROOM6: u8 = 48;
    let vip_packet = || ipv4(CLIENT, "203.0.113.10", TCP, &tcp(1, 80));
    vec![
        row(
            "echo request",
            v4("203.0.113.10", 1, &icmp(8, 0, b"ping")),
            Address(RedirectedEcho, ROOM),
        ),
        row(
            "echo reply",
            v4("203.0.113.10", 1, &icmp(0, 0, b"ping")),
            Pass(PassedOtherProtocol),
        ),
        row(
            "redirect",
            v4("203.0.113.10", 1, &icmp(5, 0, &[0; 28])),
            Pass(PassedOtherProtocol),
        ),
        row(
            "IPv6 echo request",
            v6("2001:db8:a::10", 58, &icmp(128, 0, b"")),
            Address(RedirectedEcho, ROOM6),
        ),
        row(
            "IPv6 echo reply",
            v6("2001:db8:a::10", 58, &icmp(129, 0, b"")),
            Pass(PassedOtherProtocol),
        ),
        row(
            "IPv6 echo request to a prefix",
            v6("2001:db8:c:0:1::ff", 58, &icmp(128, 0, b"")),
            Address(RedirectedEcho, 48),
        ),
        row(
            "ICMPv6 in IPv4",
            v4("203.0.113.10", 58, &icmp(128, 0, b"ping")),
            Pass(PassedOtherProtocol),
        ),
        row(
            "ICMP in IPv6",
            v6("2001:db8:a::10", 1, &icmp(8, 0, b"ping")),
            Pass(PassedOtherProtocol),
        ),
        row(
            "ICMP cut short",
            v4("203.0.113.10", 1, &[8, 0, 0]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "ICMPv6 cut short",
            v6("2001:db8:a::10", 58, &[128, 0, 0, 0, 0, 0, 0]),
            Address(RedirectedTruncated, ROOM6),
        ),
        row(
            "ICMP cut short in the other IP",
            v4("203.0.113.10", 58, &[8]),
            Pass(PassedOtherProtocol),
        ),
        row(
            "TCP cut short",
            v4("203.0.113.10", TCP, &tcp(1, 80)[..19]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "UDP cut short",
            v6("2001:db8:a::10", UDP, &udp(1, 53, b"")[..7]),
            Address(RedirectedTruncated, ROOM6),
        ),
        row(
            "first fragment",
            ethernet(IPV4, &fragmented(vip_packet(), 0x2000)),
            Address(RedirectedFragment, ROOM),
        ),
        row(
            "later fragment",
            ethernet(IPV4, &fragmented(vip_packet(), 0x2001)),
            Address(RedirectedFragment, ROOM),
        ),
        row(
            "last fragment",
            ethernet(IPV4, &fragmented(vip_packet(), 0x1fff)),
            Address(RedirectedFragment, ROOM),
        ),
        row(
            "fragment of another protocol",
            ethernet(
                IPV4,
                &fragmented(ipv4(CLIENT, "203.0.113.10", 132, &[0; 16]), 0x2000),
            ),
            Address(RedirectedFragment, ROOM),
        ),
        row(
            "IPv6 fragment",
            v6(
                "2001:db8:a::10",
                44,
                &[&[TCP, 0, 0, 1, 0, 0, 0, 9][..], &tcp(1, 80)].concat(),
            ),
            Address(RedirectedFragment, ROOM6),
        ),
        row(
            "IP options",
            ethernet(
                IPV4,
                &ipv4_options(CLIENT, "203.0.113.10", TCP, &tcp(1, 80)),
            ),
            Address(RedirectedOptions, ROOM),
        ),
        row(
            "options and fragment: options count",
            ethernet(
                IPV4,
                &fragmented(ipv4_options(CLIENT, "203.0.113.10", TCP, &[0; 20]), 0x2000),
            ),
            Address(RedirectedOptions, ROOM),
        ),
        row(
            "header length below 20",
            {
                let mut frame = v4("203.0.113.10", TCP, &tcp(1, 80));
                frame[14] = 0x44;
                frame
            },
            Address(RedirectedOptions, ROOM),
        ),
    ]
}

/// An ICMP error to a VIP about `quoted`.
fn error4(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let message = icmp(kind, code, quoted);
    ethernet(IPV4, &ipv4("198.51.100.1", "203.0.113.10", 1, &message))
}

fn error6(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let message = icmp(kind, 0, quoted);
    ethernet(
        IPV6,
        &ipv6("2001:db8:ff::1", "2001:db8:a::10", 58, &message),
    )
}

fn errors() -> Vec<Row> {
    const ROOM: u8 = 28;
    let answer = ipv4("203.0.113.10", CLIENT, TCP, &tcp(80, 40000));
    let answer_udp = ipv4("203.0.113.10", CLIENT, UDP, &udp(443, 40000, b""));
    let answer6 = ipv6("2001:db8:a::10", CLIENT6, TCP, &tcp(80, 40000));
    vec![
        row(
            "unreachable: TCP of a VIP",
            error4(3, 1, &answer),
            Address(RedirectedError, 20),
        ),
        row(
            "fragmentation needed: UDP of a VIP",
            error4(3, 4, &answer_udp),
            Address(RedirectedError, 28),
        ),
        row(
            "unreachable, any code",
            error4(3, 255, &answer),
            Address(RedirectedError, 20),
        ),
        row(
            "time exceeded",
            error4(11, 0, &answer),
            Pass(PassedOtherProtocol),
        ),
        row(
            "parameter problem",
            error4(12, 0, &answer),
            Pass(PassedOtherProtocol),
        ),
        row(
            "source quench",
            error4(4, 0, &answer),
            Pass(PassedOtherProtocol),
        ),
        row(
            "about another port of the address",
            error4(3, 3, &ipv4("203.0.113.10", CLIENT, TCP, &tcp(22, 50000))),
            Pass(PassedOtherError),
        ),
        row(
            "about a packet to the VIP, not from it",
            error4(3, 3, &ipv4(CLIENT, "203.0.113.10", TCP, &tcp(40000, 80))),
            Pass(PassedOtherError),
        ),
        row(
            "about any port of another VIP",
            error4(3, 3, &ipv4("203.0.113.20", CLIENT, TCP, &tcp(4242, 50000))),
            Address(RedirectedError, 40),
        ),
        row(
            "about a ping",
            error4(3, 1, &ipv4("203.0.113.10", CLIENT, 1, &icmp(0, 0, b""))),
            Pass(PassedOtherError),
        ),
        row(
            "nothing quoted",
            error4(3, 1, &[]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "19 bytes quoted",
            error4(3, 1, &answer[..19]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "eight bytes of TCP quoted",
            error4(3, 1, &answer[..28]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "seven bytes of UDP quoted",
            error4(3, 1, &answer_udp[..27]),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "header of UDP quoted",
            error4(3, 1, &answer_udp[..28]),
            Address(RedirectedError, 28),
        ),
        row(
            "header of TCP quoted",
            error4(3, 1, &answer[..40]),
            Address(RedirectedError, 20),
        ),
        row(
            "options quoted",
            error4(
                3,
                1,
                &ipv4_options("203.0.113.10", CLIENT, TCP, &tcp(80, 1)),
            ),
            Address(RedirectedTruncated, ROOM),
        ),
        row(
            "IPv6 unreachable",
            error6(1, &answer6),
            Address(RedirectedError, 40),
        ),
        row(
            "IPv6 too big",
            error6(2, &answer6),
            Address(RedirectedError, 40),
        ),
        row(
            "IPv6 time exceeded",
            error6(3, &answer6),
            Pass(PassedOtherProtocol),
        ),
        row(
            "IPv6 parameter problem",
            error6(4, &answer6),
            Pass(PassedOtherProtocol),
        ),
        row(
            "IPv6 about an address of a prefix",
            error6(1, &ipv6("2001:db8:c:0:1::9", CLIENT6, TCP, &tcp(443, 1))),
            Address(RedirectedError, 48),
        ),
        row(
            "IPv6 about no VIP",
            error6(1, &ipv6("2001:db8:a::10", CLIENT6, TCP, &tcp(81, 1))),
            Pass(PassedOtherError),
        ),
        row(
            "IPv6 about a fragment",
            error6(
                1,
                &ipv6("2001:db8:a::10", CLIENT6, 44, &[TCP, 0, 0, 0, 0, 0, 0, 1]),
            ),
            Pass(PassedOtherError),
        ),
        row(
            "IPv6 39 bytes quoted",
            error6(1, &answer6[..39]),
            Address(RedirectedTruncated, 48),
        ),
        row(
            "IPv6 19 bytes of TCP quoted",
            error6(1, &answer6[..59]),
            Address(RedirectedTruncated, 48),
        ),
        row(
            "IPv6 header of TCP quoted",
            error6(1, &answer6[..60]),
            Address(RedirectedError, 40),
        ),
    ]
}

/// The outer header that will be taken off counts as room, of which there are 40 bytes in all.
fn tunnels_to_decap_destinations() -> Vec<Row> {
    const TUNNEL4: Expected = Address(RedirectedTunnel, 20);
    const GUE4: Expected = Address(RedirectedTunnel, 12);
    // Less than the tag takes is never opened.
    const TUNNEL6: Expected = Address(RedirectedTunnel, 8);
    let inner = ipv4(CLIENT, "203.0.113.10", TCP, &tcp(40000, 80));
    let inner6 = ipv6(CLIENT6, "2001:db8:a::10", TCP, &tcp(40000, 80));
    let gue = |inner: &[u8]| udp(50000, 6080, inner);
    let quoted = ipv4(DECAP, CLIENT, 4, &inner);
    vec![
        row("IPv4 in IPv4", v4(DECAP, 4, &inner), TUNNEL4),
        row("IPv4 in IPv6", v6(DECAP6, 4, &inner), TUNNEL6),
        row("IPv6 in IPv6", v6(DECAP6, 41, &inner6), TUNNEL6),
        row("GUE over IPv4", v4(DECAP, UDP, &gue(&inner)), GUE4),
        row("GUE over IPv6", v6(DECAP6, UDP, &gue(&inner6)), TUNNEL6),
        row(
            "GUE to an address in a prefix VIP",
            v6("2001:db8:c:0:1::9", UDP, &gue(&inner6)),
            TUNNEL6,
        ),
        row(
            "GUE to a VIP with any UDP port",
            v4("203.0.113.30", UDP, &gue(&inner)),
            GUE4,
        ),
        row(
            "another port of that VIP",
            v4("203.0.113.30", UDP, &udp(50000, 6081, &inner)),
            Service(12, 28),
        ),
        row("IPv4 in IPv4, nothing inside", v4(DECAP, 4, &[]), TUNNEL4),
        row("GUE, nothing inside", v4(DECAP, UDP, &gue(&[])), GUE4),
        row("IPv6 in IPv4", v4(DECAP, 41, &inner6), Pass(PassedNotVip)),
        row(
            "GUE whose UDP header is cut short",
            v4(DECAP, UDP, &gue(&[])[..7]),
            Pass(PassedNotVip),
        ),
        row(
            "UDP from GUE's port",
            v4(DECAP, UDP, &udp(6080, 50000, &inner)),
            Pass(PassedNotVip),
        ),
        row(
            "TCP to GUE's port",
            v4(DECAP, TCP, &tcp(50000, 6080)),
            Pass(PassedNotVip),
        ),
        row("SSH", v4(DECAP, TCP, &tcp(50000, 22)), Pass(PassedNotVip)),
        row(
            "ping",
            v4(DECAP, 1, &icmp(8, 0, &[1; 8])),
            Pass(PassedNotVip),
        ),
        row(
            "an ICMP error about a tunnel",
            v4(DECAP, 1, &icmp(3, 3, &quoted)),
            Pass(PassedNotVip),
        ),
        row(
            "a tunnel with options",
            ethernet(IPV4, &ipv4_options(CLIENT, DECAP, 4, &inner)),
            Pass(PassedNotVip),
        ),
        row(
            "the first fragment of a tunnel",
            ethernet(IPV4, &fragmented(ipv4(CLIENT, DECAP, 4, &inner), 0x2000)),
            Pass(PassedNotVip),
        ),
        row(
            "the last fragment of a tunnel",
            ethernet(IPV4, &fragmented(ipv4(CLIENT, DECAP, UDP, &gue(&inner)), 3)),
            Pass(PassedNotVip),
        ),
        row(
            "a fragmented tunnel over IPv6",
            v6(
                DECAP6,
                44,
                &[&[41, 0, 0, 1, 0, 0, 0, 7], &inner6[..]].concat(),
            ),
            Pass(PassedNotVip),
        ),
        row(
            "a tunnel to somebody else",
            v4("198.51.100.8", 4, &inner),
            Pass(PassedNotVip),
        ),
        row(
            "a tunnel to a VIP",
            v4("203.0.113.10", 4, &inner),
            Pass(PassedOtherProtocol),
        ),
        row(
            "GUE to a VIP",
            v4("203.0.113.10", UDP, &gue(&inner)),
            Pass(PassedOtherPort),
        ),
    ]
}

fn table() -> Vec<Row> {
    let table = [
        ordinary_traffic(),
        services(),
        address_level(),
        errors(),
        tunnels_to_decap_destinations(),
    ];
    table.into_iter().flatten().collect()
}

/// The program with the VIPs above and a socket on queue 0 of two.
struct Bench {
    redirect: Redirect,
    interface: u32,
    socket: XskSocket,
    _namespace: Namespace,
}

impl Bench {
    fn new() -> Self {
        let namespace = Namespace::enter_new();
        veth("balancer", "client", 2);
        let interface = index("balancer");
        let socket = XskSocket::bind(interface, 0);
        let mut redirect = Redirect::load().expect("the program loads");
        redirect
            .apply(&vips(), &tunnels())
            .expect("the maps take VIPs and tunnels");
        redirect
            .set_socket(0, socket.as_fd())
            .expect("the map takes the socket");
        Self {
            redirect,
            interface,
            socket,
            _namespace: namespace,
        }
    }

    /// Runs a frame that comes in on a queue, and sees that exactly one counter rose.
    fn run(&self, name: &str, frame: &[u8], queue: u32) -> (Verdict, Vec<u8>, RedirectCounter) {
        let before = self.redirect.counters().expect("counters");
        let ingress = Ingress {
            interface: self.interface,
            queue,
        };
        let run = self
            .redirect
            .test_run(frame, Some(ingress))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let risen = self.redirect.counters().expect("counters") - before;
        let mut counted = RedirectCounter::ALL.iter().filter(|c| risen.get(**c) > 0);
        let counter = *counted
            .next()
            .unwrap_or_else(|| panic!("{name}: not counted"));
        assert_eq!(risen.get(counter), 1, "{name}");
        assert_eq!(counted.next(), None, "{name}: counted twice");
        (run.verdict, run.frame, counter)
    }

    fn expect(&self, name: &str, frame: &[u8], expected: Expected) {
        let (verdict, out, counter) = self.run(name, frame, 0);
        let (tag, wanted) = match expected {
            Pass(wanted) => {
                assert_eq!((verdict, counter), (Verdict::PASS, wanted), "{name}");
                assert_eq!(out, frame, "{name}: the kernel gets other bytes");
                return;
            }
            Service(vip, room) => ((GENERATION, vip, room), RedirectedService),
            Address(counter, room) => ((0, Tag::NO_VIP, room), counter),
        };
        assert_eq!((verdict, counter), (Verdict::REDIRECT, wanted), "{name}");
        let (bytes, _) = out.split_first_chunk().expect("a tag");
        let (generation, vip, room) = tag;
        let tag = Tag {
            generation,
            vip,
            room,
            zero: 0,
        };
        assert_eq!(Tag::from_bytes(*bytes), tag, "{name}");
        assert_eq!(
            out[usize::from(room)..],
            *frame,
            "{name}: the socket gets other bytes"
        );
    }
}

#[test]
fn every_packet_of_the_table_has_its_verdict() {
    if !is_privileged("every_packet_of_the_table_has_its_verdict") {
        return;
    }
    let bench = Bench::new();
    let table = table();
    for row in &table {
        bench.expect(row.name, &row.frame, row.expected);
    }
    eprintln!("{} rows", table.len());
    assert!(table.len() >= 40, "only {} rows", table.len());
}

#[test]
fn runts_of_every_length_pass_or_are_redirected_unharmed() {
    if !is_privileged("runts_of_every_length_pass_or_are_redirected_unharmed") {
        return;
    }
    let bench = Bench::new();
    let cases = [
        (
            v4("203.0.113.10", TCP, &tcp(1, 80)),
            34,
            54,
            28,
            Service(1, 20),
        ),
        (
            v4("203.0.113.10", UDP, &udp(1, 443, b"x")),
            34,
            42,
            28,
            Service(2, 28),
        ),
        (
            v6("2001:db8:a::10", TCP, &tcp(1, 80)),
            54,
            74,
            48,
            Service(5, 40),
        ),
        (
            v6("2001:db8:a::10", UDP, &udp(1, 53, b"x")),
            54,
            62,
            48,
            Service(6, 48),
        ),
    ];
    for (frame, payload, whole, room, service) in cases {
        // The kernel runs no program over less than an Ethernet header.
        for length in 14..=frame.len() {
            let expected = if length < payload {
                Pass(PassedNotIp)
            } else if length < whole {
                Address(RedirectedTruncated, room)
            } else {
                service
            };
            bench.expect(&format!("{length} bytes"), &frame[..length], expected);
        }
    }
    for length in 14..60 {
        let runt = ethernet(ARP, &vec![0; length - 14]);
        bench.expect(&format!("ARP of {length} bytes"), &runt, Pass(PassedNotIp));
    }
}

#[test]
fn without_a_socket_everything_passes_unharmed() {
    if !is_privileged("without_a_socket_everything_passes_unharmed") {
        return;
    }
    let mut bench = Bench::new();
    let unharmed = |bench: &Bench, queue| {
        for row in table() {
            let (verdict, out, counter) = bench.run(row.name, &row.frame, queue);
            let wanted = match row.expected {
                Pass(counter) => counter,
                Service(..) | Address(..) => PassedNoSocket,
            };
            assert_eq!((verdict, counter), (Verdict::PASS, wanted), "{}", row.name);
            assert_eq!(out, row.frame, "{}", row.name);
        }
    };
    unharmed(&bench, 1);
    bench.redirect.clear_socket(0).expect("cleared");
    unharmed(&bench, 0);
    bench
        .redirect
        .clear_socket(0)
        .expect("clearing twice is no error");
    let socket = &bench.socket;
    bench
        .redirect
        .set_socket(0, socket.as_fd())
        .expect("set again");
    let frame = v4("203.0.113.10", TCP, &tcp(1, 80));
    bench.expect("socket is back", &frame, Service(1, 20));
}

/// A second handle on the sockets of the program that is attached to this interface.
fn sockets_of(interface: &str) -> XskMap<MapData> {
    let id = attached_program(interface)
        .expect("the kernel answers")
        .expect("a program is attached")
        .id;
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .expect("an attached program is loaded");
    let maps = program.map_ids().expect("the kernel answers");
    maps.unwrap_or_default()
        .into_iter()
        .filter_map(|id| MapData::from_id(id).ok())
        .find_map(|data| XskMap::try_from(Map::from_map_data(data).ok()?).ok())
        .expect("the program has a map of sockets")
}

/// The moment is some hundred nanoseconds long, so it takes many attempts and a second CPU.
#[test]
fn a_socket_that_goes_between_look_up_and_redirect_harms_nothing() {
    if !is_privileged("a_socket_that_goes_between_look_up_and_redirect_harms_nothing") {
        return;
    }
    let mut bench = Bench::new();
    bench
        .redirect
        .attach_to("balancer", XdpMode::Generic)
        .expect("attached");
    let mut sockets = sockets_of("balancer");
    let frame = v4("203.0.113.10", TCP, &tcp(1, 80));
    let ingress = Some(Ingress {
        interface: bench.interface,
        queue: 0,
    });
    let done = AtomicBool::new(false);
    let hits = || {
        let counters = bench.redirect.counters().expect("counters");
        counters.get(PassedNoRedirect)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                sockets.unset(0).expect("taken out");
                sockets
                    .set(0, bench.socket.as_fd().as_raw_fd(), 0)
                    .expect("put in");
            }
        });
        for attempt in 0..500_000 {
            let run = bench.redirect.test_run(&frame, ingress).expect("runs");
            let room = match run.verdict {
                Verdict::PASS => 0,
                Verdict::REDIRECT => 20,
                other => panic!("{other:?}"),
            };
            assert_eq!(run.frame[room..], frame);
            if attempt % 1000 == 999 && hits() > 0 {
                break;
            }
        }
        done.store(true, Relaxed);
    });
    eprintln!(
        "{} packets lost their socket between look-up and redirect",
        hits()
    );
}

#[test]
fn too_little_head_room_passes_unharmed() {
    if !is_privileged("too_little_head_room_passes_unharmed") {
        return;
    }
    let mut bench = Bench::new();
    let mut vips = vips();
    vips[0].room = u8::MAX;
    bench.redirect.apply_vips(&vips).expect("the maps take it");
    let frame = v4("203.0.113.10", TCP, &tcp(1, 80));
    bench.expect("room of 255 bytes", &frame, Pass(PassedNoHeadRoom));
}

#[test]
fn vips_change_under_a_loaded_program() {
    if !is_privileged("vips_change_under_a_loaded_program") {
        return;
    }
    let mut bench = Bench::new();
    let http = v4("203.0.113.10", TCP, &tcp(1, 80));
    let prefix = v6("2001:db8:c::1", TCP, &tcp(1, 443));

    let mut fewer = vips();
    fewer.retain(|vip| vip.prefix_len == 32 || vip.prefix_len == 128);
    fewer[0].generation += 1;
    fewer[0].vip = 77;
    fewer[0].room = 48;
    bench.redirect.apply_vips(&fewer).expect("applied");
    let (verdict, out, _) = bench.run("changed", &http, 0);
    assert_eq!(verdict, Verdict::REDIRECT);
    let (tag, _) = out.split_first_chunk().expect("a tag");
    let tag = Tag::from_bytes(*tag);
    assert_eq!(
        (tag.generation, tag.vip, tag.room),
        (GENERATION + 1, 77, 48)
    );
    bench.expect("prefix removed", &prefix, Pass(PassedNotVip));

    bench.redirect.apply_vips(&[]).expect("applied");
    bench.expect("all removed", &http, Pass(PassedNotVip));
    bench.redirect.apply_vips(&vips()).expect("applied");
    bench.expect("back", &http, Service(1, 20));
    bench.expect("prefix back", &prefix, Service(7, 40));

    let bad = VipEntry {
        protocol: 1,
        ..vips()[0]
    };
    bench
        .redirect
        .apply_vips(&[bad])
        .expect_err("no such protocol");
    bench.expect("a refused change changes nothing", &http, Service(1, 20));
}

#[test]
fn tunnels_change_under_a_loaded_program() {
    if !is_privileged("tunnels_change_under_a_loaded_program") {
        return;
    }
    let mut bench = Bench::new();
    let inner = ipv4(CLIENT, "203.0.113.10", TCP, &tcp(40000, 80));
    let ipip = v4(DECAP, 4, &inner);
    let gue = v4(DECAP, UDP, &udp(50000, 6080, &inner));
    let other_gue = v4(DECAP, UDP, &udp(50000, 9886, &inner));
    let taken = |room| Address(RedirectedTunnel, room);

    bench.expect("another port", &other_gue, Pass(PassedNotVip));
    let changed = Tunnels {
        gue_port: 9886,
        room: 48,
        ..tunnels()
    };
    bench.redirect.apply(&vips(), &changed).expect("applied");
    bench.expect("the new port", &other_gue, taken(20));
    bench.expect("the old port", &gue, Pass(PassedNotVip));
    bench.expect("more room", &ipip, taken(28));

    let without_gue = Tunnels {
        gue_port: 0,
        ..tunnels()
    };
    bench
        .redirect
        .apply(&vips(), &without_gue)
        .expect("applied");
    let to_port_0 = v4(DECAP, UDP, &udp(50000, 0, &inner));
    bench.expect("no port", &to_port_0, Pass(PassedNotVip));
    bench.expect("IPIP still", &ipip, taken(20));

    bench.redirect.apply_vips(&vips()).expect("applied");
    bench.expect("none", &ipip, Pass(PassedNotVip));
    bench.expect("GUE neither", &gue, Pass(PassedNotVip));
    let http = v4("203.0.113.10", TCP, &tcp(1, 80));
    bench.expect("VIPs stay", &http, Service(1, 20));

    // Twice what is promised lies in the map for a moment.
    let many = |net: u8| Tunnels {
        destinations: (0..512_u16)
            .map(|n| [10, net, (n >> 8) as u8, n as u8].into())
            .collect(),
        ..tunnels()
    };
    for net in 0..3 {
        bench.redirect.apply(&vips(), &many(net)).expect("applied");
        let last = v4(&format!("10.{net}.1.255"), 4, &inner);
        bench.expect("the last", &last, taken(20));
    }
    let mut more = many(3);
    more.destinations
        .push("10.9.9.9".parse().expect("an address"));
    let error = bench.redirect.apply(&vips(), &more).expect_err("too many");
    assert!(error.to_string().contains("more than the 512"), "{error}");
    let last = v4("10.2.1.255", 4, &inner);
    bench.expect("a refused change changes nothing", &last, taken(20));
}

#[test]
fn as_many_vips_as_promised_can_be_replaced_at_once() {
    if !is_privileged("as_many_vips_as_promised_can_be_replaced_at_once") {
        return;
    }
    let mut bench = Bench::new();
    let many = |net: u8| -> Vec<VipEntry> {
        (0..xdp_redirect::MAX_VIPS as u16)
            .map(|vip| VipEntry {
                address: [10, net, (vip >> 8) as u8, vip as u8].into(),
                vip,
                ..vips()[0]
            })
            .collect()
    };
    for net in 0..4 {
        bench.redirect.apply_vips(&many(net)).expect("applied");
        let last = format!("10.{net}.1.255");
        bench.expect("the last", &v4(&last, TCP, &tcp(1, 80)), Service(511, 20));
    }
    bench.expect(
        "gone",
        &v4("10.2.1.255", TCP, &tcp(1, 80)),
        Pass(PassedNotVip),
    );
}

#[test]
fn a_queue_beyond_the_map_is_refused() {
    if !is_privileged("a_queue_beyond_the_map_is_refused") {
        return;
    }
    let mut bench = Bench::new();
    let error = bench
        .redirect
        .set_socket(256, bench.socket.as_fd())
        .expect_err("queue 256")
        .to_string();
    assert!(
        error.starts_with("queue 256: cannot set the socket"),
        "{error}"
    );
    assert!(error.contains("0 to 255"), "{error}");
}
