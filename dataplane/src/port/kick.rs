//! When to tell the kernel to transmit.
//!
//! In copy mode one call moves a limited number of frames (32, or as many as the
//! socket was told to) and says `EAGAIN` when there are
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

/// When to look again after frames that are on their way out.
///
/// Some drivers keep the last frames until another call comes, so a worker that has nothing else to send
/// looks again: soon at first, then ever later, as frames that a stopped link holds back must not keep a
/// core busy. Any frame that goes or comes back starts anew. It goes by the clock, not by sleeps: frames
/// that are not forwarded may end each of those early.
#[derive(Clone, Debug)]
pub struct TailKick {
    delay: Duration,
    since_ns: u64,
}

impl TailKick {
    /// First delay.
    pub const SHORTEST: Duration = Duration::from_millis(1);
    /// Last delay.
    pub const LONGEST: Duration = Duration::from_millis(512);

    /// Starts with the shortest delay at this time of the clock.
    pub const fn new(now_ns: u64) -> Self {
        Self {
            delay: Self::SHORTEST,
            since_ns: now_ns,
        }
    }

    /// Frames left or came back: look soon.
    pub const fn progress(&mut self, now_ns: u64) {
        *self = Self::new(now_ns);
    }

    /// How long to sleep at most, with so many frames on their way out.
    pub fn sleep_limit(&self, unfinished: usize, now_ns: u64) -> Option<Duration> {
        let passed = Duration::from_nanos(now_ns.saturating_sub(self.since_ns));
        (unfinished > 0).then(|| self.delay.saturating_sub(passed))
    }

    /// Whether it is time to look.
    pub fn is_due(&self, unfinished: usize, now_ns: u64) -> bool {
        self.sleep_limit(unfinished, now_ns) == Some(Duration::ZERO)
    }

    /// The time was over and nothing had happened.
    pub fn in_vain(&mut self, now_ns: u64) {
        self.delay = (self.delay * 2).min(Self::LONGEST);
        self.since_ns = now_ns;
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
        let mut now = 5_000_000_000;
        let mut tail = TailKick::new(now);
        assert_eq!(tail.sleep_limit(0, now), None);
        assert_eq!(tail.sleep_limit(3, now), Some(TailKick::SHORTEST));
        for _ in 0..20 {
            tail.in_vain(now);
        }
        assert_eq!(tail.sleep_limit(3, now), Some(TailKick::LONGEST));
        now += 1000;
        tail.progress(now);
        assert_eq!(tail.sleep_limit(3, now), Some(TailKick::SHORTEST));
    }

    #[test]
    fn sleeps_that_end_early_do_not_put_the_look_off() {
        let mut tail = TailKick::new(0);
        let mut now = 0;
        while !tail.is_due(3, now) {
            assert!(tail.sleep_limit(3, now) <= Some(TailKick::SHORTEST));
            now += 300_000;
        }
        assert_eq!(now, 1_200_000);
        assert!(!tail.is_due(0, now));
        tail.in_vain(now);
        assert!(!tail.is_due(3, now + 1_900_000) && tail.is_due(3, now + 2_000_000));
    }
}
