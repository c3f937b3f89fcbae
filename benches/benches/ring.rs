//! Generation of rings: `cargo bench -p benches --bench ring`.

use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Ring};

/// The weight of a real by its number.
type Weight = fn(u32) -> u32;

/// `count` reals, the first of a VIP's own.
fn endpoints(vip: u32, count: u32, weight: Weight) -> Vec<Endpoint> {
    (0..count)
        .map(|real| {
            let address = IpAddr::from((0x0a08_0000 + vip * 101 + real).to_be_bytes());
            Endpoint::new(real + 1, weight(real), address)
        })
        .collect()
}

fn build(endpoints: &[Endpoint]) -> Ring {
    Ring::build(HashFunction::MaglevV2, DEFAULT_RING_SIZE, endpoints).expect("a valid ring")
}

fn rings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    for count in [10, 100, 1000, 4000] {
        let weights: [(&str, Weight); 2] = [
            ("equal", |_| 1),
            ("weights-1-to-100", |real| 1 + real % 100),
        ];
        for (name, weight) in weights {
            let reals = endpoints(0, count, weight);
            group.bench_with_input(BenchmarkId::new(name, count), &reals, |bencher, reals| {
                bencher.iter(|| build(reals));
            });
        }
    }
    group.sample_size(10);
    let vips: Vec<_> = (0..512).map(|vip| endpoints(vip, 100, |_| 1)).collect();
    group.bench_function("512-vips-of-100", |bencher| {
        bencher.iter(|| vips.iter().map(|reals| build(reals)).collect::<Vec<_>>());
    });
    group.finish();
}

criterion_group!(benches, rings);
criterion_main!(benches);
