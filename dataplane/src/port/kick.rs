//! When to tell the kernel to transmit.
//!
//! In copy mode one call moves a limited number of frames (32) and says `EAGAIN` when there are
//! more, which is also what it says when it can take none. Only the ring tells the two apart: as
//! long as a call makes it shorter, the next one is worth its price. A zero-copy driver takes frames
//! by itself once it runs and clears its wish to be called.

use std::{io, time::Duration};

use nix::errno::Errno;

/// The part of a TX ring that kicking is about.
pub trait KickTarget {
    /// Frames in the ring that the kernel has not taken.
    fn pending(&mut self) -> usize;
    /// Whether the kernel asked to be called.
    fn needs_kick(&self) -> bool;
    /// Calls the kernel once.
    fn kick(&mut self) -> io::Result<()>;
}

/// How a round of kicks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left that needs a call.
    Empty,
    /// A call did not make the ring shorter; with the error it returned, if it returned one.
    Refused(Option<Errno>),
}

/// Kicks until the ring is empty, the kernel takes frames by itself, or a kick changes nothing.
///
/// Ends: each further kick needs a ring that became shorter, and nobody adds meanwhile.
pub fn drain(target: &mut impl KickTarget) -> Drained {
    let mut pending = target.pending();
    while pending > 0 && target.needs_kick() {
        let error = target.kick().err().map(|error| errno(&error));
        let left = target.pending();
        if left >= pending {
            return Drained::Refused(error);
        }
        pending = left;
    }
    Drained::Empty
}

/// Error number of an I/O error.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Whether an error of a kick may mean that the interface is gone, not only busy or down.
pub const fn suggests_loss(errno: Errno) -> bool {
    !matches!(
        errno,
        Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR
    )
}

/// How long to sleep while frames are on their way out.
///
/// Some drivers keep the last frames until another call comes, so a worker that has nothing else to
/// do looks again: soon at first, then ever later, as frames that a stopped link holds back must not
/// keep a core busy. Any completion starts anew.
#[derive(Clone, Debug)]
pub struct TailKick {
    delay: Duration,
}

impl TailKick {
    /// First delay.
    pub const SHORTEST: Duration = Duration::from_millis(1);
    /// Last delay.
    pub const LONGEST: Duration = Duration::from_millis(512);

    /// Starts with the shortest delay.
    pub const fn new() -> Self {
        Self {
            delay: Self::SHORTEST,
        }
    }

    /// Frames left or came back: look soon.
    pub const fn progress(&mut self) {
        self.delay = Self::SHORTEST;
    }

    /// How long to sleep at most, with so many frames on their way out.
    pub const fn sleep_limit(&self, unfinished: usize) -> Option<Duration> {
        if unfinished == 0 {
            None
        } else {
            Some(self.delay)
        }
    }

    /// The sleep ended and nothing had happened.
    pub fn timed_out(&mut self) {
        self.delay = (self.delay * 2).min(Self::LONGEST);
    }
}

impl Default for TailKick {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring whose kernel takes `steps[n]` frames at the n-th kick and nothing after the last.
    struct Scripted {
        pending: usize,
        steps: Vec<(usize, Result<(), Errno>)>,
        kicks: usize,
        needs_kick: bool,
    }

    impl KickTarget for Scripted {
        fn pending(&mut self) -> usize {
            self.pending
        }

        fn needs_kick(&self) -> bool {
            self.needs_kick
        }

        fn kick(&mut self) -> io::Result<()> {
            let (taken, result) = self.steps.get(self.kicks).copied().unwrap_or((0, Ok(())));
            self.kicks += 1;
            self.pending -= taken;
            result.map_err(io::Error::from)
        }
    }

    fn scripted(pending: usize, steps: &[(usize, Result<(), Errno>)]) -> Scripted {
        Scripted {
            pending,
            steps: steps.to_vec(),
            kicks: 0,
            needs_kick: true,
        }
    }

    #[test]
    fn kicks_until_the_ring_is_empty() {
        let again = Err(Errno::EAGAIN);
        let mut ring = scripted(70, &[(32, again), (32, again), (6, Ok(()))]);
        assert_eq!(drain(&mut ring), Drained::Empty);
        assert_eq!(ring.kicks, 3);
    }

    #[test]
    fn a_kick_without_effect_ends_the_round() {
        let mut ring = scripted(70, &[(32, Err(Errno::EAGAIN)), (0, Err(Errno::ENOBUFS))]);
        assert_eq!(drain(&mut ring), Drained::Refused(Some(Errno::ENOBUFS)));
        assert_eq!((ring.kicks, ring.pending), (2, 38));
    }

    #[test]
    fn a_driver_that_works_later_is_called_once() {
        let mut ring = scripted(5, &[(0, Ok(()))]);
        assert_eq!(drain(&mut ring), Drained::Refused(None));
        assert_eq!(ring.kicks, 1);
    }

    #[test]
    fn an_empty_ring_or_a_running_driver_costs_no_call() {
        let mut empty = scripted(0, &[]);
        assert_eq!(drain(&mut empty), Drained::Empty);
        let mut running = scripted(5, &[(5, Ok(()))]);
        running.needs_kick = false;
        assert_eq!(drain(&mut running), Drained::Empty);
        assert_eq!((empty.kicks, running.kicks), (0, 0));
    }

    #[test]
    fn errors_of_a_busy_or_stopped_queue_are_told_from_loss() {
        for errno in [Errno::EAGAIN, Errno::EBUSY, Errno::ENOBUFS, Errno::EINTR] {
            assert!(!suggests_loss(errno), "{errno}");
        }
        for errno in [Errno::ENXIO, Errno::ENETDOWN, Errno::EBADF, Errno::ENODEV] {
            assert!(suggests_loss(errno), "{errno}");
        }
    }

    #[test]
    fn the_tail_is_looked_after_ever_more_rarely() {
        let mut tail = TailKick::new();
        assert_eq!(tail.sleep_limit(0), None);
        assert_eq!(tail.sleep_limit(3), Some(TailKick::SHORTEST));
        for _ in 0..20 {
            tail.timed_out();
        }
        assert_eq!(tail.sleep_limit(3), Some(TailKick::LONGEST));
        tail.progress();
        assert_eq!(tail.sleep_limit(3), Some(TailKick::SHORTEST));
    }
}
