//! The command's options, and which machines they ask for.

use std::path::PathBuf;

use super::matrix::{CARDS, Card, KERNELS, Kernel, has_zero_copy, pairs};

const EXAMPLES: &str = "\
Examples:
  cargo xtask vm                                      all kernels and cards, in ten minutes at most
  cargo xtask vm --kernel newest --nic igb            one machine
  cargo xtask vm --faults --kernel newest --nic igb   break its card as well
  cargo xtask vm --kernel 6.1 --nic virtio --keep     look around in it afterwards
  cargo xtask vm --instructions                       count what a packet takes
  cargo xtask vm --json rows.json                     rows for programs";

/// Options of the command.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Kernel: 6.1, 6.12 or newest; may be repeated. All of them when left out
    #[arg(long = "kernel", value_name = "NAME", value_parser = kernel_names())]
    kernels: Vec<String>,
    /// Card: igb, virtio-iommu, virtio, vmxnet3 or e1000e; may be repeated. All when left out
    #[arg(long = "nic", value_name = "NAME", value_parser = card_names())]
    cards: Vec<String>,
    /// Break the cards that have zero-copy as well, which takes minutes each
    #[arg(long, conflicts_with = "keep")]
    pub(super) faults: bool,
    /// Count the instructions that the machine spends on a packet instead, on one card that has
    /// zero-copy (igb unless told otherwise) and with the newest kernel; in two machines, which must agree
    #[arg(long, conflicts_with_all = ["keep", "faults", "kernels"])]
    pub(super) instructions: bool,
    /// Leave the machine running afterwards with a shell on this terminal; takes one kernel and card
    #[arg(long)]
    pub(super) keep: bool,
    /// Write a row for each machine as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

fn kernel_names() -> clap::builder::PossibleValuesParser {
    KERNELS.map(|kernel| kernel.name).into()
}

fn card_names() -> clap::builder::PossibleValuesParser {
    CARDS.map(|card| card.name).into()
}

impl Options {
    /// The machines that they ask for, or why they make no sense together.
    pub(crate) fn machines(&self) -> Result<Chosen, String> {
        let chosen =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let mut pairs: Vec<_> = pairs()
            .filter(|(kernel, card)| {
                chosen(&self.kernels, kernel.name) && chosen(&self.cards, card.name)
            })
            .collect();
        if self.keep && pairs.len() != 1 {
            return Err(
                "--keep takes one kernel and one card: add --kernel NAME --nic NAME".to_owned(),
            );
        }
        if self.faults {
            are_broken(&pairs, &self.cards)?;
        }
        if self.instructions {
            pairs.retain(has_zero_copy);
            if self.cards.is_empty() {
                pairs.truncate(1);
            }
            if pairs.is_empty() {
                return Err(format!(
                    "--instructions takes a card that has zero-copy: {}",
                    with_zero_copy()
                ));
            }
            // Two boots must agree.
            pairs = pairs.into_iter().flat_map(|pair| [pair; 2]).collect();
        }
        Ok(Chosen(pairs))
    }
}

/// Machines that can run together.
pub(crate) struct Chosen(pub(super) Vec<(Kernel, Card)>);

/// Fails if nothing is broken, or nothing of a card that was named: faults are about sockets that the
/// driver uses.
fn are_broken(pairs: &[(Kernel, Card)], named: &[String]) -> Result<(), String> {
    let is_broken = |name: &str| {
        pairs
            .iter()
            .any(|pair| pair.1.name == name && has_zero_copy(pair))
    };
    let whole = named.iter().find(|name| !is_broken(name));
    if whole.is_none() && pairs.iter().any(has_zero_copy) {
        return Ok(());
    }
    let what = whole.map_or_else(
        || "none of these machines has it".to_owned(),
        |card| format!("{card} has none here"),
    );
    Err(format!(
        "--faults breaks cards that have zero-copy, and {what}: {}",
        with_zero_copy()
    ))
}

/// The options that give machines with zero-copy.
fn with_zero_copy() -> String {
    let all: Vec<_> = pairs()
        .filter(has_zero_copy)
        .map(|(kernel, card)| format!("--kernel {} --nic {}", kernel.name, card.name))
        .collect();
    format!("give {}", all.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kernels: &[&str], cards: &[&str]) -> Options {
        let owned = |names: &[&str]| names.iter().copied().map(str::to_owned).collect();
        Options {
            kernels: owned(kernels),
            cards: owned(cards),
            ..Options::default()
        }
    }

    fn names(options: &Options) -> Vec<(&'static str, &'static str)> {
        let chosen = options.machines().unwrap_or_else(|why| panic!("{why}"));
        let names = chosen
            .0
            .iter()
            .map(|(kernel, card)| (kernel.name, card.name));
        names.collect()
    }

    #[test]
    fn all_or_those_that_are_named() {
        assert_eq!(names(&options(&[], &[])).len(), KERNELS.len() * CARDS.len());
        assert_eq!(names(&options(&["6.12"], &["igb"])), [("6.12", "igb")]);
    }

    #[test]
    fn only_machines_with_zero_copy_are_broken() {
        let broken = |kernels: &[&str], cards: &[&str]| {
            let options = Options {
                faults: true,
                ..options(kernels, cards)
            };
            options.machines().map(|_| ())
        };
        broken(&[], &[]).expect("some have it");
        broken(&["newest"], &["igb"]).expect("it has it");
        broken(&["6.1", "newest"], &["igb"]).expect("one has it");
        for (kernels, cards, words) in [
            (&["newest"][..], &["igb", "e1000e"][..], "e1000e has none"),
            (&["6.1"], &["igb"], "igb has none here"),
            (&["6.1", "6.12"], &[], "none of these machines"),
        ] {
            let error = broken(kernels, cards).expect_err(words);
            assert!(error.contains(words), "{error}");
            assert!(
                error.ends_with(
                    "give --kernel newest --nic igb or --kernel newest --nic virtio-iommu"
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn instructions_are_counted_twice_on_one_card_or_those_that_are_named() {
        let counting = |cards: &[&str]| Options {
            instructions: true,
            ..options(&[], cards)
        };
        assert_eq!(names(&counting(&[])), [("newest", "igb"); 2]);
        assert_eq!(
            names(&counting(&["virtio-iommu"])),
            [("newest", "virtio-iommu"); 2]
        );
        let Err(error) = counting(&["vmxnet3"]).machines() else {
            panic!("it has no zero-copy");
        };
        assert!(error.contains("--nic igb"), "{error}");
    }

    #[test]
    fn a_shell_is_in_one_machine() {
        let mut options = options(&["6.1"], &[]);
        options.keep = true;
        assert!(options.machines().is_err());
        options.cards = vec!["virtio".to_owned()];
        assert!(options.machines().is_ok());
    }
}
