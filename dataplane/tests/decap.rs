//! Tunnels to decap destinations: what is inside is decided as if it had come without them.

mod common;

use std::cell::RefCell;

use common::{
    Bench, NotSent,
    frames::{
        OWN_MAC, Outer, SENDER_MAC, Segment, echo, ip_packet, patched, resized, tcp, tunnel, udp,
    },
    model::{self, Fate, Unwrapped},
    proptest_config,
    services::{DECAP, DECAP_AND_VIP, EGRESS, every_kind_of_vip, gue},
    settings,
};
use dataplane::{
    counters::DropReason,
    forward::{Explanation, FlowId},
    service::{DecapSpec, Protocol, ServiceControl, ServiceSpec, Settings},
};
use etherparse::{Ipv4Header, Ipv6Header, PacketHeaders};
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use xdp_layout::Tag;

const CLIENT: &str = "192.0.2.10:40000";
const CLIENT6: &str = "[2001:db8:c::1]:40000";
const FAR: &str = "198.18.9.9";
const FAR6: &str = "2001:db8:9::9";
const GUE: Outer = Outer::Gue(6080);

fn syn() -> Vec<u8> {
    tcp(CLIENT, "203.0.113.10:80", Segment::Syn)
}

fn syn6() -> Vec<u8> {
    tcp(CLIENT6, "[2001:db8:a::10]:80", Segment::Syn)
}

fn stranger() -> Vec<u8> {
    udp(CLIENT, "203.0.113.99:53", b"query")
}

/// The frame as a router would have sent it on, by etherparse.
fn one_hop_later(frame: &[u8]) -> Vec<u8> {
    let (ethernet, packet) = frame.split_at(14);
    let mut later = ethernet.to_vec();
    if ethernet[12..] == [8, 0] {
        let (mut header, payload) = Ipv4Header::from_slice(packet).expect("IPv4");
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        header.write(&mut later).expect("it fits");
        later.extend(payload);
    } else {
        let (mut header, payload) = Ipv6Header::from_slice(packet).expect("IPv6");
        header.hop_limit -= 1;
        header.write(&mut later).expect("it fits");
        later.extend(payload);
    }
    later
}

/// Every kind of tunnel around these packets, and bytes of its header.
fn tunnels(v4: &[u8], v6: &[u8]) -> Vec<(&'static str, usize, Vec<u8>)> {
    vec![
        ("4 in 4", 20, tunnel(FAR, DECAP[0], Outer::Ipip, v4)),
        ("4 in 6", 40, tunnel(FAR6, DECAP[1], Outer::Ipip, v4)),
        ("6 in 6", 40, tunnel(FAR6, DECAP[1], Outer::Ipip, v6)),
        ("GUE 4 in 4", 28, tunnel(FAR, DECAP[0], GUE, v4)),
        ("GUE 4 in 6", 48, tunnel(FAR6, DECAP[1], GUE, v4)),
        ("GUE 6 in 6", 48, tunnel(FAR6, DECAP[1], GUE, v6)),
    ]
}

#[test]
fn inner_packets_are_sent_like_packets_without_a_tunnel() {
    for settings in [settings(), gue()] {
        for (name, _, frame) in tunnels(&syn(), &syn6()) {
            let inner = if name.contains("6 in") { syn6() } else { syn() };
            let mut direct = Bench::new(&every_kind_of_vip(settings));
            let expected = direct.send(&one_hop_later(&inner));
            assert!(expected.is_ok(), "{name}: {expected:?}");
            for room in [0, 8, 20, 28, 40, 64] {
                let mut bench = Bench::new(&every_kind_of_vip(settings));
                let sent = bench.send_with_room(&frame, room);
                assert_eq!(sent, expected, "{name}, room {room}");
                let (one, other) = (bench.last, direct.last);
                assert_eq!((one.vip, one.real), (other.vip, other.real), "{name}");
                assert_eq!(bench.counters.unaccounted(), 0);
            }
        }
    }
}

#[test]
fn inner_packets_of_nobody_go_to_the_kernel() {
    let stranger6 = udp(CLIENT6, "[2001:db8:99::1]:53", b"query");
    for (name, header, frame) in tunnels(&stranger(), &stranger6) {
        let inner = if name.contains("6 in") {
            &stranger6
        } else {
            &stranger()
        };
        let mut bench = Bench::new(&every_kind_of_vip(settings()));
        assert_eq!(bench.send(&frame), Err(NotSent::Passed), "{name}");
        assert_eq!(bench.passed, one_hop_later(inner), "{name}");
        // Frames count with the bytes that arrived.
        assert_eq!(bench.counters.passed.bytes.get(), frame.len() as u64);
        assert_eq!(bench.counters.decap.recirculated.get(), 1);
        let left = (frame.len() - header) as u64;
        assert_eq!(
            bench.counters.decap.recirculated_bytes.get(),
            left,
            "{name}"
        );
        assert_eq!(bench.counters.payload_moves.get(), 0, "{name}");
    }
}

/// The family of the outer header decides, of IPIP too (katran-compat section 12, deviation 6).
#[test]
fn counters_tell_outer_and_inner_families() {
    for (name, _, frame) in tunnels(&syn(), &syn6()) {
        let mut bench = Bench::new(&every_kind_of_vip(settings()));
        bench.send(&frame).expect("it is balanced");
        let counters = &bench.counters.decap;
        let seen = [
            &counters.packets,
            &counters.outer_v4,
            &counters.outer_v6,
            &counters.cross_pop_v4,
            &counters.cross_pop_v6,
            &counters.egress_v4,
            &counters.egress_v6,
            &counters.recirculated,
        ]
        .map(dataplane::counters::Counter::get);
        let outer_v4 = u64::from(name.ends_with('4'));
        let inner_v4 = u64::from(name.contains("4 in"));
        let expected = [1, outer_v4, 1 - outer_v4, inner_v4, 1 - inner_v4, 0, 0, 1];
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn egress_sends_what_gue_carries_back_and_leaves_ipip_alone() {
    let services = every_kind_of_vip(settings());
    let mut bench = Bench::new(&services);
    for (destination, inner) in [(EGRESS[0], syn()), (EGRESS[1], syn()), (EGRESS[1], syn6())] {
        let far = if destination.contains(':') { FAR6 } else { FAR };
        let sent = bench.send(&tunnel(far, destination, GUE, &inner));
        let mut expected = one_hop_later(&inner);
        expected[..6].copy_from_slice(&SENDER_MAC);
        expected[6..12].copy_from_slice(&OWN_MAC);
        assert_eq!(sent, Ok(expected), "{destination}");
        bench
            .send(&tunnel(far, destination, Outer::Ipip, &inner))
            .expect("it is balanced");
        assert_eq!(
            bench.last_real().contains(':'),
            inner == syn6(),
            "{destination}"
        );
    }
    let counters = &bench.counters.decap;
    let egress = (counters.egress_v4.get(), counters.egress_v6.get());
    assert_eq!(egress, (2, 1));
    assert_eq!(
        (counters.packets.get(), counters.recirculated.get()),
        (6, 3)
    );
}

#[test]
fn the_last_hop_ends_here_and_zero_wraps() {
    let mut bench = Bench::new(&every_kind_of_vip(settings()));
    let mut taken_apart = 0;
    for (hops, kept) in [(0, Some(255)), (1, None), (2, Some(1)), (255, Some(254))] {
        let v4 = patched(stranger(), 22, &[hops]);
        let (header, _) = Ipv4Header::from_slice(&v4[14..]).expect("IPv4");
        let v4 = patched(v4, 24, &header.calc_header_checksum().to_be_bytes());
        let v6 = patched(udp(CLIENT6, "[2001:db8:99::1]:53", b"query"), 21, &[hops]);
        for (name, _, frame) in tunnels(&v4, &v6) {
            let sent = bench.send(&frame);
            let Some(kept) = kept else {
                assert_eq!(
                    sent,
                    Err(NotSent::Dropped(DropReason::TtlExpired)),
                    "{name}"
                );
                continue;
            };
            assert_eq!(sent, Err(NotSent::Passed), "{name}");
            taken_apart += 1;
            let headers = PacketHeaders::from_ethernet_slice(&bench.passed).expect("whole");
            match headers.net.expect("IP") {
                etherparse::NetHeaders::Ipv4(header, _) => {
                    assert_eq!(header.time_to_live, kept, "{name}");
                    // The sum is that of one hop less, which 255 is not.
                    let valid = header.header_checksum == header.calc_header_checksum();
                    assert_eq!(valid, hops != 0, "{name}");
                }
                etherparse::NetHeaders::Ipv6(header, _) => assert_eq!(header.hop_limit, kept),
                etherparse::NetHeaders::Arp(_) => panic!("{name}: ARP"),
            }
        }
    }
    // Those that expired are none of them.
    assert_eq!(bench.counters.decap.packets.get(), taken_apart);
}

/// The carry goes round: a little-endian sum of 0xffff becomes 1.
#[test]
fn the_checksum_carries_round() {
    let mut bench = Bench::new(&every_kind_of_vip(settings()));
    for (before, after) in [
        ([0xff, 0xff], [0x01, 0x00]),
        ([0xff, 0x01], [0x00, 0x02]),
        ([0xfe, 0xff], [0xff, 0xff]),
        ([0x00, 0x00], [0x01, 0x00]),
    ] {
        let inner = patched(stranger(), 24, &before);
        bench
            .send(&tunnel(FAR, DECAP[0], Outer::Ipip, &inner))
            .expect_err("passed");
        assert_eq!(bench.passed[24..26], after, "{before:?}");
    }
}

fn nested(depth: usize, innermost: Vec<u8>) -> Vec<u8> {
    (0..depth).fold(innermost, |frame, _| {
        tunnel(FAR, DECAP[0], Outer::Ipip, &frame)
    })
}

#[test]
fn as_many_tunnels_as_the_limit_are_taken_apart() {
    let mut bench = Bench::new(&every_kind_of_vip(settings()));
    let direct = bench.send(&one_hop_later(&syn())).expect("it is balanced");
    assert_eq!(bench.send(&nested(33, syn())), Ok(direct));
    assert_eq!(bench.counters.decap.recirculated.get(), 33);
    let limit = Err(NotSent::Dropped(DropReason::RecirculationLimit));
    assert_eq!(bench.send(&nested(34, syn())), limit);
    assert_eq!(bench.send(&nested(60, syn())), limit);
    // What leaves is not decided again.
    let egress = tunnel(FAR, EGRESS[0], GUE, &syn());
    bench
        .send(&nested(33, egress.clone()))
        .expect("it is sent out");
    assert_eq!(bench.send(&nested(34, egress)), limit);
    assert_eq!(bench.counters.unaccounted(), 0);
}

#[test]
fn only_tunnels_to_destinations_are_touched() {
    let mut bench = Bench::new(&every_kind_of_vip(settings()));
    let ipip = tunnel(FAR, DECAP[0], Outer::Ipip, &syn());
    let quoted = &ipip[14..];
    let about_gue = udp("198.18.5.1:6080", "198.18.9.9:5", b"");
    for (what, frame) in [
        (
            "to another address",
            tunnel(FAR, "198.18.5.9", Outer::Ipip, &syn()),
        ),
        (
            "GUE to another address",
            tunnel(FAR, "198.18.5.9", GUE, &syn()),
        ),
        (
            "GUE to another port",
            tunnel(FAR, DECAP[0], Outer::Gue(6081), &syn()),
        ),
        ("IPv6 in IPv4", ip_packet(FAR, DECAP[0], 41, &syn6()[14..])),
        ("GRE", ip_packet(FAR, DECAP[0], 47, &syn()[14..])),
        ("a fragment", patched(ipip.clone(), 20, &[0x20, 0])),
        ("options", patched(ipip.clone(), 14, &[0x46])),
        ("TCP", tcp(CLIENT, "198.18.5.1:6080", Segment::Syn)),
        (
            "UDP from the port",
            udp("192.0.2.10:6080", "198.18.5.1:9", b""),
        ),
        ("a ping", echo("192.0.2.10", DECAP[0])),
        (
            "an error about a tunnel",
            common::frames::icmp(FAR, DECAP[0], (3, 3), quoted),
        ),
        (
            "an error about GUE",
            common::frames::icmp(FAR, DECAP[0], (3, 3), &about_gue[14..]),
        ),
        (
            "half a UDP header",
            resized(tunnel(FAR, DECAP[0], GUE, &syn()), 41),
        ),
    ] {
        assert_eq!(bench.send(&frame), Err(NotSent::Passed), "{what}");
        assert_eq!(bench.passed, frame, "{what}");
    }
    assert_eq!(bench.counters.decap.packets.get(), 0);
}

/// What arrives may be longer than a VIP's frames: the inner frame counts.
#[test]
fn the_inner_frame_is_held_to_the_size() {
    let inner = |len| resized(tcp(CLIENT, "203.0.113.10:80", Segment::Ack), len);
    let services = every_kind_of_vip(settings());
    let mut bench = Bench::new(&services);
    bench
        .send(&tunnel(FAR, DECAP[0], GUE, &inner(1514)))
        .expect("it is balanced");
    let too_long = tunnel(FAR, DECAP[0], GUE, &inner(1515));
    assert_eq!(
        bench.send(&too_long),
        Err(NotSent::Dropped(DropReason::FrameTooLong))
    );
    let mut answering = Bench::new(&every_kind_of_vip(Settings {
        icmp_too_big: true,
        ..settings()
    }));
    let answer = answering.send(&too_long).expect("an ICMP message");
    let direct = answering.send(&one_hop_later(&inner(1515)));
    assert_eq!(Ok(answer), direct);
}

#[test]
fn tunnels_come_before_a_vip_of_the_same_address() {
    let mut bench = Bench::new(&every_kind_of_vip(settings()));
    let gue = tunnel(FAR, DECAP_AND_VIP, GUE, &stranger());
    assert_eq!(bench.send(&gue), Err(NotSent::Passed));
    assert_eq!(bench.passed, one_hop_later(&stranger()));
    bench
        .send(&udp(CLIENT, "203.0.113.34:6081", b""))
        .expect("the VIP's");
    let explain = |bench: &Bench, destination: &str| {
        let (client, destination) = (CLIENT.parse().unwrap(), destination.parse().unwrap());
        let id = FlowId::new(client, destination, Protocol::Udp).unwrap();
        bench.forwarder.explain(&id, 0)
    };
    let tunnel = |egress| Explanation::Tunnel { egress };
    assert_eq!(explain(&bench, "203.0.113.34:6080"), tunnel(false));
    assert_eq!(explain(&bench, "198.18.5.2:6080"), tunnel(true));
    assert_eq!(explain(&bench, "198.18.5.1:6081"), Explanation::NotAVip);
    assert!(matches!(
        explain(&bench, "203.0.113.34:6081"),
        Explanation::Selected { .. }
    ));
}

/// The header that comes off is room for the new one: with what the XDP program opens, bytes move only
/// where the new header needs less than the old one and the tag.
#[test]
fn the_outer_header_is_room_for_the_new_one() {
    let largest = |settings: Settings| settings.encapsulation.overhead(false);
    for settings in [settings(), gue()] {
        for (name, stripped, frame) in
            tunnels(&tcp(CLIENT, "203.0.113.33:443", Segment::Syn), &syn6())
        {
            let mut bench = Bench::new(&every_kind_of_vip(settings));
            let needed = largest(settings);
            let room = needed.saturating_sub(stripped).max(Tag::SIZE);
            let tag = Tag {
                generation: 0,
                vip: Tag::NO_VIP,
                room: room as u8,
                zero: 0,
            };
            let mut chunk = vec![0xa5; 4096];
            chunk[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
            chunk[room..room + frame.len()].copy_from_slice(&frame);
            let sent = bench.send_tagged(&mut chunk, room + frame.len());
            sent.expect("a tag").expect("it is balanced");
            let moved = u64::from(room + stripped != needed);
            assert_eq!(
                bench.counters.payload_moves.get(),
                moved,
                "{name}, {needed}"
            );
            assert_eq!(
                moved == 0,
                needed >= stripped + Tag::SIZE,
                "{name}, {needed}"
            );
        }
    }
}

#[test]
fn senseless_destinations_are_refused() {
    let own = |n: usize| DecapSpec {
        address: [10, 0, (n >> 8) as u8, n as u8].into(),
        egress: false,
    };
    let refused = |decap: Vec<DecapSpec>, decap_gue_port| {
        let spec = ServiceSpec {
            decap,
            settings: Settings {
                decap_gue_port,
                ..settings()
            },
            ..ServiceSpec::default()
        };
        ServiceControl::new()
            .apply(&spec)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(refused((0..512).map(own).collect(), 6080), Ok(()));
    let problem = refused((0..513).map(own).collect(), 6080).unwrap_err();
    assert_eq!(
        problem,
        "decap: 513 destinations are too many; give up to 512"
    );
    let problem = refused(vec![own(1), own(1)], 6080).unwrap_err();
    assert_eq!(
        problem,
        "decap 10.0.0.1: is there twice; give each address once"
    );
    let problem = refused(vec![own(1)], 0).unwrap_err();
    assert!(
        problem.starts_with("balancer.gue_port: 0 is not a port"),
        "{problem}"
    );
}

/// One layer of a random tunnel: kind, and which of the destinations of its family.
fn layer() -> impl Strategy<Value = (u8, usize)> {
    (0..5_u8, 0..3_usize)
}

/// Of each family: a decap destination, one with egress, and a stranger.
fn wrapped(frame: &[u8], (kind, destination): (u8, usize)) -> Vec<u8> {
    let v4 = [DECAP[0], EGRESS[0], "198.18.5.9"][destination];
    let v6 = [DECAP[1], EGRESS[1], "2001:db8:5::9"][destination];
    let carries_v6 = frame[12..14] == [0x86, 0xdd];
    match kind {
        0 if !carries_v6 => tunnel(FAR, v4, Outer::Ipip, frame),
        // Over IPv4 the inner packet is IPv4 by definition: IPv6 in it is read as rubbish.
        1 => tunnel(FAR, v4, GUE, frame),
        2 => tunnel(FAR6, v6, GUE, frame),
        _ => tunnel(FAR6, v6, Outer::Ipip, frame),
    }
}

fn innermost() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let destination = prop::sample::select(vec![
        (CLIENT, "203.0.113.10:53"),
        (CLIENT, "203.0.113.34:6080"),
        (CLIENT, "203.0.113.99:53"),
        (CLIENT6, "[2001:db8:a::10]:53"),
        (CLIENT6, "[2001:db8:99::1]:53"),
    ]);
    (destination, payload, any::<u8>()).prop_map(|((source, destination), payload, hops)| {
        let frame = udp(source, destination, &payload);
        let at = if source == CLIENT6 { 21 } else { 22 };
        patched(frame, at, &[hops])
    })
}

/// Any stack of tunnels, cut anywhere or with any byte changed, has the model's fate and bytes.
#[test]
fn stacks_of_tunnels_are_what_the_model_says() {
    let stacks = (
        innermost(),
        prop::collection::vec(layer(), 0..6),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
        prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
    );
    for settings in [settings(), gue()] {
        let services = every_kind_of_vip(settings);
        let bench = RefCell::new(Bench::new(&services));
        let mut runner = TestRunner::new(proptest_config(20_000));
        let result = runner.run(&stacks, |(inner, layers, cut, change)| {
            let mut frame = layers
                .into_iter()
                .fold(inner, |frame, one| wrapped(&frame, one));
            if let Some((at, value)) = change {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            let intact = cut.is_none() && change.is_none();
            compare(&services, &mut bench.borrow_mut(), &frame, intact)
        });
        result.unwrap();
        let counters = &bench.borrow().counters;
        for reason in [DropReason::InnerTruncated, DropReason::TtlExpired] {
            assert!(counters.dropped(reason).0 > 0, "{}", reason.name());
        }
        let decap = &counters.decap;
        assert!(decap.egress_v4.get() > 0 && decap.egress_v6.get() > 0);
        assert!(decap.recirculated.get() > 10_000);
    }
}

/// Sends a frame and compares what becomes of it with the model.
fn compare(
    services: &ServiceSpec,
    bench: &mut Bench,
    frame: &[u8],
    intact: bool,
) -> Result<(), TestCaseError> {
    let sent = bench.send(frame);
    prop_assert_eq!(Fate::of(bench, &sent), model::fate(services, frame));
    match (sent, model::unwrapped(services, frame)) {
        (Err(NotSent::Passed), Unwrapped::Kept(kept)) => prop_assert_eq!(&bench.passed, &kept),
        (Ok(sent), Unwrapped::Sent(expected)) => prop_assert_eq!(sent, expected),
        (Ok(sent), Unwrapped::Kept(kept)) if !bench.last_real().is_empty() => {
            prop_assert!(sent.ends_with(&kept[14..]));
            let headers = PacketHeaders::from_ethernet_slice(&sent);
            prop_assert!(headers.is_ok() || !intact, "{:?}", headers);
        }
        (Ok(_), Unwrapped::Kept(_)) | (Err(NotSent::Dropped(_)), _) => {}
        (sent, unwrapped) => prop_assert!(false, "{:?}, {:?}", sent, unwrapped),
    }
    prop_assert_eq!(bench.counters.unaccounted(), 0);
    Ok(())
}
