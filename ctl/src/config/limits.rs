//! Ranges of the values that are not ranges of their types.

use std::ops::RangeInclusive;

use dataplane::xsk::XskConfig;

/// Flows per worker and address family. The largest table takes tens of gigabytes.
pub(super) const FLOW_TABLE_CAPACITY: RangeInclusive<usize> = 1..=1 << 27;
/// Bytes of a frame towards a VIP: Ethernet, IPv6 and TCP headers at least; what a UMEM chunk holds
/// beside its head room at most.
pub(super) const MAX_FRAME: RangeInclusive<u16> = 74..=3500;
/// Smallest `max_frame` with `icmp_too_big`: the reply announces `max_frame` less the Ethernet header,
/// and no IPv6 host takes an MTU below 1280.
pub(super) const MIN_MAX_FRAME_TOO_BIG: u16 = 1280 + 14;
/// Bytes of a probe: an Ethernet frame at least, an IP packet at most.
pub(super) const HEALTH_CHECK_MAX_FRAME: RangeInclusive<u32> = 60..=65_549;
/// Marks that can name a real.
pub(super) const MAX_HEALTH_CHECKS: usize = xdp_layout::MAX_HEALTH_CHECKS as usize;
/// UMEM chunks of one queue.
pub(super) const FRAMES: RangeInclusive<u32> = XskConfig::MIN_FRAMES..=XskConfig::MAX_FRAMES;
/// Longer than this, a worker that waits for packets would spin rather than sleep.
pub(super) const MAX_SPIN_US: u32 = 1_000_000;
/// What fits a Unix socket address beside the closing zero.
pub(super) const MAX_SOCKET_PATH: usize = 107;
