//! The table that threads share: against a model when one thread uses it, and hammered by many.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use conntrack::{AnyKey, FlowKeyV4, FlowKeyV6, Lookup, NewError, SharedInsertion, SharedTable};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn v4(number: u32) -> FlowKeyV4 {
    FlowKeyV4 {
        source: number.to_be_bytes(),
        destination: [203, 0, 113, 10],
        source_port: [1, 2],
        destination_port: [0, 80],
        protocol: 6,
    }
}

fn v6(number: u32) -> FlowKeyV6 {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&number.to_be_bytes());
    let mut destination = [0; 16];
    destination[..4].copy_from_slice(&[203, 0, 113, 10]);
    FlowKeyV6 {
        source,
        destination,
        source_port: [1, 2],
        destination_port: [0, 80],
        protocol: 6,
    }
}

fn flows(table: &SharedTable) -> usize {
    table.iter_slots(0..usize::MAX).count()
}

#[test]
fn sizes_are_whole_groups() {
    for (capacity, slots) in [(1, 8), (8, 8), (9, 16), (1000, 1000)] {
        let table = SharedTable::new(capacity).unwrap();
        assert_eq!(table.slots(), slots);
        assert_eq!(table.memory_bytes(), 64 * slots);
        assert_eq!(SharedTable::memory_for(capacity), 64 * slots);
    }
    for capacity in [0, usize::MAX] {
        let error = SharedTable::new(capacity).unwrap_err();
        assert_eq!(error, NewError::Capacity(capacity));
    }
}

#[test]
fn the_oldest_neighbour_makes_room() {
    let table = SharedTable::new(8).unwrap();
    for number in 0..8 {
        let done = table.insert(&v4(number), number, 100 + u64::from(number));
        assert_eq!(done, SharedInsertion::Added);
    }
    // A hit and a refresh are uses; a look is none.
    assert_eq!(table.lookup(&v4(0), 200, None), Lookup::Hit(0));
    assert_eq!(table.insert(&v4(1), 1, 201), SharedInsertion::Refreshed);
    assert_eq!(table.peek(&v4(2)), Some((2, 102)));
    assert_eq!(table.insert(&v4(8), 8, 202), SharedInsertion::Evicted);
    let kept: HashSet<u32> = (0..9).filter(|&n| table.peek(&v4(n)).is_some()).collect();
    assert_eq!(kept, HashSet::from([0, 1, 3, 4, 5, 6, 7, 8]));
}

#[test]
fn a_udp_flow_ends_after_its_timeout() {
    let table = SharedTable::new(8).unwrap();
    table.insert(&v4(1), 7, 100 * SECOND);
    let timeout = Some(30 * SECOND);
    assert_eq!(table.lookup(&v4(1), 130 * SECOND, timeout), Lookup::Hit(7));
    assert_eq!(table.lookup(&v4(1), 160 * SECOND, timeout), Lookup::Hit(7));
    let late = 190 * SECOND + 1;
    assert_eq!(table.lookup(&v4(1), late, timeout), Lookup::Expired);
    assert_eq!(table.lookup(&v4(1), late, None), Lookup::Hit(7));
}

#[test]
fn half_full_it_keeps_nearly_everything() {
    let table = SharedTable::new(1 << 16).unwrap();
    let half = 1_u32 << 15;
    for number in 0..half {
        table.insert(&v4(number), number, u64::from(number));
    }
    let kept = (0..half).filter(|&n| table.peek(&v4(n)).is_some()).count();
    assert!(kept as f64 > 0.98 * f64::from(half), "{kept} of {half}");
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u32, u32),
    Lookup(u32),
    Remove(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0..60_u32, any::<u32>()).prop_map(|(key, value)| Operation::Insert(key, value)),
        (0..60_u32).prop_map(Operation::Lookup),
        (0..60_u32).prop_map(Operation::Remove),
    ]
}

proptest! {
    /// With one user it is a map that may forget, of which nothing is wrong. Even keys are IPv4,
    /// odd ones IPv6.
    #[test]
    fn alone_it_is_a_map_that_forgets(
        capacity in 1..100_usize,
        operations in prop::collection::vec(operation(), 1..300),
    ) {
        let table = SharedTable::new(capacity).unwrap();
        let mut model = HashMap::<u32, (u32, u64)>::new();
        let peek = |key: u32| if key.is_multiple_of(2) { table.peek(&v4(key)) } else { table.peek(&v6(key)) };
        for (now, operation) in (1_u64..).zip(operations) {
            match operation {
                Operation::Insert(key, value) => {
                    let done = if key.is_multiple_of(2) {
                        table.insert(&v4(key), value, now)
                    } else {
                        table.insert(&v6(key), value, now)
                    };
                    let before = model.insert(key, (value, now));
                    let expected = match before {
                        None => [SharedInsertion::Added, SharedInsertion::Evicted],
                        Some((old, _)) if old == value => [SharedInsertion::Refreshed; 2],
                        Some(_) => [SharedInsertion::Overwrote; 2],
                    };
                    prop_assert!(expected.contains(&done), "{:?} instead of {:?}", done, expected);
                    if done == SharedInsertion::Evicted {
                        let gone: Vec<u32> =
                            model.keys().copied().filter(|&key| peek(key).is_none()).collect();
                        prop_assert_eq!(gone.len(), 1);
                        model.remove(&gone[0]);
                    }
                }
                Operation::Lookup(key) => {
                    let found = if key.is_multiple_of(2) {
                        table.lookup(&v4(key), now, None)
                    } else {
                        table.lookup(&v6(key), now, None)
                    };
                    let expected = model.get_mut(&key).map_or(Lookup::Miss, |(value, used)| {
                        *used = now;
                        Lookup::Hit(*value)
                    });
                    prop_assert_eq!(found, expected);
                }
                Operation::Remove(key) => {
                    let removed = if key.is_multiple_of(2) {
                        table.remove(&v4(key))
                    } else {
                        table.remove(&v6(key))
                    };
                    prop_assert_eq!(removed, model.remove(&key).is_some());
                }
            }
            for key in 0..60 {
                prop_assert_eq!(peek(key), model.get(&key).copied());
            }
            prop_assert_eq!(flows(&table), model.len());
        }
        for flow in table.iter_slots(0..table.slots()) {
            let number = match flow.key {
                AnyKey::V4(key) => u32::from_be_bytes(key.source),
                AnyKey::V6(key) => {
                    u32::from_be_bytes([key.source[0], key.source[1], key.source[2], key.source[3]])
                }
            };
            prop_assert_eq!(Some(&(flow.value, flow.last_use)), model.get(&number));
        }
    }
}

/// The values that threads store for a key: all name the key, so that any other value is a mixture.
fn value_of(number: u32, thread: u32) -> u32 {
    number << 3 | thread
}

#[test]
fn what_is_found_was_stored_for_that_key() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 150_000;
    // Few slots and many keys: every slot is written all the time.
    const KEYS: u32 = 48;
    let table = SharedTable::new(16).unwrap();
    let start = Barrier::new(THREADS as usize);
    let found: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (table, start) = (&table, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut found = 0;
                    let mut random = 0x9e37_79b9_u32.wrapping_mul(thread + 1);
                    for now in 0..ROUNDS {
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        let number = random % KEYS;
                        let is_v4 = number.is_multiple_of(2);
                        match random >> 8 & 7 {
                            0..3 => {
                                let value = value_of(number, thread);
                                if is_v4 {
                                    table.insert(&v4(number), value, now.into());
                                } else {
                                    table.insert(&v6(number), value, now.into());
                                }
                            }
                            3 if is_v4 => {
                                table.remove(&v4(number));
                            }
                            3 => {
                                table.remove(&v6(number));
                            }
                            _ => {
                                let lookup = if is_v4 {
                                    table.lookup(&v4(number), now.into(), None)
                                } else {
                                    table.lookup(&v6(number), now.into(), None)
                                };
                                if let Lookup::Hit(value) = lookup {
                                    assert_eq!(value >> 3, number, "a value of another flow");
                                    found += 1;
                                }
                            }
                        }
                    }
                    found
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(found > 0);
    // Nobody writes any more, so everything can be read again.
    for flow in table.iter_slots(0..table.slots()) {
        let (number, is_v4) = match flow.key {
            AnyKey::V4(key) => (u32::from_be_bytes(key.source), true),
            AnyKey::V6(key) => {
                let number = key.source.first_chunk().copied().unwrap();
                (u32::from_be_bytes(number), false)
            }
        };
        assert_eq!(flow.value >> 3, number);
        assert_eq!(is_v4, number.is_multiple_of(2));
    }
}

#[test]
fn a_flow_that_nobody_touches_is_found_while_others_come_and_go() {
    let table = SharedTable::new(1 << 12).unwrap();
    let kept = 200..400_u32;
    for number in kept.clone() {
        table.insert(&v4(number), number, u64::MAX);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut number = 1_000;
                while !done.load(Ordering::Relaxed) {
                    number = 1_000 + (number + 1) % 1_000;
                    table.insert(&v4(number), number, 1);
                    table.remove(&v4(number));
                }
            });
        }
        for _ in 0..200 {
            for number in kept.clone() {
                // Being overwritten by the same value is not being away.
                table.insert(&v4(number), number, u64::MAX);
                assert_eq!(table.peek(&v4(number)), Some((number, u64::MAX)));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
