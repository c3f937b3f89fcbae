//! Notices a queue that stands still although it should not.
//!
//! Some drivers stop looking at the fill ring once it was empty, or keep frames that they said they
//! would send, until the next system call. A worker that sleeps calls anyway; one that is kept awake
//! by the other direction may not, so it looks at these signs about once a second.

/// What a queue has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Frames received.
    pub(super) received: u64,
    /// Times that the kernel found the fill ring empty.
    pub(super) fill_ring_empty: u64,
    /// Chunks whose frames have left.
    pub(super) reaped: u64,
    /// Frames on their way out now.
    pub(super) unfinished: usize,
}

/// Which directions stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stalls {
    /// The kernel found no chunk for frames, and none has been received since the last look.
    pub(super) rx: bool,
    /// Frames were on their way out at the last look, and none has left since.
    pub(super) tx: bool,
}

/// Compares two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watchdog {
    last: Option<Signs>,
}

impl Watchdog {
    /// What stands still since the last look; nothing at the first.
    pub(super) fn look(&mut self, now: Signs) -> Stalls {
        let Some(last) = self.last.replace(now) else {
            return Stalls::default();
        };
        Stalls {
            rx: now.fill_ring_empty != last.fill_ring_empty && now.received == last.received,
            tx: now.unfinished > 0 && last.unfinished > 0 && now.reaped == last.reaped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Signs = Signs {
        received: 100,
        fill_ring_empty: 3,
        reaped: 80,
        unfinished: 20,
    };

    fn stalls(second: Signs) -> Stalls {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.look(BEGIN), Stalls::default());
        watchdog.look(second)
    }

    #[test]
    fn a_queue_that_moves_or_has_nothing_to_do_is_left_alone() {
        let moves = Signs {
            received: 101,
            fill_ring_empty: 9,
            reaped: 81,
            unfinished: 20,
        };
        assert_eq!(stalls(moves), Stalls::default());
        let idle = Signs {
            unfinished: 0,
            ..BEGIN
        };
        assert_eq!(stalls(idle), Stalls::default());
    }

    #[test]
    fn each_direction_is_told_from_the_other() {
        let starved = Signs {
            fill_ring_empty: 4,
            reaped: 81,
            ..BEGIN
        };
        assert_eq!(
            stalls(starved),
            Stalls {
                rx: true,
                tx: false
            }
        );
        let stuck = Signs {
            received: 200,
            ..BEGIN
        };
        assert_eq!(
            stalls(stuck),
            Stalls {
                rx: false,
                tx: true
            }
        );
    }

    #[test]
    fn frames_get_a_whole_interval_to_leave() {
        let mut watchdog = Watchdog::default();
        let empty = Signs {
            unfinished: 0,
            ..BEGIN
        };
        watchdog.look(empty);
        assert!(!watchdog.look(BEGIN).tx);
        assert!(watchdog.look(BEGIN).tx);
    }
}
