//! The `generator` program: packets of many flows into a veth interface, as fast as a CPU can or at a
//! steady rate.

use std::fmt;

use aya::{
    TestRunAttrs, TestRunOptions,
    maps::MapError,
    programs::{ProgramError, TestRun as _},
};
use xdp_layout::bench::{GeneratorConfig, INTERVAL_FRACTION_BITS};

use crate::{
    error::{AttachError, os_error},
    object::{self, Cells, Loaded, PerCpu, total},
};

/// Frames that the kernel hands over together.
const BATCH: u32 = 64;

/// What to send. Every CPU that runs the generator does so by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorLoad {
    /// Index of the veth interface whose peer receives, in the network namespace of the threads that
    /// call [`Generator::run`].
    pub interface: u32,
    /// Flows that take turns. Flow `n` has source port `1024 + n mod 2^15`, and `n / 2^15` in the last
    /// three bytes of its source address.
    pub flows: u32,
    /// Packets per second of each CPU; none sends as fast as it can.
    pub rate: Option<u64>,
}

/// The `generator` program, loaded.
pub struct Generator {
    loaded: Loaded,
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
            loaded,
        })
    }

    /// Sets what is sent. Takes effect at once.
    pub fn set(&mut self, load: &GeneratorLoad) -> Result<(), MapError> {
        let config = GeneratorConfig {
            flows: load.flows.into(),
            interval: load.rate.map_or(0, interval),
            interface: load.interface,
            zero: 0,
        };
        self.config.set(0, config.to_bytes(), 0)
    }

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

    /// Sets the Ethernet header of what is sent.
    pub fn set_ethernet(&mut self, header: [u8; 14]) -> Result<(), MapError> {
        self.ethernet.set(0, header, 0)
    }

    /// Packets that the program sent so far, on all CPUs. Those that the receiving interface had no
    /// room for count as well.
    pub fn sent(&self) -> Result<u64, MapError> {
        total(&self.sent, 0, 0, u64::wrapping_add)
    }
}

/// Time between two packets as the program takes it: never zero, which would be no rate at all.
fn interval(rate: u64) -> u64 {
    const SECOND: u64 = 1_000_000_000 << INTERVAL_FRACTION_BITS;
    (SECOND / rate.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_intervals() {
        assert_eq!(interval(1_000_000), 1000 << INTERVAL_FRACTION_BITS);
        assert_eq!(interval(3_000_000), 341_333);
        assert_eq!(interval(u64::MAX), 1);
        assert_eq!(interval(0), interval(1));
    }
}
