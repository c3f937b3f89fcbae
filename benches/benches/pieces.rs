//! What the decision about a packet is made of, piece by piece: `cargo bench -p benches --bench pieces`.
//! The flow table, source routes and rings have benches of their own.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use conntrack::{FlowKeyV4, FlowKeyV6, FlowTable};
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use dataplane::{
    forward::flow_hash,
    packet::{
        checksum,
        emit::{self, Inner},
        head::Headed,
        outer::OuterHeader,
        parse, protocol,
    },
    service::{
        HashFunction, Protocol, Publisher, RealSpec, ServiceControl, ServiceSpec, ServiceTable,
        VipFlags, VipKey, VipSpec,
    },
};
use workload::{IpVersion, frame};

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/parse");
    for version in IpVersion::ALL {
        let frame = frame(version);
        group.bench_function(BenchmarkId::new("any", version.name()), |bencher| {
            bencher.iter(|| parse::frame(black_box(&frame)));
        });
    }
    plain::<[u8; 4]>(&mut group, IpVersion::V4);
    plain::<[u8; 16]>(&mut group, IpVersion::V6);
    group.finish();
}

/// What the short way reads of a packet.
fn plain<A: Headed>(group: &mut BenchmarkGroup<'_, WallTime>, version: IpVersion) {
    let frame = frame(version);
    let head = A::head(&frame, 0).expect("a head");
    let (address, port) = (A::destination(head), A::destination_port(head));
    let expected = A::expected(address, port, protocol::TCP);
    group.bench_function(BenchmarkId::new("plain", version.name()), |bencher| {
        bencher.iter(|| {
            let head = A::head(black_box(&frame), 0)?;
            A::is(head, black_box(&expected)).then(|| A::flow(head))
        });
    });
}

fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/hash");
    let v4 = FlowTable::new(1, [1, 2, 3, 4]).expect("a table");
    let v6 = FlowTable::new(1, [1, 2, 3, 4]).expect("a table");
    group.bench_function("table/ipv4", |bencher| {
        bencher.iter(|| v4.hash(black_box(&FlowKeyV4::default())));
    });
    group.bench_function("table/ipv6", |bencher| {
        bencher.iter(|| v6.hash(black_box(&FlowKeyV6::default())));
    });
    group.bench_function("ring/ipv4", |bencher| {
        bencher.iter(|| flow_hash(black_box(&[192, 0, 2, 1]), [1, 2], [3, 4]));
    });
    group.bench_function("ring/ipv6", |bencher| {
        bencher.iter(|| flow_hash(black_box(&[0x20; 16]), [1, 2], [3, 4]));
    });
    group.finish();
}

fn encapsulation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/encapsulation");
    let (real_v4, real_v6) = ([198, 51, 100, 1], [0x20; 16]);
    let inner_v4 = Inner {
        tos: 0,
        length: 40,
        source: [192, 0, 2, 1],
        source_port: [1, 2],
    };
    let inner_v6 = Inner {
        tos: 0,
        length: 20,
        source: [0x20; 16],
        source_port: [1, 2],
    };
    let prepared_v4 = OuterHeader::ipip([2; 6], IpAddr::from(real_v4));
    let prepared_v6 = OuterHeader::ipip([2; 6], IpAddr::from(real_v6));
    let (mut out_v4, mut out_v6) = ([0; 34], [0; 54]);
    group.bench_function("ipip/ipv4/prepared", |bencher| {
        bencher.iter(|| {
            prepared_v4.write_ipip_v4(
                black_box(&mut out_v4),
                ([4; 4], [4; 2]),
                black_box(&inner_v4),
            );
        });
    });
    group.bench_function("ipip/ipv6/prepared", |bencher| {
        bencher.iter(|| {
            prepared_v6.write_ipip_v6(
                black_box(&mut out_v6),
                ([4; 4], [4; 2]),
                black_box(&inner_v6),
            );
        });
    });
    group.bench_function("ipip/ipv4", |bencher| {
        let mut out = [0; 20];
        bencher.iter(|| emit::ipip_v4(black_box(&mut out), black_box(&inner_v4), real_v4));
    });
    group.bench_function("ipip/ipv6", |bencher| {
        let mut out = [0; 40];
        bencher.iter(|| emit::ipip_v6(black_box(&mut out), black_box(&inner_v6), real_v6));
    });
    let packet = frame(IpVersion::V4).split_off(14);
    group.bench_function("gue/ipv4", |bencher| {
        let mut out = [0; 28];
        let addresses = ([10, 0, 0, 1], real_v4);
        bencher.iter(|| {
            emit::gue_v4(
                black_box(&mut out),
                black_box(&inner_v4),
                addresses,
                6080,
                black_box(&packet),
            );
        });
    });
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/checksum");
    for length in [20, 40, 1480] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(length),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| checksum::finish(checksum::sum(black_box(bytes))));
            },
        );
    }
    group.finish();
}

fn vip(number: u16) -> VipKey {
    let [high, low] = number.to_be_bytes();
    VipKey::exact(Ipv4Addr::new(203, 0, high, low).into(), 443, Protocol::Tcp)
}

/// VIPs with one real each.
fn table(control: &mut ServiceControl, vips: u16) -> Arc<ServiceTable> {
    let spec = ServiceSpec {
        vips: (0..vips)
            .map(|number| VipSpec {
                key: vip(number),
                hash: HashFunction::MaglevV2,
                flags: VipFlags::empty(),
                reals: vec![RealSpec {
                    address: Ipv4Addr::new(198, 51, 100, 1).into(),
                    weight: 1,
                    local: false,
                    down: false,
                }],
            })
            .collect(),
        ..ServiceSpec::default()
    };
    control.apply(&spec).expect("a valid specification")
}

fn vip_lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/vip_lookup");
    for vips in [1, 512] {
        let table = table(&mut ServiceControl::new(), vips);
        let mut asked = (0..vips).cycle();
        group.bench_function(BenchmarkId::from_parameter(vips), |bencher| {
            bencher.iter(|| {
                let key = vip(asked.next().unwrap_or(0));
                table.lookup(black_box(key.address), key.port, key.protocol)
            });
        });
    }
    group.finish();
}

/// A worker's question for a new snapshot, and its taking one over.
fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces/snapshot");
    let mut control = ServiceControl::new();
    let publisher = Publisher::new(table(&mut control, 1));
    let mut subscription = publisher.subscribe();
    group.bench_function("unchanged", |bencher| {
        bencher.iter(|| subscription.poll().is_some());
    });
    let mut vips = 1;
    group.bench_function("swap", |bencher| {
        bencher.iter_batched(
            || {
                vips = 3 - vips;
                publisher.publish(table(&mut control, vips));
            },
            |()| subscription.poll().expect("a new table"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = parsing, hashing, encapsulation, checksums, vip_lookup, snapshot
}
criterion_main!(benches);
