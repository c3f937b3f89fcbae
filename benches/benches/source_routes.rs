//! Longest prefix match on a million client prefixes: the table of the data path against two crates.
//!
//! `cargo bench -p benches --bench source_routes`. Prefixes and clients are those of
//! `benches::workload::routes`. A `look_up` does not wait for the one before; `in bursts` the look-ups of 64
//! clients go step by step together, as in the forwarder. One of `one_by_one` waits for the one before, so it
//! has all of the memory's latency.
//!
//! IPv6 has two distributions: of `v6` prefixes are spread evenly, of `v6_registries` they crowd.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use benches::workload::routes::{
    self, CLIENTS, Random, client_v4, client_v6, even_site, prefixes_v4, prefixes_v6, registry_site,
};
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use dataplane::{forward::BURST, service::SourceRoutes};
use prefix_trie::PrefixMap;
use treebitmap::IpLookupTable;

fn real(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(high), u16::from(low)])
}

fn look_ups<C: Copy>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    clients: &[C],
    find: impl Fn(C) -> u64,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| clients.iter().map(|client| find(*client)).sum::<u64>());
    });
}

/// As the forwarder looks the clients of a burst up.
fn in_bursts<C>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    clients: &[C],
    find: impl Fn(&[C], &mut [u32]),
) {
    group.bench_function("source_routes in bursts", |bencher| {
        bencher.iter(|| {
            let bursts = clients.chunks_exact(BURST).map(|burst| {
                let mut places = [0; BURST];
                find(burst, &mut places);
                places.iter().map(|place| u64::from(*place)).sum::<u64>()
            });
            bursts.sum::<u64>()
        });
    });
}

/// Which client is next depends on what was found for the last one.
fn one_by_one<C: Copy>(
    criterion: &mut Criterion,
    name: &str,
    clients: &[C],
    find: impl Fn(C) -> u64,
) {
    let mut group = criterion.benchmark_group(format!("source_routes/{name}/one_by_one"));
    group.throughput(Throughput::Elements(clients.len() as u64));
    group.bench_function("source_routes", |bencher| {
        bencher.iter(|| {
            let next = |found: u64, place: usize| {
                // Reals are below 4096: the place stays the same, which the processor cannot know.
                find(clients[place ^ (found >> 12) as usize])
            };
            (0..clients.len()).fold(0, next)
        });
    });
    group.finish();
}

/// Sorting and building.
fn builds(criterion: &mut Criterion, name: &str, build: impl Fn() -> SourceRoutes) {
    let mut group = criterion.benchmark_group(format!("source_routes/{name}/build"));
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("source_routes", |bencher| {
        bencher.iter_batched(|| (), |()| black_box(build()), BatchSize::PerIteration);
    });
    group.finish();
}

fn v4(criterion: &mut Criterion) {
    let mut random = Random::default();
    let prefixes = prefixes_v4(&mut random);
    let clients: Vec<Ipv4Addr> = (0..CLIENTS)
        .map(|_| client_v4(&prefixes, &mut random))
        .collect();
    let ours = || routes::routes(&prefixes, |bits| Ipv4Addr::from_bits(bits).into(), real);
    let routes = ours();
    println!("v4: {} MiB", routes.memory_bytes() >> 20);
    let mut trie = PrefixMap::new();
    let mut bitmap = IpLookupTable::<Ipv4Addr, u16>::new();
    for &((prefix, length), number) in &prefixes {
        trie.insert((prefix, length), number);
        bitmap.insert(Ipv4Addr::from_bits(prefix), length.into(), number);
    }

    let mut group = criterion.benchmark_group("source_routes/v4/look_up");
    group.throughput(Throughput::Elements(CLIENTS as u64));
    look_ups(&mut group, "source_routes", &clients, |client| {
        routes.select_v4(client.octets()).map_or(0, u64::from)
    });
    let wire: Vec<_> = clients.iter().map(Ipv4Addr::octets).collect();
    in_bursts(&mut group, &wire, |clients, places| {
        routes.select_each_v4(clients, places);
    });
    look_ups(&mut group, "prefix-trie", &clients, |client| {
        let found = trie.get_lpm(&(client.to_bits(), 32));
        found.map_or(0, |(_, number)| u64::from(*number))
    });
    look_ups(&mut group, "treebitmap", &clients, |client| {
        let found = bitmap.longest_match(client);
        found.map_or(0, |(_, _, number)| u64::from(*number))
    });
    group.finish();
    one_by_one(criterion, "v4", &clients, |client| {
        routes.select_v4(client.octets()).map_or(0, u64::from)
    });
    builds(criterion, "v4", ours);
}

fn v6(criterion: &mut Criterion, name: &str, site: impl Fn(&mut Random) -> u32) {
    let mut random = Random::default();
    let prefixes = prefixes_v6(&mut random, site);
    let clients: Vec<Ipv6Addr> = (0..CLIENTS)
        .map(|_| client_v6(&prefixes, &mut random))
        .collect();
    let ours = || routes::routes(&prefixes, |bits| Ipv6Addr::from_bits(bits).into(), real);
    let routes = ours();
    println!("{name}: {} MiB", routes.memory_bytes() >> 20);
    let mut trie = PrefixMap::new();
    let mut bitmap = IpLookupTable::<Ipv6Addr, u16>::new();
    for &((prefix, length), number) in &prefixes {
        trie.insert((prefix, length), number);
        bitmap.insert(Ipv6Addr::from_bits(prefix), length.into(), number);
    }

    let mut group = criterion.benchmark_group(format!("source_routes/{name}/look_up"));
    group.throughput(Throughput::Elements(CLIENTS as u64));
    look_ups(&mut group, "source_routes", &clients, |client| {
        routes.select_v6(client.octets()).map_or(0, u64::from)
    });
    let wire: Vec<_> = clients.iter().map(Ipv6Addr::octets).collect();
    in_bursts(&mut group, &wire, |clients, places| {
        routes.select_each_v6(clients, places);
    });
    look_ups(&mut group, "prefix-trie", &clients, |client| {
        let found = trie.get_lpm(&(client.to_bits(), 128));
        found.map_or(0, |(_, number)| u64::from(*number))
    });
    look_ups(&mut group, "treebitmap", &clients, |client| {
        let found = bitmap.longest_match(client);
        found.map_or(0, |(_, _, number)| u64::from(*number))
    });
    group.finish();
    one_by_one(criterion, name, &clients, |client| {
        routes.select_v6(client.octets()).map_or(0, u64::from)
    });
    builds(criterion, name, ours);
}

fn all(criterion: &mut Criterion) {
    v4(criterion);
    v6(criterion, "v6", even_site);
    v6(criterion, "v6_registries", registry_site);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
