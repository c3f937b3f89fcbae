//! Packets for reals on this host go up to the kernel (katran-compat section 6.5).

mod common;

use std::collections::BTreeSet;

use common::{
    Bench, NotSent, V4_REALS, V6_REALS,
    frames::{Segment, icmp_error, tcp, udp},
    settings, vip,
};
use dataplane::{
    forward::{Explanation, FlowId, Selection, Verdict},
    service::{
        Encapsulation,
        Protocol::{self, Tcp, Udp},
        RealSpec, ServerIds, ServiceControl, ServiceSpec, Settings, VipFlags,
    },
};

const HERE: &str = "192.0.2.254";
const HERE_V6: &str = "2001:db8:ba::fe";

fn local(address: &str) -> RealSpec {
    RealSpec {
        address: address.parse().unwrap(),
        weight: 1,
        local: true,
        down: false,
    }
}

/// A VIP of each family with this protocol and these flags, remote reals and one that is local.
fn mixed(protocol: Protocol, flags: VipFlags) -> ServiceSpec {
    let mut vips = vec![
        vip("203.0.113.10", 80, protocol, flags, V4_REALS),
        vip("2001:db8:a::10", 80, protocol, flags, V6_REALS),
    ];
    vips[0].reals.push(local(HERE));
    vips[1].reals.push(local(HERE_V6));
    ServiceSpec {
        settings: settings(),
        vips,
        ..ServiceSpec::default()
    }
}

/// As [`mixed`], without the remote reals.
fn only_local(protocol: Protocol) -> ServiceSpec {
    let mut spec = mixed(protocol, VipFlags::LOCAL_VIP);
    for vip in &mut spec.vips {
        vip.reals.retain(|real| real.local);
    }
    spec
}

fn clients_v4() -> impl Iterator<Item = String> {
    (0..200).map(|n| format!("192.0.2.10:{}", 40000 + n))
}

fn clients_v6() -> impl Iterator<Item = String> {
    (0..200).map(|n| format!("[2001:db8:c::10]:{}", 40000 + n))
}

#[test]
fn a_vip_with_local_reals_only_passes_everything_and_counts_it() {
    for protocol in [Tcp, Udp] {
        let mut spec = only_local(protocol);
        // Nothing is sent, so no next hop is needed.
        spec.settings.next_hop_mac = None;
        let mut bench = Bench::new(&spec);
        for (number, client, destination, real, payload_length) in [
            (0, "192.0.2.10:40000", "203.0.113.10:80", HERE, 20 + 8),
            (
                1,
                "[2001:db8:c::10]:40000",
                "[2001:db8:a::10]:80",
                HERE_V6,
                8,
            ),
        ] {
            let frame = match protocol {
                Tcp => tcp(client, destination, Segment::Ack),
                Udp => udp(client, destination, &[]),
            };
            // The bench compares the frame that goes up with the one that came.
            assert_eq!(bench.send(&frame), Err(NotSent::Passed));
            assert_eq!(bench.last.selection, Selection::Ring);
            assert_eq!(bench.send(&frame), Err(NotSent::Passed));
            assert_eq!(bench.last.selection, Selection::Table);
            assert_eq!(bench.last.vip, number);
            assert_eq!(bench.last_real(), real);
            let (packets, bytes) = bench.counters.vips[usize::from(number)].get();
            let each = payload_length + if protocol == Tcp { 12 } else { 0 };
            assert_eq!((packets, bytes), (2, 2 * each));
            let of_real = &bench.counters.reals[bench.last.real.index()];
            assert_eq!(of_real.get(), (2, 2 * each));
        }
        assert_eq!(bench.counters.passed.packets.get(), 4);
        assert_eq!(bench.counters.unaccounted(), 0);
    }
}

#[test]
fn remote_reals_of_the_same_vip_get_theirs() {
    let mut bench = Bench::new(&mixed(Tcp, VipFlags::LOCAL_VIP));
    for (clients, destination, here, remote) in [
        (
            clients_v4().collect::<Vec<_>>(),
            "203.0.113.10:80",
            HERE,
            V4_REALS,
        ),
        (
            clients_v6().collect(),
            "[2001:db8:a::10]:80",
            HERE_V6,
            V6_REALS,
        ),
    ] {
        let mut met = BTreeSet::new();
        for client in clients {
            for segment in [Segment::Syn, Segment::Ack] {
                let sent = bench.send(&tcp(&client, destination, segment));
                let real = bench.last_real();
                assert_eq!(
                    sent == Err(NotSent::Passed),
                    real == here,
                    "{client} {real}"
                );
                met.insert(real);
            }
        }
        let all: BTreeSet<String> = remote
            .iter()
            .chain([&here])
            .map(ToString::to_string)
            .collect();
        assert_eq!(met, all);
    }
}

#[test]
fn without_the_flag_a_local_real_gets_tunnels_like_any_other() {
    let mut bench = Bench::new(&mixed(Tcp, VipFlags::empty()));
    let plain = {
        let mut spec = mixed(Tcp, VipFlags::empty());
        for real in spec.vips.iter_mut().flat_map(|vip| &mut vip.reals) {
            real.local = false;
        }
        spec
    };
    let mut expected = Bench::new(&plain);
    for client in clients_v4() {
        let frame = tcp(&client, "203.0.113.10:80", Segment::Syn);
        assert_eq!(
            bench.send(&frame).expect("sent"),
            expected.send(&frame).expect("sent")
        );
    }
}

#[test]
fn the_flag_does_nothing_to_remote_reals() {
    let mut spec = mixed(Udp, VipFlags::LOCAL_VIP);
    for vip in &mut spec.vips {
        vip.reals.retain(|real| !real.local);
    }
    let mut bench = Bench::new(&spec);
    for client in clients_v4() {
        bench
            .send(&udp(&client, "203.0.113.10:80", b"x"))
            .expect("it is sent");
    }
}

#[test]
fn an_icmp_error_goes_where_its_flow_goes() {
    let mut bench = Bench::new(&only_local(Tcp));
    let answer = tcp("203.0.113.10:80", "192.0.2.10:40000", Segment::Ack);
    let error = icmp_error("192.0.2.1", "203.0.113.10", (3, 4), &answer);
    assert_eq!(bench.send(&error), Err(NotSent::Passed));
    assert_eq!(bench.last_real(), HERE);
    assert_eq!(bench.counters.icmp_errors.get(), 1);
}

#[test]
fn a_real_that_becomes_local_takes_its_flows_along() {
    let mut spec = mixed(Tcp, VipFlags::LOCAL_VIP);
    let remote = |spec: &mut ServiceSpec, local| {
        for real in spec.vips.iter_mut().flat_map(|vip| &mut vip.reals) {
            if real.address.to_string() == HERE {
                real.local = local;
            }
        }
    };
    remote(&mut spec, false);
    let mut bench = Bench::new(&spec);
    let client = clients_v4()
        .find(|client| {
            bench
                .send(&tcp(client, "203.0.113.10:80", Segment::Syn))
                .expect("sent");
            bench.last_real() == HERE
        })
        .expect("a client of every real");
    let frame = tcp(&client, "203.0.113.10:80", Segment::Ack);
    let id = bench.last.real;
    for (local, verdict) in [(true, true), (false, false)] {
        remote(&mut spec, local);
        bench.apply(&spec);
        assert_eq!(bench.send(&frame) == Err(NotSent::Passed), verdict);
        assert_eq!(
            (bench.last.selection, bench.last.real),
            (Selection::Table, id)
        );
    }
}

#[test]
fn a_server_id_can_name_the_local_real() {
    let mut spec = mixed(Udp, VipFlags::LOCAL_VIP | VipFlags::UDP_STABLE_ROUTING);
    let named = ServerIds::default().with(&[7], HERE.parse().unwrap());
    spec.server_ids = named.unwrap();
    let mut bench = Bench::new(&spec);
    let frame = udp(
        "192.0.2.10:1",
        "203.0.113.10:80",
        &[0x52, 0, 0, 7, 0, 0, 0, 0],
    );
    assert_eq!(bench.send(&frame), Err(NotSent::Passed));
    assert_eq!(bench.last.selection, Selection::ServerId);
}

#[test]
fn explanations_say_which_real_is_local() {
    let mut bench = Bench::new(&mixed(Tcp, VipFlags::LOCAL_VIP));
    let mut local_reals = 0;
    for client in clients_v4() {
        let destination = "203.0.113.10:80";
        let id = FlowId::new(client.parse().unwrap(), destination.parse().unwrap(), Tcp).unwrap();
        let Explanation::Selected { real, local, .. } = bench.forwarder.explain(&id, 0) else {
            panic!("{client} is balanced");
        };
        let passed = bench
            .send(&tcp(&client, destination, Segment::Ack))
            .is_err();
        assert_eq!((local, real.to_string()), (passed, bench.last_real()));
        local_reals += usize::from(local);
    }
    assert!(local_reals > 0);
}

#[test]
fn a_real_is_local_for_all_vips_or_for_none() {
    let mut spec = only_local(Tcp);
    let mut other = vip("203.0.113.11", 80, Tcp, VipFlags::empty(), &[]);
    other.reals.push(RealSpec {
        local: false,
        down: false,
        ..local(HERE)
    });
    spec.vips.push(other);
    let error = ServiceControl::new().apply(&spec).unwrap_err();
    assert_eq!(error.field, "vip 203.0.113.11:80/tcp, real 192.0.2.254");
    assert!(error.problem.contains("local"), "{error}");
}

#[test]
fn room_that_was_opened_is_not_part_of_what_goes_up() {
    let mut spec = only_local(Udp);
    spec.settings = Settings {
        encapsulation: Encapsulation::Gue {
            port: 6080,
            source_v4: "192.0.2.1".parse().unwrap(),
            source_v6: "2001:db8::1".parse().unwrap(),
        },
        ..spec.settings
    };
    let mut bench = Bench::new(&spec);
    let frame = udp("[2001:db8:c::10]:9", "[2001:db8:a::10]:80", b"payload");
    assert_eq!(bench.send_with_room(&frame, 48), Err(NotSent::Passed));
    assert_eq!(bench.last.verdict, Verdict::Pass);
    assert_eq!(bench.counters.payload_moves.get(), 0);
}

/// As the flows that a removed real keeps.
#[test]
fn a_removed_local_real_stays_local_for_its_flows_and_its_server_id() {
    let mut spec = mixed(Tcp, VipFlags::LOCAL_VIP);
    spec.vips[0].reals.retain(|real| real.local);
    let named = ServerIds::default().with(&[7], HERE.parse().unwrap());
    spec.server_ids = named.unwrap();
    let mut bench = Bench::new(&spec);
    let frame = tcp("192.0.2.10:40000", "203.0.113.10:80", Segment::Ack);
    assert_eq!(bench.send(&frame), Err(NotSent::Passed));
    spec.vips[0].reals = vec![common::real(V4_REALS[0], 1)];
    bench.apply(&spec);
    assert_eq!(bench.send(&frame), Err(NotSent::Passed));
    assert_eq!(bench.last.selection, Selection::Table);
    // A VIP can say that it is not.
    spec.vips[0].reals.push(common::real(HERE, 1));
    bench.apply(&spec);
    assert!(bench.send(&frame).is_ok());
}
