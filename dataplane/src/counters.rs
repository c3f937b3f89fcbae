//! Counters of one worker.
//!
//! The worker is the only writer, so it adds with a relaxed load and a relaxed store instead of a
//! locked instruction; others read with relaxed loads. Invariant, once the worker is between bursts:
//! received = transmitted + passed + Σ drops, in packets and in bytes of the arriving frame.

mod katran;
mod lists;
mod row;

use std::sync::atomic::{AtomicU64, Ordering};

use self::row::counter_table;
use crate::service::{MAX_REALS, MAX_VIPS};

pub use katran::{HEALTH_CHECKS, KATRAN, NOT_COUNTED};
pub use lists::{FRAMES, FrameRow, ListRow, REAL_ROWS, VIP_ROWS, read_list};
pub use row::{Kind, Row};

/// How long connection events are counted before the count starts again.
pub(crate) const CONNECTION_WINDOW_NS: u64 = 1_000_000_000;

/// One number that only its worker changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Replaces the value (gauges). Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Current value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: Counter,
    /// Bytes; which bytes is said where the field is.
    pub bytes: Counter,
}

impl Traffic {
    /// Counts one packet.
    #[inline]
    pub fn count(&self, bytes: u64) {
        self.packets.add(1);
        self.bytes.add(bytes);
    }

    /// Current values, packets first.
    pub fn get(&self) -> (u64, u64) {
        (self.packets.get(), self.bytes.get())
    }
}

/// One table gives every drop reason its variant, its name in statistics and its explanation.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $help:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in statistics, verdicts and captures.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for operators.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    BadTag = "bad-tag", "The head room in front of the frame is not what the XDP program writes.";
    Ipv4Options = "ipv4-options", "The IPv4 header length is not 20 bytes.";
    Fragment = "fragment", "The packet is an IP fragment; ports are unknown.";
    L4Truncated = "l4-truncated", "The frame ends before the TCP, UDP or ICMP header does.";
    QuoteTruncated = "quote-truncated", "The packet quoted in an ICMP error is too short or has IP options.";
    FrameTooLong = "frame-too-long", "The frame is longer than the configured maximum.";
    NoReal = "no-real", "The VIP has no real with a weight above zero.";
    FamilyMismatch = "family-mismatch", "An IPv6 packet selected an IPv4 real.";
    NoNextHop = "no-next-hop", "The next hop's Ethernet address is not known yet.";
    NoRoom = "no-room", "The buffer cannot hold the frame with its outer header.";
    InnerTruncated = "inner-truncated", "A tunnel to a decap destination ends before its inner IP header does.";
    TtlExpired = "ttl-expired", "The inner packet of a tunnel to a decap destination has a TTL or hop limit of 1.";
    RecirculationLimit = "recirculation-limit", "More tunnels to decap destinations lie in each other than are taken apart.";
    TxStalled = "tx-stalled", "The TX ring stayed full.";
    PassFailed = "pass-failed", "The packet was for the kernel and could not be handed up.";
}

/// A list whose length is known where it is indexed, which spares a packet the comparison.
#[expect(
    clippy::unnecessary_box_returns,
    reason = "the list is too long for the stack"
)]
fn traffic<const SLOTS: usize>() -> Box<[Traffic; SLOTS]> {
    let list: Box<[Traffic]> = (0..SLOTS).map(|_| Traffic::default()).collect();
    let Ok(list) = list.try_into() else {
        unreachable!("it has this length")
    };
    list
}

fn counters(slots: usize) -> Box<[Counter]> {
    (0..slots).map(|_| Counter::default()).collect()
}

counter_table! {
    /// Everything one worker counts.
    WorkerCounters {
        /// Frames taken from the RX ring; bytes are those of the arriving frame, room not included.
        received: Traffic = Traffic::default(),
        /// Frames put on the TX ring; bytes of the arriving frame.
        transmitted: Traffic = Traffic::default(),
        /// Frames handed to the kernel; bytes of the arriving frame.
        passed: Traffic = Traffic::default(),
        /// Frames dropped, by [`DropReason`]; bytes of the arriving frame.
        drops: Box<[Traffic; DropReason::ALL.len()]> = traffic(),
        /// Per VIP number: packets, and bytes by the IPv4 total length or the IPv6 payload length
        /// (katran-compat section 10).
        vips: Box<[Traffic; MAX_VIPS]> = traffic(),
        /// Per VIP number, of VIPs that route by server id.
        server_id_vips: Box<[ServerIdVipCounters]> =
            (0..MAX_VIPS).map(|_| ServerIdVipCounters::default()).collect(),
        /// Per VIP number: packets for which the ring chose a real.
        vip_ring_selections: Box<[Counter]> = counters(MAX_VIPS),
        /// Per real index, as per VIP.
        reals: Box<[Traffic; MAX_REALS]> = traffic(),
        /// Per real index: packets for which the ring chose it.
        real_ring_selections: Box<[Counter]> = counters(MAX_REALS),
        /// What the worker's loop did.
        io: IoCounters = IoCounters::new(),
    }

    "Choice of the real" {
        vip_packets = "vip-packets", Count, "packets", "0 v1",
            "Packets to VIPs that are not too long.";
        ring_selections = "ring-selections", Count, "packets", "0 v2",
            "Packets whose real neither a server id nor a table named: a source route or the ring did.";
        tcp_syn_misses = "tcp-syn-misses", Count, "packets", "1 v1",
            "TCP with SYN, of which no table is asked.";
        tcp_non_syn_misses = "tcp-non-syn-misses", Count, "packets", "1 v2",
            "TCP without SYN whose real neither a server id nor a table named: flows that began elsewhere or were forgotten.";
        source_route_misses = "source-route-misses", Count, "packets", "5 v1",
            "Packets of VIPs with source routing that no route covers: the ring placed them.";
        source_route_hits = "source-route-hits", Count, "packets", "5 v2",
            "Packets whose real a source route named.";
        udp_flow_migrations = "udp-flow-migrations", Count, "packets", "15 v1",
            "UDP packets whose flow left a real that is down.";
        ring_unknown_reals = "ring-unknown-reals", Count, "packets", "9 v1",
            "Packets dropped because the ring named a real that there is not.";
        ring_empty_slots = "ring-empty-slots", Count, "packets", "9 v2",
            "Packets dropped because the ring was empty: no real has a weight above zero.";
    }

    "Flow table" {
        flows = "flows", Gauge, "flows", "",
            "Flows in the tables.";
        flow_inserts = "flow-inserts", Count, "flows", "",
            "Flows that entered the table.";
        flow_evictions = "flow-evictions", Count, "flows", "",
            "Flows that left the table because it was full.";
        global_table_hits = "global-table-hits", Count, "packets", "8 v2",
            "Packets whose real the table shared by all workers named.";
        global_table_evictions = "global-table-evictions", Count, "flows", "",
            "Flows that left that table because there was no room for others.";
        connection_events = "connection-events", Gauge, "events", "2 v1",
            "Connection events in the present window of one second, by which the cap on inserts goes. They are \
             no count of flows: see Floods in operations.md.";
        connection_window_ns = "connection-window-ns", Last, "nanoseconds", "2 v2",
            "When that window started, by the system's monotonic clock.";
        flood_suppressed = "flood-suppressed", Count, "packets", "",
            "Packets whose flow did not enter the table because of the cap; each packet of such a flow counts.";
    }

    "ICMP" {
        echo_replies = "echo-replies", Count, "packets", "",
            "Echo requests to VIPs that were answered.";
        icmp_errors = "icmp-errors", Count, "packets", "",
            "ICMP errors that followed the flow they are about.";
        ptb_v4 = "ptb-v4", Count, "packets", "13 v1",
            "Of these, IPv4's \"fragmentation needed\" (type 3 code 4).";
        ptb_v4_small = "ptb-v4-small", Count, "packets", "13 v2",
            "Of these, with an MTU below 1280.";
        ptb_v6 = "ptb-v6", Count, "packets", "12 v1",
            "ICMP errors that are IPv6's \"packet too big\" (type 2).";
        ptb_v6_small = "ptb-v6-small", Count, "packets", "12 v2",
            "Of these, with an MTU below 1280.";
        too_big_v4 = "too-big-v4", Count, "packets", "4 v1",
            "IPv4 frames over `max_frame` to be answered with ICMP.";
        too_big_v6 = "too-big-v6", Count, "packets", "4 v2",
            "IPv6 frames over `max_frame` to be answered with ICMP.";
    }

    "Encapsulation" {
        encap_failures_v4 = "encap-failures-v4", Count, "packets", "7 v1",
            "Packets whose real is known, but that cannot get an outer IPv4 header; the drop reason says why.";
        encap_failures_v6 = "encap-failures-v6", Count, "packets", "7 v2",
            "Likewise, an outer IPv6 header.";
        payload_moves = "payload-moves", Count, "packets", "",
            "Packets whose bytes had to be moved because the room was not what the header needs.";
        stale_tags = "stale-tags", Count, "packets", "",
            "Packets whose VIP was looked up again because the XDP program knew an older table.";
        generation = "generation", Last, "number", "",
            "Generation of the service table in use.";
    }

    /// Tunnels to decap destinations (katran-compat sections 8.1 and 8.2).
    decap: DecapCounters = "Decapsulation" {
        packets = "decap-packets", Count, "packets", "6 v1",
            "Tunnels to decap destinations; those inside each other count each.";
        outer_v4 = "decap-outer-v4", Count, "packets", "10 v1",
            "Outer IPv4 headers taken off tunnels to decap destinations. Katran counts those of IPIP under 10 v2, \
             and by default tunnels to anybody.";
        outer_v6 = "decap-outer-v6", Count, "packets", "10 v2",
            "Likewise, outer IPv6 headers; in Katran, all outer headers of IPIP are among them.";
        cross_pop_v4 = "decap-cross-pop-v4", Count, "packets", "14 v1",
            "Inner IPv4 packets to be balanced, or given to the kernel.";
        cross_pop_v6 = "decap-cross-pop-v6", Count, "packets", "14 v2",
            "Likewise, IPv6.";
        egress_v4 = "decap-egress-v4", Count, "packets", "20 v1",
            "Inner IPv4 packets of GUE tunnels sent out.";
        egress_v6 = "decap-egress-v6", Count, "packets", "20 v2",
            "Likewise, IPv6.";
        recirculated = "recirculated", Count, "packets", "",
            "Inner packets decided like packets that arrive. Katran's 16 v1 has them too.";
        recirculated_bytes = "recirculated-bytes", Count, "bytes", "",
            "Their frames, without the outer header. Katran's 16 v2 has them too.";
    }

    /// QUIC packets by what their connection id said (katran-compat sections 7.1 and 10).
    quic: QuicCounters = "Server ids: QUIC" {
        by_table_or_ring = "quic-by-table-or-ring", Count, "packets", "quic ch_routed",
            "QUIC packets left to flow table and ring: no id, or one that no real has.";
        initial = "quic-initial", Count, "packets", "quic cid_initial",
            "Initial and 0-RTT packets.";
        routed = "quic-routed", Count, "packets", "quic cid_routed",
            "Packets sent to the real that the id names.";
        unknown_id = "quic-unknown-id", Count, "packets", "quic cid_invalid_server_id",
            "Packets with an id that no real has.";
        unknown_id_sample = "quic-unknown-id-sample", Last, "server id", "quic cid_invalid_server_id_sample",
            "The last such id.";
        cid_v1 = "quic-cid-v1", Count, "packets", "quic cid_v1",
            "Packets with an id in a connection id of version 1.";
        cid_v2 = "quic-cid-v2", Count, "packets", "quic cid_v2",
            "Likewise, version 2.";
        cid_v3 = "quic-cid-v3", Count, "packets", "quic cid_v3",
            "Likewise, version 3.";
        table_match = "quic-table-match", Count, "packets", "quic dst_match_in_lru",
            "Packets whose flow the table had with the id's real.";
        table_mismatch = "quic-table-mismatch", Count, "packets", "quic dst_mismatch_in_lru",
            "Packets whose flow the table had with another real, and was corrected.";
        table_miss = "quic-table-miss", Count, "packets", "quic dst_not_found_in_lru",
            "Packets whose flow the table did not have.";
        icmp_errors = "quic-icmp-errors", Count, "packets", "11 v1",
            "ICMP errors for QUIC VIPs.";
        icmp_ignorable = "quic-icmp-ignorable", Count, "packets", "11 v2",
            "Of these, with a code that a client can ignore.";
    }

    /// UDP packets of VIPs with stable routing (katran-compat section 7.2).
    stable_routing: StableRoutingCounters = "Server ids: UDP stable routing" {
        by_table_or_ring = "stable-by-table-or-ring", Count, "packets", "stable ch_routed",
            "UDP packets left to flow table and ring.";
        routed = "stable-routed", Count, "packets", "stable cid_routed",
            "Packets sent to the real that the id names.";
        unknown_id = "stable-unknown-id", Count, "packets", "stable cid_invalid_server_id",
            "Packets with an id that no real has. Katran counts them only if its ids are in a hash table, or the id \
             is beyond its array.";
        not_marked = "stable-not-marked", Count, "packets", "stable invalid_packet_type",
            "Packets without the marker.";
    }

    /// TCP packets while server ids are read from the option (katran-compat section 7.3).
    tcp_server_id: TcpServerIdCounters = "Server ids: TCP option" {
        syn = "tcp-id-syn", Count, "packets", "tpr tcp_syn",
            "SYNs, which carry no id.";
        routed = "tcp-id-routed", Count, "packets", "tpr sid_routed",
            "Packets sent to the real that the id names.";
        by_table_or_ring = "tcp-id-by-table-or-ring", Count, "packets", "tpr ch_routed",
            "Packets left to flow table and ring.";
        table_mismatch = "tcp-id-table-mismatch", Count, "packets", "tpr dst_mismatch_in_lru",
            "Packets whose flow the table had with another real, and was corrected.";
    }
}

counter_table! {
    /// What the worker's loop did around the forwarder.
    IoCounters {}

    "Worker" {
        bursts = "bursts", Count, "bursts", "",
            "Bursts received.";
        sleeps = "sleeps", Count, "times", "",
            "The worker went to sleep.";
        tx_kicks = "tx-kicks", Count, "system calls", "",
            "The kernel was asked to transmit.";
        tx_ring_full = "tx-ring-full", Count, "times", "",
            "The TX ring was full and the worker had to wait.";
        fill_ring_full = "fill-ring-full", Count, "times", "",
            "The fill ring could not take every free frame at once.";
        fill_kicks = "fill-kicks", Count, "system calls", "",
            "The kernel was asked to look at the fill ring.";
        rx_stalls = "rx-stalls", Count, "times", "",
            "The driver had found the fill ring empty and nothing arrived until it was called.";
        tx_stalls = "tx-stalls", Count, "times", "",
            "Frames were on their way and none left for a second.";
        invalid_descriptors = "invalid-descriptors", Count, "descriptors", "",
            "Descriptors from the kernel that lay outside the frames' memory or were too long.";
        frames_lost = "frames-lost", Gauge, "frames", "",
            "Frames the worker does not account for. Must be zero.";
    }
}

/// Server-id routing of one VIP (`server_id_stats`).
#[derive(Debug, Default)]
pub struct ServerIdVipCounters {
    /// Packets that open a connection (v1).
    pub openings: Counter,
    /// Flows whose table entry named another real (v2).
    pub mismatches: Counter,
}

impl WorkerCounters {
    /// Counts a drop; `bytes` are those of the arriving frame.
    #[inline]
    pub fn drop(&self, reason: DropReason, bytes: u64) {
        self.drops[reason as usize].count(bytes);
    }

    /// Packets and bytes dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> (u64, u64) {
        self.drops[reason as usize].get()
    }

    /// Connection events of the window that lasts at `now_ns` on the worker's clock, 0 when none does:
    /// what the cap on new connections is compared with (katran-compat section 5.4).
    pub fn connection_events_at(&self, now_ns: u64) -> u64 {
        let age_ns = now_ns.wrapping_sub(self.connection_window_ns.get());
        if age_ns > CONNECTION_WINDOW_NS {
            return 0;
        }
        self.connection_events.get()
    }

    /// Bytes that the counters take.
    pub fn memory_bytes(&self) -> usize {
        let traffic = [&self.drops[..], &self.vips[..], &self.reals[..]];
        let counters = [&self.vip_ring_selections, &self.real_ring_selections];
        size_of::<Self>()
            + traffic.map(size_of_val).iter().sum::<usize>()
            + counters
                .map(|list| size_of_val(&**list))
                .iter()
                .sum::<usize>()
            + size_of_val(&*self.server_id_vips)
    }

    /// Packets received that are neither transmitted, passed nor dropped: zero between bursts.
    pub fn unaccounted(&self) -> i128 {
        let drops: u64 = self.drops.iter().map(|drop| drop.packets.get()).sum();
        i128::from(self.received.packets.get())
            - i128::from(self.transmitted.packets.get())
            - i128::from(self.passed.packets.get())
            - i128::from(drops)
    }
}
