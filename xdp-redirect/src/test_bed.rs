//! What a decision of the `balancer` program costs, measured in the kernel without any traffic.
//!
//! `BPF_PROG_TEST_RUN` runs a program many times over one packet. The `driver` program stands in front:
//! it restores the packet, makes it one of the next flow and calls the balancer, or, to find out what the
//! driver itself costs, a program that does nothing.

use std::fmt;

use aya::{
    TestRunOptions,
    maps::{MapData, MapError, ProgramArray},
    programs::{ProgramError, TestRun as _, Xdp},
};
use xdp_layout::{FAMILY_V4, FAMILY_V6, balancer::DriverState, counter::BalancerOutcome};

use crate::{
    balancer::Balancer,
    error::{AttachError, chain},
    object::{self, Cells, Loaded},
};

/// Which packets are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Packets of so many flows, in an order far from that of [`BalancerTestBed::warm_up`], so that
    /// neighbours in the order are no neighbours in memory.
    Flows(u64),
    /// Each packet is of a flow that there was not before.
    New,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecisionCost {
    /// Nanoseconds of a run with driver and balancer.
    pub total_ns: u32,
    /// Nanoseconds of a run with driver and nothing.
    pub driver_ns: u32,
}

impl DecisionCost {
    /// Nanoseconds of the balancer alone; the kernel rounds both measurements down to whole ones.
    pub fn ns(&self) -> f64 {
        f64::from(self.total_ns) - f64::from(self.driver_ns)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestBedError {
    /// The frame is not one to measure with.
    #[error(
        "the frame must be IPv4 or IPv6 with a TCP or UDP header, and no shorter than 54 bytes"
    )]
    Frame,
    /// No flows, or more than ports and addresses can say.
    #[error("{0} flows cannot take turns; give 1 to 2^32 - 1")]
    Flows(u64),
    /// The kernel does not run the program.
    #[error("the kernel does not run the driver: {}", chain(.0))]
    Program(#[from] ProgramError),
    /// A map cannot be read or written.
    #[error("a map of the driver or the balancer cannot be used: {}", chain(.0))]
    Map(#[from] MapError),
    /// Packets were not balanced, so the figure would mean nothing.
    #[error(
        "only {transmitted} of {runs} packets were encapsulated; has the balancer a VIP for the frame, \
         reals with a weight, and a next hop?"
    )]
    NotBalanced {
        /// Packets that were encapsulated.
        transmitted: u64,
        /// Runs.
        runs: u32,
    },
}

/// A [`Balancer`], attached to nothing, with the driver in front of it.
pub struct BalancerTestBed {
    balancer: Balancer,
    driver: Loaded,
    nothing: Loaded,
    target: ProgramArray<MapData>,
    state: Cells<[u8; DriverState::SIZE]>,
    /// Number of the next new flow.
    next_new: u64,
}

impl fmt::Debug for BalancerTestBed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancerTestBed")
            .field("balancer", &self.balancer)
            .finish_non_exhaustive()
    }
}

/// Whose turn it is after the driver.
#[derive(Clone, Copy)]
enum Target {
    Balancer,
    Nothing,
}

impl BalancerTestBed {
    /// First number of new flows: beyond those that take turns.
    const FIRST_NEW: u64 = 1 << 32;

    /// Puts the driver in front of a loaded balancer.
    pub fn new(balancer: Balancer) -> Result<Self, AttachError> {
        let mut driver = object::DRIVER.load()?;
        Ok(Self {
            balancer,
            target: driver.map("TARGET")?,
            state: driver.map("STATE")?,
            driver,
            nothing: object::PASS.load()?,
            next_new: Self::FIRST_NEW,
        })
    }

    /// The balancer, to look at its counters.
    pub const fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The balancer, to give it services.
    pub const fn balancer_mut(&mut self) -> &mut Balancer {
        &mut self.balancer
    }

    /// Sends one packet of each flow, so that [`Case::Flows`] finds them in the table. The calling thread
    /// should stay on one CPU: each has room for flows of its own.
    pub fn warm_up(&mut self, frame: &[u8], flows: u64) -> Result<(), TestBedError> {
        let runs = turns(flows)?;
        self.checked(frame, 0, flows, 1, runs).map(|_| ())
    }

    /// Nanoseconds of a decision over `frame`, of which source address and port are those of a flow:
    /// once with the balancer and once without, `repeat` runs each.
    ///
    /// The frame's TCP flags stay as they are. Flow `n` has the source port `1024 + n mod 2^15`; the last
    /// four bytes of its source address are those of the frame plus `n / 2^15`.
    ///
    /// # Errors
    ///
    /// Also when one of the packets was not encapsulated.
    pub fn cost(
        &mut self,
        frame: &[u8],
        case: Case,
        repeat: u32,
    ) -> Result<DecisionCost, TestBedError> {
        let (first, flows, step) = match case {
            Case::Flows(flows) => {
                turns(flows)?;
                (0, flows, far_step(flows))
            }
            Case::New => (self.next_new, u64::MAX, 1),
        };
        let total_ns = self.checked(frame, first, flows, step, repeat)?;
        if case == Case::New {
            self.next_new = first + u64::from(repeat);
        }
        let driver_ns = self.run(Target::Nothing, frame, first, flows, step, repeat)?;
        Ok(DecisionCost {
            total_ns,
            driver_ns,
        })
    }

    fn checked(
        &mut self,
        frame: &[u8],
        first: u64,
        flows: u64,
        step: u64,
        repeat: u32,
    ) -> Result<u32, TestBedError> {
        let before = self.balancer.counters()?;
        let ns = self.run(Target::Balancer, frame, first, flows, step, repeat)?;
        let counted = self.balancer.counters()? - before;
        let transmitted = counted.outcome(BalancerOutcome::Transmitted).packets;
        if transmitted != u64::from(repeat) {
            return Err(TestBedError::NotBalanced {
                transmitted,
                runs: repeat,
            });
        }
        Ok(ns)
    }

    fn run(
        &mut self,
        target: Target,
        frame: &[u8],
        first: u64,
        flows: u64,
        step: u64,
        repeat: u32,
    ) -> Result<u32, TestBedError> {
        let state = state(frame, first, flows, step).ok_or(TestBedError::Frame)?;
        self.state.set(0, state.to_bytes(), 0)?;
        let program = match target {
            Target::Balancer => self.balancer.program()?,
            Target::Nothing => xdp(&self.nothing)?,
        };
        self.target.set(0, program.fd()?, 0)?;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        };
        let result = xdp(&self.driver)?.test_run(options)?;
        Ok(u32::try_from(result.duration.as_nanos()).unwrap_or(u32::MAX))
    }
}

fn xdp(loaded: &Loaded) -> Result<&Xdp, ProgramError> {
    loaded
        .program()
        .map_err(|_| ProgramError::UnexpectedProgramType)
}

fn turns(flows: u64) -> Result<u32, TestBedError> {
    u32::try_from(flows)
        .ok()
        .filter(|&flows| flows > 0)
        .ok_or(TestBedError::Flows(flows))
}

/// A step that visits every flow once before it comes to the first again, about 0.618 of the way round
/// each time.
fn far_step(flows: u64) -> u64 {
    let golden = flows * 618_034 / 1_000_000;
    (golden.max(1)..=flows)
        .find(|&step| greatest_common_divisor(step, flows) == 1)
        .unwrap_or(1)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn state(frame: &[u8], next: u64, flows: u64, step: u64) -> Option<DriverState> {
    const ETHERNET: usize = 14;
    const SHORTEST: usize = ETHERNET + 40;
    if frame.len() < SHORTEST {
        return None;
    }
    let (family, source) = match [frame[12], frame[13]] {
        [0x08, 0x00] => (FAMILY_V4, ETHERNET + 12),
        [0x86, 0xdd] => (FAMILY_V6, ETHERNET + 8 + 12),
        _ => return None,
    };
    let word = |at: usize| Some(u32::from_ne_bytes(*frame.get(at..)?.first_chunk()?));
    Some(DriverState {
        next,
        flows,
        step,
        start: [word(0)?, word(4)?, word(8)?, word(12)?],
        source: word(source)?,
        family: u32::from(family),
        length: u32::try_from(frame.len()).ok()?,
        zero: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_visit_every_flow() {
        for flows in [1, 2, 3, 10, 1000, 1024, 65_537] {
            let step = far_step(flows);
            let mut visited = vec![false; flows as usize];
            let mut next = 0;
            for _ in 0..flows {
                visited[next as usize] = true;
                next = (next + step) % flows;
            }
            assert!(visited.iter().all(|visited| *visited), "{flows}");
            assert!(step <= flows, "{flows}");
        }
    }

    #[test]
    fn only_ip_frames_can_be_driven() {
        let mut frame = [0; 60];
        assert_eq!(state(&frame, 0, 1, 1), None);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[26..30].copy_from_slice(&[10, 0, 0, 1]);
        let driven = state(&frame, 5, 7, 3).expect("IPv4");
        assert_eq!(
            (driven.next, driven.flows, driven.step, driven.length),
            (5, 7, 3, 60)
        );
        assert_eq!(driven.source.to_ne_bytes(), [10, 0, 0, 1]);
        assert_eq!(state(&frame[..53], 0, 1, 1), None);
    }

    #[test]
    fn the_driver_is_subtracted() {
        let cost = DecisionCost {
            total_ns: 80,
            driver_ns: 12,
        };
        assert!((cost.ns() - 68.0).abs() < f64::EPSILON);
    }
}
