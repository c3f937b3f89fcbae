//! Whether packets were decided as they were to be, by the balancer's own counters.

use anyhow::{Result, ensure};

use crate::bench::row::Case;

/// One packet in so many may miss the table although it has a place for each flow.
const HITS_PER_MISS: u64 = 1000;

/// What a balancer counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Packets.
    pub(crate) received: u64,
    /// Packets for which the ring had to be asked.
    pub(crate) ring: u64,
}

impl Asked {
    /// What it counted since an earlier reading.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received - earlier.received,
            ring: self.ring - earlier.ring,
        }
    }

    /// Whether `packets` packets since `before` were all decided, by table or ring as the case says.
    pub(crate) fn check(self, before: Self, case: Case, packets: u64) -> Result<()> {
        let Self { received, ring } = self.since(before);
        ensure!(
            received == packets,
            "the counters do not add up: {packets} packets were to be decided, {received} were counted"
        );
        let expected = match case {
            Case::Hit => 0..=packets / HITS_PER_MISS,
            Case::New => packets..=packets,
        };
        ensure!(
            expected.contains(&ring),
            "the counters do not add up: the ring was asked for {ring} of {packets} packets (case \
             {case}), expected {} to {}",
            expected.start(),
            expected.end()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_do_not_add_up_are_refused() {
        let before = Asked {
            received: 10,
            ring: 5,
        };
        let after = |received: u64, ring: u64| Asked {
            received: 10 + received,
            ring: 5 + ring,
        };
        assert!(after(1000, 1).check(before, Case::Hit, 1000).is_ok());
        assert!(after(1000, 1000).check(before, Case::New, 1000).is_ok());
        for (asked, case) in [
            (after(1000, 2), Case::Hit),
            (after(999, 0), Case::Hit),
            (after(1001, 0), Case::Hit),
            (after(1000, 999), Case::New),
            (after(999, 999), Case::New),
        ] {
            let error = asked.check(before, case, 1000).expect_err("refused");
            assert!(error.to_string().contains("do not add up"), "{error}");
        }
    }
}
