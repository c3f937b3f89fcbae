//! VIPs whose last usable real goes: they drop, or keep their ring as Katran does (katran-compat
//! section 3.6), and what else changes of reals do to rings.

mod common;

use common::{Bench, NotSent, frames::udp, real, settings, vip};
use dataplane::{
    counters::DropReason,
    forward::Selection,
    service::{
        Encapsulation, HashFunction, MAX_REALS, Protocol, RealSpec, ServiceControl, ServiceSpec,
        VipFlags,
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

#[test]
fn another_hash_function_gives_a_drained_real_nothing() {
    let reals = || {
        vec![
            real("198.51.100.11", 1),
            real("198.51.100.12", 0),
            real(GONE, 1),
        ]
    };
    for hash in HashFunction::ALL {
        let mut bench = Bench::new(&services(false, reals()));
        let mut changed = services(false, reals());
        changed.vips[0].hash = hash;
        bench.apply(&changed);
        let table = bench.forwarder.table();
        let drained = table
            .reals()
            .find(|real| real.address == "198.51.100.12".parse::<std::net::IpAddr>().unwrap())
            .unwrap();
        let vip = table.vips().next().unwrap();
        assert_eq!(vip.ring.shares().len(), 2);
        assert!(
            !vip.ring
                .slots()
                .iter()
                .any(|slot| usize::from(*slot) == drained.id.index())
        );
    }
}
