//! VIPs whose last usable real goes: they drop, or keep their ring as Katran does (katran-compat
//! section 3.6), and what else changes of reals do to rings.

mod common;

use std::sync::Arc;

use common::{Bench, NotSent, frames::udp, real, settings, vip};
use dataplane::{
    counters::DropReason,
    forward::Selection,
    service::{
        Encapsulation,
        HashFunction::{self, MaglevV1, MaglevV2},
        MAX_REALS, Protocol, RealSpec, ServiceControl, ServiceSpec, ServiceTable, VipFlags,
    },
};

const GONE: &str = "2001:db8:f::1";
const FRAME: (&str, &str) = ("192.0.2.1:4000", "203.0.113.10:53");

/// A VIP that uses no flow table, so that only the ring decides.
fn services(keep_last_ring: bool, reals: Vec<RealSpec>) -> ServiceSpec {
    let mut spec = ServiceSpec {
        settings: settings(),
        vips: vec![vip(
            "203.0.113.10",
            53,
            Protocol::Udp,
            VipFlags::LRU_BYPASS,
            &[],
        )],
        ..ServiceSpec::default()
    };
    spec.settings.keep_last_ring = keep_last_ring;
    spec.vips[0].reals = reals;
    spec
}

fn send(bench: &mut Bench) -> Result<(String, Selection), NotSent> {
    bench.send_with_room(&udp(FRAME.0, FRAME.1, b"query"), 40)?;
    Ok((bench.last_real(), bench.last.selection))
}

fn by_ring(address: &str) -> (String, Selection) {
    (address.to_owned(), Selection::Ring)
}

const NO_REAL: Result<(String, Selection), NotSent> = Err(NotSent::Dropped(DropReason::NoReal));

#[test]
fn without_a_usable_real_packets_are_dropped() {
    for unusable in [vec![], vec![real(GONE, 0)]] {
        let mut bench = Bench::new(&services(false, vec![real(GONE, 1)]));
        assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
        bench.apply(&services(false, unusable));
        assert_eq!(send(&mut bench), NO_REAL);
    }
}

#[test]
fn a_kept_ring_serves_until_there_is_another() {
    for unusable in [vec![], vec![real(GONE, 0)], vec![real("198.51.100.12", 0)]] {
        let mut bench = Bench::new(&services(true, vec![real(GONE, 1)]));
        bench.apply(&services(true, unusable.clone()));
        assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
        let kept = bench.forwarder.table().vips().next().unwrap();
        assert_eq!(kept.room, 40, "of the ring's real, not of the VIP's own");
        // Any number of changes elsewhere.
        let mut more = services(true, unusable);
        more.vips.push(vip(
            "203.0.113.11",
            53,
            Protocol::Udp,
            VipFlags::empty(),
            &["198.51.100.13"],
        ));
        bench.apply(&more);
        assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
        bench.apply(&services(true, vec![real("198.51.100.12", 1)]));
        assert_eq!(send(&mut bench), Ok(by_ring("198.51.100.12")));
        bench.apply(&services(true, vec![]));
        assert_eq!(send(&mut bench), Ok(by_ring("198.51.100.12")));
    }
}

#[test]
fn the_switch_works_both_ways() {
    let mut bench = Bench::new(&services(true, vec![real(GONE, 1)]));
    bench.apply(&services(true, vec![]));
    assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
    bench.apply(&services(false, vec![]));
    assert_eq!(send(&mut bench), NO_REAL);
    bench.apply(&services(true, vec![]));
    assert_eq!(send(&mut bench), NO_REAL, "the ring is gone");
}

#[test]
fn a_vip_that_comes_back_or_follows_inherits_no_ring() {
    let mut bench = Bench::new(&services(true, vec![real(GONE, 1)]));
    bench.apply(&services(true, vec![]));
    let mut nothing = services(true, vec![]);
    nothing.vips.clear();
    bench.apply(&nothing);
    assert_eq!(send(&mut bench), Err(NotSent::Passed));
    bench.apply(&services(true, vec![]));
    assert_eq!(send(&mut bench), NO_REAL);
}

#[test]
fn a_number_in_a_kept_ring_is_not_given_away() {
    let many = |count: usize| -> Vec<RealSpec> {
        (0..count)
            .map(|n| real(&format!("10.0.{}.{}", n / 250, n % 250), 1))
            .collect()
    };
    let with_others = |keep, reals, count| {
        let mut spec = services(keep, reals);
        let mut others = vip("203.0.113.11", 53, Protocol::Udp, VipFlags::empty(), &[]);
        others.reals = many(count);
        spec.vips.push(others);
        spec
    };
    let mut bench = Bench::new(&services(true, vec![real(GONE, 1)]));
    bench.apply(&services(true, vec![]));
    // All numbers but the kept one.
    bench.apply(&with_others(true, vec![], MAX_REALS - 2));
    assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
    let error = bench
        .control
        .apply(&with_others(true, vec![], MAX_REALS - 1))
        .unwrap_err();
    assert!(error.problem.contains("real numbers are in use"), "{error}");
    assert_eq!(send(&mut bench), Ok(by_ring(GONE)));
    // The ring goes, and its number is free after that.
    bench.apply(&with_others(false, vec![], MAX_REALS - 2));
    bench.apply(&with_others(false, vec![], MAX_REALS - 1));
    assert_eq!(send(&mut bench), NO_REAL);
}

#[test]
fn a_kept_ring_is_held_to_the_encapsulation() {
    let mut control = ServiceControl::new();
    control.apply(&services(true, vec![real(GONE, 1)])).unwrap();
    let mut gue = services(true, vec![]);
    gue.settings.encapsulation = Encapsulation::Gue {
        port: 6080,
        source_v4: "192.0.2.1".parse().unwrap(),
        source_v6: std::net::Ipv6Addr::UNSPECIFIED,
    };
    let error = control.apply(&gue).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vip 203.0.113.10:53/udp, last real 2001:db8:f::1: GUE to it needs balancer.source_v6, which is \
         not set; set balancer.source_v6 to an address of this host"
    );
}

const DRAINED: &str = "198.51.100.12";

fn with_hash(hash: HashFunction, weights: [u32; 3]) -> ServiceSpec {
    let addresses = ["198.51.100.11", DRAINED, GONE];
    let reals = addresses.iter().zip(weights);
    let mut spec = services(
        false,
        reals.map(|(real_, weight)| real(real_, weight)).collect(),
    );
    spec.vips[0].hash = hash;
    spec
}

/// Slots of each of the VIP's reals.
fn slots(table: &ServiceTable) -> Vec<(String, u32)> {
    let vip = table.vips().next().unwrap();
    let shares = vip.ring.shares().into_iter();
    shares
        .map(|(number, slots)| {
            let real = table.real(usize::from(number)).unwrap();
            (real.address.to_string(), slots)
        })
        .collect()
}

fn slots_of_drained(table: &ServiceTable) -> u32 {
    let mut slots = slots(table).into_iter();
    let drained = slots.find(|(address, _)| address == DRAINED);
    drained.map_or(0, |(_, slots)| slots)
}

#[test]
fn a_change_of_the_hash_function_alone_filters_no_real() {
    let mut control = ServiceControl::new();
    let mut apply = |spec: &ServiceSpec| control.apply(spec).unwrap();
    for hash in HashFunction::ALL {
        // Added so, whatever the function: no change.
        let mut fresh = ServiceControl::new();
        let table = fresh.apply(&with_hash(hash, [1, 0, 1])).unwrap();
        assert_eq!(slots_of_drained(&table), 0, "{hash}");
    }
    apply(&with_hash(MaglevV2, [1, 0, 1]));
    let table = apply(&with_hash(MaglevV1, [1, 0, 1]));
    assert_eq!(slots_of_drained(&table), 21_845);
    let ring = Arc::clone(&table.vips().next().unwrap().ring);

    // What leaves reals and function alone leaves the ring alone.
    let mut others = with_hash(MaglevV1, [1, 0, 1]);
    others.vips[0].reals.reverse();
    others.vips[0].reals[0].down = true;
    others.vips[0].flags |= VipFlags::NO_SRC_PORT;
    others.settings.max_frame = 1400;
    others.vips.push(vip(
        "203.0.113.11",
        53,
        Protocol::Udp,
        VipFlags::empty(),
        &[GONE],
    ));
    let table = apply(&others);
    assert!(Arc::ptr_eq(&ring, &table.vips().next().unwrap().ring));

    // Any change of the reals filters again; with V2 there was nothing to filter.
    assert_eq!(slots_of_drained(&apply(&with_hash(MaglevV1, [2, 0, 1]))), 0);
    assert_eq!(slots_of_drained(&apply(&with_hash(MaglevV2, [2, 0, 1]))), 0);
    assert!(slots_of_drained(&apply(&with_hash(MaglevV1, [2, 0, 1]))) > 0);
    // A change of both is a change of the reals.
    assert_eq!(slots_of_drained(&apply(&with_hash(MaglevV2, [1, 0, 1]))), 0);
    assert_eq!(slots_of_drained(&apply(&with_hash(MaglevV1, [1, 0, 2]))), 0);
}

#[test]
fn reals_that_are_all_drained_share_the_ring_of_another_hash_function() {
    for keep in [false, true] {
        for (from, to) in [(MaglevV1, MaglevV2), (MaglevV2, MaglevV1)] {
            let spec = |hash, weights| {
                let mut spec = with_hash(hash, weights);
                spec.settings.keep_last_ring = keep;
                spec
            };
            let mut bench = Bench::new(&spec(from, [1, 0, 0]));
            bench.apply(&spec(from, [0; 3]));
            let kept = if keep {
                Ok(by_ring("198.51.100.11"))
            } else {
                NO_REAL
            };
            assert_eq!(send(&mut bench), kept);
            bench.apply(&spec(to, [0; 3]));
            let of = |bench: &Bench| slots(bench.forwarder.table());
            let each: Vec<u32> = of(&bench).into_iter().map(|(_, slots)| slots).collect();
            assert_eq!(each.len(), 3, "{to}");
            assert!(
                each.iter().all(|slots| (21_845..=21_846).contains(slots)),
                "{each:?}"
            );
            let answer = send(&mut bench);
            assert!(answer.is_ok(), "{answer:?}");
            // A change elsewhere is no reason to filter.
            let mut elsewhere = spec(to, [0; 3]);
            elsewhere.settings.max_frame = 1400;
            bench.apply(&elsewhere);
            assert_eq!(send(&mut bench), answer);
        }
    }
}

#[test]
fn a_change_that_is_withdrawn_leaves_every_ring_as_it_was() {
    for (running, failed) in [
        // The withdrawal changes the function alone; nothing was drained by the change before it.
        (
            vec![with_hash(MaglevV1, [1, 0, 1])],
            with_hash(MaglevV2, [1, 0, 1]),
        ),
        (
            vec![with_hash(MaglevV1, [0; 3])],
            with_hash(MaglevV2, [0; 3]),
        ),
        // And it changes reals of a ring that was not filtered.
        (
            vec![
                with_hash(MaglevV2, [1, 0, 1]),
                with_hash(MaglevV1, [1, 0, 1]),
            ],
            with_hash(MaglevV1, [1, 0, 5]),
        ),
    ] {
        let mut control = ServiceControl::new();
        for spec in &running {
            control.apply(spec).unwrap();
        }
        let before = slots(&control.table());
        let mut withdrawn = control.clone();
        withdrawn.apply(&failed).unwrap();
        let last = running.last().unwrap();
        let as_one_more_change = withdrawn.clone().apply(last).unwrap();
        assert_ne!(slots(&as_one_more_change), before);
        let table = withdrawn.withdraw(last, &control).unwrap();
        assert_eq!(slots(&table), before);
    }
}
