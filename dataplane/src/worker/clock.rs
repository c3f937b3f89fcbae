//! The worker's clock.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    // The kernel refuses only clocks it does not have, and it has this one.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs()
    })
}

#[cfg(test)]
mod tests {
    use super::now_ns;

    #[test]
    fn time_goes_on() {
        let first = now_ns();
        assert!(first > 0 && now_ns() >= first);
    }
}
