//! The machines of `cargo xtask test`, which change from day to day.
//!
//! Both machines that have zero-copy, each time; of each kernel one card that has none, in turn; and one
//! of the two is broken, in turn as well. The number of the turn is the day's unless it is given, and
//! printed, so that a run can be repeated.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use super::matrix::{Card, KERNELS, Kernel, has_zero_copy, pairs};

/// Environment variable with the number of the turn.
const VARIABLE: &str = "KATRAN_XSK_VM_TURN";

/// Machines of one turn.
pub(super) struct Selection {
    turn: u64,
    pub(super) pairs: Vec<(Kernel, Card)>,
    /// The machine among them whose card is broken as well.
    broken: (Kernel, Card),
}

impl Selection {
    /// The turn that the environment wants, else the day's.
    pub(super) fn of_now() -> Result<Self> {
        let turn = match std::env::var(VARIABLE) {
            Ok(value) => value
                .parse()
                .with_context(|| format!("{VARIABLE}={value}: give a number, or unset it"))?,
            Err(_) => today(),
        };
        Ok(Self::of(turn))
    }

    fn of(turn: u64) -> Self {
        let in_turn = |all: &[(Kernel, Card)]| all[(turn % all.len() as u64) as usize];
        let (always, others): (Vec<_>, Vec<_>) = pairs().partition(has_zero_copy);
        let broken = in_turn(&always);
        let mut pairs = always;
        for kernel in KERNELS {
            let of_kernel: Vec<_> = others
                .iter()
                .filter(|(other, _)| other.name == kernel.name)
                .copied()
                .collect();
            pairs.push(in_turn(&of_kernel));
        }
        // The one that takes longest runs last: should time run out, the others have been seen.
        pairs.sort_by_key(|pair| is_same(pair, &broken));
        Self {
            turn,
            pairs,
            broken,
        }
    }

    /// Whether a machine's card is broken.
    pub(super) fn breaks(&self, pair: &(Kernel, Card)) -> bool {
        is_same(pair, &self.broken)
    }
}

fn is_same(one: &(Kernel, Card), other: &(Kernel, Card)) -> bool {
    (one.0.name, one.1.name) == (other.0.name, other.1.name)
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn {} ({VARIABLE}={0} repeats it):", self.turn)?;
        for pair in &self.pairs {
            let faults = if self.breaks(pair) {
                " with faults"
            } else {
                ""
            };
            write!(f, " {}/{}{faults}", pair.0.name, pair.1.name)?;
        }
        Ok(())
    }
}

/// Days since 1970, by the clock of Greenwich.
fn today() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs() / (24 * 60 * 60)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(
        pairs: impl IntoIterator<Item = (Kernel, Card)>,
    ) -> BTreeSet<(&'static str, &'static str)> {
        pairs
            .into_iter()
            .map(|(kernel, card)| (kernel.name, card.name))
            .collect()
    }

    #[test]
    fn both_machines_with_zero_copy_and_each_kernel_are_in_every_turn() {
        let always = names(pairs().filter(has_zero_copy));
        assert_eq!(always.len(), 2);
        for turn in 0..100 {
            let selection = Selection::of(turn);
            let seen = names(selection.pairs.iter().copied());
            assert_eq!(seen.len(), selection.pairs.len(), "none twice");
            assert!(seen.is_superset(&always), "turn {turn}: {selection}");
            for kernel in KERNELS {
                assert!(seen.iter().any(|(name, _)| *name == kernel.name));
            }
            let broken: Vec<_> = selection
                .pairs
                .iter()
                .filter(|pair| selection.breaks(pair))
                .collect();
            assert!(broken.len() == 1 && has_zero_copy(broken[0]));
            assert!(selection.breaks(selection.pairs.last().expect("five")));
        }
    }

    #[test]
    fn five_turns_have_the_whole_matrix_and_two_all_faults() {
        for first in 0..5 {
            let turns = || (first..first + 5).map(Selection::of);
            let seen = names(turns().flat_map(|selection| selection.pairs));
            assert_eq!(seen, names(pairs()));
            let broken = names(turns().take(2).map(|selection| selection.broken));
            assert_eq!(broken, names(pairs().filter(has_zero_copy)));
        }
    }

    #[test]
    fn a_turn_says_how_to_repeat_it() {
        let text = Selection::of(7).to_string();
        assert!(text.contains("KATRAN_XSK_VM_TURN=7"), "{text}");
        assert!(text.contains("newest/virtio-iommu with faults"), "{text}");
    }
}
