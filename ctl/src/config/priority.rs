//! What rank the workers are to have.

use std::{fmt, str::FromStr};

/// `interface.priority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PriorityChoice {
    /// Real-time where it is safe and permitted, else normal; the start says which.
    #[default]
    Auto,
    /// Real-time, or no start.
    RealTime,
    /// As any other thread.
    Normal,
}

impl PriorityChoice {
    /// All, in the order of their description.
    pub const ALL: [Self; 3] = [Self::Auto, Self::RealTime, Self::Normal];

    /// Name as configuration files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::RealTime => "rt",
            Self::Normal => "normal",
        }
    }
}

impl fmt::Display for PriorityChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a priority; write auto, rt or normal")]
pub struct PriorityChoiceError;

impl FromStr for PriorityChoice {
    type Err = PriorityChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or(PriorityChoiceError)
    }
}
