//! Clients whose prefix has a route (katran-compat sections 5.2 step 7, 5.4 and 9).

mod common;

use common::{
    Bench, NotSent, V4_REALS,
    frames::{Segment, icmp_error, tcp, udp},
    real, settings, vip,
};
use dataplane::{
    counters::DropReason,
    forward::{Asked, BURST, Explanation, FlowId, Packet, Selection},
    service::{
        Encapsulation, Protocol, ServiceControl, ServiceSpec, SourceRouteSpec, SourceRoutes,
        VipFlags,
    },
};

const VIP: &str = "203.0.113.10:80";
const ROUTED: &str = "198.51.100.20";

fn routes(list: &[(&str, u8, &str)]) -> SourceRoutes {
    let route = |(prefix, prefix_len, real): &(&str, u8, &str)| SourceRouteSpec {
        prefix: prefix.parse().unwrap(),
        prefix_len: *prefix_len,
        real: real.parse().unwrap(),
    };
    SourceRoutes::new(list.iter().map(route)).unwrap()
}

fn services(list: &[(&str, u8, &str)]) -> ServiceSpec {
    let flags = VipFlags::SRC_ROUTING;
    ServiceSpec {
        settings: settings(),
        vips: vec![
            vip("203.0.113.10", 80, Protocol::Tcp, flags, V4_REALS),
            vip(
                "203.0.113.11",
                80,
                Protocol::Tcp,
                VipFlags::empty(),
                V4_REALS,
            ),
            vip(
                "2001:db8:a::10",
                80,
                Protocol::Tcp,
                flags,
                &["2001:db8:f::1"],
            ),
        ],
        source_routes: routes(list),
        ..ServiceSpec::default()
    }
}

#[test]
fn the_real_of_a_route_is_down_or_local_as_one_of_the_vip_without_a_share() {
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    let flags = VipFlags::SRC_ROUTING | VipFlags::UDP_FLOW_MIGRATION | VipFlags::LOCAL_VIP;
    spec.vips = vec![vip("203.0.113.10", 80, Protocol::Udp, flags, V4_REALS)];
    let mut bench = Bench::new(&spec);
    let ring = |bench: &Bench| {
        let vip = bench.forwarder.table().vips().next().expect("the VIP");
        vip.ring.shares()
    };
    let before = ring(&bench);
    let frame = udp("192.0.2.10:40000", VIP, b"x");
    bench.send(&frame).expect("it is sent");
    assert_eq!(bench.last_real(), ROUTED);

    // The route is gone and the flow is known: only the mark makes it leave.
    spec.source_routes = SourceRoutes::default();
    spec.vips[0].reals.push(real(ROUTED, 0));
    bench.apply(&spec);
    bench.send(&frame).expect("it is sent");
    assert_eq!(bench.last_real(), ROUTED);
    spec.vips[0].reals[3].down = true;
    bench.apply(&spec);
    bench.send(&frame).expect("it is sent");
    assert_eq!(bench.last.selection, Selection::Ring);
    assert_ne!(bench.last_real(), ROUTED);
    assert_eq!(bench.counters.udp_flow_migrations.get(), 1);
    assert_eq!(ring(&bench), before);

    spec.source_routes = routes(&[("192.0.2.0", 24, ROUTED)]);
    spec.vips[0].reals[3].local = true;
    bench.apply(&spec);
    let other = udp("192.0.2.11:40000", VIP, b"x");
    assert_eq!(bench.send(&other), Err(NotSent::Passed));
    assert_eq!(bench.last.selection, Selection::SourceRoute);
}

fn send(bench: &mut Bench, client: &str, vip: &str, segment: Segment) -> (String, Selection) {
    bench
        .send_with_room(&tcp(client, vip, segment), 40)
        .expect("it is sent");
    (bench.last_real(), bench.last.selection)
}

fn routed(real: &str) -> (String, Selection) {
    (real.to_owned(), Selection::SourceRoute)
}

#[test]
fn the_route_decides_what_table_and_flag_leave_to_it() {
    let mut bench = Bench::new(&services(&[
        ("192.0.2.0", 24, ROUTED),
        ("192.0.2.128", 25, "198.51.100.11"),
        ("2001:db8:c::", 48, "2001:db8:f::9"),
    ]));
    let client = "192.0.2.1:4000";
    assert_eq!(send(&mut bench, client, VIP, Segment::Syn), routed(ROUTED));
    let stored = (ROUTED.to_owned(), Selection::Table);
    assert_eq!(send(&mut bench, client, VIP, Segment::Ack), stored);
    // A SYN asks anew, as it does the ring.
    assert_eq!(send(&mut bench, client, VIP, Segment::Syn), routed(ROUTED));
    assert_eq!(
        send(&mut bench, "192.0.2.129:4000", VIP, Segment::Ack),
        routed("198.51.100.11"),
        "the longest prefix"
    );
    let v6 = "[2001:db8:c::1]:4000";
    assert_eq!(
        send(&mut bench, v6, "[2001:db8:a::10]:80", Segment::Syn),
        routed("2001:db8:f::9")
    );
    for (client, vip) in [
        ("192.0.3.1:4000", VIP),
        ("[2001:db8:d::1]:4000", "[2001:db8:a::10]:80"),
        ("192.0.2.1:4001", "203.0.113.11:80"),
    ] {
        let (_, selection) = send(&mut bench, client, vip, Segment::Syn);
        assert_eq!(selection, Selection::Ring, "{client}");
    }
    let counters = &bench.counters;
    assert_eq!(counters.source_route_hits.get(), 4);
    assert_eq!(counters.source_route_misses.get(), 2);
    assert_eq!(counters.ring_selections.get(), 7);

    // An error about the flow reaches its real.
    let quoted = tcp(VIP, client, Segment::Ack);
    let error = icmp_error("198.18.0.1", "203.0.113.10", (3, 4), &quoted);
    bench.send(&error).unwrap();
    assert_eq!(bench.last_real(), ROUTED);
    bench.now_ns += 1;
    let quoted = tcp(VIP, "192.0.2.77:1", Segment::Ack);
    let error = icmp_error("198.18.0.1", "203.0.113.10", (3, 4), &quoted);
    bench.send(&error).unwrap();
    assert_eq!((bench.last_real(), bench.last.selection), routed(ROUTED));
}

/// The routes are asked for all new flows of a burst at once.
#[test]
fn each_packet_of_a_burst_gets_the_real_of_its_own_client() {
    let list: Vec<(String, u8, String)> = (0..16)
        .map(|n| {
            (
                format!("192.0.2.{}", 16 * n),
                28,
                format!("198.51.100.{}", 20 + n),
            )
        })
        .collect();
    let list: Vec<_> = list
        .iter()
        .map(|(prefix, len, real)| (&**prefix, *len, &**real))
        .collect();
    let mut bench = Bench::new(&services(&list));
    let is_routed = |n: usize| !n.is_multiple_of(3);
    let is_known = |n: usize| n.is_multiple_of(5);
    let frames: Vec<Vec<u8>> = (0..BURST)
        .map(|n| {
            let vip = if is_routed(n) { VIP } else { "203.0.113.11:80" };
            tcp(&format!("192.0.2.{}:40000", 3 * n), vip, Segment::Ack)
        })
        .collect();
    for frame in (0..BURST).filter(|n| is_known(*n)).map(|n| &frames[n]) {
        bench.send(frame).expect("it is sent");
    }
    let mut buffers: Vec<Vec<u8>> = frames
        .iter()
        .map(|frame| [&[0; 20], &**frame].concat())
        .collect();
    let mut burst: Vec<Packet<'_>> = buffers
        .iter_mut()
        .zip(&frames)
        .map(|(buffer, frame)| Packet::untagged(buffer, 20, frame.len()).expect("it fits"))
        .collect();
    let mut outcomes = [common::no_outcome(); BURST];
    bench
        .forwarder
        .process(bench.now_ns, &mut burst, &mut outcomes);
    let table = bench.forwarder.table();
    for (n, outcome) in outcomes.iter().enumerate() {
        let expected = match (is_known(n), is_routed(n)) {
            (true, _) => Selection::Table,
            (false, true) => Selection::SourceRoute,
            (false, false) => Selection::Ring,
        };
        assert_eq!(outcome.selection, expected, "{n}");
        if is_routed(n) {
            let real = table.real(outcome.real.index()).expect("a real");
            assert_eq!(real.address.to_string(), list[3 * n / 16].2, "{n}");
        }
    }
}

#[test]
fn in_a_flood_the_ring_decides() {
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    spec.settings.connection_rate_cap = 2;
    let mut bench = Bench::new(&spec);
    let selections: Vec<Selection> = (0..4)
        .map(|n| send(&mut bench, &format!("192.0.2.{n}:4000"), VIP, Segment::Syn).1)
        .collect();
    let (route, ring) = (Selection::SourceRoute, Selection::Ring);
    assert_eq!(selections, [route, route, ring, ring]);
    assert_eq!(bench.counters.source_route_hits.get(), 2);
    assert_eq!(
        bench.counters.source_route_misses.get(),
        0,
        "nobody was asked"
    );
}

#[test]
fn a_vip_without_reals_serves_those_who_have_a_route() {
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    spec.vips[0].reals.clear();
    let mut bench = Bench::new(&spec);
    assert_eq!(
        send(&mut bench, "192.0.2.1:4000", VIP, Segment::Syn),
        routed(ROUTED)
    );
    assert_eq!(
        bench.send(&tcp("192.0.3.1:4000", VIP, Segment::Syn)),
        Err(NotSent::Dropped(DropReason::NoReal))
    );
    // In a flood they have none either.
    let client = "192.0.2.2:4000".parse().unwrap();
    let id = FlowId::new(client, VIP.parse().unwrap(), Protocol::Tcp).unwrap();
    let flood = Asked {
        connection_events: settings().connection_rate_cap.into(),
        ..Asked::default()
    };
    let explained = bench.forwarder.explain_packet(&id, &flood, bench.now_ns);
    assert!(
        matches!(explained, Explanation::NoReal { flooded: true, .. }),
        "{explained:?}"
    );
}

#[test]
fn room_is_opened_for_reals_of_the_clients_routes() {
    let room = |list: &[(&str, u8, &str)]| {
        let table = ServiceControl::new().apply(&services(list)).unwrap();
        table.vips().map(|vip| vip.room).collect::<Vec<_>>()
    };
    assert_eq!(room(&[]), [20, 20, 40]);
    assert_eq!(room(&[("192.0.2.0", 24, "2001:db8:f::9")]), [40, 20, 40]);
    assert_eq!(room(&[("2001:db8::", 32, "2001:db8:f::9")]), [20, 20, 40]);
}

#[test]
fn a_change_elsewhere_shares_the_routes() {
    let mut control = ServiceControl::new();
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    let before = control.apply(&spec).unwrap();
    spec.vips[0].reals.push(real("198.51.100.14", 1));
    let after = control.apply(&spec).unwrap();
    let reals =
        |table: &dataplane::service::ServiceTable| table.source_routes().reals(true).as_ptr();
    assert_eq!(reals(&before), reals(&after));
}

#[test]
fn a_real_keeps_its_number_while_a_route_names_it() {
    let mut control = ServiceControl::new();
    let with = |list: &[(&str, u8, &str)], reals: &[&str]| {
        let mut spec = services(list);
        spec.vips.truncate(1);
        spec.vips[0].reals = reals.iter().map(|address| real(address, 1)).collect();
        spec
    };
    let route = [("192.0.2.0", 24, ROUTED)];
    let id = |table: &dataplane::service::ServiceTable| {
        let routed = table.real_of_client_v4([192, 0, 2, 1]).unwrap();
        assert_eq!(routed.address.to_string(), ROUTED);
        routed.id
    };
    let first = id(&control.apply(&with(&route, &[ROUTED])).unwrap());
    assert_eq!(id(&control.apply(&with(&route, &[])).unwrap()), first);
    let many: Vec<String> = (0..4094_u32)
        .map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string())
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(id(&control.apply(&with(&route, &many)).unwrap()), first);
    let more: Vec<&str> = many.iter().copied().chain(["198.51.100.1"]).collect();
    let error = control.apply(&with(&route, &more)).unwrap_err();
    assert!(error.problem.contains("real numbers are in use"), "{error}");
    control.apply(&with(&[], &many)).unwrap();
    control.apply(&with(&[], &more)).unwrap();
}

#[test]
fn gue_to_a_routes_real_needs_a_source() {
    let mut spec = services(&[("192.0.2.0", 24, "2001:db8:f::9")]);
    spec.vips.truncate(1);
    spec.settings.encapsulation = Encapsulation::Gue {
        port: 6080,
        source_v4: "192.0.2.1".parse().unwrap(),
        source_v6: std::net::Ipv6Addr::UNSPECIFIED,
    };
    let error = ServiceControl::new().apply(&spec).unwrap_err();
    assert_eq!(error.field, "source_route, real 2001:db8:f::9");
}

#[test]
fn explain_says_where_packets_go() {
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    spec.vips[0].key.protocol = Protocol::Udp;
    let mut bench = Bench::new(&spec);
    let mut by = |client: &str, expected| {
        let id = FlowId::new(client.parse().unwrap(), VIP.parse().unwrap(), Protocol::Udp);
        let explained = bench.forwarder.explain(&id.unwrap(), bench.now_ns);
        let Explanation::Selected { real, by, .. } = explained else {
            panic!("{explained:?}");
        };
        assert_eq!(by, expected);
        bench.send(&udp(client, VIP, b"query")).unwrap();
        assert_eq!(
            (bench.last_real(), bench.last.selection),
            (real.to_string(), by)
        );
    };
    by("192.0.2.1:4000", Selection::SourceRoute);
    by("192.0.2.1:4000", Selection::Table);
    by("192.0.3.1:4000", Selection::Ring);
}

/// `DPORT_ONLY` changes source and port only where the ring is asked (katran-compat section 2 rule 3).
#[test]
fn a_vip_that_hashes_the_port_alone_keeps_the_client_for_its_routes() {
    let mut spec = services(&[("192.0.2.0", 24, ROUTED)]);
    spec.vips[0].flags |= VipFlags::DPORT_ONLY;
    let mut bench = Bench::new(&spec);
    let outer_source = |frame: &[u8]| frame[26..30].to_vec();
    // Bytes of the client 192.0.2.10, port 40000, crossed as section 6.1 says.
    let of_client = [172, 16, 0x02 ^ 0x40, 0x0a ^ 0x9c];
    let of_nobody = [172, 16, 0x40, 0x9c];
    let mut send = |client: &str| {
        let frame = tcp(client, VIP, Segment::Ack);
        let sent = bench.send_with_room(&frame, 20).expect("it is sent");
        (outer_source(&sent), bench.last.selection)
    };
    let client = "192.0.2.10:40000";
    assert_eq!(send(client), (of_client.to_vec(), Selection::SourceRoute));
    assert_eq!(send(client), (of_client.to_vec(), Selection::Table));
    for _ in 0..2 {
        assert_eq!(
            send("198.18.0.10:40000"),
            (of_nobody.to_vec(), Selection::Ring)
        );
    }
}
