//! Where in the kernel an XDP program runs: as asked for, and as it came to be.

use std::{fmt, str::FromStr};

use aya::programs::xdp;

/// Mode that the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack, on any interface.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A word that names no [`XdpMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("XDP mode `{0}` is unknown: use auto, native or generic")]
pub struct UnknownMode(String);

impl FromStr for XdpMode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(UnknownMode(word.to_owned())),
        }
    }
}

/// Mode that a program is attached in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl From<AttachedMode> for xdp::XdpMode {
    fn from(mode: AttachedMode) -> Self {
        match mode {
            AttachedMode::Native => Self::Driver,
            AttachedMode::Generic => Self::Skb,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn unknown_words_name_the_choice() {
        let error = "skb".parse::<XdpMode>().expect_err("no such mode");
        assert_eq!(
            error.to_string(),
            "XDP mode `skb` is unknown: use auto, native or generic"
        );
    }
}
