//! What the benchmark's programs (`generator`, `reflect`, `count`) and userspace agree on.

/// Bits behind the point of times in [`GeneratorConfig::interval`].
pub const INTERVAL_FRACTION_BITS: u32 = 10;
/// [`GeneratorConfig::interval`] while nothing is sent.
pub const PAUSED: u64 = u64::MAX;
/// Ethertype of frames that were reflected without a decision (IEEE 802, local experimental).
pub const ETHERTYPE_REFLECTED: u16 = 0x88b5;
/// Bit of the `count` program's setting: take the time that frames were on their way.
pub const COUNT_LATENCY: u32 = 1;
/// Place of the frame's time of departure in the TCP header: sequence and acknowledgement number.
pub const DEPARTURE_IN_TCP: usize = 4;
/// Buckets for each doubling of the time in [`bucket`].
pub const BUCKETS_PER_DOUBLING: u32 = 8;
/// Buckets in all: to 2^40 nanoseconds, 18 minutes.
pub const BUCKETS: u32 = 40 * BUCKETS_PER_DOUBLING;

/// What the `generator` program sends, on each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GeneratorConfig {
    /// Flows that take turns; below 2^32.
    pub flows: u64,
    /// Time between two packets, in nanoseconds with [`INTERVAL_FRACTION_BITS`] bits behind the
    /// point; zero sends as fast as the CPU can, and [`PAUSED`] not at all.
    pub interval: u64,
    /// Index of the interface whose peer receives the packets.
    pub interface: u32,
    /// Always zero.
    pub zero: u32,
}

impl GeneratorConfig {
    /// Bytes the configuration takes.
    pub const SIZE: usize = 24;

    /// The configuration as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.flows.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.interval.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.interface.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.zero.to_ne_bytes());
        bytes
    }
}

/// The bucket of a time in nanoseconds: eight for each doubling, so that a bucket is at most 1/8 wide.
/// Times below 8 have a bucket each.
#[inline]
#[must_use]
pub const fn bucket(ns: u64) -> u32 {
    if ns < 8 {
        return ns as u32;
    }
    // The logarithm in five steps: eBPF has no instruction for it, nor loops that cost nothing.
    let mut rest = ns;
    let mut log = 0;
    if rest >> 32 != 0 {
        rest >>= 32;
        log += 32;
    }
    if rest >> 16 != 0 {
        rest >>= 16;
        log += 16;
    }
    if rest >> 8 != 0 {
        rest >>= 8;
        log += 8;
    }
    if rest >> 4 != 0 {
        rest >>= 4;
        log += 4;
    }
    if rest >> 2 != 0 {
        rest >>= 2;
        log += 2;
    }
    if rest >> 1 != 0 {
        log += 1;
    }
    let within = (ns >> (log - 3)) as u32 & 7;
    let bucket = (log - 2) * BUCKETS_PER_DOUBLING + within;
    if bucket < BUCKETS {
        bucket
    } else {
        BUCKETS - 1
    }
}

/// The smallest time of a bucket, in nanoseconds.
#[must_use]
pub const fn bucket_start(bucket: u32) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let log = bucket / BUCKETS_PER_DOUBLING + 2;
    (8 + (bucket % BUCKETS_PER_DOUBLING) as u64) << (log - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_leave_no_gap() {
        for index in 0..BUCKETS - 1 {
            let (start, next) = (bucket_start(index), bucket_start(index + 1));
            assert!(start < next, "{index}");
            assert_eq!((bucket(start), bucket(next - 1)), (index, index));
            assert!(next - start <= (start / 8).max(1), "{index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_configuration_has_no_hidden_padding() {
        assert_eq!(size_of::<GeneratorConfig>(), GeneratorConfig::SIZE);
        let config = GeneratorConfig {
            flows: 1,
            interval: 2,
            interface: 3,
            zero: 0,
        };
        let bytes = config.to_bytes();
        assert_eq!(bytes[..8], 1_u64.to_ne_bytes());
        assert_eq!(bytes[8..16], 2_u64.to_ne_bytes());
        assert_eq!(bytes[16..20], 3_u32.to_ne_bytes());
    }
}
