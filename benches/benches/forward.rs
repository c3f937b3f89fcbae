//! What a packet costs from the received buffer to its outer header: VIP by its tag, flow
//! table, encapsulation and all counters. `cargo bench -p benches --bench forward`.
//!
//! Packets of random flows lie in the chunks of a socket's memory; laying them there is not measured,
//! reading the clock twice a burst is.

use std::{
    collections::HashSet,
    hint::black_box,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use benches::workload::{
    IpVersion, RandomFlows, Services, Workload,
    routes::{self, Random},
};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use dataplane::{
    capture::{Event, Monitor},
    counters::DropReason,
    forward::{BURST, Selection},
    service::{Protocol, SourceRoutes, VipFlags, VipKey},
};

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    workload: &mut Workload,
    flows: &mut impl Iterator<Item = u64>,
    (packets, selection): (usize, Selection),
) {
    group.throughput(Throughput::Elements(packets as u64));
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|bursts| {
            let mut spent = Duration::ZERO;
            let mut selected = 0;
            for _ in 0..bursts {
                let burst = workload.arrive(flows.by_ref().take(packets));
                let start = Instant::now();
                workload.decide(black_box(&burst));
                spent += start.elapsed();
                selected += workload.selected(&burst, selection);
            }
            // A full table may have given up a flow in a thousand.
            assert!(
                selected * 1000 >= bursts * packets as u64 * 995,
                "{selected}"
            );
            spent
        });
    });
}

/// Packets of flows that the table has.
fn hits(criterion: &mut Criterion) {
    for version in IpVersion::ALL {
        let mut group = criterion.benchmark_group(format!("forward/{}/hit", version.name()));
        for flows in [1_000, 100_000, 1_000_000, 10_000_000] {
            let mut workload = Workload::new(version, flows as usize);
            workload.establish(flows);
            let id = BenchmarkId::from_parameter(flows);
            let order = &mut RandomFlows::below(flows);
            measure(
                &mut group,
                id,
                &mut workload,
                order,
                (BURST, Selection::Table),
            );
        }
        group.finish();
    }
}

/// The first packets of flows, while the table is full of others that are in use.
fn new_flows(criterion: &mut Criterion) {
    for version in IpVersion::ALL {
        let mut group = criterion.benchmark_group(format!("forward/{}/new", version.name()));
        for flows in [1_000, 100_000, 1_000_000] {
            let mut workload = Workload::new(version, flows as usize);
            workload.establish(flows);
            let id = BenchmarkId::from_parameter(flows);
            measure(
                &mut group,
                id,
                &mut workload,
                &mut (flows..),
                (BURST, Selection::Ring),
            );
        }
        group.finish();
    }
}

/// A million routes, clients that they cover, and clients that they do not.
fn routed(version: IpVersion) -> (SourceRoutes, [Arc<[IpAddr]>; 2]) {
    let random = &mut Random::default();
    let real = |number| version.real(number);
    // Each once, or what looks like a new flow is one that the table has.
    let clients = |mut client: Box<dyn FnMut() -> IpAddr + '_>| -> Arc<[IpAddr]> {
        let mut seen = HashSet::new();
        std::iter::repeat_with(&mut client)
            .filter(|client| seen.insert(*client))
            .take(routes::CLIENTS)
            .collect()
    };
    match version {
        IpVersion::V4 => {
            let prefixes = routes::prefixes_v4(random);
            let table = routes::routes(&prefixes, |bits| IpAddr::V4(bits.into()), real);
            let covered = clients(Box::new(|| routes::client_v4(&prefixes, random).into()));
            let strangers = clients(Box::new(|| routes::stranger_v4(&table, random).into()));
            (table, [covered, strangers])
        }
        IpVersion::V6 => {
            let prefixes = routes::prefixes_v6(random, routes::registry_site);
            let table = routes::routes(&prefixes, |bits| IpAddr::V6(bits.into()), real);
            let covered = clients(Box::new(|| routes::client_v6(&prefixes, random).into()));
            let strangers = clients(Box::new(|| routes::stranger_v6(&table, random).into()));
            (table, [covered, strangers])
        }
    }
}

/// The first packets of flows, as in [`new_flows`], of a VIP that follows a million source routes, and of
/// the same one without them. `flag` is a VIP that follows routes, of which there are none; `known` are
/// packets of flows that the table has.
fn source_routes(criterion: &mut Criterion) {
    const FLOWS: u64 = 1_000_000;
    for version in IpVersion::ALL {
        let (table, [covered, strangers]) = routed(version);
        let none = SourceRoutes::default();
        let cases = [
            ("without/covered", VipFlags::empty(), &none, &covered),
            ("flag/covered", VipFlags::SRC_ROUTING, &none, &covered),
            ("hit/covered", VipFlags::SRC_ROUTING, &table, &covered),
            ("known/covered", VipFlags::SRC_ROUTING, &table, &covered),
            ("without/stranger", VipFlags::empty(), &none, &strangers),
            ("flag/stranger", VipFlags::SRC_ROUTING, &none, &strangers),
            ("miss/stranger", VipFlags::SRC_ROUTING, &table, &strangers),
        ];
        let mut group = criterion.benchmark_group(format!("forward/{}/route", version.name()));
        for (name, flags, routes, clients) in cases {
            let services = Services {
                flags,
                routes: routes.clone(),
                clients: Arc::clone(clients),
                ..Services::default()
            };
            let mut workload = Workload::with_services(version, FLOWS as usize, services);
            workload.establish(FLOWS);
            let selection = match name.split_once('/') {
                Some(("known", _)) => Selection::Table,
                Some(("hit", _)) => Selection::SourceRoute,
                _ => Selection::Ring,
            };
            let id = BenchmarkId::from_parameter(name);
            let (new, known) = (FLOWS.., RandomFlows::below(FLOWS));
            let mut order: Box<dyn Iterator<Item = u64>> = match selection {
                Selection::Table => Box::new(known),
                _ => Box::new(new),
            };
            measure(
                &mut group,
                id,
                &mut workload,
                &mut order,
                (BURST, selection),
            );
        }
        group.finish();
    }
}

/// Packets of flows that the table has, while a capture watches: for packets of another VIP, for drops of
/// which there are none, and for all of them. Of the last, what reads the copies is not measured.
fn watched(criterion: &mut Criterion) {
    const FLOWS: u64 = 100_000;
    const SNAPLEN: usize = 128;
    for version in IpVersion::ALL {
        let mut workload = Workload::new(version, FLOWS as usize);
        workload.establish(FLOWS);
        let own = workload.vip();
        let other = VipKey::exact(version.real(0), 1, Protocol::Tcp);
        let cases = [
            ("nothing", None),
            ("other-vip", Some(Event::Vip(other))),
            ("no-such-drop", Some(Event::Drop(DropReason::Fragment))),
            ("all", Some(Event::Vip(own))),
        ];
        let mut group = criterion.benchmark_group(format!("forward/{}/watched", version.name()));
        group.throughput(Throughput::Elements(BURST as u64));
        for (name, event) in cases {
            let flows = &mut RandomFlows::below(FLOWS);
            let mut watch =
                event.map(|event| Monitor::new([event].into_iter().collect(), SNAPLEN, 2 * BURST));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|bursts| {
                    let mut spent = Duration::ZERO;
                    let mut copied = 0;
                    for _ in 0..bursts {
                        let burst = workload.arrive(flows.by_ref().take(BURST));
                        let start = Instant::now();
                        match &mut watch {
                            None => workload.decide(black_box(&burst)),
                            Some((monitor, _)) => {
                                workload.decide_watched(black_box(&burst), monitor);
                            }
                        }
                        spent += start.elapsed();
                        while let Some((_, feed)) = &mut watch
                            && let Some(snapshot) = feed.take()
                        {
                            copied += 1;
                            feed.give_back(snapshot);
                        }
                    }
                    let expected = if name == "all" {
                        bursts * BURST as u64
                    } else {
                        0
                    };
                    assert_eq!(copied, expected);
                    spent
                });
            });
        }
        group.finish();
    }
}

/// Few packets at a time, as under low load.
fn small_bursts(criterion: &mut Criterion) {
    const FLOWS: u64 = 1_000;
    let mut group = criterion.benchmark_group("forward/ipv4/hit/burst");
    let mut workload = Workload::new(IpVersion::V4, FLOWS as usize);
    workload.establish(FLOWS);
    for packets in [1, 2, 4, 8, 16, 32, BURST] {
        let id = BenchmarkId::from_parameter(packets);
        let order = &mut RandomFlows::below(FLOWS);
        measure(
            &mut group,
            id,
            &mut workload,
            order,
            (packets, Selection::Table),
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = hits, new_flows, source_routes, watched, small_bursts
}
criterion_main!(benches);
