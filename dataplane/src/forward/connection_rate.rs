//! Cap on new connections per worker (katran-compat section 5.4).

use crate::counters::{CONNECTION_WINDOW_NS, WorkerCounters};

/// Counts events in windows that start with the first event after the previous window.
#[derive(Debug, Default)]
pub(super) struct ConnectionRate {
    count: u32,
    window_start_ns: u64,
}

impl ConnectionRate {
    /// Counts one event; true when it is over `cap` events within a window.
    #[inline]
    pub(super) fn is_over(&mut self, cap: u32, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.window_start_ns) > CONNECTION_WINDOW_NS {
            self.window_start_ns = now_ns;
            self.count = 1;
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.count > cap
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
        let mut rate = ConnectionRate::default();
        let start = 5 * CONNECTION_WINDOW_NS;
        let over: Vec<bool> = (0..5).map(|n| rate.is_over(3, start + n)).collect();
        assert_eq!(over, [false, false, false, true, true]);
        let last = start + CONNECTION_WINDOW_NS;
        assert!(
            rate.is_over(3, last),
            "exactly a second is still the same window"
        );
        let counters = WorkerCounters::new();
        rate.publish(&counters);
        assert_eq!(counters.connection_events_at(last), 6);
        assert_eq!(counters.connection_events_at(last + 1), 0);
        assert!(!rate.is_over(3, last + 1));
    }
}
