//! Katran's counters (katran-compat section 10), so that none is forgotten.

use xdp_layout::counter::HealthCheckCounter::{
    self, DroppedFamilyMismatch, DroppedNoNextHop, DroppedNoRoom, Processed, Skipped, TooBig,
};

/// Every counter of Katran's. A number is the offset in its table of global counters, `v1` and `v2`
/// are the two values there. `vip`, `real`, `decap_vip` and `server_id` are lists, `lru_miss` too;
/// `quic`, `stable` (UDP stable routing), `tpr` (TCP option), `hc` (health checks) and `library` are
/// groups.
pub const KATRAN: &[&str] = &[
    "vip v1",
    "vip v2",
    "real v1",
    "real v2",
    "decap_vip v1",
    "server_id v1",
    "server_id v2",
    "lru_miss",
    "0 v1",
    "0 v2",
    "1 v1",
    "1 v2",
    "2 v1",
    "2 v2",
    "3 v1",
    "4 v1",
    "4 v2",
    "5 v1",
    "5 v2",
    "6 v1",
    "7 v1",
    "7 v2",
    "8 v1",
    "8 v2",
    "9 v1",
    "9 v2",
    "10 v1",
    "10 v2",
    "11 v1",
    "11 v2",
    "12 v1",
    "12 v2",
    "13 v1",
    "13 v2",
    "14 v1",
    "14 v2",
    "15 v1",
    "16 v1",
    "16 v2",
    "17 v1",
    "17 v2",
    "18 v1",
    "18 v2",
    "19 v1",
    "19 v2",
    "20 v1",
    "20 v2",
    "21 v1",
    "quic ch_routed",
    "quic cid_initial",
    "quic cid_invalid_server_id",
    "quic cid_invalid_server_id_sample",
    "quic cid_routed",
    "quic cid_unknown_real_dropped",
    "quic cid_v0",
    "quic cid_v1",
    "quic cid_v2",
    "quic cid_v3",
    "quic dst_match_in_lru",
    "quic dst_mismatch_in_lru",
    "quic dst_not_found_in_lru",
    "stable ch_routed",
    "stable cid_routed",
    "stable cid_invalid_server_id",
    "stable cid_unknown_real_dropped",
    "stable invalid_packet_type",
    "tpr ch_routed",
    "tpr dst_mismatch_in_lru",
    "tpr sid_routed",
    "tpr tcp_syn",
    "hc processed",
    "hc dropped",
    "hc skipped",
    "hc too big",
    "hc dst matched",
    "hc src matched",
    "hc key",
    "library failed BPF calls",
    "library failed address validations",
];

/// Those that have no counter here, and why.
pub const NOT_COUNTED: &[(&str, &str)] = &[
    (
        "3 v1",
        "Every worker has a flow table of its own; there is no fallback table.",
    ),
    (
        "8 v1",
        "The global table belongs to the process: no worker can be without it.",
    ),
    (
        "decap_vip v1",
        "Tunnels to other addresses than decap destinations are not taken apart.",
    ),
    ("21 v1", "Katran never counts it."),
    (
        "quic cid_unknown_real_dropped",
        "Server ids and reals are compiled into one table: an id cannot name a real outside it.",
    ),
    ("quic cid_v0", "Katran cannot reach it."),
    (
        "stable cid_unknown_real_dropped",
        "As for QUIC: an id cannot name a real outside the table.",
    ),
    (
        "hc dst matched",
        "Probes are told by their mark, not by their destination.",
    ),
    ("hc src matched", "Nor by their source."),
    (
        "hc key",
        "Nor counted by destination, port and protocol: `hc list` has those of each mark.",
    ),
    (
        "library failed BPF calls",
        "A change that fails is an error for whoever asked for it, and nothing has changed.",
    ),
    (
        "library failed address validations",
        "Likewise: the error names the address.",
    ),
];

/// Those that the program of the health-check path counts, as the sum of these counters of its own.
pub const HEALTH_CHECKS: &[(&str, &[HealthCheckCounter])] = &[
    ("hc processed", &[Processed]),
    (
        "hc dropped",
        &[DroppedFamilyMismatch, DroppedNoNextHop, DroppedNoRoom],
    ),
    ("hc skipped", &[Skipped]),
    ("hc too big", &[TooBig]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::counters::{FRAMES, IoCounters, REAL_ROWS, VIP_ROWS, WorkerCounters};

    #[test]
    fn every_counter_of_katran_is_counted_or_said_not_to_be() {
        let mut found: BTreeMap<&str, usize> = KATRAN.iter().map(|&name| (name, 0)).collect();
        let lists = VIP_ROWS.iter().chain(REAL_ROWS).map(|row| row.katran);
        let rows = WorkerCounters::ROWS.iter().map(|row| row.katran);
        let frames = FRAMES.iter().map(|row| row.katran);
        let elsewhere = NOT_COUNTED.iter().map(|(name, _)| *name);
        let elsewhere = elsewhere.chain(HEALTH_CHECKS.iter().map(|(name, _)| *name));
        for names in rows.chain(frames).chain(lists).chain(elsewhere) {
            for name in names.split(", ").filter(|name| !name.is_empty()) {
                *found
                    .get_mut(name)
                    .unwrap_or_else(|| panic!("{name}: Katran has no such counter")) += 1;
            }
        }
        for (name, times) in found {
            assert_eq!(times, 1, "{name}");
        }
    }

    #[test]
    fn every_counter_of_health_checks_is_one_of_katrans() {
        let mut counters: Vec<_> = HEALTH_CHECKS.iter().flat_map(|(_, sum)| *sum).collect();
        counters.sort_unstable_by_key(|counter| counter.index());
        assert!(counters.into_iter().eq(HealthCheckCounter::ALL));
    }

    #[test]
    fn names_are_unique_and_one_word_each() {
        let rows = WorkerCounters::ROWS.iter().map(|row| row.name);
        let io = IoCounters::ROWS.iter().map(|row| row.name);
        let mut names: Vec<&str> = rows.chain(io).collect();
        for name in &names {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
