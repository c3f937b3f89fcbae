//! The `decap` program: what it makes of packets, and that the stack receives what was inside.

mod support;

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

use support::{
    frame::{
        ARP, IPV4, IPV6, TCP, UDP, ethernet, fragmented, ipv4, ipv4_options, ipv6, tcp, udp,
        udp_over_v6,
    },
    is_privileged,
    namespace::{Namespace, index, ip, veth},
    wire::Wire,
};
use xdp_redirect::{
    AttachedMode, Decap,
    DecapCounter::{self, *},
    DecapError, DecapOptions, MAX_DECAP_DESTINATIONS, Traffic, Verdict, XdpMode,
};

const BALANCER: &str = "192.0.2.1";
const BALANCER6: &str = "2001:db8::1";
const REAL: &str = "198.51.100.11";
const REAL6: &str = "2001:db8:f::11";
const OTHER: &str = "198.51.100.12";
const OTHER6: &str = "2001:db8:f::12";
const VIP: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:a::10";
const CLIENT: &str = "192.0.2.10";
const CLIENT6: &str = "2001:db8:c::10";
const PORT: u16 = 6080;

fn options() -> DecapOptions {
    DecapOptions {
        destinations: vec![REAL.parse().expect("IPv4"), REAL6.parse().expect("IPv6")],
        ..DecapOptions::default()
    }
}

fn inner4() -> Vec<u8> {
    ipv4(CLIENT, VIP, TCP, &tcp(40000, 80))
}

fn inner6() -> Vec<u8> {
    ipv6(CLIENT6, VIP6, TCP, &tcp(40000, 80))
}

fn outer4(destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &ipv4(BALANCER, destination, protocol, payload))
}

fn outer6(destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6(BALANCER6, destination, next, payload))
}

fn gue4(port: u16, inner: &[u8]) -> Vec<u8> {
    outer4(REAL, UDP, &udp(0x1b45, port, inner))
}

fn gue6(port: u16, inner: &[u8]) -> Vec<u8> {
    outer6(REAL6, UDP, &udp(0x1b45, port, inner))
}

/// A packet, its counter, and the packet inside if that comes out.
type Row = (&'static str, Vec<u8>, DecapCounter, Option<(u16, Vec<u8>)>);

fn table() -> Vec<Row> {
    let v4 = || Some((IPV4, inner4()));
    let v6 = || Some((IPV6, inner6()));
    let fragment_header = |next: u8, offset: u16, payload: &[u8]| {
        let mut bytes = vec![next, 0];
        bytes.extend(offset.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(payload);
        bytes
    };
    let gue_datagram = || udp(1, PORT, &inner4());
    vec![
        ("IPIP, 4 in 4", outer4(REAL, 4, &inner4()), Ipip4In4, v4()),
        ("IPIP, 4 in 6", outer6(REAL6, 4, &inner4()), Ipip4In6, v4()),
        ("IPIP, 6 in 6", outer6(REAL6, 41, &inner6()), Ipip6In6, v6()),
        ("GUE, 4 in 4", gue4(PORT, &inner4()), Gue4In4, v4()),
        ("GUE, 6 in 4", gue4(PORT, &inner6()), Gue6In4, v6()),
        ("GUE, 4 in 6", gue6(PORT, &inner4()), Gue4In6, v4()),
        ("GUE, 6 in 6", gue6(PORT, &inner6()), Gue6In6, v6()),
        (
            "6 in 4 by protocol 41",
            outer4(REAL, 41, &inner6()),
            NotTunnel,
            None,
        ),
        (
            "GUE to another port",
            gue4(PORT + 1, &inner4()),
            NotTunnel,
            None,
        ),
        (
            "GUE to another port, IPv6",
            gue6(9886, &inner4()),
            NotTunnel,
            None,
        ),
        (
            "GUE's port as source",
            outer4(REAL, UDP, &udp(PORT, 53, &inner4())),
            NotTunnel,
            None,
        ),
        ("plain TCP", outer4(REAL, TCP, &tcp(1, 80)), NotTunnel, None),
        (
            "TCP to GUE's port",
            outer4(REAL, TCP, &tcp(1, PORT)),
            NotTunnel,
            None,
        ),
        ("ARP", ethernet(ARP, &[1; 28]), NotTunnel, None),
        (
            "VLAN",
            ethernet(0x8100, &outer4(REAL, 4, &inner4())[10..]),
            NotTunnel,
            None,
        ),
        (
            "ping",
            outer4(REAL, 1, &[8, 0, 0, 0, 0, 1, 0, 1]),
            NotTunnel,
            None,
        ),
        (
            "neighbour solicitation",
            outer6("ff02::1", 58, &[135; 32]),
            NotTunnel,
            None,
        ),
        (
            "hop-by-hop options",
            outer6(REAL6, 0, &inner4()),
            NotTunnel,
            None,
        ),
        (
            "IPIP to another host",
            outer4(OTHER, 4, &inner4()),
            NotOurs,
            None,
        ),
        (
            "IPIP to another host, IPv6",
            outer6(OTHER6, 41, &inner6()),
            NotOurs,
            None,
        ),
        (
            "GUE to another host",
            outer4(OTHER, UDP, &gue_datagram()),
            NotOurs,
            None,
        ),
        (
            "GUE to another host, IPv6",
            outer6(OTHER6, UDP, &gue_datagram()),
            NotOurs,
            None,
        ),
        (
            "fragment to another host",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, OTHER, 4, &inner4()), 0x2000),
            ),
            NotOurs,
            None,
        ),
        (
            "first fragment",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, REAL, 4, &inner4()), 0x2000),
            ),
            OuterFragment,
            None,
        ),
        (
            "later fragment",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, REAL, 4, &inner4()), 0x00ff),
            ),
            OuterFragment,
            None,
        ),
        (
            "first fragment of GUE",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, REAL, UDP, &gue_datagram()), 0x2000),
            ),
            OuterFragment,
            None,
        ),
        (
            "later fragment of UDP: its ports are elsewhere",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, REAL, UDP, &gue_datagram()), 0x2001),
            ),
            NotTunnel,
            None,
        ),
        (
            "don't-fragment is no fragment",
            ethernet(
                IPV4,
                &fragmented(ipv4(BALANCER, REAL, 4, &inner4()), 0x4000),
            ),
            Ipip4In4,
            v4(),
        ),
        (
            "IPv6 fragment",
            outer6(REAL6, 44, &fragment_header(41, 1, &inner6())),
            OuterFragment,
            None,
        ),
        (
            "IPv6 first fragment of GUE",
            outer6(REAL6, 44, &fragment_header(UDP, 1, &gue_datagram())),
            OuterFragment,
            None,
        ),
        (
            "IPv6 later fragment of UDP",
            outer6(REAL6, 44, &fragment_header(UDP, 8, &gue_datagram())),
            NotTunnel,
            None,
        ),
        (
            "IPv6 fragment of TCP",
            outer6(REAL6, 44, &fragment_header(TCP, 1, &tcp(1, 80))),
            NotTunnel,
            None,
        ),
        (
            "outer options",
            ethernet(IPV4, &ipv4_options(BALANCER, REAL, 4, &inner4())),
            OuterOptions,
            None,
        ),
        (
            "outer options before GUE",
            ethernet(IPV4, &ipv4_options(BALANCER, REAL, UDP, &gue_datagram())),
            OuterOptions,
            None,
        ),
        (
            "IPIP, nothing inside",
            outer4(REAL, 4, &[]),
            InnerTruncated,
            None,
        ),
        (
            "IPIP, 19 bytes inside",
            outer4(REAL, 4, &inner4()[..19]),
            InnerTruncated,
            None,
        ),
        (
            "IPIP, a header inside",
            outer4(REAL, 4, &inner4()[..20]),
            Ipip4In4,
            Some((IPV4, inner4()[..20].to_vec())),
        ),
        (
            "IPIP6, 39 bytes inside",
            outer6(REAL6, 41, &inner6()[..39]),
            InnerTruncated,
            None,
        ),
        ("GUE, nothing inside", gue4(PORT, &[]), InnerTruncated, None),
        (
            "GUE, 39 bytes of IPv6 inside",
            gue6(PORT, &inner6()[..39]),
            InnerTruncated,
            None,
        ),
        (
            "IPv6 under protocol 4",
            outer4(REAL, 4, &inner6()),
            InnerVersion,
            None,
        ),
        (
            "IPv4 under next header 41",
            outer6(REAL6, 41, &inner4()),
            InnerVersion,
            None,
        ),
        ("GUE variant 0", gue4(PORT, &[0; 60]), InnerVersion, None),
        (
            "GUE, version 15",
            gue6(PORT, &[0xf0; 60]),
            InnerVersion,
            None,
        ),
    ]
}

fn expect(decap: &Decap, row: &Row) {
    let (name, frame, counter, inner) = row;
    let before = decap.counters().expect("counters");
    let run = decap
        .test_run(frame, None)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let risen = decap.counters().expect("counters") - before;
    assert_eq!(run.verdict, Verdict::PASS, "{name}");
    let out = match inner {
        None => frame.clone(),
        Some((ethertype, packet)) => ethernet(*ethertype, packet),
    };
    assert_eq!(run.frame, out, "{name}");
    for counted in DecapCounter::ALL {
        let traffic = if counted == counter {
            Traffic {
                packets: 1,
                bytes: frame.len() as u64,
            }
        } else {
            Traffic::default()
        };
        assert_eq!(risen.get(*counted), traffic, "{name}: {}", counted.name());
    }
}

#[test]
fn every_packet_of_the_table_has_its_outcome() {
    if !is_privileged("every_packet_of_the_table_has_its_outcome") {
        return;
    }
    let decap = Decap::load(&options()).expect("the program loads");
    for row in &table() {
        expect(&decap, row);
    }
}

#[test]
fn any_destination_is_stripped_when_asked_for() {
    if !is_privileged("any_destination_is_stripped_when_asked_for") {
        return;
    }
    let decap = Decap::load(&DecapOptions {
        any_destination: true,
        ..DecapOptions::default()
    })
    .expect("the program loads");
    let stripped = Some((IPV4, inner4()));
    for row in [
        (
            "to another host",
            outer4(OTHER, 4, &inner4()),
            Ipip4In4,
            stripped.clone(),
        ),
        (
            "over IPv6",
            outer6(OTHER6, 4, &inner4()),
            Ipip4In6,
            stripped,
        ),
    ] {
        expect(&decap, &row);
    }
}

#[test]
fn gue_has_the_port_it_is_given() {
    if !is_privileged("gue_has_the_port_it_is_given") {
        return;
    }
    let with_port = |gue_port| {
        Decap::load(&DecapOptions {
            gue_port,
            ..options()
        })
        .expect("the program loads")
    };
    let decap = with_port(9886);
    expect(
        &decap,
        &(
            "given",
            gue4(9886, &inner4()),
            Gue4In4,
            Some((IPV4, inner4())),
        ),
    );
    expect(&decap, &("default", gue4(PORT, &inner4()), NotTunnel, None));
    let decap = with_port(0);
    expect(
        &decap,
        &("switched off", gue4(0, &inner4()), NotTunnel, None),
    );
}

#[test]
fn destinations_change_under_a_loaded_program() {
    if !is_privileged("destinations_change_under_a_loaded_program") {
        return;
    }
    let mut decap = Decap::load(&options()).expect("the program loads");
    decap
        .set_destinations(&[OTHER.parse().expect("IPv4")])
        .expect("set");
    expect(&decap, &("old", outer4(REAL, 4, &inner4()), NotOurs, None));
    expect(
        &decap,
        &("old, IPv6", outer6(REAL6, 41, &inner6()), NotOurs, None),
    );
    let stripped = Some((IPV4, inner4()));
    expect(
        &decap,
        &("new", outer4(OTHER, 4, &inner4()), Ipip4In4, stripped),
    );
}

#[test]
fn all_destinations_can_change_at_once() {
    if !is_privileged("all_destinations_can_change_at_once") {
        return;
    }
    let mut decap = Decap::load(&options()).expect("the program loads");
    let many = |network: u8, count: u32| -> Vec<IpAddr> {
        (0..count)
            .map(|n| [10, network, (n >> 8) as u8, n as u8].into())
            .collect()
    };
    let all = MAX_DECAP_DESTINATIONS;
    decap.set_destinations(&many(0, all)).expect("all fit");
    decap.set_destinations(&many(1, all)).expect("others fit");
    let error = decap.set_destinations(&many(2, all + 1)).unwrap_err();
    assert!(
        matches!(error, DecapError::TooMany(4097)),
        "one too many: {error}"
    );
    let stripped = Some((IPV4, inner4()));
    let last = Ipv4Addr::new(10, 1, 15, 255);
    expect(
        &decap,
        &(
            "the last",
            outer4(&last.to_string(), 4, &inner4()),
            Ipip4In4,
            stripped,
        ),
    );
}

#[test]
fn runts_stay_as_they_are() {
    if !is_privileged("runts_stay_as_they_are") {
        return;
    }
    let decap = Decap::load(&options()).expect("the program loads");
    for (frame, first) in [
        (outer4(REAL, 4, &inner4()), 34),
        (outer6(REAL6, 41, &inner6()), 54),
        (gue4(PORT, &inner4()), 38),
        (gue6(PORT, &inner6()), 58),
    ] {
        let whole = if frame[12..14] == IPV4.to_be_bytes() {
            20
        } else {
            40
        };
        let header = if frame[23] == UDP || frame[20] == UDP {
            8
        } else {
            0
        };
        let inner = 14 + whole + header + whole;
        // The kernel runs no program over less than an Ethernet header.
        for length in 14..inner {
            let counter = if length < first {
                NotTunnel
            } else {
                InnerTruncated
            };
            expect(&decap, &("runt", frame[..length].to_vec(), counter, None));
        }
    }
}

/// The inner packets as a real server's sockets see them, in both modes.
#[test]
fn the_stack_receives_what_was_inside() {
    if !is_privileged("the_stack_receives_what_was_inside") {
        return;
    }
    let _namespace = Namespace::enter_new();
    veth("real", "balancer", 1);
    let outside = Namespace::new_beside();
    outside.adopt("balancer");
    let wire = outside.within(|| {
        ip(&["link", "set", "balancer", "up"]);
        Wire::open(index("balancer"))
    });
    ip(&["link", "set", "lo", "up"]);
    ip(&["link", "set", "real", "address", "02:00:00:00:aa:01"]);
    ip(&["address", "add", "203.0.113.10/32", "dev", "lo"]);
    ip(&["address", "add", "2001:db8:a::10/128", "dev", "lo", "nodad"]);
    ip(&["address", "add", "192.0.2.11/24", "dev", "real"]);
    ip(&[
        "address",
        "add",
        "2001:db8:c::11/64",
        "dev",
        "real",
        "nodad",
    ]);
    let bound = |address: &str| {
        let socket = UdpSocket::bind((address, 9000)).expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("set");
        socket
    };
    let (service, service6) = (bound(VIP), bound(VIP6));

    for (mode, attached) in [
        (XdpMode::Native, AttachedMode::Native),
        (XdpMode::Generic, AttachedMode::Generic),
    ] {
        let decap = Decap::attach("real", mode, &options()).expect("attached");
        assert_eq!(decap.mode(), Some(attached));
        let mut sent = 0;
        for length in [0, 1, 100, 1300] {
            let payload = vec![sent as u8; length];
            let inner = ipv4(CLIENT, VIP, UDP, &udp(40000, 9000, &payload));
            let datagram = udp_over_v6((CLIENT6, VIP6), (40000, 9000), &payload);
            let inner6 = ipv6(CLIENT6, VIP6, UDP, &datagram);
            for (frame, service) in [
                (outer4(REAL, 4, &inner), &service),
                (outer6(REAL6, 4, &inner), &service),
                (outer6(REAL6, 41, &inner6), &service6),
                (gue4(PORT, &inner), &service),
                (gue4(PORT, &inner6), &service6),
                (gue6(PORT, &inner), &service),
                (gue6(PORT, &inner6), &service6),
            ] {
                wire.send(&frame);
                sent += 1;
                let mut buffer = [0; 2048];
                let received = service.recv(&mut buffer);
                let received = received.unwrap_or_else(|error| {
                    panic!("{mode}, packet {sent}, {length} bytes: {error}")
                });
                assert_eq!(buffer[..received], *payload, "{mode}, packet {sent}");
            }
        }
        let stripped = decap.counters().expect("counters").stripped();
        assert_eq!(stripped.packets, sent, "{mode}");
    }
}
