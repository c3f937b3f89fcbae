//! Counters of the `balancer` program.

use std::ops::Sub;

use xdp_layout::{
    balancer::TRAFFIC_WORDS,
    counter::{BALANCER_WORDS, BalancerEvent, BalancerOutcome},
};

use crate::counters::Traffic;

/// What became of the packets that the `balancer` program saw, on one CPU or on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalancerCounters([u64; BALANCER_WORDS]);

impl BalancerCounters {
    /// The counters of a CPU as they lie in its map.
    pub(crate) const fn new(words: &[u64; BALANCER_WORDS]) -> Self {
        Self(*words)
    }

    /// All zero.
    pub const ZERO: Self = Self([0; BALANCER_WORDS]);

    /// Packets of one outcome, and the bytes of the arriving frames.
    pub fn outcome(&self, outcome: BalancerOutcome) -> Traffic {
        let place = 2 * outcome.index() as usize;
        Traffic {
            packets: self.0[place],
            bytes: self.0[place + 1],
        }
    }

    /// How often something happened.
    pub fn event(&self, event: BalancerEvent) -> u64 {
        self.0[2 * BalancerOutcome::COUNT + event.index() as usize]
    }

    /// Every packet that the program saw.
    pub fn received(&self) -> Traffic {
        self.sum(|_| true)
    }

    /// Packets that left by the interface they came from.
    pub fn transmitted(&self) -> Traffic {
        self.sum(BalancerOutcome::is_transmit)
    }

    /// Packets that went to the kernel.
    pub fn passed(&self) -> Traffic {
        self.sum(BalancerOutcome::is_pass)
    }

    /// Packets that were dropped.
    pub fn dropped(&self) -> Traffic {
        self.sum(|outcome| !outcome.is_transmit() && !outcome.is_pass())
    }

    /// Names and traffic of the outcomes, in the order of the table.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, Traffic)> {
        BalancerOutcome::ALL
            .iter()
            .map(|&outcome| (outcome.name(), self.outcome(outcome)))
    }

    /// These counters and those of another CPU. Of the last window's start the later one counts.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let start = 2 * BalancerOutcome::COUNT + BalancerEvent::ConnectionWindowNs.index() as usize;
        Self(std::array::from_fn(|place| {
            let (one, two) = (self.0[place], other.0[place]);
            if place == start {
                one.max(two)
            } else {
                one.wrapping_add(two)
            }
        }))
    }

    fn sum(&self, of: impl Fn(BalancerOutcome) -> bool) -> Traffic {
        BalancerOutcome::ALL
            .iter()
            .filter(|&&outcome| of(outcome))
            .map(|&outcome| self.outcome(outcome))
            .fold(Traffic::default(), |sum, traffic| Traffic {
                packets: sum.packets + traffic.packets,
                bytes: sum.bytes + traffic.bytes,
            })
    }
}

impl Sub for BalancerCounters {
    type Output = Self;

    /// What happened between two readings.
    fn sub(self, earlier: Self) -> Self {
        Self(std::array::from_fn(|place| {
            self.0[place].wrapping_sub(earlier.0[place])
        }))
    }
}

/// What one CPU counted for a VIP or for a real.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTraffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, by the IPv4 total length or the IPv6 payload length.
    pub bytes: u64,
    /// Packets whose real the ring chose.
    pub ring_selections: u64,
}

impl From<[u64; TRAFFIC_WORDS]> for FlowTraffic {
    fn from([packets, bytes, ring_selections]: [u64; TRAFFIC_WORDS]) -> Self {
        Self {
            packets,
            bytes,
            ring_selections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_has_one_outcome() {
        let counters = BalancerCounters(std::array::from_fn(|place| 1 << place));
        let sums = [
            counters.transmitted(),
            counters.passed(),
            counters.dropped(),
        ];
        let packets: u64 = sums.iter().map(|sum| sum.packets).sum();
        let bytes: u64 = sums.iter().map(|sum| sum.bytes).sum();
        assert_eq!(counters.received(), Traffic { packets, bytes });
        assert_eq!(
            packets + bytes,
            (1 << (2 * BalancerOutcome::COUNT)) - 1,
            "no word is left out"
        );
        assert_eq!(counters.outcomes().count(), BalancerOutcome::COUNT);
        assert_eq!(
            counters.event(BalancerEvent::VipPackets),
            1 << (2 * BalancerOutcome::COUNT)
        );
    }

    #[test]
    fn cpus_add_up() {
        let counters = BalancerCounters([3; BALANCER_WORDS]);
        let both = counters.plus(&counters);
        assert_eq!(both.event(BalancerEvent::ConnectionEvents), 6);
        assert_eq!(both.event(BalancerEvent::ConnectionWindowNs), 3);
        assert_eq!((both - counters).transmitted().packets, 2 * 3);
    }
}
