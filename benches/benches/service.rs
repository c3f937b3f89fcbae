//! A change of the desired state beside many server ids: `cargo bench -p benches --bench service`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dataplane::service::{
    HashFunction, Protocol, RealSpec, ServerIdSpec, ServerIds, ServiceControl, ServiceSpec,
    VipFlags, VipKey, VipSpec,
};

/// One VIP of two reals, of which the first has this weight.
fn spec(server_ids: &ServerIds, weight: u32) -> ServiceSpec {
    let real = |last, weight| RealSpec {
        address: [198, 51, 100, last].into(),
        weight,
        local: false,
        down: false,
    };
    ServiceSpec {
        vips: vec![VipSpec {
            key: VipKey::exact([203, 0, 113, 10].into(), 443, Protocol::Udp),
            hash: HashFunction::MaglevV2,
            flags: VipFlags::QUIC,
            reals: vec![real(1, weight), real(2, 1)],
        }],
        server_ids: server_ids.clone(),
        ..ServiceSpec::default()
    }
}

/// Ids from 1 on, which name 250 reals.
fn server_ids(count: u32) -> Vec<ServerIdSpec> {
    (1..=count)
        .map(|id| ServerIdSpec {
            id,
            real: [198, 18, 0, (id % 250) as u8].into(),
            valid: true,
        })
        .collect()
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("service");
    group.sample_size(10);
    for count in [0, 1_000, 1_000_000] {
        let ids = ServerIds::new(server_ids(count)).expect("valid ids");
        let mut control = ServiceControl::new();
        let mut weight = 1;
        group.bench_function(format!("weight-beside-{count}-server-ids"), |bencher| {
            bencher.iter(|| {
                weight = weight % 7 + 1;
                control.apply(&spec(&ids, weight)).expect("valid")
            });
        });
    }
    let million = server_ids(1_000_000);
    group.bench_function("set-of-1000000-server-ids", |bencher| {
        bencher.iter_batched(
            || million.clone(),
            |ids| black_box(ServerIds::new(ids)).expect("valid ids"),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, changes);
criterion_main!(benches);
