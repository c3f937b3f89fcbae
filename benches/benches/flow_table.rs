//! The flow table against the tables that one would reach for otherwise, at look-ups and at insertions
//! into a full table: `cargo bench -p benches --bench flow_table`.
//!
//! All have the same keys, values, capacity and hash function, and keep at least as many flows as their
//! capacity. A look-up counts as a use of the flow, as a load balancer needs it.

use std::{hint::black_box, time::Duration};

use ahash::RandomState;
use conntrack::{FlowKeyV4, FlowTable, Hint, Lookup};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};

/// Flows that are worked on together.
const BURST: usize = 64;
/// Bursts of look-ups, in random order.
const BURSTS: usize = 1 << 14;

/// What each flow is stored with.
const VALUE: u32 = 7;

/// A way to remember flows.
trait Design {
    const NAME: &'static str;

    fn new(capacity: usize) -> Self;
    /// How many of the flows it has.
    fn find(&mut self, burst: &[FlowKeyV4; BURST]) -> usize;
    /// Stores flows that it does not have, which it has to find out.
    fn insert(&mut self, burst: &[FlowKeyV4; BURST]);
}

fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

/// Ours, with prefetching.
struct Ours(FlowTable<FlowKeyV4>);

impl Ours {
    /// Hashes of a burst's flows and where they probably are, which is being loaded.
    fn prefetch(&self, burst: &[FlowKeyV4; BURST]) -> [(u64, Hint); BURST] {
        let mut flows = burst.each_ref().map(|key| {
            let hash = self.0.hash(key);
            (hash, self.0.prefetch(hash))
        });
        for (hash, hint) in &mut flows {
            *hint = self.0.prefetch_entry(*hint, *hash);
        }
        flows
    }
}

impl Design for Ours {
    const NAME: &'static str = "conntrack";

    fn new(capacity: usize) -> Self {
        Self(FlowTable::new(capacity, [1, 2, 3, 4]).expect("memory"))
    }

    fn find(&mut self, burst: &[FlowKeyV4; BURST]) -> usize {
        let flows = self.prefetch(burst);
        let found = burst.iter().zip(flows).filter(|(key, (hash, hint))| {
            self.0.hit_at(*hint, key, 0, None).is_some()
                || matches!(self.0.lookup(*hash, key, 0, None), Lookup::Hit(_))
        });
        found.count()
    }

    fn insert(&mut self, burst: &[FlowKeyV4; BURST]) {
        for (key, (hash, _)) in burst.iter().zip(self.prefetch(burst)) {
            self.0.insert(hash, *key, VALUE, 0);
        }
    }
}

/// Ours, one flow after the other.
struct OneByOne(FlowTable<FlowKeyV4>);

impl Design for OneByOne {
    const NAME: &'static str = "conntrack, no prefetching";

    fn new(capacity: usize) -> Self {
        Self(FlowTable::new(capacity, [1, 2, 3, 4]).expect("memory"))
    }

    fn find(&mut self, burst: &[FlowKeyV4; BURST]) -> usize {
        let found = burst.iter().filter(|key| {
            let found = self.0.lookup(self.0.hash(key), key, 0, None);
            matches!(found, Lookup::Hit(_))
        });
        found.count()
    }

    fn insert(&mut self, burst: &[FlowKeyV4; BURST]) {
        for key in burst {
            self.0.insert(self.0.hash(key), *key, VALUE, 0);
        }
    }
}

/// Hash table of indices into an array of flows, which are linked in the order of their use.
struct Linked {
    table: hashbrown::HashTable<u32>,
    flows: Vec<Link>,
    hasher: RandomState,
    /// First and last of the list: latest and oldest use.
    ends: [u32; 2],
    capacity: usize,
}

struct Link {
    key: FlowKeyV4,
    value: u32,
    /// Neighbours towards latest and oldest use.
    neighbours: [u32; 2],
}

const NONE: u32 = u32::MAX;
const LATEST: usize = 0;
const OLDEST: usize = 1;

impl Linked {
    fn unlink(&mut self, flow: u32) {
        let neighbours = self.flows[flow as usize].neighbours;
        for side in [LATEST, OLDEST] {
            let (neighbour, other) = (neighbours[side], neighbours[1 - side]);
            match self.flows.get_mut(neighbour as usize) {
                Some(neighbour) => neighbour.neighbours[1 - side] = other,
                None => self.ends[side] = other,
            }
        }
    }

    fn link(&mut self, flow: u32) {
        let next = self.ends[LATEST];
        self.flows[flow as usize].neighbours = [NONE, next];
        match self.flows.get_mut(next as usize) {
            Some(next) => next.neighbours[LATEST] = flow,
            None => self.ends[OLDEST] = flow,
        }
        self.ends[LATEST] = flow;
    }

    fn add(&mut self, key: FlowKeyV4) {
        let link = Link {
            key,
            value: VALUE,
            neighbours: [NONE; 2],
        };
        let flow = if self.flows.len() < self.capacity {
            self.flows.push(link);
            self.flows.len() as u32 - 1
        } else {
            let oldest = self.ends[OLDEST];
            self.unlink(oldest);
            let hash = self.hasher.hash_one(self.flows[oldest as usize].key);
            let entry = self.table.find_entry(hash, |flow| *flow == oldest);
            entry.expect("what is linked is in the table").remove();
            self.flows[oldest as usize] = link;
            oldest
        };
        let hash = self.hasher.hash_one(key);
        let (flows, hasher) = (&self.flows, &self.hasher);
        self.table.insert_unique(hash, flow, |flow| {
            hasher.hash_one(flows[*flow as usize].key)
        });
        self.link(flow);
    }
}

impl Design for Linked {
    const NAME: &'static str = "hashbrown and linked list";

    fn new(capacity: usize) -> Self {
        Self {
            table: hashbrown::HashTable::with_capacity(capacity),
            flows: Vec::with_capacity(capacity),
            hasher: hasher(),
            ends: [NONE; 2],
            capacity,
        }
    }

    fn find(&mut self, burst: &[FlowKeyV4; BURST]) -> usize {
        let mut found = 0;
        for key in burst {
            let hash = self.hasher.hash_one(key);
            let is_key = |flow: &u32| self.flows[*flow as usize].key == *key;
            if let Some(&flow) = self.table.find(hash, is_key) {
                black_box(self.flows[flow as usize].value);
                self.unlink(flow);
                self.link(flow);
                found += 1;
            }
        }
        found
    }

    fn insert(&mut self, burst: &[FlowKeyV4; BURST]) {
        for key in burst {
            // As every other design has to see first.
            let hash = self.hasher.hash_one(key);
            let is_key = |flow: &u32| self.flows[*flow as usize].key == *key;
            if self.table.find(hash, is_key).is_none() {
                self.add(*key);
            }
        }
    }
}

/// The crates differ in names only.
macro_rules! cache {
    ($Design:ident, $name:literal, $Cache:ty, |$capacity:ident| $new:expr,
     |$cache:ident, $key:ident| $get:expr, $put:ident) => {
        struct $Design($Cache);

        impl Design for $Design {
            const NAME: &'static str = $name;

            fn new($capacity: usize) -> Self {
                Self($new)
            }

            fn find(&mut self, burst: &[FlowKeyV4; BURST]) -> usize {
                let $cache = &mut self.0;
                burst.iter().filter(|$key| $get.is_some()).count()
            }

            fn insert(&mut self, burst: &[FlowKeyV4; BURST]) {
                for key in burst {
                    self.0.$put(*key, VALUE);
                }
            }
        }
    };
}

cache!(
    Lru, "lru", lru::LruCache<FlowKeyV4, u32, RandomState>,
    |capacity| lru::LruCache::with_hasher(capacity.try_into().expect("not zero"), hasher()),
    |cache, key| cache.get(key), put
);
cache!(
    Hashlink, "hashlink", hashlink::LruCache<FlowKeyV4, u32, RandomState>,
    |capacity| hashlink::LruCache::with_hasher(capacity, hasher()),
    |cache, key| cache.get(*key), insert
);
cache!(
    QuickCache, "quick_cache",
    quick_cache::unsync::Cache<FlowKeyV4, u32, quick_cache::UnitWeighter, RandomState>,
    |capacity| quick_cache::unsync::Cache::with(
        capacity,
        capacity as u64,
        quick_cache::UnitWeighter,
        hasher(),
        quick_cache::unsync::DefaultLifecycle::default(),
    ),
    |cache, key| cache.get(*key), insert
);
cache!(
    Schnellru, "schnellru", schnellru::LruMap<FlowKeyV4, u32, schnellru::ByLength, RandomState>,
    |capacity| schnellru::LruMap::with_hasher(
        schnellru::ByLength::new(capacity as u32),
        hasher(),
    ),
    |cache, key| cache.get(*key), insert
);

/// Flow number `flow`: bits scattered by a multiplication with an odd number.
fn key(flow: u64) -> FlowKeyV4 {
    let [_, _, source @ .., a, b] = flow.wrapping_mul(0x9e37_79b9_7f4b).to_be_bytes();
    FlowKeyV4 {
        source,
        destination: [203, 0, 113, 10],
        source_port: [a, b],
        destination_port: 443_u16.to_be_bytes(),
        protocol: 6,
    }
}

/// As many flows as a burst has, from this one on.
fn burst_from(flow: u64) -> [FlowKeyV4; BURST] {
    std::array::from_fn(|n| key(flow + n as u64))
}

/// A table in which every flow was used twice.
fn filled<D: Design>(flows: u64) -> D {
    let mut table = D::new(flows as usize);
    for first in (0..flows).step_by(BURST) {
        table.insert(&burst_from(first));
    }
    for first in (0..flows).step_by(BURST) {
        table.find(&burst_from(first));
    }
    table
}

fn hit<D: Design>(group: &mut BenchmarkGroup<'_, WallTime>, flows: u64) {
    let mut table = filled::<D>(flows);
    let mut random = workload::RandomFlows::below(flows);
    let mut next = || key(random.next().expect("without end"));
    let bursts: Vec<[FlowKeyV4; BURST]> = (0..BURSTS)
        .map(|_| std::array::from_fn(|_| next()))
        .collect();
    let mut bursts = bursts.iter().cycle();
    let (mut found, mut asked) = (0, 0);
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function(BenchmarkId::new(D::NAME, flows), |bencher| {
        bencher.iter(|| {
            found += table.find(bursts.next().expect("without end"));
            asked += BURST;
        });
    });
    // Among full tables some give up a flow early.
    assert!(
        found * 1000 >= asked * 999,
        "{}: {found} of {asked} flows found",
        D::NAME
    );
}

fn flood<D: Design>(group: &mut BenchmarkGroup<'_, WallTime>, flows: u64) {
    let mut table = filled::<D>(flows);
    let mut next = flows;
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function(BenchmarkId::new(D::NAME, flows), |bencher| {
        bencher.iter(|| {
            table.insert(&burst_from(next));
            next += BURST as u64;
        });
    });
    // Otherwise it would have been measured how not to store flows.
    let latest = table.find(&burst_from(next - BURST as u64));
    assert_eq!(latest, BURST, "{}: flows of the last burst found", D::NAME);
}

/// Look-ups of flows that the table has.
fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_table/hit");
    for flows in [1_024, 102_400, 1_024_000] {
        hit::<Ours>(&mut group, flows);
        hit::<OneByOne>(&mut group, flows);
        hit::<Linked>(&mut group, flows);
        hit::<Lru>(&mut group, flows);
        hit::<Hashlink>(&mut group, flows);
        hit::<QuickCache>(&mut group, flows);
        hit::<Schnellru>(&mut group, flows);
    }
    group.finish();
}

/// New flows, while the table is full of others that are in use.
fn floods(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_table/flood");
    let flows = 1_024_000;
    flood::<Ours>(&mut group, flows);
    flood::<OneByOne>(&mut group, flows);
    flood::<Linked>(&mut group, flows);
    flood::<Lru>(&mut group, flows);
    flood::<Hashlink>(&mut group, flows);
    flood::<QuickCache>(&mut group, flows);
    flood::<Schnellru>(&mut group, flows);
    group.finish();
}

/// Look-ups of flows that the table does not have.
fn misses(criterion: &mut Criterion) {
    const FLOWS: u64 = 1_024_000;
    let mut group = criterion.benchmark_group("flow_table/miss");
    let mut table = filled::<Ours>(FLOWS);
    let mut next = FLOWS;
    let mut found = 0;
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function(BenchmarkId::new(Ours::NAME, FLOWS), |bencher| {
        bencher.iter(|| {
            next += BURST as u64;
            found += table.find(&burst_from(next));
        });
    });
    assert_eq!(found, 0, "flows found that were never stored");
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700));
    targets = hits, misses, floods
}
criterion_main!(benches);
