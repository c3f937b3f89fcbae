//! Counters that come in lists: where frames went, and those of each VIP and each real.

use super::{DropReason, WorkerCounters};

/// Packets and bytes of frames, by where they went.
#[derive(Debug)]
pub struct FrameRow {
    /// Name in statistics.
    pub name: &'static str,
    /// Katran's counters that mean the same, as in [`Row`](super::Row).
    pub katran: &'static str,
    /// One sentence for operators.
    pub help: &'static str,
    /// Reads packets and bytes of the arriving frames.
    pub read: fn(&WorkerCounters) -> (u64, u64),
}

/// Where frames went. What comes last in a frame's life stands first: read in this order, a frame
/// that moves on meanwhile shows as in progress and never as accounted twice.
pub const FRAMES: &[FrameRow] = &[
    FrameRow {
        name: "dropped",
        katran: "18 v1, 18 v2",
        help: "Dropped, for whatever reason; `show drops` has the reasons.",
        read: |counters| {
            DropReason::ALL.iter().fold((0, 0), |sum, &reason| {
                let (packets, bytes) = counters.dropped(reason);
                (sum.0 + packets, sum.1 + bytes)
            })
        },
    },
    FrameRow {
        name: "passed",
        katran: "19 v1, 19 v2",
        help: "Handed to the kernel by a worker. Most packets that are not for a VIP never reach one: \
               the XDP program's `passed_` counters have them.",
        read: |counters| counters.passed.get(),
    },
    FrameRow {
        name: "transmitted",
        katran: "17 v1, 17 v2",
        help: "Sent out encapsulated, or answered.",
        read: |counters| counters.transmitted.get(),
    },
    FrameRow {
        name: "received",
        katran: "16 v1, 16 v2",
        help: "Taken from the RX ring. Katran counts every packet of the interface: add the XDP \
               program's `passed_` counters.",
        read: |counters| counters.received.get(),
    },
];

/// A counter that every VIP or every real has.
#[derive(Debug)]
pub struct ListRow {
    /// Name in statistics.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Katran's counters that mean the same, as in [`Row`](super::Row).
    pub katran: &'static str,
    /// One sentence for operators.
    pub help: &'static str,
    /// Reads it for a VIP number or a real index.
    pub read: fn(&WorkerCounters, usize) -> u64,
}

/// Counters of each VIP, by its number. Packets and bytes come first.
pub const VIP_ROWS: &[ListRow] = &[
    ListRow {
        name: "packets",
        unit: "packets",
        katran: "vip v1",
        help: "Packets whose real is known.",
        read: |counters, vip| counters.vips[vip].packets.get(),
    },
    ListRow {
        name: "bytes",
        unit: "bytes",
        katran: "vip v2",
        help: "Their bytes: IPv4 total length, or IPv6 payload length.",
        read: |counters, vip| counters.vips[vip].bytes.get(),
    },
    ListRow {
        name: "server-id-openings",
        unit: "packets",
        katran: "server_id v1",
        help: "Packets that open a connection, while server ids are read.",
        read: |counters, vip| counters.server_id_vips[vip].openings.get(),
    },
    ListRow {
        name: "server-id-mismatches",
        unit: "packets",
        katran: "server_id v2",
        help: "Packets whose server id named another real than the flow table.",
        read: |counters, vip| counters.server_id_vips[vip].mismatches.get(),
    },
    ListRow {
        name: "ring-selections",
        unit: "packets",
        katran: "",
        help: "Packets whose real the ring chose.",
        read: |counters, vip| counters.vip_ring_selections[vip].get(),
    },
];

/// Counters of each real, by its index. Packets and bytes come first.
pub const REAL_ROWS: &[ListRow] = &[
    ListRow {
        name: "packets",
        unit: "packets",
        katran: "real v1",
        help: "Packets for the real.",
        read: |counters, real| counters.reals[real].packets.get(),
    },
    ListRow {
        name: "bytes",
        unit: "bytes",
        katran: "real v2",
        help: "Their bytes: IPv4 total length, or IPv6 payload length.",
        read: |counters, real| counters.reals[real].bytes.get(),
    },
    ListRow {
        name: "ring-selections",
        unit: "packets",
        katran: "lru_miss",
        help: "Packets for which the ring chose the real. Katran counts those of one VIP that is \
               asked for; here it is always counted, over all VIPs of the real, so a real \
               of one VIP has the same number.",
        read: |counters, real| counters.real_ring_selections[real].get(),
    },
];

/// Counters of a VIP or real in one worker, in the order of its table.
pub fn read_list(rows: &[ListRow], counters: &WorkerCounters, number: usize) -> Vec<u64> {
    rows.iter()
        .map(|row| (row.read)(counters, number))
        .collect()
}
