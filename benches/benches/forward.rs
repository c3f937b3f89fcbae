//! What a packet costs from the received buffer to its outer header: VIP lookup, flow table,
//! encapsulation and all counters. `cargo bench -p benches --bench forward`.
//!
//! Packets of random flows lie in the chunks of a socket's memory; laying them there is not measured,
//! reading the clock twice a burst is.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::workload::{IpVersion, RandomFlows, Workload};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use dataplane::forward::{BURST, Selection};

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
    targets = hits, new_flows, small_bursts
}
criterion_main!(benches);
