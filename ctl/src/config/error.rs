//! What is wrong with a configuration.

use std::fmt;

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` when there is no file.
    pub line: Option<usize>,
    /// Where, as in `vip[2] (203.0.113.10:80/tcp).reals[0].weight`; empty for the file as a whole.
    pub field: String,
    /// The value and what is wrong about it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// `vip[2] (203.0.113.10:80/tcp).port: 70000 is not a port; give a whole number from 0 to 65535`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration; one line for each problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Name of the file, or of whatever stands for it.
    pub name: String,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// `lb.toml:17: field: problem; remedy`, a line for each problem.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}: {problem}", self.name)?,
                None => write!(f, "{}: {problem}", self.name)?,
            }
        }
        Ok(())
    }
}
