//! What a worker does with a burst between receiving and sending.

use crate::forward::{BURST, Forwarder, Outcome, Packet};

/// Decides bursts. The loop around it is compiled for each implementation, so that the choice costs
/// nothing while packets flow.
pub trait Decision {
    /// Decides up to [`BURST`] packets, `outcomes[n]` for `burst[n]`, and counts them as received, and
    /// drops, with the forwarder's counters: see [`Forwarder::process`].
    fn decide(
        &mut self,
        forwarder: &mut Forwarder,
        now_ns: u64,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    );
}

/// The forwarder decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balance;

impl Decision for Balance {
    #[inline]
    fn decide(
        &mut self,
        forwarder: &mut Forwarder,
        now_ns: u64,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) {
        forwarder.process(now_ns, burst, outcomes);
    }
}
