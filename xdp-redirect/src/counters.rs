//! Counters of the programs, summed over all CPUs.

use std::ops::Sub;

use aya::maps::MapError;
use xdp_layout::counter::{DecapCounter, HealthCheckCounter, RedirectCounter};

use crate::object::{PerCpu, total};

/// What became of the packets that the `redirect` program saw: each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectCounters([u64; RedirectCounter::COUNT]);

impl RedirectCounters {
    pub(crate) fn read(cells: &PerCpu<u64>) -> Result<Self, MapError> {
        let mut counters = Self([0; RedirectCounter::COUNT]);
        for counter in RedirectCounter::ALL {
            let sum = total(cells, counter.index(), 0, u64::wrapping_add)?;
            counters.0[counter.index() as usize] = sum;
        }
        Ok(counters)
    }

    /// Packets of one outcome.
    pub fn get(&self, counter: RedirectCounter) -> u64 {
        self.0[counter.index() as usize]
    }

    /// Packets that went to a socket.
    pub fn redirected(&self) -> u64 {
        self.sum(RedirectCounter::is_redirect)
    }

    /// Packets that went to the kernel.
    pub fn passed(&self) -> u64 {
        self.sum(|counter| !counter.is_redirect())
    }

    /// Names and values, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RedirectCounter::ALL
            .iter()
            .map(|&counter| (counter.name(), self.get(counter)))
    }

    fn sum(&self, of: impl Fn(RedirectCounter) -> bool) -> u64 {
        RedirectCounter::ALL
            .iter()
            .filter(|&&counter| of(counter))
            .map(|&counter| self.get(counter))
            .sum()
    }
}

impl Sub for RedirectCounters {
    type Output = Self;

    /// What happened between two readings.
    fn sub(self, earlier: Self) -> Self {
        Self(std::array::from_fn(|index| {
            self.0[index].wrapping_sub(earlier.0[index])
        }))
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames as they came, without frame check sequence.
    pub bytes: u64,
}

/// What became of the packets that the `decap` program saw: each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecapCounters([Traffic; DecapCounter::COUNT]);

impl DecapCounters {
    pub(crate) fn read(cells: &PerCpu<[u64; 2]>) -> Result<Self, MapError> {
        let mut counters = Self([Traffic::default(); DecapCounter::COUNT]);
        for counter in DecapCounter::ALL {
            let sum = total(
                cells,
                counter.index(),
                Traffic::default(),
                |sum, [packets, bytes]: [u64; 2]| Traffic {
                    packets: sum.packets.wrapping_add(packets),
                    bytes: sum.bytes.wrapping_add(bytes),
                },
            )?;
            counters.0[counter.index() as usize] = sum;
        }
        Ok(counters)
    }

    /// Traffic of one outcome.
    pub fn get(&self, counter: DecapCounter) -> Traffic {
        self.0[counter.index() as usize]
    }

    /// Traffic whose outer header was taken off.
    pub fn stripped(&self) -> Traffic {
        DecapCounter::ALL
            .iter()
            .filter(|counter| counter.is_stripped())
            .map(|&counter| self.get(counter))
            .fold(Traffic::default(), |sum, traffic| Traffic {
                packets: sum.packets + traffic.packets,
                bytes: sum.bytes + traffic.bytes,
            })
    }

    /// Names and traffic, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Traffic)> {
        DecapCounter::ALL
            .iter()
            .map(|&counter| (counter.name(), self.get(counter)))
    }
}

impl Sub for DecapCounters {
    type Output = Self;

    /// What happened between two readings.
    fn sub(self, earlier: Self) -> Self {
        Self(std::array::from_fn(|index| {
            let (now, then) = (self.0[index], earlier.0[index]);
            Traffic {
                packets: now.packets.wrapping_sub(then.packets),
                bytes: now.bytes.wrapping_sub(then.bytes),
            }
        }))
    }
}

/// What became of the packets that the `healthcheck` program saw: each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheckCounters([u64; HealthCheckCounter::COUNT]);

impl HealthCheckCounters {
    pub(crate) fn read(cells: &PerCpu<u64>) -> Result<Self, MapError> {
        let mut counters = Self([0; HealthCheckCounter::COUNT]);
        for counter in HealthCheckCounter::ALL {
            let sum = total(cells, counter.index(), 0, u64::wrapping_add)?;
            counters.0[counter.index() as usize] = sum;
        }
        Ok(counters)
    }

    /// Packets of one outcome.
    pub fn get(&self, counter: HealthCheckCounter) -> u64 {
        self.0[counter.index() as usize]
    }

    /// Names and values, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HealthCheckCounter::ALL
            .iter()
            .map(|&counter| (counter.name(), self.get(counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_redirected_or_passed() {
        let counters = RedirectCounters(std::array::from_fn(|index| 1 << index));
        assert_eq!(
            counters.redirected() + counters.passed(),
            (1 << RedirectCounter::COUNT) - 1
        );
        assert_eq!(counters.iter().count(), RedirectCounter::COUNT);
        assert_eq!(counters.iter().nth(5), Some(("passed_no_socket", 1 << 5)));
        assert_eq!((counters - counters).passed(), 0);
    }

    #[test]
    fn stripped_is_the_sum_of_the_kinds() {
        let counters = DecapCounters(std::array::from_fn(|index| Traffic {
            packets: 1 << index,
            bytes: 100,
        }));
        assert_eq!(
            counters.stripped(),
            Traffic {
                packets: 0b111_1111,
                bytes: 700
            }
        );
    }
}
