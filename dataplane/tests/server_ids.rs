//! Selection by server id and what it does to the flow table (katran-compat sections 5.2, 5.3, 7).

mod common;

use std::net::SocketAddr;

use common::{
    Bench, V4_REALS, V6_REALS,
    frames::{Segment, icmp_error, tcp, udp},
    settings, vip,
};
use dataplane::{
    counters::Counter,
    forward::{Asked, Explanation, FlowId, Selection},
    service::{Protocol, ServerIdSpec, ServerIds, ServiceSpec, Settings, VipFlags},
};

const SECOND_NS: u64 = 1_000_000_000;
const CLIENT: &str = "192.0.2.10:40000";
const VIP: &str = "203.0.113.10:443";

/// One VIP with the usual reals; ids 0x1001 and 0x1002 name reals that are not among them, 0x2001 an
/// IPv6 real.
fn services(protocol: Protocol, flags: VipFlags, tcp_server_id: bool) -> ServiceSpec {
    let server_id = |id, real: &str| ServerIdSpec {
        id,
        real: real.parse().unwrap(),
        valid: true,
    };
    ServiceSpec {
        settings: Settings {
            tcp_server_id,
            ..settings()
        },
        vips: vec![
            vip("203.0.113.10", 443, protocol, flags, V4_REALS),
            vip("2001:db8:a::10", 443, protocol, flags, V6_REALS),
        ],
        server_ids: ServerIds::new(vec![
            server_id(0x1001, "198.51.100.101"),
            server_id(0x1002, "198.51.100.102"),
            server_id(0x2001, "2001:db8:f::101"),
        ])
        .unwrap(),
        ..ServiceSpec::default()
    }
}

/// A QUIC packet with a short header and a connection id of version 2.
fn quic(id: u32) -> Vec<u8> {
    let [_, a, b, c] = id.to_be_bytes();
    udp(CLIENT, VIP, &[0x40, 0x80, a, b, c, 0, 0, 0, 0, 1, 2, 3])
}

/// A QUIC packet without a connection id of ours.
fn quic_without_id() -> Vec<u8> {
    udp(CLIENT, VIP, &[0x40, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3])
}

fn stable(id: u32) -> Vec<u8> {
    let [_, a, b, c] = id.to_be_bytes();
    udp(CLIENT, VIP, &[0x52, a, b, c, 0, 0, 0, 0])
}

fn tcp_with_id(id: u32) -> Vec<u8> {
    with_option(tcp(CLIENT, VIP, Segment::Ack), id)
}

/// A TCP segment with the server-id option behind two no-operations.
fn with_option(mut frame: Vec<u8>, id: u32) -> Vec<u8> {
    frame[46] = 7 << 4;
    frame.extend([1, 1, 0xb7, 6]);
    frame.extend(id.to_le_bytes());
    let total_length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total_length.to_be_bytes());
    frame
}

fn selected(bench: &mut Bench, frame: &[u8]) -> (Selection, String) {
    bench.send(frame).expect("it is sent");
    (bench.last.selection, bench.last_real())
}

fn named(real: &str) -> (Selection, String) {
    (Selection::ServerId, real.to_owned())
}

#[test]
fn quic_ids_name_the_real_and_fix_the_table() {
    let mut bench = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    let (by, first) = selected(&mut bench, &quic_without_id());
    assert_eq!(by, Selection::Ring);
    assert_eq!(selected(&mut bench, &quic(0x1001)), named("198.51.100.101"));
    assert_eq!(selected(&mut bench, &quic(0x1001)), named("198.51.100.101"));
    assert_ne!(first, "198.51.100.101");
    // The entry was overwritten in place and kept its time, so it is found without an id.
    let expected = (Selection::Table, "198.51.100.101".to_owned());
    assert_eq!(selected(&mut bench, &quic_without_id()), expected);
    let counters = &bench.counters.quic;
    assert_eq!(counters.table_mismatch.get(), 1);
    assert_eq!(counters.table_match.get(), 1);
    assert_eq!(counters.routed.get(), 2);
    assert_eq!(counters.by_table_or_ring.get(), 2);
    assert_eq!(counters.cid_v2.get(), 2);
    assert_eq!(bench.counters.server_id_vips[0].mismatches.get(), 1);
}

#[test]
fn a_udp_entry_that_a_server_id_made_has_expired_already() {
    let mut bench = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    assert_eq!(selected(&mut bench, &quic(0x1002)), named("198.51.100.102"));
    assert_eq!(bench.counters.quic.table_miss.get(), 1);
    assert_eq!(bench.forwarder.flow_count(), 1);
    bench.now_ns += SECOND_NS;
    assert_eq!(selected(&mut bench, &quic_without_id()).0, Selection::Ring);
}

#[test]
fn ids_that_no_real_of_the_family_has_are_unknown() {
    let mut bench = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    assert_eq!(selected(&mut bench, &quic(0x7777)).0, Selection::Ring);
    assert_eq!(bench.counters.quic.unknown_id_sample.get(), 0x7777);
    // An IPv6 real can take an IPv4 packet, not the other way round.
    assert_eq!(
        selected(&mut bench, &quic(0x2001)),
        named("2001:db8:f::101")
    );
    let [client, vip] = ["[2001:db8::10]:40000", "[2001:db8:a::10]:443"];
    let payload = [0x40, 0x80, 0, 0x10, 0x01, 0, 0, 0, 0];
    assert_ne!(
        selected(&mut bench, &udp(client, vip, &payload)).0,
        Selection::ServerId
    );
    assert_eq!(bench.counters.quic.unknown_id.get(), 2);
}

#[test]
fn initial_packets_go_by_table_and_ring() {
    let mut bench = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    let mut initial = vec![0xc0, 0, 0, 0, 1, 8, 0x80, 0, 0x10, 0x01];
    initial.resize(40, 0);
    assert_eq!(
        selected(&mut bench, &udp(CLIENT, VIP, &initial)).0,
        Selection::Ring
    );
    assert_eq!(
        selected(&mut bench, &udp(CLIENT, VIP, &initial)).0,
        Selection::Table
    );
    assert_eq!(bench.counters.quic.initial.get(), 2);
    assert_eq!(bench.counters.server_id_vips[0].openings.get(), 2);
}

#[test]
fn quic_errors_are_counted_and_go_by_table_and_ring() {
    let mut bench = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    let (_, real) = selected(&mut bench, &quic_without_id());
    for (code, ignorable) in [(3, 1), (4, 1), (1, 2)] {
        let quoted = udp(VIP, CLIENT, &[0x40, 0x80, 0, 0x10, 0x01, 0, 0, 0, 0]);
        let error = icmp_error("198.18.0.1", "203.0.113.10", (3, code), &quoted);
        assert_eq!(
            selected(&mut bench, &error),
            (Selection::Table, real.clone())
        );
        assert_eq!(bench.counters.quic.icmp_ignorable.get(), ignorable);
    }
    assert_eq!(bench.counters.quic.icmp_errors.get(), 3);
}

#[test]
fn stable_routing_leaves_the_table_alone() {
    let flags = VipFlags::UDP_STABLE_ROUTING;
    let mut bench = Bench::new(&services(Protocol::Udp, flags, false));
    assert_eq!(
        selected(&mut bench, &stable(0x1001)),
        named("198.51.100.101")
    );
    assert_eq!(bench.forwarder.flow_count(), 0);
    assert_eq!(selected(&mut bench, &stable(0)).0, Selection::Ring);
    assert_eq!(selected(&mut bench, &stable(0x7777)).0, Selection::Table);
    assert_eq!(
        selected(&mut bench, &udp(CLIENT, VIP, b"other data")).0,
        Selection::Table
    );
    let counters = &bench.counters.stable_routing;
    assert_eq!(counters.routed.get(), 1);
    assert_eq!(counters.unknown_id.get(), 1);
    assert_eq!(counters.not_marked.get(), 1);
    assert_eq!(counters.by_table_or_ring.get(), 3);
}

#[test]
fn tcp_options_are_read_only_when_asked_and_never_of_a_syn() {
    let mut bench = Bench::new(&services(Protocol::Tcp, VipFlags::empty(), false));
    assert_eq!(
        selected(&mut bench, &tcp_with_id(0x1001)).0,
        Selection::Ring
    );

    let mut bench = Bench::new(&services(Protocol::Tcp, VipFlags::empty(), true));
    assert_eq!(
        selected(&mut bench, &tcp(CLIENT, VIP, Segment::Syn)).0,
        Selection::Ring
    );
    assert_eq!(
        selected(&mut bench, &tcp_with_id(0x1001)),
        named("198.51.100.101")
    );
    // The entry was corrected, so that a segment without the option follows.
    let expected = (Selection::Table, "198.51.100.101".to_owned());
    assert_eq!(
        selected(&mut bench, &tcp(CLIENT, VIP, Segment::Ack)),
        expected
    );
    assert_eq!(selected(&mut bench, &tcp_with_id(0x7777)), expected);
    let counters = &bench.counters.tcp_server_id;
    assert_eq!(counters.syn.get(), 1);
    assert_eq!(counters.routed.get(), 1);
    assert_eq!(counters.table_mismatch.get(), 1);
    assert_eq!(counters.by_table_or_ring.get(), 2);
}

#[test]
fn an_explanation_reads_ids_where_such_a_packet_is_read() {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let id =
        |protocol| FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), protocol).unwrap();
    let stable = VipFlags::UDP_STABLE_ROUTING;
    for (protocol, flags, syn, error, by) in [
        (tcp, VipFlags::empty(), false, false, Selection::ServerId),
        (tcp, VipFlags::empty(), false, true, Selection::Ring),
        (tcp, VipFlags::empty(), true, false, Selection::Ring),
        (tcp, VipFlags::empty(), true, true, Selection::Ring),
        (udp, VipFlags::QUIC, false, false, Selection::ServerId),
        (udp, VipFlags::QUIC, false, true, Selection::Ring),
        (udp, stable, false, true, Selection::ServerId),
    ] {
        let bench = Bench::new(&services(protocol, flags, true));
        let asked = Asked {
            server_id: Some(0x1001),
            syn,
            error,
            ..Asked::default()
        };
        let explained = bench
            .forwarder
            .explain_packet(&id(protocol), &asked, bench.now_ns);
        let Explanation::Selected { by: how, .. } = explained else {
            panic!("{explained:?}");
        };
        assert_eq!(how, by, "{protocol} {flags:?} {syn} {error}");
    }
}

/// An ICMP error about `quoted`, a frame from the VIP to the client.
fn error_about(quoted: &[u8]) -> Vec<u8> {
    icmp_error("198.18.0.1", "203.0.113.10", (3, 4), quoted)
}

#[test]
fn the_tcp_option_in_a_quoted_packet_neither_selects_nor_counts() {
    let without = tcp(VIP, CLIENT, Segment::Ack);
    let with_id = with_option(without.clone(), 0x1001);
    let opening = tcp(VIP, CLIENT, Segment::Syn);
    for tcp_server_id in [true, false] {
        let mut bench = Bench::new(&services(Protocol::Tcp, VipFlags::empty(), tcp_server_id));
        let (by, real) = selected(&mut bench, &error_about(&with_id));
        assert_eq!(by, Selection::Ring);
        let table = (Selection::Table, real);
        assert_eq!(selected(&mut bench, &error_about(&with_id)), table);
        assert_eq!(selected(&mut bench, &error_about(&without)), table);
        assert_eq!(
            selected(&mut bench, &error_about(&opening)).0,
            Selection::Ring
        );
        let counters = &bench.counters.tcp_server_id;
        let counted = [&counters.routed, &counters.by_table_or_ring, &counters.syn];
        assert_eq!(counted.map(Counter::get), [0; 3]);
        assert_eq!(bench.counters.server_id_vips[0].openings.get(), 0);
        assert_eq!(bench.counters.icmp_errors.get(), 4);
    }
}

#[test]
fn the_id_in_a_quoted_udp_payload_selects() {
    let flags = VipFlags::UDP_STABLE_ROUTING;
    let mut bench = Bench::new(&services(Protocol::Udp, flags, false));
    let quoted = udp(VIP, CLIENT, &[0x52, 0, 0x10, 0x01, 0, 0, 0, 0]);
    assert_eq!(
        selected(&mut bench, &error_about(&quoted)),
        named("198.51.100.101")
    );
    assert_eq!(bench.counters.stable_routing.routed.get(), 1);
}

#[test]
fn lru_bypass_keeps_tcp_ids_out_of_the_table_but_not_quic_ids() {
    let mut bench = Bench::new(&services(Protocol::Tcp, VipFlags::LRU_BYPASS, true));
    assert_eq!(
        selected(&mut bench, &tcp_with_id(0x1001)),
        named("198.51.100.101")
    );
    assert_eq!(bench.forwarder.flow_count(), 0);
    let flags = VipFlags::LRU_BYPASS | VipFlags::QUIC;
    let mut bench = Bench::new(&services(Protocol::Udp, flags, false));
    assert_eq!(selected(&mut bench, &quic(0x1001)), named("198.51.100.101"));
    assert_eq!(bench.forwarder.flow_count(), 1);
}

#[test]
fn a_real_keeps_its_index_while_a_server_id_names_it() {
    let mut spec = services(Protocol::Udp, VipFlags::QUIC, false);
    let mut bench = Bench::new(&spec);
    bench.send(&quic(0x1001)).unwrap();
    let before = bench.last.real;
    spec.vips[0].reals.push(common::real("198.51.100.101", 1));
    bench.apply(&spec);
    spec.vips[0].reals.pop();
    bench.apply(&spec);
    bench.send(&quic(0x1001)).unwrap();
    assert_eq!(bench.last.real, before);
    spec.server_ids = ServerIds::default();
    bench.apply(&spec);
    assert_ne!(
        selected(&mut bench, &quic(0x1001)).0,
        Selection::ServerId,
        "really gone"
    );
}

#[test]
fn an_explanation_can_be_asked_for_a_packet_with_an_id() {
    let with_flag = Bench::new(&services(Protocol::Udp, VipFlags::QUIC, false));
    let without = Bench::new(&services(Protocol::Udp, VipFlags::empty(), false));
    let id = with_flag.forwarder.table().vips().next().map(|vip| {
        let destination = SocketAddr::new(vip.key.address, vip.key.port);
        FlowId::new(
            "192.0.2.10:40000".parse().unwrap(),
            destination,
            Protocol::Udp,
        )
        .unwrap()
    });
    let id = id.unwrap();
    let explain = |bench: &Bench, server_id| {
        let forwarder = &bench.forwarder;
        let asked = Asked {
            server_id,
            ..Asked::default()
        };
        match forwarder.explain_packet(&id, &asked, bench.now_ns) {
            Explanation::Selected { real, by, .. } => (by, real.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(explain(&with_flag, Some(0x1001)), named("198.51.100.101"));
    let by_ring = explain(&with_flag, None);
    assert_eq!(by_ring.0, Selection::Ring);
    assert_eq!(
        explain(&with_flag, Some(0x7777)),
        by_ring,
        "nobody has this id"
    );
    assert_eq!(
        explain(&without, Some(0x1001)).0,
        Selection::Ring,
        "ids are not read"
    );
}
