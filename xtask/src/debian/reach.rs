//! Whether something failed because it could not be fetched, or for a reason of this computer's own.

use std::{fmt, process::Command};

use anyhow::{Context as _, Error, Result, anyhow};

use crate::shell;

/// What cannot be fetched from outside, and why.
#[derive(Debug)]
pub(crate) struct OutOfReach(pub(crate) String);

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfReach {}

impl OutOfReach {
    /// Whether an error is one of these, whatever was said about it since.
    pub(crate) fn is(error: &Error) -> bool {
        error.is::<Self>()
    }
}

/// Runs apt, which fetches something; fails with [`OutOfReach`] if that is what fails.
pub(super) fn run(command: &mut Command) -> Result<()> {
    shell::announce(command);
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", shell::text(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let error = format!(
        "`{}` failed: {}: {}",
        shell::text(command),
        output.status,
        words.trim()
    );
    Err(if could_not_fetch(&words) {
        OutOfReach(error).into()
    } else {
        anyhow!(error)
    })
}

/// What apt says when a server or what it should have is not there, or is not yet whole.
const NOT_FETCHED: [&str; 10] = [
    "resolv",
    "connect",
    "timed out",
    "not found",
    "forbidden",
    "bad gateway",
    "service unavailable",
    "hash sum mismatch",
    "unexpected size",
    "a release file",
];

/// Whether apt, by what it says, failed to fetch.
fn could_not_fetch(words: &str) -> bool {
    let words = words.to_lowercase();
    let is_full = words.contains("no space left") || words.contains("enough free space");
    !is_full && NOT_FETCHED.iter().any(|reason| words.contains(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_not_be_fetched_is_out_of_reach() {
        for words in [
            "E: Failed to fetch http://m.example/dists/trixie/InRelease  Temporary failure resolving 'm.example'",
            "E: Failed to fetch http://m.example/x  Could not connect to m.example:80 (192.0.2.1). - connect (111: Connection refused)",
            "E: Failed to fetch http://m.example/pool/x.deb  404  Not Found [IP: 192.0.2.1 80]",
            "E: The repository 'http://m.example trixie Release' does not have a Release file.\nE: Failed to fetch http://m.example/x  404  Not Found",
        ] {
            assert!(could_not_fetch(words), "{words}");
        }
        for words in [
            "E: Failed to fetch http://m.example/x.deb  Error writing to file - write (28: No space left on device) [IP: 192.0.2.1 80]",
            "E: You don't have enough free space in /cache/archives/.",
            "E: Unable to locate package linux-image-amd64",
            "",
        ] {
            assert!(!could_not_fetch(words), "{words}");
        }
    }

    #[test]
    fn a_failure_stays_what_it_is_whatever_is_said_about_it() {
        let error = Error::from(OutOfReach("no network".to_owned())).context("no kernel 6.1");
        assert!(OutOfReach::is(&error));
        assert!(!OutOfReach::is(
            &anyhow!("no network").context("no kernel 6.1")
        ));
    }

    #[test]
    fn apt_that_cannot_be_started_or_fails_is_no_lack_of_network() {
        let missing = run(&mut Command::new("no-such-apt-get")).unwrap_err();
        assert!(!OutOfReach::is(&missing), "{missing:#}");
        let full = "echo 'E: write (28: No space left on device)' >&2; exit 100";
        let full = run(Command::new("sh").args(["-c", full])).unwrap_err();
        assert!(!OutOfReach::is(&full), "{full:#}");
        let away = "echo 'E: Could not resolve m.example' >&2; exit 100";
        let away = run(Command::new("sh").args(["-c", away])).unwrap_err();
        assert!(OutOfReach::is(&away), "{away:#}");
    }
}
