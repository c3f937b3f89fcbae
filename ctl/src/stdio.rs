//! Standard output and standard error. `println!` and `eprintln!` panic when nobody reads any more or
//! there is no room.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Standard output cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written to: {0}")]
pub(crate) struct StdoutError(#[from] io::Error);

impl StdoutError {
    /// Whoever read it has seen enough.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints to standard output.
pub(crate) fn print(text: impl Display) -> Result<(), StdoutError> {
    let mut output = io::stdout().lock();
    write!(output, "{text}")?;
    Ok(output.flush()?)
}

/// Prints a line to standard error. When that fails, there is nobody left to tell.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
