//! From two readings of counters to rates.

use std::{collections::BTreeMap, hash::Hash};

use dataplane::counters::{IoCounters, Kind, WorkerCounters};

use super::report::{Answer, Balance, DropList, Stats, Traffic, WorkerList};

/// The counters of `now` as changes per second since `before`; gauges as they are. `None` when the
/// answers hold no counters, or the balancer was started again between them.
pub fn per_second(now: &Answer, before: &Answer) -> Option<Answer> {
    match (now, before) {
        (Answer::Stats(now), Answer::Stats(before)) => {
            Clock::between(before.uptime_ms, now.uptime_ms)
                .map(|clock| Answer::Stats(clock.stats(now, before)))
        }
        (Answer::Workers(now), Answer::Workers(before)) => {
            Clock::between(before.uptime_ms, now.uptime_ms)
                .map(|clock| Answer::Workers(clock.workers(now, before)))
        }
        (Answer::Drops(now), Answer::Drops(before)) => {
            Clock::between(before.uptime_ms, now.uptime_ms)
                .map(|clock| Answer::Drops(clock.drops(now, before)))
        }
        _ => None,
    }
}

/// Milliseconds between two readings.
#[derive(Clone, Copy)]
struct Clock(u64);

impl Clock {
    fn between(before: u64, now: u64) -> Option<Self> {
        now.checked_sub(before)
            .filter(|&elapsed| elapsed > 0)
            .map(Self)
    }

    /// Rounded to the nearest; a counter that started again counts from zero.
    fn rate(self, now: u64, before: u64) -> u64 {
        let change = u128::from(if now >= before { now - before } else { now });
        let elapsed = u128::from(self.0);
        u64::try_from((change * 1000 + elapsed / 2) / elapsed).unwrap_or(u64::MAX)
    }

    fn traffic(self, now: Traffic, before: Traffic) -> Traffic {
        Traffic {
            packets: self.rate(now.packets, before.packets),
            bytes: self.rate(now.bytes, before.bytes),
        }
    }

    fn balance(self, now: &Balance, before: &Balance) -> Balance {
        Balance {
            received: self.traffic(now.received, before.received),
            transmitted: self.traffic(now.transmitted, before.transmitted),
            passed: self.traffic(now.passed, before.passed),
            dropped: self.traffic(now.dropped, before.dropped),
            in_progress: now.in_progress,
        }
    }

    fn named(
        self,
        now: &BTreeMap<String, u64>,
        before: &BTreeMap<String, u64>,
    ) -> BTreeMap<String, u64> {
        let rate = |(name, value): (&String, &u64)| {
            let before = before.get(name).copied().unwrap_or_default();
            let is_state = kind(name).is_some_and(|kind| kind != Kind::Count);
            let value = if is_state {
                *value
            } else {
                self.rate(*value, before)
            };
            (name.clone(), value)
        };
        now.iter().map(rate).collect()
    }

    fn stats(self, now: &Stats, before: &Stats) -> Stats {
        let vips = by_key(&before.vips, |row| row.vip.clone());
        let reals = by_key(&before.reals, |row| (row.index, row.real));
        let workers = by_key(&before.workers, |row| row.queue);
        let none = BTreeMap::new();
        let mut rates = now.clone();
        rates.frames = self.balance(&now.frames, &before.frames);
        rates.counters = self.named(&now.counters, &before.counters);
        rates.xdp = self.named(&now.xdp, &before.xdp);
        rates.health_checks = self.named(&now.health_checks, &before.health_checks);
        for row in &mut rates.vips {
            let before = vips
                .get(&row.vip)
                .map_or((Traffic::default(), &none), |row| {
                    (row.traffic, &row.counters)
                });
            row.traffic = self.traffic(row.traffic, before.0);
            row.counters = self.named(&row.counters, before.1);
        }
        for row in &mut rates.reals {
            let before = reals
                .get(&(row.index, row.real))
                .map_or((Traffic::default(), &none), |row| {
                    (row.traffic, &row.counters)
                });
            row.traffic = self.traffic(row.traffic, before.0);
            row.counters = self.named(&row.counters, before.1);
        }
        for row in &mut rates.workers {
            if let Some(before) = workers.get(&row.queue) {
                row.frames = self.balance(&row.frames, &before.frames);
                row.counters = self.named(&row.counters, &before.counters);
            }
        }
        rates
    }

    fn workers(self, now: &WorkerList, before: &WorkerList) -> WorkerList {
        let rows = by_key(&before.workers, |row| row.queue);
        let mut rates = now.clone();
        for row in &mut rates.workers {
            if let Some(before) = rows.get(&row.queue) {
                row.frames = self.balance(&row.frames, &before.frames);
                row.io = self.named(&row.io, &before.io);
                row.socket = self.named(&row.socket, &before.socket);
            }
        }
        rates
    }

    fn drops(self, now: &DropList, before: &DropList) -> DropList {
        let rows = by_key(&before.drops, |row| row.reason.clone());
        let mut rates = now.clone();
        for row in &mut rates.drops {
            if let Some(before) = rows.get(&row.reason) {
                row.traffic = self.traffic(row.traffic, before.traffic);
                for (now, before) in row.workers.iter_mut().zip(&before.workers) {
                    *now = self.rate(*now, *before);
                }
            }
        }
        rates
    }
}

/// What the tables of counters say of this one.
fn kind(name: &str) -> Option<Kind> {
    let rows = WorkerCounters::ROWS.iter().map(|row| (row.name, row.kind));
    let io = IoCounters::ROWS.iter().map(|row| (row.name, row.kind));
    rows.chain(io)
        .find(|(known, _)| *known == name)
        .map(|(_, kind)| kind)
}

fn by_key<R, K: Eq + Hash>(rows: &[R], key: impl Fn(&R) -> K) -> std::collections::HashMap<K, &R> {
    rows.iter().map(|row| (key(row), row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::DropRow;

    fn drops(uptime_ms: u64, packets: u64) -> Answer {
        Answer::Drops(DropList {
            uptime_ms,
            drops: vec![DropRow {
                reason: "no-real".into(),
                meaning: String::new(),
                traffic: Traffic {
                    packets,
                    bytes: packets * 100,
                },
                workers: vec![packets],
            }],
        })
    }

    #[test]
    fn counters_become_rates() {
        let rates = per_second(&drops(12_000, 900), &drops(10_000, 100)).expect("rates");
        let Answer::Drops(rates) = rates else {
            panic!("another kind of answer")
        };
        assert_eq!(rates.drops[0].traffic.packets, 400);
        assert_eq!(rates.drops[0].traffic.bytes, 40_000);
        assert_eq!(rates.drops[0].workers, [400]);
    }

    #[test]
    fn a_restart_between_readings_gives_no_rates() {
        assert_eq!(per_second(&drops(50, 1), &drops(10_000, 100)), None);
    }

    #[test]
    fn a_counter_that_started_again_counts_from_zero() {
        let Some(Answer::Drops(rates)) = per_second(&drops(2_000, 30), &drops(1_000, 100)) else {
            panic!("no rates")
        };
        assert_eq!(rates.drops[0].traffic.packets, 30);
    }
}
