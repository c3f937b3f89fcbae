//! Lists of queues and CPUs: `0-15`, `0,2,4-7`, `all`.

use std::{fmt, str::FromStr};

/// Largest index a list may hold: [`xdp_layout::MAX_QUEUES`] queues, and no machine has more CPUs
/// than workers could use.
const MAX_INDEX: u32 = 4095;

/// Indices of queues or CPUs in the order in which they were written, each once, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexList(Vec<u32>);

/// A list that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexListError {
    /// Nothing, or nothing between two commas.
    #[error("an index is missing; write a list as in 0-15 or 0,2,4-7")]
    Missing,
    /// Neither a number nor a range.
    #[error("`{0}` is neither a number nor a range; write a list as in 0-15 or 0,2,4-7")]
    NotAnIndex(String),
    /// Larger than any queue or CPU.
    #[error("{0} is too large; the largest index is {MAX_INDEX}")]
    TooLarge(String),
    /// The end comes before the start.
    #[error("the range {0} runs backwards; write the smaller index first")]
    Backwards(String),
    /// An index twice.
    #[error("{0} appears twice; name each index once")]
    Duplicate(u32),
}

impl IndexList {
    /// The list of these indices; fails when it is empty or holds one twice.
    pub fn new(indices: Vec<u32>) -> Result<Self, IndexListError> {
        if indices.is_empty() {
            return Err(IndexListError::Missing);
        }
        if let Some(&index) = indices.iter().find(|&&index| index > MAX_INDEX) {
            return Err(IndexListError::TooLarge(index.to_string()));
        }
        let mut seen = vec![false; MAX_INDEX as usize + 1];
        for &index in &indices {
            if std::mem::replace(&mut seen[index as usize], true) {
                return Err(IndexListError::Duplicate(index));
            }
        }
        Ok(Self(indices))
    }

    /// The indices.
    pub fn indices(&self) -> &[u32] {
        &self.0
    }
}

impl FromStr for IndexList {
    type Err = IndexListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut indices = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('-') {
                None => indices.push(index(part, part)?),
                Some((first, last)) => {
                    let (first, last) = (index(first.trim(), part)?, index(last.trim(), part)?);
                    if last < first {
                        return Err(IndexListError::Backwards(part.to_owned()));
                    }
                    indices.extend(first..=last);
                }
            }
            // Bounds the memory that a hostile list can ask for: a longer list repeats an index.
            if indices.len() > MAX_INDEX as usize + 1 {
                break;
            }
        }
        Self::new(indices)
    }
}

fn index(text: &str, part: &str) -> Result<u32, IndexListError> {
    if part.is_empty() {
        return Err(IndexListError::Missing);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(IndexListError::NotAnIndex(part.to_owned()));
    }
    match text.parse() {
        Ok(index) if index <= MAX_INDEX => Ok(index),
        _ => Err(IndexListError::TooLarge(text.to_owned())),
    }
}

/// Ranges where indices follow each other: `0-3,8`.
impl fmt::Display for IndexList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(&first) = rest.first() {
            let run = (first..)
                .zip(rest)
                .take_while(|(expected, index)| expected == *index)
                .count();
            f.write_str(separator)?;
            match run {
                1 => write!(f, "{first}")?,
                _ => write!(f, "{first}-{}", rest[run - 1])?,
            }
            separator = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// Which RX queues get a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queues {
    /// Every queue the interface has at the start.
    All,
    /// These.
    List(IndexList),
}

impl FromStr for Queues {
    type Err = IndexListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::List),
        }
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(list) => list.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, indices, written) in [
            ("0", vec![0], "0"),
            ("0-3", vec![0, 1, 2, 3], "0-3"),
            ("0,2,4-7", vec![0, 2, 4, 5, 6, 7], "0,2,4-7"),
            (" 1 , 3 - 4 ", vec![1, 3, 4], "1,3-4"),
            ("7,0-1", vec![7, 0, 1], "7,0-1"),
            ("5-5", vec![5], "5"),
            ("3,2,1", vec![3, 2, 1], "3,2,1"),
        ] {
            let list: IndexList = text.parse().unwrap();
            assert_eq!(list.indices(), indices, "{text}");
            assert_eq!(list.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(list), "{text}");
        }
        assert_eq!("all".parse(), Ok(Queues::All));
        assert_eq!(Queues::All.to_string(), "all");
    }

    #[test]
    fn wrong_lists_say_why() {
        for (text, message) in [
            (
                "",
                "an index is missing; write a list as in 0-15 or 0,2,4-7",
            ),
            (
                "0,",
                "an index is missing; write a list as in 0-15 or 0,2,4-7",
            ),
            (
                "x",
                "`x` is neither a number nor a range; write a list as in 0-15 or 0,2,4-7",
            ),
            (
                "-1",
                "`-1` is neither a number nor a range; write a list as in 0-15 or 0,2,4-7",
            ),
            (
                "1-2-3",
                "`1-2-3` is neither a number nor a range; write a list as in 0-15 or 0,2,4-7",
            ),
            ("4096", "4096 is too large; the largest index is 4095"),
            (
                "0-99999999999",
                "99999999999 is too large; the largest index is 4095",
            ),
            (
                "5-3",
                "the range 5-3 runs backwards; write the smaller index first",
            ),
            ("0,1,0", "0 appears twice; name each index once"),
            ("0-4095,0-4095", "0 appears twice; name each index once"),
        ] {
            let error = text.parse::<IndexList>().unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
    }
}
