//! Notices a queue that stands still although it should not.
//!
//! Some drivers stop looking at the fill ring once it was empty, or keep frames that they said they
//! would send, until something calls them. Once a second the worker looks at these signs.

/// What a queue has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Frames received.
    pub(super) received: u64,
    /// Times that the driver found the fill ring empty.
    pub(super) fill_ring_empty: u64,
    /// Chunks whose frames have left.
    pub(super) reaped: u64,
    /// Frames on their way out now.
    pub(super) unfinished: usize,
}

/// What the looks tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The driver has found no chunk for frames since it was last called, and none has been received
    /// since the last look. Nobody can know yet whether it waits for a call or whether nothing arrives;
    /// what follows the call shows it.
    pub(super) rx_silent: bool,
    /// Frames were on their way out at the last look, and none has left since.
    pub(super) tx_stalled: bool,
}

/// Compares each look with the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watchdog {
    last: Option<Signs>,
    /// The count of an empty fill ring when the driver was last called, or at the first look: drivers
    /// look at the ring when the socket is bound, before it has a chunk. A driver that looks once and
    /// then waits counts once, perhaps while frames still arrive, so the last look's does not do.
    called_at: u64,
}

impl Watchdog {
    /// What has become of the queue since the last look; nothing at the first.
    pub(super) fn look(&mut self, now: Signs) -> Findings {
        let Some(last) = self.last.replace(now) else {
            self.called_at = now.fill_ring_empty;
            return Findings::default();
        };
        let rx_silent = now.received == last.received && now.fill_ring_empty > self.called_at;
        if rx_silent {
            self.called_at = now.fill_ring_empty;
        }
        Findings {
            rx_silent,
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
    fn a_driver_that_looked_once_while_frames_arrived_is_called_once() {
        let looks = [(0, 0), (100, 1), (100, 1), (100, 1), (150, 1), (150, 1)];
        assert_eq!(silent_at(&looks), [1]);
    }

    #[test]
    fn a_driver_that_looks_by_itself_while_nothing_arrives_is_called_once_for_each_time() {
        // Every two seconds.
        let looks: Vec<_> = (0..60).map(|second| (100, second / 2)).collect();
        assert_eq!(silent_at(&looks).len(), 29);
    }

    #[test]
    fn what_was_counted_before_the_first_look_is_forgiven() {
        assert_eq!(silent_at(&[(0, 1), (0, 1), (0, 1)]), [0; 0]);
        assert_eq!(silent_at(&[(0, 1), (0, 1), (0, 2)]), [1]);
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
        /// Whatever a queue does: the driver is called only in silence, at most once for each time it
        /// found the ring empty, and always before a second silent look.
        #[test]
        fn silence_is_answered_once_for_each_cause(
            steps in prop::collection::vec((0_u64..3, 0_u64..3), 1..40)
        ) {
            let mut looks = vec![(0, 0)];
            for (received, empty) in steps {
                let (r, e) = looks[looks.len() - 1];
                looks.push((r + received, e + empty));
            }
            let mut called = 0;
            for (findings, look) in receiving(&looks).iter().zip(looks.windows(2)) {
                let (before, now) = (look[0], look[1]);
                prop_assert_eq!(findings.rx_silent, before.0 == now.0 && now.1 > called);
                if findings.rx_silent {
                    called = now.1;
                }
            }
        }
    }
}
