//! The `count` program: the benchmark's far end.

use std::fmt;

use aya::maps::{MapError, PerCpuValues};
use aya::util::nr_cpus;
use xdp_layout::{
    bench::{BUCKETS, COUNT_LATENCY, bucket_start},
    counter::CountCounter,
};

use crate::{
    attach::Attachment,
    error::AttachError,
    mode::XdpMode,
    object::{self, Cells, Loaded, PerCpu, total},
};

/// A program that counts frames and drops them, on an interface. Dropping it detaches it.
pub struct CountProgram {
    _attachment: Attachment,
    _loaded: Loaded,
    settings: Cells<u32>,
    counters: PerCpu<u64>,
    latencies: PerCpu<u64>,
}

impl fmt::Debug for CountProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountProgram").finish_non_exhaustive()
    }
}

/// Times that frames were on their way, in buckets that are at most an eighth wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<u64>);

impl CountProgram {
    /// Loads the program and attaches it.
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, AttachError> {
        let mut loaded = object::COUNT.load()?;
        let attachment = Attachment::new(loaded.program_mut()?, interface, mode)?;
        Ok(Self {
            _attachment: attachment,
            settings: loaded.map("SETTINGS")?,
            counters: loaded.map("COUNTERS")?,
            latencies: loaded.map("LATENCIES")?,
            _loaded: loaded,
        })
    }

    /// Frames of a kind so far.
    pub fn frames(&self, kind: CountCounter) -> Result<u64, MapError> {
        total(&self.counters, kind.index(), 0, u64::wrapping_add)
    }

    /// Takes the time that frames are on their way, from now on or no longer; forgets earlier times.
    pub fn take_times(&mut self, on: bool) -> Result<(), MapError> {
        let zeros = vec![0; nr_cpus().map_err(|(_, error)| error)?];
        for bucket in 0..BUCKETS {
            let zeros = PerCpuValues::try_from(zeros.clone())?;
            self.latencies.set(bucket, zeros, 0)?;
        }
        self.settings.set(0, if on { COUNT_LATENCY } else { 0 }, 0)
    }

    /// Times since [`CountProgram::take_times`].
    pub fn latencies(&self) -> Result<Latencies, MapError> {
        (0..BUCKETS)
            .map(|bucket| total(&self.latencies, bucket, 0, u64::wrapping_add))
            .collect::<Result<_, _>>()
            .map(Latencies)
    }
}

impl Latencies {
    /// Frames whose time was taken.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time in nanoseconds below which this share of the frames stayed, at most an eighth too
    /// long; nothing without frames.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let mut seen = 0;
        for (bucket, &frames) in self.0.iter().enumerate() {
            seen += frames;
            if frames > 0 && seen as f64 >= count as f64 * share {
                return Some(bucket_start(bucket as u32 + 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use xdp_layout::bench::bucket;

    use super::*;

    #[test]
    fn quantiles_are_the_end_of_their_bucket() {
        let mut buckets = vec![0; BUCKETS as usize];
        buckets[bucket(1_000) as usize] = 90;
        buckets[bucket(50_000) as usize] = 9;
        buckets[bucket(1_000_000) as usize] = 1;
        let latencies = Latencies(buckets);
        assert_eq!(latencies.count(), 100);
        let above = |time: u64, share| {
            let quantile = latencies.quantile(share).expect("frames");
            assert!(
                quantile > time && quantile <= time + time / 8 + 1,
                "{quantile}"
            );
        };
        above(1_000, 0.0);
        above(1_000, 0.5);
        above(1_000, 0.9);
        above(50_000, 0.99);
        above(1_000_000, 0.999);
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
