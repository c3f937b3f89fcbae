//! Which packets keep their real, and why (katran-compat sections 2, 4.7 and 5).

mod common;

use common::{
    Bench, NotSent, V4_REALS,
    frames::{Segment, icmp_error, tcp, udp},
    real, settings, vip,
};
use dataplane::{
    counters::DropReason,
    forward::{Asked, Explanation, FlowId, PassedOver, Selection},
    service::{Protocol, ServiceSpec, VipFlags},
};

use Protocol::{Tcp, Udp};
use xdp_layout::Tag;

const SECOND_NS: u64 = 1_000_000_000;

fn one_vip(port: u16, protocol: Protocol, flags: VipFlags, reals: &[&str]) -> ServiceSpec {
    ServiceSpec {
        settings: settings(),
        vips: vec![vip("203.0.113.10", port, protocol, flags, reals)],
        ..ServiceSpec::default()
    }
}

/// Sends and tells by what the real was selected.
fn selection(bench: &mut Bench, frame: &[u8]) -> Selection {
    bench.send(frame).expect("it is sent");
    bench.last.selection
}

const CLIENT: &str = "192.0.2.10:40000";
const VIP: &str = "203.0.113.10:80";

#[test]
fn hash_vectors_with_flags() {
    let none = VipFlags::empty();
    let (no_src_port, dport_only, src_dst_port) = (
        VipFlags::NO_SRC_PORT,
        VipFlags::DPORT_ONLY,
        VipFlags::SRC_DST_PORT,
    );
    // katran-compat section 2.1: client, VIP port, destination port, flags, hash, ring index.
    let v4 = [
        (443, 443, none, 0x833e_99b9, 5755),
        (443, 443, no_src_port, 0xec8c_e4e1, 63574),
        (443, 443, dport_only, 0x0410_69ae, 26014),
        (0, 5060, none, 0x6884_049b, 39960),
        (0, 5060, src_dst_port, 0x98d5_b7d6, 7937),
        (0, 5060, no_src_port, 0xc022_0b57, 19254),
        (0, 5060, dport_only, 0xebc0_4db5, 25078),
    ];
    let v6 = [
        (443, 443, none, 0xe5fe_641e, 32289),
        (443, 443, no_src_port, 0xcc52_1668, 18967),
        (443, 443, dport_only, 0x1aef_79fc, 24333),
        (0, 5060, none, 0x96a8_8754, 61613),
        (0, 5060, src_dst_port, 0xaba5_5813, 44143),
    ];
    let rows = v4
        .map(|row| ("192.0.2.10:40000", "203.0.113.10", row))
        .into_iter()
        .chain(v6.map(|row| ("[2001:db8::10]:40000", "2001:db8:a::10", row)));
    for (client, address, (vip_port, port, flags, hash, index)) in rows {
        let spec = ServiceSpec {
            settings: settings(),
            vips: vec![vip(address, vip_port, Udp, flags, &["2001:db8:f::1"])],
            ..ServiceSpec::default()
        };
        let bench = Bench::new(&spec);
        let destination = (address.parse::<std::net::IpAddr>().unwrap(), port).into();
        let id = FlowId::new(client.parse().unwrap(), destination, Udp).unwrap();
        let Explanation::Selected {
            hash: h,
            ring_index,
            ..
        } = bench.forwarder.explain(&id, 0)
        else {
            panic!("{client} {address} is balanced");
        };
        assert_eq!(
            (h, ring_index),
            (hash, index),
            "{client} {address}:{vip_port} {flags:?}"
        );
    }
}

#[test]
fn a_flow_stays_when_the_ring_changes_under_it() {
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), V4_REALS);
    let mut bench = Bench::new(&spec);
    let clients: Vec<String> = (0..200)
        .map(|n| format!("192.0.2.10:{}", 40000 + n))
        .collect();
    let reals: Vec<String> = clients
        .iter()
        .map(|client| {
            assert_eq!(
                selection(&mut bench, &tcp(client, VIP, Segment::Syn)),
                Selection::Ring
            );
            bench.last_real()
        })
        .collect();
    // Drain the first real, remove nothing a flow uses, add two.
    spec.vips[0].reals[0].weight = 0;
    spec.vips[0]
        .reals
        .extend([real("198.51.100.21", 5), real("198.51.100.22", 1)]);
    bench.apply(&spec);
    for (client, expected) in clients.iter().zip(&reals) {
        assert_eq!(
            selection(&mut bench, &tcp(client, VIP, Segment::Ack)),
            Selection::Table
        );
        assert_eq!(&bench.last_real(), expected);
    }
    for n in 0..200 {
        let client = format!("192.0.2.11:{}", 40000 + n);
        bench.send(&tcp(&client, VIP, Segment::Syn)).unwrap();
        assert_ne!(
            bench.last_real(),
            V4_REALS[0],
            "a drained real gets no new flow"
        );
    }
}

#[test]
fn syn_selects_anew_and_overwrites() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), &V4_REALS[..1]));
    bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    bench.apply(&one_vip(80, Tcp, VipFlags::empty(), &V4_REALS[1..2]));
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Ack)),
        Selection::Table
    );
    assert_eq!(bench.last_real(), V4_REALS[0]);
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Syn)),
        Selection::Ring
    );
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Ack)),
        Selection::Table
    );
    assert_eq!(bench.last_real(), V4_REALS[1]);
    assert_eq!(bench.forwarder.flow_count(), 1);
}

#[test]
fn rst_is_looked_up_and_never_stored() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), V4_REALS));
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Rst)),
        Selection::Ring
    );
    assert_eq!(bench.forwarder.flow_count(), 0);
    bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Rst)),
        Selection::Table
    );
    assert_eq!(
        selection(&mut bench, &tcp(CLIENT, VIP, Segment::Ack)),
        Selection::Table
    );
}

#[test]
fn tcp_misses_are_counted_by_kind() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), V4_REALS));
    bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    bench.send(&tcp(CLIENT, VIP, Segment::Ack)).unwrap();
    bench
        .send(&tcp("192.0.2.10:40001", VIP, Segment::Ack))
        .unwrap();
    assert_eq!(bench.counters.tcp_syn_misses.get(), 1);
    assert_eq!(bench.counters.tcp_non_syn_misses.get(), 1);
    assert_eq!(bench.counters.ring_selections.get(), 2);
    assert_eq!(bench.counters.vip_packets.get(), 3);
}

#[test]
fn udp_flows_end_after_thirty_idle_seconds() {
    let mut bench = Bench::new(&one_vip(53, Udp, VipFlags::empty(), V4_REALS));
    let frame = udp(CLIENT, "203.0.113.10:53", b"query");
    assert_eq!(selection(&mut bench, &frame), Selection::Ring);
    for (idle, expected) in [
        (29 * SECOND_NS, Selection::Table),
        (29 * SECOND_NS, Selection::Table),
        (30 * SECOND_NS, Selection::Table),
        (30 * SECOND_NS + 1, Selection::Ring),
        (31 * SECOND_NS, Selection::Ring),
        (1, Selection::Table),
    ] {
        bench.now_ns += idle;
        assert_eq!(selection(&mut bench, &frame), expected, "after {idle} ns");
    }
}

#[test]
fn lru_bypass_and_dport_only_keep_no_flows() {
    for flags in [VipFlags::LRU_BYPASS, VipFlags::DPORT_ONLY] {
        let mut bench = Bench::new(&one_vip(80, Tcp, flags, V4_REALS));
        for _ in 0..3 {
            let frame = tcp(CLIENT, VIP, Segment::Ack);
            assert_eq!(selection(&mut bench, &frame), Selection::Ring, "{flags:?}");
        }
        assert_eq!(bench.forwarder.flow_count(), 0);
        assert_eq!(bench.counters.ring_selections.get(), 3);
    }
}

#[test]
fn clients_without_source_port_share_a_flow() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::NO_SRC_PORT, V4_REALS));
    bench
        .send(&tcp("192.0.2.10:40000", VIP, Segment::Syn))
        .unwrap();
    let first = bench.last_real();
    let frame = tcp("192.0.2.10:50000", VIP, Segment::Ack);
    assert_eq!(selection(&mut bench, &frame), Selection::Table);
    assert_eq!(bench.last_real(), first);
}

#[test]
fn above_the_connection_cap_flows_are_balanced_but_not_stored() {
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), V4_REALS);
    spec.settings.connection_rate_cap = 3;
    let mut bench = Bench::new(&spec);
    for n in 0..6 {
        let client = format!("192.0.2.10:{}", 40000 + n);
        assert_eq!(
            selection(&mut bench, &tcp(&client, VIP, Segment::Syn)),
            Selection::Ring
        );
    }
    assert_eq!(bench.forwarder.flow_count(), 3);
    assert_eq!(bench.counters.flood_suppressed.get(), 3);
    bench.now_ns += SECOND_NS + 1;
    bench
        .send(&tcp("192.0.2.10:40100", VIP, Segment::Syn))
        .unwrap();
    assert_eq!(bench.forwarder.flow_count(), 4);

    // Another cap holds from the next packet on.
    spec.settings.connection_rate_cap = 1;
    bench.apply(&spec);
    bench
        .send(&tcp("192.0.2.10:40101", VIP, Segment::Syn))
        .unwrap();
    assert_eq!(bench.forwarder.flow_count(), 4);
    assert_eq!(bench.counters.connection_events_at(bench.now_ns), 2);
}

#[test]
fn icmp_errors_reach_the_real_of_the_flow_they_quote() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), V4_REALS));
    for n in 0..50 {
        let client = format!("192.0.2.10:{}", 40000 + n);
        let data = bench.send(&tcp(&client, VIP, Segment::Syn)).unwrap();
        let real = bench.last_real();
        let quoted = tcp(VIP, &client, Segment::Ack);
        let error = icmp_error("198.18.0.1", "203.0.113.10", (3, 4), &quoted);
        let steered = bench.send(&error).unwrap();
        assert_eq!(bench.last.selection, Selection::Table);
        assert_eq!(bench.last_real(), real);
        assert_eq!(steered[26..30], data[26..30], "outer source as the flow's");
        assert_eq!(steered[34..], error[14..], "the whole message is carried");
    }
    assert_eq!(bench.counters.icmp_errors.get(), 50);
}

#[test]
fn a_vip_without_usable_reals_drops_with_its_own_reason() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), &[]));
    let frame = tcp(CLIENT, VIP, Segment::Syn);
    assert_eq!(
        bench.send(&frame),
        Err(NotSent::Dropped(DropReason::NoReal))
    );
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), V4_REALS);
    bench.apply(&spec);
    assert!(bench.send(&frame).is_ok());
    for real in &mut spec.vips[0].reals {
        real.weight = 0;
    }
    bench.apply(&spec);
    assert_eq!(
        bench.send(&frame),
        Err(NotSent::Dropped(DropReason::NoReal))
    );
    let established = tcp(CLIENT, VIP, Segment::Ack);
    assert_eq!(
        selection(&mut bench, &established),
        Selection::Table,
        "old flows live on"
    );
    assert_eq!(bench.counters.unaccounted(), 0);
}

#[test]
fn flows_of_a_reused_real_index_select_anew() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), &["198.51.100.1"]));
    bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    // Every other index is used before the first real's comes round again.
    let many: Vec<String> = (0..4095)
        .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    bench.apply(&one_vip(80, Tcp, VipFlags::empty(), &many[..1]));
    bench.apply(&one_vip(80, Tcp, VipFlags::empty(), &many));
    let established = tcp(CLIENT, VIP, Segment::Ack);
    assert_eq!(selection(&mut bench, &established), Selection::Ring);
}

#[test]
fn per_vip_and_per_real_bytes_are_those_of_the_ip_header() {
    let mut bench = Bench::new(&one_vip(53, Udp, VipFlags::empty(), &V4_REALS[..1]));
    bench
        .send(&udp(CLIENT, "203.0.113.10:53", b"twelve bytes"))
        .unwrap();
    assert_eq!(bench.counters.vips[0].get(), (1, 40));
    assert_eq!(bench.counters.reals[1].get(), (1, 40));
    assert_eq!(bench.counters.received.get(), (1, 54));
}

#[test]
fn explain_says_what_happens_and_changes_nothing() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), V4_REALS));
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Tcp).unwrap();
    let explained = |bench: &Bench| match bench.forwarder.explain(&id, bench.now_ns) {
        Explanation::Selected {
            real,
            by,
            outer_source,
            ..
        } => (real.to_string(), by, outer_source.to_string()),
        other => panic!("{other:?}"),
    };
    let (real, by, outer_source) = explained(&bench);
    assert_eq!(by, Selection::Ring);
    assert_eq!(bench.forwarder.flow_count(), 0);
    let sent = bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    assert_eq!(bench.last_real(), real);
    assert_eq!(outer_source, format!("172.16.{}.{}", sent[28], sent[29]));
    assert_eq!(explained(&bench), (real, Selection::Table, outer_source));
    assert_eq!(bench.counters.ring_selections.get(), 1);
}

#[test]
fn flows_can_be_listed_found_removed_and_purged() {
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), V4_REALS);
    spec.vips.push(vip(
        "2001:db8:a::10",
        80,
        Tcp,
        VipFlags::empty(),
        &["2001:db8:f::1"],
    ));
    let mut bench = Bench::new(&spec);
    for n in 0..20 {
        bench
            .send(&tcp(
                &format!("192.0.2.10:{}", 40000 + n),
                VIP,
                Segment::Syn,
            ))
            .unwrap();
        let client = format!("[2001:db8::10]:{}", 40000 + n);
        bench
            .send(&tcp(&client, "[2001:db8:a::10]:80", Segment::Syn))
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = bench
            .forwarder
            .scan_flows(at, 7, &mut |record| seen.push(*record));
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.iter().all(|record| record.real_address.is_some()));

    let id = seen[0].id;
    assert_eq!(bench.forwarder.flow(&id), Some(seen[0]));
    assert!(bench.forwarder.remove_flow(&id));
    assert!(!bench.forwarder.remove_flow(&id));
    assert_eq!(bench.forwarder.flow_count(), 39);

    let mut removed = 0;
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let (n, next) = bench
            .forwarder
            .purge_step(at, 64, &|record| record.id.destination().is_ipv6());
        removed += n;
        cursor = next;
    }
    assert_eq!(removed, 20);
    assert_eq!(bench.forwarder.flow_count(), 19);
}

#[test]
fn a_packet_that_finds_the_ring_empty_is_a_miss_and_no_selection() {
    for flags in [VipFlags::empty(), VipFlags::SRC_ROUTING] {
        let mut bench = Bench::new(&one_vip(80, Tcp, flags, &[]));
        for segment in [Segment::Syn, Segment::Ack] {
            bench.send(&tcp(CLIENT, VIP, segment)).unwrap_err();
        }
        let counters = &bench.counters;
        assert_eq!(counters.tcp_syn_misses.get(), 1);
        assert_eq!(counters.tcp_non_syn_misses.get(), 1);
        assert_eq!(counters.ring_empty_slots.get(), 2);
        assert_eq!(counters.ring_selections.get(), 0);
        assert_eq!(counters.vip_ring_selections[0].get(), 0);
    }
}

/// How the forwarder would select, and why no table would.
fn how(bench: &Bench, id: &FlowId, asked: Asked) -> (Selection, Option<PassedOver>) {
    match bench.forwarder.explain_packet(id, &asked, bench.now_ns) {
        Explanation::Selected {
            by, passed_over, ..
        } => (by, passed_over),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_explanation_says_why_an_entry_does_not_count() {
    let mut bench = Bench::new(&one_vip(80, Tcp, VipFlags::empty(), V4_REALS));
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Tcp).unwrap();
    let asked = Asked::default();
    let syn = Asked { syn: true, ..asked };
    assert_eq!(how(&bench, &id, asked), (Selection::Ring, None));
    bench.send(&tcp(CLIENT, VIP, Segment::Syn)).unwrap();
    assert_eq!(how(&bench, &id, asked), (Selection::Table, None));
    let error = Asked {
        error: true,
        ..asked
    };
    assert_eq!(how(&bench, &id, error), (Selection::Table, None));
    assert_eq!(
        how(&bench, &id, syn),
        (Selection::Ring, Some(PassedOver::Syn))
    );

    let flags = VipFlags::UDP_FLOW_MIGRATION;
    let mut spec = one_vip(80, Udp, flags, V4_REALS);
    let mut bench = Bench::new(&spec);
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Udp).unwrap();
    bench.send(&udp(CLIENT, VIP, b"x")).unwrap();
    let real: std::net::IpAddr = bench.last_real().parse().unwrap();
    for spec in &mut spec.vips[0].reals {
        spec.down = spec.address == real;
    }
    bench.apply(&spec);
    let down = (Selection::Ring, Some(PassedOver::RealDown));
    assert_eq!(how(&bench, &id, asked), down);
    // In a flood nobody moves.
    let cap = u64::from(spec.settings.connection_rate_cap);
    let events = |connection_events| Asked {
        connection_events,
        ..asked
    };
    assert_eq!(how(&bench, &id, events(cap - 1)), down);
    assert_eq!(how(&bench, &id, events(cap)), (Selection::Table, None));
    // What has expired is not left.
    bench.now_ns += 31 * SECOND_NS;
    let expired = (Selection::Ring, Some(PassedOver::Expired));
    assert_eq!(how(&bench, &id, asked), expired);
    bench.apply(&one_vip(80, Udp, VipFlags::LRU_BYPASS, V4_REALS));
    let bypass = (Selection::Ring, Some(PassedOver::Bypass));
    assert_eq!(how(&bench, &id, asked), bypass);
}

#[test]
fn a_tag_of_another_vip_of_the_address_does_not_count() {
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), &["198.51.100.1"]);
    for (port, protocol) in [(443, Tcp), (80, Udp), (0, Tcp)] {
        let other = vip(
            "203.0.113.10",
            port,
            protocol,
            VipFlags::empty(),
            &["198.51.100.2"],
        );
        spec.vips.push(other);
    }
    // The last has any port, as the program may find for a packet to a port of its own.
    for (vip, real, stale) in [
        (0, "198.51.100.1", 0),
        (1, "198.51.100.1", 1),
        (2, "198.51.100.1", 1),
        (3, "198.51.100.2", 0),
    ] {
        let mut bench = Bench::new(&spec);
        let tag = Tag {
            generation: bench
                .forwarder
                .table()
                .vip(vip)
                .expect("it exists")
                .generation,
            vip,
            room: 20,
            zero: 0,
        };
        let mut buffer = vec![0; 20];
        buffer[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        buffer.extend(tcp(CLIENT, VIP, Segment::Ack));
        let received = buffer.len();
        let sent = bench.send_tagged(&mut buffer, received);
        sent.expect("the tag is sound").expect("it is sent");
        assert_eq!(bench.last_real(), real, "{tag:?}");
        assert_eq!(bench.counters.stale_tags.get(), stale, "{tag:?}");
    }
}

#[test]
fn a_tag_counts_only_for_the_vip_it_was_written_for() {
    let mut spec = one_vip(80, Tcp, VipFlags::empty(), &["198.51.100.1"]);
    spec.vips.push(vip(
        "203.0.113.20",
        80,
        Tcp,
        VipFlags::empty(),
        &["198.51.100.2"],
    ));
    let mut bench = Bench::new(&spec);
    let frame = tcp(CLIENT, VIP, Segment::Ack);
    let generation = bench
        .forwarder
        .table()
        .vip(0)
        .expect("it exists")
        .generation;
    for (vip, generation, stale) in [
        (0, generation, 0),
        (0, generation + 1, 1),
        // The number of the other VIP, of one that does not exist, and none.
        (1, generation, 2),
        (300, generation, 3),
        (Tag::NO_VIP, generation, 3),
    ] {
        let tag = Tag {
            generation,
            vip,
            room: 20,
            zero: 0,
        };
        let mut buffer = vec![0; 20];
        buffer[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        buffer.extend(&frame);
        let received = buffer.len();
        let sent = bench.send_tagged(&mut buffer, received);
        sent.expect("the tag is sound").expect("it is sent");
        assert_eq!(bench.last_real(), "198.51.100.1", "{tag:?}");
        assert_eq!(bench.counters.stale_tags.get(), stale, "{tag:?}");
    }
}
