//! What the table promises about memory, and about which flows it keeps when it is full.

use conntrack::{FlowKey, FlowKeyV4, FlowKeyV6, FlowTable, Insertion, Lookup};

const CAPACITY: u32 = 1_000_000;

trait Numbered: FlowKey {
    fn numbered(n: u32) -> Self;
}

impl Numbered for FlowKeyV4 {
    fn numbered(n: u32) -> Self {
        Self {
            source: n.to_be_bytes(),
            destination: [203, 0, 113, 10],
            source_port: [0x9c, 0x40],
            destination_port: [1, 187],
            protocol: 6,
        }
    }
}

impl Numbered for FlowKeyV6 {
    fn numbered(n: u32) -> Self {
        let mut source = [0x20; 16];
        source[12..].copy_from_slice(&n.to_be_bytes());
        Self {
            source,
            destination: [0x20; 16],
            source_port: [0x9c, 0x40],
            destination_port: [1, 187],
            protocol: 6,
        }
    }
}

fn insert<K: Numbered>(table: &mut FlowTable<K>, n: u32) -> Insertion<K> {
    let key = K::numbered(n);
    table.insert(table.hash(&key), key, n, 0)
}

/// Whether the flow is there; never with another flow's value.
fn hits<K: Numbered>(table: &mut FlowTable<K>, n: u32) -> bool {
    let key = K::numbered(n);
    let found = table.lookup(table.hash(&key), &key, 0, None);
    assert!(matches!(found, Lookup::Miss) || found == Lookup::Hit(n));
    found != Lookup::Miss
}

/// A table with as many proved flows as its capacity.
fn full<K: Numbered>() -> FlowTable<K> {
    let mut table = FlowTable::new(CAPACITY as usize, [1, 2, 3, 4]).unwrap();
    for n in 0..CAPACITY {
        insert(&mut table, n);
        hits(&mut table, n);
    }
    table
}

fn lost<K: Numbered>(table: &mut FlowTable<K>, flows: std::ops::Range<u32>) -> usize {
    flows.filter(|&n| !hits(table, n)).count()
}

#[test]
fn a_flow_takes_at_most_64_bytes_and_40_with_ipv4() {
    for capacity in [1_000, 100_000, 1_000_000, 10_000_000] {
        let v4 = FlowTable::<FlowKeyV4>::memory_for(capacity) as f64 / capacity as f64;
        let v6 = FlowTable::<FlowKeyV6>::memory_for(capacity) as f64 / capacity as f64;
        assert!(v4 <= 40.0, "{v4} bytes for each of {capacity} IPv4 flows");
        assert!(v6 <= 64.0, "{v6} bytes for each of {capacity} IPv6 flows");
    }
}

fn of_as_many_flows_as_the_capacity_999_in_1000_stay<K: Numbered>() {
    let lost = lost(&mut full::<K>(), 0..CAPACITY);
    assert!(lost < 1_000, "{lost} of {CAPACITY} flows were lost");
}

fn a_flood_of_ten_million_flows_takes_less_than_one_proved_flow_in_100<K: Numbered>() {
    let mut table = full::<K>();
    for n in 0..10_000_000 {
        insert(&mut table, CAPACITY + n);
    }
    let lost = lost(&mut table, 0..CAPACITY);
    assert!(lost < 10_000, "{lost} of {CAPACITY} flows were lost");
}

fn connections_are_opened_during_a_flood<K: Numbered>() {
    let mut table = full::<K>();
    let mut opened = 0;
    for n in 0..1_000_000 {
        insert(&mut table, CAPACITY + n);
        // One in a hundred answers after ten thousand others have come.
        if n >= 10_000 && n % 100 == 0 {
            opened += u32::from(hits(&mut table, CAPACITY + n - 10_000));
        }
    }
    assert!(
        opened > 9_000,
        "{opened} of 9900 flows were still there at their second packet"
    );
}

fn new_flows_displace_those_that_nobody_has_used_for_long<K: Numbered>() {
    let mut table = full::<K>();
    // Three times as many flows as it holds come, prove themselves and go.
    for n in CAPACITY..4 * CAPACITY {
        insert(&mut table, n);
        hits(&mut table, n);
    }
    let recent = lost(&mut table, 4 * CAPACITY - CAPACITY / 2..4 * CAPACITY);
    assert!(
        recent < 5_000,
        "{recent} of the last {} flows were lost",
        CAPACITY / 2
    );
    let old = CAPACITY as usize - lost(&mut table, 0..CAPACITY);
    assert!(
        old < 20_000,
        "{old} of {CAPACITY} flows are there although long unused"
    );
}

/// Every promise holds for either IP version, although their tables are not equally full.
macro_rules! promises {
    ($($version:ident: $key:ty;)*) => {$(
        mod $version {
            use super::*;

            promises!(@each $key:
                of_as_many_flows_as_the_capacity_999_in_1000_stay
                a_flood_of_ten_million_flows_takes_less_than_one_proved_flow_in_100
                connections_are_opened_during_a_flood
                new_flows_displace_those_that_nobody_has_used_for_long
            );
        }
    )*};
    (@each $key:ty: $($promise:ident)*) => {$(
        #[test]
        fn $promise() {
            super::$promise::<$key>();
        }
    )*};
}

promises! {
    ipv4: FlowKeyV4;
    ipv6: FlowKeyV6;
}
