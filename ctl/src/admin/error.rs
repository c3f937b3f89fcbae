//! What the balancer answers when it does not do what it was asked to.

use std::fmt;

use dataplane::service::{ServiceError, VipKey};
use serde::{Deserialize, Serialize};

/// A refused or failed command: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct AdminError {
    /// What is wrong: an argument, a configuration key, a worker.
    pub field: String,
    /// The value and what is wrong about it.
    pub problem: String,
    /// What to do; empty when there is nothing to advise.
    pub remedy: String,
    /// What else is wrong, when that is known: a file is read to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Self>,
}

impl AdminError {
    /// An error from its three parts.
    pub fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
            others: Vec::new(),
        }
    }

    /// All of some errors as one: the first has the others. `None` if there are none.
    pub(crate) fn all(errors: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        first.others.extend(errors);
        Some(first)
    }

    /// No VIP has this key.
    pub(crate) fn no_such_vip(key: &VipKey) -> Self {
        Self::new(
            "vip",
            format!("there is no VIP {key}"),
            "`vip list` names those there are",
        )
    }
}

/// `field: problem; remedy`, a line for each error.
impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            problem,
            remedy,
            others,
        } = self;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(problem)?;
        if !remedy.is_empty() {
            write!(f, "; {remedy}")?;
        }
        for other in others {
            write!(f, "\n{other}")?;
        }
        Ok(())
    }
}

impl From<ServiceError> for AdminError {
    fn from(error: ServiceError) -> Self {
        Self::new(error.field, error.problem, error.remedy)
    }
}
