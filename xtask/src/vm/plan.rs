//! What a machine does, and how long it may take.

use std::time::{Duration, Instant};

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// It balances.
    Balance,
    /// It balances, then its card is broken, and there are so many starts and stops.
    Break { cycles: usize },
    /// It counts the instructions that a packet takes.
    Count,
}

impl Work {
    /// The guest's steps.
    pub(super) const fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Balance => &["traffic", "insist", "busy-poll"],
            // The last one ends the card.
            Self::Break { .. } => &["traffic", "insist", "busy-poll", "faults"],
            Self::Count => &["instructions"],
        }
    }

    pub(super) const fn cycles(self) -> usize {
        match self {
            Self::Break { cycles } => cycles,
            Self::Balance | Self::Count => 0,
        }
    }
}

/// How long machines may take, once all they need is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// All of them together.
    Together(Duration),
    /// Each.
    Each(Duration),
    /// A person ends it.
    None,
}

impl Limit {
    /// When a machine that starts now must have ended, if the first one started `earlier`.
    pub(super) fn deadline(self, earlier: Instant) -> Option<Instant> {
        match self {
            Self::Together(limit) => Some(earlier + limit),
            Self::Each(limit) => Some(Instant::now() + limit),
            Self::None => None,
        }
    }
}

/// The work of one machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) work: Work,
    /// Go on with a shell.
    pub(super) keep: bool,
}

impl Plan {
    /// Whether this machine and another may run at the same time. A card that recovers must do so in time,
    /// a count takes the processor, and a shell the terminal: those run alone.
    pub(super) fn bears_company(&self, other: &Self) -> bool {
        [self, other]
            .iter()
            .all(|plan| plan.work == Work::Balance && !plan.keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_that_just_balance_bear_company() {
        let plan = |work, keep| Plan { work, keep };
        let balance = plan(Work::Balance, false);
        assert!(balance.bears_company(&balance));
        for alone in [
            plan(Work::Break { cycles: 1 }, false),
            plan(Work::Count, false),
            plan(Work::Balance, true),
        ] {
            assert!(!balance.bears_company(&alone) && !alone.bears_company(&balance));
        }
    }
}
