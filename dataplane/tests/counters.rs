//! Counters under Katran's meaning (katran-compat section 10) that no other test looks at.

mod common;

use common::{
    Bench, NotSent, V4_REALS, V6_REALS,
    frames::{Segment, icmp, icmp_error, patched, tcp, udp},
    settings, vip,
};
use dataplane::{
    counters::{DropReason, FRAMES, Kind, ListRow, REAL_ROWS, VIP_ROWS, WorkerCounters, read_list},
    service::{Protocol, ServiceSpec, Settings, VipFlags},
};

fn services(settings: Settings) -> ServiceSpec {
    let none = VipFlags::empty();
    ServiceSpec {
        settings,
        vips: vec![
            vip("203.0.113.10", 80, Protocol::Tcp, none, V4_REALS),
            vip("203.0.113.20", 80, Protocol::Tcp, none, V6_REALS),
            vip("203.0.113.30", 80, Protocol::Tcp, none, &[]),
            vip("2001:db8:a::10", 80, Protocol::Tcp, none, V6_REALS),
        ],
        ..ServiceSpec::default()
    }
}

const CLIENT: &str = "192.0.2.10:40000";
const CLIENT6: &str = "[2001:db8:c::1]:40000";

/// The counter of this name.
fn count(bench: &Bench, name: &str) -> u64 {
    let mut rows = WorkerCounters::ROWS.iter();
    let row = rows.find(|row| row.name == name).expect("a counter");
    (row.read)(&bench.counters)
}

#[track_caller]
fn assert_counts(bench: &Bench, expected: &[(&str, u64)]) {
    for (name, value) in expected {
        assert_eq!(count(bench, name), *value, "{name}");
    }
}

/// An ICMP error about the first VIP of its family, with this MTU field.
fn too_big_message(v4: bool, kind: (u8, u8), mtu: [u8; 4]) -> Vec<u8> {
    let (error, at) = if v4 {
        let quoted = tcp("203.0.113.10:80", CLIENT, Segment::Ack);
        (icmp_error("198.18.0.1", "203.0.113.10", kind, &quoted), 38)
    } else {
        let quoted = tcp("[2001:db8:a::10]:80", CLIENT6, Segment::Ack);
        let router = "2001:db8:99::1";
        (icmp_error(router, "2001:db8:a::10", kind, &quoted), 58)
    };
    patched(error, at, &mtu)
}

#[test]
fn messages_about_the_mtu_are_counted_and_small_ones_too() {
    let mut bench = Bench::new(&services(settings()));
    // The upper half of IPv4's field is not the MTU's.
    for mtu in [[0, 0, 5, 0xdc], [0, 0, 5, 0], [1, 0, 4, 0xff], [0; 4]] {
        bench
            .send(&too_big_message(true, (3, 4), mtu))
            .expect("sent");
    }
    bench
        .send(&too_big_message(true, (3, 3), [0; 4]))
        .expect("sent");
    for mtu in [
        [0, 0, 5, 0xdc],
        [0, 0, 5, 0],
        [1, 0, 4, 0xff],
        [0, 0, 4, 0xff],
    ] {
        bench
            .send(&too_big_message(false, (2, 0), mtu))
            .expect("sent");
    }
    bench
        .send(&too_big_message(false, (1, 0), [0; 4]))
        .expect("sent");
    assert_counts(
        &bench,
        &[
            ("icmp-errors", 10),
            ("ptb-v4", 4),
            ("ptb-v4-small", 2),
            ("ptb-v6", 4),
            ("ptb-v6-small", 1),
        ],
    );
}

#[test]
fn messages_that_are_not_about_a_vip_are_not_counted() {
    let mut bench = Bench::new(&services(settings()));
    let quoted = udp("203.0.113.10:9", CLIENT, b"");
    let error = icmp_error("198.18.0.1", "203.0.113.10", (3, 4), &quoted);
    assert_eq!(bench.send(&error), Err(NotSent::Passed));
    let cut = icmp("198.18.0.1", "203.0.113.10", (3, 4), &[0; 4]);
    let dropped = NotSent::Dropped(DropReason::QuoteTruncated);
    assert_eq!(bench.send(&cut), Err(dropped));
    assert_counts(&bench, &[("icmp-errors", 0), ("ptb-v4", 0)]);
}

#[test]
fn an_empty_ring_and_a_failed_encapsulation_are_told_apart() {
    let mut bench = Bench::new(&services(settings()));
    let no_real = NotSent::Dropped(DropReason::NoReal);
    let to_empty = tcp(CLIENT, "203.0.113.30:80", Segment::Syn);
    assert_eq!(bench.send(&to_empty), Err(no_real));
    assert_counts(
        &bench,
        &[
            ("ring-empty-slots", 1),
            ("ring-unknown-reals", 0),
            ("encap-failures-v4", 0),
        ],
    );
    bench.apply(&services(Settings {
        next_hop_mac: None,
        ..settings()
    }));
    let failed = NotSent::Dropped(DropReason::NoNextHop);
    for (source, destination, times) in [
        (CLIENT, "203.0.113.10:80", 1),
        (CLIENT, "203.0.113.20:80", 2),
        (CLIENT6, "[2001:db8:a::10]:80", 3),
    ] {
        for _ in 0..times {
            let sent = bench.send(&tcp(source, destination, Segment::Ack));
            assert_eq!(sent, Err(failed));
        }
    }
    assert_counts(
        &bench,
        &[
            ("ring-empty-slots", 1),
            ("encap-failures-v4", 1),
            ("encap-failures-v6", 5),
        ],
    );
}

#[test]
fn the_window_of_new_connections_is_shown() {
    let mut bench = Bench::new(&services(settings()));
    for port in 1..=3 {
        let source = format!("192.0.2.10:{port}");
        let frame = tcp(&source, "203.0.113.10:80", Segment::Syn);
        bench.send(&frame).expect("sent");
    }
    let start = bench.now_ns;
    assert_counts(
        &bench,
        &[("connection-events", 3), ("connection-window-ns", start)],
    );
    bench.now_ns += 1_000_000_001;
    let frame = tcp(CLIENT, "203.0.113.10:80", Segment::Syn);
    bench.send(&frame).expect("sent");
    assert_counts(
        &bench,
        &[
            ("connection-events", 1),
            ("connection-window-ns", start + 1_000_000_001),
        ],
    );
}

/// Bytes of frames are those that came, bytes of VIPs and reals those of the IP header's length
/// field: 40 of IPv4, 20 of IPv6.
#[test]
fn lists_have_packets_and_bytes() {
    let mut bench = Bench::new(&services(settings()));
    let v4 = tcp(CLIENT, "203.0.113.10:80", Segment::Ack);
    let v6 = tcp(CLIENT6, "[2001:db8:a::10]:80", Segment::Ack);
    bench.send(&v4).expect("sent");
    let first = bench.last;
    bench.send(&v6).expect("sent");
    let second = bench.last;
    let counters = &*bench.counters;
    for (outcome, bytes) in [(first, 40), (second, 20)] {
        let vip = read_list(VIP_ROWS, counters, usize::from(outcome.vip));
        assert_eq!(vip[..2], [1, bytes]);
        let real = read_list(REAL_ROWS, counters, outcome.real.index());
        assert_eq!(real[..2], [1, bytes]);
    }
    let (_, dropped) = (bench.send(&v4[..50]), read_frames(&bench, "dropped"));
    assert_eq!(dropped, (1, 50));
    let arrived = (v4.len() + v6.len()) as u64;
    let counted = ["received", "transmitted", "passed"].map(|name| read_frames(&bench, name));
    assert_eq!(counted, [(3, arrived + 50), (2, arrived), (0, 0)]);
}

/// Selections by the ring, not hits of the table.
#[test]
fn choices_of_the_ring_are_counted_for_vip_and_real() {
    let mut bench = Bench::new(&services(settings()));
    let syn = tcp(CLIENT, "203.0.113.10:80", Segment::Syn);
    let ack = tcp(CLIENT, "203.0.113.10:80", Segment::Ack);
    for frame in [&syn, &ack, &ack, &syn] {
        bench.send(frame).expect("sent");
    }
    let of = |rows: &[ListRow], number: usize| {
        let mut rows = rows.iter().filter(|row| row.name == "ring-selections");
        let row = rows.next().expect("a row");
        (row.read)(&bench.counters, number)
    };
    assert_eq!(of(VIP_ROWS, usize::from(bench.last.vip)), 2);
    assert_eq!(of(REAL_ROWS, bench.last.real.index()), 2);
    let all_reals: u64 = (0..16).map(|real| of(REAL_ROWS, real)).sum();
    assert_eq!(all_reals, 2);
}

fn read_frames(bench: &Bench, name: &str) -> (u64, u64) {
    let mut rows = FRAMES.iter();
    let row = rows.find(|row| row.name == name).expect("a row");
    (row.read)(&bench.counters)
}

#[test]
fn what_cannot_be_added_up_is_not() {
    assert_eq!(Kind::Count.combine(3, 4), 7);
    assert_eq!(Kind::Gauge.combine(3, 4), 7);
    assert_eq!(Kind::Last.combine(3, 4), 4);
}
