//! Counters of one worker.
//!
//! The worker is the only writer, so it adds with a relaxed load and a relaxed store instead of a
//! locked instruction; others read with relaxed loads. Invariant, once the worker is between bursts:
//! received = transmitted + passed + Σ drops, in packets and in bytes of the arriving frame.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::service::{MAX_REALS, MAX_VIPS};

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
    TxStalled = "tx-stalled", "The TX ring stayed full.";
    PassFailed = "pass-failed", "The packet was for the kernel and could not be handed up.";
}

/// Everything one worker counts.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Frames taken from the RX ring; bytes are those of the arriving frame, room not included.
    pub received: Traffic,
    /// Frames put on the TX ring; bytes of the arriving frame.
    pub transmitted: Traffic,
    /// Frames handed to the kernel; bytes of the arriving frame.
    pub passed: Traffic,
    /// Frames dropped, by [`DropReason`]; bytes of the arriving frame.
    pub drops: Box<[Traffic]>,
    /// Per VIP number: packets, and bytes by the IPv4 total length or the IPv6 payload length
    /// (katran-compat section 10).
    pub vips: Box<[Traffic]>,
    /// Per real index, as per VIP.
    pub reals: Box<[Traffic]>,
    /// Packets to VIPs after the size check (katran-compat counter 0 v1).
    pub vip_packets: Counter,
    /// Selections by ring (counter 0 v2).
    pub ring_selections: Counter,
    /// TCP SYN that selected by ring (counter 1 v1).
    pub tcp_syn_misses: Counter,
    /// TCP packets without SYN that missed the flow table (counter 1 v2).
    pub tcp_non_syn_misses: Counter,
    /// Flow-table entries written for flows that had none.
    pub flow_inserts: Counter,
    /// Flows that left the table because it was full.
    pub flow_evictions: Counter,
    /// Inserts left out because more than the allowed new connections came within a second.
    pub flood_suppressed: Counter,
    /// Flows in the table (gauge).
    pub flows: Counter,
    /// Echo requests answered.
    pub echo_replies: Counter,
    /// ICMP errors steered by the packet they quote.
    pub icmp_errors: Counter,
    /// Too-big replies sent for IPv4 (counter 4 v1).
    pub too_big_v4: Counter,
    /// Too-big replies sent for IPv6 (counter 4 v2).
    pub too_big_v6: Counter,
    /// Server ids in QUIC connection ids.
    pub quic: QuicCounters,
    /// Server ids in UDP payloads.
    pub stable_routing: StableRoutingCounters,
    /// Server ids in TCP options.
    pub tcp_server_id: TcpServerIdCounters,
    /// Per VIP number, of VIPs that route by server id.
    pub server_id_vips: Box<[ServerIdVipCounters]>,
    /// Packets whose bytes had to be moved because the room was not what the header needs.
    pub payload_moves: Counter,
    /// Tags of an older generation that were answered by a lookup.
    pub stale_tags: Counter,
    /// Generation of the service table in use (gauge).
    pub generation: Counter,
    /// What the rings did.
    pub io: IoCounters,
}

/// QUIC packets by what their connection id said (katran-compat sections 7.1 and 10).
#[derive(Debug, Default)]
pub struct QuicCounters {
    /// Left to flow table and ring (`ch_routed`).
    pub by_table_or_ring: Counter,
    /// Initial and 0-RTT packets (`cid_initial`).
    pub initial: Counter,
    /// Ids that no real has (`cid_invalid_server_id`).
    pub unknown_id: Counter,
    /// The last such id (gauge, `cid_invalid_server_id_sample`).
    pub unknown_id_sample: Counter,
    /// Sent to the real the id names (`cid_routed`).
    pub routed: Counter,
    /// Connection ids of version 1, 2 and 3 (`cid_v1` to `cid_v3`).
    pub versions: [Counter; 3],
    /// The flow table already had the real (`dst_match_in_lru`).
    pub table_match: Counter,
    /// The flow table had another real and was corrected (`dst_mismatch_in_lru`).
    pub table_mismatch: Counter,
    /// The flow table did not have the flow (`dst_not_found_in_lru`).
    pub table_miss: Counter,
    /// ICMP errors for QUIC VIPs (counter 11 v1).
    pub icmp_errors: Counter,
    /// Of these, with a code that a client can ignore (counter 11 v2).
    pub icmp_ignorable: Counter,
}

/// UDP packets of VIPs with stable routing (katran-compat section 7.2).
#[derive(Debug, Default)]
pub struct StableRoutingCounters {
    /// Left to flow table and ring (`ch_routed`).
    pub by_table_or_ring: Counter,
    /// Sent to the real the id names (`cid_routed`).
    pub routed: Counter,
    /// Ids that no real has (`cid_invalid_server_id`).
    pub unknown_id: Counter,
    /// Packets without the marker (`invalid_packet_type`).
    pub not_marked: Counter,
}

/// TCP packets while server ids are read from the option (katran-compat section 7.3).
#[derive(Debug, Default)]
pub struct TcpServerIdCounters {
    /// SYNs, which carry no id (`tcp_syn`).
    pub syn: Counter,
    /// Sent to the real the id names (`sid_routed`).
    pub routed: Counter,
    /// Left to flow table and ring (`ch_routed`).
    pub by_table_or_ring: Counter,
    /// The flow table had another real and was corrected (`dst_mismatch_in_lru`).
    pub table_mismatch: Counter,
}

/// Server-id routing of one VIP (`server_id_stats`).
#[derive(Debug, Default)]
pub struct ServerIdVipCounters {
    /// Packets that open a connection (v1).
    pub openings: Counter,
    /// Flows whose table entry named another real (v2).
    pub mismatches: Counter,
}

/// What the worker's loop did around the forwarder.
#[derive(Debug, Default)]
pub struct IoCounters {
    /// Bursts received.
    pub bursts: Counter,
    /// Times the worker went to sleep in poll.
    pub sleeps: Counter,
    /// System calls that asked the kernel to transmit.
    pub tx_kicks: Counter,
    /// Times the TX ring was full and the worker had to wait.
    pub tx_ring_full: Counter,
    /// Times the fill ring could not take every free frame at once.
    pub fill_ring_full: Counter,
    /// System calls that asked the kernel to look at the fill ring.
    pub fill_kicks: Counter,
    /// Descriptors from the kernel that lay outside the UMEM or were too long.
    pub invalid_descriptors: Counter,
    /// Frames the worker does not account for (must be zero).
    pub frames_lost: Counter,
}

impl WorkerCounters {
    /// All zero.
    pub fn new() -> Self {
        let traffic = |n: usize| (0..n).map(|_| Traffic::default()).collect();
        Self {
            received: Traffic::default(),
            transmitted: Traffic::default(),
            passed: Traffic::default(),
            drops: traffic(DropReason::ALL.len()),
            vips: traffic(MAX_VIPS),
            reals: traffic(MAX_REALS),
            vip_packets: Counter::default(),
            ring_selections: Counter::default(),
            tcp_syn_misses: Counter::default(),
            tcp_non_syn_misses: Counter::default(),
            flow_inserts: Counter::default(),
            flow_evictions: Counter::default(),
            flood_suppressed: Counter::default(),
            flows: Counter::default(),
            echo_replies: Counter::default(),
            icmp_errors: Counter::default(),
            too_big_v4: Counter::default(),
            too_big_v6: Counter::default(),
            quic: QuicCounters::default(),
            stable_routing: StableRoutingCounters::default(),
            tcp_server_id: TcpServerIdCounters::default(),
            server_id_vips: (0..MAX_VIPS)
                .map(|_| ServerIdVipCounters::default())
                .collect(),
            payload_moves: Counter::default(),
            stale_tags: Counter::default(),
            generation: Counter::default(),
            io: IoCounters::default(),
        }
    }

    /// Counts a drop; `bytes` are those of the arriving frame.
    #[inline]
    pub fn drop(&self, reason: DropReason, bytes: u64) {
        self.drops[reason as usize].count(bytes);
    }

    /// Packets and bytes dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> (u64, u64) {
        self.drops[reason as usize].get()
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

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new()
    }
}
