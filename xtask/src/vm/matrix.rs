//! Which kernels, which cards, and what must come out of each pair.

use std::{fmt, str::FromStr};

/// Major and minor number of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl FromStr for Version {
    type Err = anyhow::Error;

    /// Reads a release such as `6.12.43+deb13-amd64`.
    fn from_str(release: &str) -> Result<Self, Self::Err> {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self(major, minor)),
            _ => anyhow::bail!("{release} is no release of a kernel"),
        }
    }
}

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// What the command line calls it.
    pub(super) name: &'static str,
    /// The suite whose newest kernel it is.
    pub(super) suite: &'static str,
    /// Which version that must be.
    pub(super) version: Wanted,
}

/// Versions that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// This one: the suite stays with it.
    Is(Version),
    /// This one or a newer: the suite goes on.
    AtLeast(Version),
}

impl Wanted {
    /// The oldest that does.
    pub(super) const fn least(self) -> Version {
        match self {
            Self::Is(version) | Self::AtLeast(version) => version,
        }
    }

    pub(super) fn takes(self, version: Version) -> bool {
        match self {
            Self::Is(wanted) => version == wanted,
            Self::AtLeast(least) => version >= least,
        }
    }
}

/// The kernels, oldest first.
pub(super) const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "6.1",
        suite: "bookworm",
        version: Wanted::Is(Version(6, 1)),
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        version: Wanted::Is(Version(6, 12)),
    },
    Kernel {
        name: "newest",
        suite: "trixie-backports",
        version: Wanted::AtLeast(Version(7, 0)),
    },
];

/// How a card is connected to the one behind which clients and reals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// A hub inside QEMU: needs nothing, gives the card one queue of QEMU's own.
    Hub,
    /// TAP devices with two queues and a bridge, in a network namespace: needs root.
    Taps,
}

/// An emulated network card.
#[derive(Clone, Copy, Debug)]
pub(super) struct Card {
    /// What the command line calls it.
    pub(super) name: &'static str,
    /// QEMU's device with its properties.
    pub(super) device: &'static str,
    /// Module of its driver.
    pub(super) module: &'static str,
    pub(super) wiring: Wiring,
    /// Receive queues that traffic must reach: what the emulated card spreads over.
    pub(super) queues: usize,
    /// First kernel whose driver runs XDP programs.
    native_from: Option<Version>,
    /// First kernel whose driver has zero-copy.
    zero_copy_from: Option<Version>,
}

/// Kernels older than all that the matrix has.
const ALWAYS: Option<Version> = Some(Version(5, 10));

/// The cards. Which kernels can what is known from the kernels' sources; docs/drivers.md names them.
pub(super) const CARDS: [Card; 5] = [
    Card {
        name: "igb",
        device: "igb",
        module: "igb",
        wiring: Wiring::Hub,
        queues: 2,
        native_from: ALWAYS,
        zero_copy_from: Some(Version(6, 14)),
    },
    Card {
        name: "virtio-iommu",
        device: "virtio-net-pci,iommu_platform=on,disable-legacy=on,mq=on,vectors=6",
        module: "virtio_net",
        wiring: Wiring::Taps,
        queues: 2,
        native_from: ALWAYS,
        zero_copy_from: Some(Version(6, 13)),
    },
    Card {
        name: "virtio",
        device: "virtio-net-pci,mq=on,vectors=6",
        module: "virtio_net",
        wiring: Wiring::Taps,
        queues: 2,
        native_from: ALWAYS,
        zero_copy_from: None,
    },
    Card {
        name: "vmxnet3",
        device: "vmxnet3",
        module: "vmxnet3",
        wiring: Wiring::Hub,
        queues: 1,
        native_from: Some(Version(6, 6)),
        zero_copy_from: None,
    },
    Card {
        name: "e1000e",
        device: "e1000e",
        module: "e1000e",
        wiring: Wiring::Hub,
        queues: 1,
        native_from: None,
        zero_copy_from: None,
    },
];

/// The modes that `mode = "auto"` must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    /// The XDP program runs in the driver.
    pub(super) native: bool,
    /// The sockets share memory with the driver.
    pub(super) zero_copy: bool,
}

impl Modes {
    /// As the balancer names the XDP program's.
    pub(super) const fn xdp(self) -> &'static str {
        if self.native { "native" } else { "generic" }
    }

    /// As the balancer names the sockets'.
    pub(super) const fn socket(self) -> &'static str {
        if self.zero_copy { "zero-copy" } else { "copy" }
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.xdp(), self.socket())
    }
}

/// Whether the card has zero-copy under a kernel.
pub(super) fn has_zero_copy((kernel, card): &(Kernel, Card)) -> bool {
    card.expected(kernel.version.least()).zero_copy
}

/// All pairs, kernel by kernel.
pub(super) fn pairs() -> impl Iterator<Item = (Kernel, Card)> {
    KERNELS
        .into_iter()
        .flat_map(|kernel| CARDS.map(|card| (kernel, card)))
}

impl Card {
    /// What must come out under a kernel.
    pub(super) fn expected(&self, kernel: Version) -> Modes {
        let since = |first: Option<Version>| first.is_some_and(|first| kernel >= first);
        Modes {
            native: since(self.native_from),
            zero_copy: since(self.zero_copy_from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(
            "6.12.43+deb13-amd64".parse::<Version>().unwrap(),
            Version(6, 12)
        );
        assert_eq!("7.3-rc1".parse::<Version>().unwrap(), Version(7, 3));
        assert!("amd64".parse::<Version>().is_err());
        assert!(Version(6, 12) < Version(6, 14) && Version(6, 14) < Version(7, 0));
    }

    /// What docs/drivers.md calls the cards.
    const TITLES: [(&str, &str); 5] = [
        ("igb", "Intel 82576"),
        (
            "virtio-iommu",
            "virtio behind an IOMMU (`iommu_platform=on`)",
        ),
        ("virtio", "virtio"),
        ("vmxnet3", "VMware vmxnet3"),
        ("e1000e", "Intel 82574L"),
    ];

    /// The table of what was tested, in the documentation, is the matrix.
    #[test]
    fn the_documentation_has_the_matrix() {
        let text = include_str!("../../../docs/drivers.md");
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim_matches('|').split('|');
            inner.map(|cell| cell.trim().to_owned()).collect()
        };
        let mut lines = text
            .lines()
            .skip_while(|line| !line.starts_with("| card |"));
        let head = cells(lines.next().expect("the table's head"));
        let kernels: Vec<Version> = head[2..].iter().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(kernels.len(), KERNELS.len());
        for (kernel, version) in KERNELS.into_iter().zip(&kernels) {
            assert!(kernel.version.takes(*version), "{}", kernel.name);
        }
        let rows: Vec<_> = lines
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_eq!(rows.len(), CARDS.len());
        for ((row, card), (name, title)) in rows.into_iter().zip(CARDS).zip(TITLES) {
            assert_eq!(card.name, name);
            let modes = kernels.iter().map(|&kernel| {
                let modes = card.expected(kernel).to_string();
                modes.replace("zero-copy", "**zero-copy**")
            });
            let expected: Vec<String> = [title.to_owned(), card.module.to_owned()]
                .into_iter()
                .chain(modes)
                .collect();
            assert_eq!(cells(row), expected);
        }
    }

    #[test]
    fn a_suite_that_stays_with_a_version_must_have_it() {
        let stays = Wanted::Is(Version(6, 1));
        assert!(stays.takes(Version(6, 1)) && !stays.takes(Version(6, 12)));
        let goes_on = Wanted::AtLeast(Version(7, 0));
        assert!(goes_on.takes(Version(7, 3)) && !goes_on.takes(Version(6, 12)));
    }

    #[test]
    fn zero_copy_takes_a_program_in_the_driver() {
        for card in CARDS {
            for version in [Version(6, 1), Version(6, 12), Version(7, 3)] {
                let modes = card.expected(version);
                assert!(modes.native || !modes.zero_copy, "{}", card.name);
            }
        }
    }
}
