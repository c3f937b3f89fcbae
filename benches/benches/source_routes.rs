//! Longest prefix match on a million client prefixes: the table of the data path against two crates.
//!
//! `cargo bench -p benches --bench source_routes`. Lengths are mixed as in a full routing table (half
//! of IPv4 are /24, half of IPv6 are /48); clients are random addresses inside random prefixes, in random
//! order, so that the caches help as little as they can. A `look_up` does not wait for the one before, as
//! in a burst of packets; one of `one_by_one` does, so it has all of the memory's latency.
//!
//! IPv6 has two distributions: `v6` spreads the prefixes evenly over 40,000 sites, `v6_registries`
//! crowds them as registries and the size of providers do.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use dataplane::service::{SourceRouteSpec, SourceRoutes};
use prefix_trie::PrefixMap;
use treebitmap::IpLookupTable;

const ROUTES: usize = 1_000_000;
const CLIENTS: usize = 1 << 18;
/// A prefix and the number of its real.
type Prefixes<K> = Vec<((K, u8), u16)>;

/// Xorshift with a fixed seed: every run measures the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    /// One of the lengths, each as often as its weight says.
    fn length(&mut self, lengths: &[(u8, usize)]) -> u8 {
        let sum = lengths.iter().map(|(_, weight)| weight).sum();
        let mut place = self.below(sum);
        for (length, weight) in lengths {
            match place.checked_sub(*weight) {
                None => return *length,
                Some(rest) => place = rest,
            }
        }
        lengths[0].0
    }
}

fn prefixes_v4(random: &mut Random) -> Prefixes<u32> {
    const LENGTHS: [(u8, usize); 12] = [
        (14, 2),
        (16, 2),
        (18, 3),
        (19, 4),
        (20, 6),
        (21, 6),
        (22, 12),
        (23, 10),
        (24, 50),
        (28, 2),
        (30, 2),
        (32, 1),
    ];
    let mut found = HashMap::with_capacity(ROUTES);
    while found.len() < ROUTES {
        let length = random.length(&LENGTHS);
        let address = (random.next() >> 32) as u32 & (u32::MAX << (32 - length));
        if (1..224).contains(&(address >> 24)) {
            let real = (found.len() % 4000) as u16;
            found.insert((address, length), real);
        }
    }
    found.into_iter().collect()
}

const LENGTHS_V6: [(u8, usize); 8] = [
    (29, 2),
    (32, 12),
    (36, 6),
    (40, 8),
    (44, 8),
    (48, 48),
    (56, 10),
    (64, 6),
];

/// Prefixes in sites, which are numbers of a /32.
fn prefixes_v6(random: &mut Random, site: impl Fn(&mut Random) -> u32) -> Prefixes<u128> {
    let mut found = HashMap::with_capacity(ROUTES);
    while found.len() < ROUTES {
        let length = random.length(&LENGTHS_V6);
        let site = u128::from(site(random)) << 96;
        let host = u128::from(random.next() & 0xffff_ffff) << 64;
        let address = (site | host) & (u128::MAX << (128 - length));
        let real = (found.len() % 4000) as u16;
        found.insert((address, length), real);
    }
    found.into_iter().collect()
}

fn even_site(random: &mut Random) -> u32 {
    0x2000_0000 + ((random.below(40_000) as u32) << 2)
}

/// Registries give neighbouring sites to one provider after the other, and some have far more routes
/// than others.
fn registry_site(random: &mut Random) -> u32 {
    /// First site, distance of sites, weight.
    const REGISTRIES: [(u32, u32, usize); 5] = [
        (0x2a00_0000, 8, 45),
        (0x2400_0000, 1, 20),
        (0x2600_0000, 16, 15),
        (0x2800_0000, 1, 12),
        (0x2001_0000, 1, 8),
    ];
    let places = [0, 1, 2, 3, 4].map(|place| (place, REGISTRIES[usize::from(place)].2));
    let (first, distance, _) = REGISTRIES[usize::from(random.length(&places))];
    // The cube of an even distribution.
    let part = random.below(1 << 20) as u128;
    first + distance * ((part.pow(3) * 25_000) >> 60) as u32
}

fn real(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(high), u16::from(low)])
}

fn specs<K: Copy>(
    prefixes: &Prefixes<K>,
    address: impl Fn(K) -> IpAddr,
) -> impl Iterator<Item = SourceRouteSpec> {
    prefixes
        .iter()
        .map(move |&((prefix, prefix_len), number)| SourceRouteSpec {
            prefix: address(prefix),
            prefix_len,
            real: real(number),
        })
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
    let mut random = Random(0x0139_408d_cbbf_7a44);
    let prefixes = prefixes_v4(&mut random);
    let clients: Vec<Ipv4Addr> = (0..CLIENTS)
        .map(|_| {
            let ((prefix, length), _) = prefixes[random.below(ROUTES)];
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv4Addr::from_bits(prefix | random.next() as u32 & host)
        })
        .collect();
    let ours = || SourceRoutes::new(specs(&prefixes, |bits| Ipv4Addr::from_bits(bits).into()));
    let routes = ours().expect("valid routes");
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
    builds(criterion, "v4", || ours().expect("valid routes"));
}

fn v6(criterion: &mut Criterion, name: &str, site: impl Fn(&mut Random) -> u32) {
    let mut random = Random(0x0139_408d_cbbf_7a44);
    let prefixes = prefixes_v6(&mut random, site);
    let clients: Vec<Ipv6Addr> = (0..CLIENTS)
        .map(|_| {
            let ((prefix, length), _) = prefixes[random.below(ROUTES)];
            let host = (u128::from(random.next()) << 64) | u128::from(random.next());
            Ipv6Addr::from_bits(prefix | host >> length)
        })
        .collect();
    let ours = || SourceRoutes::new(specs(&prefixes, |bits| Ipv6Addr::from_bits(bits).into()));
    let routes = ours().expect("valid routes");
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
    builds(criterion, name, || ours().expect("valid routes"));
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
