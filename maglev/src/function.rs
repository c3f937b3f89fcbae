//! The two ways to fill a ring.

use std::fmt;

/// How the slots of a ring are shared out.
///
/// With equal weights both give the same ring, slot for slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// An endpoint takes `weight` slots on its first turn and one on each later turn, so shares
    /// follow the weights only when these add up to about the size of the ring.
    MaglevV1,
    /// Shares are proportional to the weights, whatever their scale.
    MaglevV2,
}

impl HashFunction {
    /// Every hash function, in the order of their names.
    pub const ALL: [Self; 2] = [Self::MaglevV1, Self::MaglevV2];

    /// The name used in configurations: `maglev-v1` or `maglev-v2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaglevV1 => "maglev-v1",
            Self::MaglevV2 => "maglev-v2",
        }
    }

    /// The hash function of that exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|function| function.name() == name)
    }
}

impl fmt::Display for HashFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for function in HashFunction::ALL {
            assert_eq!(HashFunction::from_name(function.name()), Some(function));
            assert_eq!(function.to_string(), function.name());
        }
    }

    #[test]
    fn an_unknown_name_is_none() {
        for name in ["", "maglev", "Maglev-V1", "maglev-v2 "] {
            assert_eq!(HashFunction::from_name(name), None, "{name:?}");
        }
    }
}
