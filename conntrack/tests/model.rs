//! The table against a plain map, over random operations.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use conntrack::{Flow, FlowKey, FlowKeyV4, FlowKeyV6, FlowTable, Insertion, Lookup};

const OPERATIONS: u64 = 200_000;
const SECOND: u64 = 1_000_000_000;
const UDP_TIMEOUT: u64 = 30 * SECOND;

/// A plain map. Which flow goes when the table is full, the table decides; it says which it was.
struct Model<K> {
    flows: HashMap<K, Flow<K>>,
}

impl<K: FlowKey> Model<K> {
    fn lookup(&mut self, key: &K, now: u64, timeout: Option<u64>) -> Lookup {
        let Some(flow) = self.flows.get_mut(key) else {
            return Lookup::Miss;
        };
        if let Some(timeout) = timeout {
            if now - flow.last_use > timeout {
                return Lookup::Expired;
            }
            flow.last_use = now;
        }
        Lookup::Hit(flow.value)
    }

    /// Checks what the table says it did, and follows.
    fn insert(&mut self, flow: Flow<K>, done: Insertion<K>)
    where
        K: Debug,
    {
        let previous = self.flows.insert(flow.key, flow);
        match done {
            Insertion::Overwrote(value) => assert_eq!(previous.unwrap().value, value),
            Insertion::Added => assert_eq!(previous, None),
            Insertion::Evicted(evicted) => {
                assert_eq!(previous, None);
                assert_eq!(self.flows.remove(&evicted.key), Some(evicted));
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Flow<K>) -> bool) -> usize {
        let before = self.flows.len();
        self.flows.retain(|_, flow| keep(flow));
        before - self.flows.len()
    }
}

fn assert_same<K: FlowKey + Debug>(table: &FlowTable<K>, model: &Model<K>) {
    let flows: Vec<_> = table.iter().collect();
    assert_eq!(flows.len(), model.flows.len());
    for flow in flows {
        assert_eq!(model.flows.get(&flow.key), Some(&flow));
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn run<K: FlowKey + Debug>(capacity: usize, key_of: impl Fn(u64) -> K) {
    let mut random = Random(capacity as u64);
    let seeds = [(); 4].map(|()| random.next());
    let mut table = FlowTable::new(capacity, seeds).unwrap();
    let mut model = Model {
        flows: HashMap::new(),
    };
    // Even the smallest table has a bucket's slots.
    let universe = 2 * table.slots() as u64 + 2;
    let purge_one_in = 50 * universe;
    let mut now = 0;
    let mut seen = [0_u32; 6];
    for _ in 0..OPERATIONS {
        now += random.below(SECOND * 60 / universe);
        let key = key_of(random.below(universe));
        let hash = table.hash(&key);
        let mut hint = table.prefetch(hash);
        match random.below(100) {
            0..45 => {
                let timeout = (random.below(2) == 0).then_some(UDP_TIMEOUT);
                let found = table.lookup(hash, &key, now, timeout);
                assert_eq!(found, model.lookup(&key, now, timeout));
                seen[match found {
                    Lookup::Hit(_) => 0,
                    Lookup::Expired => 1,
                    Lookup::Miss => 2,
                }] += 1;
            }
            45..85 => {
                let flow = Flow {
                    key,
                    value: random.next() as u32,
                    last_use: if random.below(4) == 0 { 0 } else { now },
                };
                let is_missed =
                    random.below(2) == 0 && table.lookup(hash, &key, now, None) == Lookup::Miss;
                let done = if is_missed {
                    table.insert_missed(hash, flow.key, flow.value, flow.last_use)
                } else {
                    table.insert(hash, flow.key, flow.value, flow.last_use)
                };
                model.insert(flow, done);
                seen[match done {
                    Insertion::Added => 3,
                    Insertion::Overwrote(_) => 4,
                    Insertion::Evicted(_) => 5,
                }] += 1;
            }
            85..92 => assert_eq!(table.remove(hash, &key), model.flows.remove(&key)),
            92..96 => {
                // The hint is another flow's now and then.
                let other = key_of(random.below(universe));
                let hinted = [hash, table.hash(&other)][random.below(2) as usize];
                if random.below(2) == 0 {
                    hint = table.prefetch(hinted);
                }
                let hint = table.prefetch_entry(hint, hinted);
                let found = match table.hit_at(hint, &key, now, None) {
                    Some(value) => Lookup::Hit(value),
                    None => table.lookup(hash, &key, now, None),
                };
                assert_eq!(found, model.lookup(&key, now, None));
            }
            _ => {
                let flow = table.peek(hash, &key);
                assert_eq!(flow, model.flows.get(&key).copied());
                assert!(flow.is_none() || table.may_have(hash));
            }
        }
        if random.below(purge_one_in) == 0 {
            let bit = 1 << random.below(32);
            let keep = |flow: &Flow<K>| flow.value & bit == 0;
            assert_eq!(table.retain(keep), model.retain(keep));
        }
        assert_eq!(table.len(), model.flows.len());
        if random.below(2 * universe) == 0 {
            assert_same(&table, &model);
        }
    }
    assert_same(&table, &model);
    assert!(
        seen.iter().all(|&n| n > 100),
        "an outcome is rare: {seen:?}"
    );
}

/// The number's bits end up in source address, ports and protocol.
fn key_v4(n: u64) -> FlowKeyV4 {
    let bytes = n.to_le_bytes();
    FlowKeyV4 {
        source: [192, 0, 2, bytes[0]],
        destination: [203, 0, 113, 10],
        source_port: [bytes[1], bytes[2]],
        destination_port: 443_u16.to_be_bytes(),
        protocol: if n.is_multiple_of(2) { 6 } else { 17 },
    }
}

fn key_v6(n: u64) -> FlowKeyV6 {
    let v4 = key_v4(n);
    FlowKeyV6 {
        source: Ipv4Addr::from(v4.source).to_ipv6_mapped().octets(),
        destination: Ipv4Addr::from(v4.destination).to_ipv6_mapped().octets(),
        source_port: v4.source_port,
        destination_port: v4.destination_port,
        protocol: v4.protocol,
    }
}

#[test]
fn ipv4_flows() {
    for capacity in [1, 2, 3, 64, 1000] {
        run(capacity, key_v4);
    }
}

#[test]
fn ipv6_flows() {
    for capacity in [1, 2, 3, 64, 1000] {
        run(capacity, key_v6);
    }
}
