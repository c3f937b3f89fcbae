//! Counters, read without asking the workers.

use std::{collections::BTreeMap, iter::repeat, net::IpAddr, time::Duration};

use dataplane::{
    counters::{
        self, DropReason, FRAMES, IoCounters, ListRow, REAL_ROWS, Row, VIP_ROWS, WorkerCounters,
    },
    service::{VipKey, VipSpec},
    worker,
    xsk::SocketStatistics,
};

use super::{
    error::AdminError,
    flows::no_such_worker,
    report::{
        Balance, DropList, DropRow, Memory, MemoryPart, RealTraffic, Stats, Traffic, VipTraffic,
        WorkerList, WorkerRow, WorkerTraffic,
    },
};
use crate::control::{View, Worker};

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn traffic(counter: &counters::Traffic) -> Traffic {
    let (packets, bytes) = counter.get();
    Traffic { packets, bytes }
}

/// Where a worker's frames went, read in the order of the table.
fn balance(counters: &WorkerCounters) -> Balance {
    let mut balance = Balance::default();
    for row in FRAMES {
        let (packets, bytes) = (row.read)(counters);
        if let Some(traffic) = balance.by_name(row.name) {
            *traffic = Traffic { packets, bytes };
        }
    }
    let Balance {
        received,
        transmitted,
        passed,
        dropped,
        ..
    } = balance;
    let accounted = dropped.plus(passed).plus(transmitted).packets;
    balance.in_progress = received.packets.saturating_sub(accounted);
    balance
}

fn sum(balances: impl Iterator<Item = Balance>) -> Balance {
    balances.fold(Balance::default(), |sum, one| Balance {
        received: sum.received.plus(one.received),
        transmitted: sum.transmitted.plus(one.transmitted),
        passed: sum.passed.plus(one.passed),
        dropped: sum.dropped.plus(one.dropped),
        in_progress: sum.in_progress + one.in_progress,
    })
}

/// The counters of a table, by name.
fn named<C>(rows: &[Row<C>], counters: &C) -> BTreeMap<String, u64> {
    rows.iter()
        .map(|row| (row.name.to_owned(), (row.read)(counters)))
        .collect()
}

/// The counters of a worker, by name. A window of connection events that has ended has none.
fn counted(worker: &Worker, now_ns: u64) -> BTreeMap<String, u64> {
    let mut counters = named(WorkerCounters::ROWS, worker.counters());
    if let Some(events) = counters.get_mut("connection-events") {
        *events = worker.counters().connection_events_at(now_ns);
    }
    counters.retain(|name, _| worker.counts(name));
    counters
}

/// The counters of all workers in one.
fn combined(workers: &[WorkerTraffic]) -> BTreeMap<String, u64> {
    let combine = |row: &Row<WorkerCounters>| {
        let values = workers.iter().filter_map(|one| one.counters.get(row.name));
        let value = values
            .copied()
            .reduce(|sum, value| row.kind.combine(sum, value));
        Some((row.name.to_owned(), value?))
    };
    WorkerCounters::ROWS.iter().filter_map(combine).collect()
}

/// Counters of one VIP or real, summed over workers, since the number was given to it. `baseline` is
/// where those of a worker, by its position, started.
fn since<'b>(
    rows: &[ListRow],
    workers: &[(usize, &Worker)],
    number: usize,
    baseline: impl Fn(usize) -> &'b [u64],
) -> (Traffic, BTreeMap<String, u64>) {
    let mut sums = vec![0_u64; rows.len()];
    for (position, worker) in workers {
        let start = baseline(*position).iter().chain(repeat(&0));
        let now = counters::read_list(rows, worker.counters(), number);
        for ((sum, now), start) in sums.iter_mut().zip(now).zip(start) {
            *sum = sum.wrapping_add(now.wrapping_sub(*start));
        }
    }
    let mut named = rows.iter().zip(sums);
    let mut next = || named.next().map_or(0, |(_, value)| value);
    let traffic = Traffic {
        packets: next(),
        bytes: next(),
    };
    let rest = named.map(|(row, value)| (row.name.to_owned(), value));
    (traffic, rest.collect())
}

/// The kernel's counters of a socket.
const fn kernel(statistics: &SocketStatistics) -> [(&'static str, u64); 6] {
    [
        ("rx-dropped", statistics.rx_dropped),
        ("rx-ring-full", statistics.rx_ring_full),
        ("rx-invalid-descriptors", statistics.rx_invalid_descriptors),
        ("fill-ring-empty", statistics.fill_ring_empty),
        ("tx-invalid-descriptors", statistics.tx_invalid_descriptors),
        ("tx-ring-empty", statistics.tx_ring_empty),
    ]
}

fn owned(list: impl IntoIterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    list.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// `show workers`.
pub(super) fn workers(view: &View) -> WorkerList {
    let cap = u64::from(view.table.settings().connection_rate_cap);
    let now_ns = worker::now_ns();
    let row = |worker: &Worker| {
        let counters = worker.counters();
        let connection_events = counters.connection_events_at(now_ns);
        WorkerRow {
            queue: worker.queue(),
            cpu: worker.cpu(),
            priority: worker.priority(),
            running: worker.is_running(),
            error: worker.error(),
            mode: worker.mode().map(str::to_owned),
            generation: counters.generation.get(),
            flows: worker.counts("flows").then(|| counters.flows.get()),
            connection_events,
            flooded: connection_events > cap,
            frames: balance(counters),
            io: match worker.thread() {
                Some(_) => named(IoCounters::ROWS, &counters.io),
                None => BTreeMap::new(),
            },
            socket: worker
                .socket()
                // A socket that cannot be asked any more is that of a worker that failed.
                .and_then(|socket| socket.probe.statistics().ok())
                .map(|statistics| owned(kernel(&statistics)))
                .unwrap_or_default(),
        }
    };
    WorkerList {
        uptime_ms: millis(view.uptime),
        workers: view.workers.iter().map(row).collect(),
    }
}

/// `show stats`, for all workers or for that of one queue; of everything, or of one VIP and its reals.
/// What is not counted for each worker or for each VIP is then left out.
pub(super) fn stats(
    view: &View,
    vip: Option<&VipSpec>,
    queue: Option<u32>,
    xdp: Vec<(String, u64)>,
    health_checks: BTreeMap<String, u64>,
) -> Result<Stats, AdminError> {
    let chosen: Vec<_> = view
        .workers
        .iter()
        .enumerate()
        .filter(|(_, worker)| queue.is_none_or(|queue| worker.queue() == queue))
        .collect();
    if let Some(queue) = queue
        && chosen.is_empty()
    {
        return Err(no_such_worker(queue));
    }
    let wanted = |key: &VipKey| vip.is_none_or(|vip| vip.key == *key);
    let wanted_real = |address: &IpAddr| {
        vip.is_none_or(|vip| vip.reals.iter().any(|real| real.address == *address))
    };
    let of_workers: &[_] = if vip.is_none() { &chosen } else { &[] };
    let of_kernel = vip.is_none() && queue.is_none();
    let now_ns = worker::now_ns();
    let workers: Vec<WorkerTraffic> = of_workers
        .iter()
        .map(|(_, worker)| WorkerTraffic {
            queue: worker.queue(),
            frames: balance(worker.counters()),
            counters: counted(worker, now_ns),
        })
        .collect();
    Ok(Stats {
        uptime_ms: millis(view.uptime),
        frames: sum(workers.iter().map(|worker| worker.frames)),
        counters: if workers.is_empty() {
            BTreeMap::new()
        } else {
            combined(&workers)
        },
        vips: view
            .table
            .vips()
            .filter(|vip| wanted(&vip.key))
            .map(|vip| {
                let baseline = |worker| view.baselines.vip(vip.number, worker);
                let (traffic, counters) =
                    since(VIP_ROWS, &chosen, usize::from(vip.number), baseline);
                VipTraffic {
                    vip: vip.key.to_string(),
                    traffic,
                    counters,
                }
            })
            .collect(),
        reals: view
            .table
            .reals()
            .filter(|real| wanted_real(&real.address))
            .map(|real| {
                let index = real.id.index();
                let baseline = |worker| view.baselines.real(index, worker);
                let (traffic, counters) = since(REAL_ROWS, &chosen, index, baseline);
                RealTraffic {
                    real: real.address,
                    index: index as u16,
                    traffic,
                    counters,
                }
            })
            .collect(),
        workers,
        xdp: xdp.into_iter().filter(|_| of_kernel).collect(),
        health_checks: if of_kernel {
            health_checks
        } else {
            BTreeMap::new()
        },
    })
}

/// `show drops`.
pub(super) fn drops(view: &View) -> DropList {
    let row = |&reason: &DropReason| {
        let of = |worker: &Worker| traffic(&worker.counters().drops[reason as usize]);
        let each: Vec<Traffic> = view.workers.iter().map(of).collect();
        DropRow {
            reason: reason.name().to_owned(),
            meaning: reason.help().to_owned(),
            traffic: each.iter().copied().fold(Traffic::default(), Traffic::plus),
            workers: each.iter().map(|traffic| traffic.packets).collect(),
        }
    };
    DropList {
        uptime_ms: millis(view.uptime),
        drops: DropReason::ALL.iter().map(row).collect(),
    }
}

/// `show memory`.
pub(super) fn memory(view: &View) -> Memory {
    let mut parts = Vec::new();
    for worker in view.workers.iter() {
        let queue = Some(worker.queue());
        parts.push(MemoryPart {
            part: "flow tables".into(),
            worker: queue,
            bytes: worker.flow_table_bytes().ok().map(|bytes| bytes as u64),
        });
        if let Some(socket) = worker.socket() {
            parts.push(MemoryPart {
                part: "frames and socket rings".into(),
                worker: queue,
                bytes: Some(socket.memory_bytes as u64),
            });
        }
        let counters = worker.counters();
        parts.push(MemoryPart {
            part: "counters".into(),
            worker: queue,
            bytes: Some(counters.memory_bytes() as u64),
        });
    }
    let rings = view
        .table
        .vips()
        .map(|vip| size_of_val(vip.ring.slots()) as u64);
    parts.push(MemoryPart {
        part: "Maglev rings".into(),
        worker: None,
        bytes: Some(rings.sum()),
    });
    if let Some(global) = view.table.global() {
        parts.push(MemoryPart {
            part: "global flow table".into(),
            worker: None,
            bytes: Some(global.memory_bytes() as u64),
        });
    }
    let routes = view.table.source_routes();
    if !routes.is_empty() {
        parts.push(MemoryPart {
            part: "source routes".into(),
            worker: None,
            bytes: Some(routes.memory_bytes() as u64),
        });
    }
    Memory {
        resident_bytes: resident(),
        parts,
    }
}

/// Resident bytes of this process.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
