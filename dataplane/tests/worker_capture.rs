//! A monitor copies the packets that were asked for, as they arrived, and changes nothing else.

mod common;
mod worker_rig;

use std::{net::IpAddr, sync::Arc};

use common::{
    V4_REALS, V6_REALS,
    frames::{Segment, echo, icmp_error, ip_packet, patched, resized, tcp, udp},
    settings, vip,
};
use dataplane::{
    capture::{Event, Feed, Filter, Happened, Monitor, Snapshot},
    counters::DropReason,
    forward::{BURST, Selection, Verdict},
    port::memory::MemoryConfig,
    service::{Protocol, ServiceSpec, Settings, VipFlags, VipKey},
    worker::now_ns,
};
use proptest::prelude::*;
use worker_rig::{Parts, Rig, assert_accounted, redirected};
use xdp_layout::Tag;

const WEB: &str = "203.0.113.10:80";
const NAMES: &str = "203.0.113.20:53";
const EMPTY: &str = "203.0.113.30:80";
const WEB_V6: &str = "[2001:db8:a::10]:80";

fn services(icmp_too_big: bool) -> ServiceSpec {
    let none = VipFlags::empty();
    ServiceSpec {
        settings: Settings {
            icmp_too_big,
            ..settings()
        },
        vips: vec![
            vip("203.0.113.10", 80, Protocol::Tcp, none, V4_REALS),
            vip("203.0.113.20", 53, Protocol::Udp, none, V6_REALS),
            vip("203.0.113.30", 80, Protocol::Tcp, none, &[]),
            vip("2001:db8:a::10", 80, Protocol::Tcp, none, V6_REALS),
        ],
        ..ServiceSpec::default()
    }
}

fn rig(icmp_too_big: bool) -> Rig {
    Parts::new(&services(icmp_too_big), &MemoryConfig::default()).engine()
}

fn key(address: &str, port: u16, protocol: Protocol) -> VipKey {
    VipKey::exact(address.parse().expect("an address"), port, protocol)
}

const LRU_MISS: Event = Event::Happened(Happened::LRU_MISS);
const TOO_BIG: Event = Event::Happened(Happened::TOO_BIG);
const NO_REAL: Event = Event::Happened(Happened::NO_REAL);
const PASS: Event = Event::Happened(Happened::PASS);

/// Starts a capture in the engine.
fn watch(
    rig: &mut Rig,
    events: impl IntoIterator<Item = Event>,
    snaplen: usize,
    count: usize,
) -> Feed {
    let (monitor, feed) = Monitor::new(Filter::from_iter(events), snaplen, count);
    assert!(rig.engine.set_monitor(Some(monitor)).is_none());
    feed
}

/// Lets these bytes arrive in one burst, and takes what leaves off the wire.
fn arrive(rig: &mut Rig, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for frame in frames {
        rig.nic.inject(frame).expect("room");
    }
    while rig.engine.round().expect("the queue is there").received > 0 {}
    std::iter::from_fn(|| rig.nic.take()).collect()
}

#[expect(clippy::vec_box, reason = "boxes are what the feed takes back")]
fn read(feed: &mut Feed) -> Vec<Box<Snapshot>> {
    std::iter::from_fn(|| feed.take()).collect()
}

/// A packet of every kind, and which of them it is.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let client = "192.0.2.10:4000";
    let syn = tcp(client, WEB, Segment::Syn);
    let ack = tcp(client, WEB, Segment::Ack);
    let long = resized(udp(client, NAMES, &[1; 1400]), 1515);
    let long = patched(long, 16, &1501_u16.to_be_bytes());
    let answered = icmp_error(
        "192.0.2.99",
        "203.0.113.10",
        (3, 1),
        &tcp(WEB, "192.0.2.10:4001", Segment::Ack),
    );
    // A router that answers a packet of one VIP to another's address.
    let astray = icmp_error(
        "192.0.2.99",
        "203.0.113.20",
        (3, 1),
        &tcp(WEB, "192.0.2.10:4002", Segment::Ack),
    );
    vec![
        ("syn", redirected(&syn, 20)),
        ("hit", redirected(&ack, 20)),
        (
            "miss",
            redirected(&tcp("192.0.2.11:4000", WEB, Segment::Ack), 20),
        ),
        ("udp", redirected(&udp(client, NAMES, &[7; 300]), 40)),
        (
            "v6",
            redirected(&tcp("[2001:db8::1]:9", WEB_V6, Segment::Ack), 40),
        ),
        ("error", redirected(&answered, 20)),
        ("astray", redirected(&astray, 20)),
        ("empty", redirected(&tcp(client, EMPTY, Segment::Ack), 20)),
        ("big", redirected(&long, 40)),
        ("echo", redirected(&echo("192.0.2.10", "203.0.113.10"), 20)),
        (
            "stranger",
            redirected(&tcp(client, "198.51.100.77:22", Segment::Ack), 20),
        ),
        (
            "fragment",
            redirected(&patched(ack.clone(), 20, &[0x20, 0]), 20),
        ),
        ("options", redirected(&patched(ack, 14, &[0x46]), 20)),
        ("cut", redirected(&syn[..40], 20)),
        ("untagged", vec![200; 100]),
        (
            "other",
            redirected(&ip_packet("192.0.2.10", "203.0.113.10", 132, &[0; 20]), 20),
        ),
    ]
}

/// Which of [`kinds`] these events catch, in order.
fn caught(icmp_too_big: bool, events: &[Event]) -> Vec<&'static str> {
    let kinds = kinds();
    let mut parts = Parts::new(&services(icmp_too_big), &MemoryConfig::default());
    parts.kernel.refuse = events.contains(&Event::Drop(DropReason::PassFailed));
    let mut rig = parts.engine();
    let mut feed = watch(&mut rig, events.iter().copied(), 4096, 64);
    let frames: Vec<_> = kinds.iter().map(|(_, frame)| frame.clone()).collect();
    arrive(&mut rig, &frames);
    assert_accounted(&rig.counters);
    let mut names = Vec::new();
    for snapshot in read(&mut feed) {
        let arrived = |(_, bytes): &&(&str, Vec<u8>)| {
            let room = usize::from(bytes[Tag::SIZE - 2]);
            let frame = bytes.get(room..).filter(|_| room < 200).unwrap_or(bytes);
            frame == snapshot.bytes() && frame.len() == snapshot.frame_len
        };
        let (name, _) = kinds
            .iter()
            .find(arrived)
            .expect("the bytes that arrived, all of them");
        names.push(*name);
        feed.give_back(snapshot);
    }
    assert_eq!(feed.lost(), 0);
    names
}

#[test]
fn each_event_catches_its_packets() {
    assert_eq!(
        caught(false, &[LRU_MISS]),
        ["miss", "v6", "error", "astray", "empty"]
    );
    assert_eq!(caught(false, &[TOO_BIG]), ["big"]);
    assert_eq!(caught(true, &[TOO_BIG]), ["big"]);
    assert_eq!(caught(false, &[NO_REAL]), ["empty"]);
    assert_eq!(caught(false, &[PASS]), ["stranger", "other"]);
    for (reason, names) in [
        (DropReason::BadTag, ["untagged"].as_slice()),
        (DropReason::Ipv4Options, &["options"]),
        (DropReason::Fragment, &["fragment"]),
        (DropReason::L4Truncated, &["cut"]),
        (DropReason::FrameTooLong, &["big"]),
        (DropReason::NoReal, &["empty"]),
        (DropReason::PassFailed, &["stranger", "other"]),
        (DropReason::TxStalled, &[]),
    ] {
        assert_eq!(caught(false, &[Event::Drop(reason)]), names, "{reason:?}");
    }
    assert_eq!(
        caught(true, &[Event::Drop(DropReason::FrameTooLong)]),
        [] as [&str; 0],
        "it was answered"
    );
    let web = key("203.0.113.10", 80, Protocol::Tcp);
    assert_eq!(
        caught(false, &[Event::Vip(web)]),
        ["syn", "hit", "miss", "error", "astray"]
    );
    assert_eq!(
        caught(false, &[Event::Address(web.address)]),
        [
            "syn", "hit", "miss", "error", "astray", "echo", "fragment", "options", "cut", "other"
        ]
    );
    assert_eq!(
        caught(false, &[Event::Vip(key("203.0.113.20", 53, Protocol::Udp))]),
        ["udp", "big"]
    );
    assert_eq!(
        caught(
            false,
            &[Event::Vip(key("2001:db8:a::10", 80, Protocol::Tcp))]
        ),
        ["v6"]
    );
    let everybody: IpAddr = "192.0.2.10".parse().expect("an address");
    assert_eq!(
        caught(false, &[Event::Address(everybody)]),
        [] as [&str; 0],
        "sources do not count"
    );
    assert_eq!(
        caught(
            false,
            &[TOO_BIG, NO_REAL, Event::Drop(DropReason::Fragment)]
        ),
        ["empty", "big", "fragment"]
    );
}

#[test]
fn a_snapshot_says_what_became_of_the_packet() {
    let mut rig = rig(true);
    let web = key("203.0.113.10", 80, Protocol::Tcp);
    let mut feed = watch(&mut rig, [Event::Vip(web), TOO_BIG, NO_REAL], 60, 8);
    let before = now_ns();
    let kinds: Vec<_> = kinds()
        .into_iter()
        .filter(|(name, _)| ["syn", "hit", "miss", "empty", "big"].contains(name))
        .map(|(_, frame)| frame)
        .collect();
    let sent = arrive(&mut rig, &kinds);
    let seen = read(&mut feed);
    let told: Vec<_> = seen
        .iter()
        .map(|snapshot| {
            let verdict = match snapshot.verdict {
                Verdict::Transmit { .. } => "tx",
                Verdict::Pass => "pass",
                Verdict::Drop(reason) => reason.name(),
            };
            (
                verdict,
                snapshot.selection,
                snapshot.happened,
                snapshot.real.is_some(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("tx", Selection::Ring, Happened::empty(), true),
            ("tx", Selection::Table, Happened::empty(), true),
            ("tx", Selection::Ring, Happened::LRU_MISS, true),
            (
                "no-real",
                Selection::Ring,
                Happened::NO_REAL | Happened::LRU_MISS,
                false
            ),
            ("tx", Selection::None, Happened::TOO_BIG, false),
        ]
    );
    let addresses: Vec<_> = seen
        .iter()
        .map(|snapshot| snapshot.vip.map(|vip| vip.address.to_string()))
        .collect();
    assert_eq!(
        addresses,
        [
            Some("203.0.113.10".to_owned()),
            Some("203.0.113.10".to_owned()),
            Some("203.0.113.10".to_owned()),
            Some("203.0.113.30".to_owned()),
            Some("203.0.113.20".to_owned()),
        ]
    );
    // The outer destination of what left is the real that was noted.
    for (frame, snapshot) in sent.iter().zip(&seen).take(3) {
        let outer: [u8; 4] = frame[30..34].try_into().expect("four bytes");
        assert_eq!(snapshot.real, Some(IpAddr::from(outer)));
    }
    for (snapshot, arrived) in seen.iter().zip(&kinds) {
        let room = usize::from(arrived[Tag::SIZE - 2]);
        let kept = (arrived.len() - room).min(60);
        assert_eq!(snapshot.bytes(), &arrived[room..room + kept]);
        assert_eq!(snapshot.frame_len, arrived.len() - room);
        assert!((before..=now_ns()).contains(&snapshot.time_ns));
        assert_eq!(snapshot.time_ns, seen[0].time_ns, "one burst, one time");
    }
}

#[test]
fn what_finds_no_room_in_the_tx_ring_is_caught_as_it_arrived() {
    let memory = MemoryConfig {
        tx_ring: 16,
        real_time: false,
        ..MemoryConfig::default()
    };
    let mut rig = Parts::new(&services(false), &memory).engine();
    let web = key("203.0.113.10", 80, Protocol::Tcp);
    let mut feed = watch(&mut rig, [Event::Vip(web)], 4096, 256);
    rig.nic.set_kick_budget(0);
    let frames: Vec<_> = (0..60)
        .map(|flow| {
            let frame = match flow % 4 {
                3 => tcp("192.0.2.10:9", "198.51.100.77:22", Segment::Ack),
                _ => tcp(&format!("192.0.2.10:{}", 1000 + flow), WEB, Segment::Ack),
            };
            redirected(&frame, 20)
        })
        .collect();
    arrive(&mut rig, &frames);
    rig.nic.set_kick_budget(64);
    arrive(&mut rig, &[]);
    let (stalled, _) = rig.counters.dropped(DropReason::TxStalled);
    assert!(stalled > 0, "the TX ring did not stall");
    let seen = read(&mut feed);
    let wanted = frames.iter().enumerate().filter(|(flow, _)| flow % 4 != 3);
    assert_eq!(seen.len(), 45);
    for (place, (snapshot, (_, arrived))) in seen.iter().zip(wanted).enumerate() {
        assert_eq!(snapshot.bytes(), &arrived[20..]);
        let has_left = place < 45 - stalled as usize;
        let expected = matches!(snapshot.verdict, Verdict::Transmit { .. });
        assert_eq!(has_left, expected, "packet {place}");
        assert!(has_left || snapshot.verdict == Verdict::Drop(DropReason::TxStalled));
    }
    assert_accounted(&rig.counters);
}

#[test]
fn a_reader_that_does_not_read_stops_nothing() {
    let mut rig = rig(false);
    let web = key("203.0.113.10", 80, Protocol::Tcp);
    let mut feed = watch(&mut rig, [Event::Vip(web)], 128, 10);
    let frame = redirected(&tcp("192.0.2.10:4000", WEB, Segment::Ack), 20);
    for _ in 0..10 {
        let sent = arrive(&mut rig, &vec![frame.clone(); 25]);
        assert_eq!(sent.len(), 25);
    }
    assert_eq!(feed.lost(), 240);
    let first = read(&mut feed);
    assert_eq!(first.len(), 10);
    assert!(first.iter().all(|snapshot| snapshot.lost_before == 0));
    for snapshot in first {
        feed.give_back(snapshot);
    }
    arrive(&mut rig, &vec![frame.clone(); 11]);
    let second = read(&mut feed);
    let lost: Vec<u64> = second.iter().map(|snapshot| snapshot.lost_before).collect();
    assert_eq!(lost, [240, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(feed.lost(), 241);

    assert_accounted(&rig.counters);
}

#[test]
fn a_monitor_without_a_reader_goes_with_the_next_burst() {
    let mut rig = rig(false);
    let web = key("203.0.113.10", 80, Protocol::Tcp);
    let frame = redirected(&tcp("192.0.2.10:4000", WEB, Segment::Ack), 20);
    let feed = watch(&mut rig, [Event::Vip(web)], 128, 10);
    assert_eq!(arrive(&mut rig, std::slice::from_ref(&frame)).len(), 1);
    drop(feed);
    assert_eq!(arrive(&mut rig, &[frame]).len(), 1);
    assert!(rig.engine.set_monitor(None).is_none());
    assert_accounted(&rig.counters);
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        prop::sample::select(vec![LRU_MISS, TOO_BIG, NO_REAL, PASS]),
        prop::sample::select(DropReason::ALL).prop_map(Event::Drop),
        Just(Event::Vip(key("203.0.113.10", 80, Protocol::Tcp))),
        Just(Event::Vip(key("2001:db8:a::10", 80, Protocol::Tcp))),
        Just(Event::Address("203.0.113.20".parse().expect("an address"))),
    ];
    prop::collection::vec(event, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same traffic with and without a monitor: the same frames leave, the same is counted, and
    /// there is a snapshot for every packet that the counters know of.
    #[test]
    fn a_monitor_changes_nothing(
        events in events(),
        picks in prop::collection::vec(0_usize..16, 1..200),
        icmp_too_big in any::<bool>(),
        refuse in any::<bool>(),
        count in 1_usize..300,
    ) {
        let kinds = kinds();
        let frames: Vec<_> = picks.iter().map(|&pick| kinds[pick].1.clone()).collect();
        let rig = || {
            let mut parts = Parts::new(&services(icmp_too_big), &MemoryConfig::default());
            parts.kernel.refuse = refuse;
            parts.engine()
        };
        let (mut plain, mut watched) = (rig(), rig());
        let mut feed = watch(&mut watched, events.iter().copied(), 128, count);
        for frames in frames.chunks(90) {
            prop_assert_eq!(arrive(&mut plain, frames), arrive(&mut watched, frames));
        }
        prop_assert_eq!(
            &*plain.kernel.frames.lock().unwrap(),
            &*watched.kernel.frames.lock().unwrap()
        );
        for &reason in DropReason::ALL {
            prop_assert_eq!(plain.counters.dropped(reason), watched.counters.dropped(reason));
        }
        assert_accounted(&watched.counters);

        let seen = read(&mut feed);
        let lost_between: u64 = seen.iter().map(|snapshot| snapshot.lost_before).sum();
        prop_assert!(seen.len() <= count);
        prop_assert!(lost_between <= feed.lost());
        // Up to a burst of snapshots is in the worker's hands.
        if seen.len() + BURST <= count {
            prop_assert_eq!(feed.lost(), 0);
        }
        if let [Event::Drop(reason)] = events[..] {
            let (packets, _) = watched.counters.dropped(reason);
            prop_assert_eq!(seen.len() as u64 + feed.lost(), packets);
        }
        if let [PASS] = events[..] {
            prop_assert_eq!(seen.len() as u64 + feed.lost(), watched.counters.passed.packets.get());
        }
        if let [LRU_MISS] = events[..] {
            let misses = watched.counters.tcp_non_syn_misses.get();
            prop_assert_eq!(seen.len() as u64 + feed.lost(), misses);
        }
    }
}

#[test]
fn a_worker_takes_a_monitor_and_gives_it_back() {
    let parts = Parts::new(&services(false), &MemoryConfig::default());
    let (counters, nic) = (Arc::clone(&parts.counters), parts.nic);
    let handle = dataplane::worker::spawn(
        &dataplane::worker::WorkerConfig::default(),
        parts.port,
        parts.forwarder,
        parts.publisher.subscribe(),
        Box::new(parts.kernel),
    )
    .expect("the worker starts");
    let patience = std::time::Duration::from_secs(10);
    let (monitor, mut feed) = Monitor::new([NO_REAL].into_iter().collect(), 128, 4);
    let before = handle.set_monitor(Some(monitor), patience);
    assert!(before.expect("the worker answers").is_none());
    let frame = redirected(&tcp("192.0.2.10:4000", EMPTY, Segment::Ack), 20);
    nic.inject(&frame).expect("room");
    let end = now_ns() + 10_000_000_000;
    let mut seen = None;
    while seen.is_none() && now_ns() < end {
        seen = feed.take();
    }
    let seen = seen.expect("the packet is caught");
    assert_eq!(seen.bytes(), &frame[20..]);
    let monitor = handle
        .set_monitor(None, patience)
        .expect("the worker answers");
    assert!(monitor.is_some());
    handle.stop();
    assert!(handle.set_monitor(None, patience).is_err());
    assert_eq!(counters.unaccounted(), 0);
}
