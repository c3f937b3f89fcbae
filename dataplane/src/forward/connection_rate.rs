//! Cap on new connections per worker (katran-compat section 5.4).

use crate::counters::WorkerCounters;

const SECOND_NS: u64 = 1_000_000_000;

/// Counts events in windows that start with the first event after the previous window.
#[derive(Debug)]
pub(super) struct ConnectionRate {
    cap: u32,
    count: u32,
    window_start_ns: u64,
}

impl ConnectionRate {
    /// Allows `cap` events within a second.
    pub(super) const fn new(cap: u32) -> Self {
        Self {
            cap,
            count: 0,
            window_start_ns: 0,
        }
    }

    /// Counts one event; true when it is over the cap.
    #[inline]
    pub(super) fn is_over(&mut self, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.window_start_ns) > SECOND_NS {
            self.window_start_ns = now_ns;
            self.count = 1;
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.count > self.cap
    }

    /// Shows the window (Katran's counter 2).
    #[inline]
    pub(super) fn publish(&self, counters: &WorkerCounters) {
        counters.connection_events.set(u64::from(self.count));
        counters.connection_window_ns.set(self.window_start_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_within_a_second_and_a_new_window_starts_after_it() {
        let mut rate = ConnectionRate::new(3);
        let start = 5 * SECOND_NS;
        let over: Vec<bool> = (0..5).map(|n| rate.is_over(start + n)).collect();
        assert_eq!(over, [false, false, false, true, true]);
        assert!(
            rate.is_over(start + SECOND_NS),
            "exactly a second is still the same window"
        );
        assert!(!rate.is_over(start + SECOND_NS + 1));
    }
}
