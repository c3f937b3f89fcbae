//! Counters, read without asking the workers.

use std::{collections::BTreeMap, time::Duration};

use dataplane::{
    counters::{self, Counter, DropReason, ServerIdVipCounters, WorkerCounters},
    service::VipKey,
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
use crate::control::{Socket, View, Worker};

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn traffic(counter: &counters::Traffic) -> Traffic {
    let (packets, bytes) = counter.get();
    Traffic { packets, bytes }
}

/// Where a worker's frames went. What comes last in a frame's life is read first, so that a frame
/// which moves on meanwhile shows as in progress and never as accounted twice.
fn balance(counters: &WorkerCounters) -> Balance {
    let drops = counters.drops.iter().map(traffic);
    let dropped = drops.fold(Traffic::default(), Traffic::plus);
    let passed = traffic(&counters.passed);
    let transmitted = traffic(&counters.transmitted);
    let received = traffic(&counters.received);
    let accounted = dropped.plus(passed).plus(transmitted).packets;
    Balance {
        received,
        transmitted,
        passed,
        dropped,
        in_progress: received.packets.saturating_sub(accounted),
    }
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

/// Counters that are neither per VIP nor per real, by their names in statistics.
fn named(counters: &WorkerCounters) -> [(&'static str, u64); 35] {
    let (quic, stable) = (&counters.quic, &counters.stable_routing);
    let tcp = &counters.tcp_server_id;
    let of_vips = |count: fn(&ServerIdVipCounters) -> &Counter| {
        let vips = counters.server_id_vips.iter();
        vips.map(|vip| count(vip).get()).sum()
    };
    [
        ("vip-packets", counters.vip_packets.get()),
        ("ring-selections", counters.ring_selections.get()),
        ("tcp-syn-misses", counters.tcp_syn_misses.get()),
        ("tcp-non-syn-misses", counters.tcp_non_syn_misses.get()),
        ("flow-inserts", counters.flow_inserts.get()),
        ("flow-evictions", counters.flow_evictions.get()),
        ("flood-suppressed", counters.flood_suppressed.get()),
        ("echo-replies", counters.echo_replies.get()),
        ("icmp-errors", counters.icmp_errors.get()),
        ("too-big-v4", counters.too_big_v4.get()),
        ("too-big-v6", counters.too_big_v6.get()),
        ("payload-moves", counters.payload_moves.get()),
        ("stale-tags", counters.stale_tags.get()),
        ("server-id-openings", of_vips(|vip| &vip.openings)),
        ("server-id-mismatches", of_vips(|vip| &vip.mismatches)),
        ("quic-routed", quic.routed.get()),
        ("quic-by-table-or-ring", quic.by_table_or_ring.get()),
        ("quic-initial", quic.initial.get()),
        ("quic-unknown-id", quic.unknown_id.get()),
        ("quic-cid-v1", quic.versions[0].get()),
        ("quic-cid-v2", quic.versions[1].get()),
        ("quic-cid-v3", quic.versions[2].get()),
        ("quic-table-match", quic.table_match.get()),
        ("quic-table-mismatch", quic.table_mismatch.get()),
        ("quic-table-miss", quic.table_miss.get()),
        ("quic-icmp-errors", quic.icmp_errors.get()),
        ("quic-icmp-ignorable", quic.icmp_ignorable.get()),
        ("stable-routed", stable.routed.get()),
        ("stable-by-table-or-ring", stable.by_table_or_ring.get()),
        ("stable-unknown-id", stable.unknown_id.get()),
        ("stable-not-marked", stable.not_marked.get()),
        ("tcp-id-syn", tcp.syn.get()),
        ("tcp-id-routed", tcp.routed.get()),
        ("tcp-id-by-table-or-ring", tcp.by_table_or_ring.get()),
        ("tcp-id-table-mismatch", tcp.table_mismatch.get()),
    ]
}

fn io(counters: &WorkerCounters) -> [(&'static str, u64); 8] {
    let io = &counters.io;
    [
        ("bursts", io.bursts.get()),
        ("sleeps", io.sleeps.get()),
        ("tx-kicks", io.tx_kicks.get()),
        ("tx-ring-full", io.tx_ring_full.get()),
        ("fill-ring-full", io.fill_ring_full.get()),
        ("fill-kicks", io.fill_kicks.get()),
        ("invalid-descriptors", io.invalid_descriptors.get()),
        ("frames-lost", io.frames_lost.get()),
    ]
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
    let row = |worker: &Worker| {
        let (counters, handle) = (worker.counters(), worker.handle());
        let mode = |socket: &Socket| {
            if socket.zero_copy {
                "zero-copy"
            } else {
                "copy"
            }
            .to_owned()
        };
        WorkerRow {
            queue: worker.queue(),
            cpu: handle.cpu(),
            running: handle.is_running(),
            error: handle.error().map(|error| error.to_string()),
            mode: worker.socket().map(mode),
            generation: counters.generation.get(),
            flows: counters.flows.get(),
            frames: balance(counters),
            io: owned(io(counters)),
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

/// `show stats`, for all workers or for that of one queue.
pub(super) fn stats(
    view: &View,
    vip: Option<&VipKey>,
    queue: Option<u32>,
    xdp: Vec<(String, u64)>,
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
    if let Some(vip) = vip
        && view.table.find(vip).is_none()
    {
        return Err(AdminError::new(
            "vip",
            format!("there is no VIP {vip}"),
            "`vip list` names those there are",
        ));
    }
    let since = |(packets, bytes): (u64, u64), start: (u64, u64)| Traffic {
        packets: packets.wrapping_sub(start.0),
        bytes: bytes.wrapping_sub(start.1),
    };
    let of_vip = |number: u16| {
        let counts = chosen.iter().map(|(position, worker)| {
            let counter = &worker.counters().vips[usize::from(number)];
            since(counter.get(), view.baselines.vip(number, *position))
        });
        counts.fold(Traffic::default(), Traffic::plus)
    };
    let of_real = |index: usize| {
        let counts = chosen.iter().map(|(position, worker)| {
            let counter = &worker.counters().reals[index];
            since(counter.get(), view.baselines.real(index, *position))
        });
        counts.fold(Traffic::default(), Traffic::plus)
    };
    let wanted = |key: &VipKey| vip.is_none_or(|vip| vip == key);
    let workers: Vec<WorkerTraffic> = chosen
        .iter()
        .map(|(_, worker)| WorkerTraffic {
            queue: worker.queue(),
            frames: balance(worker.counters()),
        })
        .collect();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (name, value) in chosen
        .iter()
        .flat_map(|(_, worker)| named(worker.counters()))
    {
        *sums.entry(name.to_owned()).or_default() += value;
    }
    Ok(Stats {
        uptime_ms: millis(view.uptime),
        frames: sum(workers.iter().map(|worker| worker.frames)),
        counters: sums,
        vips: view
            .table
            .vips()
            .filter(|vip| wanted(&vip.key))
            .map(|vip| VipTraffic {
                vip: vip.key.to_string(),
                traffic: of_vip(vip.number),
            })
            .collect(),
        reals: view
            .table
            .reals()
            .map(|real| RealTraffic {
                real: real.address,
                index: real.id.index() as u16,
                traffic: of_real(real.id.index()),
            })
            .collect(),
        workers,
        xdp: xdp.into_iter().collect(),
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
            bytes: worker
                .ask(|forwarder, _| forwarder.memory_bytes() as u64)
                .ok(),
        });
        if let Some(socket) = worker.socket() {
            parts.push(MemoryPart {
                part: "frames and socket rings".into(),
                worker: queue,
                bytes: Some(socket.memory_bytes as u64),
            });
        }
        let counters = worker.counters();
        let slots = counters.drops.len() + counters.vips.len() + counters.reals.len();
        parts.push(MemoryPart {
            part: "counters".into(),
            worker: queue,
            bytes: Some(
                (size_of::<WorkerCounters>() + slots * size_of::<counters::Traffic>()) as u64,
            ),
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
