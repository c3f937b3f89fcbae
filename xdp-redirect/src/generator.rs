//! The `generator` program: packets of many flows into a veth interface, as fast as a CPU can or at a
//! steady rate.

use std::{fmt, sync::Arc};

use aya::{
    TestRunAttrs, TestRunOptions,
    maps::MapError,
    programs::{ProgramError, TestRun as _},
};
use xdp_layout::bench::{GeneratorConfig, INTERVAL_FRACTION_BITS, PAUSED};

use crate::{
    error::{AttachError, os_error},
    object::{self, Cells, Loaded, PerCpu, total},
};

/// Frames that the kernel hands over together.
const BATCH: u32 = 64;

/// How fast a CPU sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Not at all.
    Paused,
    /// So many packets per second, at even distances.
    Rate(u64),
    /// As fast as it can.
    FlatOut,
}

/// What to send. Every CPU that runs the generator does so by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorLoad {
    /// Index of the veth interface whose peer receives, in the network namespace of the threads that
    /// call [`GeneratorRunner::run`].
    pub interface: u32,
    /// Flows that take turns. Flow `n` has source port `1024 + n mod 2^15`, and `n / 2^15` in the last
    /// three bytes of its source address.
    pub flows: u32,
    /// How fast.
    pub pace: Pace,
}

/// The `generator` program, loaded.
pub struct Generator {
    loaded: Arc<Loaded>,
    config: Cells<[u8; GeneratorConfig::SIZE]>,
    ethernet: Cells<[u8; 14]>,
    sent: PerCpu<u64>,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").finish_non_exhaustive()
    }
}

impl Generator {
    /// Loads the program.
    pub fn load() -> Result<Self, AttachError> {
        let mut loaded = object::GENERATOR.load()?;
        Ok(Self {
            config: loaded.map("CONFIG")?,
            ethernet: loaded.map("ETHERNET")?,
            sent: loaded.map("SENT")?,
            loaded: Arc::new(loaded),
        })
    }

    /// Sets what is sent. Takes effect at once.
    pub fn set(&mut self, load: &GeneratorLoad) -> Result<(), MapError> {
        let config = GeneratorConfig {
            flows: load.flows.into(),
            interval: load.pace.interval(),
            interface: load.interface,
            zero: 0,
        };
        self.config.set(0, config.to_bytes(), 0)
    }

    /// What threads run.
    pub fn runner(&self) -> GeneratorRunner {
        GeneratorRunner {
            loaded: Arc::clone(&self.loaded),
        }
    }

    /// Sets the Ethernet header of what is sent.
    pub fn set_ethernet(&mut self, header: [u8; 14]) -> Result<(), MapError> {
        self.ethernet.set(0, header, 0)
    }

    /// Packets that the program sent so far, on all CPUs. Those that the receiving interface had no
    /// room for count as well.
    pub fn sent(&self) -> Result<u64, MapError> {
        total(&self.sent, 0, 0, u64::wrapping_add)
    }

    /// Packets of those that it sent on one CPU; none on a CPU that there cannot be.
    pub fn sent_on(&self, cpu: usize) -> Result<u64, MapError> {
        let values = self.sent.get(&0, 0)?;
        Ok(values.get(cpu).copied().unwrap_or_default())
    }
}

/// Runs a [`Generator`].
#[derive(Clone)]
pub struct GeneratorRunner {
    loaded: Arc<Loaded>,
}

impl fmt::Debug for GeneratorRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratorRunner").finish_non_exhaustive()
    }
}

impl GeneratorRunner {
    /// Sends on the calling thread's CPU until a signal interrupts the thread, up to 2^32 tries. `frame`
    /// is TCP over IPv4 with an Ethernet header; ends with an error if the kernel does not run it.
    ///
    /// Needs Linux 5.18.
    pub fn run(&self, frame: &[u8]) -> Result<(), ProgramError> {
        let program = self
            .loaded
            .program()
            .map_err(|_| ProgramError::UnexpectedProgramType)?;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: u32::MAX,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        match program.test_run(options) {
            Err(error) if os_error(&error) == Some(libc::EINTR) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl Pace {
    /// Time between two packets as the program takes it; never zero, which is no pace, for a rate.
    fn interval(self) -> u64 {
        const SECOND: u64 = 1_000_000_000 << INTERVAL_FRACTION_BITS;
        match self {
            Self::Paused => PAUSED,
            Self::Rate(rate) => (SECOND / rate.max(1)).max(1),
            Self::FlatOut => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_intervals() {
        let interval = |rate| Pace::Rate(rate).interval();
        assert_eq!(interval(1_000_000), 1000 << INTERVAL_FRACTION_BITS);
        assert_eq!(interval(3_000_000), 341_333);
        assert_eq!(interval(u64::MAX), 1);
        assert_eq!(interval(0), interval(1));
        assert_eq!(Pace::FlatOut.interval(), 0);
        assert_eq!(Pace::Paused.interval(), PAUSED);
    }
}
