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

/// What the looks tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The kernel has found no chunk for frames since it was last told to look, and none has been
    /// received since the last look: it is to be told again. Nobody can know yet whether it waits for
    /// that or whether nothing arrives; telling it costs one call.
    pub(super) rx_silent: bool,
    /// It was told at the last look, and frames have come since: it had stood still.
    pub(super) rx_stalled: bool,
    /// Frames were on their way out at the last look, and none has left since.
    pub(super) tx_stalled: bool,
}

/// Compares each look with the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watchdog {
    last: Option<Signs>,
    /// The count of an empty fill ring when the kernel was last told to look. A driver that looks once
    /// and then waits counts once, perhaps while frames still arrive, so the last look's does not do.
    told_at: u64,
    told_at_last_look: bool,
}

impl Watchdog {
    /// What has become of the queue since the last look; nothing at the first.
    pub(super) fn look(&mut self, now: Signs) -> Findings {
        let Some(last) = self.last.replace(now) else {
            return Findings::default();
        };
        let received = now.received != last.received;
        let rx_silent = !received && now.fill_ring_empty > self.told_at;
        if rx_silent {
            self.told_at = now.fill_ring_empty;
        }
        let told = std::mem::replace(&mut self.told_at_last_look, rx_silent);
        Findings {
            rx_silent,
            rx_stalled: told && received,
            tx_stalled: now.unfinished > 0 && last.unfinished > 0 && now.reaped == last.reaped,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Signs = Signs {
        received: 100,
        fill_ring_empty: 0,
        reaped: 80,
        unfinished: 20,
    };

    /// The findings of looks at `(received, fill ring empty)`, without the first.
    fn receiving(looks: &[(u64, u64)]) -> Vec<Findings> {
        let mut watchdog = Watchdog::default();
        let findings = looks.iter().map(|&(received, fill_ring_empty)| {
            watchdog.look(Signs {
                received,
                fill_ring_empty,
                ..Signs::default()
            })
        });
        findings.skip(1).collect()
    }

    fn silent_at(looks: &[(u64, u64)]) -> Vec<usize> {
        let found = receiving(looks);
        (0..found.len()).filter(|&i| found[i].rx_silent).collect()
    }

    fn stalled_at(looks: &[(u64, u64)]) -> Vec<usize> {
        let found = receiving(looks);
        (0..found.len()).filter(|&i| found[i].rx_stalled).collect()
    }

    #[test]
    fn a_queue_that_moves_or_has_nothing_to_do_is_left_alone() {
        let second = |signs: Signs| {
            let mut watchdog = Watchdog::default();
            assert_eq!(watchdog.look(BEGIN), Findings::default());
            watchdog.look(signs)
        };
        let moves = Signs {
            received: 101,
            fill_ring_empty: 9,
            reaped: 81,
            unfinished: 20,
        };
        assert_eq!(second(moves), Findings::default());
        let idle = Signs {
            unfinished: 0,
            ..BEGIN
        };
        assert_eq!(second(idle), Findings::default());
        let stuck = Signs {
            received: 200,
            ..BEGIN
        };
        assert!(second(stuck).tx_stalled);
    }

    #[test]
    fn a_driver_that_looked_once_while_frames_arrived_is_told_once() {
        let looks = [(0, 0), (100, 1), (100, 1), (100, 1), (100, 1)];
        assert_eq!(silent_at(&looks), [1]);
        assert_eq!(stalled_at(&looks), [0; 0]);
    }

    #[test]
    fn frames_after_that_show_that_it_had_stood_still() {
        let looks = [(0, 0), (100, 1), (100, 1), (150, 1), (200, 1), (200, 1)];
        assert_eq!(silent_at(&looks), [1]);
        assert_eq!(stalled_at(&looks), [2]);
    }

    #[test]
    fn a_driver_that_looks_by_itself_while_nothing_arrives_has_not_stood_still() {
        // Every two seconds.
        let looks: Vec<_> = (0..60).map(|second| (100, second / 2)).collect();
        assert_eq!(silent_at(&looks).len(), 29, "once for each time");
        assert_eq!(stalled_at(&looks), [0; 0]);
    }

    #[test]
    fn what_was_counted_before_the_first_look_counts() {
        assert_eq!(silent_at(&[(0, 1), (0, 1), (0, 1)]), [0]);
    }

    #[test]
    fn frames_get_a_whole_interval_to_leave() {
        let mut watchdog = Watchdog::default();
        let empty = Signs {
            unfinished: 0,
            ..BEGIN
        };
        watchdog.look(empty);
        assert!(!watchdog.look(BEGIN).tx_stalled);
        assert!(watchdog.look(BEGIN).tx_stalled);
    }

    proptest! {
        /// Whatever a queue does: the kernel is told only in silence, at most once for each time it
        /// found the ring empty, and always before a second silent look; a stall was told before.
        #[test]
        fn silence_is_told_once_for_each_cause(
            steps in prop::collection::vec((0_u64..3, 0_u64..3), 1..40)
        ) {
            let mut looks = vec![(0, 0)];
            for (received, empty) in steps {
                let (r, e) = looks[looks.len() - 1];
                looks.push((r + received, e + empty));
            }
            let found = receiving(&looks);
            let mut told = 0;
            for (i, findings) in found.iter().enumerate() {
                let (before, now) = (looks[i], looks[i + 1]);
                let silent = before.0 == now.0;
                prop_assert_eq!(findings.rx_silent, silent && now.1 > told);
                if findings.rx_silent {
                    told = now.1;
                }
                let told_before = i > 0 && found[i - 1].rx_silent;
                prop_assert_eq!(findings.rx_stalled, told_before && !silent);
            }
        }
    }
}
