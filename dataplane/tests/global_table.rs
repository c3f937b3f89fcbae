//! Flows that move to another worker (katran-compat section 5.2 step 5).

mod common;

use std::sync::Arc;

use common::{
    Bench, NotSent, V4_REALS, V6_REALS,
    frames::{Segment, icmp_error, tcp, udp},
    real, settings, vip,
};
use dataplane::{
    counters::WorkerCounters,
    forward::{Explanation, FlowId, Forwarder, ForwarderConfig, Selection},
    service::{
        Protocol::{self, Tcp, Udp},
        ServerIds, ServiceSpec, VipFlags,
    },
};

const SECOND_NS: u64 = 1_000_000_000;
const VIP: &str = "203.0.113.10:80";
const VIP_V6: &str = "[2001:db8:a::10]:80";
const CLIENT: &str = "192.0.2.10:40000";

/// Two workers of one balancer.
struct Pair {
    a: Bench,
    b: Bench,
}

impl Pair {
    fn new(spec: &ServiceSpec) -> Self {
        let a = Bench::new(spec);
        let mut b = Bench::new(spec);
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity: 1000,
            seeds: [5, 6, 7, 8],
        };
        b.forwarder =
            Forwarder::new(&config, a.control.table(), Arc::clone(&counters)).expect("a table");
        b.counters = counters;
        Self { a, b }
    }

    fn apply(&mut self, spec: &ServiceSpec) {
        self.a.apply(spec);
        self.b.forwarder.set_table(self.a.control.table());
    }

    fn advance(&mut self, ns: u64) {
        self.a.now_ns += ns;
        self.b.now_ns += ns;
    }
}

fn services(port: u16, protocol: Protocol, flags: VipFlags) -> ServiceSpec {
    ServiceSpec {
        settings: settings(),
        vips: vec![
            vip("203.0.113.10", port, protocol, flags, V4_REALS),
            vip("2001:db8:a::10", port, protocol, flags, V6_REALS),
        ],
        ..ServiceSpec::default()
    }
}

/// Other reals take all new flows.
fn changed(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    for vip in &mut spec.vips {
        for real in &mut vip.reals {
            real.weight = 0;
        }
        let v4 = vip.key.address.is_ipv4();
        vip.reals.push(real(
            if v4 {
                "198.51.100.99"
            } else {
                "2001:db8:f::99"
            },
            1,
        ));
    }
    spec
}

fn selected(bench: &mut Bench, frame: &[u8]) -> (Selection, String) {
    bench.send(frame).expect("it is sent");
    (bench.last.selection, bench.last_real())
}

fn data(protocol: Protocol, client: &str, destination: &str) -> Vec<u8> {
    match protocol {
        Tcp => tcp(client, destination, Segment::Ack),
        Udp => udp(client, destination, b"x"),
    }
}

#[test]
fn a_flow_that_changes_its_worker_keeps_its_real() {
    for protocol in [Tcp, Udp] {
        for flag in [true, false] {
            let flags = if flag {
                VipFlags::GLOBAL_LRU
            } else {
                VipFlags::empty()
            };
            let spec = services(80, protocol, flags);
            let mut pair = Pair::new(&spec);
            let frames: Vec<Vec<u8>> = (0..100)
                .flat_map(|n| {
                    [
                        data(protocol, &format!("192.0.2.10:{}", 40000 + n), VIP),
                        data(protocol, &format!("[2001:db8:c::10]:{}", 40000 + n), VIP_V6),
                    ]
                })
                .collect();
            let before: Vec<String> = frames
                .iter()
                .map(|frame| selected(&mut pair.a, frame).1)
                .collect();
            pair.apply(&changed(&spec));
            for (frame, real) in frames.iter().zip(&before) {
                let (by, moved) = selected(&mut pair.b, frame);
                if flag {
                    assert_eq!((by, &moved), (Selection::GlobalTable, real));
                    // From now on its own table has it.
                    assert_eq!(
                        selected(&mut pair.b, frame),
                        (Selection::Table, real.clone())
                    );
                } else {
                    assert_eq!(by, Selection::Ring);
                    assert_ne!(&moved, real);
                }
            }
            let counters = &pair.b.counters;
            let hits = if flag { 200 } else { 0 };
            assert_eq!(counters.global_table_hits.get(), hits);
            assert_eq!(counters.ring_selections.get(), 200 - hits);
            assert_eq!(counters.flow_inserts.get(), 200);
        }
    }
}

#[test]
fn syn_selects_anew_for_all_workers() {
    let spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let (_, old) = selected(&mut pair.a, &tcp(CLIENT, VIP, Segment::Syn));
    pair.apply(&changed(&spec));
    let (by, new) = selected(&mut pair.b, &tcp(CLIENT, VIP, Segment::Syn));
    assert_eq!(by, Selection::Ring);
    assert_ne!(new, old);
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Tcp).unwrap();
    let stored = pair
        .a
        .control
        .table()
        .global_flow(&id)
        .expect("it is there");
    assert_eq!(stored.real_address.unwrap().to_string(), new);
}

#[test]
fn a_reset_is_forwarded_and_stores_nothing() {
    let spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let (_, real) = selected(&mut pair.a, &tcp(CLIENT, VIP, Segment::Ack));
    pair.apply(&changed(&spec));
    let reset = tcp(CLIENT, VIP, Segment::Rst);
    assert_eq!(
        selected(&mut pair.b, &reset),
        (Selection::GlobalTable, real)
    );
    assert_eq!(pair.b.forwarder.flow_count(), 0);
    // One that nobody knows stores nothing either.
    let unknown = tcp("192.0.2.10:50000", VIP, Segment::Rst);
    assert_eq!(selected(&mut pair.b, &unknown).0, Selection::Ring);
    assert_eq!(pair.a.control.table().global_flows().count(), 1);
}

#[test]
fn an_icmp_error_finds_the_flow_of_another_worker() {
    let spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let (_, real) = selected(&mut pair.a, &tcp(CLIENT, VIP, Segment::Ack));
    pair.apply(&changed(&spec));
    let answer = tcp(VIP, CLIENT, Segment::Ack);
    let error = icmp_error("192.0.2.1", "203.0.113.10", (3, 4), &answer);
    assert_eq!(
        selected(&mut pair.b, &error),
        (Selection::GlobalTable, real)
    );
}

#[test]
fn a_udp_flow_is_known_for_thirty_idle_seconds() {
    let spec = services(0, Udp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let frame = udp(CLIENT, VIP, b"x");
    let (_, real) = selected(&mut pair.a, &frame);
    // Its own worker alone sees it for a long time.
    for _ in 0..20 {
        pair.advance(7 * SECOND_NS);
        assert_eq!(selected(&mut pair.a, &frame).0, Selection::Table);
    }
    pair.apply(&changed(&spec));
    pair.advance(25 * SECOND_NS);
    assert_eq!(
        selected(&mut pair.b, &frame),
        (Selection::GlobalTable, real.clone())
    );
    pair.advance(30 * SECOND_NS + 1);
    let (by, other) = selected(&mut pair.b, &frame);
    assert_eq!(by, Selection::Ring);
    assert_ne!(other, real);
}

#[test]
fn a_flow_that_lives_long_is_not_forgotten_for_new_ones() {
    let mut spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    spec.settings.global_table_capacity = 8;
    let mut pair = Pair::new(&spec);
    let frame = tcp(CLIENT, VIP, Segment::Ack);
    selected(&mut pair.a, &frame);
    for n in 0..200 {
        selected(
            &mut pair.a,
            &tcp(&format!("192.0.2.20:{n}"), VIP, Segment::Ack),
        );
        for _ in 0..16 {
            pair.advance(1024);
            assert_eq!(selected(&mut pair.a, &frame).0, Selection::Table);
        }
    }
    assert_eq!(selected(&mut pair.b, &frame).0, Selection::GlobalTable);
    // The table has eight slots and 201 flows went in.
    assert!(pair.a.counters.global_table_evictions.get() >= 201 - 8);
    assert_eq!(pair.a.control.table().global_flows().count(), 8);
}

#[test]
fn a_flow_from_before_the_flag_is_left_for_others_too() {
    let plain = services(80, Tcp, VipFlags::empty());
    let mut pair = Pair::new(&plain);
    let frame = tcp(CLIENT, VIP, Segment::Ack);
    selected(&mut pair.a, &frame);
    pair.apply(&services(80, Tcp, VipFlags::GLOBAL_LRU));
    for _ in 0..16 {
        pair.advance(1024);
        assert_eq!(selected(&mut pair.a, &frame).0, Selection::Table);
    }
    assert_eq!(selected(&mut pair.b, &frame).0, Selection::GlobalTable);
}

#[test]
fn an_index_that_went_to_another_real_is_recognised() {
    let mut spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    spec.vips.truncate(1);
    spec.vips[0].reals.truncate(1);
    let mut pair = Pair::new(&spec);
    let frame = tcp(CLIENT, VIP, Segment::Ack);
    selected(&mut pair.a, &frame);
    let index = pair.a.last.real.index();
    // All other indices are used before that of the removed real.
    spec.vips[0].reals = (0..4095_u32)
        .map(|n| real(&format!("10.0.{}.{}", n / 256, n % 256), 1))
        .collect();
    spec.vips[0].reals.truncate(4094);
    pair.apply(&spec);
    spec.vips[0].reals.push(real("10.1.0.1", 1));
    pair.apply(&spec);
    let owner = pair
        .a
        .control
        .table()
        .real(index)
        .expect("it is used")
        .address;
    assert_ne!(owner.to_string(), V4_REALS[0]);
    let (by, _) = selected(&mut pair.b, &frame);
    assert_eq!(by, Selection::Ring);
    assert_eq!(pair.b.counters.global_table_hits.get(), 0);
}

#[test]
fn what_a_server_id_stored_has_expired_here_too() {
    let mut spec = services(80, Udp, VipFlags::GLOBAL_LRU | VipFlags::QUIC);
    let named = ServerIds::default().with(&[0x1001], "198.51.100.101".parse().unwrap());
    spec.server_ids = named.unwrap();
    let mut pair = Pair::new(&spec);
    let with_id = udp(CLIENT, VIP, &[0x40, 0x80, 0, 0x10, 1, 0, 0, 0, 0, 1, 2, 3]);
    let without = udp(CLIENT, VIP, &[0x40, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    assert_eq!(selected(&mut pair.a, &with_id).0, Selection::ServerId);
    assert_eq!(selected(&mut pair.b, &without).0, Selection::Ring);
}

#[test]
fn a_server_id_makes_no_flow_older_that_another_worker_has() {
    let flags = VipFlags::GLOBAL_LRU | VipFlags::QUIC;
    let mut spec = services(80, Udp, flags);
    let with_id = udp(CLIENT, VIP, &[0x40, 0x80, 0, 0x10, 1, 0, 0, 0, 0, 1, 2, 3]);
    let without = udp(CLIENT, VIP, &[0x40, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    // The id names the real that has the flow, and another one.
    for other in [None, Some("198.51.100.98")] {
        let mut pair = Pair::new(&spec);
        let (_, own) = selected(&mut pair.a, &without);
        let named = other.map_or_else(|| own.clone(), str::to_owned);
        let ids = ServerIds::default().with(&[0x1001], named.parse().unwrap());
        spec.server_ids = ids.unwrap();
        pair.apply(&changed(&spec));
        assert_eq!(
            selected(&mut pair.b, &with_id),
            (Selection::ServerId, named.clone())
        );
        assert_eq!(
            selected(&mut pair.b, &without),
            (Selection::GlobalTable, named)
        );
        assert_eq!(selected(&mut pair.a, &without), (Selection::Table, own));
    }
}

#[test]
fn a_flow_under_flood_is_left_for_nobody() {
    let mut spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    spec.settings.connection_rate_cap = 1;
    let mut bench = Bench::new(&spec);
    for n in 0..10 {
        selected(
            &mut bench,
            &tcp(&format!("192.0.2.20:{n}"), VIP, Segment::Ack),
        );
    }
    assert_eq!(bench.forwarder.flow_count(), 1);
    assert_eq!(bench.control.table().global_flows().count(), 1);
}

#[test]
fn explanations_name_the_table_and_change_nothing() {
    let spec = services(80, Udp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let (_, real) = selected(&mut pair.a, &udp(CLIENT, VIP, b"x"));
    pair.apply(&changed(&spec));
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Udp).unwrap();
    let explain = |pair: &Pair, at: u64| match pair.b.forwarder.explain(&id, pair.b.now_ns + at) {
        Explanation::Selected { by, real, .. } => (by, real.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(explain(&pair, 0), (Selection::GlobalTable, real.clone()));
    assert_eq!(
        explain(&pair, 30 * SECOND_NS),
        (Selection::GlobalTable, real)
    );
    assert_eq!(explain(&pair, 30 * SECOND_NS + 1).0, Selection::Ring);
    assert_eq!(pair.b.forwarder.flow_count(), 0);
}

#[test]
fn a_flow_that_is_removed_is_gone_for_all() {
    let spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    let mut pair = Pair::new(&spec);
    let frame = tcp(CLIENT, VIP, Segment::Ack);
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Tcp).unwrap();
    selected(&mut pair.a, &frame);
    assert!(pair.a.forwarder.remove_flow(&id));
    assert_eq!(pair.a.control.table().global_flows().count(), 0);
    assert_eq!(selected(&mut pair.b, &frame).0, Selection::Ring);

    let (removed, _) = pair.b.forwarder.purge_step(0, usize::MAX, &|_| true);
    assert_eq!(removed, 1);
    assert_eq!(selected(&mut pair.a, &frame).0, Selection::Ring);
    // What only the shared table has, the control plane removes.
    let table = pair.a.control.table();
    let record = table.global_flows().next().expect("one flow");
    assert!(table.remove_global_flow(&record.id));
    assert!(!table.remove_global_flow(&record.id));
}

#[test]
fn drops_leave_no_flow() {
    let mut spec = services(80, Tcp, VipFlags::GLOBAL_LRU);
    spec.vips[0].reals.clear();
    let mut bench = Bench::new(&spec);
    let sent = bench.send(&tcp(CLIENT, VIP, Segment::Ack));
    assert!(matches!(sent, Err(NotSent::Dropped(_))));
    assert_eq!(bench.control.table().global_flows().count(), 0);
}

#[test]
fn a_udp_flow_leaves_a_real_that_is_down_for_all_workers() {
    let flags = VipFlags::GLOBAL_LRU | VipFlags::UDP_FLOW_MIGRATION;
    let mut spec = services(80, Udp, flags);
    let mut pair = Pair::new(&spec);
    let frame = udp(CLIENT, VIP, b"x");
    let (_, old) = selected(&mut pair.a, &frame);
    for real in &mut spec.vips[0].reals {
        if real.address.to_string() == old {
            (real.weight, real.down) = (0, true);
        }
    }
    pair.apply(&spec);
    // The other worker knows the flow from the first, and both know that its real is down.
    let (by, new) = selected(&mut pair.b, &frame);
    assert_eq!(by, Selection::Ring);
    assert_ne!(new, old);
    assert_eq!(pair.b.counters.udp_flow_migrations.get(), 1);
    let id = FlowId::new(CLIENT.parse().unwrap(), VIP.parse().unwrap(), Udp).unwrap();
    let stored = pair
        .a
        .control
        .table()
        .global_flow(&id)
        .expect("it is there");
    assert_eq!(stored.real_address.unwrap().to_string(), new);
}
