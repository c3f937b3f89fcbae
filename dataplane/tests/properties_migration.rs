//! UDP flows that leave reals, source routes and floods, against a small model of katran-compat sections 5.2 to 5.4:
//! whatever the order of packets, pauses and changes, each packet gets the real and the selection of
//! the model.

mod common;

use std::{collections::HashMap, net::IpAddr};

use common::{Bench, frames::udp, proptest_config, real, settings, vip};
use dataplane::{
    forward::{Selection, flow_hash},
    service::{Protocol, ServiceSpec, SourceRouteSpec, SourceRoutes, VipFlags},
};
use proptest::prelude::*;

const REALS: [&str; 3] = ["198.51.100.11", "198.51.100.12", "198.51.100.13"];
const ROUTED: &str = "198.51.100.20";
const CAP: u32 = 6;
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// A datagram of the client with this last octet.
    Packet(u8),
    /// Time passes.
    Wait(u64),
    /// A real goes down or comes up.
    Down(usize, bool),
    /// A real drains or takes new flows again.
    Weight(usize, u32),
    /// The VIP's flows migrate, or do not.
    Migrates(bool),
    /// Clients below 4 have a route that the VIP follows, or does not.
    Routed(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..8_u8).prop_map(Step::Packet),
        2 => (0..SECOND_NS / 2).prop_map(Step::Wait),
        1 => Just(Step::Wait(SECOND_NS + 1)),
        1 => (29..32_u64).prop_map(|seconds| Step::Wait(seconds * SECOND_NS)),
        3 => (0..REALS.len(), any::<bool>()).prop_map(|(real, down)| Step::Down(real, down)),
        2 => (0..REALS.len(), 0..2_u32).prop_map(|(real, weight)| Step::Weight(real, weight)),
        1 => any::<bool>().prop_map(Step::Migrates),
        1 => any::<bool>().prop_map(Step::Routed),
    ]
}

/// The contract's state of one worker.
#[derive(Default)]
struct Model {
    /// Client, and its real and last use.
    flows: HashMap<u8, (IpAddr, u64)>,
    events: u32,
    window_start: u64,
    migrations: u64,
    suppressed: u64,
}

impl Model {
    fn is_flooded(&mut self, now: u64) -> bool {
        if now - self.window_start > SECOND_NS {
            (self.window_start, self.events) = (now, 1);
            return false;
        }
        self.events += 1;
        self.events > CAP
    }

    /// `by_ring` is the real that the ring has for the client.
    fn packet(
        &mut self,
        spec: &ServiceSpec,
        client: u8,
        now: u64,
        by_ring: Option<IpAddr>,
    ) -> Option<(IpAddr, Selection)> {
        let vip = &spec.vips[0];
        let mut known = None;
        if let Some((real, last_use)) = self.flows.get_mut(&client)
            && now - *last_use <= 30 * SECOND_NS
        {
            *last_use = now;
            known = Some(*real);
        }
        if vip.flags.contains(VipFlags::UDP_FLOW_MIGRATION) && !self.is_flooded(now) {
            let is_down = |address| {
                let mut reals = vip.reals.iter();
                reals.any(|real| real.down && real.address == address)
            };
            if known.is_some_and(is_down) {
                known = None;
                self.migrations += 1;
            }
        }
        if let Some(real) = known {
            return Some((real, Selection::Table));
        }
        let flooded = self.is_flooded(now);
        let follows = vip.flags.contains(VipFlags::SRC_ROUTING) && !flooded;
        let (real, selection) = if follows && client < 4 {
            (ROUTED.parse().expect("an address"), Selection::SourceRoute)
        } else {
            (by_ring?, Selection::Ring)
        };
        if flooded {
            self.suppressed += 1;
        } else {
            self.flows.insert(client, (real, now));
        }
        Some((real, selection))
    }
}

fn by_ring(bench: &Bench, client: u8) -> Option<IpAddr> {
    let table = bench.forwarder.table();
    let hash = flow_hash(
        &[192, 0, 2, client],
        4000_u16.to_be_bytes(),
        53_u16.to_be_bytes(),
    );
    let index = table.vips().next()?.ring.select(hash);
    table.real(usize::from(index)).map(|real| real.address)
}

proptest! {
    #![proptest_config(proptest_config(300))]

    #[test]
    fn migrating_flows_follow_the_contract(steps in prop::collection::vec(step(), 1..150)) {
        let flags = VipFlags::UDP_FLOW_MIGRATION;
        let mut spec = ServiceSpec {
            settings: settings(),
            vips: vec![vip("203.0.113.10", 53, Protocol::Udp, flags, &REALS)],
            ..ServiceSpec::default()
        };
        spec.settings.connection_rate_cap = CAP;
        spec.source_routes = SourceRoutes::new([SourceRouteSpec {
            prefix: [192, 0, 2, 0].into(),
            prefix_len: 30,
            real: ROUTED.parse().unwrap(),
        }])
        .unwrap();
        let (mut bench, mut model) = (Bench::new(&spec), Model::default());
        for step in steps {
            let vip = &mut spec.vips[0];
            match step {
                Step::Packet(client) => {
                    let frame = udp(&format!("192.0.2.{client}:4000"), "203.0.113.10:53", b"query");
                    let ring = by_ring(&bench, client);
                    let expected = model.packet(&spec, client, bench.now_ns, ring);
                    let sent = bench.send(&frame).is_ok();
                    let found = sent.then(|| {
                        let real: IpAddr = bench.last_real().parse().expect("an address");
                        (real, bench.last.selection)
                    });
                    prop_assert_eq!(found, expected, "client {}", client);
                    continue;
                }
                Step::Wait(ns) => {
                    bench.now_ns += ns;
                    continue;
                }
                Step::Down(real, down) => vip.reals[real].down = down,
                Step::Weight(real, weight) => vip.reals[real].weight = weight,
                Step::Migrates(migrates) => vip.flags.set(flags, migrates),
                Step::Routed(routed) => vip.flags.set(VipFlags::SRC_ROUTING, routed),
            }
            bench.apply(&spec);
        }
        prop_assert_eq!(bench.counters.udp_flow_migrations.get(), model.migrations);
        prop_assert_eq!(bench.counters.flood_suppressed.get(), model.suppressed);
        prop_assert_eq!(bench.forwarder.flow_count(), model.flows.len());
    }
}

#[test]
fn explain_tells_where_a_migrating_flow_goes() {
    let mut spec = ServiceSpec {
        settings: settings(),
        vips: vec![vip(
            "203.0.113.10",
            53,
            Protocol::Udp,
            VipFlags::UDP_FLOW_MIGRATION,
            &REALS,
        )],
        ..ServiceSpec::default()
    };
    let mut bench = Bench::new(&spec);
    let frame = udp("192.0.2.1:4000", "203.0.113.10:53", b"query");
    bench.send(&frame).unwrap();
    let first = bench.last_real();
    let failed = spec.vips[0]
        .reals
        .iter_mut()
        .find(|spec| *spec == &real(&first, 1))
        .expect("one of the VIP's reals");
    (failed.weight, failed.down) = (0, true);
    bench.apply(&spec);
    let id = dataplane::forward::FlowId::new(
        "192.0.2.1:4000".parse().unwrap(),
        "203.0.113.10:53".parse().unwrap(),
        Protocol::Udp,
    );
    let explained = bench.forwarder.explain(&id.unwrap(), bench.now_ns);
    let dataplane::forward::Explanation::Selected { real, by, .. } = explained else {
        panic!("{explained:?}");
    };
    assert_eq!(by, Selection::Ring);
    assert_ne!(real.to_string(), first);
    bench.send(&frame).unwrap();
    assert_eq!(bench.last_real(), real.to_string());
    assert_eq!(bench.counters.udp_flow_migrations.get(), 1);
    bench.send(&frame).unwrap();
    assert_eq!(bench.last.selection, Selection::Table);
}
